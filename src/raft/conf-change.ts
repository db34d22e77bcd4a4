/**
 * Membership changes as pure functions: a configuration and a list of steps give the next configuration, or say why not.
 *
 * A simple change touches at most one voter, so that old and new majorities overlap (thesis 4.1). Anything else enters a
 * joint configuration, in which both majorities must agree, and leaves it by a second change (Raft 6, thesis 4.3).
 *
 *   simple:       C --------------------> C'
 *   joint:        C --enter--> C' && C --leave--> C'
 *
 * A voter that becomes a learner while it still votes in the outgoing half waits in learnersNext until the joint
 * configuration is left. Member 0 in a step means "nobody" and is skipped, so that a step can be cancelled in place.
 */
import { assert } from "../std/assert.ts";
import { NO_MEMBER, type ConfChange, type ConfChangeStep, type ConfState, type MemberId } from "./types.ts";

/** The next configuration, or the reason why the change cannot be made. */
export type ConfChangeResult =
  { readonly ok: true; readonly config: ConfState } | { readonly ok: false; readonly reason: string };

/** A configuration with nobody in it: the one of a node that has not joined yet. */
export const EMPTY_CONF_STATE: ConfState = {
  voters: [],
  votersOutgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
};

/** Whether `config` is joint. */
export function isJoint(config: ConfState): boolean {
  return config.votersOutgoing.length > 0;
}

/** Everybody that a leader replicates to under `config`, sorted by id. */
export function memberIds(config: ConfState): MemberId[] {
  const ids = new Set([
    ...config.voters,
    ...config.votersOutgoing,
    ...config.learners,
    ...config.learnersNext,
  ]);
  return [...ids].sort(ascending);
}

/** How a change is to be made: whether it leaves a joint configuration, enters one, or is simple. */
export function transitionOf(change: ConfChange): "leave-joint" | "enter-joint" | "simple" {
  if (change.transition === "auto" && change.steps.length === 0) return "leave-joint";
  return change.transition !== "auto" || change.steps.length > 1 ? "enter-joint" : "simple";
}

/** Applies `change` to `config` in the way transitionOf() says. */
export function changeConfig(config: ConfState, change: ConfChange): ConfChangeResult {
  switch (transitionOf(change)) {
    case "leave-joint":
      return leaveJoint(config);
    case "enter-joint":
      return enterJoint(config, change.transition !== "joint-explicit", change.steps);
    case "simple":
      return simpleChange(config, change.steps);
  }
}

/** Makes `config` the outgoing half of a joint configuration whose incoming half has `steps` applied. */
export function enterJoint(
  config: ConfState,
  autoLeave: boolean,
  steps: readonly ConfChangeStep[],
): ConfChangeResult {
  if (isJoint(config)) return refused("config is already joint");
  if (config.voters.length === 0) return refused("can't make a zero-voter config joint");
  const draft = new Draft({ ...config, votersOutgoing: config.voters });
  if (!draft.applySteps(steps)) return refused("removed all voters");
  return changed({ ...draft.toConfState(), autoLeave });
}

/** Drops the outgoing half of a joint configuration. */
export function leaveJoint(config: ConfState): ConfChangeResult {
  if (!isJoint(config)) return refused("can't leave a non-joint config");
  const learners = [...config.learners, ...config.learnersNext].sort(ascending);
  return changed({ voters: config.voters, votersOutgoing: [], learners, learnersNext: [], autoLeave: false });
}

/** Applies `steps` at once; refuses more than one changed voter. */
export function simpleChange(config: ConfState, steps: readonly ConfChangeStep[]): ConfChangeResult {
  if (isJoint(config)) return refused("can't apply simple config change in joint config");
  const draft = new Draft(config);
  if (!draft.applySteps(steps)) return refused("removed all voters");
  const next = draft.toConfState();
  if (differenceCount(config.voters, next.voters) > 1) {
    return refused("more than one voter changed without entering joint config");
  }
  return changed(next);
}

/**
 * Asserts what every configuration keeps: learners do not vote, learnersNext are voters of the outgoing half, and the
 * parts that belong to a joint configuration are empty outside of one.
 */
export function checkConfState(config: ConfState): void {
  for (const id of config.learners) {
    assert(!config.voters.includes(id), `learner ${id} is a voter`);
    assert(!config.votersOutgoing.includes(id), `learner ${id} is an outgoing voter`);
  }
  for (const id of config.learnersNext) {
    assert(config.votersOutgoing.includes(id), `next learner ${id} is not an outgoing voter`);
    assert(!config.voters.includes(id), `next learner ${id} is a voter`);
  }
  if (!isJoint(config)) {
    assert(config.learnersNext.length === 0, "next learners outside of a joint configuration");
    assert(!config.autoLeave, "auto leave outside of a joint configuration");
  }
}

/** A configuration being changed step by step. */
class Draft {
  readonly #voters: Set<MemberId>;
  readonly #votersOutgoing: Set<MemberId>;
  readonly #learners: Set<MemberId>;
  readonly #learnersNext: Set<MemberId>;
  readonly #autoLeave: boolean;

  constructor(config: ConfState) {
    this.#voters = new Set(config.voters);
    this.#votersOutgoing = new Set(config.votersOutgoing);
    this.#learners = new Set(config.learners);
    this.#learnersNext = new Set(config.learnersNext);
    this.#autoLeave = config.autoLeave;
  }

  /** Applies the steps in order; false when no voter is left. */
  applySteps(steps: readonly ConfChangeStep[]): boolean {
    for (const step of steps) {
      if (step.memberId !== NO_MEMBER) this.#applyStep(step);
    }
    return this.#voters.size > 0;
  }

  toConfState(): ConfState {
    return {
      voters: [...this.#voters].sort(ascending),
      votersOutgoing: [...this.#votersOutgoing].sort(ascending),
      learners: [...this.#learners].sort(ascending),
      learnersNext: [...this.#learnersNext].sort(ascending),
      autoLeave: this.#autoLeave,
    };
  }

  #applyStep(step: ConfChangeStep): void {
    const id = step.memberId;
    switch (step.kind) {
      case "add-voter":
        this.#remove(id);
        this.#voters.add(id);
        return;
      case "add-learner":
        if (this.#learners.has(id)) return;
        this.#remove(id);
        if (this.#votersOutgoing.has(id)) this.#learnersNext.add(id);
        else this.#learners.add(id);
        return;
      case "remove":
        this.#remove(id);
        return;
      case "update":
        // Carries information for the layer above; the configuration stays as it is.
        return;
    }
  }

  #remove(id: MemberId): void {
    this.#voters.delete(id);
    this.#learners.delete(id);
    this.#learnersNext.delete(id);
  }
}

function ascending(a: MemberId, b: MemberId): number {
  return a - b;
}

function changed(config: ConfState): ConfChangeResult {
  checkConfState(config);
  return { ok: true, config };
}

function refused(reason: string): ConfChangeResult {
  return { ok: false, reason };
}

function differenceCount(a: readonly MemberId[], b: readonly MemberId[]): number {
  return a.filter((id) => !b.includes(id)).length + b.filter((id) => !a.includes(id)).length;
}

/** The configuration of these voters and nobody else. */
export function votersOnly(voters: readonly MemberId[]): ConfState {
  const sorted = [...voters].sort((a, b) => a - b);
  return { voters: sorted, votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
}
