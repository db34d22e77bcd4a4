/**
 * The snapshot behind a prepared download, and where it lies below the system's root.
 *
 *   downloads/<id>/               its time of modification is when it expires, in cluster time
 *     files/<n>/<name>            a copy of source number n, made by one command each
 *     complete/                   there once all sources are copied
 *     layout/<name of archive>    the stored layout, once it is prepared
 *
 * Copies keep contents alive and stay what they were. Every step may be done twice: an attempt that finds an unfinished snapshot
 * begins it anew, one that finds a complete one goes on with it. Dropping the folder gives everything back.
 */
import type { MetadataClient } from "../cluster/metadata-client.ts";
import type { ReadOptions } from "../drive/drive-api.ts";
import { ROOT_ENTRY_ID, type Entry, type EntryAttributes, type Locator } from "../drive/entry.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { PREPARED_DOWNLOAD_LIFETIME_MS, PREPARED_DOWNLOAD_SOURCE_COUNT_MAX } from "../drive/limits.ts";
import { clusterTime } from "../metadata/view.ts";
import { systemLocator } from "./locators.ts";
import type { TreeReads } from "./tree-reads.ts";

const DOWNLOADS = "downloads";
const FILES = "files";
const COMPLETE = "complete";
/** Name of the folder of a download that holds its stored layout. */
export const LAYOUT = "layout";

/** Names read at once in a walk; each level on the way down holds so many. */
const WALK_PAGE_COUNT = 256;

/** An entry of a snapshot, with its path from the top of the archive. */
export interface SnapshotEntry {
  readonly path: string;
  readonly entry: Entry;
}

/** What is kept of a prepared download. */
export interface KeptDownload {
  /** Cluster time. */
  readonly expireTimeMs: number;
  /** The stored layout, named like the archive; undefined until there is one. */
  readonly layout: Entry | undefined;
}

/** The snapshots of prepared downloads. */
export class Snapshots {
  readonly #metadata: MetadataClient;
  readonly #reads: TreeReads;

  constructor(metadata: MetadataClient, reads: TreeReads) {
    this.#metadata = metadata;
    this.#reads = reads;
  }

  /** The absolute path, below the system's root, at which the layout of an archive is stored. */
  layoutPath(downloadId: number, name: string): string {
    return `/${DOWNLOADS}/${downloadId}/${LAYOUT}/${name}`;
  }

  /** What is kept of a download; undefined when nothing is. */
  async find(downloadId: number, options: ReadOptions = {}): Promise<KeptDownload | undefined> {
    const folder = await this.#findEntry([DOWNLOADS, String(downloadId)], options);
    if (folder === undefined) return undefined;
    const stale: ReadOptions = { consistency: "stale", signal: options.signal };
    const layouts = await this.#findEntry([DOWNLOADS, String(downloadId), LAYOUT], stale);
    const page =
      layouts === undefined
        ? undefined
        : await this.#reads.listFound(layouts.entryId, { countMax: 1 }, { signal: options.signal });
    return { expireTimeMs: folder.modifyTimeMs, layout: page?.entries[0] };
  }

  /** At most `countMax` downloads of which something is kept, by name, with their times of expiry. */
  async list(
    countMax: number,
    options: ReadOptions = {},
  ): Promise<readonly { readonly downloadId: number; readonly expireTimeMs: number }[]> {
    const folder = await this.#findEntry([DOWNLOADS], options);
    if (folder === undefined) return [];
    const { entries } = await this.#reads.listFound(folder.entryId, { countMax }, options);
    return entries.map(({ name, modifyTimeMs }) => ({
      downloadId: Number(name),
      expireTimeMs: modifyTimeMs,
    }));
  }

  /**
   * Makes the snapshot, or goes on with a complete one.
   * @param entryIds the sources, in the order of the archive
   * @throws DriveError PATH_NOT_FOUND when a source is gone; DOWNLOAD_TOO_LARGE; OVERLOADED when too many copies of it are being made
   */
  async make(downloadId: number, entryIds: readonly number[], signal: AbortSignal): Promise<void> {
    const folder = [DOWNLOADS, String(downloadId)];
    // With an end from the first moment on, so that nothing is ever kept for good.
    await this.#makeFolder(folder, signal, { modifyTimeMs: this.#fullTimeMs() });
    await this.extend(downloadId, signal);
    await this.#makeFolder([...folder, LAYOUT], signal);
    if ((await this.#findEntry([...folder, COMPLETE], { signal })) !== undefined) return;
    await this.#drop([...folder, FILES], signal);
    for (const [i, source] of (await this.#spreadRoot(entryIds, signal)).entries()) {
      const target = [...folder, FILES, String(i)];
      await this.#makeFolder(target, signal);
      const { entry } = await this.#reads.find({ baseId: source, path: [] }, { signal });
      await this.#metadata.applyEntry(
        {
          kind: "copy-entry",
          source: { baseId: source, path: [] },
          to: systemLocator([...target, entry.name]),
          onConflict: "replace",
          precondition: {},
        },
        { signal },
      );
    }
    await this.#makeFolder([...folder, COMPLETE], signal);
  }

  /** Lets a download live for its full time from now on. */
  async extend(downloadId: number, signal: AbortSignal): Promise<number> {
    const expireTimeMs = this.#fullTimeMs();
    await this.#metadata.applyEntry(
      {
        kind: "update-entry",
        at: systemLocator([DOWNLOADS, String(downloadId)]),
        attributes: { modifyTimeMs: expireTimeMs },
        precondition: {},
      },
      { signal },
    );
    return expireTimeMs;
  }

  /** Gives everything of a download back; harmless when there is nothing. */
  remove(downloadId: number, signal?: AbortSignal): Promise<void> {
    return this.#drop([DOWNLOADS, String(downloadId)], signal);
  }

  /** All entries of a complete snapshot in the order of the archive: folders before what is in them, names in code point order. */
  async *walk(downloadId: number, signal: AbortSignal): AsyncGenerator<SnapshotEntry, void, undefined> {
    const taken = new Set<string>();
    for (let i = 0; ; i += 1) {
      const source = await this.#findEntry([DOWNLOADS, String(downloadId), FILES, String(i)], { signal });
      if (source === undefined) return;
      const { entries } = await this.#reads.listFound(source.entryId, { countMax: 1 }, { signal });
      for (const entry of entries) {
        const path = freePath(entry, taken);
        yield { path, entry };
        if (entry.kind === "directory") yield* this.#walkBelow(entry.entryId, path, signal);
      }
    }
  }

  async *#walkBelow(
    directoryId: number,
    prefix: string,
    signal: AbortSignal,
  ): AsyncGenerator<SnapshotEntry, void, undefined> {
    let afterName: string | undefined;
    for (;;) {
      const page = await this.#reads.listFound(
        directoryId,
        { afterName, countMax: WALK_PAGE_COUNT },
        { signal },
      );
      for (const entry of page.entries) {
        const path = `${prefix}/${entry.name}`;
        yield { path, entry };
        if (entry.kind === "directory") yield* this.#walkBelow(entry.entryId, path, signal);
      }
      if (!page.more) return;
      afterName = page.entries.at(-1)?.name;
    }
  }

  /** The root cannot be copied: what is in it is. */
  async #spreadRoot(entryIds: readonly number[], signal: AbortSignal): Promise<readonly number[]> {
    if (!entryIds.includes(ROOT_ENTRY_ID)) return entryIds;
    const ids: number[] = [];
    let afterName: string | undefined;
    for (;;) {
      const page = await this.#reads.listFound(
        ROOT_ENTRY_ID,
        { afterName, countMax: WALK_PAGE_COUNT },
        { signal },
      );
      for (const entry of page.entries) ids.push(entry.entryId);
      if (ids.length > PREPARED_DOWNLOAD_SOURCE_COUNT_MAX) {
        throw new DriveError(
          "DOWNLOAD_TOO_LARGE",
          `There are more than ${PREPARED_DOWNLOAD_SOURCE_COUNT_MAX} files and folders at the top of the drive: name those you want.`,
          { source_count_max: String(PREPARED_DOWNLOAD_SOURCE_COUNT_MAX) },
        );
      }
      if (!page.more) return ids;
      afterName = page.entries.at(-1)?.name;
    }
  }

  #fullTimeMs(): number {
    return clusterTime(this.#metadata.port.reader()) + PREPARED_DOWNLOAD_LIFETIME_MS;
  }

  async #makeFolder(
    path: readonly string[],
    signal: AbortSignal,
    attributes: EntryAttributes = {},
  ): Promise<void> {
    await this.#metadata.applyEntry(
      {
        kind: "create-directory",
        at: systemLocator(path),
        createParents: true,
        existOk: true,
        attributes,
        precondition: {},
      },
      { signal },
    );
  }

  async #drop(path: readonly string[], signal: AbortSignal | undefined): Promise<void> {
    try {
      await this.#metadata.applyAny(
        { kind: "delete-entry", at: systemLocator(path), recursive: true, precondition: {} },
        { signal },
      );
    } catch (error) {
      if (!hasReason(error, "PATH_NOT_FOUND")) throw error;
    }
  }

  async #findEntry(path: readonly string[], options: ReadOptions): Promise<Entry | undefined> {
    const locator: Locator = systemLocator(path);
    try {
      return (await this.#reads.find(locator, options)).entry;
    } catch (error) {
      if (hasReason(error, "PATH_NOT_FOUND")) return undefined;
      throw error;
    }
  }
}

/** The name of a source, with a number where another source has it. */
function freePath({ name, kind }: Entry, taken: Set<string>): string {
  const dot = kind === "file" ? name.lastIndexOf(".") : -1;
  const [stem, extension] = dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ""];
  let path = name;
  for (let number = 2; taken.has(path); number += 1) path = `${stem} (${number})${extension}`;
  taken.add(path);
  return path;
}
