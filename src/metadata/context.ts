/**
 * What applying one command works with: an overlay over the transaction, the counters, and the numbers of the command.
 *
 * Every write of a command goes into the overlay first; finish() puts it into the transaction. A command that
 * is refused throws a DriveError and its overlay is dropped, so a refusal cannot leave half of anything behind. Holds nothing
 * beyond one command.
 */
import type { Change } from "../drive/change.ts";
import type { Entry } from "../drive/entry.ts";
import { DriveError, type ErrorReason } from "../drive/errors.ts";
import {
  BATCH_ITEM_COUNT_MAX,
  CHANGE_COUNT_MAX,
  COPIER_COUNT_MAX,
  COPY_CHAIN_COUNT_MAX,
  COPY_PUSH_COUNT_MAX,
  MEMBER_COUNT_MAX,
  REQUEST_COUNT_MAX,
  TASK_ENDED_COUNT_MAX,
  TASK_FINDING_COUNT_MAX,
  TASK_OPEN_COUNT_MAX,
  UPLOAD_COUNT_MAX,
} from "../drive/limits.ts";
import { getThrough, rangeThrough, REMOVED } from "../std/layers.ts";
import type { KeyRange, KeyValue, OrderedReader, OrderedTransaction } from "../std/ordered-store.ts";
import {
  afterPrefix,
  changeKey,
  copiesChangeKey,
  makeKey,
  NOTHING,
  numberInKey,
  STATE_KEY,
  TABLE,
} from "./keys.ts";
import { Overlay } from "./overlay.ts";
import { feedCodec, stateCodec, type StateRecord } from "./records.ts";
import type { Codec } from "./wire.ts";

/** Events that are trimmed from the feed at once when it is over its limit, so that trimming costs little per command. */
const TRIM_COUNT = 64;

/** Bounds that tests make small. Every member of a cluster has the same ones, or their states would differ. */
export interface StateMachineLimits {
  readonly batchItemCountMax: number;
  readonly changeCountMax: number;
  readonly copierCountMax: number;
  readonly copyChainCountMax: number;
  readonly copyPushCountMax: number;
  readonly memberCountMax: number;
  readonly requestCountMax: number;
  readonly taskEndedCountMax: number;
  readonly taskFindingCountMax: number;
  readonly taskOpenCountMax: number;
  readonly uploadCountMax: number;
}

/** The bounds of drive/limits.ts. */
export const DEFAULT_LIMITS: StateMachineLimits = {
  batchItemCountMax: BATCH_ITEM_COUNT_MAX,
  changeCountMax: CHANGE_COUNT_MAX,
  copierCountMax: COPIER_COUNT_MAX,
  copyChainCountMax: COPY_CHAIN_COUNT_MAX,
  copyPushCountMax: COPY_PUSH_COUNT_MAX,
  memberCountMax: MEMBER_COUNT_MAX,
  requestCountMax: REQUEST_COUNT_MAX,
  taskEndedCountMax: TASK_ENDED_COUNT_MAX,
  taskFindingCountMax: TASK_FINDING_COUNT_MAX,
  taskOpenCountMax: TASK_OPEN_COUNT_MAX,
  uploadCountMax: UPLOAD_COUNT_MAX,
};

const FIRST_STATE: StateRecord = {
  clusterTimeMs: 0,
  // 1 is the root.
  nextEntryId: 2,
  nextContentId: 1,
  fileCount: 0,
  directoryCount: 0,
  openUploadCount: 0,
  contentBytes: 0,
  extentCount: 0,
  fullExtentCount: 0,
  underExtentCount: 0,
  suspectExtentCount: 0,
  requestCount: 0,
  changeCount: 0,
  changesTrimmedIndex: 0,
  pendingCopyCount: 0,
  memberCount: 0,
  removedMemberCount: 0,
  corruptExtentCount: 0,
  lostExtentCount: 0,
  pendingExtentCount: 0,
  singleExtentCount: 0,
  uncopiedExtentCount: 0,
  missingCopyBytes: 0,
  movingExtentCount: 0,
  scrubRequestTimeMs: 0,
  copiesChangeCount: 0,
  copiesTrimmedIndex: 0,
  featureLevel: 0,
};

/** The record of counters written or read last, beside its bytes: the next command needs the same, and bytes never change. */
let known: { readonly bytes: Uint8Array; readonly state: Readonly<StateRecord> } | undefined;

/** The counters as `reader` has them; the caller's own. */
export function readState(reader: OrderedReader): StateRecord {
  return { ...peekState(reader) };
}

/** The counters as `reader` has them, to look at. */
export function peekState(reader: OrderedReader): Readonly<StateRecord> {
  const bytes = reader.get(STATE_KEY);
  if (bytes === undefined) return FIRST_STATE;
  if (known?.bytes !== bytes) known = { bytes, state: stateCodec.decode(bytes) };
  return known.state;
}

/** The record under `key`, decoded. */
export function readRecord<T>(reader: OrderedReader, key: Uint8Array, codec: Codec<T>): T | undefined {
  const bytes = reader.get(key);
  return bytes === undefined ? undefined : codec.decode(bytes);
}

/** At most `countMax` records whose keys start with `prefix`. */
export function scanPrefix(reader: OrderedReader, prefix: Uint8Array, countMax: number): KeyValue[] {
  return [...reader.range({ from: prefix, to: afterPrefix(prefix), countMax })];
}

/** Whether any key starts with `prefix`. */
export function hasPrefix(reader: OrderedReader, prefix: Uint8Array): boolean {
  return scanPrefix(reader, prefix, 1).length > 0;
}

/** Refuses the command. */
export function refuse(
  reason: ErrorReason,
  message: string,
  metadata: Readonly<Record<string, string>> = {},
): never {
  throw new DriveError(reason, message, metadata);
}

/** The work on one command. */
export class ApplyContext implements OrderedReader {
  readonly index: number;
  readonly wallTimeMs: number;
  readonly state: StateRecord;
  readonly limits: StateMachineLimits;
  /** Names carried into unfinished copies so far; copies.ts bounds it. */
  pushCount = 0;
  /** What is known about directories within this command: the root at which a walk up from them ends, 0 for none. */
  readonly roots = new Map<number, number>();
  readonly #below: OrderedTransaction;
  readonly #overlay = new Overlay();
  readonly #firstNewEntryId: number;
  readonly #overlays = [this.#overlay];
  readonly #getBelow: (key: Uint8Array) => Uint8Array | undefined;
  readonly #rangeBelow: (range: KeyRange) => Iterable<KeyValue>;
  #position = 0;

  constructor(
    below: OrderedTransaction,
    command: { readonly index: number; readonly wallTimeMs: number; readonly limits: StateMachineLimits },
  ) {
    const { index, wallTimeMs, limits } = command;
    this.#below = below;
    this.limits = limits;
    this.index = index;
    this.wallTimeMs = wallTimeMs;
    this.#getBelow = (key) => below.get(key);
    this.#rangeBelow = (range) => below.range(range);
    this.state = readState(below);
    this.#firstNewEntryId = this.state.nextEntryId;
  }

  get(key: Uint8Array): Uint8Array | undefined {
    return getThrough(this.#overlays, this.#getBelow, key);
  }

  range(range: KeyRange): Iterable<KeyValue> {
    return rangeThrough(this.#overlays, this.#rangeBelow, range);
  }

  put(key: Uint8Array, value: Uint8Array): void {
    this.#overlay.set(key, value, false);
  }

  /** As put(), for a record that certainly is not there: its key holds a number never given before, or it was looked for. */
  insert(key: Uint8Array, value: Uint8Array): void {
    this.#overlay.set(key, value, true);
  }

  delete(key: Uint8Array): void {
    this.#overlay.set(key, REMOVED, false);
  }

  /** Whether an id was given by this command. */
  isNewEntry(entryId: number): boolean {
    return entryId >= this.#firstNewEntryId;
  }

  /** An id for a new entry or upload. */
  newEntryId(): number {
    const id = this.state.nextEntryId;
    this.state.nextEntryId += 1;
    return id;
  }

  /** Adds an event to the feed. */
  emit(
    kind: Change["kind"],
    entry: Entry,
    previous?: { readonly parentId: number; readonly name: string },
  ): void {
    const change: Change = { index: this.index, position: this.#position, kind, entry, previous };
    this.insert(changeKey(this.index, this.#position), feedCodec.encode(change));
    this.#position += 1;
    this.state.changeCount += 1;
  }

  /** Says that copies of an extent of a content changed; those of a content that this command made need no word. */
  emitCopies(contentId: number): void {
    const key = copiesChangeKey(this.index, contentId);
    if (this.#overlay.get(key) !== undefined) return;
    this.insert(key, NOTHING);
    this.state.copiesChangeCount += 1;
  }

  /** How many records the command wants to write or remove so far. */
  get writeCount(): number {
    return this.#overlay.size;
  }

  /** Writes everything into the transaction. The context must not be used afterwards. */
  finish(): void {
    this.#trimChanges();
    this.#trimCopiesChanges();
    const bytes = stateCodec.encode(this.state);
    this.put(STATE_KEY, bytes);
    this.#overlay.writeTo(this.#below);
    known = { bytes, state: this.state };
  }

  #trimChanges(): void {
    const { state } = this;
    const { changeCountMax } = this.limits;
    if (state.changeCount <= changeCountMax) return;
    const excess = state.changeCount - changeCountMax + Math.min(TRIM_COUNT, changeCountMax >>> 1);
    for (const { key } of this.#oldest(TABLE.change, state.changesTrimmedIndex, excess)) {
      this.delete(key);
      state.changeCount -= 1;
      state.changesTrimmedIndex = Math.max(state.changesTrimmedIndex, numberInKey(key, 0));
    }
  }

  #trimCopiesChanges(): void {
    const { state } = this;
    const { changeCountMax } = this.limits;
    if (state.copiesChangeCount <= changeCountMax) return;
    const excess = state.copiesChangeCount - changeCountMax + Math.min(TRIM_COUNT, changeCountMax >>> 1);
    for (const { key } of this.#oldest(TABLE.copiesChange, state.copiesTrimmedIndex, excess)) {
      this.delete(key);
      state.copiesChangeCount -= 1;
      state.copiesTrimmedIndex = Math.max(state.copiesTrimmedIndex, numberInKey(key, 0));
    }
  }

  /**
   * The first records of a table of events that was trimmed up to `trimmedIndex`. What was trimmed before stays in the store as
   * removals until its next flush, tens of thousands of them in a busy minute, so the way from the beginning of the table is long.
   */
  #oldest(table: number, trimmedIndex: number, countMax: number): KeyValue[] {
    const to = afterPrefix(makeKey(table, []));
    return [...this.range({ from: makeKey(table, [trimmedIndex]), to, countMax })];
  }
}
