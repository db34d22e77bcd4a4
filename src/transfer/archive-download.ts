/**
 * The bytes of a prepared download: pieces of its layout, headers made here and ranges of contents, put one behind the other.
 *
 * Small contents are read ahead, several at once, because an archive of many of them would otherwise wait for each; a large one
 * streams by itself. What is small is put together, so that a thousand tiny files are no thousand writes to a socket.
 */
import type { ArchivePiece } from "../archive/layout.ts";
import { throwIfCanceled } from "../cluster/deadline.ts";
import { extentCount } from "../drive/content.ts";
import type { Entry } from "../drive/entry.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import type { OpenedDownload } from "../drive/prepared-download.ts";
import { extentsOf } from "../metadata/view.ts";
import { toHex } from "../std/bytes.ts";
import { readContent } from "./content-reader.ts";
import type { DataPlane } from "./data-plane.ts";
import { checkRange } from "./download.ts";
import { readWhole, type StoredLayout } from "./layout-store.ts";
import { readAhead } from "./read-ahead.ts";

/** Contents, or ranges of them, up to this size are read ahead; at most SMALL_READ_COUNT_MAX at once: 4 MiB a download. */
export const SMALL_READ_SIZE_BYTES_MAX = 256 * 1024;

/** Pieces on their way at once. */
export const SMALL_READ_COUNT_MAX = 16;

/** Small pieces are put together until they have this size. */
const SEND_SIZE_BYTES = 64 * 1024;

/** An open prepared download. */
export class ArchiveDownload implements OpenedDownload {
  readonly downloadId: number;
  readonly name: string;
  readonly etag: string;
  readonly expireTimeMs: number;
  readonly #plane: DataPlane;
  readonly #stored: StoredLayout;
  readonly #layoutId: number;

  /** @param file the stored layout's, whose name is the archive's */
  constructor(
    plane: DataPlane,
    download: { readonly downloadId: number; readonly expireTimeMs: number; readonly file: Entry },
    stored: StoredLayout,
  ) {
    this.downloadId = download.downloadId;
    this.expireTimeMs = download.expireTimeMs;
    this.name = download.file.name;
    this.etag = etagOfLayout(download.file);
    this.#plane = plane;
    this.#stored = stored;
    this.#layoutId = download.file.contentId;
  }

  get sizeBytes(): number {
    return this.#stored.layout.sizeBytes;
  }

  get entryCount(): number {
    return this.#stored.layout.entryCount;
  }

  async *read(
    offset: number,
    length: number,
    signal?: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    checkRange(this.sizeBytes, offset, length);
    let small: Uint8Array[] = [];
    let smallBytes = 0;
    for await (const bytes of this.#bytes(offset, offset + length, signal)) {
      if (bytes.length < SEND_SIZE_BYTES) {
        small.push(bytes);
        smallBytes += bytes.length;
        if (smallBytes < SEND_SIZE_BYTES) continue;
      }
      if (smallBytes > 0) yield joined(small, smallBytes);
      [small, smallBytes] = [[], 0];
      if (bytes.length >= SEND_SIZE_BYTES) yield bytes;
    }
    if (smallBytes > 0) yield joined(small, smallBytes);
  }

  /** Runs of small pieces, read ahead, and large ones between them. */
  async *#bytes(
    from: number,
    to: number,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const pieces = this.#pieces(from, to, signal);
    let large: ArchivePiece | undefined;
    async function* untilLarge(): AsyncGenerator<ArchivePiece, void, undefined> {
      large = undefined;
      for (let next = await pieces.next(); next.done !== true; next = await pieces.next()) {
        const isLarge = next.value.kind === "content" && next.value.length > SMALL_READ_SIZE_BYTES_MAX;
        if (isLarge) {
          large = next.value;
          return;
        }
        yield next.value;
      }
    }
    try {
      for (;;) {
        yield* readAhead(untilLarge(), { countMax: SMALL_READ_COUNT_MAX, signal }, (piece, inner) =>
          this.#whole(piece, inner),
        );
        const piece = large as ArchivePiece | undefined;
        if (piece?.kind !== "content") return;
        yield* readContent(this.#plane, this.#rangeOf(piece, signal));
      }
    } catch (error) {
      if (hasReason(error, "CHUNK_LOST") && !this.#isKept()) throw this.#over(error);
      throw error;
    } finally {
      await pieces.return();
    }
  }

  async *#pieces(
    from: number,
    to: number,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<ArchivePiece, void, undefined> {
    const { layout } = this.#stored;
    for (let at = from; at < to;) {
      throwIfCanceled(signal);
      if (!this.#isKept()) throw this.#over();
      const part = layout.partAt(at);
      const page = part.region === "end" ? new Uint8Array(0) : await this.#stored.page(part.page, signal);
      const end = Math.min(to, part.to);
      yield* layout.pieces(part, page, at, end);
      at = end;
    }
  }

  async #whole(piece: ArchivePiece, signal: AbortSignal | undefined): Promise<Uint8Array> {
    return piece.kind === "bytes" ? piece.bytes : readWhole(this.#plane, this.#rangeOf(piece, signal));
  }

  #rangeOf(piece: ArchivePiece & { readonly kind: "content" }, signal: AbortSignal | undefined) {
    const { contentId, contentSizeBytes: sizeBytes, offset, length } = piece;
    const extents = extentsOf(this.#plane.metadata.port.reader(), contentId);
    // Those of a large content that was given back are forgotten one after the other.
    if (extents.length !== extentCount(sizeBytes)) throw this.#over();
    return { contentId, sizeBytes, extents, offset, length, signal };
  }

  /** A download that was given back must not look like one whose copies are lost. */
  #isKept(): boolean {
    return extentsOf(this.#plane.metadata.port.reader(), this.#layoutId).length > 0;
  }

  #over(cause?: unknown): DriveError {
    const metadata = { download_id: String(this.downloadId) };
    const message = "The download expired or was released while it was read.";
    return new DriveError("DOWNLOAD_EXPIRED", message, metadata, cause);
  }
}

/** The tag of an archive: a layout names every byte of it, so equal layouts mean equal archives. */
export function etagOfLayout(file: Entry): string {
  return toHex(file.treeHash);
}

function joined(parts: readonly Uint8Array[], sizeBytes: number): Uint8Array {
  const [only] = parts;
  return parts.length === 1 && only !== undefined ? only : Buffer.concat(parts, sizeBytes);
}
