/** Pauses of the event loop by a clock and a kernel's count that the test moves, and the count of this very process. */
import { expect } from "chai";
import { must } from "../../../src/std/assert.ts";
import type { Clock, Timer } from "../../../src/std/clock.ts";
import {
  mainThreadTimes,
  PAUSE_INTERVAL_MS,
  PAUSE_MS_MIN,
  PauseWatch,
  type Pause,
  type ThreadTimes,
} from "../../../src/std/pause-watch.ts";

/** A clock whose one timer is run late by the test. */
class LateClock implements Clock {
  #nowMs = 0;
  #callback: (() => void) | undefined;

  monotonicMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return this.#nowMs;
  }

  setTimer(_delayMs: number, callback: () => void): Timer {
    this.#callback = callback;
    return { cancel: () => (this.#callback = undefined) };
  }

  /** Lets the timer come so late. */
  turn(lateMs: number): void {
    this.#nowMs += PAUSE_INTERVAL_MS + lateMs;
    this.#callback?.();
  }
}

function watched(times: () => ThreadTimes | undefined): {
  clock: LateClock;
  watch: PauseWatch;
  seen: Pause[];
} {
  const [clock, seen] = [new LateClock(), [] as Pause[]];
  const watch = new PauseWatch(clock, times, (pause) => seen.push(pause));
  watch.start();
  return { clock, watch, seen };
}

describe("PauseWatch", () => {
  it("tells of each turn that took long, and of none that did not", () => {
    const { clock, seen } = watched(() => ({ runningMs: 0, waitingMs: 0 }));

    for (const lateMs of [0, PAUSE_MS_MIN - 1, PAUSE_MS_MIN, 80, 3]) clock.turn(lateMs);

    expect(seen).to.deep.equal([
      { totalMs: PAUSE_MS_MIN, ownMs: PAUSE_MS_MIN, runningMs: 0 },
      { totalMs: 80, ownMs: 80, runningMs: 0 },
    ]);
  });

  it("takes off the time in which another thread had the core, and tells what was running", () => {
    const times = { runningMs: 500, waitingMs: 1000 };
    const { clock, seen } = watched(() => ({ ...times }));

    times.waitingMs += 60;
    times.runningMs += 15;
    clock.turn(80);
    times.runningMs += 25;
    clock.turn(20);
    times.waitingMs += 90;
    clock.turn(85);

    expect(seen).to.deep.equal([
      { totalMs: 80, ownMs: 20, runningMs: 15 },
      { totalMs: 20, ownMs: 20, runningMs: 20 },
      { totalMs: 85, ownMs: 0, runningMs: 0 },
    ]);
  });

  it("counts all of it where nobody counts the waiting", () => {
    const { clock, seen } = watched(() => undefined);

    clock.turn(30);

    expect(seen).to.deep.equal([{ totalMs: 30, ownMs: 30, runningMs: 30 }]);
  });

  it("tells nothing once stopped", () => {
    const { clock, watch, seen } = watched(() => ({ runningMs: 0, waitingMs: 0 }));

    watch.stop();
    clock.turn(100);

    expect(seen).to.deep.equal([]);
  });
});

describe("mainThreadTimes()", () => {
  it("never go back, and count what is run", function () {
    this.timeout(60_000);
    const times = mainThreadTimes();
    const first = times();
    if (process.platform !== "linux") {
      expect(first).to.equal(undefined);
      return;
    }
    const before = must(first, "times on Linux");

    const begun = process.cpuUsage();
    while (process.cpuUsage(begun).user < 30_000);

    const after = must(times(), "times on Linux");
    expect(after.waitingMs).to.be.at.least(before.waitingMs);
    expect(after.runningMs - before.runningMs).to.be.at.least(5);
  });
});
