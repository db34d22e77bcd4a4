/**
 * Goal: files that are removed, replaced or cut short under a running store are noticed while it runs, and a restart loses nothing that was not
 * told. Method: the store on a disk in memory, where a file that is open outlives its name; files are lost, put back, replaced and cut.
 */
import {
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import type { DiskChunkStore } from "../../../src/chunks/disk-chunk-store.ts";
import type { ExtentKey } from "../../../src/drive/content.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { SystemDisk } from "../../../src/std/system-disk.ts";
import { extentKey, TEST_ORIGIN, testBytes, writeAll } from "../../contract/chunk-store.contract.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { StoreFixture } from "./store-fixture.ts";

const SMALL_BYTES = 10_000;
const SEGMENT_BYTES = 200_000;
const logPath = (segmentId: number): string => `/chunks/log/${String(segmentId).padStart(10, "0")}.seg`;
const ownPath = (segmentId: number): string => `/chunks/extents/${String(segmentId).padStart(10, "0")}.seg`;
const OWN_PATH = ownPath(1);
const now = (): Promise<void> => Promise.resolve();

async function putSmall(store: DiskChunkStore, contentId: number): Promise<ExtentKey> {
  const bytes = testBytes(contentId, SMALL_BYTES);
  const extent = extentKey(contentId);
  await store.putSmall({ extent, bytes, digest: sha256(bytes), origin: TEST_ORIGIN });
  return extent;
}

/** Chunks of an extent, with a segment of its own or in the log; not sealed. */
async function write(store: DiskChunkStore, where: "own" | "log"): Promise<ExtentKey> {
  const extent = extentKey(100);
  const sizeBytes = CHUNK_SIZE_BYTES + 70_000;
  await store.openExtent(extent, where === "own" ? undefined : sizeBytes);
  await writeAll(store, extent, testBytes(100, sizeBytes));
  return extent;
}

async function seal(store: DiskChunkStore, extent: ExtentKey): Promise<void> {
  await store.sealExtent({ extent, sizeBytes: CHUNK_SIZE_BYTES + 70_000, origin: TEST_ORIGIN });
}

/** A sealed extent in a segment of its own. */
async function sealOwn(store: DiskChunkStore, contentId: number): Promise<ExtentKey> {
  const extent = extentKey(contentId);
  await store.openExtent(extent, undefined);
  await writeAll(store, extent, testBytes(contentId, CHUNK_SIZE_BYTES + 70_000));
  await store.sealExtent({ extent, sizeBytes: CHUNK_SIZE_BYTES + 70_000, origin: TEST_ORIGIN });
  return extent;
}

/** The extents of small files that are whole, by content id. */
async function wholeOf(store: DiskChunkStore, countMax: number): Promise<number[]> {
  const whole: number[] = [];
  for (let contentId = 1; contentId <= countMax; contentId += 1) {
    const seal = await store.verifyExtent(extentKey(contentId)).catch(() => undefined);
    if (seal !== undefined) whole.push(contentId);
  }
  return whole;
}

/** Repairs what is quarantined as the node does it: by removing it and writing it anew. Returns the content ids. */
async function repair(store: DiskChunkStore, countMax: number): Promise<number[]> {
  const repaired: number[] = [];
  for (let contentId = 1; contentId <= countMax; contentId += 1) {
    if ((await store.extentState(extentKey(contentId))).kind !== "quarantined") continue;
    await store.removeExtent(extentKey(contentId));
    await putSmall(store, contentId);
    repaired.push(contentId);
  }
  return repaired;
}

const range = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, at) => from + at);

describe("Files lost under a running store", function () {
  this.timeout(10_000);
  const COUNT = 45;
  /** Small files that fit in one segment. */
  const PER_SEGMENT = 19;

  async function setUp(): Promise<{ fixture: StoreFixture; store: DiskChunkStore }> {
    const fixture = new StoreFixture({ segmentSizeBytesMax: SEGMENT_BYTES });
    const store = await fixture.open();
    for (let contentId = 1; contentId <= COUNT; contentId += 1) await putSmall(store, contentId);
    expect(await wholeOf(store, COUNT), "all are read, so all files are open").to.have.length(COUNT);
    return { fixture, store };
  }

  it("look well to every read of what is open, and are noticed by one look, which tells each copy that is lost", async () => {
    const { fixture, store } = await setUp();
    fixture.disk.lose(logPath(1));
    expect(await wholeOf(store, COUNT)).to.have.length(COUNT);

    await store.checkFiles(now);

    expect(fixture.lostFiles).to.deep.equal([{ path: logPath(1), kind: "missing" }]);
    expect(fixture.damage.map(({ extent }) => extent.contentId)).to.deep.equal(range(1, PER_SEGMENT));
    expect(await wholeOf(store, COUNT)).to.deep.equal(range(PER_SEGMENT + 1, COUNT));
    expect(store.stats()).to.deep.include({ lostFileCount: 1, quarantinedExtentCount: PER_SEGMENT });

    await store.checkFiles(now);
    expect(fixture.lostFiles, "told once").to.have.length(1);
  });

  it("are repaired for good: a restart finds nothing lost", async () => {
    const { fixture, store } = await setUp();
    fixture.disk.lose(logPath(1));
    await store.checkFiles(now);

    expect(await repair(store, COUNT)).to.deep.equal(range(1, PER_SEGMENT));
    expect(await wholeOf(store, COUNT)).to.have.length(COUNT);
    fixture.crash(new SeededPrng(3));
    const after = await fixture.open();

    expect(await wholeOf(after, COUNT)).to.have.length(COUNT);
    expect(fixture.damage).to.have.length(PER_SEGMENT);
  });

  it("are left at once when they are being written: what is acknowledged after the look is there after a restart", async () => {
    const { fixture, store } = await setUp();
    const files = fixture.disk.filesBelow("/chunks/log").filter((path) => path.endsWith(".seg"));
    const head = files.at(-1) ?? "";
    fixture.disk.lose(head);
    // Acknowledged into a file that has no name any more.
    await putSmall(store, COUNT + 1);

    await store.checkFiles(now);
    await putSmall(store, COUNT + 2);

    expect(fixture.lostFiles).to.deep.equal([{ path: head, kind: "missing" }]);
    const lost = fixture.damage.map(({ extent }) => extent.contentId);
    expect(lost).to.deep.equal(range(COUNT + 2 - lost.length, COUNT + 1));
    fixture.crash(new SeededPrng(5));
    const after = await fixture.open();
    expect(await wholeOf(after, COUNT + 2)).to.deep.equal([...range(1, COUNT + 1 - lost.length), COUNT + 2]);
    for (const contentId of lost) {
      expect((await after.extentState(extentKey(contentId))).kind, "damage, never absence").to.equal(
        "quarantined",
      );
    }
    expect(fixture.fatal).to.deep.equal([]);
  });

  it("take their chunks from an extent that is being written in the log, and its seal asks for them", async () => {
    const fixture = new StoreFixture();
    const store = await fixture.open();
    const extent = await write(store, "log");
    fixture.disk.lose(logPath(1));
    await store.checkFiles(now);

    const error = await expectReason("UPLOAD_INCOMPLETE", () => seal(store, extent));
    expect(error.metadata["missing"]).to.equal("0-1");
    await write(store, "log");
    await seal(store, extent);

    fixture.crash(new SeededPrng(7));
    expect((await (await fixture.open()).verifyExtent(extent)).extent).to.deep.equal(extent);
  });

  it("take all of an extent that was being written in a segment of its own, and its seal asks for it", async () => {
    const fixture = new StoreFixture();
    const store = await fixture.open();
    const extent = await write(store, "own");
    fixture.disk.lose(OWN_PATH);
    await store.checkFiles(now);

    expect(fixture.lostFiles).to.deep.equal([{ path: OWN_PATH, kind: "missing" }]);
    await expectReason("UPLOAD_INCOMPLETE", () => seal(store, extent));
    await write(store, "own");
    await seal(store, extent);

    fixture.crash(new SeededPrng(9));
    expect((await (await fixture.open()).verifyExtent(extent)).extent).to.deep.equal(extent);
  });

  it("are noticed of a large extent that is sealed, and of one that only its manifest is gone of", async () => {
    for (const path of [OWN_PATH, logPath(1)]) {
      const fixture = new StoreFixture();
      const store = await fixture.open();
      const extent = await write(store, "own");
      await seal(store, extent);
      await store.verifyExtent(extent);
      fixture.disk.lose(path);
      expect((await store.verifyExtent(extent)).extent, "while it is open").to.deep.equal(extent);

      await store.checkFiles(now);

      expect(fixture.damage, path).to.deep.equal([{ extent, chunkIndexes: [0, 1] }]);
      await store.removeExtent(extent);
      await write(store, "own");
      await seal(store, extent);
      await store.checkFiles(now);
      expect(fixture.lostFiles, path).to.deep.equal([{ path, kind: "missing" }]);
      fixture.crash(new SeededPrng(11));
      expect((await (await fixture.open()).verifyExtent(extent)).extent, path).to.deep.equal(extent);
    }
  });

  it("are each told, also where one of them was all that another one's bytes were known by", async () => {
    const fixture = new StoreFixture();
    const store = await fixture.open();
    const extent = await write(store, "own");
    await seal(store, extent);
    for (const path of [logPath(1), OWN_PATH]) fixture.disk.lose(path);

    for (let look = 0; look < 2; look += 1) await store.checkFiles(now);

    expect(fixture.lostFiles.map(({ path }) => path)).to.deep.equal([logPath(1), OWN_PATH]);
    expect(fixture.damage).to.deep.equal([{ extent, chunkIndexes: [0, 1] }]);
  });

  it("are believed as far as their checksums go when another file is in their place", async () => {
    const { fixture, store } = await setUp();
    const bytes = fixture.disk.contentOf(logPath(1));
    fixture.disk.replace(logPath(1), bytes);
    await store.checkFiles(now);
    expect(fixture.lostFiles).to.deep.equal([{ path: logPath(1), kind: "replaced" }]);
    expect(fixture.damage, "the same bytes").to.deep.equal([]);

    const other = Uint8Array.from(bytes);
    other.fill(0, 0, SMALL_BYTES);
    fixture.disk.replace(logPath(1), other);
    expect(await wholeOf(store, COUNT)).to.have.length(COUNT);
    await store.checkFiles(now);
    expect(fixture.damage.map(({ extent }) => extent.contentId)).to.deep.equal([1]);
    expect(await wholeOf(store, COUNT)).to.deep.equal(range(2, COUNT));
  });

  it("are read at the pace of the caller when they were replaced, and a manifest alone where only that lay in the file", async () => {
    const fixture = new StoreFixture();
    const store = await fixture.open();
    const extent = await write(store, "own");
    await seal(store, extent);
    const small = await putSmall(store, 1);
    await store.verifyExtent(extent);
    await store.verifyExtent(small);
    let read = 0;
    fixture.disk.onOperation = (operation, path, sizeBytes): undefined => {
      if (operation === "read" && path === OWN_PATH) read += sizeBytes;
    };
    const look = async (): Promise<number[]> => {
      const pieces: number[] = [];
      await store.checkFiles(async (sizeBytes) => {
        if (sizeBytes > 0) pieces.push(sizeBytes);
      });
      return pieces;
    };

    fixture.disk.replace(logPath(1), fixture.disk.contentOf(logPath(1)));
    const pieces = await look();
    expect(pieces, "the small file, and a manifest of two chunks").to.have.length(2);
    expect(pieces[0]).to.equal(SMALL_BYTES);
    expect(pieces[1]).to.be.within(80, 100);
    expect(read, "of the chunks").to.equal(0);

    fixture.disk.replace(OWN_PATH, fixture.disk.contentOf(OWN_PATH));
    expect(await look()).to.deep.equal([CHUNK_SIZE_BYTES, 70_000]);
    expect(read).to.be.at.least(CHUNK_SIZE_BYTES + 70_000);

    fixture.disk.lose(OWN_PATH);
    expect(await look(), "there is nothing to read").to.deep.equal([]);
    expect(fixture.damage).to.deep.equal([{ extent, chunkIndexes: [0, 1] }]);
  });

  it("take a large extent whose manifest another file holds differently, and leave one whose manifest is there", async () => {
    for (const isDamaged of [false, true]) {
      const fixture = new StoreFixture();
      const store = await fixture.open();
      const extent = await write(store, "own");
      await seal(store, extent);
      await store.verifyExtent(extent);
      const bytes = fixture.disk.contentOf(logPath(1));
      if (isDamaged) bytes.fill(0, bytes.length - 40);
      fixture.disk.replace(logPath(1), bytes);

      await store.checkFiles(now);

      expect(fixture.lostFiles).to.deep.equal([{ path: logPath(1), kind: "replaced" }]);
      expect(fixture.damage).to.deep.equal(isDamaged ? [{ extent, chunkIndexes: [0, 1] }] : []);
    }
  });

  it("are looked at by the next look, and told once, when the look that found them replaced ends early", async () => {
    const ends: readonly ((fixture: StoreFixture) => () => Promise<void>)[] = [
      // The look at a segment of one extent fails, after those of the log were found.
      ({ disk }) => {
        disk.failNext("stat", /extents/u, "EIO");
        return now;
      },
      // The log cannot be left for a new segment.
      ({ disk }) => {
        disk.failNext("create", /\.seg$/u, "ENOSPC");
        return now;
      },
      // The pause before the damaged ones are read.
      () => {
        let count = 0;
        return async () => {
          count += 1;
          if (count > 1) throw new Error("stopped");
        };
      },
    ];
    for (const [at, end] of ends.entries()) {
      const { fixture, store } = await setUp();
      const large = await write(store, "own");
      await seal(store, large);
      await store.verifyExtent(large);
      const logFiles = fixture.disk.filesBelow("/chunks/log").filter((path) => path.endsWith(".seg"));
      const replaced = [logPath(1), logFiles.at(-1) ?? "", OWN_PATH];
      for (const path of replaced) {
        const bytes = fixture.disk.contentOf(path);
        if (path !== logFiles.at(-1)) bytes.fill(0, 0, SMALL_BYTES);
        fixture.disk.replace(path, bytes);
      }
      const pause = end(fixture);
      expect(
        await store.checkFiles(pause).then(
          () => "done",
          () => "failed",
        ),
        `${at}`,
      ).to.equal("failed");
      expect(fixture.damage, `${at}`).to.deep.equal([]);

      for (let look = 0; look < 2; look += 1) await store.checkFiles(now);

      expect(fixture.lostFiles, `${at}`).to.deep.equal(replaced.map((path) => ({ path, kind: "replaced" })));
      expect(
        fixture.damage.map(({ extent }) => extent.contentId),
        `${at}`,
      ).to.deep.equal([1, 100]);
      expect(store.stats().lostFileCount, `${at}`).to.equal(3);
      expect(fixture.fatal, `${at}`).to.deep.equal([]);
    }
  });

  it("are noticed of files that no process has opened since the start, by which file was there then", async () => {
    const fixture = new StoreFixture();
    const extents: ExtentKey[] = [];
    const store = await fixture.open();
    for (const contentId of [1, 2, 3]) extents.push(await sealOwn(store, contentId));
    fixture.crash(new SeededPrng(15));
    const after = await fixture.open();
    const [first, second] = [ownPath(1), ownPath(2)].map((path) => fixture.disk.contentOf(path));
    fixture.disk.replace(ownPath(1), second ?? new Uint8Array(0));
    fixture.disk.replace(ownPath(2), first ?? new Uint8Array(0));

    for (let look = 0; look < 2; look += 1) await after.checkFiles(now);

    expect(fixture.lostFiles).to.deep.equal([1, 2].map((id) => ({ path: ownPath(id), kind: "replaced" })));
    expect(fixture.damage).to.deep.equal(
      extents.slice(0, 2).map((extent) => ({ extent, chunkIndexes: [0, 1] })),
    );
  });

  it("are noticed on the disk of the machine too, also where a new file has got the number of the old one", async () => {
    const directory = mkdtempSync(join(tmpdir(), "lost-files-"));
    try {
      const fixture = new StoreFixture({ disk: new SystemDisk(), directory });
      const extents: ExtentKey[] = [];
      let store = await fixture.open();
      for (let contentId = 1; contentId <= 5; contentId += 1) extents.push(await sealOwn(store, contentId));
      await store.close();
      store = await fixture.open();
      await store.checkFiles(now);
      expect(fixture.lostFiles).to.deep.equal([]);
      const pathOf = (contentId: number): string =>
        `${directory}${ownPath(contentId).replace("/chunks", "")}`;
      renameSync(pathOf(1), `${directory}/kept`);
      renameSync(pathOf(2), pathOf(1));
      renameSync(`${directory}/kept`, pathOf(2));
      truncateSync(pathOf(3), 0);
      const bytes = readFileSync(pathOf(4));
      unlinkSync(pathOf(4));
      writeFileSync(pathOf(4), bytes);

      await store.checkFiles(now);

      const kinds = ["replaced", "replaced", "cut-short", "replaced"];
      const told = kinds.map((kind, at) => ({ path: pathOf(at + 1), kind }));
      expect(fixture.lostFiles).to.have.deep.members(told);
      expect(fixture.damage.map(({ extent }) => extent)).to.have.deep.members(extents.slice(0, 3));
      await store.close();
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  it("are noticed when they are cut short in place: what lies beyond the end is lost, what lies before it is not", async () => {
    for (const isReopened of [false, true]) {
      const { fixture, store } = await setUp();
      const extents = [await sealOwn(store, 101), await sealOwn(store, 102)];
      let open = store;
      if (isReopened) {
        fixture.crash(new SeededPrng(17));
        open = await fixture.open();
      }
      fixture.disk.cut(ownPath(1), 0);
      fixture.disk.cut(ownPath(2), CHUNK_SIZE_BYTES + 10_000);
      fixture.disk.cut(logPath(1), SEGMENT_BYTES / 2);

      await open.checkFiles(now);

      const told = [logPath(1), ownPath(1), ownPath(2)].map((path) => ({ path, kind: "cut-short" }));
      expect(fixture.lostFiles).to.deep.equal(told);
      const large = fixture.damage.filter(({ extent }) => extent.contentId > 100);
      expect(large).to.deep.equal([
        { extent: extents[0], chunkIndexes: [0, 1] },
        { extent: extents[1], chunkIndexes: [1] },
      ]);
      expect(await repair(open, COUNT)).to.deep.equal(range(10, PER_SEGMENT));
      await open.checkFiles(now);
      expect(fixture.lostFiles, "told once").to.deep.equal(told);
      fixture.disk.cut(ownPath(2), 0);
      await open.checkFiles(now);
      expect(fixture.lostFiles, "and again when it loses more").to.have.length(4);
      expect(fixture.fatal).to.deep.equal([]);
    }
  });

  it("are left for new ones when they are cut short while they are written, also when writes have hidden it since", async () => {
    for (const isWrittenOn of [false, true]) {
      const fixture = new StoreFixture();
      const store = await fixture.open();
      const extent = await write(store, "own");
      const files = [logPath(1), OWN_PATH];
      for (let contentId = 1; contentId <= 3; contentId += 1) await putSmall(store, contentId);
      for (const path of files) fixture.disk.cut(path, 1000);
      if (isWrittenOn) {
        await putSmall(store, 4);
        const bytes = testBytes(7, 70_000);
        await store.writeChunk(extent, 2, bytes, sha256(bytes));
      }

      await store.checkFiles(now);

      expect(fixture.lostFiles).to.deep.equal(files.map((path) => ({ path, kind: "cut-short" })));
      expect(fixture.damage.map((each) => each.extent.contentId)).to.deep.equal([1, 2, 3]);
      await expectReason("UPLOAD_INCOMPLETE", () => seal(store, extent));
      await seal(store, await write(store, "own"));
      await repair(store, 3);
      fixture.crash(new SeededPrng(19));
      const after = await fixture.open();
      expect((await after.verifyExtent(extent)).extent).to.deep.equal(extent);
      expect(await wholeOf(after, 4)).to.deep.equal(isWrittenOn ? [1, 2, 3, 4] : [1, 2, 3]);
    }
  });

  it("are lost of an extent that is sealed between the look that found its file and its turn to be looked at", async () => {
    const losses: readonly ((fixture: StoreFixture) => void)[] = [
      ({ disk }) => disk.lose(OWN_PATH),
      ({ disk }) => disk.cut(OWN_PATH, 1000),
      ({ disk }) => disk.replace(OWN_PATH, new Uint8Array(CHUNK_SIZE_BYTES)),
    ];
    for (const [at, lose] of losses.entries()) {
      const { fixture, store } = await setUp();
      const extent = await write(store, "own");
      // What was in the log is read first, at the pace of the caller.
      fixture.disk.replace(logPath(1), fixture.disk.contentOf(logPath(1)));
      lose(fixture);
      let isSealed = false;

      await store.checkFiles(async (sizeBytes) => {
        if (isSealed || sizeBytes === 0) return;
        isSealed = true;
        await seal(store, extent);
      });
      expect(isSealed, `${at}`).to.equal(true);
      const first = fixture.damage.map((each) => each.extent.contentId);
      await store.checkFiles(now);

      expect(first, `${at}`).to.deep.equal([100]);
      expect(fixture.damage, `${at}`).to.have.length(1);
      expect((await store.extentState(extent)).kind, `${at}`).to.equal("quarantined");
    }
  });

  it("are noticed of an extent that a restart found half written, before and after it is written on", async () => {
    for (const isWrittenOn of [false, true]) {
      const fixture = new StoreFixture();
      const extent = await write(await fixture.open(), "own");
      fixture.disk.kill();
      const store = await fixture.open();
      expect((await store.extentState(extent)).kind).to.equal("open");
      fixture.disk.cut(OWN_PATH, 1000);
      if (isWrittenOn) {
        const bytes = testBytes(7, 70_000);
        await store.writeChunk(extent, 2, bytes, sha256(bytes));
      }

      await store.checkFiles(now);

      expect(fixture.lostFiles).to.deep.equal([{ path: OWN_PATH, kind: "cut-short" }]);
      expect((await store.extentState(extent)).kind).to.equal("absent");
    }
  });

  it("leave nothing that looks well to a look and is found bad by a restart, whatever happens to them and when", async () => {
    for (let seed = 1; seed <= 40; seed += 1) {
      const prng = new SeededPrng(seed);
      const fixture = new StoreFixture({ segmentSizeBytesMax: SEGMENT_BYTES });
      const store = await fixture.open();
      const lose = (): void => {
        const all = ["log", "extents"].flatMap((folder) => fixture.disk.filesBelow(`/chunks/${folder}`));
        const paths = all.filter((each) => each.endsWith(".seg"));
        if (paths.length === 0) return;
        const path = paths[prng.below(paths.length)] ?? "";
        const bytes = fixture.disk.contentOf(path);
        const way = prng.below(3);
        if (way === 0) fixture.disk.lose(path);
        else if (way === 1) fixture.disk.cut(path, prng.below(bytes.length + 1));
        else fixture.disk.replace(path, bytes.fill(0, prng.below(bytes.length + 1)));
      };
      for (let step = 0; step < 60; step += 1) {
        const contentId = 1 + prng.below(40);
        const choice = prng.below(20);
        // What is damaged may refuse.
        if (choice < 12) await putSmall(store, contentId).catch(() => undefined);
        else if (choice < 15) await store.removeExtent(extentKey(contentId));
        else if (choice < 17) await sealOwn(store, 41 + prng.below(4)).catch(() => undefined);
        else if (choice < 18) await store.compact(now).catch(() => undefined);
        else if (step > 20) lose();
      }
      await store.checkFiles(now);
      const sealed: number[] = [];
      for (let contentId = 1; contentId <= 44; contentId += 1) {
        if ((await store.extentState(extentKey(contentId))).kind === "sealed") sealed.push(contentId);
      }
      fixture.disk.kill();
      const after = await fixture.open();
      const whole = new Set(await wholeOf(after, 44));
      expect(
        sealed.filter((contentId) => !whole.has(contentId)),
        `seed ${seed}`,
      ).to.deep.equal([]);
      expect(fixture.fatal, `seed ${seed}`).to.deep.equal([]);
    }
  });

  it("do not keep the next process from starting when a segment has got the file of another one", async () => {
    // The second one is closed, the third one the last.
    for (const victim of [2, 3]) {
      for (const isIndexLost of [false, true]) {
        const { fixture, store } = await setUp();
        fixture.disk.replace(logPath(victim), fixture.disk.contentOf(logPath(1)));
        expect(await wholeOf(store, COUNT), "open files go on").to.have.length(COUNT);
        fixture.crash(new SeededPrng(17));
        if (isIndexLost) await fixture.loseIndex();

        const after = await fixture.open();

        const lost =
          victim === 2 ? range(PER_SEGMENT + 1, 2 * PER_SEGMENT) : range(2 * PER_SEGMENT + 1, COUNT);
        const whole = await wholeOf(after, COUNT);
        expect(range(1, COUNT).filter((contentId) => !whole.includes(contentId))).to.deep.equal(lost);
        for (const contentId of lost) {
          await after.removeExtent(extentKey(contentId));
          await putSmall(after, contentId);
        }
        for (let result = await after.compact(now); result !== undefined; result = await after.compact(now));
        fixture.faults.length = 0;
        fixture.crash(new SeededPrng(18));
        expect(await wholeOf(await fixture.open(), COUNT)).to.have.length(COUNT);
        expect(fixture.faults).to.deep.equal([]);
        expect(fixture.fatal).to.deep.equal([]);
      }
    }
  });

  it("do not keep compaction from the others, and go from the log once nothing in them counts", async () => {
    const { fixture, store } = await setUp();
    fixture.disk.lose(logPath(1));
    await store.checkFiles(now);
    for (const contentId of range(PER_SEGMENT + 1, PER_SEGMENT + 15))
      await store.removeExtent(extentKey(contentId));
    const compact = async (): Promise<void> => {
      for (let result = await store.compact(now); result !== undefined; result = await store.compact(now));
    };
    const before = fixture.disk.usedBytes;
    await compact();
    expect(fixture.disk.usedBytes, "while copies in them wait for repair").to.be.below(before);
    await repair(store, COUNT);
    await compact();

    fixture.crash(new SeededPrng(13));
    const after = await fixture.open();
    expect(fixture.faults).to.deep.equal([]);
    expect(await wholeOf(after, COUNT)).to.deep.equal([
      ...range(1, PER_SEGMENT),
      ...range(PER_SEGMENT + 16, COUNT),
    ]);
  });

  it("are never seen where the store itself makes and removes files meanwhile", async () => {
    for (let seed = 1; seed <= 5; seed += 1) {
      const prng = new SeededPrng(seed);
      const fixture = new StoreFixture({ segmentSizeBytesMax: SEGMENT_BYTES });
      const store = await fixture.open();
      let isOver = false;
      const look = async (): Promise<void> => {
        while (!isOver) await store.checkFiles(now);
      };
      const work = async (): Promise<void> => {
        for (let step = 0; step < 60; step += 1) {
          const contentId = 1 + prng.below(40);
          if (prng.below(3) === 0) await store.removeExtent(extentKey(contentId));
          else await putSmall(store, contentId);
          if (prng.below(10) === 0) await store.compact(now);
          if (prng.below(15) === 0) {
            await seal(store, await write(store, "own")).catch(() => undefined);
            await store.removeExtent(extentKey(100));
          }
        }
      };
      const looking = look();
      await work();
      isOver = true;
      await looking;
      expect(fixture.lostFiles, `seed ${seed}`).to.deep.equal([]);
      expect(fixture.damage, `seed ${seed}`).to.deep.equal([]);
    }
  });
});
