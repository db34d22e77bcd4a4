/** What the processes of a cluster use while a benchmark runs: anonymous memory and processor time, by phase. */
import { readFileSync } from "node:fs";
import type { TestCluster } from "../test/support/use-cluster.ts";
import { anonymousBytes } from "./table.ts";

const SAMPLE_MS = 1000;
/** Ticks of /proc/PID/stat a second; fixed by the kernel's interface to programs. */
const TICKS_PER_SECOND = 100;

/** What one phase used. */
export interface PhaseUse {
  readonly name: string;
  readonly seconds: number;
  /** Highest RssAnon of any node in the phase. */
  readonly peakBytes: number;
  /** Processor time of all nodes together, in seconds. */
  readonly cpuSeconds: number;
}

/** Processor time of a process so far, in seconds; 0 when it does not run. */
function cpuSeconds(pid: number | undefined): number {
  if (pid === undefined) return 0;
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in parentheses may hold spaces; user and system time are the 14th and 15th field.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  } catch {
    return 0;
  }
}

/** Samples the nodes of a cluster once a second until stop(). */
export class NodeWatch {
  readonly #cluster: TestCluster;
  readonly #timer: NodeJS.Timeout;
  readonly #phases: PhaseUse[] = [];
  #name = "start";
  #begunMs = performance.now();
  #cpuBefore: number;
  #peakBytes = 0;

  constructor(cluster: TestCluster) {
    this.#cluster = cluster;
    this.#cpuBefore = this.#cpu();
    this.#timer = setInterval(() => this.#sample(), SAMPLE_MS);
  }

  /** Anonymous bytes of each node now. */
  get memory(): readonly number[] {
    return this.#cluster.nodes.map(({ pid, running }) => (running ? anonymousBytes(pid ?? 0) : 0));
  }

  /** Ends the phase under way and begins the next. */
  phase(name: string): void {
    this.#end();
    this.#name = name;
  }

  /** Ends the last phase; returns what each used. */
  stop(): readonly PhaseUse[] {
    clearInterval(this.#timer);
    this.#end();
    return this.#phases;
  }

  #cpu(): number {
    return this.#cluster.nodes.reduce((sum, { pid }) => sum + cpuSeconds(pid), 0);
  }

  #sample(): void {
    this.#peakBytes = Math.max(this.#peakBytes, ...this.memory);
  }

  #end(): void {
    this.#sample();
    const cpu = this.#cpu();
    this.#phases.push({
      name: this.#name,
      seconds: (performance.now() - this.#begunMs) / 1000,
      peakBytes: this.#peakBytes,
      cpuSeconds: cpu - this.#cpuBefore,
    });
    this.#begunMs = performance.now();
    this.#cpuBefore = cpu;
    this.#peakBytes = 0;
  }
}
