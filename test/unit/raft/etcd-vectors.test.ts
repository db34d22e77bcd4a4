/**
 * Replays the scenario files of etcd-io/raft against our core: a second opinion by people who have run it for ten years.
 *
 * The files are not part of this project. ETCD_RAFT_VECTORS names the folder that holds them (confchange/, quorum/ and
 * interaction/ below it); where it is absent this says so and checks nothing. See test/support/raft/vectors.ts for what is
 * compared, and how exactly.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import { ConfChangeRunner, runQuorum } from "../../support/raft/pure-vectors.ts";
import { parseNamed, replayInteraction } from "../../support/raft/vectors.ts";

const repository = fileURLToPath(new URL("../../../", import.meta.url));
const folder = resolve(repository, process.env["ETCD_RAFT_VECTORS"] ?? "../shared/vectors/etcd-raft");

/** Scripts below `folder/name`, at any depth. */
function scriptsIn(name: string): string[] {
  const root = join(folder, name);
  if (!existsSync(root)) return [];
  const files = readdirSync(root, { recursive: true, withFileTypes: true }).filter(
    (file) => file.isFile() && file.name.endsWith(".txt"),
  );
  return files.map((file) => join(file.parentPath, file.name)).sort();
}

function titleOf(file: string): string {
  return relative(folder, file);
}

describe("etcd-io/raft vectors", () => {
  if (!existsSync(folder)) {
    it("are absent, so nothing is replayed", () => {
      console.log(
        `      not run: no vectors at ${folder}; set ETCD_RAFT_VECTORS to the folder that holds them`,
      );
    });
    return;
  }

  it("are found in the folder", () => {
    const count = ["confchange", "quorum", "interaction"].flatMap((name) => scriptsIn(name)).length;

    expect(count, `scripts below ${folder}`).to.be.greaterThan(0);
  });

  for (const file of scriptsIn("confchange")) {
    it(`${titleOf(file)} gives the same configurations and progress`, () => {
      const runner = new ConfChangeRunner();
      for (const directive of parseNamed(readFileSync(file, "utf8"), titleOf(file))) {
        const at = `${titleOf(file)}, line ${directive.line}`;
        expect(runner.run(directive), at).to.equal(directive.expected);
      }
    });
  }

  for (const file of scriptsIn("quorum")) {
    it(`${titleOf(file)} gives the same results`, () => {
      for (const directive of parseNamed(readFileSync(file, "utf8"), titleOf(file))) {
        const at = `${titleOf(file)}, line ${directive.line}`;
        expect(runQuorum(directive), at).to.equal(directive.expected);
      }
    });
  }

  for (const file of scriptsIn("interaction")) {
    it(`${titleOf(file)} ends in the same logs, states and messages`, () => {
      const result = replayInteraction(readFileSync(file, "utf8"), titleOf(file));

      if (result.outcome === "refused") console.log(`      not run: ${titleOf(file)}: ${result.reason}`);
      const differences = result.outcome === "different" ? result.differences : [];
      expect(differences.join("\n\n")).to.equal("");
    });
  }
});
