/** When a service that fails is left alone, and when it is taken back. Time is a test clock. */
import { expect } from "chai";
import {
  CircuitBreaker,
  FAILURE_COUNT_MAX,
  FAILURE_WINDOW_MS,
  OPEN_MS_MAX,
  OPEN_MS_MIN,
} from "../../../src/cache/circuit-breaker.ts";
import { FakeClock } from "../../support/fake-clock.ts";

describe("CircuitBreaker", () => {
  let clock: FakeClock;
  let breaker: CircuitBreaker;

  beforeEach(() => {
    clock = new FakeClock();
    breaker = new CircuitBreaker(clock);
  });

  const fail = (count: number): void => {
    for (let i = 0; i < count; i += 1) breaker.failed();
  };

  it("lets nothing through before the first probe, which may be sent at once", () => {
    expect(breaker.admits()).to.equal(false);
    expect(breaker.mayProbe()).to.equal(true);

    expect(breaker.probeSucceeded()).to.equal(true);

    expect(breaker.admits()).to.equal(true);
    expect(breaker.probeSucceeded()).to.equal(false);
  });

  it("bears one failure less than the limit, and opens at the limit", () => {
    breaker.probeSucceeded();

    fail(FAILURE_COUNT_MAX - 1);
    expect(breaker.admits()).to.equal(true);

    expect(breaker.failed()).to.equal(true);
    expect(breaker.admits()).to.equal(false);
    expect(breaker.failed()).to.equal(false);
  });

  it("counts failures within the window, and none that are older", async () => {
    breaker.probeSucceeded();

    fail(FAILURE_COUNT_MAX - 1);
    await clock.advance(FAILURE_WINDOW_MS + 1);
    fail(1);
    expect(breaker.admits()).to.equal(true);

    fail(FAILURE_COUNT_MAX - 2);
    expect(breaker.admits()).to.equal(true);
    await clock.advance(FAILURE_WINDOW_MS);
    fail(1);
    expect(breaker.admits()).to.equal(false);
  });

  it("stays open, whatever calls report, until a probe succeeds", async () => {
    breaker.probeSucceeded();
    breaker.trip();

    expect(breaker.trip()).to.equal(false);
    await clock.advance(10 * OPEN_MS_MAX);

    expect(breaker.admits()).to.equal(false);
    expect(breaker.mayProbe()).to.equal(true);
  });

  it("waits before it probes, and twice as long each time it opens again soon, up to a bound", async () => {
    const waits: number[] = [];
    for (let i = 0; i < 9; i += 1) {
      breaker.probeSucceeded();
      breaker.trip();
      let waitMs = 0;
      while (!breaker.mayProbe()) {
        await clock.advance(OPEN_MS_MIN);
        waitMs += OPEN_MS_MIN;
      }
      waits.push(waitMs / OPEN_MS_MIN);
    }

    expect(waits).to.deep.equal([1, 2, 4, 8, 16, 32, 32, 32, 32]);
    expect(32 * OPEN_MS_MIN).to.equal(OPEN_MS_MAX);
  });

  it("forgives after a quiet time", async () => {
    breaker.probeSucceeded();
    breaker.trip();
    await clock.advance(OPEN_MS_MIN);
    breaker.probeSucceeded();
    await clock.advance(FAILURE_WINDOW_MS + 1);

    breaker.trip();
    await clock.advance(OPEN_MS_MIN);

    expect(breaker.mayProbe()).to.equal(true);
  });
});
