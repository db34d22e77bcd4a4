/**
 * Whether a history is linearizable (Herlihy and Wing 1990): every operation seems to happen at one instant between its call and
 * its return, in an order that the model allows.
 *
 * The search of Wing and Gong (1993) with the memory of Lowe (2017), on each part of the object by itself as in Porcupine
 * (Athalye 2017), and four observations that keep it short and lose nothing:
 *
 * 1. An operation need take effect only just before some operation returns (Lowe's just-in-time linearization), so the search
 *    branches at returns only.
 * 2. An answered operation that by its answer changed nothing takes effect as soon as the answer is right.
 * 3. An operation of unknown outcome need never take effect, so a configuration that spent fewer of them is as good as any
 *    other with the same state and the same open operations; only the best are followed.
 * 4. Of operations of unknown outcome that do the same, the one that was called first is taken first. Writes of values that
 *    nobody ever saw do the same.
 *
 * Work is bounded: a history whose check would look at too many configurations is "undecided", which is never a pass.
 */
import { must } from "../../../src/std/assert.ts";
import type { Operation } from "./history.ts";
import { partition, type Model } from "./model.ts";

/** Configurations that the check of one part looks at before it gives up; about a second for each 200,000. */
export const CONFIGURATION_COUNT_MAX = 1_000_000;

/** Operations around the place where the search got stuck that a report shows. */
const REPORT_OPERATION_COUNT = 40;

/** States at that place that a report shows. */
const REPORT_STATE_COUNT = 8;

/** What the check found. Both of the latter have a report for people. */
export type Verdict =
  | { readonly kind: "linearizable"; readonly partCount: number; readonly configurationCount: number }
  | { readonly kind: "violated"; readonly report: string }
  | { readonly kind: "undecided"; readonly report: string };

/** Settings of checkHistory(). */
export interface CheckOptions {
  /** Default CONFIGURATION_COUNT_MAX. */
  readonly configurationCountMax?: number | undefined;
}

/** Checks a history. Refused operations are left out: whoever sees an effect of one sees something that nobody did. */
export function checkHistory<State, Input, Output>(
  model: Model<State, Input, Output>,
  history: readonly Operation<Input, Output>[],
  options: CheckOptions = {},
): Verdict {
  const countMax = options.configurationCountMax ?? CONFIGURATION_COUNT_MAX;
  const groups = partition(
    model,
    history.filter(({ outcome }) => outcome.kind !== "refused"),
  );
  let configurationCount = 0;
  let undecided: Verdict | undefined;
  for (const { parts, operations } of groups) {
    const search = new Search(model, operations, countMax);
    const found = search.run();
    configurationCount += search.configurationCount;
    if (found === "violated") return { kind: "violated", report: search.report(parts) };
    if (found === "undecided") undecided ??= { kind: "undecided", report: search.report(parts) };
  }
  return undecided ?? { kind: "linearizable", partCount: groups.length, configurationCount };
}

/** Throws unless the history is linearizable; a check that could not be finished throws too. */
export function expectLinearizable<State, Input, Output>(
  model: Model<State, Input, Output>,
  history: readonly Operation<Input, Output>[],
  options: CheckOptions = {},
): void {
  const verdict = checkHistory(model, history, options);
  if (verdict.kind !== "linearizable") throw new Error(verdict.report);
}

/** A return of an answered operation, and who is open just before it. */
interface Return {
  readonly operation: number;
  /** Answered operations that were called and have not returned, this one too. */
  readonly open: readonly number[];
  /** How many operations of unknown outcome were called, of all in the order of their calls. */
  readonly unknownCount: number;
}

/** Everything before return number `position` is explained; `taken` of the open ones and `spent` of the unknown ones happened. */
interface Configuration<State> {
  readonly position: number;
  readonly state: State;
  readonly stateKey: string;
  /** Open answered operations that took effect, ascending. */
  readonly taken: readonly number[];
  /** Bit n: the n-th operation of unknown outcome took effect. */
  readonly spent: bigint;
}

/** Configurations to look at: the furthest first, of these the one that spent the fewest, of these the last one pushed. */
class Frontier<State> {
  /** By position, then by the number of operations of unknown outcome that took effect. */
  readonly #levels: Configuration<State>[][][] = [];

  push(configuration: Configuration<State>): void {
    while (this.#levels.length <= configuration.position) this.#levels.push([]);
    const level = must(this.#levels[configuration.position], "a level");
    const spentCount = bitCount(configuration.spent);
    while (level.length <= spentCount) level.push([]);
    must(level[spentCount], "a stack").push(configuration);
  }

  pop(): Configuration<State> | undefined {
    for (;;) {
      const level = this.#levels.at(-1);
      if (level === undefined) return undefined;
      const found = level.find((stack) => stack.length > 0)?.pop();
      if (found !== undefined) return found;
      this.#levels.pop();
    }
  }
}

function bitCount(bits: bigint): number {
  return bits.toString(2).replaceAll("0", "").length;
}

/** The search through the operations on one part. */
class Search<State, Input, Output> {
  configurationCount = 0;
  readonly #model: Model<State, Input, Output>;
  /** As they were recorded, for the report. */
  readonly #recorded: readonly Operation<Input, Output>[];
  /** The same with values that nobody saw made equal. */
  readonly #operations: readonly Operation<Input, Output>[];
  readonly #countMax: number;
  /** Indexes of the operations of unknown outcome in the order of their calls. */
  readonly #unknown: readonly number[];
  readonly #returns: readonly Return[];
  /** Of each unknown operation, the last one before it that does the same. */
  readonly #twins: readonly (number | undefined)[];
  /** Position, taken and state -> the smallest sets `spent` that were followed. */
  readonly #seen = new Map<string, bigint[]>();
  #furthest = 0;
  readonly #furthestStates = new Set<string>();

  constructor(
    model: Model<State, Input, Output>,
    recorded: readonly Operation<Input, Output>[],
    countMax: number,
  ) {
    this.#model = model;
    this.#recorded = recorded;
    const operations = model.merge?.(recorded) ?? recorded;
    this.#operations = operations;
    this.#countMax = countMax;
    const called = operations
      .map((_, index) => index)
      .sort((a, b) => this.#at(a).calledAt - this.#at(b).calledAt);
    this.#unknown = called.filter((index) => this.#at(index).outcome.kind === "unknown");
    this.#returns = this.#orderReturns(called);
    const last = new Map<string, number>();
    this.#twins = this.#unknown.map((index, rank) => {
      const text = model.describeInput(this.#at(index).input);
      const twin = last.get(text);
      last.set(text, rank);
      return twin;
    });
  }

  run(): "linearizable" | "violated" | "undecided" {
    const { initial } = this.#model;
    const stack = new Frontier<State>();
    stack.push(this.#settle(0, initial, this.#model.key(initial), [], 0n));
    for (;;) {
      const configuration = stack.pop();
      if (configuration === undefined) return "violated";
      if (configuration.position === this.#returns.length) return "linearizable";
      if (!this.#isNew(configuration)) continue;
      this.configurationCount += 1;
      if (this.configurationCount > this.#countMax) return "undecided";
      // The last one pushed is tried first: the returning operation, then other answered ones, then those of unknown outcome.
      this.#pushUnknown(configuration, stack);
      this.#pushAnswered(configuration, stack);
    }
  }

  /** The place that no order gets past, for people. */
  report(parts: readonly string[]): string {
    const stuck = this.#returns[this.#furthest];
    const returning = stuck === undefined ? undefined : this.#recorded[stuck.operation];
    const until = returning === undefined ? Number.POSITIVE_INFINITY : returnedAt(returning);
    const around = this.#recorded
      .filter((operation) => operation.calledAt <= until)
      .sort((a, b) => Math.min(returnedAt(a), until) - Math.min(returnedAt(b), until))
      .slice(-REPORT_OPERATION_COUNT);
    const isUndecided = this.configurationCount > this.#countMax;
    return [
      isUndecided
        ? `undecided: ${this.#countMax} configurations were not enough`
        : `not linearizable: ${parts.slice(0, 10).join(", ")}`,
      `parts: ${parts.join(", ")}; ${this.#operations.length} operations, ${this.#unknown.length} of unknown outcome`,
      `no order found that gets past: ${returning === undefined ? "the end" : this.#describe(returning)}`,
      `states before it: ${[...this.#furthestStates].join(" | ")}`,
      `the last ${around.length} operations that were called before it returned:`,
      ...around.map((operation) => `  ${this.#describe(operation)}`),
    ].join("\n");
  }

  #describe({ client, input, calledAt, outcome }: Operation<Input, Output>): string {
    const told =
      outcome.kind === "answered"
        ? `${outcome.returnedAt} -> ${this.#model.describeOutput(outcome.output)}`
        : outcome.kind;
    return `${client}: ${this.#model.describeInput(input)} ${calledAt}..${told}`;
  }

  #at(index: number): Operation<Input, Output> {
    return must(this.#operations[index], "an operation");
  }

  #orderReturns(called: readonly number[]): readonly Return[] {
    const returning = called
      .filter((index) => this.#at(index).outcome.kind === "answered")
      .sort((a, b) => returnedAt(this.#at(a)) - returnedAt(this.#at(b)));
    const open = new Set<number>();
    let unknownCount = 0;
    let next = 0;
    return returning.map((operation) => {
      const now = returnedAt(this.#at(operation));
      for (; next < called.length; next += 1) {
        const index = must(called[next], "a call");
        if (this.#at(index).calledAt > now) break;
        if (this.#at(index).outcome.kind === "unknown") unknownCount += 1;
        else open.add(index);
      }
      const result = { operation, open: [...open], unknownCount };
      open.delete(operation);
      return result;
    });
  }

  /** Goes on past returns of operations that took effect, and lets those that change nothing take effect. */
  #settle(
    position: number,
    state: State,
    stateKey: string,
    taken: readonly number[],
    spent: bigint,
  ): Configuration<State> {
    let at = position;
    let now = taken;
    for (;;) {
      const next = this.#returns[at];
      if (next === undefined) break;
      const idle = next.open.filter((index) => !now.includes(index) && this.#isIdle(state, index));
      if (idle.length > 0) now = [...now, ...idle].sort((a, b) => a - b);
      if (!now.includes(next.operation)) break;
      now = now.filter((index) => index !== next.operation);
      at += 1;
    }
    return { position: at, state, stateKey, taken: now, spent };
  }

  /** Whether an answered operation that changed nothing, in whatever state, fits in `state`. */
  #isIdle(state: State, index: number): boolean {
    const { input, outcome } = this.#at(index);
    return (
      outcome.kind === "answered" &&
      this.#model.isReadOnly(input, outcome.output) &&
      this.#model.step(state, input, outcome.output).length > 0
    );
  }

  #step(state: State, index: number): readonly State[] {
    const { input, outcome } = this.#at(index);
    return this.#model.step(state, input, outcome.kind === "answered" ? outcome.output : undefined);
  }

  #isNew({ position, taken, stateKey, spent }: Configuration<State>): boolean {
    if (position > this.#furthest) {
      this.#furthest = position;
      this.#furthestStates.clear();
    }
    if (position === this.#furthest && this.#furthestStates.size < REPORT_STATE_COUNT) {
      this.#furthestStates.add(stateKey === "" ? "(empty)" : stateKey);
    }
    const key = `${position} ${taken.join()} ${stateKey}`;
    const known = this.#seen.get(key);
    if (known === undefined) {
      this.#seen.set(key, [spent]);
      return true;
    }
    if (known.some((each) => (each & spent) === each)) return false;
    this.#seen.set(key, [...known.filter((each) => (each & spent) !== spent), spent]);
    return true;
  }

  #pushAnswered(from: Configuration<State>, stack: Frontier<State>): void {
    const { operation, open } = must(this.#returns[from.position], "a return");
    const candidates = open.filter((index) => index !== operation && !from.taken.includes(index));
    for (const index of [...candidates.reverse(), operation]) {
      for (const state of this.#step(from.state, index)) {
        const taken = [...from.taken, index].sort((a, b) => a - b);
        stack.push(this.#settle(from.position, state, this.#model.key(state), taken, from.spent));
      }
    }
  }

  #pushUnknown(from: Configuration<State>, stack: Frontier<State>): void {
    const { unknownCount } = must(this.#returns[from.position], "a return");
    for (let rank = 0; rank < unknownCount; rank += 1) {
      const bit = 1n << BigInt(rank);
      if ((from.spent & bit) !== 0n) continue;
      const twin = this.#twins[rank];
      if (twin !== undefined && (from.spent & (1n << BigInt(twin))) === 0n) continue;
      for (const state of this.#step(from.state, must(this.#unknown[rank], "an unknown operation"))) {
        const stateKey = this.#model.key(state);
        // To take effect without one is to spend it for nothing.
        if (stateKey === from.stateKey) continue;
        stack.push(this.#settle(from.position, state, stateKey, from.taken, from.spent | bit));
      }
    }
  }
}

function returnedAt(operation: Operation<unknown, unknown>): number {
  return operation.outcome.kind === "unknown" ? Number.POSITIVE_INFINITY : operation.outcome.returnedAt;
}
