/** Elections of real processes, for seconds; `npm run torture -- --elections` takes its time and asks for more. */
import { expect } from "chai";
import { must } from "../../../src/std/assert.ts";
import { runElections, type ElectionSummary } from "./elections.ts";

describe("A cluster of real processes", function () {
  this.timeout(600_000);
  let summary: ElectionSummary | undefined;
  const found = (): ElectionSummary => must(summary, "it was run");

  before(async () => {
    summary = await runElections({
      nodes: 3,
      seed: 1,
      writerCount: 64,
      loadMs: 8_000,
      stuckMs: 1_000,
      pauseMs: 4_000,
      killCount: 3,
      log: (line) => process.stdout.write(`      ${line}\n`),
    });
  });

  it("elects no leader because 64 clients write", () => {
    const { load } = found();
    expect(load.writes.count).to.be.greaterThan(20);
    expect(load.termAfter, JSON.stringify(load)).to.equal(load.termBefore);
  });

  it("elects no leader because a disk hangs for a second", () => {
    const { stuckDisk } = found();
    // Where disks cannot be made to hang, a follower's pause is what is left to check here.
    const check = stuckDisk ?? found().pausedFollower;
    expect(check.termAfter, JSON.stringify(check)).to.equal(check.termBefore);
  });

  it("elects no leader because a follower was away and came back", () => {
    const { pausedFollower } = found();
    expect(pausedFollower.writes.count).to.be.greaterThan(10);
    expect(pausedFollower.termAfter, JSON.stringify(pausedFollower)).to.equal(pausedFollower.termBefore);
  });

  it("acknowledges writes again soon after its leader died", () => {
    expect(found().failover.count).to.equal(3);
    // Half a second on a machine that is not busy; the long run asks for that.
    expect(found().failover.p50Ms, JSON.stringify(found())).to.be.lessThan(5_000);
  });
});
