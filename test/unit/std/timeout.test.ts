/** withTimeout() by the test's clock, also for a process that is stopped meanwhile. */
import { expect } from "chai";
import { STOOD_STILL_MS, withTimeout, type Clock, type Timer } from "../../../src/std/clock.ts";
import { deferred } from "../../../src/std/deferred.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";

/** A clock whose one timer is run by the test, as late as it says. */
class StoppedClock implements Clock {
  #nowMs = 0;
  #dueMs = 0;
  #callback: (() => void) | undefined;

  monotonicMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return this.#nowMs;
  }

  setTimer(delayMs: number, callback: () => void): Timer {
    this.#dueMs = this.#nowMs + delayMs;
    this.#callback = callback;
    return { cancel: () => (this.#callback = undefined) };
  }

  async fire(lateMs: number): Promise<void> {
    this.#nowMs = this.#dueMs + lateMs;
    this.#callback?.();
    await settle();
  }
}

describe("withTimeout()", () => {
  async function outcome(work: Promise<string>, clock: Clock): Promise<{ value?: string }> {
    const seen: { value?: string } = {};
    withTimeout(clock, 100, work, () => new Error("too late")).then(
      (value) => (seen.value = value),
      (error: unknown) => (seen.value = String(error)),
    );
    await settle();
    return seen;
  }

  it("rejects after its time and not a millisecond sooner", async () => {
    const clock = new FakeClock();
    const seen = await outcome(deferred<string>().promise, clock);
    await clock.advance(99);
    expect(seen.value).to.equal(undefined);
    await clock.advance(1);
    expect(seen.value).to.equal("Error: too late");
  });

  it("leaves no timer behind when the work ends in time", async () => {
    const clock = new FakeClock();
    const seen = await outcome(Promise.resolve("done"), clock);
    expect(seen.value).to.equal("done");
    expect(clock.timerCount).to.equal(0);
  });

  it("gives work its time again when the process stood still, and not when it was only busy", async () => {
    const stopped = new StoppedClock();
    const work = deferred<string>();
    const seen = await outcome(work.promise, stopped);
    await stopped.fire(STOOD_STILL_MS + 1);
    expect(seen.value).to.equal(undefined);
    work.resolve("done");
    await settle();
    expect(seen.value).to.equal("done");

    const busy = new StoppedClock();
    const late = await outcome(deferred<string>().promise, busy);
    await busy.fire(STOOD_STILL_MS);
    expect(late.value).to.equal("Error: too late");
  });
});
