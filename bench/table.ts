/** The result table of the benchmarks: each row beside its limit or peer, measured in the same run. */
import { readFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { execFileSync } from "node:child_process";

/** One measured row. */
export interface Row {
  readonly work: string;
  /** What netdisk did, with its unit. */
  readonly measured: string;
  /** What it is compared with, measured in the same run; "-" when there is nothing to compare. */
  readonly compared: string;
  /** Measured divided by compared, or the bare figure when there is no comparison. */
  readonly ratio: string;
  /** The figure to reach, and whether half of it and all of it were reached. */
  readonly reach: string;
  readonly verdict: "reached" | "half" | "missed" | "not run";
}

/** Median and spread of several runs. */
export function summary(samples: readonly number[]): { median: number; min: number; max: number } {
  const sorted = [...samples].sort((a, b) => a - b);
  return {
    median: sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.NaN,
    min: sorted[0] ?? Number.NaN,
    max: sorted.at(-1) ?? Number.NaN,
  };
}

/** A figure with its spread, such as "412 (390-431)". */
export function spread(samples: readonly number[], digits = 0): string {
  const { median, min, max } = summary(samples);
  return samples.length === 1
    ? median.toFixed(digits)
    : `${median.toFixed(digits)} (${min.toFixed(digits)}-${max.toFixed(digits)})`;
}

/** Judges a figure that should be large against `goal`. */
export function judgeAtLeast(figure: number, goal: number): Row["verdict"] {
  if (figure >= goal) return "reached";
  return figure >= goal / 2 ? "half" : "missed";
}

/** Judges a figure that should be small against `goal`. */
export function judgeAtMost(figure: number, goal: number): Row["verdict"] {
  if (figure <= goal) return "reached";
  return figure <= goal * 2 ? "half" : "missed";
}

/** The machine, one line. */
export function hardware(directory: string): string {
  const processors = cpus();
  const fileSystem = execFileSync("stat", ["-f", "-c", "%T", directory]).toString().trim();
  return `${processors.length} x ${processors[0]?.model.trim() ?? "?"}, ${(totalmem() / 1024 ** 3).toFixed(0)} GiB, ${fileSystem}, Linux ${release()}, Node ${process.version}`;
}

/** CPU time that processes have used so far, in seconds (utime and stime of /proc/PID/stat, at 100 ticks a second). */
export function cpuSeconds(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
      .replace(/^.*\) /s, "")
      .split(" ");
    return sum + (Number(fields[11]) + Number(fields[12])) / 100;
  }, 0);
}

/** Anonymous memory of a process in bytes (RssAnon of /proc/PID/status). */
export function anonymousBytes(pid: number): number {
  const match = /RssAnon:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return match === null ? 0 : Number(match[1]) * 1024;
}

/** The rows as a Markdown table. */
export function formatTable(rows: readonly Row[]): string {
  const lines = rows.map(
    (row) =>
      `| ${row.work} | ${row.measured} | ${row.compared} | ${row.ratio} | ${row.reach} | ${row.verdict} |`,
  );
  return [
    "| Work | netdisk | compared with | ratio | reach | verdict |",
    "| --- | --- | --- | --- | --- | --- |",
    ...lines,
  ].join("\n");
}
