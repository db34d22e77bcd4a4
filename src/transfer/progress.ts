/**
 * What this node counts of uploads and downloads that run through it. Of a download that is all there is, and who asks gets the
 * present figures and then each change, at most ten a second, until the end; of an upload it is a part: upload-watch.ts.
 *
 * Counts never decrease. Everything is bounded: transfers remembered, watchers in all. A finished transfer is remembered until
 * newer ones need its place, so that a watcher who comes late still learns the outcome. Progress is display data: it is kept in
 * memory alone and nothing depends on it.
 */
import { canceledError } from "../cluster/deadline.ts";
import type { Progress } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import type { Clock } from "../std/clock.ts";
import { deferred, type Deferred } from "../std/deferred.ts";

/** Least time between two reports to one watcher: ten a second. */
export const PROGRESS_INTERVAL_MS = 100;
/** Transfers remembered; beyond, the oldest finished one is forgotten, or the oldest of all. */
export const PROGRESS_COUNT_MAX = 10_000;
/** Watchers at once; more are refused with OVERLOADED. */
export const PROGRESS_WATCHER_COUNT_MAX = 1000;

/** Settings of ProgressBoard; the named constants by default. */
export interface ProgressBoardOptions {
  readonly clock: Clock;
  readonly countMax?: number;
  readonly watcherCountMax?: number;
}

/** One transfer's figures, written by the transfer and read by watchers. */
export class TransferProgress {
  readonly id: string;
  readonly kind: "upload" | "download";
  sizeBytes: number | undefined;
  #phase: Progress["phase"];
  #transferredBytes = 0;
  readonly #copiedBytes: [number, number, number] = [0, 0, 0];
  #errorReason: string | undefined;
  readonly #onChanged: ((transfer: TransferProgress) => void) | undefined;
  #changed: Deferred<void> | undefined;

  /** @param onChanged called with this after each change */
  constructor(
    id: string,
    kind: "upload" | "download",
    sizeBytes: number | undefined,
    onChanged?: (transfer: TransferProgress) => void,
  ) {
    this.#onChanged = onChanged;
    this.id = id;
    this.kind = kind;
    this.sizeBytes = sizeBytes;
    this.#phase = kind === "upload" ? "receiving" : "sending";
  }

  /** Whether the transfer has ended. */
  get ended(): boolean {
    return this.#phase === "done" || this.#phase === "failed";
  }

  /** Figures now. */
  snapshot(): Progress {
    return {
      id: this.id,
      kind: this.kind,
      phase: this.#phase,
      sizeBytes: this.sizeBytes,
      transferredBytes: this.#bounded(this.#transferredBytes),
      copiedBytes: [
        this.#bounded(this.#copiedBytes[0]),
        this.#bounded(this.#copiedBytes[1]),
        this.#bounded(this.#copiedBytes[2]),
      ],
      errorReason: this.#errorReason,
    };
  }

  /** Counts bytes received from, or sent to, the client. */
  addTransferred(sizeBytes: number): void {
    this.#transferredBytes += sizeBytes;
    this.#touch();
  }

  /** Counts bytes that a further node took: the first, second or third copy of them. */
  addCopied(sizeBytes: number, copyNumber: number): void {
    if (copyNumber === 1) this.#copiedBytes[0] += sizeBytes;
    else if (copyNumber === 2) this.#copiedBytes[1] += sizeBytes;
    else this.#copiedBytes[2] += sizeBytes;
    this.#touch();
  }

  /** Enters a phase; a finished transfer stays finished. */
  enter(phase: Progress["phase"]): void {
    if (this.ended || this.#phase === phase) return;
    this.#phase = phase;
    this.#touch();
  }

  /**
   * Ends the transfer well: all of `sizeBytes` came, wherever it went through.
   * @param copiedBytes what one, two and three nodes hold of it at least
   */
  finish(sizeBytes: number, copiedBytes: Progress["copiedBytes"]): void {
    if (this.ended) return;
    this.sizeBytes = sizeBytes;
    this.#transferredBytes = Math.max(this.#transferredBytes, sizeBytes);
    for (const copy of [0, 1, 2] as const) {
      this.#copiedBytes[copy] = Math.max(this.#copiedBytes[copy], copiedBytes[copy]);
    }
    this.enter("done");
  }

  /** Ends the transfer as failed. */
  fail(reason: string): void {
    if (this.ended) return;
    this.#errorReason = reason;
    this.#phase = "failed";
    this.#touch();
  }

  /** Resolves at the next change. */
  changed(): Promise<void> {
    this.#changed ??= deferred<void>();
    return this.#changed.promise;
  }

  /** Never more than the whole. */
  #bounded(count: number): number {
    return this.sizeBytes === undefined ? count : Math.min(count, this.sizeBytes);
  }

  #touch(): void {
    this.#changed?.resolve();
    this.#changed = undefined;
    this.#onChanged?.(this);
  }
}

/** The progress of all transfers at this node. */
export class ProgressBoard {
  readonly #clock: Clock;
  readonly #countMax: number;
  readonly #watcherCountMax: number;
  readonly #transfers = new Map<string, TransferProgress>();
  #watcherCount = 0;
  #onChanged: ((transfer: TransferProgress) => void) | undefined;

  constructor(options: ProgressBoardOptions) {
    this.#clock = options.clock;
    this.#countMax = options.countMax ?? PROGRESS_COUNT_MAX;
    this.#watcherCountMax = options.watcherCountMax ?? PROGRESS_WATCHER_COUNT_MAX;
  }

  /** Tells `listener`, in place of the one before, of each change of each transfer. It is called often and must be quick. */
  tell(listener: (transfer: TransferProgress) => void): void {
    this.#onChanged = listener;
  }

  /** Transfers that have not ended, newest last, at most `countMax` of the newest. */
  running(countMax: number): readonly Progress[] {
    const found = [...this.#transfers.values()].filter((transfer) => !transfer.ended);
    return found.slice(-countMax).map((transfer) => transfer.snapshot());
  }

  /** The transfer's figures, begun when they are not there yet. */
  open(id: string, kind: "upload" | "download", sizeBytes: number | undefined): TransferProgress {
    const found = this.#transfers.get(id);
    if (found !== undefined) return found;
    if (this.#transfers.size >= this.#countMax) this.#forgetOne();
    const transfer = new TransferProgress(id, kind, sizeBytes, (each) => this.#onChanged?.(each));
    this.#transfers.set(id, transfer);
    return transfer;
  }

  /** The transfer's figures, or undefined when this node does not know it. */
  find(id: string): TransferProgress | undefined {
    return this.#transfers.get(id);
  }

  /** Forgets a transfer of which nothing more will be heard here. */
  forget(id: string): void {
    this.#transfers.delete(id);
  }

  /**
   * The figures of a transfer that is this node's alone, now and after changes, until it ends. Uploads are upload-watch.ts.
   * @throws DriveError UPLOAD_NOT_FOUND when this node does not know the transfer, OVERLOADED, CANCELED
   */
  async *watch(id: string, signal?: AbortSignal): AsyncGenerator<Progress, void, undefined> {
    const transfer = this.#transfers.get(id);
    if (transfer === undefined) {
      throw new DriveError("UPLOAD_NOT_FOUND", `No transfer ${id} is known at this node.`, { id });
    }
    const leave = this.admitWatcher();
    try {
      for (;;) {
        const changed = transfer.changed();
        const progress = transfer.snapshot();
        yield progress;
        if (progress.phase === "done" || progress.phase === "failed") return;
        await this.#wait(changed, signal);
      }
    } finally {
      leave();
    }
  }

  /**
   * Counts a watcher until the returned function is called, once.
   * @throws DriveError OVERLOADED
   */
  admitWatcher(): () => void {
    if (this.#watcherCount >= this.#watcherCountMax) {
      throw new DriveError("OVERLOADED", `${this.#watcherCountMax} watchers are served already.`, {
        watcher_count_max: String(this.#watcherCountMax),
      });
    }
    this.#watcherCount += 1;
    return () => {
      this.#watcherCount -= 1;
    };
  }

  /** Waits for the pause between reports, then for a change; the end of the transfer is a change like any other. */
  async #wait(changed: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
    const canceled = deferred<never>();
    const onAbort = (): void => {
      if (signal !== undefined) canceled.reject(canceledError(signal));
    };
    if (signal?.aborted === true) onAbort();
    signal?.addEventListener("abort", onAbort, { once: true });
    const paused = deferred<void>();
    const timer = this.#clock.setTimer(PROGRESS_INTERVAL_MS, () => paused.resolve());
    try {
      await Promise.race([paused.promise, canceled.promise]);
      await Promise.race([changed, canceled.promise]);
    } finally {
      timer.cancel();
      signal?.removeEventListener("abort", onAbort);
    }
  }

  #forgetOne(): void {
    for (const [id, transfer] of this.#transfers) {
      if (!transfer.ended) continue;
      this.#transfers.delete(id);
      return;
    }
    const [oldest] = this.#transfers.keys();
    if (oldest !== undefined) this.#transfers.delete(oldest);
  }
}
