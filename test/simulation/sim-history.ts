/**
 * What clients of whole nodes were told, as a history for the checker of test/support/linearizability (C1).
 *
 * The object is the drive of sim-model.ts, a part for each group of paths, which no operation crosses. A read may teach a version
 * that nobody was told before, so it is not taken for an operation that changes nothing.
 */
import { expectLinearizable } from "../support/linearizability/checker.ts";
import type { Operation } from "../support/linearizability/history.ts";
import type { Model } from "../support/linearizability/model.ts";
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

/** A request to a group. */
interface Call {
  readonly group: number;
  readonly request: ModelRequest;
}

/** Folders that files may be in. */
const FOLDERS: readonly string[] = ["d", "e"];

/** What a group holds when the history begins. */
const INITIAL: ModelState = new Map([["d", { kind: "directory" }]]);

const READS: ReadonlySet<string> = new Set(["read", "stat", "list"]);

/** The drive as an object of which each group is a part. */
const driveModel: Model<ModelState, Call, ModelResult> = {
  initial: INITIAL,
  step: (state, { request }, result) => apply(state, request, result ?? { kind: "unknown" }, FOLDERS),
  key: stateKey,
  parts: ({ group }) => [`g${group}`],
  describeInput: ({ request }) => JSON.stringify(request),
  describeOutput: (result) => JSON.stringify(result),
  isReadOnly: (_, { kind }) => kind === "names" || kind === "refused",
};

function operationOf(event: HistoryEvent): Operation<Call, ModelResult> {
  const { client, group, request, result, calledAt, returnedAt, calledMs } = event;
  return {
    client: `${client} at ${calledMs.toFixed(1)} ms`,
    input: { group, request },
    calledAt,
    outcome:
      result.kind === "unknown" ? { kind: "unknown" } : { kind: "answered", output: result, returnedAt },
  };
}

/** Throws when the history is not linearizable. Every group begins with INITIAL. */
export function checkLinearizable(history: readonly HistoryEvent[]): void {
  const operations = history
    // A read that was told nothing says nothing.
    .filter(({ request, result }) => !(result.kind === "unknown" && READS.has(request.kind)))
    .map((event) => operationOf(event));
  try {
    expectLinearizable(driveModel, operations);
  } catch (error) {
    throw new Error(`C1: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
}
