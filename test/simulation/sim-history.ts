/**
 * Whether a history of concurrent operations is linearizable: each seems to have happened at one instant between its call and
 * its return, in an order that the model allows.
 *
 * The search of Wing and Gong (1993) with the memory of Lowe (2017). An operation without a certain result has no return: it
 * may have happened at any time after its call, or never. Histories are per group of paths, which no operation crosses, so
 * they are short; a search that gets too long is an error, not a pass.
 */
import { must } from "../../src/std/assert.ts";
import { apply, stateKey, type ModelRequest, type ModelResult, type ModelState } from "./sim-model.ts";

/** One operation of a client. Times are positions in the order of all calls and returns. */
export interface HistoryEvent {
  readonly client: string;
  readonly group: number;
  readonly request: ModelRequest;
  readonly result: ModelResult;
  readonly calledAt: number;
  readonly returnedAt: number;
  /** Virtual milliseconds, for the report. */
  readonly calledMs: number;
  readonly returnedMs: number;
}

/** States that a search looks at before it gives up. */
const STEP_COUNT_MAX = 400_000;

/** Folders that files may be in. */
export const FOLDERS: readonly string[] = ["d", "e"];

interface Search {
  readonly events: readonly HistoryEvent[];
  readonly done: boolean[];
  readonly seen: Set<string>;
  steps: number;
  best: number;
  stuckAt: string;
}

function isOptional(event: HistoryEvent): boolean {
  return event.result.kind === "unknown";
}

function search(run: Search, state: ModelState, left: number): boolean {
  if (left === 0) return true;
  run.steps += 1;
  if (run.steps > STEP_COUNT_MAX)
    throw new Error(`the history is too long to check: ${run.events.length} events`);
  const { events, done } = run;
  let earliestReturn = Number.POSITIVE_INFINITY;
  for (const [index, event] of events.entries()) {
    if (done[index] !== true && !isOptional(event))
      earliestReturn = Math.min(earliestReturn, event.returnedAt);
  }
  const key = `${done.map((each) => (each ? "1" : "0")).join("")} ${stateKey(state)}`;
  if (run.seen.has(key)) return false;
  run.seen.add(key);
  if (events.length - left > run.best) {
    run.best = events.length - left;
    const stuck = events.filter((event, index) => done[index] !== true && event.calledAt < earliestReturn);
    run.stuckAt = `state: ${stateKey(state)}\nnext:\n${stuck.map(describeEvent).join("\n")}`;
  }
  for (const wanted of [false, true]) {
    for (const [index, event] of events.entries()) {
      if (event.calledAt > earliestReturn) break;
      if (done[index] === true || isOptional(event) !== wanted) continue;
      done[index] = true;
      for (const next of apply(state, event.request, event.result, FOLDERS)) {
        if (search(run, next, left - (wanted ? 0 : 1))) return true;
      }
      done[index] = false;
    }
  }
  return false;
}

/** One line about an operation. */
export function describeEvent(event: HistoryEvent): string {
  const { client, request, result, calledMs, returnedMs } = event;
  const times = `${calledMs.toFixed(1)}..${result.kind === "unknown" ? "" : returnedMs.toFixed(1)}`;
  return `  ${times} ${client} g${event.group} ${JSON.stringify(request)} -> ${JSON.stringify(result)}`;
}

/** What a group holds when the history begins. */
const INITIAL: ModelState = new Map([["d", { kind: "directory" }]]);

/** Throws when the history of a group, which begins with INITIAL, is not linearizable. */
export function checkLinearizable(group: number, history: readonly HistoryEvent[]): void {
  const events = history
    .filter((event) => event.group === group)
    // A read that was told nothing says nothing.
    .filter((event) => !(isOptional(event) && ["read", "stat", "list"].includes(event.request.kind)))
    .sort((a, b) => a.calledAt - b.calledAt);
  const run: Search = {
    events,
    done: events.map(() => false),
    seen: new Set(),
    steps: 0,
    best: -1,
    stuckAt: "",
  };
  const needed = events.filter((event) => !isOptional(event)).length;
  if (search(run, INITIAL, needed)) return;
  const last = must(events.at(-1), "an empty history is linearizable");
  throw new Error(
    `C1: the history of group ${group} is not linearizable (${events.length} operations until ${last.returnedMs.toFixed(0)} ms); ` +
      `the furthest way got stuck at\n${run.stuckAt}\nhistory:\n${events.map(describeEvent).join("\n")}`,
  );
}
