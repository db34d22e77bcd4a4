/**
 * Goal: when a leader dies, its survivors agree on one candidate, however slow they are.
 * Method: Failover alone, with the core as a test says that it is; then whole members with a network as slow as on a busy machine.
 */
import { expect } from "chai";
import { Failover } from "../../../src/consensus/failover.ts";
import { makeMessage } from "../../../src/raft/message.ts";
import type { Message, Role } from "../../../src/raft/types.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { TestCluster } from "../../support/consensus-cluster.ts";
import { FakeClock } from "../../support/fake-clock.ts";

const PAUSE_MS = 500;
/** Least and greatest time that somebody else's votes are given. */
const VOTE_MS_MIN = 100;
const VOTE_MS_MAX = 200;
const LAST = { index: 10, logTerm: 2 };

/** Member 2, which follows member 9 in term 2 until that connection breaks. */
class Survivor {
  readonly clock = new FakeClock();
  role: Role = "follower";
  leaderId = 9;
  term = 2;
  campaignCount = 0;
  readonly #failover = new Failover({
    memberId: 2,
    clock: this.clock,
    prng: new SeededPrng(3),
    core: {
      status: () => ({
        role: this.role,
        leaderId: this.leaderId,
        term: this.term,
        lastIndex: LAST.index,
        lastTerm: LAST.logTerm,
      }),
      forgetLeader: () => {
        this.leaderId = 0;
      },
      campaign: () => {
        this.campaignCount += 1;
      },
    },
    delayMsMin: 5,
    delayMsMax: 60,
    pauseMs: PAUSE_MS,
  });

  /** The leader dies. */
  lose(): void {
    this.#failover.peerDisconnected(9);
  }

  /** A peer asks for a PreVote; whether the core does not hear of it. */
  asked(from: number, log: Partial<Message> = {}): boolean {
    return this.#failover.ignores(
      makeMessage({ kind: "pre-vote", from, to: 2, term: this.term + 1, ...LAST, ...log }),
    );
  }
}

describe("Failover, when a peer asks for a PreVote", () => {
  it("lets the core decide while there is a leader, and of everything else", () => {
    const member = new Survivor();
    expect([member.asked(1), member.asked(3), member.asked(4)]).to.deep.equal([false, false, false]);

    member.lose();
    const vote = makeMessage({ kind: "vote", from: 3, to: 2, term: 3, ...LAST });
    expect(member.asked(1)).to.equal(false);
    expect(new Failover({ ...optionsOf(member) }).ignores(vote)).to.equal(false);
  });

  it("lets the first one try, ignores others for as long, and does not ask meanwhile", async () => {
    const member = new Survivor();
    member.lose();

    expect([member.asked(3), member.asked(4), member.asked(1), member.asked(3)]).to.deep.equal([
      false,
      true,
      true,
      false,
    ]);
    await member.clock.advance(VOTE_MS_MIN - 1);
    expect([member.campaignCount, member.asked(4)]).to.deep.equal([0, true]);

    await member.clock.advance(VOTE_MS_MAX);
    expect(member.campaignCount).to.be.at.least(1);
    expect(member.asked(4)).to.equal(false);
  });

  it("goes first when both have asked and its id is lower, and lets a lower id go first", async () => {
    const first = new Survivor();
    first.lose();
    first.role = "pre-candidate";
    expect(first.asked(3)).to.equal(true);
    await first.clock.advance(1);
    // The other one may have known its leader when it was asked the first time.
    expect(first.campaignCount).to.equal(1);

    const second = new Survivor();
    second.lose();
    second.role = "pre-candidate";
    expect(second.asked(1)).to.equal(false);
    await second.clock.advance(VOTE_MS_MIN - 1);
    expect(second.campaignCount).to.equal(0);
  });

  it("asks at once when the log of the other one is behind, and yields to one that is ahead", async () => {
    const ahead = new Survivor();
    ahead.lose();
    expect(ahead.asked(3, { index: LAST.index - 1 })).to.equal(false);
    await ahead.clock.advance(1);
    expect(ahead.campaignCount).to.equal(1);

    const behind = new Survivor();
    behind.lose();
    behind.role = "pre-candidate";
    expect(behind.asked(3, { index: 1, logTerm: LAST.logTerm + 1 })).to.equal(false);
    await behind.clock.advance(VOTE_MS_MIN - 1);
    expect(behind.campaignCount).to.equal(0);
  });

  it("gives the votes of another one their time, once a term", async () => {
    const member = new Survivor();
    member.lose();
    // A vote was asked of it, and given.
    member.term += 1;

    await member.clock.advance(VOTE_MS_MIN);
    expect(member.campaignCount).to.equal(0);
    await member.clock.advance(60 + VOTE_MS_MAX);
    expect(member.campaignCount).to.be.at.least(1);
  });

  it("gives votes more time when everything takes longer, up to a bound", async () => {
    for (const { passedMs, waitMs } of [
      { passedMs: 50, waitMs: 100 },
      { passedMs: 300, waitMs: 300 },
      { passedMs: 1_500, waitMs: 400 },
    ]) {
      const member = new Survivor();
      member.lose();
      await member.clock.advance(passedMs);
      expect(member.asked(3)).to.equal(false);
      const before = member.campaignCount;

      await member.clock.advance(waitMs - 1);
      expect(member.campaignCount, `${waitMs} ms after ${passedMs}`).to.equal(before);
      await member.clock.advance(VOTE_MS_MIN + 1);
      expect(member.campaignCount, `later than ${waitMs} ms after ${passedMs}`).to.be.greaterThan(before);
    }
  });

  it("judges no longer than an alarm lasts", async () => {
    const member = new Survivor();
    member.lose();
    member.role = "pre-candidate";

    await member.clock.advance(4 * PAUSE_MS - 1);
    expect(member.asked(3)).to.equal(true);
    await member.clock.advance(1);
    expect(member.asked(3)).to.equal(false);
  });
});

function optionsOf(member: Survivor): ConstructorParameters<typeof Failover>[0] {
  const core = {
    status: () => ({ role: member.role, leaderId: 0, term: member.term, lastIndex: 0, lastTerm: 0 }),
    forgetLeader: () => undefined,
    campaign: () => undefined,
  };
  const { clock } = member;
  return {
    memberId: 2,
    clock,
    prng: new SeededPrng(1),
    core,
    delayMsMin: 5,
    delayMsMax: 60,
    pauseMs: PAUSE_MS,
  };
}

describe("a cluster whose leader dies on a busy machine", function () {
  this.timeout(60_000);

  for (const count of [3, 5]) {
    it(`of ${count} members has the next one in the next term, in most cases`, async () => {
      let firstTermCount = 0;
      const seeds = Array.from({ length: 20 }, (_, at) => at + 1);
      for (const seed of seeds) {
        const cluster = new TestCluster(count, { seed });
        await cluster.start();
        const leader = await cluster.leader();
        const { term } = leader.live.status();
        const prng = new SeededPrng(seed);
        cluster.delayMs = () => 10 + prng.below(40);

        leader.crash();
        cluster.disconnect(leader.id);
        const next = await cluster.leader(30_000);

        if (next.live.status().term === term + 1) firstTermCount += 1;
        await cluster.stop();
      }
      expect(firstTermCount, `of ${seeds.length} elections`).to.be.at.least(18);
    });
  }
});
