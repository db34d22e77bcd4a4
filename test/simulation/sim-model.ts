/**
 * The drive as a simple, obviously right model: one map from path to file or directory, and what each operation does to it.
 *
 * apply() answers the states that an operation with its observed result may lead to: none when the model could never have given
 * that result, several when the result leaves it open. Values are numbers that stand for bytes; versions are known only where
 * a caller was told one. Reads of a model state are exact: a result that is not what the model says is illegal.
 */
import type { ErrorReason } from "../../src/drive/errors.ts";
import { unreachable } from "../../src/std/assert.ts";
import type { OnConflict } from "../../src/drive/entry.ts";

/** A file or directory of the model. */
export type ModelNode =
  | { readonly kind: "directory" }
  | { readonly kind: "file"; readonly value: number; readonly version: number | undefined };

/** All paths below one group, without the group itself, which always is there. */
export type ModelState = ReadonlyMap<string, ModelNode>;

/** What a client asked for. Paths are relative to the group: "a", "d", "d/x". */
export type ModelRequest =
  | {
      readonly kind: "put";
      readonly path: string;
      readonly value: number;
      readonly onConflict: OnConflict;
      readonly ifVersion?: number | undefined;
    }
  | { readonly kind: "read" | "stat" | "list"; readonly path: string }
  | { readonly kind: "mkdir"; readonly path: string }
  | {
      readonly kind: "move" | "copy";
      readonly from: string;
      readonly to: string;
      readonly onConflict: OnConflict;
    }
  | { readonly kind: "delete"; readonly path: string; readonly recursive: boolean };

/** What a client was told. "unknown": nothing certain. */
export type ModelResult =
  | { readonly kind: "done"; readonly path?: string; readonly version?: number }
  | { readonly kind: "value"; readonly value: number; readonly version: number }
  | { readonly kind: "entry"; readonly isDirectory: boolean; readonly version: number }
  | { readonly kind: "names"; readonly names: readonly string[] }
  | { readonly kind: "refused"; readonly reason: ErrorReason }
  | { readonly kind: "unknown" };

/** Canonical text of a state: equal states have equal texts. */
export function stateKey(state: ModelState): string {
  return [...state]
    .map(
      ([path, node]) => `${path}=${node.kind === "directory" ? "/" : `${node.value}@${node.version ?? "?"}`}`,
    )
    .sort()
    .join(" ");
}

class Refusal extends Error {
  readonly reason: ErrorReason;
  constructor(reason: ErrorReason) {
    super(reason);
    this.reason = reason;
  }
}

function refuse(reason: ErrorReason): never {
  throw new Refusal(reason);
}

const parentOf = (path: string): string => path.split("/").slice(0, -1).join("/");

const childrenOf = (state: ModelState, path: string): string[] =>
  [...state.keys()].filter((each) => parentOf(each) === path);

function checkParent(state: ModelState, path: string): void {
  const parent = parentOf(path);
  if (parent === "") return;
  checkParent(state, parent);
  const node = state.get(parent);
  if (node === undefined) refuse("PATH_NOT_FOUND");
  if (node.kind === "file") refuse("NOT_A_DIRECTORY");
}

function find(state: ModelState, path: string): ModelNode | undefined {
  checkParent(state, path);
  return state.get(path);
}

function get(state: ModelState, path: string): ModelNode {
  if (path === "") return { kind: "directory" };
  return find(state, path) ?? refuse("PATH_NOT_FOUND");
}

/** Refuses unless a new node of `kind` may be put at `path`. */
function settle(state: ModelState, path: string, kind: ModelNode["kind"], onConflict: OnConflict): void {
  const there = find(state, path);
  if (there === undefined) return;
  if (onConflict === "fail") refuse("PATH_EXISTS");
  if (there.kind !== kind) refuse(there.kind === "directory" ? "IS_A_DIRECTORY" : "NOT_A_DIRECTORY");
}

function without(state: ModelState, path: string): Map<string, ModelNode> {
  return new Map([...state].filter(([each]) => each !== path && !each.startsWith(`${path}/`)));
}

function put(
  state: ModelState,
  request: ModelRequest & { kind: "put" },
  path: string,
  version: number | undefined,
): ModelState {
  const there = find(state, path);
  if (request.ifVersion !== undefined) {
    if (there === undefined) refuse("VERSION_MISMATCH");
    const known = there.kind === "file" ? there.version : undefined;
    if (known !== undefined && known !== request.ifVersion) refuse("VERSION_MISMATCH");
  }
  settle(state, path, "file", request.onConflict);
  return new Map(state).set(path, { kind: "file", value: request.value, version });
}

/** Moves or copies the node at `from`, and everything below it, to `to`. */
function transplant(
  state: ModelState,
  request: ModelRequest & { kind: "move" | "copy" },
  version: number | undefined,
): ModelState {
  const { kind, from, to, onConflict } = request;
  const source = get(state, from);
  checkParent(state, to);
  const isInto = to.startsWith(`${from}/`);
  if (kind === "move" && isInto) refuse("MOVE_INTO_SELF");
  if (kind === "move" && to === from) return state;
  if (kind === "copy" && source.kind === "directory") {
    if (isInto || (to === from && onConflict === "replace")) refuse("MOVE_INTO_SELF");
  }
  settle(state, to, source.kind, onConflict);
  if (source.kind === "directory" && childrenOf(state, to).length > 0) refuse("DIRECTORY_NOT_EMPTY");
  const result = kind === "move" ? without(without(state, to), from) : without(state, to);
  for (const [path, node] of state) {
    if (path === from) {
      result.set(to, node.kind === "file" ? { ...node, version } : node);
    } else if (path.startsWith(`${from}/`)) {
      const isSame = kind === "move" || node.kind === "directory";
      result.set(to + path.slice(from.length), isSame ? node : { ...node, version: undefined });
    }
  }
  return result;
}

function remove(state: ModelState, path: string, recursive: boolean): ModelState {
  get(state, path);
  if (!recursive && childrenOf(state, path).length > 0) refuse("DIRECTORY_NOT_EMPTY");
  return without(state, path);
}

function change(
  state: ModelState,
  request: Exclude<ModelRequest, Look>,
  path: string | undefined,
  version: number | undefined,
): ModelState {
  switch (request.kind) {
    case "put":
      return put(state, request, path ?? request.path, version);
    case "mkdir":
      if (find(state, request.path) !== undefined) refuse("PATH_EXISTS");
      return new Map(state).set(request.path, { kind: "directory" });
    case "move":
    case "copy":
      return transplant(state, request, version);
    case "delete":
      return remove(state, request.path, request.recursive);
    default:
      return unreachable(request);
  }
}

type Look = Extract<ModelRequest, { readonly kind: "read" | "stat" | "list" }>;

function isRead(request: ModelRequest): request is Look {
  return request.kind === "read" || request.kind === "stat" || request.kind === "list";
}

/** A state with the version of `path` known, now that somebody was told; undefined when another one was known. */
function learn(state: ModelState, path: string, version: number): ModelState | undefined {
  const node = state.get(path);
  if (node?.kind !== "file" || node.version === version) return state;
  if (node.version !== undefined) return undefined;
  return new Map(state).set(path, { ...node, version });
}

function look(state: ModelState, request: Look, result: ModelResult): ModelState | undefined {
  const node = get(state, request.path);
  if (request.kind === "read" && node.kind === "directory") refuse("IS_A_DIRECTORY");
  if (request.kind === "list" && node.kind === "file") refuse("NOT_A_DIRECTORY");
  switch (result.kind) {
    case "value":
      if (node.kind !== "file" || node.value !== result.value) return undefined;
      return learn(state, request.path, result.version);
    case "entry":
      if ((node.kind === "directory") !== result.isDirectory) return undefined;
      return learn(state, request.path, result.version);
    case "names": {
      const names = childrenOf(state, request.path).map((path) => path.slice(path.lastIndexOf("/") + 1));
      return new Set([...names, ...result.names]).size === names.length &&
        names.length === result.names.length
        ? state
        : undefined;
    }
    case "done":
    case "refused":
    case "unknown":
      return undefined;
    default:
      return unreachable(result);
  }
}

/**
 * States that `request` with `result` may lead to. A put that is on its way while its folder moves lands in the folder at its new
 * place, so an unknown one may end under any of `folders`.
 */
export function apply(
  state: ModelState,
  request: ModelRequest,
  result: ModelResult,
  folders: readonly string[],
): readonly ModelState[] {
  if (result.kind === "unknown" && isRead(request)) return [state];
  try {
    if (isRead(request)) {
      const next = look(state, request, result);
      return next === undefined ? [] : [next];
    }
    if (result.kind === "done") return [change(state, request, result.path, result.version)];
    if (result.kind === "unknown") return afterUnknown(state, request, folders);
    change(state, request, undefined, undefined);
    return isUncertain(state, request, result) ? [state] : [];
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const isRefused = result.kind === "refused" && result.reason === error.reason;
    return isRefused || isUncertain(state, request, result) ? [state] : [];
  }
}

function isUncertain(state: ModelState, request: ModelRequest, result: ModelResult): boolean {
  if (request.kind !== "put" || result.kind !== "refused") return false;
  // The model does not know the version of what is there, so the tree may know better.
  const there = state.get(request.path);
  const isUnknownVersion =
    there?.kind === "directory" || (there?.kind === "file" && there.version === undefined);
  return request.ifVersion !== undefined && result.reason === "VERSION_MISMATCH" && isUnknownVersion;
}

function afterUnknown(
  state: ModelState,
  request: Exclude<ModelRequest, Look>,
  folders: readonly string[],
): readonly ModelState[] {
  const paths =
    request.kind === "put" && request.path.includes("/")
      ? folders.map((folder) => `${folder}/${request.path.split("/").at(-1) ?? ""}`)
      : [undefined];
  const states: ModelState[] = [];
  for (const path of paths) {
    try {
      states.push(change(state, request, path, undefined));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
    }
  }
  return states;
}
