/**
 * What concurrent clients saw: operations with the times of their calls and returns, and a recorder that notes them.
 *
 * Times are of one monotonic clock, in any unit; a return and a call at the same time count as concurrent, which is the side on
 * which no false alarm is raised. What a client cannot know is never guessed: an operation that timed out or whose connection
 * broke is "unknown", it may take effect at any time after its call, or never. "Refused" is the opposite, a definite error: the
 * operation has not happened and never will.
 */

/** What a client was told. */
export type Outcome<Output> =
  | { readonly kind: "answered"; readonly output: Output; readonly returnedAt: number }
  | { readonly kind: "refused"; readonly returnedAt: number }
  | { readonly kind: "unknown" };

/** One operation of one client. */
export interface Operation<Input, Output> {
  /** For the report only: a client may have several operations under way. */
  readonly client: string;
  readonly input: Input;
  readonly calledAt: number;
  readonly outcome: Outcome<Output>;
}

/** An operation under way. Exactly one of the three is called, once; when none is, the outcome stays unknown. */
export interface OpenOperation<Output> {
  answered(output: Output): void;
  refused(): void;
  unknown(): void;
}

/** How many operations ended in each way. */
export type OutcomeCounts = Readonly<Record<Outcome<unknown>["kind"], number>>;

/** Notes operations as they happen. */
export class HistoryRecorder<Input, Output> {
  readonly #now: () => number;
  readonly #operations: { client: string; input: Input; calledAt: number; outcome: Outcome<Output> }[] = [];

  /** @param now a monotonic clock; read when an operation is called and when it returns */
  constructor(now: () => number) {
    this.#now = now;
  }

  /** Notes a call; to be called before the request leaves. */
  call(client: string, input: Input): OpenOperation<Output> {
    const operation = {
      client,
      input,
      calledAt: this.#now(),
      outcome: { kind: "unknown" } as Outcome<Output>,
    };
    this.#operations.push(operation);
    let isSettled = false;
    const settle = (outcome: Outcome<Output>): void => {
      if (isSettled) throw new Error(`two outcomes of one operation of ${client}`);
      isSettled = true;
      operation.outcome = outcome;
    };
    return {
      answered: (output) => settle({ kind: "answered", output, returnedAt: this.#now() }),
      refused: () => settle({ kind: "refused", returnedAt: this.#now() }),
      unknown: () => settle({ kind: "unknown" }),
    };
  }

  /** A copy of what was noted so far, in the order of the calls. */
  history(): readonly Operation<Input, Output>[] {
    return this.#operations.map((operation) => ({ ...operation }));
  }
}

/** Counts outcomes, so that a test can see that there were some of each kind. */
export function countOutcomes(history: readonly Operation<unknown, unknown>[]): OutcomeCounts {
  const counts = { answered: 0, refused: 0, unknown: 0 };
  for (const { outcome } of history) counts[outcome.kind] += 1;
  return counts;
}
