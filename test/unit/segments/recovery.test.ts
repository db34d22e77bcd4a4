/**
 * Goal: the recovery decision is right in every combination of facts.
 * Method: the rows of the table in src/segments/FORMAT.md are parsed and every combination must match exactly one row.
 */
import { readFileSync } from "node:fs";
import { expect } from "chai";
import { decide, type RecoveryFacts } from "../../../src/segments/recovery.ts";

interface Row {
  readonly cells: readonly string[];
  readonly action: string;
}

const format = readFileSync(new URL("../../../src/segments/FORMAT.md", import.meta.url), "utf8");

function tableRows(): Row[] {
  const lines = format.split("\n");
  const start = lines.findIndex((line) => /^\| checksum +\| chain/.test(line));
  const rows: Row[] = [];
  for (let i = start + 2; lines[i]?.startsWith("|") === true; i += 1) {
    const cells = (lines[i] ?? "")
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim());
    rows.push({ cells: cells.slice(0, -1), action: cells.at(-1) ?? "" });
  }
  return rows;
}

function combinations(): RecoveryFacts[] {
  const all: RecoveryFacts[] = [];
  for (const checksum of ["ok", "bad"] as const)
    for (const chain of ["ok", "broken"] as const)
      for (const lastSegment of [true, false])
        for (const laterRound of [true, false])
          for (const promised of [true, false])
            for (const torn of [true, false])
              all.push({ checksum, chain, lastSegment, laterRound, promised, torn });
  return all;
}

describe("decide()", () => {
  const rows = tableRows();

  it("has 64 combinations of facts and seven rows in the document", () => {
    expect(combinations()).to.have.length(64);
    expect(rows).to.have.length(7);
  });

  for (const facts of combinations()) {
    const values = [
      facts.checksum,
      facts.chain,
      facts.lastSegment ? "yes" : "no",
      facts.laterRound ? "yes" : "no",
      facts.promised ? "yes" : "no",
      facts.torn ? "yes" : "no",
    ];

    it(`decides ${values.join(" ")} as the table says`, () => {
      const matching = rows.filter((row) =>
        row.cells.every((cell, i) => cell === "any" || cell === values[i]),
      );

      expect(matching).to.have.length(1);
      expect(decide(facts)).to.equal(matching[0]?.action);
    });
  }
});
