/** Random histories that are linearizable because they were made from an order, as arbitraries of fast-check, which shrink. */
import fc from "fast-check";
import { must } from "../../../src/std/assert.ts";
import type { Operation } from "./history.ts";
import type { Model } from "./model.ts";

/** How one operation of a random history goes. */
interface Fate<Input> {
  readonly input: Input;
  /** Its call and return lie up to these many places before and after the place where it takes effect. */
  readonly before: number;
  readonly after: number;
  readonly end: "answered" | "refused" | "lost request" | "lost answer";
}

/**
 * Histories in which every operation took effect, if at all, at an instant between its call and its return.
 * @param inputs gives the input of the operation with this number, so that it can write a unique value
 * @param settings.span how many places an operation may reach to each side; the number of open operations follows from it
 */
export function linearizableHistories<State, Input, Output>(
  initial: State,
  answer: (state: State, input: Input) => readonly [Output, State],
  inputs: fc.Arbitrary<(serial: number) => Input>,
  settings: {
    readonly countMin?: number;
    readonly countMax: number;
    readonly span: number;
    readonly unknownPercent: number;
  },
): fc.Arbitrary<readonly Operation<Input, Output>[]> {
  const certain = 100 - settings.unknownPercent;
  const fate = fc.record({
    input: inputs,
    before: fc.nat(settings.span * 10),
    after: fc.nat(settings.span * 10),
    end: fc.oneof(
      { arbitrary: fc.constant("answered" as const), weight: certain },
      {
        arbitrary: fc.constantFrom("lost request" as const, "lost answer" as const),
        weight: settings.unknownPercent,
      },
      { arbitrary: fc.constant("refused" as const), weight: Math.ceil(certain / 20) },
    ),
  });
  return fc
    .array(fate, { minLength: settings.countMin ?? 0, maxLength: settings.countMax, size: "max" })
    .map((fates) =>
      runInOrder(
        initial,
        answer,
        fates.map((each, serial) => ({ ...each, input: each.input(serial) })),
      ),
    );
}

function runInOrder<State, Input, Output>(
  initial: State,
  answer: (state: State, input: Input) => readonly [Output, State],
  fates: readonly Fate<Input>[],
): readonly Operation<Input, Output>[] {
  let state = initial;
  return fates.map(({ input, before, after, end }, serial) => {
    const place = serial * 10 + 5;
    const operation = { client: `c${serial}`, input, calledAt: place - before };
    const returnedAt = place + after;
    if (end === "refused") return { ...operation, outcome: { kind: "refused", returnedAt } };
    if (end === "lost request") return { ...operation, outcome: { kind: "unknown" } };
    const [output, next] = answer(state, input);
    state = next;
    if (end === "lost answer") return { ...operation, outcome: { kind: "unknown" } };
    return { ...operation, outcome: { kind: "answered", output, returnedAt } };
  });
}

/** The definition of linearizability word by word, for histories of a few operations: all orders of all subsets are tried. */
export function isLinearizableByDefinition<State, Input, Output>(
  model: Model<State, Input, Output>,
  history: readonly Operation<Input, Output>[],
): boolean {
  const operations = history.filter(({ outcome }) => outcome.kind !== "refused");
  const extend = (state: State, left: readonly number[]): boolean => {
    const rest = left.map((index) => must(operations[index], "an operation"));
    if (rest.every(({ outcome }) => outcome.kind === "unknown")) return true;
    return left.some((index, at) => {
      const { input, outcome, calledAt } = must(operations[index], "an operation");
      const isFirst = rest.every(
        (each) => each.outcome.kind !== "answered" || each.outcome.returnedAt >= calledAt,
      );
      if (!isFirst) return false;
      const output = outcome.kind === "answered" ? outcome.output : undefined;
      return model.step(state, input, output).some((next) => extend(next, left.toSpliced(at, 1)));
    });
  };
  return extend(
    model.initial,
    operations.map((_, index) => index),
  );
}
