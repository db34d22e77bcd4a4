/** Goal: what passes by itself is waited out, what does not is said at once, and nothing waits for ever. Time is virtual. */
import { expect } from "chai";
import { isPassing, Patience, SLOW_MS } from "../../../src/cli/patience.ts";
import { DriveError, REASONS, type ErrorReason } from "../../../src/drive/errors.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { FakeClock } from "../../support/fake-clock.ts";

const TIMEOUT_MS = 10_000;

function setUp(): { clock: FakeClock; stop: AbortController; patience: Patience } {
  const clock = new FakeClock();
  const stop = new AbortController();
  const options = { clock, prng: new SeededPrng(1), timeoutMs: TIMEOUT_MS, signal: stop.signal };
  return { clock, stop, patience: new Patience(options) };
}

describe("Patience", () => {
  it("repeats what fails for a passing reason until it succeeds", async () => {
    const { clock, patience } = setUp();
    let tries = 0;

    const running = patience.run(() => {
      tries += 1;
      if (tries < 4) return Promise.reject(new DriveError("NO_LEADER", "None yet."));
      return Promise.resolve("done");
    });
    await clock.advance(TIMEOUT_MS);

    expect(await running).to.equal("done");
    expect(tries).to.equal(4);
  });

  it("gives up with the last error when the time is over, and not later", async () => {
    const { clock, patience } = setUp();
    let lastTryMs = 0;

    const running = expectReason("NO_LEADER", () =>
      patience.run(() => {
        lastTryMs = clock.monotonicMs();
        return Promise.reject(new DriveError("NO_LEADER", "None yet."));
      }),
    );
    await clock.advance(TIMEOUT_MS);
    await running;

    expect(lastTryMs).to.be.within(TIMEOUT_MS / 2, TIMEOUT_MS);
  });

  it("ends a try that never answers, and tells it so", async () => {
    const { clock, patience } = setUp();
    const seen: { signal?: AbortSignal } = {};

    const running = expectReason("COMMIT_OUTCOME_UNKNOWN", () =>
      patience.run((signal) => {
        seen.signal = signal;
        return new Promise(() => undefined);
      }),
    );
    await clock.advance(2 * TIMEOUT_MS);
    await running;

    expect(seen.signal?.aborted).to.equal(true);
  });

  it("says NO_LEADER, and the time that was asked for, when a read gets no answer", async () => {
    const { clock, patience } = setUp();
    const running = patience.read(() => new Promise(() => undefined)).catch((error: unknown) => error);
    await clock.advance(2 * TIMEOUT_MS);

    const error = await running;

    expect(error).to.be.instanceOf(DriveError);
    expect((error as DriveError).reason).to.equal("NO_LEADER");
    expect((error as DriveError).message).to.include("10 s");
  });

  it("does not repeat what cannot pass by itself", async () => {
    const { patience } = setUp();
    let tries = 0;

    await expectReason("PATH_NOT_FOUND", () =>
      patience.run(() => {
        tries += 1;
        return Promise.reject(new DriveError("PATH_NOT_FOUND", "Nothing there."));
      }),
    );

    expect(tries).to.equal(1);
  });

  it("stops at once when the user interrupts, and ends the try under way", async () => {
    const { stop, patience } = setUp();
    const interrupted = new Error("interrupted");

    const running = patience.run(
      (signal) =>
        new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("ended")))),
    );
    stop.abort(interrupted);

    expect(await running.catch((error: unknown) => error)).to.equal(interrupted);
  });

  it("says once that a step is slow, and not a millisecond early", async () => {
    const clock = new FakeClock();
    let saidCount = 0;
    const onSlow = (): void => void (saidCount += 1);
    const { signal } = new AbortController();
    const patience = new Patience({ clock, prng: new SeededPrng(1), timeoutMs: TIMEOUT_MS, signal, onSlow });
    const slow = (): Promise<void> =>
      patience.run(() => new Promise((resolve) => clock.setTimer(2 * SLOW_MS, resolve)));

    const first = slow();
    await clock.advance(SLOW_MS - 1);
    const early = saidCount;
    await clock.advance(1);
    const due = saidCount;
    await clock.advance(SLOW_MS);
    await first;
    const second = slow();
    await clock.advance(2 * SLOW_MS);
    await second;

    expect([early, due, saidCount]).to.deep.equal([0, 1, 1]);
  });

  it("leaves what a successful try opened alone", async () => {
    const { patience } = setUp();

    const signal = await patience.run((each) => Promise.resolve(each));

    expect(signal.aborted).to.equal(false);
  });

  it("waits for exactly the reasons that pass", () => {
    const passing = Object.keys(REASONS).filter((reason) =>
      isPassing(new DriveError(reason as ErrorReason, "x")),
    );

    expect(passing).to.include.members([
      "NO_LEADER",
      "PEER_UNREACHABLE",
      "OVERLOADED",
      "COMMIT_OUTCOME_UNKNOWN",
    ]);
    expect(passing).to.not.include.members(["NO_SPACE"]);
    expect(passing).to.not.include.members(["INTERNAL"]);
    expect(isPassing(new Error("x"))).to.equal(false);
  });
});
