/**
 * Verified reads: finds where a chunk lies, reads it from the log or from the extent's own segment, and checks checksum and
 * identity of every byte before handing it out.
 *
 * Says only what it found: absent is CHUNK_NOT_FOUND, damage is a DamageError for the store to act on. Changes nothing.
 */
import { chunkCount, chunkSizeBytes, type ExtentKey } from "../drive/content.ts";
import { hasReason } from "../drive/errors.ts";
import { bytesEqual } from "../std/bytes.ts";
import { foldTreeHash } from "../std/digest.ts";
import { errnoOf } from "../std/disk.ts";
import { must } from "../std/assert.ts";
import { comparePositions, recordSizeBytes, type RecordLocation } from "../segments/record.ts";
import type { RecordPart } from "../segments/record-reader.ts";
import {
  CHUNK_HEAD_SIZE_BYTES,
  decodeChunkHead,
  decodeManifestEntry,
  decodeSealHead,
  extentName,
  KIND_CHUNK,
  KIND_MANIFEST,
  KIND_MOVED_MANIFEST,
  KIND_MOVED_SMALL,
  KIND_SMALL,
  MANIFEST_ENTRY_SIZE_BYTES,
  sameExtent,
  type ManifestHead,
} from "./chunk-codec.ts";
import type { SealedExtent } from "./index-codec.ts";
import type { OpenChunk } from "./open-extent.ts";
import type { OwnSegments } from "./own-segments.ts";
import type { StoreLog } from "./store-log.ts";

/** Manifests kept in memory, of at most 40 KiB each. */
const MANIFEST_CACHE_COUNT = 256;

/** Stored bytes are not what was stored. Never leaves the store: it becomes CHUNK_CORRUPT. */
export class DamageError extends Error {
  override readonly name = "DamageError";
  /** The damaged chunks; undefined when the manifest itself is damaged, and with it all of them. */
  readonly chunkIndex: number | undefined;

  constructor(chunkIndex: number | undefined, message: string, cause?: unknown) {
    super(message, { cause });
    this.chunkIndex = chunkIndex;
  }
}

/** A manifest as it is cached. */
export interface LoadedManifest {
  /** Where the record lies. */
  readonly location: RecordLocation;
  readonly head: ManifestHead;
  /** Digests and places of the chunks; see decodeManifestEntry(). */
  readonly body: Uint8Array;
}

/** A chunk and where it lies. */
export interface PlacedChunk {
  readonly extent: ExtentKey;
  readonly chunkIndex: number;
  readonly digest: Uint8Array;
  readonly sizeBytes: number;
  readonly location: RecordLocation;
  readonly headSizeBytes: number;
  readonly kind: number;
  /** Whether it lies in the extent's own segment rather than in the log. */
  readonly own: boolean;
}

/** Reads of one store. */
export class ChunkReader {
  readonly #log: StoreLog;
  readonly #own: OwnSegments;
  /** By extent; least recently used first. */
  readonly #manifests = new Map<string, LoadedManifest>();

  constructor(log: StoreLog, own: OwnSegments) {
    this.#log = log;
    this.#own = own;
  }

  /** A chunk of an open extent. */
  placeOpen(extent: ExtentKey, chunkIndex: number, chunk: OpenChunk, own: boolean): PlacedChunk {
    const { digest, sizeBytes, location } = chunk;
    const headSizeBytes = CHUNK_HEAD_SIZE_BYTES;
    return { extent, chunkIndex, digest, sizeBytes, location, headSizeBytes, kind: KIND_CHUNK, own };
  }

  /** A chunk of a sealed extent; undefined beyond its end. Errors: DamageError for the manifest. */
  async placeSealed(
    extent: ExtentKey,
    sealed: SealedExtent,
    chunkIndex: number,
  ): Promise<PlacedChunk | undefined> {
    if (chunkIndex >= chunkCount(sealed.sizeBytes)) return undefined;
    if (sealed.small) {
      const { root, sizeBytes, location, headSizeBytes } = sealed;
      return {
        extent,
        chunkIndex,
        digest: root,
        sizeBytes,
        location,
        headSizeBytes,
        kind: sealed.moved ? KIND_MOVED_SMALL : KIND_SMALL,
        own: false,
      };
    }
    const { body } = await this.manifest(extent, sealed);
    const { digest, segmentId, offset } = decodeManifestEntry(body, chunkIndex);
    const sizeBytes = chunkSizeBytes(sealed.sizeBytes, chunkIndex);
    const headSizeBytes = CHUNK_HEAD_SIZE_BYTES;
    return {
      extent,
      chunkIndex,
      digest,
      sizeBytes,
      location: { segmentId, offset, sizeBytes: recordSizeBytes(headSizeBytes, sizeBytes) },
      headSizeBytes,
      kind: KIND_CHUNK,
      own: sealed.ownSegmentId !== 0,
    };
  }

  /** The manifest of a sealed extent that is not a small one. Errors: DamageError. */
  async manifest(extent: ExtentKey, sealed: SealedExtent): Promise<LoadedManifest> {
    const name = extentName(extent);
    const cached = this.#manifests.get(name);
    // One that was read while compaction moved the extent names places that are gone.
    if (cached !== undefined && comparePositions(cached.location, sealed.location) === 0) {
      this.#manifests.delete(name);
      this.#manifests.set(name, cached);
      return cached;
    }
    const loaded = await this.#loadManifest(extent, sealed);
    this.#manifests.set(name, loaded);
    for (const oldest of this.#manifests.keys()) {
      if (this.#manifests.size <= MANIFEST_CACHE_COUNT) break;
      this.#manifests.delete(oldest);
    }
    return loaded;
  }

  /** Head of the record that sealed an extent, small or not. Errors: DamageError. */
  async sealHead(extent: ExtentKey, sealed: SealedExtent): Promise<ManifestHead> {
    if (!sealed.small) return (await this.manifest(extent, sealed)).head;
    const part = {
      headSizeBytes: sealed.headSizeBytes,
      bodySizeBytes: sealed.bodySizeBytes,
      offset: 0,
      length: 0,
    };
    const { kind, head } = await damaging(undefined, () => this.#log.readPart(sealed.location, part));
    return decodeSealHead(kind, head);
  }

  /** The digests of the chunks of a sealed extent, as its manifest has them. Errors: DamageError for the manifest. */
  async digests(extent: ExtentKey, sealed: SealedExtent): Promise<readonly Uint8Array[]> {
    if (sealed.small) return [sealed.root];
    const { body } = await this.manifest(extent, sealed);
    return Array.from({ length: chunkCount(sealed.sizeBytes) }, (_, i) =>
      Uint8Array.from(decodeManifestEntry(body, i).digest),
    );
  }

  /** As digests(), checked to fold into the root. Errors: DamageError for the manifest. */
  async checkedDigests(extent: ExtentKey, sealed: SealedExtent): Promise<readonly Uint8Array[]> {
    const digests = await this.digests(extent, sealed);
    if (bytesEqual(foldTreeHash(digests), sealed.root)) return digests;
    throw new DamageError(undefined, "the digests of the manifest do not fold into its root");
  }

  /** Forgets what is cached of an extent. */
  forget(extent: ExtentKey): void {
    this.#manifests.delete(extentName(extent));
  }

  /** Reads `length` bytes at `offset` of a chunk. Errors: DamageError; INTERNAL. */
  async read(chunk: PlacedChunk, offset: number, length: number): Promise<Uint8Array> {
    const { extent, chunkIndex, location, headSizeBytes, sizeBytes, own } = chunk;
    const part = { headSizeBytes, bodySizeBytes: sizeBytes, offset, length };
    const found = await damaging(chunkIndex, () =>
      own ? this.#own.readPart(extent, location, part) : this.#log.readPart(location, part),
    );
    if (!isChunk(found, chunk))
      throw new DamageError(chunkIndex, "another record lies in the place of the chunk");
    return found.bytes;
  }

  async #loadManifest(extent: ExtentKey, sealed: SealedExtent): Promise<LoadedManifest> {
    const { headSizeBytes, bodySizeBytes, location } = sealed;
    const part = { headSizeBytes, bodySizeBytes, offset: 0, length: bodySizeBytes };
    const found = await damaging(undefined, () => this.#log.readPart(location, part));
    const isManifest = found.kind === (sealed.moved ? KIND_MOVED_MANIFEST : KIND_MANIFEST);
    if (!isManifest) throw new DamageError(undefined, "another record lies in the place of the manifest");
    const head = decodeSealHead(found.kind, found.head);
    const whole = bodySizeBytes === chunkCount(sealed.sizeBytes) * MANIFEST_ENTRY_SIZE_BYTES;
    if (!sameExtent(head.extent, extent) || !whole) {
      throw new DamageError(undefined, "another record lies in the place of the manifest");
    }
    return { location, head, body: found.bytes };
  }
}

function isChunk(found: RecordPart, chunk: PlacedChunk): boolean {
  if (found.kind !== chunk.kind) return false;
  if (chunk.kind === KIND_SMALL || chunk.kind === KIND_MOVED_SMALL) {
    const head = decodeSealHead(found.kind, found.head);
    return sameExtent(head.extent, chunk.extent) && bytesEqual(head.root, chunk.digest);
  }
  const head = decodeChunkHead(found.head);
  const sameChunk = sameExtent(head.extent, chunk.extent) && head.chunkIndex === chunk.chunkIndex;
  return sameChunk && bytesEqual(head.digest, chunk.digest);
}

/** Turns what a disk says about damaged or lost bytes into a DamageError; anything else goes on as it is. */
async function damaging<T>(chunkIndex: number | undefined, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    const code = errnoOf(error);
    if (!hasReason(error, "DATA_CORRUPT") && code !== "EIO" && code !== "ENOENT") throw error;
    throw new DamageError(
      chunkIndex,
      must(error, "it was thrown") instanceof Error ? String(error) : "damage",
      error,
    );
  }
}

/** Whether an extent is still sealed by the same record. */
export function isSameSeal(a: SealedExtent, b: SealedExtent | undefined): boolean {
  return b !== undefined && comparePositions(a.location, b.location) === 0;
}
