/**
 * Puts the frames of an upload stream together to chunks, and keeps count of the bytes from the start without a gap.
 *
 * A frame starts at a multiple of the chunk size or continues the frame before; at most one chunk is incomplete at a time. A
 * frame that is a whole chunk is handed on without a copy. Does no I/O; chunk-service.ts writes what comes out.
 */
import type { ChunkRange } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { must } from "../std/assert.ts";

/** Bytes of an upload at `offset`. */
export interface UploadFrame {
  readonly offset: number;
  readonly data: Uint8Array;
  /** SHA-256 of `data` when it is a whole chunk; empty otherwise. */
  readonly digest: Uint8Array;
  /** Ends its chunk although it is not full. */
  readonly finish: boolean;
}

/** A chunk that is complete. */
export interface AssembledChunk {
  readonly chunkIndex: number;
  readonly bytes: Uint8Array;
  /** As declared by the client; undefined when it was not. */
  readonly digest: Uint8Array | undefined;
}

interface OpenChunk {
  readonly chunkIndex: number;
  readonly parts: Uint8Array[];
  readonly digest: Uint8Array | undefined;
  sizeBytes: number;
}

/** Frames in, chunks out, for one stream. */
export class ChunkAssembler {
  readonly #chunkSizeBytes: number;
  readonly #sizeBytes: number | undefined;
  #open: OpenChunk | undefined;

  /** @param layout the chunk size of the upload, and its size when that is known */
  constructor(layout: { readonly chunkSizeBytes: number; readonly sizeBytes: number | undefined }) {
    this.#chunkSizeBytes = layout.chunkSizeBytes;
    this.#sizeBytes = layout.sizeBytes;
  }

  /**
   * Takes a frame; returns the chunks that it completes, in order.
   * @throws DriveError UPLOAD_OFFSET_MISMATCH when it neither starts a chunk nor continues the frame before,
   *   CHUNK_OUT_OF_RANGE beyond the size, ARGUMENT_INVALID for a digest of anything but one whole chunk
   */
  push(frame: UploadFrame): readonly AssembledChunk[] {
    const { offset, data, digest } = frame;
    if (this.#sizeBytes !== undefined && offset + data.length > this.#sizeBytes) {
      throw new DriveError(
        "CHUNK_OUT_OF_RANGE",
        `The bytes up to ${offset + data.length} lie beyond the size of ${this.#sizeBytes}.`,
        { offset: String(offset), size_bytes: String(this.#sizeBytes) },
      );
    }
    this.#checkOffset(offset);
    const complete: AssembledChunk[] = [];
    for (let at = 0; at < data.length;) at += this.#take(offset + at, data.subarray(at), digest, complete);
    if (frame.finish) complete.push(...this.#close());
    if (digest.length > 0 && (complete.length !== 1 || complete[0]?.bytes.length !== data.length)) {
      throw new DriveError("ARGUMENT_INVALID", "A digest is only for a frame that is one whole chunk.", {
        field: "digest",
      });
    }
    return complete;
  }

  #checkOffset(offset: number): void {
    const open = this.#open;
    const expected = open && open.chunkIndex * this.#chunkSizeBytes + open.sizeBytes;
    if (offset === expected || offset % this.#chunkSizeBytes === 0) return;
    throw new DriveError(
      "UPLOAD_OFFSET_MISMATCH",
      `The offset ${offset} neither starts a chunk nor continues the bytes before.`,
      { offset: String(offset), ...(expected !== undefined && { expected_offset: String(expected) }) },
    );
  }

  /** Takes what of `data` belongs to one chunk; returns how many bytes. */
  #take(offset: number, data: Uint8Array, digest: Uint8Array, complete: AssembledChunk[]): number {
    const chunkIndex = Math.floor(offset / this.#chunkSizeBytes);
    const within = offset - chunkIndex * this.#chunkSizeBytes;
    const left = (this.#sizeBytes ?? Infinity) - chunkIndex * this.#chunkSizeBytes;
    const fullSizeBytes = Math.min(this.#chunkSizeBytes, left);
    if (within === 0) {
      const declared = digest.length > 0 ? digest : undefined;
      this.#open = { chunkIndex, parts: [], sizeBytes: 0, digest: declared };
    }
    const open = must(this.#open, "checkOffset() let it pass, so a chunk is open");
    const part = data.subarray(0, fullSizeBytes - within);
    open.parts.push(part);
    open.sizeBytes += part.length;
    if (open.sizeBytes === fullSizeBytes) complete.push(...this.#close());
    return part.length;
  }

  /** Checks that no chunk is incomplete when the stream ends. Throws PAYLOAD_TRUNCATED. */
  end(): void {
    const open = this.#open;
    if (open === undefined) return;
    throw new DriveError(
      "PAYLOAD_TRUNCATED",
      `The stream ended after ${open.sizeBytes} bytes of chunk ${open.chunkIndex}, without "finish".`,
      { chunk_index: String(open.chunkIndex), size_bytes: String(open.sizeBytes) },
    );
  }

  /** Takes the chunk that is open, if any, as it is. */
  #close(): readonly AssembledChunk[] {
    const open = this.#open;
    this.#open = undefined;
    if (open === undefined) return [];
    const [only] = open.parts;
    const bytes = open.parts.length === 1 && only !== undefined ? only : Buffer.concat(open.parts);
    return [{ chunkIndex: open.chunkIndex, bytes, digest: open.digest }];
  }
}

/** Which chunks are there, and how many bytes from the start without a gap. */
export class CommittedPrefix {
  readonly #chunkSizeBytes: number;
  /** Gaps, ascending and disjoint; everything behind the last gap up to #end is there, nothing from #end on. */
  #gaps: ChunkRange[];
  #end: number;
  #committedSizeBytes: number;
  readonly #totalSizeBytes: number;
  /** The highest chunk seen here; the last chunk is the only one that may be short. */
  #highest: { readonly chunkIndex: number; readonly sizeBytes: number } | undefined;

  /** @param start the state of the upload: its gaps, how many bytes there are without one, and its size when known */
  constructor(start: {
    readonly chunkSizeBytes: number;
    readonly missing: readonly ChunkRange[];
    readonly committedSizeBytes: number;
    readonly sizeBytes: number | undefined;
  }) {
    this.#chunkSizeBytes = start.chunkSizeBytes;
    this.#gaps = [...start.missing];
    this.#totalSizeBytes = start.sizeBytes ?? Infinity;
    const last = start.missing.at(-1);
    const here = Math.max(
      start.committedSizeBytes,
      last === undefined ? 0 : (last.last + 1) * start.chunkSizeBytes,
    );
    this.#end = Math.ceil((start.sizeBytes ?? here) / start.chunkSizeBytes);
    this.#committedSizeBytes = start.committedSizeBytes;
  }

  /** Notes that a chunk of `sizeBytes` is there; returns the bytes from the start without a gap. */
  add(chunkIndex: number, sizeBytes: number): number {
    if (chunkIndex >= this.#end) {
      if (chunkIndex > this.#end) this.#gaps.push({ first: this.#end, last: chunkIndex - 1 });
      this.#end = chunkIndex + 1;
    } else {
      this.#gaps = this.#gaps.flatMap((gap) => without(gap, chunkIndex));
    }
    if (this.#highest === undefined || chunkIndex >= this.#highest.chunkIndex) {
      this.#highest = { chunkIndex, sizeBytes };
    }
    const count = this.#gaps[0]?.first ?? this.#end;
    const full =
      count - 1 === this.#highest.chunkIndex
        ? this.#highest.chunkIndex * this.#chunkSizeBytes + this.#highest.sizeBytes
        : count * this.#chunkSizeBytes;
    const committed = Math.min(full, this.#totalSizeBytes);
    this.#committedSizeBytes = Math.max(this.#committedSizeBytes, committed);
    return this.#committedSizeBytes;
  }
}

function without(gap: ChunkRange, chunkIndex: number): ChunkRange[] {
  if (chunkIndex < gap.first || chunkIndex > gap.last) return [gap];
  const parts: ChunkRange[] = [];
  if (gap.first < chunkIndex) parts.push({ first: gap.first, last: chunkIndex - 1 });
  if (chunkIndex < gap.last) parts.push({ first: chunkIndex + 1, last: gap.last });
  return parts;
}
