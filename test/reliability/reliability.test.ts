/**
 * Goal: what the page about reliability says is true: every id of the list is on it, every place that it names is there, every
 * kind of fault of the simulators and of the torture run is counted on it and happened, every planted bug was found.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect } from "chai";
import { FAULT_KINDS } from "../e2e/torture/nemesis.ts";
import { PLANTED_BUGS } from "../simulation/planted.ts";
import { CLUSTER_FAULTS } from "../simulation/raft-cluster/cluster-plan.ts";
import { EVERY_KIND } from "../simulation/sim-plan.ts";
import { FAULTS, INVARIANTS, NOT_COVERED, PAPER_SENTENCES } from "./list.ts";
import { fileOf, markOf, reliabilityPage, type LastRun } from "./page.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const textOf = (path: string): string => readFileSync(root + path, "utf8");
const run = JSON.parse(textOf("test/reliability/last-run.json")) as LastRun;

function ids(letter: string, count: number): string[] {
  return Array.from({ length: count }, (_, at) => `${letter}${at + 1}`);
}

describe("the page about reliability", () => {
  it("is what the list and the last recorded run make", () => {
    expect(textOf("test/RELIABILITY.md")).to.equal(reliabilityPage(run));
  });

  it("has every invariant and every fault, or says that it is not covered", () => {
    const invariants = INVARIANTS.map(({ id }) => id);
    const faults = [...FAULTS.map(({ id }) => id), ...Object.keys(NOT_COVERED)];

    expect(invariants).to.include.members([...ids("R", 23), ...ids("C", 9), ...ids("K", 7)]);
    expect(faults).to.include.members([
      ...ids("N", 7),
      ...ids("P", 6),
      ...ids("D", 10),
      ...ids("T", 3),
      ...ids("M", 3),
    ]);
  });

  it("names places that are there", () => {
    const places = [
      ...INVARIANTS.flatMap(({ id, checkedAt }) => checkedAt.map((place) => ({ id, place }))),
      ...FAULTS.flatMap(({ id, doneAt }) => doneAt.map((place) => ({ id, place }))),
    ];

    for (const { id, place } of places) {
      expect(textOf(fileOf(place)).includes(markOf(place)), `${id}: ${place}`).to.equal(true);
    }
  });

  it("counts every kind of fault that the simulators and the torture run have, none of them zero", () => {
    const counted = new Set(FAULTS.flatMap(({ counts }) => counts));
    const kinds = [
      ...Object.keys(CLUSTER_FAULTS).map((kind) => `raft:${kind}`),
      ...EVERY_KIND.map((kind) => `node:${kind}`),
      ...FAULT_KINDS.map((kind) => `processes:${kind}`),
    ];

    expect(kinds.filter((kind) => !counted.has(kind))).to.deep.equal([]);
    expect([...counted].filter((name) => (run.counts[name] ?? 0) === 0)).to.deep.equal([]);
  });

  it("has every planted bug, found", () => {
    expect(run.planted.map(({ name }) => name)).to.deep.equal(PLANTED_BUGS.map(({ name }) => name));
    for (const { name, seedCount } of run.planted) expect(seedCount, name).to.be.greaterThan(0);
  });

  it("has the 26 sentences of the Raft paper as tests of their names", () => {
    const tests = textOf("test/unit/raft/raft-paper.test.ts");

    expect(PAPER_SENTENCES).to.have.lengthOf(26);
    expect(
      PAPER_SENTENCES.filter((name) => !new RegExp(`["\`: ]${name}["\`: ]`, "u").test(tests)),
    ).to.deep.equal([]);
  });
});
