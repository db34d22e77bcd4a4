/**
 * Runs the vectors of etcd-io/raft that are pure functions: membership changes, and quorums.
 *
 * Both are compared byte for byte. The quorum harness also makes the checks that etcd's makes on every case: the two halves
 * of a joint configuration may be swapped, a configuration joint with itself or with nobody equals itself, and lowering
 * an index that is below the result already changes nothing.
 */
import { assert, must } from "../../../src/std/assert.ts";
import {
  EMPTY_CONF_STATE,
  enterJoint,
  leaveJoint,
  simpleChange,
  type ConfChangeResult,
} from "../../../src/raft/conf-change.ts";
import { committedIndex, voteResult, type QuorumConfig } from "../../../src/raft/quorum.ts";
import { Tracker } from "../../../src/raft/tracker.ts";
import { readBoolean, readNumber, type DirectiveArg, type DirectiveCase } from "./datadriven.ts";
import { describeConfig, describeProgress, parseSteps } from "./describe.ts";

/** Runs directives of one confchange file, each on the outcome of the ones before. */
export class ConfChangeRunner {
  #config = EMPTY_CONF_STATE;
  readonly #tracker = new Tracker({ inflightMessagesMax: 10, inflightBytesMax: 0 });
  #lastIndex = 0;

  /** Runs one directive and returns its output. */
  run(directive: DirectiveCase): string {
    const result = this.#change(directive);
    if (result.ok) {
      this.#config = result.config;
      this.#tracker.switchTo(result.config, this.#lastIndex);
    }
    this.#lastIndex += 1;
    if (!result.ok) return result.reason;
    const lines = [describeConfig(this.#config)];
    for (const [id, progress] of this.#tracker.progress)
      lines.push(`${id}: ${describeProgress(progress.view())}`);
    return lines.join("\n");
  }

  #change(directive: DirectiveCase): ConfChangeResult {
    const steps = parseSteps(directive.input);
    checkKeys(directive, directive.command === "enter-joint" ? ["autoleave"] : []);
    switch (directive.command) {
      case "simple":
        return simpleChange(this.#config, steps);
      case "enter-joint": {
        const autoLeave = valuesOf(directive.args, "autoleave")?.[0] ?? "false";
        return enterJoint(this.#config, readBoolean(autoLeave), steps);
      }
      case "leave-joint":
        if (steps.length > 0) return { ok: false, reason: "this command takes no input" };
        return leaveJoint(this.#config);
      default:
        throw new Error(`unknown directive ${directive.command}`);
    }
  }
}

/** Runs one directive of a quorum file and returns its output, after the checks named above. */
export function runQuorum(directive: DirectiveCase): string {
  const voters = ids(valuesOf(directive.args, "cfg"));
  const joint = valuesOf(directive.args, "cfgj");
  const outgoing = joint?.length === 1 && joint[0] === "zero" ? [] : ids(joint);
  const config: QuorumConfig = { voters, votersOutgoing: outgoing };
  switch (directive.command) {
    case "committed":
      checkKeys(directive, ["cfg", "cfgj", "idx"]);
      return runCommitted(
        config,
        joint !== undefined,
        inOrder(config, valuesOf(directive.args, "idx") ?? [], readIndex),
      );
    case "vote":
      checkKeys(directive, ["cfg", "cfgj", "votes"]);
      return runVote(config, inOrder(config, valuesOf(directive.args, "votes") ?? [], readVote));
    default:
      throw new Error(`unknown directive ${directive.command}`);
  }
}

function runCommitted(config: QuorumConfig, isJoint: boolean, acked: ReadonlyMap<number, number>): string {
  const evaluate = (one: QuorumConfig, values: ReadonlyMap<number, number> = acked): number =>
    committedIndex(one, (id) => values.get(id));
  const result = evaluate(config);
  checkSymmetry(config, result, evaluate);
  for (const [id, index] of acked) {
    if (index > result || index === 0) continue;
    if (index === result) continue;
    for (const lower of [index - 1, 0]) {
      const lowered = evaluate(config, new Map([...acked, [id, lower]]));
      assert(lowered === result, `lowering ${id} from ${index} to ${lower} moved ${result} to ${lowered}`);
    }
  }
  const all = [...new Set([...config.voters, ...config.votersOutgoing])].sort((a, b) => a - b);
  const text = result === Infinity ? "∞" : String(result);
  if (all.length === 0) return `<empty majority quorum>${text}`;
  assert(isJoint || config.votersOutgoing.length === 0, "a plain quorum has one half");
  return `${drawQuorum(all, acked)}\n${text}`;
}

function runVote(config: QuorumConfig, votes: ReadonlyMap<number, boolean>): string {
  const evaluate = (one: QuorumConfig): string => voteResult(one, (id) => votes.get(id));
  const result = evaluate(config);
  checkSymmetry(config, result, evaluate);
  return `Vote${result.charAt(0).toUpperCase()}${result.slice(1)}`;
}

function checkSymmetry<T>(config: QuorumConfig, result: T, evaluate: (one: QuorumConfig) => T): void {
  const { voters, votersOutgoing } = config;
  const swapped = evaluate({ voters: votersOutgoing, votersOutgoing: voters });
  assert(swapped === result, `swapped halves give ${String(swapped)}, not ${String(result)}`);
  if (votersOutgoing.length > 0) return;
  const self = evaluate({ voters, votersOutgoing: voters });
  assert(self === result, `joint with itself gives ${String(self)}, not ${String(result)}`);
  const zero = evaluate({ voters: [], votersOutgoing: voters });
  assert(zero === result, `joint with nobody gives ${String(zero)}, not ${String(result)}`);
}

/** A bar for each voter, as long as the number of voters that acknowledged less than it. */
function drawQuorum(all: readonly number[], acked: ReadonlyMap<number, number>): string {
  const width = all.length;
  const lines = [`${" ".repeat(width)}    idx`];
  for (const id of all) {
    const index = acked.get(id);
    const below = all.filter((other) => index !== undefined && isBelow(other, id, acked)).length;
    const bar =
      index === undefined ? `?${" ".repeat(width)}` : `${"x".repeat(below)}>${" ".repeat(width - below)}`;
    lines.push(`${bar} ${String(index ?? 0).padStart(5)}    (id=${id})`);
  }
  return lines.join("\n");
}

function isBelow(other: number, id: number, acked: ReadonlyMap<number, number>): boolean {
  return (acked.get(other) ?? 0) < (acked.get(id) ?? 0);
}

/** Values belong to the voters of the first half in its order, then to those of the second that are not in the first. */
function inOrder<T>(
  config: QuorumConfig,
  values: readonly string[],
  read: (text: string) => T | undefined,
): Map<number, T> {
  const order = [...new Set([...config.voters, ...config.votersOutgoing])];
  assert(values.length === order.length, `${values.length} values for ${order.length} voters`);
  const known = new Map<number, T>();
  values.forEach((text, i) => {
    const value = read(text);
    if (value !== undefined) known.set(must(order[i], "as many as values"), value);
  });
  return known;
}

function readIndex(text: string): number | undefined {
  if (text === "_") return undefined;
  const index = readNumber(text);
  assert(index > 0, "0 as an index cannot be told from none");
  return index;
}

function readVote(text: string): boolean | undefined {
  assert(["y", "n", "_"].includes(text), `unknown vote ${text}`);
  return text === "_" ? undefined : text === "y";
}

function ids(values: readonly string[] | undefined): number[] {
  return [...new Set((values ?? []).map(readNumber))];
}

/** Throws for an argument that is not one of `keys`. */
function checkKeys(directive: DirectiveCase, keys: readonly string[]): void {
  for (const { key } of directive.args) {
    if (!keys.includes(key)) throw new Error(`${directive.command} does not know the argument ${key}`);
  }
}

function valuesOf(args: readonly DirectiveArg[], key: string): readonly string[] | undefined {
  return args.find((arg) => arg.key === key)?.values;
}
