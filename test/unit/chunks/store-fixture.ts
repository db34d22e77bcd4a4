/** A chunk store on a disk in memory, with the disk and the index store at hand to crash, damage and fill. */
import { DiskChunkStore, type DiskChunkStoreOptions } from "../../../src/chunks/disk-chunk-store.ts";
import type { ExtentKey } from "../../../src/drive/content.ts";
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
  readonly stores = new MemoryOrderedStoreProvider();
  readonly fatal: Error[] = [];
  readonly damage: { readonly extent: ExtentKey; readonly chunkIndexes: readonly number[] }[] = [];
  readonly faults: SegmentFault[] = [];
  readonly trouble: Error[] = [];
  readonly #overrides: Partial<DiskChunkStoreOptions>;
  #index: MemoryOrderedStore | undefined;

  constructor(overrides: Partial<DiskChunkStoreOptions> = {}) {
    this.#overrides = overrides;
  }

  /** Opens the store. */
  async open(): Promise<DiskChunkStore> {
    if (this.#index?.isOpen === true) await this.#index.close();
    this.#index = await this.stores.open("chunks");
    return await DiskChunkStore.open({
      disk: this.disk,
      clock: new FakeClock(),
      prng: new SeededPrng(1),
      digester: inlineDigester,
      directory: "/chunks",
      index: this.#index,
      memberId: 11,
      onFatal: (error) => this.fatal.push(error),
      onDamage: (extent, chunkIndexes) => this.damage.push({ extent, chunkIndexes }),
      onFault: (fault) => this.faults.push(fault),
      onTrouble: (error) => this.trouble.push(error),
      reserveBytes: 0,
      ...this.#overrides,
    });
  }

  /** Power fails: what was not synced is lost by chance. */
  crash(prng: Prng): void {
    this.disk.crash(prng);
    this.stores.crash(prng);
  }

  /** Loses the index. */
  async loseIndex(): Promise<void> {
    if (this.#index?.isOpen === true) await this.#index.close();
    await this.stores.remove("chunks");
  }
}
