/**
 * The members that consensus counts (R18), for whole nodes: the configurations of a cluster are those that the committed entries
 * make one after the other, consecutive ones share their quorums, and every node uses the one of its applied index.
 *
 * A leader is a voter of its own configuration, and at most one change waits to be committed in its log.
 */
import { changeConfig } from "../../src/raft/conf-change.ts";
import { decodeConfChange } from "../../src/raft/conf-change-codec.ts";
import { InvariantViolation, type NodeView } from "../../src/raft/invariants.ts";
import type { ConfState, LogEntry } from "../../src/raft/types.ts";
import { must } from "../../src/std/assert.ts";

/** The checks of one run. */
export class ConfigChecks {
  /** Configurations by the index from which on they hold, ascending. */
  readonly #configs: { readonly index: number; readonly config: ConfState }[];
  /** Committed entries up to here were looked at. */
  #throughIndex = 0;

  /** @param founderIds the voters that the log begins with */
  constructor(founderIds: readonly number[]) {
    const config = {
      voters: [...founderIds],
      votersOutgoing: [],
      learners: [],
      learnersNext: [],
      autoLeave: false,
    };
    this.#configs = [{ index: 0, config }];
  }

  /** Configurations that held, the first one not counted. */
  get changeCount(): number {
    return this.#configs.length - 1;
  }

  /** Looks at nodes after a step. Throws InvariantViolation. */
  observe(views: readonly NodeView[]): void {
    for (const view of views) this.#readCommitted(view);
    for (const view of views) {
      this.#checkInForce(view);
      if (view.role === "leader") checkLeader(view);
    }
  }

  #readCommitted(view: NodeView): void {
    for (let index = this.#throughIndex + 1; index <= view.commitIndex; index += 1) {
      // Somebody committed it before it could be cut off anywhere.
      check(index >= view.firstIndex, () => `entry ${index} was committed unseen`);
      this.#readEntry(must(view.entryAt, "a view of a node's own log")(index));
      this.#throughIndex = index;
    }
  }

  #readEntry(entry: LogEntry): void {
    if (entry.kind !== "conf-change") return;
    const { config: before } = must(this.#configs.at(-1), "there is a first one");
    const change = changeConfig(before, decodeConfChange(entry.data));
    check(change.ok, () => `the change at ${entry.index} does not follow from ${JSON.stringify(before)}`);
    if (!change.ok) return;
    check(
      shareQuorums(before, change.config),
      () =>
        `the change at ${entry.index} leads from ${JSON.stringify(before)} to ${JSON.stringify(change.config)}`,
    );
    this.#configs.push({ index: entry.index, config: change.config });
  }

  #checkInForce(view: NodeView): void {
    const { config, id } = view;
    // A snapshot brings its configuration as soon as it is taken over.
    const appliedIndex = Math.max(view.appliedIndex, view.pendingSnapshotIndex ?? 0);
    const known = must(
      this.#configs.findLast(({ index }) => index <= appliedIndex),
      "there is a first one",
    );
    check(
      config !== undefined && textOf(config) === textOf(known.config),
      () => `node ${id} counts ${JSON.stringify(config)} at ${appliedIndex}, it is ${textOf(known.config)}`,
    );
  }
}

/** A leader is a voter, and at most one change of the configuration waits in its log. */
function checkLeader(view: NodeView): void {
  const { id, term, config, commitIndex, lastIndex } = view;
  const isVoter = config?.voters.includes(id) === true || config?.votersOutgoing.includes(id) === true;
  check(isVoter, () => `node ${id} leads term ${term} and is no voter of ${JSON.stringify(config)}`);
  let changeCount = 0;
  for (let index = commitIndex + 1; index <= lastIndex; index += 1) {
    if (must(view.entryAt, "a view of a node's own log")(index).kind === "conf-change") changeCount += 1;
  }
  check(changeCount <= 1, () => `leader ${id} has ${changeCount} changes of the membership uncommitted`);
}

function textOf(config: ConfState): string {
  const { voters, votersOutgoing, learners, learnersNext, autoLeave } = config;
  const lists = [voters, votersOutgoing, learners, learnersNext].map((ids) => [...ids].sort((a, b) => a - b));
  return JSON.stringify([lists, autoLeave]);
}

/** Whether every quorum of one configuration meets every quorum of the other. */
export function shareQuorums(one: ConfState, other: ConfState): boolean {
  const ids = [...new Set([...one.voters, ...one.votersOutgoing, ...other.voters, ...other.votersOutgoing])];
  const isQuorum = (config: ConfState, mask: number): boolean =>
    [config.voters, config.votersOutgoing].every((half) => {
      const count = half.filter((id) => (mask & (1 << ids.indexOf(id))) !== 0).length;
      return half.length === 0 || 2 * count > half.length;
    });
  const all = (1 << ids.length) - 1;
  for (let mask = 0; mask <= all; mask += 1) {
    // A quorum of the one, and a quorum of the other within what is left, would not meet.
    if (isQuorum(one, mask) && isQuorum(other, all & ~mask)) return false;
  }
  return true;
}

function check(condition: boolean, describe: () => string): void {
  if (!condition) throw new InvariantViolation("R18", describe());
}
