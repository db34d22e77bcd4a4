/**
 * Prepares downloads: takes the snapshot, reads each file once for its checksum and stores the layout of the archive.
 *
 * The layout is written while the files are read, as one upload that appears when it is whole, so an attempt that ends in the
 * middle leaves nothing but its snapshot and the next one begins reading anew. Memory is a few files' read-ahead and one index,
 * whatever the archive holds. Reading is paced: it yields to users who move bytes themselves.
 */
import { LayoutWriter } from "../archive/layout.ts";
import { throwIfCanceled } from "../cluster/deadline.ts";
import type { Entry } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import {
  ARCHIVED_PATH_SIZE_BYTES_MAX,
  PREPARED_DOWNLOAD_ENTRY_COUNT_MAX,
  PREPARED_DOWNLOAD_LIFETIME_MS,
} from "../drive/limits.ts";
import { clusterTime, extentsOf } from "../metadata/view.ts";
import type { BackgroundPace } from "../replication/background-pace.ts";
import { crc32 } from "../std/crc32.ts";
import { checkExtents } from "./download.ts";
import { readContent } from "./content-reader.ts";
import type { DataPlane } from "./data-plane.ts";
import type { FilePutter } from "./put-file.ts";
import { readAhead } from "./read-ahead.ts";
import type { SnapshotEntry, Snapshots } from "./snapshot.ts";

/** Files read at once; each reads some 4 MiB ahead. */
export const CHECKSUM_FILE_COUNT = 4;

/** A download that is preparing has its life extended when this much of it is gone. */
const EXTEND_AFTER_MS = PREPARED_DOWNLOAD_LIFETIME_MS / 4;

/** What a DownloadMaker needs. */
export interface DownloadMakerOptions {
  readonly plane: DataPlane;
  readonly snapshots: Snapshots;
  readonly putter: FilePutter;
  readonly pace: BackgroundPace;
  /** Entries of one archive; PREPARED_DOWNLOAD_ENTRY_COUNT_MAX when absent. */
  readonly entryCountMax?: number | undefined;
}

/** What is to be prepared. */
export interface DownloadOrder {
  readonly downloadId: number;
  readonly entryIds: readonly number[];
  /** A checked name of an entry. */
  readonly name: string;
}

/** Prepares downloads. */
export class DownloadMaker {
  readonly #options: DownloadMakerOptions;

  constructor(options: DownloadMakerOptions) {
    this.#options = options;
  }

  /**
   * Prepares a download, or finds that it is prepared. May be done again, also while another attempt still runs.
   * @param progress told of bytes read and bytes in all
   * @throws DriveError DOWNLOAD_TOO_LARGE, PATH_NOT_FOUND; CHUNK_LOST when a file cannot be read; CANCELED
   */
  async make(
    order: DownloadOrder,
    signal: AbortSignal,
    progress: (readBytes: number, totalBytes: number) => void,
  ): Promise<void> {
    const { snapshots, putter } = this.#options;
    const { downloadId, name } = order;
    const kept = await snapshots.find(downloadId, { signal });
    if (kept?.layout !== undefined) return;
    await snapshots.make(downloadId, order.entryIds, signal);
    const totalBytes = await this.#survey(downloadId, signal);
    progress(0, totalBytes);
    await putter.put(
      {
        path: snapshots.layoutPath(downloadId, name),
        ofSystem: true,
        sizeBytes: undefined,
        onConflict: "replace",
        attributes: {},
        createParents: false,
      },
      this.#layout(downloadId, signal, (readBytes) => progress(readBytes, totalBytes)),
      { signal },
    );
    await snapshots.extend(downloadId, signal);
  }

  /** Looks at all names, so that what is too large is known before a byte is read. Returns the bytes of all files. */
  async #survey(downloadId: number, signal: AbortSignal): Promise<number> {
    const entryCountMax = this.#options.entryCountMax ?? PREPARED_DOWNLOAD_ENTRY_COUNT_MAX;
    let entryCount = 0;
    let totalBytes = 0;
    for await (const { path, entry } of this.#options.snapshots.walk(downloadId, signal)) {
      throwIfCanceled(signal);
      entryCount += 1;
      totalBytes += entry.sizeBytes;
      if (entryCount > entryCountMax) {
        throw new DriveError(
          "DOWNLOAD_TOO_LARGE",
          `There are more than ${entryCountMax} files and folders in the download.`,
          { entry_count_max: String(entryCountMax) },
        );
      }
      if (Buffer.byteLength(path, "utf8") > ARCHIVED_PATH_SIZE_BYTES_MAX) {
        throw new DriveError(
          "DOWNLOAD_TOO_LARGE",
          `A path in the download has more than ${ARCHIVED_PATH_SIZE_BYTES_MAX} bytes.`,
          { path_size_bytes_max: String(ARCHIVED_PATH_SIZE_BYTES_MAX) },
        );
      }
    }
    return totalBytes;
  }

  /** The bytes of the layout, as the files are read. */
  async *#layout(
    downloadId: number,
    signal: AbortSignal,
    progress: (readBytes: number) => void,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const { snapshots, plane } = this.#options;
    const writer = new LayoutWriter();
    const now = (): number => clusterTime(plane.metadata.port.reader());
    let extendedMs = now();
    let readBytes = 0;
    const onRead = (sizeBytes: number): void => {
      readBytes += sizeBytes;
      progress(readBytes);
    };
    const checked = readAhead(
      snapshots.walk(downloadId, signal),
      { countMax: CHECKSUM_FILE_COUNT, signal },
      async (found, inner) => ({ ...found, crc32: await this.#checksum(found, inner, onRead) }),
    );
    for await (const { path, entry, crc32: checksum } of checked) {
      const { kind, sizeBytes, modifyTimeMs, mode, contentId } = entry;
      yield writer.add({ path, kind, sizeBytes, modifyTimeMs, mode, contentId, crc32: checksum });
      if (now() - extendedMs > EXTEND_AFTER_MS) {
        extendedMs = now();
        await snapshots.extend(downloadId, signal);
      }
    }
    yield writer.finish();
  }

  async #checksum(
    { entry }: SnapshotEntry,
    signal: AbortSignal,
    onRead: (sizeBytes: number) => void,
  ): Promise<number> {
    const { plane, pace } = this.#options;
    if (entry.sizeBytes === 0) return 0;
    let checksum = 0;
    for await (const piece of readContent(plane, wholeOf(plane, entry, signal))) {
      checksum = crc32(piece, checksum);
      onRead(piece.length);
      await pace.take(piece.length, signal);
    }
    return checksum;
  }
}

function wholeOf(plane: DataPlane, entry: Entry, signal: AbortSignal) {
  const { contentId, sizeBytes } = entry;
  const extents = extentsOf(plane.metadata.port.reader(), contentId);
  checkExtents(entry, extents);
  return { contentId, sizeBytes, extents, offset: 0, length: sizeBytes, signal };
}
