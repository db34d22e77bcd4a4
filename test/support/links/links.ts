/**
 * The links of a cluster under test, in the hands of the test: a proxy in a process of its own stands before every node, so that
 * a busy test does not slow the traffic, and passes it on by rules (link-rules.ts).
 */
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { must } from "../../../src/std/assert.ts";
import {
  CLIENT,
  linkKey,
  type LinkCounts,
  type LinkRule,
  type Place,
  type ProxyAnswer,
  type ProxyRequest,
  type ProxyTarget,
} from "./link-rules.ts";

const PROCESS = fileURLToPath(new URL("proxy-process.ts", import.meta.url));

type RequestBody = ProxyRequest extends infer Each
  ? Each extends ProxyRequest
    ? Omit<Each, "id">
    : never
  : never;

/** The proxy and its rules. */
export class Links {
  readonly places: readonly Place[];
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (answer: ProxyAnswer) => void>();
  #rules: Record<string, LinkRule> = {};
  #nextId = 1;

  private constructor(child: ChildProcess, places: readonly Place[]) {
    this.#child = child;
    this.places = places;
    child.on("message", (answer: ProxyAnswer) => {
      this.#waiting.get(answer.id)?.(answer);
      this.#waiting.delete(answer.id);
    });
    child.on("exit", () => {
      for (const [id, settle] of this.#waiting) settle({ id, error: "the proxy ended" });
      this.#waiting.clear();
    });
  }

  /** Starts the proxy; it listens when this resolves. */
  static async start(targets: readonly ProxyTarget[]): Promise<Links> {
    const child = fork(PROCESS, [], {
      execArgv: ["--import", "tsx"],
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    const links = new Links(
      child,
      targets.map(({ place }) => place),
    );
    await links.#ask({ kind: "open", targets });
    return links;
  }

  /** Says which process is the node; to be called whenever it was started. */
  async setProcess(place: Place, pid: number): Promise<void> {
    await this.#ask({ kind: "process", place, pid });
  }

  /** Sets the rule of every link from one of `from` to one of `to`, in this direction. In force when it resolves. */
  async set(from: readonly Place[], to: readonly Place[], rule: LinkRule): Promise<void> {
    for (const one of from) {
      for (const other of to) if (one !== other) this.#rules[linkKey(one, other)] = rule;
    }
    await this.#ask({ kind: "rules", rules: this.#rules });
  }

  /** The same in both directions. */
  async setBoth(one: readonly Place[], other: readonly Place[], rule: LinkRule): Promise<void> {
    await this.set(one, other, rule);
    await this.set(other, one, rule);
  }

  /** Takes all rules away: what was held is delivered, what lost bytes is reset. */
  async heal(): Promise<void> {
    this.#rules = {};
    await this.#ask({ kind: "rules", rules: {} });
  }

  /** Resets all connections between one of `one` and one of `other`. */
  async reset(one: readonly Place[], other: readonly Place[]): Promise<void> {
    const links = one.flatMap((from) => other.flatMap((to) => [linkKey(from, to), linkKey(to, from)]));
    await this.#ask({ kind: "reset", links });
  }

  /** The nodes other than `place`. */
  others(place: Place): readonly Place[] {
    return this.places.filter((each) => each !== place);
  }

  /** All nodes and the clients. */
  get everyone(): readonly Place[] {
    return [...this.places, CLIENT];
  }

  async counts(): Promise<LinkCounts> {
    return must((await this.#ask({ kind: "counts" })).counts, "the proxy answers with counts");
  }

  /** Ends the proxy and every connection through it. */
  async dispose(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await exited;
  }

  async #ask(body: RequestBody): Promise<ProxyAnswer> {
    const id = this.#nextId;
    this.#nextId += 1;
    const answered = new Promise<ProxyAnswer>((resolve) => this.#waiting.set(id, resolve));
    if (!this.#child.connected) throw new Error("the proxy ended");
    this.#child.send({ id, ...body });
    const answer = await answered;
    if (answer.error !== undefined) throw new Error(`the proxy failed at "${body.kind}": ${answer.error}`);
    return answer;
  }
}
