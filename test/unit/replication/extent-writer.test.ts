/**
 * Goal: a chunk is accepted exactly when a quorum of targets took it, whatever the targets do, and memory stays within the
 * bounds. Method: an ExtentWriter over in-memory stores with faults, under a clock that the test moves.
 */
import { expect } from "chai";
import { DriveError } from "../../../src/drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { ExtentWriter, LANE_LAG_WAIT_MS } from "../../../src/replication/extent-writer.ts";
import { HoleFiller } from "../../../src/replication/hole-filler.ts";
import { CHUNK_WRITE_TIMEOUT_MS, LANE_LAG_BYTES_MAX } from "../../../src/replication/target-lane.ts";
import { WriteBudget, type WriteBudgetOptions } from "../../../src/replication/write-budget.ts";
import { inlineDigester, sha256 } from "../../../src/std/digest.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";
import { FakeDetector } from "../../support/fake-detector.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { MemoryReplicas } from "../../support/memory-replicas.ts";

const EXTENT = { contentId: 7, extentIndex: 0 };
const WHOLE = new Uint8Array(CHUNK_SIZE_BYTES).fill(3);
const WHOLE_DIGEST = sha256(WHOLE);

function setUp(settings: {
  members?: readonly number[];
  targets?: readonly number[];
  quorum?: number;
  reassign?: (failed: readonly number[]) => Promise<readonly number[] | undefined>;
  budget?: WriteBudgetOptions;
}) {
  const members = settings.members ?? [1, 2, 3, 4];
  const clock = new FakeClock();
  const replicas = new MemoryReplicas(clock, members);
  const detector = new FakeDetector(members);
  const budget = new WriteBudget(settings.budget);
  const filler = new HoleFiller({ ports: replicas, detector, digester: inlineDigester, budget });
  const copies: number[] = [];
  const writer = new ExtentWriter({
    clock,
    ports: replicas,
    detector,
    budget,
    filler,
    extent: EXTENT,
    expectedSizeBytes: 3 * CHUNK_SIZE_BYTES,
    memberIds: settings.targets ?? [1, 2, 3],
    quorum: () => settings.quorum ?? 2,
    reassign: settings.reassign ?? (() => Promise.resolve(undefined)),
    onCopy: (_sizeBytes, copyNumber) => copies.push(copyNumber),
  });
  const write = (index: number, bytes = WHOLE): Promise<number> =>
    writer.writeChunk(index, bytes, bytes === WHOLE ? WHOLE_DIGEST : sha256(bytes));
  return { clock, replicas, detector, budget, writer, write, copies };
}

describe("ExtentWriter", () => {
  it("brings every chunk to all three targets", async () => {
    const { write, writer, replicas, budget, copies } = setUp({});

    await Promise.all([write(2), write(0), write(1)]);
    await writer.settled();

    for (const member of [1, 2, 3])
      expect(replicas.store(member).chunkIndexes(EXTENT)).to.deep.equal([0, 1, 2]);
    expect(copies.filter((copy) => copy === 3).length).to.equal(3);
    expect(budget.heldBytes).to.equal(0);
  });

  it("accepts a chunk when two targets took it and the third hangs", async () => {
    const { write, replicas } = setUp({});
    replicas.hanging.add(3);

    expect(await write(0)).to.equal(2);
  });

  it("says QUORUM_NOT_REACHED, after the deadline of a chunk and not later, when two targets hang", async () => {
    const { write, replicas, clock } = setUp({});
    replicas.hanging.add(2).add(3);

    const outcome = expectReason("QUORUM_NOT_REACHED", () => write(0));
    await clock.advance(2 * CHUNK_WRITE_TIMEOUT_MS);

    expect((await outcome).metadata["taken_count"]).to.equal("1");
  });

  it("says QUORUM_NOT_REACHED at once when two targets refuse connections", async () => {
    const { write, replicas, detector } = setUp({});
    replicas.down.add(2).add(3);

    await expectReason("QUORUM_NOT_REACHED", () => write(0));

    expect(detector.reports.map((report) => report.memberId)).to.include.members([2, 3]);
  });

  it("is content with one copy in a cluster of one", async () => {
    const { write } = setUp({ members: [1], targets: [1], quorum: 1 });

    expect(await write(0)).to.equal(1);
  });

  it("says NO_SPACE when the targets are full", async () => {
    const { write, replicas } = setUp({});
    replicas.full.add(1).add(2).add(3);

    await expectReason("NO_SPACE", () => write(0));
  });

  it("says NO_SPACE for every chunk after the one that found the targets full", async () => {
    const { write, replicas } = setUp({});
    replicas.full.add(2).add(3);

    await expectReason("NO_SPACE", () => write(0));
    await expectReason("NO_SPACE", () => write(1));
  });

  it("does not send to a target that is known to be down", async () => {
    const { write, writer, replicas, detector } = setUp({ targets: [1, 2, 3] });
    detector.health.set(3, "down");
    const fresh = setUp({});
    fresh.detector.health.set(3, "down");
    let calls = 0;
    replicas.onCall = (call) => {
      if (call.memberId === 3) calls += 1;
    };
    replicas.down.add(3);

    await write(0);
    await writer.settled();
    await write(1);
    await writer.settled();

    expect(calls).to.equal(1);
  });

  it("puts a spare in the place of a target that dies, and copies the earlier chunks to it", async () => {
    const asked: (readonly number[])[] = [];
    const { write, writer, replicas } = setUp({
      reassign: (failed) => {
        asked.push(failed);
        return Promise.resolve([1, 2, 4]);
      },
    });
    await write(0);
    await writer.settled();
    replicas.down.add(3);

    for (const index of [1, 2, 3]) await write(index);
    await writer.settled();

    expect(asked).to.deep.equal([[3]]);
    expect(writer.memberIds).to.deep.equal([1, 2, 4]);
    expect(replicas.store(4).chunkIndexes(EXTENT)).to.deep.equal([0, 1, 2, 3]);
  });

  it("reaches the quorum with a spare when two of three targets die at once", async () => {
    const { write, writer, replicas } = setUp({ reassign: () => Promise.resolve([1, 4]) });
    replicas.full.add(2).add(3);

    expect(await write(0)).to.equal(2);
    await writer.settled();

    expect(replicas.store(4).chunkIndexes(EXTENT)).to.deep.equal([0]);
  });

  it("goes on with two targets when there is no spare, or when the spare cannot be agreed on", async () => {
    const { write, writer, replicas } = setUp({
      reassign: () => Promise.reject(new DriveError("NO_LEADER", "No leader.")),
    });
    replicas.down.add(3);

    for (let index = 0; index < 5; index += 1) expect(await write(index)).to.equal(2);

    expect(writer.activeMemberIds).to.deep.equal([1, 2]);
  });

  it("takes a target back that failed and has come back", async () => {
    const { write, writer, replicas, clock } = setUp({ reassign: () => Promise.resolve([1, 2, 3]) });
    replicas.full.add(3);
    await write(0);
    replicas.full.delete(3);
    await clock.advance(5_000);

    await write(1);
    await writer.settled();

    expect(replicas.store(3).chunkIndexes(EXTENT)).to.deep.equal([0, 1]);
  });

  it("passes on what a target says about the request itself", async () => {
    const { write, replicas, writer } = setUp({});
    replicas.onCall = () => {
      throw new DriveError("UPLOAD_FINISHED", "Sealed.");
    };

    await expectReason("UPLOAD_FINISHED", () => write(0));

    expect(writer.activeMemberIds).to.deep.equal([1, 2, 3]);
  });

  it("holds the caller back while a target is behind by the bound, and drops it when it stays so", async () => {
    const { write, replicas, clock, writer, budget } = setUp({});
    replicas.delayMs.set(3, 9_000);
    const lagCount = LANE_LAG_BYTES_MAX / CHUNK_SIZE_BYTES;
    for (let index = 0; index < lagCount; index += 1) await write(index);
    let accepted = false;

    const next = write(lagCount).then(() => {
      accepted = true;
    });
    await clock.advance(LANE_LAG_WAIT_MS - 1);
    expect(accepted).to.equal(false);
    await clock.advance(1);
    await next;

    expect(writer.activeMemberIds).to.deep.equal([1, 2]);
    await writer.settled();
    expect(budget.heldBytes).to.equal(0);
  });

  it("drops nobody when all targets are equally slow", async () => {
    const { write, replicas, clock, writer } = setUp({});
    for (const member of [1, 2, 3]) replicas.delayMs.set(member, 4_000);

    const writes = Array.from({ length: 20 }, (_, index) => write(index));
    await clock.advance(60_000);
    await Promise.all(writes);

    expect(writer.activeMemberIds).to.deep.equal([1, 2, 3]);
  });

  it("admits as many bytes as the node may hold and not one more", async () => {
    const { write, replicas, clock, budget } = setUp({ budget: { nodeBytesMax: 2 * CHUNK_SIZE_BYTES } });
    for (const member of [1, 2, 3]) replicas.delayMs.set(member, 10);
    const writes = [write(0), write(1), write(2)];

    await settle();
    expect(budget.heldBytes).to.equal(2 * CHUNK_SIZE_BYTES);
    expect(budget.waitingCount).to.equal(1);
    await clock.advance(10);
    expect(budget.heldBytes).to.equal(CHUNK_SIZE_BYTES);

    await clock.advance(10);
    await Promise.all(writes);
    expect(budget.heldBytes).to.equal(0);
  });

  it("refuses the first newcomer that finds the line full, and none before", async () => {
    const { write, replicas, clock, budget } = setUp({
      budget: { nodeBytesMax: CHUNK_SIZE_BYTES, waitingMax: 2 },
    });
    for (const member of [1, 2, 3]) replicas.delayMs.set(member, 10);
    const writes = [write(0), write(1)];
    await settle();
    budget.checkLine();
    writes.push(write(2));
    await settle();

    await expectReason("OVERLOADED", () => budget.checkLine());

    await clock.advance(100);
    await Promise.all(writes);
  });

  it("ends a write whose caller gives up, and frees its memory", async () => {
    const { writer, replicas, budget, clock } = setUp({});
    replicas.hanging.add(1).add(2).add(3);
    const caller = new AbortController();

    const outcome = expectReason("CANCELED", () => writer.writeChunk(0, WHOLE, WHOLE_DIGEST, caller.signal));
    await settle();
    caller.abort();
    await outcome;
    await clock.advance(CHUNK_WRITE_TIMEOUT_MS);

    expect(budget.heldBytes).to.equal(0);
  });
});
