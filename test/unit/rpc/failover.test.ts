/**
 * Goal: when every node failed, the caller is told what a living node said, not that a dead one is silent.
 * Method: Attempts alone, told of failures as a test says; no connection is made. Time is virtual.
 */
import { expect } from "chai";
import { DriveError, type ErrorReason } from "../../../src/drive/errors.ts";
import { ChannelPool } from "../../../src/rpc/channel-pool.ts";
import { Attempts, Failover } from "../../../src/rpc/failover.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { FakeClock } from "../../support/fake-clock.ts";

const ADDRESSES = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
const TIMEOUT_MS = 1000;
const HOUR_MS = 3_600_000;

describe("Attempts of a call to any of three nodes", () => {
  let pool: ChannelPool;

  afterEach(() => pool.close());

  /** Fails with these one after another, the time being over at the last; returns the error of the whole. */
  async function outcomeOf(failures: readonly ErrorReason[]): Promise<ErrorReason> {
    const clock = new FakeClock();
    pool = new ChannelPool({ clock });
    const options = { addresses: ADDRESSES, pool, clock, prng: new SeededPrng(1), timeoutMs: TIMEOUT_MS };
    const attempts = new Attempts(new Failover(options), undefined);
    const [last = "INTERNAL", ...before] = failures.toReversed();
    const fail = (reason: ErrorReason, index: number): Promise<void> =>
      attempts.failed(new DriveError(reason, `failure ${index}`), ADDRESSES[index % 3] ?? "");
    for (const [index, reason] of before.toReversed().entries()) {
      const pausing = fail(reason, index);
      // The pauses after the rounds of this test are shorter than what is left of the time.
      await clock.advance(TIMEOUT_MS / 4);
      await pausing;
    }
    await clock.advance(HOUR_MS);
    try {
      await fail(last, before.length);
    } catch (error) {
      if (error instanceof DriveError) return error.reason;
      throw error;
    }
    throw new Error("the time is over, and the attempts go on");
  }

  for (const living of [0, 1, 2]) {
    it(`say NO_LEADER when node ${living + 1} does, wherever it stands among nodes that are dead`, async () => {
      const round = [0, 1, 2].map((index): ErrorReason =>
        index === living ? "NO_LEADER" : "PEER_UNREACHABLE",
      );

      expect(await outcomeOf(round)).to.equal("NO_LEADER");
    });
  }

  it("say that a node cannot be reached when none answered", async () => {
    expect(await outcomeOf(["PEER_UNREACHABLE", "PEER_UNREACHABLE"])).to.equal("PEER_UNREACHABLE");
  });

  it("go by an answer of the last round, and by none that is older: who gave it may be gone", async () => {
    const silent = ["PEER_UNREACHABLE", "PEER_UNREACHABLE"] as const;

    expect(await outcomeOf(["NO_LEADER", ...silent])).to.equal("NO_LEADER");
    expect(await outcomeOf(["NO_LEADER", ...silent, "PEER_UNREACHABLE"])).to.equal("PEER_UNREACHABLE");
  });

  it("say that the outcome is unknown when one attempt may have arrived, whatever others answered", async () => {
    expect(await outcomeOf(["COMMIT_OUTCOME_UNKNOWN", "NO_LEADER", "PEER_UNREACHABLE"])).to.equal(
      "COMMIT_OUTCOME_UNKNOWN",
    );
  });

  it("end at once with what is final, an answer before or not", async () => {
    const clock = new FakeClock();
    pool = new ChannelPool({ clock });
    const failover = new Failover({ addresses: ADDRESSES, pool, clock, prng: new SeededPrng(1) });
    const attempts = new Attempts(failover, undefined);
    await attempts.failed(new DriveError("NO_LEADER", "None."), ADDRESSES[0] ?? "");

    await expectReason("PATH_NOT_FOUND", () =>
      attempts.failed(new DriveError("PATH_NOT_FOUND", "Nothing there."), ADDRESSES[1] ?? ""),
    );
  });
});
