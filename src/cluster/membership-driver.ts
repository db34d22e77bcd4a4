/**
 * Carries out the change of the membership that the tree records, at whoever leads, a step at a time.
 *
 *   add       (storage-only: registered -> done) not in the configuration -> learner -> caught up and registered -> voter -> done
 *   replace   the same, but the last step is a joint change: the new one votes, the former one goes
 *   remove    (the leader itself: hand over first) -> out of the configuration -> done
 *   transfer  hand over -> done, said by the new leader
 *
 * It keeps nothing: each round looks at the tree and at the configuration and does the next step, so a leader that dies after any
 * of them is followed by one that goes on. What the tree says was removed is taken out of the configuration too, whatever put it
 * there. A learner votes once it is at most CATCH_UP_ENTRY_COUNT_MAX entries behind: until then it would only make quorums
 * larger (thesis 4.2.1).
 */
import { DriveError } from "../drive/errors.ts";
import { findMember, isRemoved } from "../metadata/members.ts";
import { openMembershipChange, type MembershipChange } from "../metadata/membership.ts";
import { clusterTime } from "../metadata/view.ts";
import { sleep, type Clock } from "../std/clock.ts";
import type { Logger } from "../telemetry/logger.ts";
import {
  isInConfig,
  votersOf,
  type ConsensusMembership,
  type MembershipView,
  type MemberStep,
} from "./consensus-membership.ts";
import { sharedAbortController } from "./deadline.ts";
import type { FailureDetector } from "./failure-detector-port.ts";
import { findHeldBack, findLastCopies, findNoQuorum, LastCopiesOfFormer } from "./membership-safety.ts";
import type { MetadataClient } from "./metadata-client.ts";

/** A learner this many log entries behind the leader, or fewer, has caught up. */
export const CATCH_UP_ENTRY_COUNT_MAX = 1000;
/** A node that was admitted and is not heard of for this long, in cluster time from then, is given up. */
export const JOIN_TIMEOUT_MS = 10 * 60 * 1000;
/** Tries to hand leadership over before it is given up. */
export const TRANSFER_ATTEMPT_COUNT_MAX = 3;
/** Pause between rounds while there is something to wait for. */
export const MEMBERSHIP_IDLE_MS = 200;
const MEMBERSHIP_BUSY_MS = 10;

/** What a MembershipDriver needs. */
export interface MembershipDriverOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metadata: MetadataClient;
  readonly detector: FailureDetector;
  readonly consensus: ConsensusMembership;
  readonly onError?: (error: DriveError) => void;
}

/** What a round came to: nothing to do here, wait, or go on. */
type Round = "done" | "idle" | "busy";

/** Makes changes at a node that leads. Costs nothing while there is none: look() is called now and then, and it works until done. */
export class MembershipDriver {
  readonly #options: MembershipDriverOptions;
  readonly #stopping = sharedAbortController();
  #running: Promise<void> | undefined;
  /** Transfers that this node tried for a change. */
  #attempts = { changeId: 0, count: 0 };
  /** Why a change waits, as it was told last. */
  #heldBack = { changeId: 0, reason: "" };
  readonly #lastCopies: LastCopiesOfFormer;

  constructor(options: MembershipDriverOptions) {
    this.#options = options;
    this.#lastCopies = new LastCopiesOfFormer(options.clock, () => options.metadata.port.reader());
  }

  /** Begins to work when this node leads and there is a change to make; it then goes on by itself. */
  look(): void {
    if (this.#running !== undefined || this.#stopping.signal.aborted || !this.#hasWork()) return;
    this.#running = this.#run();
  }

  /** Ends; resolves when the step in hand has ended. */
  async stop(): Promise<void> {
    this.#stopping.abort(new DriveError("NODE_STOPPING", "The node stops."));
    await this.#running;
  }

  #hasWork(): boolean {
    const { consensus, metadata } = this.#options;
    const view = consensus.view();
    if (!view.isLeading) return false;
    const { voters, votersOutgoing, learners } = view.config;
    const reader = metadata.port.reader();
    if (votersOutgoing.length > 0 || openMembershipChange(reader) !== undefined) return true;
    return [...voters, ...learners].some((memberId) => isRemoved(reader, memberId));
  }

  async #run(): Promise<void> {
    const { clock, onError } = this.#options;
    const { signal } = this.#stopping;
    let round: Round = "busy";
    while (!signal.aborted) {
      try {
        round = await this.#round();
      } catch (error) {
        if (!(error instanceof DriveError)) throw error;
        round = "idle";
        if (!signal.aborted) onError?.(error);
      }
      if (round === "done") break;
      await sleep(clock, round === "busy" ? MEMBERSHIP_BUSY_MS : MEMBERSHIP_IDLE_MS, signal).catch(
        () => undefined,
      );
    }
    this.#running = undefined;
  }

  async #round(): Promise<Round> {
    const { consensus, metadata } = this.#options;
    const view = consensus.view();
    if (!view.isLeading) return "done";
    if (view.config.votersOutgoing.length > 0) {
      // One that ends by itself is the core's to leave.
      if (!view.config.autoLeave) await this.#change([]);
      return "busy";
    }
    const reader = metadata.port.reader();
    const { voters, learners } = view.config;
    const buried = [...voters, ...learners].find((memberId) => isRemoved(reader, memberId));
    if (buried !== undefined) return this.#takeOut(view, buried, 0);
    const change = openMembershipChange(reader);
    if (change === undefined) return "done";
    switch (change.kind) {
      case "add":
      case "replace":
        return this.#add(view, change);
      case "remove":
        return this.#remove(view, change);
      case "transfer":
        return this.#transfer(view, change);
    }
  }

  async #add(view: MembershipView, change: MembershipChange): Promise<"busy" | "idle"> {
    if (change.isStorageOnly) return this.#addStorage(change);
    const { memberId, formerMemberId } = change;
    const { voters, learners } = view.config;
    if (voters.includes(memberId)) {
      if (formerMemberId > 0 && isInConfig(view.config, formerMemberId)) {
        return this.#takeOut(view, formerMemberId, change.changeId);
      }
      return this.#end(change, "");
    }
    if (!learners.includes(memberId)) {
      await this.#change([{ kind: "add-learner", memberId }]);
      return "busy";
    }
    const { metadata } = this.#options;
    const progress = view.progress.get(memberId);
    const isRegistered = findMember(metadata.port.reader(), memberId) !== undefined;
    const isThere = progress?.isActive === true && isRegistered;
    const behind = view.lastIndex - (progress?.matchIndex ?? 0);
    if (isThere && progress.isStreaming && behind <= CATCH_UP_ENTRY_COUNT_MAX) {
      return this.#promote(view, change);
    }
    return isThere ? "idle" : this.#waitFor(change);
  }

  /** A storage-only node belongs once it has registered; consensus never hears of it. */
  async #addStorage(change: MembershipChange): Promise<"busy" | "idle"> {
    const isRegistered = findMember(this.#options.metadata.port.reader(), change.memberId) !== undefined;
    if (!isRegistered) return this.#waitFor(change);
    const unsafe = this.#lastCopies.find(change);
    return unsafe === undefined ? this.#end(change, "") : this.#holdBack(change, unsafe);
  }

  /** Waits for a node that was admitted, but not for ever. */
  async #waitFor(change: MembershipChange): Promise<"busy" | "idle"> {
    const waitedMs = clusterTime(this.#options.metadata.port.reader()) - change.startTimeMs;
    if (waitedMs < JOIN_TIMEOUT_MS) return "idle";
    return this.#end(change, `It was not heard of for ${JOIN_TIMEOUT_MS / 60_000} minutes.`);
  }

  async #promote(view: MembershipView, change: MembershipChange): Promise<"busy" | "idle"> {
    const { memberId, formerMemberId } = change;
    const isLive = (id: number): boolean => this.#isLive(view, id);
    const unsafe = findHeldBack(change, view.config.voters, isLive, this.#lastCopies);
    if (unsafe !== undefined) return this.#holdBack(change, unsafe);
    if (formerMemberId === this.#self && (await this.#handOver(view, change.changeId, 0))) return "busy";
    const steps: MemberStep[] = [{ kind: "add-voter", memberId }];
    if (formerMemberId > 0 && isInConfig(view.config, formerMemberId)) {
      steps.push({ kind: "remove", memberId: formerMemberId });
    }
    await this.#change(steps);
    return "busy";
  }

  /**
   * Waits: whoever is away may come back, repair may make the missing copies, and the operator can give the change up by removing the
   * new member. Says why, once; Membership tells whoever asks.
   */
  #holdBack({ changeId, memberId }: MembershipChange, reason: string): "idle" {
    if (this.#heldBack.changeId === changeId && this.#heldBack.reason === reason) return "idle";
    this.#heldBack = { changeId, reason };
    this.#options.logger.warn("membership_change_waits", { change_id: changeId, member: memberId, reason });
    return "idle";
  }

  async #remove(view: MembershipView, change: MembershipChange): Promise<"busy" | "idle"> {
    const { formerMemberId, isForced } = change;
    const isIn = isInConfig(view.config, formerMemberId);
    const reader = this.#options.metadata.port.reader();
    // What consensus has let go of is out; a storage-only member never was in, and may hold the last copy of something.
    const isStorageOnly = findMember(reader, formerMemberId)?.isStorageOnly === true;
    if (!isIn && !isStorageOnly) return this.#end(change, "");
    if (!isForced) {
      const isVoter = view.config.voters.includes(formerMemberId);
      const after = view.config.voters.filter((id) => id !== formerMemberId);
      const unsafe =
        (isVoter ? findNoQuorum(after, (id) => this.#isLive(view, id)) : undefined) ??
        findLastCopies(reader, formerMemberId);
      if (unsafe !== undefined) return this.#end(change, unsafe);
    }
    if (!isIn) return this.#end(change, "");
    return this.#takeOut(view, formerMemberId, change.changeId);
  }

  /** Takes a member out of the configuration; a leader hands over first, so that nobody waits for an election. */
  async #takeOut(view: MembershipView, memberId: number, changeId: number): Promise<"busy" | "idle"> {
    if (memberId === this.#self && (await this.#handOver(view, changeId, 0))) return "busy";
    await this.#change([{ kind: "remove", memberId }]);
    return "busy";
  }

  async #transfer(view: MembershipView, change: MembershipChange): Promise<"busy" | "idle"> {
    const { memberId, formerMemberId, changeId } = change;
    const isDone = memberId === 0 ? formerMemberId !== this.#self : memberId === this.#self;
    if (isDone) return this.#end(change, "");
    if (memberId > 0 && !view.config.voters.includes(memberId)) return this.#end(change, "It is no voter.");
    if (await this.#handOver(view, changeId, memberId)) return "busy";
    return this.#end(change, `No voter took over in ${TRANSFER_ATTEMPT_COUNT_MAX} attempts.`);
  }

  /** Tries to hand leadership to a member, or (0) to the one that is furthest along; false when that has failed too often. */
  async #handOver(view: MembershipView, changeId: number, memberId: number): Promise<boolean> {
    if (this.#attempts.changeId !== changeId) this.#attempts = { changeId, count: 0 };
    if (this.#attempts.count >= TRANSFER_ATTEMPT_COUNT_MAX) return false;
    this.#attempts.count += 1;
    const heirs = votersOf(view.config)
      .filter((id) => id !== this.#self && this.#isLive(view, id))
      .sort((a, b) => matchOf(view, b) - matchOf(view, a));
    const heir = memberId > 0 ? memberId : heirs[0];
    if (heir === undefined) return false;
    this.#options.logger.info("leadership_handed_over", { to: heir });
    await this.#options.consensus.transferLeadership(heir);
    return true;
  }

  async #change(steps: readonly MemberStep[]): Promise<void> {
    this.#options.logger.info("membership_change", { steps });
    await this.#options.consensus.change(steps);
  }

  async #end(change: MembershipChange, failure: string): Promise<"busy"> {
    const { kind, changeId, memberId, formerMemberId } = change;
    const { metadata, logger } = this.#options;
    logger.info("membership_change_ended", { kind, memberId, formerMemberId, failure });
    await metadata.applyIdempotent({ kind: "end-membership-change", changeId, failure });
    return "busy";
  }

  get #self(): number {
    return this.#options.metadata.port.memberId;
  }

  #isLive(view: MembershipView, memberId: number): boolean {
    if (memberId === this.#self || view.progress.get(memberId)?.isActive === true) return true;
    const { detector, metadata } = this.#options;
    const isKnown = findMember(metadata.port.reader(), memberId) !== undefined;
    return isKnown && detector.state(memberId).health === "up";
  }
}

function matchOf(view: MembershipView, memberId: number): number {
  return view.progress.get(memberId)?.matchIndex ?? 0;
}
