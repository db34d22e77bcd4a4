// Goal: the rules of the small parts, and every bound of them just below and just above.
// Method: each part alone, with plain functions for what it depends on.
import { expect } from "chai";
import type { StateHash } from "../../../src/consensus/codec.ts";
import { StallWatch } from "../../../src/consensus/deadline.ts";
import { Failover } from "../../../src/consensus/failover.ts";
import { LogIndex } from "../../../src/consensus/log-index.ts";
import { ProposalBook } from "../../../src/consensus/proposals.ts";
import { Reads } from "../../../src/consensus/reads.ts";
import { StateHashCheck } from "../../../src/consensus/state-hash-check.ts";
import type { LogEntry } from "../../../src/raft/types.ts";
import { ATOMIC_FILE_SIZE_BYTES_MAX, readAtomicFile, writeAtomicFile } from "../../../src/std/atomic-file.ts";
import { AssertionError, must } from "../../../src/std/assert.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { silentLogger } from "../../../src/telemetry/logger.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";

function entry(index: number, term: number): LogEntry {
  return { index, term, kind: "normal", data: Uint8Array.of(1) };
}

describe("ProposalBook", () => {
  const bounds = { countMax: 3, bytesMax: 100, batchCountMax: 2, batchBytesMax: 50 };

  it("takes proposals up to the count and up to the bytes", async () => {
    const byCount = new ProposalBook<string>(bounds);
    for (let at = 0; at < 3; at += 1) byCount.offer(new Uint8Array(1));
    await expectReason("OVERLOADED", () => byCount.offer(new Uint8Array(1)));

    const byBytes = new ProposalBook<string>(bounds);
    byBytes.offer(new Uint8Array(99));
    byBytes.offer(new Uint8Array(1));
    await expectReason("OVERLOADED", () => byBytes.offer(new Uint8Array(1)));
    new ProposalBook<string>(bounds).offer(new Uint8Array(101));
  });

  it("makes batches up to the count and up to the bytes, and of at least one", () => {
    const book = new ProposalBook<string>({ ...bounds, bytesMax: 1000 });
    book.offer(new Uint8Array(60));
    book.offer(new Uint8Array(25));
    book.offer(new Uint8Array(25));
    expect(book.nextBatch().length).to.equal(1);
    book.appended(book.nextBatch(), 1, 1);
    expect(book.nextBatch().length).to.equal(2);
  });

  it("answers what was applied at its place, and says what certainly was not", async () => {
    const book = new ProposalBook<string>(bounds);
    const first = book.offer(new Uint8Array(1));
    const second = book.offer(new Uint8Array(1));
    book.appended(book.nextBatch(), 5, 2);

    book.applied(entry(5, 2), "done");
    book.applied(entry(6, 3), undefined);

    expect(await first.answer.promise).to.deep.equal({ index: 5, result: "done" });
    await expectReason("NOT_LEADER", () => second.answer.promise);
    expect(book.count).to.equal(0);
  });

  it("does not claim to know what a snapshot passed over, or what was under way when the node stopped", async () => {
    const book = new ProposalBook<string>(bounds);
    const proposals = [book.offer(new Uint8Array(1)), book.offer(new Uint8Array(1))];
    book.appended(book.nextBatch(), 5, 2);
    book.skippedTo(5);
    await expectReason("COMMIT_OUTCOME_UNKNOWN", () => must(proposals[0], "first").answer.promise);
    expect(book.count).to.equal(1);
    expect(book.giveUp(must(proposals[1], "second"))).to.equal(false);
    expect(book.giveUp(book.offer(new Uint8Array(1)))).to.equal(true);
    expect(book.count).to.equal(0);
  });
});

describe("Reads", () => {
  function setUp(): { reads: Reads; asked: Uint8Array[]; clock: FakeClock; state: { applied: number } } {
    const asked: Uint8Array[] = [];
    const clock = new FakeClock();
    const state = { applied: 0 };
    const reads = new Reads({
      clock,
      prng: new SeededPrng(1),
      countMax: 3,
      retryMs: 100,
      ask: (context) => {
        asked.push(context);
        return true;
      },
      appliedIndex: () => state.applied,
    });
    return { reads, asked, clock, state };
  }

  it("asks once for all that wait, and again, with another context, for those that came later", async () => {
    const { reads, asked, state } = setUp();
    const early = [reads.begin(), reads.begin()];
    await settle();
    const late = reads.begin();
    await settle();
    expect(asked.length).to.equal(1);

    reads.confirmed(must(asked[0], "asked"), 7);
    await settle();
    expect([early[0]?.isSettled, asked.length]).to.deep.equal([false, 2]);
    state.applied = 7;
    reads.applied(7);
    await must(early[1], "a read").done.promise;
    expect(late.isSettled).to.equal(false);
    expect(Buffer.compare(must(asked[0], "1"), must(asked[1], "2"))).not.to.equal(0);
  });

  it("takes the late answer to an earlier attempt of the same round, and none to another round", async () => {
    const { reads, asked, clock } = setUp();
    const read = reads.begin();
    await clock.advance(150);
    expect(asked.length).to.equal(2);
    reads.confirmed(must(asked[0], "first attempt"), 0);
    await read.done.promise;

    const next = reads.begin();
    await settle();
    reads.confirmed(must(asked[1], "attempt of the round before"), 0);
    await settle();
    expect(next.isSettled).to.equal(false);
  });

  it("holds no more than it may", async () => {
    const { reads } = setUp();
    const held = [reads.begin(), reads.begin(), reads.begin()];
    await expectReason("OVERLOADED", () => reads.begin());
    reads.giveUp(must(held[0], "a read"));
    reads.begin();
  });
});

describe("StateHashCheck", () => {
  function setUp(
    voters: readonly number[],
    own: number,
  ): {
    check: StateHashCheck;
    failures: Error[];
    sent: number[];
    hear: (from: number, value: number) => void;
  } {
    const failures: Error[] = [];
    const sent: number[] = [];
    const check = new StateHashCheck({
      memberId: 1,
      clock: new FakeClock(),
      logger: silentLogger,
      entryCount: 10,
      intervalMs: 1000,
      confState: () => ({ voters, votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false }),
      appliedIndex: () => 20,
      hashAt: () => ({ term: 1, hash: new Uint8Array(8).fill(own) }),
      send: (to) => sent.push(to),
      onFatal: (error) => failures.push(error),
    });
    const hear = (from: number, value: number): void => {
      const stateHash: StateHash = {
        from,
        index: 20,
        term: 1,
        hash: new Uint8Array(8).fill(value),
        request: true,
      };
      check.receive(stateHash);
    };
    return { check, failures, sent, hear };
  }

  it("stops a member against which a majority agrees, not sooner", () => {
    const { failures, hear } = setUp([1, 2, 3], 5);
    hear(2, 6);
    expect(failures.length).to.equal(0);
    hear(3, 6);
    expect(failures.length).to.equal(1);
  });

  it("goes on when it is with the majority, or when there is none", () => {
    const right = setUp([1, 2, 3], 5);
    right.hear(2, 5);
    right.hear(3, 6);
    const torn = setUp([1, 2], 5);
    torn.hear(2, 6);
    for (const { failures, check } of [right, torn]) {
      expect(failures.length).to.equal(0);
      expect(check.disagreementCount).to.equal(1);
    }
  });

  it("answers a request to everybody else, once, and hears members only", () => {
    const { sent, hear, failures } = setUp([1, 2, 3], 5);
    hear(8, 6);
    hear(9, 6);
    expect(sent).to.deep.equal([]);
    hear(2, 5);
    hear(2, 5);
    expect(sent).to.deep.equal([2, 3]);
    expect(failures.length).to.equal(0);
  });
});

describe("Failover", () => {
  it("campaigns a few times for a leader that is gone, and once per election timeout", async () => {
    const clock = new FakeClock();
    let leaderId = 2;
    let campaigns = 0;
    const failover = new Failover({
      memberId: 1,
      clock,
      prng: new SeededPrng(1),
      core: {
        status: () => ({ role: "follower", leaderId, term: 1, lastIndex: 1, lastTerm: 1 }),
        forgetLeader: () => {
          leaderId = 0;
        },
        campaign: () => {
          campaigns += 1;
        },
      },
      delayMsMin: 5,
      delayMsMax: 60,
      pauseMs: 500,
    });
    failover.peerDisconnected(3);
    await clock.advance(100);
    expect(campaigns).to.equal(0);

    failover.peerDisconnected(2);
    await clock.advance(450);
    expect(campaigns).to.be.within(3, 4);
    const before = campaigns;
    leaderId = 2;
    failover.peerDisconnected(2);
    await clock.advance(10);
    expect([leaderId, campaigns]).to.deep.equal([2, before]);
  });

  it("gives votes that are under way the time of a slow sync, and asks again when they do not suffice", async () => {
    const clock = new FakeClock();
    let leaderId = 2;
    const campaigns: number[] = [];
    const failover = new Failover({
      memberId: 1,
      clock,
      prng: new SeededPrng(1),
      core: {
        status: () => ({
          role: campaigns.length > 0 ? "candidate" : "follower",
          ...{ leaderId, term: 1, lastIndex: 1, lastTerm: 1 },
        }),
        forgetLeader: () => {
          leaderId = 0;
        },
        campaign: () => {
          campaigns.push(clock.monotonicMs());
        },
      },
      delayMsMin: 5,
      delayMsMax: 60,
      pauseMs: 500,
    });
    failover.peerDisconnected(2);
    for (let step = 0; step < 800; step += 1) await clock.advance(1);

    const pauses = campaigns.slice(1).map((at, before) => at - must(campaigns[before], "the one before"));
    expect(pauses.length).to.be.at.least(1);
    for (const pause of pauses) expect(pause).to.be.at.least(100);
  });
});

describe("StallWatch", () => {
  function watched(): { clock: FakeClock; watch: StallWatch; stalls: number[] } {
    const clock = new FakeClock();
    const stalls: number[] = [];
    const watch = new StallWatch(clock, 100, () => stalls.push(clock.monotonicMs()));
    return { clock, watch, stalls };
  }

  it("tells of work that stands still for its time, and not a millisecond sooner", async () => {
    const { clock, stalls } = watched();
    await clock.advance(99);
    expect(stalls).to.deep.equal([]);
    await clock.advance(1);
    expect(stalls).to.deep.equal([100]);
  });

  it("lets work take as long as it likes while it gets on", async () => {
    const { clock, watch, stalls } = watched();
    for (let step = 0; step < 50; step += 1) {
      await clock.advance(90);
      watch.progress();
    }
    expect(stalls).to.deep.equal([]);
    await clock.advance(100);
    expect(stalls).to.deep.equal([4600]);
  });

  it("tells once, and nothing when it was ended", async () => {
    const { clock, stalls } = watched();
    await clock.advance(1000);
    expect(stalls).to.have.length(1);
    const other = watched();
    other.watch.stop();
    await other.clock.advance(1000);
    expect(other.stalls).to.deep.equal([]);
    expect(other.clock.timerCount).to.equal(0);
  });
});

describe("LogIndex", () => {
  it("keeps places over many cuts at both ends", () => {
    const index = new LogIndex(1);
    for (let at = 1; at <= 5000; at += 1) {
      index.push({ term: 1, segmentId: 1, offset: at * 10, sizeBytes: 10 });
      if (at % 100 === 0) index.cutFront(at - 50);
    }
    index.cutEnd(4981);
    expect([index.firstIndex, index.lastIndex, index.sizeBytes]).to.deep.equal([4950, 4980, 310]);
    expect(index.place(4970)).to.deep.equal({ term: 1, segmentId: 1, offset: 49_700, sizeBytes: 10 });
    expect(() => index.term(4949)).to.throw(AssertionError);
    expect(() => index.term(4981)).to.throw(AssertionError);
  });

  it("finds the tail by count and by bytes", () => {
    const index = new LogIndex(1);
    for (let at = 1; at <= 10; at += 1) index.push({ term: 1, segmentId: 1, offset: 0, sizeBytes: 10 });
    expect(index.findTail(3, 1000)).to.equal(8);
    expect(index.findTail(100, 30)).to.equal(8);
    expect(index.findTail(100, 29)).to.equal(9);
    expect(index.findTail(100, 5)).to.equal(11);
    expect(index.findTail(100, 1000)).to.equal(1);
  });
});

describe("atomic file", () => {
  const file = { directory: "/d", name: "f", magic: "TESTTEST" };

  it("holds the old content or the new one after a crash at any operation", async () => {
    for (let operation = 1; operation < 12; operation += 1) {
      const disk = new MemoryDisk({ afterCrash: "hang" });
      await disk.makeDirectory("/d");
      await disk.syncDirectory("/");
      await writeAtomicFile(disk, file, Buffer.from("old"));
      let count = 0;
      disk.onOperation = () => {
        count += 1;
        if (count === operation) disk.crash(new SeededPrng(operation));
        return undefined;
      };
      void writeAtomicFile(disk, file, Buffer.from("newer"));
      await settle();
      disk.onOperation = undefined;

      const found = await readAtomicFile(disk, file);
      const text = found.kind === "intact" ? Buffer.from(found.content).toString() : found.kind;
      expect(["old", "newer"], `operation ${operation}`).to.include(text);
    }
  });

  it("takes the largest content and refuses one byte more", async () => {
    const disk = new MemoryDisk();
    await disk.makeDirectory("/d");
    await writeAtomicFile(disk, file, new Uint8Array(ATOMIC_FILE_SIZE_BYTES_MAX));
    expect((await readAtomicFile(disk, file)).kind).to.equal("intact");
    let error: unknown;
    await writeAtomicFile(disk, file, new Uint8Array(ATOMIC_FILE_SIZE_BYTES_MAX + 1)).catch(
      (thrown: unknown) => {
        error = thrown;
      },
    );
    expect(error).to.be.instanceOf(AssertionError);
  });

  it("tells damage from absence", async () => {
    const disk = new MemoryDisk();
    await disk.makeDirectory("/d");
    expect((await readAtomicFile(disk, file)).kind).to.equal("absent");
    await writeAtomicFile(disk, file, Buffer.from("content"));
    for (let at = 0; at < 16 + 7; at += 1) {
      disk.flipBit("/d/f", at);
      expect((await readAtomicFile(disk, file)).kind, `byte ${at}`).to.equal("damaged");
      disk.flipBit("/d/f", at);
    }
    expect((await readAtomicFile(disk, file)).kind).to.equal("intact");
  });
});
