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
import { parseScript } from "../../support/raft/datadriven.ts";
import { ConfChangeRunner, runQuorum } from "../../support/raft/pure-vectors.ts";
import { replayInteraction } from "../../support/raft/vectors.ts";

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

  for (const file of scriptsIn("confchange")) {
    it(`${titleOf(file)} gives the same configurations and progress`, () => {
      const runner = new ConfChangeRunner();
      for (const directive of parseScript(readFileSync(file, "utf8"))) {
        expect(runner.run(directive), `line ${directive.line}`).to.equal(directive.expected);
      }
    });
  }

  for (const file of scriptsIn("quorum")) {
    it(`${titleOf(file)} gives the same results`, () => {
      for (const directive of parseScript(readFileSync(file, "utf8"))) {
        expect(runQuorum(directive), `line ${directive.line}`).to.equal(directive.expected);
      }
    });
  }

  for (const file of scriptsIn("interaction")) {
    it(`${titleOf(file)} ends in the same logs, states and messages`, () => {
      const result = replayInteraction(readFileSync(file, "utf8"));

      if (result.outcome === "refused") console.log(`      not run: ${titleOf(file)}: ${result.reason}`);
      const differences = result.outcome === "different" ? result.differences : [];
      expect(differences.join("\n\n")).to.equal("");
    });
  }
});
