/**
 * Open files for reading, at most so many at once, opened when needed and closed when others are used more.
 *
 * A file in use is never closed under its reader. Does not create, write or remove files.
 */
import { assert } from "../std/assert.ts";
import type { Disk, DiskFile } from "../std/disk.ts";

interface Slot {
  readonly file: Promise<DiskFile>;
  users: number;
  dropped: boolean;
}

/** A bounded cache of files open for reading, by path. */
export class FileCache {
  readonly #disk: Disk;
  readonly #countMax: number;
  /** Least recently used first. */
  readonly #slots = new Map<string, Slot>();

  /** @param countMax files kept open while nobody reads them, at least 1 */
  constructor(disk: Disk, countMax: number) {
    assert(countMax >= 1, `a cache holds at least one file, got ${countMax}`);
    this.#disk = disk;
    this.#countMax = countMax;
  }

  /** Files that are open, or being opened. */
  get count(): number {
    return this.#slots.size;
  }

  /** Opens `path` or finds it open, runs `work` with it, and keeps it. Errors: those of open() and of `work`. */
  async use<T>(path: string, work: (file: DiskFile) => Promise<T>): Promise<T> {
    let slot = this.#slots.get(path);
    if (slot === undefined) slot = { file: this.#disk.open(path, "read"), users: 0, dropped: false };
    else this.#slots.delete(path);
    this.#slots.set(path, slot);
    slot.users += 1;
    try {
      return await work(await slot.file);
    } finally {
      slot.users -= 1;
      // A file that could not be opened is not kept, so that the next reader tries again.
      const failed = await slot.file.then(
        () => false,
        () => true,
      );
      if (failed && this.#slots.get(path) === slot) this.#slots.delete(path);
      else await this.#release(slot);
    }
  }

  /** Closes `path` as soon as nobody reads it; it is opened anew when used again. */
  async drop(path: string): Promise<void> {
    const slot = this.#slots.get(path);
    if (slot === undefined) return;
    this.#slots.delete(path);
    slot.dropped = true;
    await this.#release(slot);
  }

  /**
   * Closes the files whose paths name them no more, so that the next reader meets what is there now; returns the paths. Errors: those of
   * the disk, with nothing closed.
   * @param isAsked which paths to look at; the others stay open
   */
  async dropMisplaced(isAsked: (path: string) => boolean): Promise<readonly string[]> {
    const held = [...this.#slots].filter(([path]) => isAsked(path));
    for (const [, slot] of held) slot.users += 1;
    try {
      const misplaced = new Map<string, Slot>();
      for (const [path, slot] of held) {
        // One that could not be opened is seen to by its reader.
        const file = await slot.file.catch(() => undefined);
        if (file !== undefined && !(await file.isNamed())) misplaced.set(path, slot);
      }
      for (const [path, slot] of misplaced) if (this.#slots.get(path) === slot) await this.drop(path);
      return [...misplaced.keys()];
    } finally {
      for (const [, slot] of held) {
        slot.users -= 1;
        await this.#release(slot);
      }
    }
  }

  /** Closes everything. */
  async close(): Promise<void> {
    for (const path of [...this.#slots.keys()]) await this.drop(path);
  }

  async #release(slot: Slot): Promise<void> {
    if (slot.dropped && slot.users === 0) {
      const file = await slot.file.catch(() => undefined);
      await file?.close();
      return;
    }
    while (this.#slots.size > this.#countMax) {
      const idle = [...this.#slots].find(([, candidate]) => candidate.users === 0);
      if (idle === undefined) return;
      await this.drop(idle[0]);
    }
  }
}
