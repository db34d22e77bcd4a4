/**
 * Goal: two equal seals suffice and nothing less does; holes are filled first; a late third is not lost. Method: a Sealer over
 * in-memory stores with faults and a clock that the test moves.
 */
import { expect } from "chai";
import { CHUNK_SIZE_BYTES, THIRD_SEAL_WAIT_MS } from "../../../src/drive/limits.ts";
import { HoleFiller } from "../../../src/replication/hole-filler.ts";
import { largestAgreement, Sealer } from "../../../src/replication/sealer.ts";
import { WriteBudget } from "../../../src/replication/write-budget.ts";
import { foldTreeHash, inlineDigester, sha256 } from "../../../src/std/digest.ts";
import { must } from "../../../src/std/assert.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";
import { FakeDetector } from "../../support/fake-detector.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { MemoryReplicas } from "../../support/memory-replicas.ts";

const EXTENT = { contentId: 7, extentIndex: 0 };
const ORIGIN = { clusterId: "c", entryId: 5, commitIndex: 9 };
const CHUNKS = [0, 1, 2].map((fill) => new Uint8Array(fill === 2 ? 100 : CHUNK_SIZE_BYTES).fill(fill));
const SIZE_BYTES = 2 * CHUNK_SIZE_BYTES + 100;
const ROOT = foldTreeHash(CHUNKS.map(sha256));
const REQUEST = { extent: EXTENT, sizeBytes: SIZE_BYTES, origin: ORIGIN };

async function setUp(held: Readonly<Record<number, readonly number[]>>, givenUp = new Set<number>()) {
  const members = Object.keys(held).map(Number);
  const clock = new FakeClock();
  const replicas = new MemoryReplicas(clock, members);
  const detector = new FakeDetector(members);
  const budget = new WriteBudget();
  const filler = new HoleFiller({ ports: replicas, detector, digester: inlineDigester, budget });
  const sealer = new Sealer({
    clock,
    ports: replicas,
    detector,
    filler,
    isGivenUp: (memberId) => givenUp.has(memberId),
  });
  for (const member of members) {
    for (const index of held[member] ?? []) {
      const bytes = must(CHUNKS[index], "a chunk of the test");
      await replicas.store(member).writeChunk(EXTENT, index, bytes, sha256(bytes));
    }
  }
  const seal = (neededCount = 2, signal?: AbortSignal) =>
    sealer.seal(REQUEST, { memberIds: members, neededCount, signal });
  return { clock, replicas, detector, seal };
}

describe("Sealer", () => {
  it("gets three equal seals when every target holds every chunk", async () => {
    const { seal } = await setUp({ 1: [0, 1, 2], 2: [0, 1, 2], 3: [0, 1, 2] });

    const { seals, late } = await seal();

    expect(seals.map((one) => one.memberId)).to.deep.equal([1, 2, 3]);
    for (const one of seals) expect(one.root).to.deep.equal(ROOT);
    expect(await late).to.deep.equal([]);
  });

  it("does not ask a target that was given up, and does not take what is left for copies that differ", async () => {
    const three = { 1: [0, 1, 2], 2: [0, 1, 2], 3: [0, 1, 2] };
    const { seal, replicas } = await setUp(three, new Set([3]));
    replicas.onCall = ({ memberId, method }) => {
      expect(memberId === 3 && method === "sealExtent", "asked for a seal").to.equal(false);
    };
    const { seals, late } = await seal();
    expect(seals.map((one) => one.memberId)).to.deep.equal([1, 2]);
    expect(await late).to.deep.equal([]);

    const lessSeal = (await setUp(three, new Set([2, 3]))).seal;
    await expectReason("QUORUM_NOT_REACHED", () => lessSeal());
  });

  it("answers the same seals when it is asked again", async () => {
    const { seal } = await setUp({ 1: [0, 1, 2], 2: [0, 1, 2] });

    expect((await seal()).seals).to.deep.equal((await seal()).seals);
  });

  it("fills holes of each target from the others, even when every target has one", async () => {
    const { seal } = await setUp({ 1: [0, 1], 2: [1, 2], 3: [0, 2] });

    const { seals } = await seal();

    expect(seals.map((one) => one.memberId)).to.deep.equal([1, 2, 3]);
  });

  it("names the chunks that nobody has", async () => {
    const { seal } = await setUp({ 1: [1], 2: [1], 3: [] });

    const error = await expectReason("UPLOAD_INCOMPLETE", () => seal());

    expect(error.metadata["missing"]).to.equal("0,2");
    expect(error.metadata["missing_count"]).to.equal("2");
  });

  it("waits for the third seal at most THIRD_SEAL_WAIT_MS and hands it out afterwards", async () => {
    const { seal, replicas, clock } = await setUp({ 1: [0, 1, 2], 2: [0, 1, 2], 3: [0, 1, 2] });
    replicas.delayMs.set(3, THIRD_SEAL_WAIT_MS + 1);
    let answered = false;

    const sealing = seal().finally(() => {
      answered = true;
    });
    await clock.advance(THIRD_SEAL_WAIT_MS - 1);
    expect(answered).to.equal(false);
    await clock.advance(1);
    const { seals, late } = await sealing;
    expect(seals.map((one) => one.memberId)).to.deep.equal([1, 2]);

    await clock.advance(10);
    expect((await late).map((one) => one.memberId)).to.deep.equal([3]);
  });

  it("takes the third seal into the answer when it comes in time", async () => {
    const { seal, replicas, clock } = await setUp({ 1: [0, 1, 2], 2: [0, 1, 2], 3: [0, 1, 2] });
    replicas.delayMs.set(3, THIRD_SEAL_WAIT_MS - 1);

    const sealing = seal();
    await clock.advance(THIRD_SEAL_WAIT_MS);

    expect((await sealing).seals.length).to.equal(3);
  });

  it("does not count a target whose stored bytes are damaged", async () => {
    const { seal, replicas } = await setUp({ 1: [0, 1, 2], 2: [0, 1, 2], 3: [0, 1, 2] });
    replicas.store(2).damage(EXTENT, 1);

    expect((await seal()).seals.map((one) => one.memberId)).to.deep.equal([1, 3]);
  });

  it("says QUORUM_NOT_REACHED when only one target answers", async () => {
    const { seal, replicas, detector } = await setUp({ 1: [0, 1, 2], 2: [0, 1, 2], 3: [0, 1, 2] });
    replicas.down.add(2);
    detector.health.set(3, "down");

    const error = await expectReason("QUORUM_NOT_REACHED", () => seal());

    expect(error.metadata["sealed_count"]).to.equal("1");
  });

  it("says DIGEST_MISMATCH when a chunk came with different bytes to each target, for asking again cannot help", async () => {
    const { seal, replicas } = await setUp({ 1: [0, 1, 2], 2: [0, 1, 2] });
    const other = new Uint8Array(CHUNK_SIZE_BYTES).fill(9);
    await replicas.store(2).writeChunk(EXTENT, 1, other, sha256(other));

    await expectReason("DIGEST_MISMATCH", () => seal());
    await expectReason("DIGEST_MISMATCH", () => seal());
  });

  it("counts equal seals only, and may be asked again while a target is down that could decide", async () => {
    const { seal, replicas } = await setUp({ 1: [0, 1, 2], 2: [0, 1, 2], 3: [0, 1, 2] });
    const other = new Uint8Array(CHUNK_SIZE_BYTES).fill(9);
    await replicas.store(2).writeChunk(EXTENT, 1, other, sha256(other));
    replicas.down.add(3);

    const error = await expectReason("QUORUM_NOT_REACHED", () => seal());
    expect(error.metadata["sealed_count"]).to.equal("1");
    replicas.down.delete(3);

    expect((await seal()).seals.map((one) => one.memberId)).to.deep.equal([1, 3]);
  });

  it("ends when the caller gives up", async () => {
    const { seal, replicas } = await setUp({ 1: [0, 1, 2], 2: [0, 1, 2] });
    replicas.hanging.add(1).add(2);
    const caller = new AbortController();

    const outcome = expectReason("CANCELED", () => seal(2, caller.signal));
    await settle();
    caller.abort();

    await outcome;
  });

  it("never mixes seals that disagree", () => {
    const seal = (memberId: number, root: number) => ({
      extent: EXTENT,
      sizeBytes: 1,
      root: new Uint8Array(32).fill(root),
      memberId,
      storeIncarnation: "s",
    });

    const agreed = largestAgreement([seal(1, 1), seal(2, 2), seal(3, 2)]);

    expect(agreed.map((one) => one.memberId)).to.deep.equal([2, 3]);
  });
});
