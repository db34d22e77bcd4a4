/**
 * Micro benchmark of the chunk store and of group commit, on the disk of the machine with fdatasync, beside what the disk
 * itself does in the same run. Run: node --import tsx bench/segments.ts [directory]
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DiskChunkStore } from "../src/chunks/disk-chunk-store.ts";
import { CHUNK_SIZE_BYTES } from "../src/drive/limits.ts";
import { SystemClock } from "../src/std/clock.ts";
import { sha256, threadPoolDigester } from "../src/std/digest.ts";
import { LmdbOrderedStoreProvider } from "../src/std/lmdb-ordered-store.ts";
import { SystemPrng } from "../src/std/prng.ts";
import { SystemDisk } from "../src/std/system-disk.ts";

const SMALL_SIZE_BYTES = 4096;
const SMALL_COUNT = 30_000;
const WRITER_COUNT = 64;
const LARGE_CHUNK_COUNT = 512;
const CHUNKS_IN_FLIGHT = 8;
const ORIGIN = { clusterId: "bench", entryId: 1, commitIndex: 1 };

const clock = new SystemClock();

async function timed(work: () => Promise<void>): Promise<number> {
  const start = clock.monotonicMs();
  await work();
  return (clock.monotonicMs() - start) / 1000;
}

/** Runs `count` jobs, `width` at a time. */
async function parallel(count: number, width: number, job: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let i = next++; i < count; i = next++) await job(i);
  };
  await Promise.all(Array.from({ length: width }, lane));
}

async function rawWrite(directory: string, bytes: Uint8Array): Promise<number> {
  const file = await new SystemDisk().open(join(directory, "raw"), "create");
  const seconds = await timed(async () => {
    for (let i = 0; i < LARGE_CHUNK_COUNT; i += 1) await file.write(i * bytes.length, [bytes]);
    await file.sync();
  });
  await file.close();
  return seconds;
}

async function main(): Promise<void> {
  const root = await mkdtemp(join(process.argv[2] ?? tmpdir(), "bench-segments-"));
  const fail = (...what: readonly unknown[]): void => {
    throw new Error(String(what));
  };
  const index = await new LmdbOrderedStoreProvider({ directory: join(root, "index"), clock }).open("chunks");
  const store = await DiskChunkStore.open({
    disk: new SystemDisk(),
    clock,
    prng: new SystemPrng(),
    digester: threadPoolDigester,
    directory: join(root, "chunks"),
    index,
    memberId: 1,
    onFatal: fail,
    onDamage: fail,
    onFault: fail,
    onTrouble: fail,
  });
  const print = (what: string, figure: string): void => console.log(`${what.padEnd(52)} ${figure}`);
  print("disk, fsync", "fdatasync, one copy");

  const small = new SystemPrng().bytes(SMALL_SIZE_BYTES);
  const digest = sha256(small);
  const syncsBefore = store.syncCount;
  const smallSeconds = await timed(() =>
    parallel(SMALL_COUNT, WRITER_COUNT, async (i) => {
      const extent = { contentId: i + 1, extentIndex: 0 };
      await store.putSmall({ extent, bytes: small, digest, origin: ORIGIN });
    }),
  );
  const perSync = SMALL_COUNT / (store.syncCount - syncsBefore);
  print(
    `putSmall 4 KiB, ${WRITER_COUNT} writers`,
    `${Math.round(SMALL_COUNT / smallSeconds)}/s, ${perSync.toFixed(1)} a sync`,
  );

  const chunk = new SystemPrng().bytes(CHUNK_SIZE_BYTES);
  const chunkDigest = sha256(chunk);
  const mib = (seconds: number): string => `${Math.round(LARGE_CHUNK_COUNT / seconds)} MiB/s`;
  print("raw write and fdatasync, 512 MiB", mib(await rawWrite(root, chunk)));
  const extent = { contentId: 1_000_000, extentIndex: 0 };
  const sizeBytes = LARGE_CHUNK_COUNT * CHUNK_SIZE_BYTES;
  let sealSeconds = 0;
  const writeSeconds = await timed(async () => {
    await store.openExtent(extent, sizeBytes);
    await parallel(LARGE_CHUNK_COUNT, CHUNKS_IN_FLIGHT, (i) =>
      store.writeChunk(extent, i, chunk, chunkDigest),
    );
    sealSeconds = await timed(
      async () => void (await store.sealExtent({ extent, sizeBytes, origin: ORIGIN })),
    );
  });
  print("writeChunk and seal, 512 MiB", `${mib(writeSeconds)}, seal ${(sealSeconds * 1000).toFixed(1)} ms`);

  const readSeconds = await timed(() =>
    parallel(LARGE_CHUNK_COUNT, 2, async (i) => {
      await store.readChunk(extent, i, 0, CHUNK_SIZE_BYTES);
    }),
  );
  print("readChunk 1 MiB, verified, from the page cache", mib(readSeconds));
  const smallReads = await timed(() =>
    parallel(SMALL_COUNT, 8, async (i) => {
      await store.readChunk({ contentId: i + 1, extentIndex: 0 }, 0, 0, SMALL_SIZE_BYTES);
    }),
  );
  print("readChunk 4 KiB, verified, from the page cache", `${Math.round(SMALL_COUNT / smallReads)}/s`);

  await store.close();
  await index.close();
  await rm(root, { recursive: true, force: true });
}

await main();
