/**
 * What the chunk stores of a lost cluster hold, content by content, and the snapshots of the tree among it.
 *
 * Reads the stores in the order of their keys and keeps nothing but snapshots, so memory does not grow with what they hold.
 */
import type { ChunkStore } from "../chunks/chunk-store.ts";
import {
  chunkCount,
  chunkSizeBytes,
  extentCount,
  extentSizeBytes,
  type ExtentKey,
  type Manifest,
} from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import type { FoundCopy } from "../metadata/rebuild.ts";
import { must } from "../std/assert.ts";
import { bytesEqual } from "../std/bytes.ts";
import type { Digester } from "../std/digest.ts";
import type { Disk } from "../std/disk.ts";

const PAGE_COUNT = 1000;

/** A snapshot of the tree that was found; whether it is whole shows when it is read. */
export interface FoundSnapshot {
  readonly contentId: number;
  readonly clusterId: string;
  readonly index: number;
  readonly sizeBytes: number;
  readonly madeTimeMs: number;
}

/** A content by what the stores have of it. */
export interface ListedContent {
  readonly contentId: number;
  /** Ascending. */
  readonly extentIndexes: readonly number[];
}

/** All contents in any of the stores, ascending. */
export async function* listContents(stores: readonly ChunkStore[]): AsyncGenerator<ListedContent> {
  const sources = stores.map((store) => extentsOf(store)[Symbol.asyncIterator]());
  const heads = await Promise.all(sources.map((source) => source.next()));
  for (;;) {
    const ids = heads.flatMap((head) => (head.done === true ? [] : [head.value.contentId]));
    if (ids.length === 0) return;
    const contentId = Math.min(...ids);
    const indexes = new Set<number>();
    for (const [at, source] of sources.entries()) {
      for (;;) {
        const head = must(heads[at], "a head for each store");
        if (head.done === true || head.value.contentId !== contentId) break;
        indexes.add(head.value.extentIndex);
        heads[at] = await source.next();
      }
    }
    yield { contentId, extentIndexes: [...indexes].sort((a, b) => a - b) };
  }
}

async function* extentsOf(store: ChunkStore): AsyncGenerator<ExtentKey> {
  let after: ExtentKey | undefined;
  for (;;) {
    const page = await store.listExtents(after, PAGE_COUNT);
    yield* page;
    after = page.at(-1);
    if (after === undefined) return;
  }
}

/** The first manifest of an extent that can be read; undefined when there is none. */
export async function findManifest(
  stores: readonly ChunkStore[],
  extent: ExtentKey,
): Promise<Manifest | undefined> {
  for (const store of stores) {
    try {
      return await store.manifest(extent);
    } catch (error) {
      if (!hasReason(error, "CHUNK_NOT_FOUND", "CHUNK_CORRUPT")) throw error;
    }
  }
  return undefined;
}

/** What each store says of an extent; those that do not have it, or only began it, are left out. */
export async function findCopies(
  stores: readonly ChunkStore[],
  extent: ExtentKey,
): Promise<readonly FoundCopy[]> {
  const copies: FoundCopy[] = [];
  for (const store of stores) {
    const { memberId } = store;
    const state = await store.extentState(extent);
    if (state.kind === "sealed") {
      copies.push({ memberId, state: "sealed", sizeBytes: state.sizeBytes, root: state.root });
    } else if (state.kind === "quarantined") {
      copies.push({ memberId, state: "damaged", sizeBytes: state.sizeBytes, root: new Uint8Array(0) });
    }
  }
  return copies;
}

/** Reads a snapshot into a new file. @throws DriveError CHUNK_LOST when no store has some chunk of it whole */
export async function readSnapshot(
  snapshot: FoundSnapshot,
  stores: readonly ChunkStore[],
  to: { readonly disk: Disk; readonly path: string; readonly digester: Digester },
): Promise<void> {
  const { contentId, sizeBytes } = snapshot;
  await to.disk.remove(to.path);
  const file = await to.disk.open(to.path, "create");
  try {
    let at = 0;
    for (let extentIndex = 0; extentIndex < extentCount(sizeBytes); extentIndex += 1) {
      const extent = { contentId, extentIndex };
      const size = extentSizeBytes(sizeBytes, extentIndex);
      const manifest = await findManifest(stores, extent);
      if (manifest?.sizeBytes !== size) throw lost(snapshot);
      for (let index = 0; index < chunkCount(size); index += 1) {
        const digest = must(manifest.chunkDigests[index], "a digest for each chunk");
        const bytes = await readChunk(
          stores,
          extent,
          { index, sizeBytes: chunkSizeBytes(size, index), digest },
          to.digester,
        );
        if (bytes === undefined) throw lost(snapshot);
        await file.write(at, [bytes]);
        at += bytes.length;
      }
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

async function readChunk(
  stores: readonly ChunkStore[],
  extent: ExtentKey,
  chunk: { readonly index: number; readonly sizeBytes: number; readonly digest: Uint8Array },
  digester: Digester,
): Promise<Uint8Array | undefined> {
  for (const store of stores) {
    try {
      const bytes = await store.readChunk(extent, chunk.index, 0, chunk.sizeBytes);
      if (bytesEqual(await digester.sha256(bytes), chunk.digest)) return bytes;
    } catch (error) {
      if (!hasReason(error, "CHUNK_NOT_FOUND", "CHUNK_CORRUPT", "RANGE_NOT_SATISFIABLE")) throw error;
    }
  }
  return undefined;
}

function lost({ contentId, index }: FoundSnapshot): DriveError {
  return new DriveError(
    "CHUNK_LOST",
    `The snapshot of index ${index} is not whole in the chunk stores given.`,
    {
      content_id: String(contentId),
    },
  );
}
