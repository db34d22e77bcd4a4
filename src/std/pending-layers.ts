/**
 * What a store's transactions wrote and its disk does not hold yet, in layers that are written one after the other.
 *
 *   set() -> active map ---freeze()---> waiting: [newest .. oldest] ---oldest() is written, drop()---> the store below
 *
 * One layer is one transaction of the store below, so its size bounds three things there: the memory for the pages that it changes
 * (LMDB never gives those of its largest transaction back), the time for which handing it over keeps the event loop, and what a
 * disk has to take at once. Layers are cut between transactions, never inside one. A few may wait; where the disk does not keep up with
 * that, the active map grows, and a larger layer costs less for each of its records.
 */
import type { Overlaid } from "./layers.ts";
import { assert } from "./assert.ts";
import { SortedMap, type SortedView } from "./sorted-map.ts";

/** With this many records the active map is large enough for a layer: some 3 ms to hand to LMDB, at most 8 MiB of leaf pages. */
export const LAYER_RECORD_COUNT = 2048;

/** The same in bytes of keys and values. */
export const LAYER_SIZE_BYTES = 1024 * 1024;

/** Layers that wait at most, the one that is being written included: each costs a lookup in every read. */
export const LAYER_COUNT_MAX = 8;

/** Records that wait in all layers, above which nothing more is to be taken unless the disk takes some: bounds memory. */
export const PENDING_RECORD_COUNT_MAX = 262_144;

/** The same in bytes. */
export const PENDING_SIZE_BYTES_MAX = 128 * 1024 * 1024;

/** A layer that nothing more is written to. */
export interface PendingLayer {
  readonly records: SortedView<Overlaid>;
  /** Of keys and values together; a key that was written twice counts twice. */
  readonly sizeBytes: number;
}

/** The layers of one store. */
export class PendingLayers {
  #active = new SortedMap<Overlaid>();
  #activeSizeBytes = 0;
  /** Newest first. */
  #waiting: readonly PendingLayer[] = [];
  #overlays: readonly SortedView<Overlaid>[] = [this.#active];

  /** What reads go through, newest first; the first one changes with every write. Ask again after every wait. */
  get overlays(): readonly SortedView<Overlaid>[] {
    return this.#overlays;
  }

  /** As overlays, as they are now. */
  frozenOverlays(): readonly SortedView<Overlaid>[] {
    return [this.#active.view(), ...this.#overlays.slice(1)];
  }

  /** Of the active map: to be given back to restore(). */
  get activeSizeBytes(): number {
    return this.#activeSizeBytes;
  }

  /** Writes to the active map. Returns what that held under the key. */
  set(key: Uint8Array, value: Overlaid): Overlaid | undefined {
    this.#activeSizeBytes += key.length + (typeof value === "symbol" ? 0 : value.length);
    return this.#active.set(key, value);
  }

  /** Takes back what set() did since the active map had that size, latest first. @param replaced what each set() returned */
  restore(
    replaced: readonly { readonly key: Uint8Array; readonly value: Overlaid | undefined }[],
    activeSizeBytes: number,
  ): void {
    for (const { key, value } of replaced.toReversed()) {
      if (value === undefined) this.#active.delete(key);
      else this.#active.set(key, value);
    }
    this.#activeSizeBytes = activeSizeBytes;
  }

  /** Whether the active map is large enough for a layer of its own. */
  isActiveLarge(): boolean {
    return this.#active.size >= LAYER_RECORD_COUNT || this.#activeSizeBytes >= LAYER_SIZE_BYTES;
  }

  /** Whether as much waits as may, in all. */
  isFull(): boolean {
    let recordCount = this.#active.size;
    let sizeBytes = this.#activeSizeBytes;
    for (const layer of this.#waiting) {
      recordCount += layer.records.size;
      sizeBytes += layer.sizeBytes;
    }
    return recordCount >= PENDING_RECORD_COUNT_MAX || sizeBytes >= PENDING_SIZE_BYTES_MAX;
  }

  /**
   * Makes a layer of the active map.
   * @returns the newest layer, which with those below it holds all that was written; undefined when there is none. "later" when
   *   LAYER_COUNT_MAX wait already and the active map is not empty
   */
  freeze(): PendingLayer | undefined | "later" {
    if (this.#active.size === 0) return this.#waiting[0];
    if (this.#waiting.length >= LAYER_COUNT_MAX) return "later";
    const layer: PendingLayer = { records: this.#active, sizeBytes: this.#activeSizeBytes };
    this.#active = new SortedMap();
    this.#activeSizeBytes = 0;
    this.#arrange([layer, ...this.#waiting]);
    return layer;
  }

  /** The layer to be written next; undefined when none waits. */
  oldest(): PendingLayer | undefined {
    return this.#waiting.at(-1);
  }

  /** Whether a layer still waits. */
  has(layer: PendingLayer): boolean {
    return this.#waiting.includes(layer);
  }

  /** Forgets the oldest layer, which the store below holds now. */
  drop(layer: PendingLayer): void {
    assert(layer === this.oldest(), "layers are written in their order");
    this.#arrange(this.#waiting.slice(0, -1));
  }

  #arrange(waiting: readonly PendingLayer[]): void {
    this.#waiting = waiting;
    this.#overlays = [this.#active, ...waiting.map(({ records }) => records)];
  }
}
