/**
 * Runs our own scenario files, test/scenario/raft/*.txt, and compares every byte of their output.
 *
 * To write the output of a new or changed scenario into its file, run with RAFT_SCENARIO_REWRITE=1 and read the difference
 * before it is kept.
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import { parseScript } from "../../support/raft/datadriven.ts";
import { InteractionGroup } from "../../support/raft/interaction.ts";

const folder = fileURLToPath(new URL("../../scenario/raft/", import.meta.url));
const isRewriting = process.env["RAFT_SCENARIO_REWRITE"] === "1";

/** Replaces what stands after each "----", up to a blank line, by what the directive prints. */
function rewrite(text: string): string {
  const group = new InteractionGroup();
  const outputs = parseScript(text).map((directive) => group.run(directive));
  const lines: string[] = [];
  let isOutput = false;
  for (const line of text.trimEnd().split("\n")) {
    if (line === "") isOutput = false;
    if (!isOutput) lines.push(line);
    if (line !== "----") continue;
    isOutput = true;
    lines.push(outputs.shift() ?? "");
  }
  return `${lines.join("\n")}\n`;
}

describe("raft scenarios", () => {
  for (const name of readdirSync(folder)
    .filter((file) => file.endsWith(".txt"))
    .sort()) {
    it(`test/scenario/raft/${name}`, () => {
      const text = readFileSync(folder + name, "utf8");
      if (isRewriting) writeFileSync(folder + name, rewrite(text));
      const group = new InteractionGroup();
      for (const directive of parseScript(isRewriting ? rewrite(text) : text)) {
        expect(group.run(directive), `line ${directive.line}`).to.equal(directive.expected);
      }
    });
  }
});
