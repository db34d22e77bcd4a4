/**
 * Goal: whatever a disk does to a store, what is read is what was written or an error, and what was damaged can be repaired; on a
 * disk that only refuses or loses power nothing sealed is lost, and nothing removed comes back.
 * Method: random operations against a plain map of what is sealed; between them flipped bits, misdirected and lost writes, pages that
 * cannot be read, full disks, failing syncs, power failures in the middle of operations, losses of the index, and the whole disk
 * replaced. After each, every extent is compared with the map; what is damaged is then written anew, as repair does.
 */
import { expect } from "chai";
import type { DiskChunkStore } from "../../../src/chunks/disk-chunk-store.ts";
import { hasReason } from "../../../src/drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { must } from "../../../src/std/assert.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { chunksOf, extentKey, TEST_ORIGIN, testBytes } from "../../contract/chunk-store.contract.ts";
import { damageFile, type FileDamage } from "../../simulation/sim-damage.ts";
import { StoreFixture } from "./store-fixture.ts";

const STEP_COUNT = 50;
const EXTENT_COUNT_MAX = 14;
/** Replay one with SEEDS=7, or try more: SEEDS=$(seq -s, 100 500) mocha this file. */
const SEEDS = (process.env["SEEDS"] ?? "1,2,3,4,5,6").split(",").map(Number);

const DAMAGES: readonly FileDamage[] = ["flipped-bit", "misdirected-write", "lost-write", "unreadable-page"];

/** How often each thing happened, over all seeds. */
const counts = new Map<string, number>();

function count(what: string): void {
  counts.set(what, (counts.get(what) ?? 0) + 1);
}

class Run {
  readonly where: string;
  readonly #prng: SeededPrng;
  #fixture = this.#newFixture();
  #store: DiskChunkStore | undefined;
  /** Contents that are certainly sealed, and their bytes. */
  readonly #sealed = new Map<number, Uint8Array>();
  /** Contents whose sealing or removal was not answered: there with these bytes, or not. */
  readonly #uncertain = new Map<number, Uint8Array>();
  #nextId = 1;
  /** Whether this disk damaged something: that may lie where nobody looks until the index is made anew. */
  #isDamaged = false;

  readonly #damages: boolean;

  constructor(seed: number) {
    this.where = `seed=${seed}`;
    // Every third disk loses power, refuses and fails, and damages nothing: nothing sealed may be lost on it.
    this.#damages = seed % 3 > 0;
    this.#prng = new SeededPrng(seed);
  }

  async run(): Promise<void> {
    await this.#format();
    await this.#open();
    for (let step = 0; step < STEP_COUNT; step += 1) {
      await this.#step();
      await this.#check();
    }
  }

  /** One operation or fault. */
  async #step(): Promise<void> {
    const kind = this.#prng.below(16);
    if (kind < 6) await this.#operate();
    else if (kind < 8) await this.#compact();
    else if (kind < 10) await this.#losePower();
    else if (kind < 11) await this.#fill();
    else if (kind < 12) await this.#failSync();
    else if (kind < 15) await (this.#damages ? this.#damage() : this.#operate());
    else if (this.#prng.below(3) === 0) await this.#replaceDisk();
  }

  #newFixture(): StoreFixture {
    return new StoreFixture({
      directory: "/data/chunks",
      segmentSizeBytesMax: 100_000,
      syncPaceBytes: 50_000,
    });
  }

  /** The directory of the store's data is durable, as the node sees to. */
  async #format(): Promise<void> {
    await this.#fixture.disk.makeDirectory("/data");
    await this.#fixture.disk.syncDirectory("/");
  }

  async #open(): Promise<void> {
    if (this.#prng.below(4) === 0) {
      await this.#fixture.loseIndex();
      count("index lost");
    }
    this.#store = await this.#fixture.open();
  }

  get #opened(): DiskChunkStore {
    return must(this.#store, "opened");
  }

  /** Writes something new, or removes something. */
  async #operate(): Promise<void> {
    const [contentId] = this.#sealed.keys();
    if (contentId !== undefined && (this.#sealed.size >= EXTENT_COUNT_MAX || this.#prng.below(3) === 0)) {
      await this.#remove(contentId);
      return;
    }
    const isLarge = this.#prng.below(8) === 0;
    const sizeBytes = isLarge ? CHUNK_SIZE_BYTES + 1 + this.#prng.below(5000) : 1 + this.#prng.below(20_000);
    const id = this.#nextId;
    this.#nextId += 1;
    await this.#write(id, testBytes(id, sizeBytes));
  }

  async #write(contentId: number, bytes: Uint8Array): Promise<void> {
    const extent = extentKey(contentId);
    const store = this.#opened;
    this.#sealed.delete(contentId);
    this.#uncertain.set(contentId, bytes);
    if (bytes.length < CHUNK_SIZE_BYTES && this.#prng.below(2) === 0) {
      await store.putSmall({ extent, bytes, digest: sha256(bytes), origin: TEST_ORIGIN });
    } else {
      await store.openExtent(extent, this.#prng.below(2) === 0 ? undefined : bytes.length);
      for (const [index, chunk] of chunksOf(bytes).entries()) {
        await store.writeChunk(extent, index, chunk, sha256(chunk));
      }
      await store.sealExtent({ extent, sizeBytes: bytes.length, origin: TEST_ORIGIN });
    }
    this.#uncertain.delete(contentId);
    this.#sealed.set(contentId, bytes);
  }

  async #remove(contentId: number): Promise<void> {
    const bytes = must(this.#sealed.get(contentId), "sealed");
    this.#sealed.delete(contentId);
    this.#uncertain.set(contentId, bytes);
    await this.#opened.removeExtent(extentKey(contentId));
    this.#uncertain.delete(contentId);
  }

  async #compact(): Promise<void> {
    for (let run = 0; run < 3; run += 1) {
      const result = await this.#opened.compact(() => Promise.resolve());
      if (result === undefined) return;
      if (result.freedBytes > 0) count("compacted");
    }
  }

  /** Works until the power fails, at a drawn operation of the disk. */
  async #losePower(): Promise<void> {
    const { disk } = this.#fixture;
    let left = 1 + this.#prng.below(20);
    const crash = (): void => this.#fixture.crash(this.#prng);
    disk.onOperation = () => {
      left -= 1;
      if (left === 0) crash();
      return undefined;
    };
    const works = [this.#operate(), ...(this.#prng.below(2) === 0 ? [this.#compact()] : [])];
    const outcomes = await Promise.allSettled(works);
    disk.onOperation = undefined;
    if (left > 0) {
      for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
      crash();
    } else count("power lost in the middle");
    await this.#open();
  }

  /** The disk has no space for what comes next. */
  async #fill(): Promise<void> {
    const { disk } = this.#fixture;
    const free = disk.capacityBytes;
    disk.capacityBytes = disk.usedBytes + this.#prng.below(8000);
    await this.#allowing("NO_SPACE", () => this.#operate());
    await this.#allowing("NO_SPACE", () => this.#compact());
    disk.capacityBytes = free;
    await this.#opened.refreshSpace();
  }

  async #allowing(reason: "NO_SPACE", work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!hasReason(error, reason)) throw error;
      count("disk full");
    }
  }

  /** A sync fails: the process ends, and what the sync should have covered may be gone. */
  async #failSync(): Promise<void> {
    const { disk, fatal } = this.#fixture;
    disk.failNext("sync", /\.seg$/u, "EIO");
    const outcome = await Promise.allSettled([this.#operate()]);
    disk.clearFailures();
    if (outcome[0].status === "fulfilled") return;
    expect(fatal, this.where).to.have.length(1);
    fatal.length = 0;
    count("sync failed");
    this.#fixture.crash(this.#prng);
    await this.#open();
  }

  /** Something at rest is damaged. */
  async #damage(): Promise<void> {
    await this.#opened.close();
    const how = must(DAMAGES[this.#prng.below(DAMAGES.length)], "a way");
    const done = damageFile(this.#fixture.disk, "chunks", how, this.#prng);
    if (done !== undefined) {
      this.#isDamaged = true;
      count(how);
    }
    await this.#open();
  }

  /** The node has an empty disk: a new store, in which nothing is. */
  async #replaceDisk(): Promise<void> {
    const { storeIncarnation } = this.#opened;
    await this.#opened.close();
    this.#fixture = this.#newFixture();
    await this.#format();
    this.#isDamaged = false;
    this.#store = await this.#fixture.open();
    expect(await this.#opened.listExtents(undefined, 1000), this.where).to.deep.equal([]);
    expect(this.#opened.storeIncarnation.length).to.equal(storeIncarnation.length);
    this.#sealed.clear();
    this.#uncertain.clear();
    count("disk replaced");
  }

  async #check(): Promise<void> {
    for (const [contentId, bytes] of [...this.#uncertain]) {
      this.#uncertain.delete(contentId);
      const { kind } = await this.#opened.extentState(extentKey(contentId));
      if (kind === "sealed") this.#sealed.set(contentId, bytes);
      else await this.#opened.removeExtent(extentKey(contentId));
    }
    for (const [contentId, bytes] of [...this.#sealed]) {
      const isGood = await this.#isWhole(contentId, bytes);
      if (isGood) continue;
      expect(
        this.#isDamaged,
        `${this.where}: content ${contentId} is damaged, and nothing damaged it`,
      ).to.equal(true);
      count("found and repaired");
      await this.#opened.removeExtent(extentKey(contentId));
      await this.#write(contentId, bytes);
      expect(await this.#isWhole(contentId, bytes), `${this.where}: ${contentId} repaired`).to.equal(true);
    }
    const listed = await this.#opened.listExtents(undefined, 1000);
    const unknown = listed.filter(({ contentId }) => !this.#sealed.has(contentId));
    // A tombstone that is damaged forgets nothing any more; the comparison with the tree removes what comes back.
    if (this.#isDamaged) for (const extent of unknown) await this.#opened.removeExtent(extent);
    else expect(unknown, this.where).to.deep.equal([]);
    expect(this.#fixture.fatal, this.where).to.deep.equal([]);
  }

  /** Whether an extent reads as it was written; false when the store says that it is damaged, or lost it with what it reported. */
  async #isWhole(contentId: number, bytes: Uint8Array): Promise<boolean> {
    const extent = extentKey(contentId);
    for (const [index, chunk] of chunksOf(bytes).entries()) {
      try {
        const read = await this.#opened.readChunk(extent, index, 0, chunk.length);
        expect(Buffer.from(read).equals(chunk), `${this.where} content ${contentId} chunk ${index}`).to.equal(
          true,
        );
      } catch (error) {
        if (!hasReason(error, "CHUNK_CORRUPT", "CHUNK_NOT_FOUND")) throw error;
        // A seal that is damaged, and in no index any more, cannot be named: the log says that something is.
        if (hasReason(error, "CHUNK_NOT_FOUND")) {
          expect(this.#fixture.faults, `${this.where} content ${contentId}`).to.not.deep.equal([]);
        }
        return false;
      }
    }
    await this.#opened.verifyExtent(extent).catch((error: unknown) => {
      // A seal that is damaged leaves chunks behind that can be read and belong to nothing.
      if (!hasReason(error, "CHUNK_CORRUPT", "CHUNK_NOT_FOUND")) throw error;
    });
    return (await this.#opened.extentState(extent)).kind === "sealed";
  }
}

describe("DiskChunkStore on disks that damage, refuse and forget", () => {
  for (const seed of SEEDS) {
    it(`reads what was written or says that it is damaged (seed=${seed})`, async function () {
      this.timeout(120_000);

      await new Run(seed).run();
    });
  }

  it("met every kind of fault in these runs", () => {
    for (const what of [
      ...DAMAGES,
      "index lost",
      "compacted",
      "power lost in the middle",
      "disk full",
      "sync failed",
      "disk replaced",
      "found and repaired",
    ]) {
      expect(counts.get(what) ?? 0, what).to.be.greaterThan(0);
    }
  });
});
