/** What a sequential object does: the specification that a history is checked against. */
import type { Operation } from "./history.ts";

/**
 * A sequential object. States are immutable. Inputs should carry unique values wherever they write some: what was read then says
 * by itself which write it saw, and checking stays quick.
 */
export interface Model<State, Input, Output> {
  readonly initial: State;
  /**
   * The states that may follow `state` when `input` takes effect and the client is told `output`: none when it cannot have been
   * told that, several when the answer leaves it open. `output` is undefined when nothing is known about the answer.
   */
  step(state: State, input: Input, output: Output | undefined): readonly State[];
  /** Canonical text of a state: equal exactly for equal states. */
  key(state: State): string;
  /**
   * Names of the parts of the object that `input` reads or writes, at least one. Operations without a part in common, even by way
   * of others, are checked apart from each other, which is sound because linearizability is local (Herlihy and Wing 1990).
   */
  parts(input: Input): readonly string[];
  /** Text of an input; two inputs of the same text do the same. */
  describeInput(input: Input): string;
  describeOutput(output: Output): string;
  /** Whether an operation that was answered so left the state as it was, whatever the state: reads and definite refusals. */
  isReadOnly(input: Input, output: Output): boolean;
  /**
   * The same operations, in the same order, with every written value that nobody saw or asked for replaced by UNSEEN_VALUE: such values cannot be told
   * apart, and the writes of unknown outcome that wrote them become one choice instead of many.
   */
  merge?(operations: readonly Operation<Input, Output>[]): readonly Operation<Input, Output>[];
}

/** Stands for all values that nobody saw. */
export const UNSEEN_VALUE = "(unseen)";

/** Operations that belong together, split by the parts that they touch; each in the order of `operations`. */
export function partition<Input, Item extends { readonly input: Input }>(
  model: Pick<Model<never, Input, never>, "parts">,
  operations: readonly Item[],
): readonly { readonly parts: readonly string[]; readonly operations: readonly Item[] }[] {
  const parents = new Map<string, string>();
  const root = (part: string): string => {
    let top = part;
    for (let up = parents.get(top) ?? top; up !== top; up = parents.get(top) ?? top) top = up;
    parents.set(part, top);
    return top;
  };
  for (const { input } of operations) {
    const [first, ...others] = model.parts(input);
    if (first === undefined) throw new Error("an operation must touch something");
    if (!parents.has(first)) parents.set(first, first);
    for (const other of others) {
      if (!parents.has(other)) parents.set(other, other);
      parents.set(root(other), root(first));
    }
  }
  const groups = new Map<string, { parts: string[]; operations: Item[] }>();
  const groupOf = (part: string): { parts: string[]; operations: Item[] } => {
    const group = groups.get(root(part)) ?? { parts: [], operations: [] };
    groups.set(root(part), group);
    return group;
  };
  for (const part of parents.keys()) groupOf(part).parts.push(part);
  for (const operation of operations) {
    const [first] = model.parts(operation.input);
    if (first !== undefined) groupOf(first).operations.push(operation);
  }
  return [...groups.values()];
}
