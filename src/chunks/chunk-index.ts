/**
 * The index of the chunk store: what the records of the log mean, kept in an ordered store and rebuildable from the log.
 *
 * apply() is the one place that gives records their meaning, in the order of the log, whether they were just committed or are
 * being replayed: so an index that was rebuilt equals the one that was kept. It reflects durable records only, and holds in
 * the same transaction the position up to which it does. Reads no segment.
 *
 *   m                          -> figures and the checkpoint
 *   e contentId extentIndex    -> a sealed extent
 *   c contentId extentIndex i  -> a chunk, in the log, of an extent that is not sealed
 *   s segmentId                -> live bytes and tombstones in a segment of the log
 *   d ownSegmentId             -> the sealed extent that has this segment of its own
 *   u ownSegmentId             -> a segment of a removed extent, to be unlinked
 */
import type { ExtentKey } from "../drive/content.ts";
import { chunkCount } from "../drive/content.ts";
import { assert } from "../std/assert.ts";
import { asBuffer, bytesEqual } from "../std/bytes.ts";
import type { OrderedReader, OrderedStore, OrderedTransaction } from "../std/ordered-store.ts";
import type { RecordLocation } from "../segments/record.ts";
import type { Cursor } from "../segments/recover-log.ts";
import {
  decodeChunkHead,
  decodeManifestHead,
  decodeSealHead,
  decodeShares,
  decodeTombstoneHead,
  extentName,
  KIND_CHUNK,
  KIND_MANIFEST,
  KIND_MOVED_MANIFEST,
  KIND_MOVED_SMALL,
  KIND_SMALL,
  KIND_TOMBSTONE,
  type ManifestHead,
} from "./chunk-codec.ts";
import {
  decodeChunk,
  decodeSealed,
  encodeChunk,
  encodeSealed,
  type IndexedChunk,
  type SealedExtent,
} from "./index-codec.ts";

/** Version of the index: another one is dropped and rebuilt. */
const INDEX_VERSION = 2;

/** Records cleared per transaction before a rebuild. */
const CLEAR_COUNT = 1000;

const LAST_KEY = Buffer.from([0xff]);
const META_KEY = Buffer.from("m");

/** What apply() needs to know of a record. */
export interface IndexedRecord {
  readonly kind: number;
  readonly location: RecordLocation;
  readonly head: Uint8Array;
  readonly bodySizeBytes: number;
  /** Whether the body failed its checksum: the record counts, its bytes do not. */
  readonly damaged: boolean;
}

/** Figures and the checkpoint. */
export interface IndexMeta {
  readonly storeIncarnation: string;
  /** Everything in the log before this is in the index; undefined before the first record. */
  readonly checkpoint: Cursor | undefined;
  /** No segment of one extent has had this id or a greater one. */
  readonly nextOwnSegmentId: number;
  readonly extentCount: number;
  readonly quarantinedExtentCount: number;
  readonly liveBytes: number;
  /** Of these, bytes of sealed extents in segments of their own. */
  readonly ownBytes: number;
  /** Segments of the log with records that could not be read when they were to be entered here, ascending. Absent: none. */
  readonly unreadSegmentIds?: readonly number[];
}

function key(prefix: string, extent: ExtentKey, chunkIndex?: number): Buffer {
  const bytes = Buffer.alloc(chunkIndex === undefined ? 13 : 17);
  bytes.write(prefix, 0, "latin1");
  bytes.writeBigUInt64BE(BigInt(extent.contentId), 1);
  bytes.writeUInt32BE(extent.extentIndex, 9);
  if (chunkIndex !== undefined) bytes.writeUInt32BE(chunkIndex, 13);
  return bytes;
}

function segmentKey(prefix: string, segmentId: number): Buffer {
  const bytes = Buffer.alloc(5);
  bytes.write(prefix, 0, "latin1");
  bytes.writeUInt32BE(segmentId, 1);
  return bytes;
}

function extentOfKey(bytes: Uint8Array): ExtentKey {
  const buffer = asBuffer(bytes);
  return { contentId: Number(buffer.readBigUInt64BE(1)), extentIndex: buffer.readUInt32BE(9) };
}

function prefixRange(prefix: string): { readonly from: Buffer; readonly to: Buffer } {
  return { from: Buffer.from(prefix), to: Buffer.from([prefix.charCodeAt(0) + 1]) };
}

function encodeMeta(meta: IndexMeta): Uint8Array {
  return Buffer.from(JSON.stringify({ version: INDEX_VERSION, ...meta }));
}

function decodeMeta(value: Uint8Array | undefined): IndexMeta | undefined {
  if (value === undefined) return undefined;
  const { version, ...meta } = JSON.parse(asBuffer(value).toString("utf8")) as IndexMeta & {
    version: number;
  };
  return version === INDEX_VERSION ? meta : undefined;
}

/** Live bytes and tombstones of a segment of the log. */
export interface SegmentUse {
  readonly liveBytes: number;
  readonly tombstoneCount: number;
}

function getUse(reader: OrderedReader, segmentId: number): SegmentUse {
  const value = reader.get(segmentKey("s", segmentId));
  if (value === undefined) return { liveBytes: 0, tombstoneCount: 0 };
  const bytes = asBuffer(value);
  return { liveBytes: bytes.readDoubleLE(0), tombstoneCount: bytes.readUInt32LE(8) };
}

/** The index over an ordered store that it has to itself. */
export class ChunkIndex {
  readonly #store: OrderedStore;
  #meta: IndexMeta;
  /** All extents that have open chunks, and perhaps some more: spares small extents, which have none, the search. */
  readonly #openExtents: Set<string>;
  /** Extents that lost their open chunks in the transaction under way. */
  readonly #closedExtents = new Set<string>();
  /** Segments of the log whose live bytes fell to zero since they were last looked at; a hint, to be checked. */
  readonly emptiedSegments = new Set<number>();

  private constructor(store: OrderedStore, meta: IndexMeta) {
    this.#store = store;
    this.#meta = meta;
    this.#openExtents = new Set(this.openChunks().map(({ extent }) => extentName(extent)));
  }

  /** Opens the index of a store; what belongs to another one, or to another version, is dropped to be rebuilt. */
  static open(store: OrderedStore, storeIncarnation: string): ChunkIndex {
    const found = decodeMeta(store.get(META_KEY));
    if (found !== undefined && found.storeIncarnation === storeIncarnation)
      return new ChunkIndex(store, found);
    return ChunkIndex.anew(store, storeIncarnation);
  }

  /** An empty index, to be rebuilt, in the place of whatever is in `store`. */
  static anew(store: OrderedStore, storeIncarnation: string): ChunkIndex {
    for (;;) {
      const records = [...store.range({ from: Buffer.from([0]), to: LAST_KEY, countMax: CLEAR_COUNT })];
      if (records.length === 0) break;
      store.transaction((transaction) => {
        for (const record of records) transaction.delete(record.key);
      });
    }
    return new ChunkIndex(store, {
      storeIncarnation,
      checkpoint: undefined,
      nextOwnSegmentId: 1,
      extentCount: 0,
      quarantinedExtentCount: 0,
      liveBytes: 0,
      ownBytes: 0,
    });
  }

  /** Figures and the checkpoint now. */
  get meta(): IndexMeta {
    return this.#meta;
  }

  /** Keeps in mind that records of these segments are not in the index; with the next apply() for as long as the index is. */
  noteUnread(segmentIds: Iterable<number>): void {
    const all = new Set([...(this.#meta.unreadSegmentIds ?? []), ...segmentIds]);
    if (all.size > 0) this.#meta = { ...this.#meta, unreadSegmentIds: [...all].sort((a, b) => a - b) };
  }

  /** Whether a segment has records that are not in the index: whatever it says of the segment is too little. */
  isUnread(segmentId: number): boolean {
    return this.#meta.unreadSegmentIds?.includes(segmentId) === true;
  }

  /** Applies records in the order of the log, and moves the checkpoint behind them, in one transaction. */
  apply(records: readonly IndexedRecord[], checkpoint: Cursor | undefined): void {
    const before = this.#meta;
    this.#closedExtents.clear();
    try {
      this.#store.transaction((transaction) => {
        for (const record of records) this.#applyRecord(transaction, record);
        if (checkpoint !== undefined) this.#meta = { ...this.#meta, checkpoint };
        transaction.put(META_KEY, encodeMeta(this.#meta));
      });
    } catch (error) {
      this.#meta = before;
      throw error;
    }
    for (const name of this.#closedExtents) this.#openExtents.delete(name);
  }

  /** Makes everything applied so far durable. A rejection is final. */
  flush(): Promise<void> {
    return this.#store.flush();
  }

  findSealed(extent: ExtentKey): SealedExtent | undefined {
    const value = this.#store.get(key("e", extent));
    return value === undefined ? undefined : decodeSealed(value);
  }

  /** Records that chunks of a sealed extent are damaged; returns whether that was news. */
  markDamaged(extent: ExtentKey, chunkIndexes: readonly number[]): boolean {
    const sealed = this.findSealed(extent);
    if (sealed === undefined) return false;
    const damaged = new Set([...sealed.damagedChunks, ...chunkIndexes]);
    if (damaged.size === sealed.damagedChunks.length) return false;
    const damagedChunks = [...damaged].sort((a, b) => a - b);
    if (sealed.damagedChunks.length === 0) this.#count(0, 1, 0);
    this.#store.transaction((transaction) => {
      transaction.put(key("e", extent), encodeSealed({ ...sealed, damagedChunks }));
      transaction.put(META_KEY, encodeMeta(this.#meta));
    });
    return true;
  }

  /**
   * Forgets all damage of a sealed extent: manifest and chunks were just read well.
   * @param uses bytes by segment of the log as the manifest has them: a rebuild over damage counted less
   */
  clearDamage(extent: ExtentKey, uses: SealedExtent["uses"]): void {
    const sealed = this.findSealed(extent);
    if (sealed === undefined || sealed.damagedChunks.length === 0) return;
    const before = this.#meta;
    try {
      this.#count(0, -1, 0);
      this.#store.transaction((transaction) => {
        for (const use of uses) this.#addUse(transaction, use.segmentId, use.sizeBytes);
        for (const use of sealed.uses) this.#addUse(transaction, use.segmentId, -use.sizeBytes);
        transaction.put(key("e", extent), encodeSealed({ ...sealed, uses, damagedChunks: [] }));
        transaction.put(META_KEY, encodeMeta(this.#meta));
      });
    } catch (error) {
      this.#meta = before;
      throw error;
    }
  }

  /** Keys of sealed extents greater than `after`, ascending, at most `countMax`. */
  listSealed(after: ExtentKey | undefined, countMax: number): ExtentKey[] {
    const { from, to } = prefixRange("e");
    const start = after === undefined ? from : Buffer.concat([key("e", after), Buffer.from([0])]);
    return [...this.#store.range({ from: start, to, countMax })].map((record) => extentOfKey(record.key));
  }

  /** All chunks in the log of extents that are not sealed, by extent. */
  openChunks(): { readonly extent: ExtentKey; readonly chunkIndex: number; readonly chunk: IndexedChunk }[] {
    return [...this.#store.range(prefixRange("c"))].map((record) => ({
      extent: extentOfKey(record.key),
      chunkIndex: asBuffer(record.key).readUInt32BE(13),
      chunk: decodeChunk(record.value),
    }));
  }

  /** Segments of one extent each that sealed extents have, with their extent: from an id on, ascending, at most `countMax`. */
  ownSegments(
    fromId = 0,
    countMax = Number.MAX_SAFE_INTEGER,
  ): { readonly segmentId: number; readonly extent: ExtentKey }[] {
    const { to } = prefixRange("d");
    const records = this.#store.range({ from: segmentKey("d", fromId), to, countMax });
    return [...records].map((record) => ({
      segmentId: asBuffer(record.key).readUInt32BE(1),
      extent: extentOfKey(record.value),
    }));
  }

  /** Segments of removed extents that are still to be unlinked. */
  segmentsToUnlink(): number[] {
    return [...this.#store.range(prefixRange("u"))].map((record) => asBuffer(record.key).readUInt32BE(1));
  }

  /** Forgets that a segment is to be unlinked: it is gone, durably. */
  unlinked(segmentId: number): void {
    this.#store.transaction((transaction) => transaction.delete(segmentKey("u", segmentId)));
  }

  /** Takes an id for a segment of one extent; persisted with the first record that names it. */
  takeOwnSegmentId(): number {
    const id = this.#meta.nextOwnSegmentId;
    this.#meta = { ...this.#meta, nextOwnSegmentId: id + 1 };
    return id;
  }

  /** Makes sure that `segmentId` is never handed out. */
  sawOwnSegmentId(segmentId: number): void {
    if (segmentId < this.#meta.nextOwnSegmentId) return;
    this.#meta = { ...this.#meta, nextOwnSegmentId: segmentId + 1 };
  }

  /** Use of a segment of the log. */
  segmentUse(segmentId: number): SegmentUse {
    return getUse(this.#store, segmentId);
  }

  /** Whether an extent has chunks in the log and no seal. */
  isOpen(extent: ExtentKey): boolean {
    return this.#openExtents.has(extentName(extent));
  }

  /** Forgets the figures of segments that were removed. */
  forgetSegments(segmentIds: readonly number[]): void {
    this.#store.transaction((transaction) => {
      for (const segmentId of segmentIds) transaction.delete(segmentKey("s", segmentId));
    });
  }

  #applyRecord(transaction: OrderedTransaction, record: IndexedRecord): void {
    switch (record.kind) {
      case KIND_CHUNK:
        this.#applyChunk(transaction, record);
        return;
      case KIND_SMALL:
      case KIND_MANIFEST:
        this.#applySealed(transaction, record);
        return;
      case KIND_MOVED_SMALL:
      case KIND_MOVED_MANIFEST:
        this.#applyMoved(transaction, record);
        return;
      case KIND_TOMBSTONE:
        this.#applyTombstone(transaction, record);
        return;
      default:
        assert(false, `a record of unknown kind ${record.kind}`);
    }
  }

  #applyChunk(transaction: OrderedTransaction, record: IndexedRecord): void {
    const { extent, chunkIndex, digest } = decodeChunkHead(record.head);
    // A chunk that lost a race with the seal: nobody was promised it.
    if (record.damaged || transaction.get(key("e", extent)) !== undefined) return;
    this.#openExtents.add(extentName(extent));
    this.#closedExtents.delete(extentName(extent));
    const chunkKey = key("c", extent, chunkIndex);
    const replaced = transaction.get(chunkKey);
    if (replaced !== undefined) {
      const { location } = decodeChunk(replaced);
      this.#addUse(transaction, location.segmentId, -location.sizeBytes);
    }
    const { location, bodySizeBytes } = record;
    transaction.put(chunkKey, encodeChunk({ location, sizeBytes: bodySizeBytes, digest }));
    this.#addUse(transaction, location.segmentId, location.sizeBytes);
  }

  #applySealed(transaction: OrderedTransaction, record: IndexedRecord): void {
    const head = decodeManifestHead(record.head);
    if (transaction.get(key("e", head.extent)) !== undefined) return;
    const small = record.kind === KIND_SMALL;
    const chunks = this.#takeOpenChunks(transaction, head.extent);
    const uses = new Map<number, number>([[record.location.segmentId, record.location.sizeBytes]]);
    const inLog = !small && head.ownSegmentId === 0;
    const count = chunkCount(head.sizeBytes);
    for (const { chunkIndex, location } of chunks) {
      if (inLog && chunkIndex < count) {
        uses.set(location.segmentId, (uses.get(location.segmentId) ?? 0) + location.sizeBytes);
      } else this.#addUse(transaction, location.segmentId, -location.sizeBytes);
    }
    this.#addUse(transaction, record.location.segmentId, record.location.sizeBytes);
    const sealed: SealedExtent = {
      small,
      moved: false,
      sizeBytes: head.sizeBytes,
      root: head.root,
      ownSegmentId: head.ownSegmentId,
      location: record.location,
      headSizeBytes: record.head.length,
      bodySizeBytes: record.bodySizeBytes,
      uses: [...uses].map(([segmentId, sizeBytes]) => ({ segmentId, sizeBytes })),
      damagedChunks: damagedAtSeal(record, head, inLog ? chunks.map((chunk) => chunk.chunkIndex) : undefined),
    };
    transaction.put(key("e", head.extent), encodeSealed(sealed));
    if (head.ownSegmentId !== 0) {
      transaction.put(segmentKey("d", head.ownSegmentId), key("e", head.extent));
      this.sawOwnSegmentId(head.ownSegmentId);
    }
    this.#count(1, sealed.damagedChunks.length > 0 ? 1 : 0, sealed.sizeBytes, ownBytesOf(sealed));
  }

  /** Compaction: the extent is sealed as this record says; whatever was known of it before is given back. */
  #applyMoved(transaction: OrderedTransaction, record: IndexedRecord): void {
    const head = decodeSealHead(record.kind, record.head);
    const small = record.kind === KIND_MOVED_SMALL;
    for (const { location } of this.#takeOpenChunks(transaction, head.extent)) {
      this.#addUse(transaction, location.segmentId, -location.sizeBytes);
    }
    const before = transaction.get(key("e", head.extent));
    if (before !== undefined) this.#forgetSealed(transaction, decodeSealed(before), head.ownSegmentId);
    const uses = new Map<number, number>();
    for (const { segmentId, sizeBytes } of small ? [] : decodeShares(record.head)) {
      uses.set(segmentId, (uses.get(segmentId) ?? 0) + sizeBytes);
    }
    const { segmentId, sizeBytes } = record.location;
    uses.set(segmentId, (uses.get(segmentId) ?? 0) + sizeBytes);
    for (const [id, bytes] of uses) this.#addUse(transaction, id, bytes);
    const sealed: SealedExtent = {
      small,
      moved: true,
      sizeBytes: head.sizeBytes,
      root: head.root,
      ownSegmentId: head.ownSegmentId,
      location: record.location,
      headSizeBytes: record.head.length,
      bodySizeBytes: record.bodySizeBytes,
      uses: [...uses].map(([id, bytes]) => ({ segmentId: id, sizeBytes: bytes })),
      damagedChunks: damagedAtSeal(record, head, undefined),
    };
    transaction.put(key("e", head.extent), encodeSealed(sealed));
    if (head.ownSegmentId !== 0) {
      transaction.put(segmentKey("d", head.ownSegmentId), key("e", head.extent));
      this.sawOwnSegmentId(head.ownSegmentId);
    }
    this.#count(1, sealed.damagedChunks.length > 0 ? 1 : 0, sealed.sizeBytes, ownBytesOf(sealed));
  }

  /** Gives back what a sealed extent uses; its own segment is to be unlinked unless it is `keptSegmentId`. */
  #forgetSealed(transaction: OrderedTransaction, sealed: SealedExtent, keptSegmentId: number): void {
    for (const use of sealed.uses) this.#addUse(transaction, use.segmentId, -use.sizeBytes);
    this.#count(-1, sealed.damagedChunks.length > 0 ? -1 : 0, -sealed.sizeBytes, -ownBytesOf(sealed));
    if (sealed.ownSegmentId === 0 || sealed.ownSegmentId === keptSegmentId) return;
    transaction.delete(segmentKey("d", sealed.ownSegmentId));
    transaction.put(segmentKey("u", sealed.ownSegmentId), new Uint8Array(0));
  }

  #applyTombstone(transaction: OrderedTransaction, record: IndexedRecord): void {
    const { extent, ownSegmentId } = decodeTombstoneHead(record.head);
    for (const { location } of this.#takeOpenChunks(transaction, extent)) {
      this.#addUse(transaction, location.segmentId, -location.sizeBytes);
    }
    const value = transaction.get(key("e", extent));
    if (value !== undefined) {
      const sealed = decodeSealed(value);
      for (const use of sealed.uses) this.#addUse(transaction, use.segmentId, -use.sizeBytes);
      transaction.delete(key("e", extent));
      this.#count(-1, sealed.damagedChunks.length > 0 ? -1 : 0, -sealed.sizeBytes, -ownBytesOf(sealed));
    }
    if (ownSegmentId !== 0) {
      transaction.delete(segmentKey("d", ownSegmentId));
      transaction.put(segmentKey("u", ownSegmentId), new Uint8Array(0));
      this.sawOwnSegmentId(ownSegmentId);
    }
    this.#addUse(transaction, record.location.segmentId, 0, 1);
  }

  /** Removes the open chunks of an extent from the index and returns them. */
  #takeOpenChunks(
    transaction: OrderedTransaction,
    extent: ExtentKey,
  ): { readonly chunkIndex: number; readonly location: RecordLocation }[] {
    if (!this.#openExtents.has(extentName(extent))) return [];
    this.#closedExtents.add(extentName(extent));
    const from = key("c", extent);
    const records = [...transaction.range({ from, to: Buffer.concat([from, Buffer.alloc(5, 0xff)]) })];
    return records.map((record) => {
      transaction.delete(record.key);
      const chunkIndex = asBuffer(record.key).readUInt32BE(13);
      return { chunkIndex, location: decodeChunk(record.value).location };
    });
  }

  #addUse(transaction: OrderedTransaction, segmentId: number, bytes: number, tombstones = 0): void {
    const use = getUse(transaction, segmentId);
    const liveBytes = use.liveBytes + bytes;
    const tombstoneCount = use.tombstoneCount + tombstones;
    assert(liveBytes >= 0, `segment ${segmentId} has ${liveBytes} live bytes`);
    const value = Buffer.alloc(12);
    value.writeDoubleLE(liveBytes, 0);
    value.writeUInt32LE(tombstoneCount, 8);
    transaction.put(segmentKey("s", segmentId), value);
    if (liveBytes === 0) this.emptiedSegments.add(segmentId);
  }

  #count(extents: number, quarantined: number, liveBytes: number, ownBytes = 0): void {
    const meta = this.#meta;
    this.#meta = {
      ...meta,
      extentCount: meta.extentCount + extents,
      quarantinedExtentCount: meta.quarantinedExtentCount + quarantined,
      liveBytes: meta.liveBytes + liveBytes,
      ownBytes: meta.ownBytes + ownBytes,
    };
  }
}

function ownBytesOf(sealed: SealedExtent): number {
  return sealed.ownSegmentId === 0 ? 0 : sealed.sizeBytes;
}

/** Chunks that are known to be damaged when an extent is sealed: only a replay over damage finds any. */
function damagedAtSeal(
  record: IndexedRecord,
  head: ManifestHead,
  present: readonly number[] | undefined,
): readonly number[] {
  const all = Array.from({ length: chunkCount(head.sizeBytes) }, (_, i) => i);
  if (record.damaged) return all;
  if (present === undefined) return [];
  const here = new Set(present);
  return all.filter((chunkIndex) => !here.has(chunkIndex));
}

/** Whether two indexes hold the same records, figures aside from the checkpoint included. For tests and audits. */
export function indexesEqual(a: OrderedReader, b: OrderedReader): boolean {
  const range = { from: Buffer.from("c"), to: LAST_KEY };
  const [left, right] = [[...a.range(range)], [...b.range(range)]].map((records) =>
    records.filter((record) => !bytesEqual(record.key, META_KEY)),
  );
  if (left === undefined || right === undefined || left.length !== right.length) return false;
  return left.every((record, i) => {
    const other = right[i];
    return other !== undefined && bytesEqual(record.key, other.key) && bytesEqual(record.value, other.value);
  });
}
