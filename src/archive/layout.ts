/**
 * The layout of an archive: where every byte of it comes from, before any of it is written.
 *
 *   archive = (header file)*   central directory   end
 *             `- data region   `- directory region `- end region
 *
 * LayoutWriter turns an ordered list of entries into a stored layout (layout-format.ts). ArchiveLayout reads one: any range of
 * the archive becomes pieces, each either bytes that are made here or a range of a content. Nothing here reads a file: pages are
 * handed in. Memory is the index (24 bytes for 256 entries) and one page, whatever the archive holds. Pure.
 */
import { assert, must } from "../std/assert.ts";
import {
  decodeIndex,
  decodePage,
  encodeEntry,
  encodeIndex,
  INDEX_ITEM_SIZE_BYTES,
  PAGE_ENTRY_COUNT,
  PAGE_SIZE_BYTES_MIN,
  TRAILER_SIZE_BYTES,
  type LayoutTrailer,
  type PageStart,
} from "./layout-format.ts";
import {
  centralRecord,
  centralRecordSizeBytes,
  checkSafePath,
  endRecords,
  endSizeBytes,
  localHeader,
  localHeaderSizeBytes,
  type ArchiveEntry,
} from "./zip-records.ts";

/** A run of an archive's bytes. */
export type ArchivePiece =
  | { readonly kind: "bytes"; readonly bytes: Uint8Array }
  | {
      readonly kind: "content";
      readonly contentId: number;
      /** Of the whole content. */
      readonly contentSizeBytes: number;
      readonly offset: number;
      readonly length: number;
    };

/** Writes a layout, entry by entry. */
export class LayoutWriter {
  readonly #pages: PageStart[] = [];
  #entryCount = 0;
  #dataSizeBytes = 0;
  #directorySizeBytes = 0;
  #layoutSizeBytes = 0;
  #pageEntryCount = 0;
  #pageSizeBytes = 0;

  /** Entries so far. */
  get entryCount(): number {
    return this.#entryCount;
  }

  /** Takes the next entry of the archive; returns the next bytes of the layout. */
  add(entry: ArchiveEntry): Uint8Array {
    assert(entry.kind === "file" || entry.sizeBytes === 0, "a folder has no bytes");
    checkSafePath(entry.path);
    if (this.#pageEntryCount === 0) {
      this.#pages.push({
        dataOffset: this.#dataSizeBytes,
        directoryOffset: this.#directorySizeBytes,
        place: this.#layoutSizeBytes,
      });
    }
    const bytes = encodeEntry(entry);
    // From what will be read back, whose times are whole seconds; sizes do not depend on that, but must never come to.
    this.#directorySizeBytes += centralRecordSizeBytes(entry, this.#dataSizeBytes);
    this.#dataSizeBytes += localHeaderSizeBytes(entry) + entry.sizeBytes;
    this.#layoutSizeBytes += bytes.length;
    this.#entryCount += 1;
    this.#pageEntryCount += 1;
    this.#pageSizeBytes += bytes.length;
    if (this.#pageEntryCount === PAGE_ENTRY_COUNT || this.#pageSizeBytes >= PAGE_SIZE_BYTES_MIN) {
      this.#pageEntryCount = 0;
      this.#pageSizeBytes = 0;
    }
    assert(Number.isSafeInteger(this.#dataSizeBytes), "an archive has less than 2^53 bytes");
    return bytes;
  }

  /** The last bytes of the layout. */
  finish(): Uint8Array {
    return encodeIndex(this.#pages, {
      entryCount: this.#entryCount,
      pageCount: this.#pages.length,
      dataSizeBytes: this.#dataSizeBytes,
      directorySizeBytes: this.#directorySizeBytes,
    });
  }
}

/** A part of an archive that one page, or none, describes. */
export interface ArchivePart {
  readonly region: "data" | "directory" | "end";
  /** Number of the page; 0 for the end. */
  readonly page: number;
  /** Where it begins and ends in the archive. */
  readonly from: number;
  readonly to: number;
}

/** A layout that is there to be read. */
export class ArchiveLayout {
  readonly entryCount: number;
  /** Bytes of the whole archive. */
  readonly sizeBytes: number;
  readonly #trailer: LayoutTrailer;
  readonly #pages: ReturnType<typeof decodeIndex>;
  readonly #pagesSizeBytes: number;

  /** @param index the bytes that indexRange() names */
  constructor(trailer: LayoutTrailer, index: Uint8Array, layoutSizeBytes: number) {
    this.#trailer = trailer;
    this.#pages = decodeIndex(index);
    assert(this.#pages.data.length === trailer.pageCount, "a layout lists its pages");
    this.#pagesSizeBytes = ArchiveLayout.indexRange(trailer, layoutSizeBytes).offset;
    this.entryCount = trailer.entryCount;
    this.sizeBytes = trailer.dataSizeBytes + trailer.directorySizeBytes + endSizeBytes(trailer);
  }

  /** Where the index is in a layout. */
  static indexRange(
    trailer: LayoutTrailer,
    layoutSizeBytes: number,
  ): { readonly offset: number; readonly length: number } {
    const length = trailer.pageCount * INDEX_ITEM_SIZE_BYTES;
    const offset = layoutSizeBytes - TRAILER_SIZE_BYTES - length;
    assert(offset >= 0, "a layout is as long as its parts");
    return { offset, length };
  }

  /** Where a page is in the layout. */
  pageRange(page: number): { readonly offset: number; readonly length: number } {
    const { place } = this.#pages;
    const offset = must(place[page], "a page of the layout");
    return { offset, length: (place[page + 1] ?? this.#pagesSizeBytes) - offset };
  }

  /** The part that holds the byte at `offset`, which is one of the archive. */
  partAt(offset: number): ArchivePart {
    assert(offset >= 0 && offset < this.sizeBytes, `byte ${offset} is not in the archive`);
    const { dataSizeBytes, directorySizeBytes } = this.#trailer;
    const endAt = dataSizeBytes + directorySizeBytes;
    if (offset >= endAt) return { region: "end", page: 0, from: endAt, to: this.sizeBytes };
    const region = offset < dataSizeBytes ? "data" : "directory";
    const starts = this.#pages[region];
    const base = region === "data" ? 0 : dataSizeBytes;
    const page = lastAtMost(starts, offset - base);
    const regionEnd = region === "data" ? dataSizeBytes : endAt;
    const next = starts[page + 1];
    return {
      region,
      page,
      from: base + must(starts[page], "a page of the region"),
      to: next === undefined ? regionEnd : base + next,
    };
  }

  /**
   * The pieces of [from, to), which lies within `part`, in order.
   * @param page the bytes of the part's page; empty for the end
   */
  *pieces(part: ArchivePart, page: Uint8Array, from: number, to: number): Generator<ArchivePiece> {
    assert(from >= part.from && to <= part.to && from <= to, "the range lies within the part");
    if (part.region === "end") {
      yield* cut(endRecords(this.#trailer), part.from, from, to);
      return;
    }
    let headerAt = must(this.#pages.data[part.page], "a page");
    let recordAt = this.#trailer.dataSizeBytes + must(this.#pages.directory[part.page], "a page");
    for (const entry of decodePage(page)) {
      const bytesAt = headerAt + localHeaderSizeBytes(entry);
      const endAt = bytesAt + entry.sizeBytes;
      if (part.region === "data") {
        if (headerAt >= to) return;
        if (bytesAt > from) yield* cut(localHeader(entry), headerAt, from, to);
        const [first, last] = [Math.max(from, bytesAt), Math.min(to, endAt)];
        if (first < last) {
          const { contentId, sizeBytes: contentSizeBytes } = entry;
          const range = { offset: first - bytesAt, length: last - first };
          yield { kind: "content", contentId, contentSizeBytes, ...range };
        }
      } else {
        if (recordAt >= to) return;
        const sizeBytes = centralRecordSizeBytes(entry, headerAt);
        if (recordAt + sizeBytes > from) yield* cut(centralRecord(entry, headerAt), recordAt, from, to);
        recordAt += sizeBytes;
      }
      headerAt = endAt;
    }
  }
}

/** What of `bytes`, which begin at `at`, lies in [from, to). */
function* cut(bytes: Uint8Array, at: number, from: number, to: number): Generator<ArchivePiece> {
  const piece = bytes.subarray(Math.max(0, from - at), Math.max(0, to - at));
  if (piece.length > 0) yield { kind: "bytes", bytes: piece };
}

/** The place of the last number that is at most `value`; the numbers ascend strictly and the first one is at most `value`. */
function lastAtMost(numbers: Float64Array, value: number): number {
  let low = 0;
  let high = numbers.length;
  while (high - low > 1) {
    const middle = (low + high) >>> 1;
    if (must(numbers[middle], "a number") <= value) low = middle;
    else high = middle;
  }
  return low;
}
