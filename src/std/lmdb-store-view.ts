/**
 * LMDB stores that are only looked at: nothing in their directories changes, not even a time.
 *
 * LMDB wants its lock beside the data, and a store that is opened for writing loses its certificate. So a store is opened for reading
 * only, in a folder of its own elsewhere (lmdb-lock-file.ts), in which a link leads to the data.
 */
import { readdir, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { open } from "lmdb";
import { assert } from "./assert.ts";
import type { Clock } from "./clock.ts";
import { errnoOf } from "./disk.ts";
import { makeLockFolder } from "./lmdb-lock-file.ts";
import { LMDB_OPEN_OPTIONS } from "./lmdb-options.ts";
import { LmdbOrderedStore } from "./lmdb-ordered-store.ts";
import { checkLmdbStore, DATA_NAME } from "./lmdb-store-check.ts";
import { parseStoreName, type OrderedStoreProvider, type StoreCondition } from "./ordered-store.ts";

/** There is nothing to make room for. */
const NO_HEADROOM = {
  ensure: (): Promise<void> => Promise.reject(new Error("a store that is looked at is not written")),
  close: (): Promise<void> => Promise.resolve(),
};

/** Settings of an LmdbStoreViewProvider; see LmdbOrderedStoreOptions. */
export interface LmdbStoreViewOptions {
  readonly directory: string;
  readonly clock: Clock;
  readonly isSealed?: boolean;
}

/** A store that must not be written to. */
class LmdbStoreView extends LmdbOrderedStore {
  readonly #folder: string;

  constructor(folder: string, clock: Clock) {
    super(open<Buffer, Buffer>({ ...LMDB_OPEN_OPTIONS, path: folder, readOnly: true }), folder, NO_HEADROOM, {
      clock,
    });
    this.#folder = folder;
  }

  override transaction<T>(): T {
    assert(false, "a store that is looked at is not written");
  }

  override async close(): Promise<void> {
    await this.discard();
    await rm(this.#folder, { recursive: true, force: true });
  }
}

/** The LMDB stores under one directory, to look at. Nobody may write to them meanwhile. */
export class LmdbStoreViewProvider implements OrderedStoreProvider {
  readonly #options: LmdbStoreViewOptions;
  readonly #removed = new Set<string>();

  constructor(options: LmdbStoreViewOptions) {
    this.#options = options;
  }

  /** Opens a store, which must exist, to be read only. Errors: those of the file system; those of LMDB for what check() refuses. */
  async open(name: string): Promise<LmdbOrderedStore> {
    assert(!this.#removed.has(name), `the store ${name} was removed`);
    const data = resolve(this.#options.directory, parseStoreName(name), DATA_NAME);
    const folder = (await makeLockFolder()) ?? (await makeLockFolder(tmpdir()));
    if (folder === undefined)
      throw new Error(`there is no place for LMDB's lock: ${tmpdir()} cannot be written`);
    try {
      await symlink(data, join(folder, DATA_NAME));
      return new LmdbStoreView(folder, this.#options.clock);
    } catch (error) {
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }

  async check(name: string): Promise<StoreCondition> {
    if (this.#removed.has(name)) return { kind: "absent" };
    const { directory, isSealed = false } = this.#options;
    return await checkLmdbStore(join(directory, parseStoreName(name)), isSealed);
  }

  async list(): Promise<string[]> {
    try {
      const entries = await readdir(this.#options.directory, { withFileTypes: true });
      return entries
        .filter((entry) => entry.isDirectory() && !this.#removed.has(entry.name))
        .map((entry) => entry.name)
        .sort();
    } catch (error) {
      if (errnoOf(error) === "ENOENT") return [];
      throw error;
    }
  }

  /** Leaves the store out of this view; its files stay. */
  remove(name: string): Promise<void> {
    this.#removed.add(parseStoreName(name));
    return Promise.resolve();
  }
}
