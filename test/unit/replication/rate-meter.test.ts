// Goal: a rate is told once it was observed for a whole window, and is that of the window. Method: a clock that the test moves.
import { expect } from "chai";
import { RATE_WINDOW_SECONDS, RateMeter } from "../../../src/replication/rate-meter.ts";
import { FakeClock } from "../../support/fake-clock.ts";

describe("RateMeter", () => {
  /** Moves `sizeBytes` in each of the next `seconds`. */
  async function move(meter: RateMeter, clock: FakeClock, seconds: number, sizeBytes: number): Promise<void> {
    for (let i = 0; i < seconds; i += 1) {
      meter.add(sizeBytes);
      await clock.advance(1000);
    }
  }

  it("knows no rate until bytes were moved for a whole window", async () => {
    const clock = new FakeClock();
    const meter = new RateMeter(clock);

    await move(meter, clock, RATE_WINDOW_SECONDS - 1, 10);
    const before = meter.bytesPerSecond();
    await move(meter, clock, 1, 10);
    meter.add(10);

    expect(before).to.equal(0);
    expect(meter.bytesPerSecond()).to.equal(10);
    expect(meter.totalBytes).to.equal(10 * (RATE_WINDOW_SECONDS + 1));
  });

  it("forgets what was before the window", async () => {
    const clock = new FakeClock();
    const meter = new RateMeter(clock);

    await move(meter, clock, RATE_WINDOW_SECONDS, 1);
    await move(meter, clock, RATE_WINDOW_SECONDS, 1_000_000);
    meter.add(1_000_000);

    expect(meter.bytesPerSecond()).to.equal(1_000_000);
  });

  it("begins anew after a pause of a window", async () => {
    const clock = new FakeClock();
    const meter = new RateMeter(clock);
    await move(meter, clock, RATE_WINDOW_SECONDS + 1, 10);
    await clock.advance(1000 * RATE_WINDOW_SECONDS);
    const paused = meter.bytesPerSecond();

    await move(meter, clock, RATE_WINDOW_SECONDS - 1, 70);
    const early = meter.bytesPerSecond();
    await move(meter, clock, 1, 70);
    meter.add(70);

    expect([paused, early]).to.deep.equal([0, 0]);
    expect(meter.bytesPerSecond()).to.equal(70);
  });
});
