/**
 * Keeps a node's index of names behind its own tree: a scan of all names, then the feed. One loop a node, in small slices.
 *
 * The index starts over by itself when it is missing, of another cluster, ahead of the tree, or so far behind that the feed was
 * trimmed. The scan begins with the applied index of that moment; rows may change while it runs, and the feed since then is
 * applied over it, which gives the same names whatever of it the scan saw already.
 */
import { PacedLoop } from "../cluster/paced-loop.ts";
import type { MetadataPort } from "../cluster/metadata-port.ts";
import { DriveError } from "../drive/errors.ts";
import { cursorOfText, cursorText, feedAfter, findById, scanNames } from "../metadata/feed.ts";
import { clusterInfo } from "../metadata/view.ts";
import { assert, must } from "../std/assert.ts";
import type { Clock } from "../std/clock.ts";
import { isNoSpace } from "../std/disk.ts";
import type { OrderedStore, OrderedStoreProvider } from "../std/ordered-store.ts";
import { foldName } from "./name-grams.ts";
import { NameIndex, type NameIndexState } from "./name-index.ts";

/** Names of a scan, or events, that one slice takes: about two milliseconds. */
export const FOLLOW_BATCH_COUNT = 400;
/** Pause while there is more to do: other work goes first. */
const BUSY_MS = 2;
/** Pause when it has caught up: what comes meanwhile is taken in at once. */
const IDLE_MS = 200;
/** Commands without names after which the index says how far it is all the same. */
const POSITION_COUNT_MAX = 1000;
/** How often what changed is made durable. A crash falls back to the last time. */
const FLUSH_INTERVAL_MS = 10_000;
/** Blocks that one slice of the sweep looks at. */
const SWEEP_BLOCK_COUNT = 1;

const STORE_NAME = "names";

/** What a NameFollower needs. */
export interface NameFollowerOptions {
  readonly clock: Clock;
  readonly port: MetadataPort;
  readonly stores: OrderedStoreProvider;
  /** Told of operating errors; the loop goes on. */
  readonly onError?: ((error: DriveError) => void) | undefined;
  /** Told when the index starts over, and why. */
  readonly onRebuild?: ((why: string) => void) | undefined;
}

/** The follower and the index it keeps. */
export class NameFollower {
  readonly #options: NameFollowerOptions;
  readonly #loop: PacedLoop;
  #store: OrderedStore | undefined;
  #index: NameIndex | undefined;
  /** Why there is no index, when there is none. */
  #whyNone = "there is none yet";
  /** How far the feed was looked at; what the index says may be less while nothing of it was about names. */
  #followedIndex = 0;
  #isRebuildWanted = false;
  #sweepFrom: number | undefined = 0;
  #dirty = false;
  #flushedAtMs: number;

  constructor(options: NameFollowerOptions) {
    this.#options = options;
    this.#flushedAtMs = options.clock.monotonicMs();
    this.#loop = new PacedLoop({
      clock: options.clock,
      idleMs: IDLE_MS,
      busyMs: BUSY_MS,
      work: () => this.round(),
      onError: options.onError,
    });
  }

  /** Begins to follow. */
  start(): void {
    this.#loop.start();
  }

  /** Ends following and closes the store. */
  async stop(): Promise<void> {
    await this.#loop.stop();
    const store = this.#store;
    this.#store = undefined;
    this.#index = undefined;
    if (store === undefined) return;
    try {
      await store.flush();
    } catch (error) {
      // What is missing from it is taken from the feed at the next start.
      if (!isNoSpace(error)) throw error;
    }
    await store.close();
  }

  /** The index and how far it is. @throws DriveError CATALOG_UNAVAILABLE while it is being built */
  ready(): { readonly index: NameIndex; readonly asOfIndex: number } {
    const state = this.#index?.state();
    if (this.#index === undefined || state === undefined || state.scan !== undefined) {
      throw new DriveError("CATALOG_UNAVAILABLE", "The index of names of this node is being built.");
    }
    return { index: this.#index, asOfIndex: Math.max(state.appliedIndex, this.#followedIndex) };
  }

  /** Commands that the index is behind the tree; undefined while it is being built. */
  lagCount(): number | undefined {
    const state = this.#index?.state();
    if (state === undefined || state.scan !== undefined) return undefined;
    return Math.max(0, this.#options.port.appliedIndex() - Math.max(state.appliedIndex, this.#followedIndex));
  }

  /** Lets the index be built anew. */
  rebuild(): void {
    this.#isRebuildWanted = true;
    this.#loop.wake();
  }

  /** One slice of work; for the loop and for tests. "busy" when there is more. */
  async round(): Promise<"busy" | "idle"> {
    const index = await this.#open();
    const reader = this.#options.port.reader();
    const clusterId = clusterInfo(reader)?.clusterId;
    if (clusterId === undefined) return "idle";
    const appliedIndex = this.#options.port.appliedIndex();
    const state = index.state();
    if (state === undefined) return this.#startOver(this.#whyNone, clusterId, appliedIndex);
    if (state.clusterId !== clusterId)
      return this.#startOver("it is another cluster's", clusterId, appliedIndex);
    if (state.appliedIndex > appliedIndex) return this.#startOver("it is ahead", clusterId, appliedIndex);
    if (this.#isRebuildWanted) return this.#startOver("it was asked for", clusterId, appliedIndex);
    if (state.scan !== undefined) return this.#scan(index, state);
    const followed = this.#follow(index, state, appliedIndex);
    if (followed === "lost")
      return this.#startOver("changes it needs are not kept any more", clusterId, appliedIndex);
    await this.#flushNow(false);
    if (followed === "busy") return "busy";
    return this.#sweep(index);
  }

  async #open(): Promise<NameIndex> {
    if (this.#index !== undefined) return this.#index;
    const { stores } = this.#options;
    const condition = await stores.check(STORE_NAME);
    if (condition.kind === "damaged") {
      // Everything in it is in the tree too.
      await stores.remove(STORE_NAME);
      this.#whyNone = `it was damaged: ${condition.reason}`;
    }
    this.#store = await stores.open(STORE_NAME);
    this.#index = new NameIndex(this.#store);
    return this.#index;
  }

  async #startOver(why: string, clusterId: string, appliedIndex: number): Promise<"busy"> {
    this.#options.onRebuild?.(why);
    const { stores } = this.#options;
    const old = must(this.#store, "the store of the index");
    this.#followedIndex = 0;
    this.#index = undefined;
    this.#store = undefined;
    await (old.discard?.() ?? old.close());
    await stores.remove(STORE_NAME);
    const index = await this.#open();
    index.apply(new Map(), { clusterId, appliedIndex, scan: "" });
    this.#isRebuildWanted = false;
    return "busy";
  }

  #scan(index: NameIndex, state: NameIndexState): "busy" {
    assert(state.scan !== undefined, "a scan is under way");
    const cursor = state.scan === "" ? undefined : cursorOfText(state.scan);
    // In the order of ids, so that each block is written once or twice and not once for every name in it.
    const { names, next } = scanNames(this.#options.port.reader(), cursor, FOLLOW_BATCH_COUNT);
    const folded = new Map(names.map(({ entryId, name }) => [entryId, foldName(name)]));
    index.apply(folded, { ...state, scan: next === undefined ? undefined : cursorText(next) });
    this.#dirty = true;
    // What lies below deleted folders was taken in too.
    this.#sweepFrom = 0;
    return "busy";
  }

  #follow(index: NameIndex, state: NameIndexState, appliedIndex: number): "busy" | "idle" | "lost" {
    const from = Math.max(state.appliedIndex, this.#followedIndex);
    if (from >= appliedIndex) return "idle";
    let slice;
    try {
      slice = feedAfter(this.#options.port.reader(), from, appliedIndex, FOLLOW_BATCH_COUNT);
    } catch (error) {
      if (error instanceof DriveError && error.reason === "RANGE_NOT_SATISFIABLE") return "lost";
      throw error;
    }
    const names = new Map<number, string | undefined>();
    for (const { kind, entry } of slice.changes) {
      if (kind === "updated") continue;
      names.set(entry.entryId, kind === "deleted" ? undefined : foldName(entry.name));
      if (kind === "deleted" && entry.kind === "directory") this.#sweepFrom = 0;
    }
    if (names.size > 0 || slice.throughIndex - state.appliedIndex > POSITION_COUNT_MAX) {
      index.apply(names, { ...state, appliedIndex: slice.throughIndex });
      this.#dirty = true;
    }
    // Last: what a full store does not take is followed again.
    this.#followedIndex = slice.throughIndex;
    return slice.more ? "busy" : "idle";
  }

  // Takes out names below deleted folders, a block at a time.
  #sweep(index: NameIndex): "busy" | "idle" {
    if (this.#sweepFrom === undefined) return "idle";
    const { blocks, examinedTo } = index.blocks({
      bits: [],
      from: this.#sweepFrom,
      descending: false,
      countMax: SWEEP_BLOCK_COUNT,
    });
    const reader = this.#options.port.reader();
    for (const block of blocks) index.sweep(block, (entryId) => findById(reader, entryId) !== undefined);
    this.#sweepFrom = examinedTo === undefined ? undefined : examinedTo + 1;
    return this.#sweepFrom === undefined ? "idle" : "busy";
  }

  async #flushNow(isLast: boolean): Promise<void> {
    const now = this.#options.clock.monotonicMs();
    if (!this.#dirty || (!isLast && now - this.#flushedAtMs < FLUSH_INTERVAL_MS)) return;
    this.#flushedAtMs = now;
    // Still to be done when the disk is full: the next try comes an interval later.
    await this.#store?.flush();
    this.#dirty = false;
  }
}
