/** The figures of a torture run. */
import type { LinkCounts } from "../../support/links/link-rules.ts";
import type { OutcomeCounts } from "../../support/linearizability/history.ts";
import type { Fault, FaultKind } from "./nemesis.ts";
import type { Acknowledgement } from "./workload.ts";

/** What was seen of one kind of fault. */
export interface FaultSummary {
  readonly count: number;
  /** How often it touched something: a process, a disk, bytes under way. */
  readonly effectCount: number;
  /** Longest time without an acknowledged write, from the begin of the fault until the next one. */
  readonly longestGapMs: number;
}

/** 50th and 99th percentile and the greatest. */
export interface LatencySummary {
  readonly count: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

/** The summary that is printed as JSON. */
export interface TortureSummary {
  readonly seed: number;
  readonly nodes: number;
  readonly seconds: number;
  readonly operations: Readonly<Record<string, number>>;
  readonly outcomes: OutcomeCounts;
  readonly failures: Readonly<Record<string, number>>;
  readonly faults: Readonly<Record<string, FaultSummary>>;
  /** Kinds that cannot be had here: disks of the nodes' own take root. */
  readonly notPossible: readonly FaultKind[];
  readonly links: LinkCounts;
  readonly writes: LatencySummary;
  readonly reads: LatencySummary;
  readonly files: { readonly certain: number; readonly uncertain: number; readonly copiesRead: number };
  readonly historyParts: number;
  readonly historyConfigurations: number;
  readonly stateHashIndex: number;
  readonly terms: number;
}

/** Percentiles of times in milliseconds, rounded to a tenth. */
export function summarize(timesMs: readonly number[]): LatencySummary {
  const sorted = [...timesMs].sort((a, b) => a - b);
  const at = (share: number): number =>
    Math.round((sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0) * 10) / 10;
  return { count: sorted.length, p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1) };
}

/**
 * The longest time without an acknowledged write within [fromMs, toMs].
 * @param writes in any order
 */
export function longestGapMs(writes: readonly Acknowledgement[], fromMs: number, toMs: number): number {
  const times = writes.map(({ returnedMs }) => returnedMs).sort((a, b) => a - b);
  let longest = 0;
  let last = fromMs;
  for (const time of times) {
    if (time <= fromMs) continue;
    if (time >= toMs) break;
    longest = Math.max(longest, time - last);
    last = time;
  }
  return Math.round(Math.max(longest, toMs - last));
}

/** Faults by kind. @param endMs when the last write was called */
export function summarizeFaults(
  faults: readonly Fault[],
  writes: readonly Acknowledgement[],
  endMs: number,
): Readonly<Record<string, FaultSummary>> {
  const byKind: Record<string, FaultSummary> = {};
  for (const [at, fault] of faults.entries()) {
    const untilMs = faults[at + 1]?.beganMs ?? endMs;
    const known = byKind[fault.kind] ?? { count: 0, effectCount: 0, longestGapMs: 0 };
    byKind[fault.kind] = {
      count: known.count + 1,
      effectCount: known.effectCount + (fault.hadEffect ? 1 : 0),
      longestGapMs: Math.max(known.longestGapMs, longestGapMs(writes, fault.beganMs, untilMs)),
    };
  }
  return byKind;
}
