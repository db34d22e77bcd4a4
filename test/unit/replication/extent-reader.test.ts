/**
 * Goal: the reader sees the right bytes as long as one copy is good, whatever happens to the others and when. Method: an
 * ExtentReader over in-memory stores with faults; ranges are compared byte by byte.
 */
import { expect } from "chai";
import type { ExtentKey } from "../../../src/drive/content.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import {
  ExtentReader,
  READ_ROUND_WAIT_MS,
  READ_STALL_TIMEOUT_MS,
} from "../../../src/replication/extent-reader.ts";
import {
  READ_AHEAD_CHUNK_COUNT,
  READ_IDLE_MS,
  READ_NARROW_SIZE_BYTES,
  ReadBudget,
} from "../../../src/replication/read-window.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";
import { FakeDetector } from "../../support/fake-detector.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { MemoryReplicas } from "../../support/memory-replicas.ts";

const EXTENT = { contentId: 7, extentIndex: 0 };
const CHUNK_COUNT = 8;
const SIZE_BYTES = (CHUNK_COUNT - 1) * CHUNK_SIZE_BYTES + 1000;

const CONTENT = Buffer.alloc(SIZE_BYTES, Buffer.from(new SeededPrng(1).bytes(4099)));

async function setUp(members: readonly number[] = [1, 2, 3], budgetBytes?: number) {
  const clock = new FakeClock();
  const replicas = new MemoryReplicas(clock, members);
  const detector = new FakeDetector(members);
  const bad: { extent: ExtentKey; memberId: number }[] = [];
  for (const member of members) {
    for (let index = 0; index < CHUNK_COUNT; index += 1) {
      const bytes = CONTENT.subarray(index * CHUNK_SIZE_BYTES, (index + 1) * CHUNK_SIZE_BYTES);
      await replicas.store(member).writeChunk(EXTENT, index, bytes, sha256(bytes));
    }
  }
  const budget = new ReadBudget(budgetBytes);
  const reader = new ExtentReader({
    clock,
    ports: replicas,
    detector,
    budget,
    onBadReplica: (extent, memberId) => bad.push({ extent, memberId }),
  });
  const read = (offset = 0, length = SIZE_BYTES, signal?: AbortSignal) =>
    reader.read({ extent: EXTENT, offset, length, rankedMemberIds: () => members, signal });
  return { clock, replicas, detector, bad, budget, read };
}

async function collect(pieces: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const piece of pieces) parts.push(piece);
  return Buffer.concat(parts);
}

describe("ExtentReader", () => {
  for (const [offset, length] of [
    [0, SIZE_BYTES],
    [0, 1],
    [SIZE_BYTES - 1, 1],
    [CHUNK_SIZE_BYTES - 1, 2],
    [CHUNK_SIZE_BYTES, CHUNK_SIZE_BYTES],
    [12_345, 3 * CHUNK_SIZE_BYTES],
  ] as const) {
    it(`gives exactly the bytes [${offset}, ${offset + length})`, async () => {
      const { read } = await setUp();

      const bytes = await collect(read(offset, length));

      expect(bytes.equals(CONTENT.subarray(offset, offset + length))).to.equal(true);
    });
  }

  it("goes on from another copy at the very byte where one is damaged, and reports the copy once", async () => {
    const { read, replicas, bad } = await setUp();
    replicas.store(1).damage(EXTENT, 3);

    const bytes = await collect(read(500, SIZE_BYTES - 500));

    expect(bytes.equals(CONTENT.subarray(500))).to.equal(true);
    expect(bad).to.deep.equal([{ extent: EXTENT, memberId: 1 }]);
  });

  it("goes on when the source dies in the middle", async () => {
    const { read, replicas, detector, bad } = await setUp();
    replicas.onCall = (call) => {
      if (call.method === "read" && call.memberId === 1 && call.chunkIndex === 4) replicas.down.add(1);
    };

    const bytes = await collect(read());

    expect(bytes.equals(CONTENT)).to.equal(true);
    expect(detector.reports).to.deep.include({ memberId: 1, outcome: "unreachable" });
    expect(bad).to.deep.equal([]);
  });

  it("does not wait for a source that hangs longer than the stall timeout", async () => {
    const { read, replicas, clock } = await setUp();
    replicas.hanging.add(1);
    let finished = false;

    const reading = collect(read()).finally(() => {
      finished = true;
    });
    await clock.advance(READ_STALL_TIMEOUT_MS - 1);
    expect(finished).to.equal(false);
    await clock.advance(1);

    expect((await reading).equals(CONTENT)).to.equal(true);
  });

  it("puts the bytes together when every copy is damaged at another place", async () => {
    const { read, replicas, bad, clock } = await setUp();
    replicas.store(1).damage(EXTENT, 5);
    replicas.store(2).damage(EXTENT, 6);
    replicas.store(3).damage(EXTENT, 7);

    const reading = collect(read());
    await clock.advance(10 * READ_ROUND_WAIT_MS);

    expect((await reading).equals(CONTENT)).to.equal(true);
    expect(new Set(bad.map((one) => one.memberId))).to.deep.equal(new Set([1, 2, 3]));
  });

  it("tries again for a copy whose node was restarting", async () => {
    const { read, replicas, clock } = await setUp();
    replicas.down.add(1).add(2).add(3);

    const reading = collect(read());
    await settle();
    replicas.down.delete(2);
    await clock.advance(READ_ROUND_WAIT_MS);

    expect((await reading).equals(CONTENT)).to.equal(true);
  });

  it("says CHUNK_LOST with the place when no copy can give a byte", async () => {
    const { read, replicas, clock } = await setUp();
    for (const member of [1, 2, 3]) replicas.store(member).damage(EXTENT, 2);

    const outcome = expectReason("CHUNK_LOST", () => collect(read()));
    await clock.advance(10 * READ_ROUND_WAIT_MS);

    expect((await outcome).metadata["offset"]).to.equal(String(2 * CHUNK_SIZE_BYTES));
  });

  it("reads ahead by the bound and not further", async () => {
    const { read, replicas } = await setUp();
    let reads = 0;
    replicas.onCall = (call) => {
      if (call.method === "read") reads += 1;
    };

    const pieces = read()[Symbol.asyncIterator]();
    await pieces.next();
    await settle();

    // One handed out, READ_AHEAD_CHUNK_COUNT waiting.
    expect(reads).to.equal(1 + READ_AHEAD_CHUNK_COUNT);
    await pieces.return?.();
  });

  it("holds for readers that take nothing half of the budget and a narrow piece each, and gives a taker the other half", async () => {
    const budgetBytes = 16 * CHUNK_SIZE_BYTES;
    const { read, budget } = await setUp([1], budgetBytes);
    const readers = Array.from({ length: 200 }, () => read());
    const firsts: Uint8Array[] = [];
    for (const each of readers) firsts.push((await each.next()).value as Uint8Array);
    await settle();

    expect(budget.heldBytes).to.equal(budgetBytes / 2);
    const narrow = firsts.filter(({ length }) => length === READ_NARROW_SIZE_BYTES);
    expect(narrow.length).to.be.greaterThan(firsts.length - budgetBytes / CHUNK_SIZE_BYTES);

    const taker = read();
    const sizes: number[] = [];
    for await (const { length } of taker) sizes.push(length);
    expect(sizes[0], "a newcomer like the others").to.equal(READ_NARROW_SIZE_BYTES);
    expect(Math.max(...sizes.slice(1)), "then at full speed").to.be.greaterThan(CHUNK_SIZE_BYTES / 2);

    for (const [at, each] of readers.entries()) {
      const bytes = Buffer.concat([firsts[at] ?? Buffer.alloc(0), await collect(each)]);
      expect(bytes.equals(CONTENT)).to.equal(true);
    }
    expect(budget.heldBytes, "all was given back").to.equal(0);
  });

  it("never holds more than the budget and a narrow piece each, for readers that take a little and stop", async () => {
    const budgetBytes = 16 * CHUNK_SIZE_BYTES;
    const { read, budget } = await setUp([1], budgetBytes);
    const readers = Array.from({ length: 60 }, () => read());
    const prng = new SeededPrng(9);
    const inHand = new Map<number, number>();
    for (let step = 0; step < 300; step += 1) {
      const at = prng.below(readers.length);
      const got = await readers[at]?.next();
      inHand.set(at, got?.done === true ? 0 : (got?.value?.length ?? 0));
      expect(budget.heldBytes).to.be.at.most(budgetBytes);
      const held = [...inHand.values()].reduce((sum, bytes) => sum + bytes, 0);
      expect(held).to.be.at.most(budgetBytes + readers.length * READ_NARROW_SIZE_BYTES);
    }
    for (const each of readers) await each.return();
    expect(budget.heldBytes).to.equal(0);
  });

  it("drops what was read ahead for a reader that stands still, and gives it the right bytes when it comes back", async () => {
    const { read, replicas, budget, clock } = await setUp();
    const reading = read();
    const first = (await reading.next()).value as Uint8Array;
    await settle();
    expect(budget.heldBytes).to.equal((1 + READ_AHEAD_CHUNK_COUNT) * CHUNK_SIZE_BYTES);

    await clock.advance(READ_IDLE_MS);
    expect(budget.heldBytes, "the piece in its hand").to.equal(CHUNK_SIZE_BYTES);
    let readCount = 0;
    replicas.onCall = ({ method }) => {
      if (method === "read") readCount += 1;
    };
    await clock.advance(100 * READ_IDLE_MS);
    expect(readCount, "nothing is read meanwhile").to.equal(0);

    const second = (await reading.next()).value as Uint8Array;
    expect(second.length, "it has yet to show its pace").to.equal(READ_NARROW_SIZE_BYTES);
    const bytes = Buffer.concat([first, second, await collect(reading)]);
    expect(bytes.equals(CONTENT)).to.equal(true);
    expect(clock.timerCount).to.equal(0);
  });

  it("reads for a slow reader no byte twice but those of its first pause", async () => {
    const { read, replicas, clock } = await setUp();
    let readCount = 0;
    replicas.onCall = ({ method }) => {
      if (method === "read") readCount += 1;
    };
    const parts: Uint8Array[] = [];
    for await (const piece of read()) {
      parts.push(piece);
      await clock.advance(READ_IDLE_MS + 1);
    }
    expect(Buffer.concat(parts).equals(CONTENT)).to.equal(true);
    const narrowCount = Math.ceil((SIZE_BYTES - CHUNK_SIZE_BYTES) / READ_NARROW_SIZE_BYTES);
    expect(readCount).to.equal(1 + READ_AHEAD_CHUNK_COUNT + narrowCount);
  });

  it("stops reading when the consumer leaves", async () => {
    const { read, clock } = await setUp();

    for await (const piece of read()) {
      expect(piece.length).to.equal(CHUNK_SIZE_BYTES);
      break;
    }

    expect(clock.timerCount).to.equal(0);
  });

  it("ends with the reason of the caller's signal", async () => {
    const { read, replicas } = await setUp();
    replicas.hanging.add(1);
    const caller = new AbortController();

    const outcome = expectReason("NODE_STOPPING", () => collect(read(0, SIZE_BYTES, caller.signal)));
    await settle();
    caller.abort(new DriveError("NODE_STOPPING", "The node stops."));

    await outcome;
  });
});
