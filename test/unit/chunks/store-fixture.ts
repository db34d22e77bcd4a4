/** A chunk store on a disk in memory, with the disk and the index store at hand to crash, damage and fill. */
import { DiskChunkStore, type DiskChunkStoreOptions } from "../../../src/chunks/disk-chunk-store.ts";
import type { ExtentKey } from "../../../src/drive/content.ts";
import type { MisplacedSegment } from "../../../src/segments/misplaced.ts";
import type { SegmentFault } from "../../../src/segments/segment-error.ts";
import { inlineDigester } from "../../../src/std/digest.ts";
import {
  MemoryOrderedStoreProvider,
  type MemoryOrderedStore,
} from "../../../src/std/memory-ordered-store.ts";
import { SeededPrng, type Prng } from "../../../src/std/prng.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";

/** One member's chunk store over restarts. */
export class StoreFixture {
  readonly disk = new MemoryDisk();
  /** Set: why every flush of the index fails. */
  indexFlushError: Error | undefined;
  readonly stores = new MemoryOrderedStoreProvider({
    beforeFlush: () =>
      this.indexFlushError === undefined ? Promise.resolve() : Promise.reject(this.indexFlushError),
  });
  readonly fatal: Error[] = [];
  readonly damage: { readonly extent: ExtentKey; readonly chunkIndexes: readonly number[] }[] = [];
  readonly faults: SegmentFault[] = [];
  readonly trouble: Error[] = [];
  readonly lostFiles: Pick<MisplacedSegment, "path" | "kind">[] = [];
  readonly clock = new FakeClock();
  /** Grows with every start and crash: what a process of the past complains about is not heard. */
  #generation = 0;
  readonly #overrides: Partial<DiskChunkStoreOptions>;
  #index: MemoryOrderedStore | undefined;

  constructor(overrides: Partial<DiskChunkStoreOptions> = {}) {
    this.#overrides = overrides;
  }

  /** Opens the store. */
  async open(): Promise<DiskChunkStore> {
    await this.closeIndex();
    this.#index = await this.stores.open("chunks");
    this.#generation += 1;
    const generation = this.#generation;
    const hear =
      (errors: Error[]) =>
      (error: Error): void => {
        if (generation === this.#generation) errors.push(error);
      };
    return await DiskChunkStore.open({
      disk: this.disk.process(),
      clock: this.clock,
      prng: new SeededPrng(1),
      digester: inlineDigester,
      directory: "/chunks",
      index: this.#index,
      memberId: 11,
      onFatal: hear(this.fatal),
      onDamage: (extent, chunkIndexes) => this.damage.push({ extent, chunkIndexes }),
      onFault: (fault) => this.faults.push(fault),
      onLostFile: ({ path, kind }) => this.lostFiles.push({ path, kind }),
      onTrouble: hear(this.trouble),
      reserveBytes: 0,
      ...this.#overrides,
    });
  }

  /** Power fails: what was not synced is lost by chance. */
  crash(prng: Prng): void {
    this.#generation += 1;
    this.disk.crash(prng);
    this.stores.crash(prng);
  }

  /** Closes the index store, as its owner does after the chunk store. */
  async closeIndex(): Promise<void> {
    if (this.#index?.isOpen === true) await this.#index.close();
  }

  /** Loses the index. */
  async loseIndex(): Promise<void> {
    await this.closeIndex();
    await this.stores.remove("chunks");
  }
}
