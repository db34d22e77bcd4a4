/**
 * The end of a log that is being written: records queue up in memory, are written in order, and one fdatasync covers
 * everything appended before it (group commit: DeWitt et al., "Implementation Techniques for Main Memory Database
 * Systems", SIGMOD 1984).
 *
 *   append()          pending[]            file              disk
 *   ------------> [ r7 r8 r9 ] --write--> r5 r6 ----sync---> r1 .. r4
 *   #head                        #written            #durable
 *
 * Invariant: durable <= written <= head. append() assigns its place at once; a write that fails for want of space is
 * undone, everything behind `written` is forgotten, and those who wait for it hear NO_SPACE; any other failure is final.
 * Writing goes on while a sync runs; the next sync starts when it has ended. Knows nothing of directories and tables.
 */
import type { DriveError } from "../drive/errors.ts";
import { assert, must } from "../std/assert.ts";
import type { Clock, Timer } from "../std/clock.ts";
import { deferred, type Deferred } from "../std/deferred.ts";
import type { DiskFile } from "../std/disk.ts";
import {
  comparePositions,
  encodeRecord,
  KIND_FOOTER,
  KIND_MARK,
  recordSizeBytes,
  type Position,
  type RecordLocation,
} from "./record.ts";
import type { Cursor } from "./recover-log.ts";
import { isNoSpace } from "../std/disk.ts";
import { noSpaceError, SyncError, unlessFull } from "./segment-error.ts";
import { syncFile } from "./segment-table.ts";

/** Bytes and records of one write() at most. */
const WRITE_SIZE_BYTES_MAX = 4 * 1024 * 1024;
const WRITE_RECORD_COUNT_MAX = 512;

/** A log that was idle this long gets a mark, so that later damage to its last records is known to be damage. */
export const IDLE_MARK_DELAY_MS = 1000;

const EMPTY = new Uint8Array(0);

/** Bytes of a footer, which always has room in its segment. */
export const FOOTER_SIZE_BYTES = recordSizeBytes(0, 0);

/** What an appender needs. */
export interface AppenderOptions {
  readonly clock: Clock;
  readonly file: DiskFile;
  readonly identitySeed: number;
  /** Bytes of the header of a segment: where its first record stands. */
  readonly headerSizeBytes: number;
  readonly start: Cursor;
  /** A segment that has a record is followed by a new one rather than grow beyond this; below 4 GiB. */
  readonly segmentSizeBytesMax: number;
  /** When so many bytes were written since the last sync, one is started in the background. */
  readonly syncPaceBytes: number;
  /**
   * Makes the file of the next segment, durably, before any record of it is written. Rejects with the disk's error when
   * nothing has changed, else with a SyncError. Undefined: the log has one segment only.
   */
  readonly openNext:
    ((segmentId: number, chainSeed: number, durable: Position) => Promise<DiskFile>) | undefined;
  /**
   * Called when a write that failed for want of space took back all places from `from` on, before those who wait for them
   * are told. Whoever remembers such a place must forget it now: other records, marks and footers among them, get it next.
   */
  readonly onTakenBack?: ((from: Position) => void) | undefined;
  /**
   * Called once for a segment whose file, before a write behind its end, is found shorter than it was written: the write would hide it
   * from whoever looks at the size. Costs one look at the size for each write; undefined: nobody asks.
   */
  readonly onCut?: ((segmentId: number) => void) | undefined;
  /** Called once with the failure that ended the log; the process must end. */
  readonly onFatal: (error: Error) => void;
}

interface Pending {
  readonly at: Position;
  readonly parts: readonly Uint8Array[];
  readonly sizeBytes: number;
  readonly checksum: number;
  readonly sealed: boolean;
}

interface Waiter {
  readonly position: Position;
  readonly done: Deferred<void>;
}

/** Appends records to a log and makes them durable in groups. */
export class SegmentAppender {
  readonly #options: AppenderOptions;
  #file: DiskFile;
  #head: Cursor;
  #written: Cursor;
  #durable: Cursor;
  #pending: Pending[] = [];
  #pendingBytes = 0;
  #unsyncedBytes = 0;
  #writeWaiters: Waiter[] = [];
  #syncWaiters: Waiter[] = [];
  #writing = false;
  #syncing = false;
  /** Settle, never reject, when the loops that run now have ended. */
  #writeDone: Promise<void> = Promise.resolve();
  #syncDone: Promise<void> = Promise.resolve();
  #syncWanted = false;
  #syncCount = 0;
  #failure: Error | undefined;
  #idleTimer: Timer | undefined;
  #marked = false;
  /** The segment that `onCut` was told of. */
  #cutSegmentId: number | undefined;
  #closed = false;

  constructor(options: AppenderOptions) {
    assert(options.segmentSizeBytesMax < 2 ** 32, "offsets in a segment have 32 bits");
    this.#options = options;
    this.#file = options.file;
    this.#head = options.start;
    this.#written = options.start;
    this.#durable = options.start;
  }

  /** Where the next record would go. */
  get head(): Cursor {
    return this.#head;
  }

  /** How far everything is in the file. */
  get written(): Cursor {
    return this.#written;
  }

  /** How far everything is durable. */
  get durable(): Cursor {
    return this.#durable;
  }

  /** Bytes appended and not yet in the file. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  /** Syncs of segment files so far, for tests and metrics. */
  get syncCount(): number {
    return this.#syncCount;
  }

  /** The file of the segment being written. */
  get file(): DiskFile {
    return this.#file;
  }

  /** The failure that ended the log, if one did. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** Whether a record of these sizes fits without a further segment. */
  fits(headSizeBytes: number, bodySizeBytes: number): boolean {
    const size = recordSizeBytes(headSizeBytes, bodySizeBytes);
    const { segmentSizeBytesMax, headerSizeBytes } = this.#options;
    if (this.#head.sealed) return false;
    if (this.#head.offset === headerSizeBytes) return true;
    return this.#head.offset + size + FOOTER_SIZE_BYTES <= segmentSizeBytesMax;
  }

  /**
   * Queues a record and assigns its place. Whether it gets there is what flush() or commit() say, called before the next
   * await: a failed write takes back all places behind it. `head` is copied; `body` must not change until then.
   */
  append(kind: number, head: Uint8Array, body: Uint8Array): RecordLocation {
    if (this.#failure !== undefined) throw this.#failure;
    assert(!this.#closed, "append() after close()");
    if (!this.fits(head.length, body.length)) this.#leave();
    this.#marked = kind === KIND_MARK;
    return this.#push(kind, head, body);
  }

  /**
   * Leaves this segment for a new one, however much room there is in it; resolves when the new one has its first record, a mark, and
   * everything before is durable. Errors: as commit().
   */
  async rollOver(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    assert(!this.#closed, "rollOver() after close()");
    this.#leave();
    this.#marked = true;
    this.#push(KIND_MARK, EMPTY, EMPTY);
    await this.commit();
  }

  /** Resolves when everything appended before is in the file: readable, not durable. Errors: NO_SPACE; the failure. */
  async flush(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#pending.length === 0) return;
    const waiter: Waiter = { position: this.#head, done: deferred<void>() };
    this.#writeWaiters.push(waiter);
    if (!this.#writing) {
      this.#writing = true;
      this.#writeDone = this.#write();
    }
    await waiter.done.promise;
  }

  /** Resolves when everything appended before is durable. Errors: NO_SPACE (it is not in the log); the failure. */
  async commit(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (comparePositions(this.#head, this.#durable) <= 0) return;
    const waiter: Waiter = { position: this.#head, done: deferred<void>() };
    this.#syncWaiters.push(waiter);
    this.#startSync();
    await waiter.done.promise;
  }

  /** Starts a sync in the background if anything is not durable. */
  requestSync(): void {
    if (this.#failure !== undefined || comparePositions(this.#head, this.#durable) <= 0) return;
    this.#syncWanted = true;
    this.#startSync();
  }

  /** Makes everything durable, marks it as promised and ends. The file stays open for its owner to close. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#idleTimer?.cancel();
    if (this.#failure === undefined) {
      // What a full disk has not taken was not acknowledged, and its writers hear so themselves.
      await unlessFull(this.commit());
      if (!this.#marked && this.fits(0, 0)) {
        this.append(KIND_MARK, EMPTY, EMPTY);
        await unlessFull(this.commit());
      }
    }
    this.#closed = true;
    this.#idleTimer?.cancel();
  }

  /** Ends without writing anything more; pending records are dropped, and those who wait for them hear `error`. */
  async abandon(error: Error): Promise<void> {
    this.#closed = true;
    this.#idleTimer?.cancel();
    this.#fail(error, false);
    await Promise.all([this.#writeDone, this.#syncDone]);
  }

  #leave(): void {
    if (!this.#head.sealed) this.#push(KIND_FOOTER, EMPTY, EMPTY);
    assert(this.#options.openNext !== undefined, `${this.#file.path} is full and has no successor`);
    const { segmentId, chain } = this.#head;
    const offset = this.#options.headerSizeBytes;
    this.#head = { segmentId: segmentId + 1, offset, chain, sealed: false };
  }

  #push(kind: number, head: Uint8Array, body: Uint8Array): RecordLocation {
    const at: Position = { segmentId: this.#head.segmentId, offset: this.#head.offset };
    const context = {
      identitySeed: this.#options.identitySeed,
      at,
      previous: this.#head.chain,
      durable: this.#durable,
    };
    const { prefix, checksum, sizeBytes } = encodeRecord(context, kind, head, body);
    const parts = body.length > 0 ? [prefix, body] : [prefix];
    const sealed = kind === KIND_FOOTER;
    this.#pending.push({ at, parts, sizeBytes, checksum, sealed });
    this.#pendingBytes += sizeBytes;
    this.#head = { segmentId: at.segmentId, offset: at.offset + sizeBytes, chain: checksum, sealed };
    this.#idleTimer?.cancel();
    this.#idleTimer = undefined;
    return { ...at, sizeBytes };
  }

  #startSync(): void {
    if (this.#syncing) return;
    this.#syncing = true;
    this.#syncDone = this.#syncRounds();
  }

  async #syncRounds(): Promise<void> {
    // Everyone who appends in this turn of the event loop shares the first round.
    await Promise.resolve();
    while (this.#failure === undefined && (this.#syncWaiters.length > 0 || this.#syncWanted)) {
      this.#syncWanted = false;
      try {
        await this.flush();
      } catch {
        // Those who wait for what was dropped have been told; the rest is still to be synced.
      }
      if (this.#isFailed()) break;
      const target = this.#written;
      if (comparePositions(target, this.#durable) > 0) {
        this.#unsyncedBytes = 0;
        try {
          this.#syncCount += 1;
          await syncFile(this.#file);
        } catch (error) {
          this.#fail(error as Error, true);
          break;
        }
      }
      this.#advanceDurable(target);
    }
    this.#syncing = false;
    this.#armIdleMark();
  }

  /** Asked anew after every await, where the compiler would believe an older answer. */
  #isFailed(): boolean {
    return this.#failure !== undefined;
  }

  #advanceDurable(to: Cursor): void {
    if (comparePositions(to, this.#durable) >= 0) this.#durable = to;
    this.#syncWaiters = settle(this.#syncWaiters, this.#durable);
  }

  async #write(): Promise<void> {
    while (this.#pending.length > 0 && this.#failure === undefined) {
      const next = must(this.#pending[0], "pending is not empty").at.segmentId;
      if (next !== this.#written.segmentId) await this.#roll(next);
      else {
        if (this.#options.onCut !== undefined && this.#cutSegmentId !== next) await this.#lookForCut();
        if (!this.#isFailed()) await this.#writeBatch();
      }
    }
    this.#writing = false;
    this.#writeWaiters = settle(this.#writeWaiters, this.#written);
  }

  async #lookForCut(): Promise<void> {
    const { segmentId, offset } = this.#written;
    // A file that does not tell its size says so to the write that follows.
    const sizeBytes = await this.#file.size().catch(() => offset);
    if (sizeBytes >= offset) return;
    this.#cutSegmentId = segmentId;
    this.#options.onCut?.(segmentId);
  }

  async #writeBatch(): Promise<void> {
    const batch: Pending[] = [];
    const parts: Uint8Array[] = [];
    let sizeBytes = 0;
    for (const record of this.#pending) {
      const full =
        sizeBytes + record.sizeBytes > WRITE_SIZE_BYTES_MAX || batch.length >= WRITE_RECORD_COUNT_MAX;
      if (record.at.segmentId !== this.#written.segmentId || (full && batch.length > 0)) break;
      batch.push(record);
      parts.push(...record.parts);
      sizeBytes += record.sizeBytes;
    }
    try {
      await this.#file.write(this.#written.offset, parts);
    } catch (error) {
      await this.#undo(error as Error);
      return;
    }
    if (this.#failure !== undefined) return;
    const last = must(batch.at(-1), "a batch is not empty");
    this.#pending = this.#pending.slice(batch.length);
    this.#pendingBytes -= sizeBytes;
    this.#unsyncedBytes += sizeBytes;
    this.#written = {
      segmentId: last.at.segmentId,
      offset: last.at.offset + last.sizeBytes,
      chain: last.checksum,
      sealed: last.sealed,
    };
    this.#writeWaiters = settle(this.#writeWaiters, this.#written);
    if (this.#unsyncedBytes >= this.#options.syncPaceBytes) this.requestSync();
  }

  /** Goes on to the next segment: the old one is durable before the first record of the new one is written. */
  async #roll(segmentId: number): Promise<void> {
    const openNext = must(this.#options.openNext, "a record beyond the only segment was refused by append()");
    try {
      this.#syncCount += 1;
      await syncFile(this.#file);
      this.#unsyncedBytes = 0;
      this.#advanceDurable(this.#written);
      const previous = this.#file;
      this.#file = await openNext(segmentId, this.#written.chain, this.#written);
      const offset = this.#options.headerSizeBytes;
      this.#written = { segmentId, offset, chain: this.#written.chain, sealed: false };
      this.#advanceDurable(this.#written);
      await previous.close();
    } catch (error) {
      if (isNoSpace(error)) this.#drop(noSpaceError(this.#file.path, error));
      else this.#fail(error as Error, true);
    }
  }

  /** Takes back a write that failed for want of space; any other failure is final. */
  async #undo(error: Error): Promise<void> {
    if (!isNoSpace(error)) {
      this.#fail(error, true);
      return;
    }
    try {
      // Synced, because leftovers of the failed write must not reappear between later records after a crash.
      await this.#file.truncate(this.#written.offset);
      await syncFile(this.#file);
    } catch (undoError) {
      this.#fail(new SyncError(this.#file.path, undoError), true);
      return;
    }
    this.#drop(noSpaceError(this.#file.path, error));
  }

  /** Forgets everything behind `written`; those who wait for it are told. */
  #drop(error: DriveError): void {
    this.#pending = [];
    this.#pendingBytes = 0;
    this.#head = this.#written;
    this.#marked = false;
    this.#options.onTakenBack?.(this.#written);
    this.#writeWaiters = settle(this.#writeWaiters, this.#written);
    this.#syncWaiters = rejectBehind(this.#syncWaiters, this.#written, error);
    this.#writeWaiters = rejectBehind(this.#writeWaiters, this.#written, error);
  }

  #fail(error: Error, fatal: boolean): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#idleTimer?.cancel();
    const waiters = [...this.#writeWaiters, ...this.#syncWaiters];
    this.#writeWaiters = [];
    this.#syncWaiters = [];
    this.#pending = [];
    this.#pendingBytes = 0;
    for (const waiter of waiters) waiter.done.reject(error);
    if (fatal) this.#options.onFatal(error);
  }

  #armIdleMark(): void {
    const idle = this.#pending.length === 0 && this.#syncWaiters.length === 0;
    if (this.#closed || this.#failure !== undefined || this.#marked || !idle || this.#head.sealed) return;
    this.#idleTimer?.cancel();
    this.#idleTimer = this.#options.clock.setTimer(IDLE_MARK_DELAY_MS, () => {
      this.#idleTimer = undefined;
      if (this.#closed || this.#failure !== undefined || this.#pending.length > 0 || !this.fits(0, 0)) return;
      this.append(KIND_MARK, EMPTY, EMPTY);
      // Nobody waits for a mark: when there is no space for it, the next record carries its word.
      this.requestSync();
    });
  }
}

/** Resolves the waiters up to `position`; returns those behind it. */
function settle(waiters: readonly Waiter[], position: Position): Waiter[] {
  const left: Waiter[] = [];
  for (const waiter of waiters) {
    if (comparePositions(waiter.position, position) <= 0) waiter.done.resolve();
    else left.push(waiter);
  }
  return left;
}

/** Rejects the waiters behind `position`; returns the others. */
function rejectBehind(waiters: readonly Waiter[], position: Position, error: Error): Waiter[] {
  const left: Waiter[] = [];
  for (const waiter of waiters) {
    if (comparePositions(waiter.position, position) > 0) waiter.done.reject(error);
    else left.push(waiter);
  }
  return left;
}
