/**
 * What prepared downloads hold, counted: the copies below the system's root are rows like those of users, and the tree counts
 * them together.
 *
 * Only rows that are there count, as in the tree's own figures: those of a copy that is still being filled come one by one. A
 * download that is prepared and filled never changes again, so it is counted once and remembered; the others each time.
 */
import { throwIfCanceled } from "../cluster/deadline.ts";
import type { MetadataPort } from "../cluster/metadata-port.ts";
import { SYSTEM_ROOT_ENTRY_ID, type Entry } from "../drive/entry.ts";
import { findCopy } from "../metadata/copies.ts";
import { scanChildren } from "../metadata/feed.ts";
import { sleep, type Clock } from "../std/clock.ts";
import { deferred } from "../std/deferred.ts";
import { LAYOUT } from "./snapshot.ts";

/** How long a status waits for the count; later it tells what was counted until then. A million rows take about a second. */
export const COUNT_WAIT_MS = 2000;
/** Rows read at a time. */
const SLICE_ROW_COUNT = 500;
/** Counting lets other work through after this long. */
const SLICE_MS = 4;

/** Figures of what lies below the system's root. */
export interface PreparedFigures {
  /** Prepared downloads, also those that are still being prepared. */
  readonly downloadCount: number;
  readonly fileCount: number;
  readonly directoryCount: number;
  /** Bytes of all files in them. */
  readonly sizeBytes: number;
  /** When the last of them is given back, in cluster time; undefined when there are none. */
  readonly expireTimeMs: number | undefined;
}

interface Figures {
  fileCount: number;
  directoryCount: number;
  sizeBytes: number;
}

/** A download as it was counted last. */
interface Counted extends Figures {
  expireTimeMs: number;
  /** Whether it stays so. */
  isSettled: boolean;
}

/** Counts at one node. */
export class PreparedTally {
  readonly #clock: Clock;
  readonly #port: MetadataPort;
  /** By the id of a download's folder. */
  readonly #downloads = new Map<number, Counted>();
  /** Rows that belong to no download. */
  #frame: Figures = noRows();
  #running: Promise<void> | undefined;

  constructor(clock: Clock, port: MetadataPort) {
    this.#clock = clock;
    this.#port = port;
  }

  /** Counts, and waits for it at most COUNT_WAIT_MS; several callers share one count. */
  async count(signal?: AbortSignal): Promise<PreparedFigures> {
    throwIfCanceled(signal);
    const running = (this.#running ??= this.#count().finally(() => {
      this.#running = undefined;
    }));
    const late = deferred<void>();
    const timer = this.#clock.setTimer(COUNT_WAIT_MS, () => late.resolve());
    try {
      await Promise.race([running, late.promise]);
    } finally {
      timer.cancel();
    }
    return this.#sum();
  }

  #sum(): PreparedFigures {
    const sum = { ...this.#frame };
    let expireTimeMs: number | undefined;
    for (const download of this.#downloads.values()) {
      sum.fileCount += download.fileCount;
      sum.directoryCount += download.directoryCount;
      sum.sizeBytes += download.sizeBytes;
      expireTimeMs = Math.max(expireTimeMs ?? 0, download.expireTimeMs);
    }
    return { downloadCount: this.#downloads.size, ...sum, expireTimeMs };
  }

  async #count(): Promise<void> {
    const breath = this.#breath();
    const frame = noRows();
    const found = new Set<number>();
    for await (const top of this.#children(SYSTEM_ROOT_ENTRY_ID, breath)) {
      add(frame, top);
      for await (const folder of this.#children(top.entryId, breath)) {
        found.add(folder.entryId);
        const known = this.#downloads.get(folder.entryId);
        if (known?.isSettled === true) known.expireTimeMs = folder.modifyTimeMs;
        else this.#downloads.set(folder.entryId, await this.#countBelow(folder, breath));
      }
    }
    for (const folderId of this.#downloads.keys()) {
      if (!found.has(folderId)) this.#downloads.delete(folderId);
    }
    this.#frame = frame;
  }

  async #countBelow(download: Entry, breath: () => Promise<void> | undefined): Promise<Counted> {
    const counted = { ...noRows(), expireTimeMs: download.modifyTimeMs, isSettled: false };
    add(counted, download);
    let [hasLayout, isFilling] = [false, false];
    const open: { readonly id: number; readonly isLayout: boolean }[] = [
      { id: download.entryId, isLayout: false },
    ];
    for (let folder = open.pop(); folder !== undefined; folder = open.pop()) {
      isFilling ||= findCopy(this.#port.reader(), folder.id) !== undefined;
      for await (const entry of this.#children(folder.id, breath)) {
        add(counted, entry);
        hasLayout ||= folder.isLayout;
        const isLayout = folder.id === download.entryId && entry.name === LAYOUT;
        if (entry.kind === "directory") open.push({ id: entry.entryId, isLayout });
      }
    }
    counted.isSettled = hasLayout && !isFilling;
    return counted;
  }

  async *#children(
    directoryId: number,
    breath: () => Promise<void> | undefined,
  ): AsyncGenerator<Entry, void, undefined> {
    let cursor: Uint8Array | undefined;
    do {
      await breath();
      const slice = scanChildren(this.#port.reader(), directoryId, cursor, SLICE_ROW_COUNT);
      yield* slice.rows;
      cursor = slice.next;
    } while (cursor !== undefined);
  }

  /** A function to be awaited between slices: lets other work through when this one took its share. */
  #breath(): () => Promise<void> | undefined {
    let sinceMs = this.#clock.monotonicMs();
    return () => {
      if (this.#clock.monotonicMs() - sinceMs < SLICE_MS) return undefined;
      return sleep(this.#clock, 1).then(() => {
        sinceMs = this.#clock.monotonicMs();
      });
    };
  }
}

function noRows(): Figures {
  return { fileCount: 0, directoryCount: 0, sizeBytes: 0 };
}

function add(figures: Figures, { kind, sizeBytes }: Entry): void {
  if (kind === "directory") figures.directoryCount += 1;
  else figures.fileCount += 1;
  figures.sizeBytes += sizeBytes;
}
