/**
 * Sequential objects that a metadata store is made of: registers, sets, and files that are made, replaced, removed, moved and
 * copied. Small enough to be obviously right.
 */
import { unreachable } from "../../../src/std/assert.ts";
import type { Operation } from "./history.ts";
import { UNSEEN_VALUE, type Model } from "./model.ts";

// --- Registers by key -------------------------------------------------------------------------------------------------

/** An operation on the register `key`. "swap" writes `value` only when the register holds `expected` (undefined: nothing). */
export type RegisterInput =
  | { readonly kind: "read"; readonly key: string }
  | { readonly kind: "write"; readonly key: string; readonly value: string }
  | {
      readonly kind: "swap";
      readonly key: string;
      readonly expected: string | undefined;
      readonly value: string;
    };

/** What was read (undefined: nothing), or whether the value was written. */
export type RegisterOutput =
  | { readonly kind: "value"; readonly value: string | undefined }
  | { readonly kind: "written" }
  | { readonly kind: "unequal" };

/** Registers that hold nothing at first. */
export const registerModel: Model<string | undefined, RegisterInput, RegisterOutput> = {
  initial: undefined,
  step: (state, input, output) => {
    switch (input.kind) {
      case "read":
        return output === undefined || (output.kind === "value" && output.value === state) ? [state] : [];
      case "write":
        return output === undefined || output.kind === "written" ? [input.value] : [];
      case "swap": {
        const kind = state === input.expected ? "written" : "unequal";
        if (output !== undefined && output.kind !== kind) return [];
        return [kind === "written" ? input.value : state];
      }
      default:
        return unreachable(input);
    }
  },
  key: (state) => (state === undefined ? "nothing" : `=${state}`),
  parts: (input) => [input.key],
  describeInput: (input) => {
    switch (input.kind) {
      case "read":
        return `read ${input.key}`;
      case "write":
        return `write ${input.key} ${input.value}`;
      case "swap":
        return `swap ${input.key} ${input.expected ?? "nothing"} for ${input.value}`;
      default:
        return unreachable(input);
    }
  },
  describeOutput: (output) => (output.kind === "value" ? (output.value ?? "nothing") : output.kind),
  isReadOnly: (_, output) => output.kind !== "written",
  merge: (operations) =>
    mergeUnseen(operations, (input, output) => [
      ...(input.kind === "swap" ? [input.expected] : []),
      ...(output?.kind === "value" ? [output.value] : []),
    ]),
};

/** Replaces the values of writes that are not among those that inputs and outputs mention as seen. */
function mergeUnseen<Input extends object, Output>(
  operations: readonly Operation<Input, Output>[],
  seenIn: (input: Input, output: Output | undefined) => readonly (string | undefined)[],
): readonly Operation<Input, Output>[] {
  const seen = new Set(
    operations.flatMap(({ input, outcome }) =>
      seenIn(input, outcome.kind === "answered" ? outcome.output : undefined),
    ),
  );
  return operations.map((operation) => {
    const { input } = operation;
    if (!("value" in input) || typeof input.value !== "string" || seen.has(input.value)) return operation;
    return { ...operation, input: { ...input, value: UNSEEN_VALUE } };
  });
}

// --- Small sets -------------------------------------------------------------------------------------------------------

/** An operation on the set `set`. */
export type SetInput =
  | { readonly kind: "add" | "remove"; readonly set: string; readonly member: string }
  | { readonly kind: "list"; readonly set: string };

/** Whether the member was added or removed, or all members in any order. */
export type SetOutput =
  | { readonly kind: "changed" }
  | { readonly kind: "unchanged" }
  | { readonly kind: "members"; readonly members: readonly string[] };

/** Sets that are empty at first. */
export const setModel: Model<readonly string[], SetInput, SetOutput> = {
  initial: [],
  step: (state, input, output) => {
    if (input.kind === "list") {
      if (output === undefined) return [state];
      return output.kind === "members" && sameMembers(state, output.members) ? [state] : [];
    }
    const isChange = state.includes(input.member) !== (input.kind === "add");
    if (output !== undefined && output.kind !== (isChange ? "changed" : "unchanged")) return [];
    if (!isChange) return [state];
    if (input.kind === "add") return [[...state, input.member].sort()];
    return [state.filter((each) => each !== input.member)];
  },
  key: (state) => JSON.stringify(state),
  parts: (input) => [input.set],
  describeInput: (input) =>
    input.kind === "list" ? `list ${input.set}` : `${input.kind} ${input.member} in ${input.set}`,
  describeOutput: (output) => (output.kind === "members" ? `[${output.members.join()}]` : output.kind),
  isReadOnly: (_, output) => output.kind !== "changed",
};

function sameMembers(state: readonly string[], members: readonly string[]): boolean {
  return state.length === members.length && members.every((member) => state.includes(member));
}

// --- Files ------------------------------------------------------------------------------------------------------------

/**
 * An operation on files. "create" asks for the path to be free; "replace" makes or replaces, with `ifValue` only when the file
 * holds that; "list" reads all `paths` at one instant.
 */
export type FileInput =
  | { readonly kind: "create"; readonly path: string; readonly value: string }
  | {
      readonly kind: "replace";
      readonly path: string;
      readonly value: string;
      readonly ifValue?: string | undefined;
    }
  | { readonly kind: "remove"; readonly path: string; readonly ifValue?: string | undefined }
  | { readonly kind: "read"; readonly path: string }
  | { readonly kind: "move" | "copy"; readonly from: string; readonly to: string; readonly replace: boolean }
  | { readonly kind: "list"; readonly paths: readonly string[] };

/**
 * What was told: "absent" there is no such file, "exists" the path is taken, "mismatch" the condition does not hold; "value" and
 * "values" what was read, the latter by path.
 */
export type FileOutput =
  | { readonly kind: "done" | "absent" | "exists" | "mismatch" }
  | { readonly kind: "value"; readonly value: string }
  | { readonly kind: "values"; readonly values: ReadonlyMap<string, string> };

/** Values by path. */
export type FileState = ReadonlyMap<string, string>;

/** Files in folders that are always there; none at first. Moves and copies join the paths they name into one part. */
export const fileModel: Model<FileState, FileInput, FileOutput> = {
  initial: new Map(),
  step: (state, input, output) => {
    const [told, after] = runFile(state, input);
    return output === undefined || describeFileOutput(output) === describeFileOutput(told) ? [after] : [];
  },
  key: (state) =>
    [...state]
      .map(([path, value]) => `${path}=${value}`)
      .sort()
      .join(" "),
  parts: (input) => {
    if ("path" in input) return [input.path];
    return input.kind === "list" ? input.paths : [input.from, input.to];
  },
  describeInput: (input) => {
    switch (input.kind) {
      case "list":
        return `list ${input.paths.join()}`;
      case "move":
      case "copy":
        return `${input.kind} ${input.from} to ${input.to}${input.replace ? " replacing" : ""}`;
      case "create":
        return `create ${input.path} ${input.value}`;
      case "replace":
        return `replace ${input.path} ${input.value}${describeCondition(input.ifValue)}`;
      case "remove":
        return `remove ${input.path}${describeCondition(input.ifValue)}`;
      case "read":
        return `read ${input.path}`;
      default:
        return unreachable(input);
    }
  },
  describeOutput: describeFileOutput,
  isReadOnly: (_, output) => output.kind !== "done",
  merge: (operations) =>
    mergeUnseen(operations, (input, output) => [
      ...("ifValue" in input ? [input.ifValue] : []),
      ...(output?.kind === "value" ? [output.value] : []),
      ...(output?.kind === "values" ? output.values.values() : []),
    ]),
};

function describeCondition(ifValue: string | undefined): string {
  return ifValue === undefined ? "" : ` if ${ifValue}`;
}

function describeFileOutput(output: FileOutput): string {
  if (output.kind === "value") return `=${output.value}`;
  return output.kind === "values" ? `[${fileModel.key(output.values)}]` : output.kind;
}

/** What a client is told, and the state afterwards. */
function runFile(state: FileState, input: FileInput): readonly [FileOutput, FileState] {
  switch (input.kind) {
    case "create":
      if (state.has(input.path)) return [{ kind: "exists" }, state];
      return [{ kind: "done" }, new Map(state).set(input.path, input.value)];
    case "replace":
      if (input.ifValue !== undefined && state.get(input.path) !== input.ifValue)
        return [{ kind: "mismatch" }, state];
      return [{ kind: "done" }, new Map(state).set(input.path, input.value)];
    case "remove": {
      const there = state.get(input.path);
      if (there === undefined) return [{ kind: "absent" }, state];
      if (input.ifValue !== undefined && there !== input.ifValue) return [{ kind: "mismatch" }, state];
      return [{ kind: "done" }, without(state, input.path)];
    }
    case "read": {
      const value = state.get(input.path);
      return [value === undefined ? { kind: "absent" } : { kind: "value", value }, state];
    }
    case "move":
    case "copy": {
      const value = state.get(input.from);
      if (value === undefined) return [{ kind: "absent" }, state];
      if (state.has(input.to) && input.from !== input.to && !input.replace)
        return [{ kind: "exists" }, state];
      const left = input.kind === "move" ? without(state, input.from) : new Map(state);
      return [{ kind: "done" }, left.set(input.to, value)];
    }
    case "list": {
      const values = new Map([...state].filter(([path]) => input.paths.includes(path)));
      return [{ kind: "values", values }, state];
    }
    default:
      return unreachable(input);
  }
}

function without(state: FileState, path: string): Map<string, string> {
  const left = new Map(state);
  left.delete(path);
  return left;
}
