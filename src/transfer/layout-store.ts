/**
 * Layouts of archives as they are stored: contents of the drive, of which a part is read when it is needed.
 *
 * The index of a layout (94 kB for a million files) stays in memory while the archive is in use, for the last
 * OPEN_LAYOUT_COUNT_MAX archives; pages are read for each range. A content never changes, so nothing here is ever out of date.
 */
import { ArchiveLayout } from "../archive/layout.ts";
import { decodeTrailer, TRAILER_SIZE_BYTES } from "../archive/layout-format.ts";
import type { Entry } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { extentsOf } from "../metadata/view.ts";
import { readContent, type ContentRange } from "./content-reader.ts";
import type { DataPlane } from "./data-plane.ts";

/** Layouts whose index is in memory. */
export const OPEN_LAYOUT_COUNT_MAX = 16;

/** A stored layout. */
export interface StoredLayout {
  readonly layout: ArchiveLayout;
  /** The bytes of one of its pages. Errors: CHUNK_LOST, CANCELED. */
  page(page: number, signal?: AbortSignal): Promise<Uint8Array>;
}

/** Reads stored layouts. */
export class LayoutStore {
  readonly #plane: DataPlane;
  readonly #open = new Map<number, StoredLayout>();

  constructor(plane: DataPlane) {
    this.#plane = plane;
  }

  /** The layout that a file holds. Errors: CHUNK_LOST, CANCELED; DATA_CORRUPT when it is of another version. */
  async open(file: Entry, signal?: AbortSignal): Promise<StoredLayout> {
    const known = this.#open.get(file.contentId);
    const stored = known ?? (await this.#read(file, signal));
    // The one used last goes to the young end.
    this.#open.delete(file.contentId);
    this.#open.set(file.contentId, stored);
    const [oldest] = this.#open.keys();
    if (this.#open.size > OPEN_LAYOUT_COUNT_MAX && oldest !== undefined) this.#open.delete(oldest);
    return stored;
  }

  async #read(file: Entry, signal: AbortSignal | undefined): Promise<StoredLayout> {
    const { contentId, sizeBytes } = file;
    const extents = extentsOf(this.#plane.metadata.port.reader(), contentId);
    const content = { contentId, sizeBytes, extents };
    const read = (offset: number, length: number, inner: AbortSignal | undefined): Promise<Uint8Array> =>
      readWhole(this.#plane, { ...content, offset, length, signal: inner });
    const trailerAt = Math.max(0, sizeBytes - TRAILER_SIZE_BYTES);
    const trailer = decodeTrailer(await read(trailerAt, sizeBytes - trailerAt, signal));
    if (trailer === undefined) {
      throw new DriveError("DATA_CORRUPT", "The layout of the download was written by another version.", {
        content_id: String(contentId),
      });
    }
    const index = ArchiveLayout.indexRange(trailer, sizeBytes);
    const layout = new ArchiveLayout(trailer, await read(index.offset, index.length, signal), sizeBytes);
    return {
      layout,
      page(page, inner) {
        const { offset, length } = layout.pageRange(page);
        return read(offset, length, inner);
      },
    };
  }
}

/** A range of a content as one array; for ranges that are small. */
export async function readWhole(plane: DataPlane, range: ContentRange): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for await (const piece of readContent(plane, range)) pieces.push(piece);
  const [only] = pieces;
  return pieces.length === 1 && only !== undefined ? only : Buffer.concat(pieces);
}
