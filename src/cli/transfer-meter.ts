/**
 * Counts what a transfer has done and shows it: a line that is redrawn on a terminal, or JSON lines.
 *
 * For uploads the copies are what the cluster reports: bytes that one, two and three nodes hold. A file that is
 * acknowledged has two verified copies at least, so the second figure reaches the end with the last file; the third may
 * come later, and `netdisk cluster status` tells. Nothing here fails a transfer.
 */
import type { Writable } from "node:stream";
import type { Clock, Timer } from "../std/clock.ts";
import { formatBytes, formatCount, formatDuration, formatQuantity } from "../std/format.ts";
import type { Output } from "./output.ts";

/** Milliseconds between redraws, and between JSON lines. */
const REDRAW_MS = 200;
const RECORD_MS = 1000;

/** Cells of the bar. */
const BAR_WIDTH = 20;

/** The part of one file in the totals; set again whenever more is known. Figures in bytes, never falling. */
export interface FileShare {
  /** Sent to, or received from, the cluster. */
  transferredBytes: number;
  /** Of these, what was there before the command began. */
  presentBytes: number;
  /** Bytes that one, two and three nodes hold; only the first counts for a download. */
  copiedBytes: [number, number, number];
}

/** Which way bytes go. */
export type TransferKind = "put" | "get";

/** Totals of one command. */
export class TransferMeter {
  readonly kind: TransferKind;
  doneCount = 0;
  skippedCount = 0;
  failedCount = 0;
  /** Bytes of files that were there already; they count as transferred while the command runs. */
  skippedBytes = 0;
  noteCount = 0;
  /** Files and bytes found so far; grows while folders are read. */
  foundCount = 0;
  foundBytes = 0;
  /** Bytes of files that are done. */
  readonly #finished: FileShare = { transferredBytes: 0, presentBytes: 0, copiedBytes: [0, 0, 0] };
  readonly #active = new Set<FileShare>();
  readonly #startMs: number;
  readonly #clock: Clock;

  constructor(kind: TransferKind, clock: Clock) {
    this.kind = kind;
    this.#clock = clock;
    this.#startMs = clock.monotonicMs();
  }

  /** Begins to count a file of `sizeBytes` (0 when unknown). */
  begin(): FileShare {
    const share: FileShare = { transferredBytes: 0, presentBytes: 0, copiedBytes: [0, 0, 0] };
    this.#active.add(share);
    return share;
  }

  /** Adds a file to the totals; without `keep` (it failed) its bytes no longer count. */
  end(share: FileShare, keep: boolean): void {
    this.#active.delete(share);
    if (keep) addShare(this.#finished, share);
  }

  /** Everything so far. */
  totals(): FileShare {
    const totals: FileShare = { transferredBytes: 0, presentBytes: 0, copiedBytes: [0, 0, 0] };
    for (const share of [this.#finished, ...this.#active]) addShare(totals, share);
    return totals;
  }

  /** Milliseconds since the start. */
  elapsedMs(): number {
    return this.#clock.monotonicMs() - this.#startMs;
  }

  /** The totals for JSON. */
  record(type: "progress" | "summary"): Record<string, unknown> {
    const { transferredBytes, copiedBytes } = this.totals();
    return {
      type,
      filesFound: this.foundCount,
      filesDone: this.doneCount,
      filesSkipped: this.skippedCount,
      filesFailed: this.failedCount,
      bytesFound: this.foundBytes,
      bytesTransferred: transferredBytes - this.skippedBytes,
      bytesSkipped: this.skippedBytes,
      ...(this.kind === "put" ? { bytesCopied: copiedBytes } : {}),
      elapsedMs: Math.round(this.elapsedMs()),
    };
  }

  /**
   * The totals in one line.
   * @param columns what fits: with less room copies are shown in percent, then the bar, the time and the rate go
   */
  line(columns = Number.POSITIVE_INFINITY): string {
    const { transferredBytes, presentBytes, copiedBytes } = this.totals();
    const handled = this.doneCount + this.skippedCount + this.failedCount;
    const fraction = this.foundBytes === 0 ? 0 : Math.min(1, transferredBytes / this.foundBytes);
    const seconds = this.elapsedMs() / 1000;
    const percent = `${Math.floor(fraction * 100)}%`;
    const bar = (width: number): string => {
      const filled = Math.floor(fraction * width);
      return `[${"#".repeat(filled)}${"-".repeat(width - filled)}] ${percent}`;
    };
    const [one, two, three] = copiedBytes;
    const part = (bytes: number): string =>
      `${this.foundBytes === 0 ? 0 : Math.min(100, Math.floor((bytes / this.foundBytes) * 100))}%`;
    const isPut = this.kind === "put";
    const copies = isPut
      ? [`copies 1: ${formatBytes(one)} 2: ${formatBytes(two)} 3: ${formatBytes(three)}`]
      : [];
    const copiesInPercent = isPut ? [`copies ${part(one)} ${part(two)} ${part(three)}`] : [];
    const files = `${formatCount(handled)}/${formatCount(this.foundCount)} files`;
    const bytes = `${formatBytes(transferredBytes)}/${formatBytes(this.foundBytes)}`;
    const rate = `${formatBytes(seconds > 0.5 ? Math.round((transferredBytes - presentBytes) / seconds) : 0)}/s`;
    const time = formatDuration(this.elapsedMs());
    const forms = [
      [bar(BAR_WIDTH), files, bytes, ...copies, rate, time],
      [bar(BAR_WIDTH), files, bytes, ...copiesInPercent, rate, time],
      [bar(BAR_WIDTH / 2), files, bytes, ...copiesInPercent, rate, time],
      [percent, files, bytes, ...copiesInPercent, rate, time],
      [percent, files, bytes, ...copiesInPercent, rate],
      [percent, files, bytes, ...copiesInPercent],
      [percent, bytes, ...copiesInPercent],
    ].map((parts) => parts.join("  "));
    return forms.find((form) => form.length <= columns) ?? (forms.at(-1) ?? "").slice(0, columns);
  }
}

/** How a command ended, in one line: "1 file put to /x, 200.0 MiB in 3.2 s; 3 unchanged; 1 failed, shown above." */
export function summarise(meter: TransferMeter, what: string): string {
  const { transferredBytes, presentBytes } = meter.totals();
  const resumedBytes = presentBytes - meter.skippedBytes;
  const resumed = resumedBytes > 0 ? ` (${formatBytes(resumedBytes)} more were there already)` : "";
  const done = `${formatQuantity(meter.doneCount, "file")} ${what}`;
  const parts = [
    meter.doneCount === 0
      ? done
      : `${done}, ${formatBytes(transferredBytes - presentBytes)} in ${formatDuration(meter.elapsedMs())}${resumed}`,
    ...(meter.skippedCount > 0 ? [`${formatCount(meter.skippedCount)} unchanged`] : []),
    ...(meter.noteCount > 0
      ? [`${formatQuantity(meter.noteCount, "link or special file", "links or special files")} ignored`]
      : []),
    ...(meter.failedCount > 0 ? [`${formatCount(meter.failedCount)} failed, shown above`] : []),
  ];
  return `${parts.join("; ")}.`;
}

function addShare(to: FileShare, share: FileShare): void {
  to.transferredBytes += share.transferredBytes;
  to.presentBytes += share.presentBytes;
  to.copiedBytes = [
    to.copiedBytes[0] + share.copiedBytes[0],
    to.copiedBytes[1] + share.copiedBytes[1],
    to.copiedBytes[2] + share.copiedBytes[2],
  ];
}

/** Shows a meter until it is stopped. */
export class ProgressDisplay {
  readonly #meter: TransferMeter;
  readonly #output: Output;
  readonly #terminal: { readonly stream: Writable; readonly columns: number } | undefined;
  readonly #clock: Clock;
  #timer: Timer | undefined;
  #shown = false;

  /** @param terminal where the line is redrawn; undefined when there is none (then only --json shows progress) */
  constructor(
    meter: TransferMeter,
    output: Output,
    terminal: { readonly stream: Writable; readonly columns: number } | undefined,
    clock: Clock,
  ) {
    this.#meter = meter;
    this.#output = output;
    this.#terminal = output.json ? undefined : terminal;
    this.#clock = clock;
  }

  /** Begins to show. */
  start(): void {
    if (this.#terminal !== undefined)
      this.#output.setOverlay({ hide: () => this.#hide(), show: () => undefined });
    if (this.#terminal !== undefined || this.#output.json) this.#schedule();
  }

  /** Ends; the line is gone. */
  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#hide();
    this.#output.setOverlay(undefined);
  }

  #schedule(): void {
    this.#timer = this.#clock.setTimer(this.#output.json ? RECORD_MS : REDRAW_MS, () => {
      this.#draw();
      this.#schedule();
    });
  }

  #draw(): void {
    if (this.#output.json) {
      // A reader that went away is found out by the next result; progress alone does not end the command.
      this.#output.record(this.#meter.record("progress")).catch(() => undefined);
      return;
    }
    if (this.#terminal === undefined) return;
    this.#terminal.stream.write(`\r\u001b[K${this.#meter.line(this.#terminal.columns - 1)}`);
    this.#shown = true;
  }

  #hide(): void {
    if (this.#shown) this.#terminal?.stream.write("\r\u001b[K");
    this.#shown = false;
  }
}
