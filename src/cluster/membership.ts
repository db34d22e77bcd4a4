/**
 * Changing who belongs to the cluster, at any node: the ClusterAdmin of a node, and the admission of nodes that come with a token.
 *
 * Everything here ends as one command in the tree, forwarded to the leader like any other; membership-driver.ts carries it out. So
 * it makes no difference which node is asked, and a request id makes each of them safe to repeat. Refuses what would do harm
 * before anything is recorded, as far as this node can see it.
 */
import type {
  AdminOptions,
  BegunChange,
  ClusterAdmin,
  JoinToken,
  JoinTokenRequest,
  MemberPart,
  MembershipPhase,
  MembershipProgress,
  MembershipStatus,
} from "../drive/cluster-admin.ts";
import type { ReadOptions } from "../drive/drive-api.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { FEATURE_LEVELS_UNSAID, type FeatureLevels } from "../drive/feature-levels.ts";
import { JOIN_TOKEN_LIFETIME_MS_DEFAULT, VOTER_COUNT_MAX } from "../drive/limits.ts";
import { checkSupported } from "../metadata/feature-level.ts";
import { findMember } from "../metadata/members.ts";
import {
  findJoinToken,
  lastMembershipChange,
  openMembershipChange,
  removedMembers,
  type MembershipChange,
} from "../metadata/membership.ts";
import { isAnswered } from "../metadata/requests.ts";
import { members } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import { isInConfig, votersOf, type ConsensusMembership, type MemberConfig } from "./consensus-membership.ts";
import type { FailureDetector } from "./failure-detector-port.ts";
import { findToken, formatToken, hashOfToken, isSecret } from "./join-token.ts";
import { CATCH_UP_ENTRY_COUNT_MAX } from "./membership-driver.ts";
import { findHeldBack, findLastCopies, findNoQuorum, LastCopiesOfFormer } from "./membership-safety.ts";
import type { MetadataClient } from "./metadata-client.ts";
import type { NodeDirectory } from "./node-directory.ts";

/** Removed members whose names are looked up. */
const REMOVED_LOOK_COUNT = 1000;

/** A node that wants to join. */
export interface JoinRequest {
  /** As ClusterAdmin.createJoinToken() gave it. */
  readonly token: string;
  readonly memberId: number;
  readonly nodeId: string;
  /** host:port under which the members reach it. */
  readonly address: string;
  /** What it supports; absent of a version before there were levels. */
  readonly featureLevels?: FeatureLevels | undefined;
}

/** What Membership needs. */
export interface MembershipOptions {
  readonly clusterId: string;
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly directory: NodeDirectory;
  readonly detector: FailureDetector;
  readonly consensus: ConsensusMembership;
}

/** The membership as this node can change and see it. */
export class Membership implements Omit<ClusterAdmin, "backUpTree"> {
  readonly #options: MembershipOptions;
  readonly #lastCopies: LastCopiesOfFormer;

  constructor(options: MembershipOptions) {
    this.#options = options;
    this.#lastCopies = new LastCopiesOfFormer(options.clock, () => options.metadata.port.reader());
  }

  async createJoinToken(request: JoinTokenRequest, options: AdminOptions = {}): Promise<JoinToken> {
    const { clusterId, metadata } = this.#options;
    const { secret, lifetimeMs = JOIN_TOKEN_LIFETIME_MS_DEFAULT, replacesNode } = request;
    if (!isSecret(secret)) {
      throw new DriveError("ARGUMENT_INVALID", "The secret of a token is 32 to 64 hexadecimal digits.", {
        field: "secret",
      });
    }
    await metadata.port.linearize(options);
    const replacesMemberId = replacesNode === undefined ? 0 : this.#resolve(replacesNode);
    const replaced = findMember(metadata.port.reader(), replacesMemberId);
    if (replacesNode !== undefined && replaced === undefined) throw neverCame(replacesMemberId, replacesNode);
    const isStorageOnly = replaced?.isStorageOnly ?? request.storageOnly ?? false;
    if (replacesMemberId === 0 && !isStorageOnly) this.#checkRoom();
    const token = { clusterId, secret, isStorageOnly };
    const tokenHash = hashOfToken(token);
    await metadata.apply(
      { kind: "issue-join-token", tokenHash, lifetimeMs, replacesMemberId },
      "membership",
      options,
    );
    return { token: formatToken(token), lifetimeMs };
  }

  /**
   * Admits a node that has a token; the same node may ask again. It starts as a learner once it runs, and votes when it has
   * caught up; a storage-only one belongs once it has registered. The entry point for joining, over the network and in the simulator.
   * @throws DriveError JOIN_TOKEN_INVALID, MEMBER_REMOVED, WRONG_CLUSTER, VERSION_UNSUPPORTED, ARGUMENT_INVALID for a name that
   *   another member has; ADDRESS_IN_USE, MEMBERSHIP_CHANGE_IN_PROGRESS (ask again), OVERLOADED
   */
  async admit(request: JoinRequest, signal?: AbortSignal): Promise<BegunChange> {
    const { clusterId, metadata } = this.#options;
    const token = findToken(request.token);
    if (token === undefined) {
      throw new DriveError("JOIN_TOKEN_INVALID", "This is no token to join with.");
    }
    if (token.clusterId !== clusterId) {
      throw new DriveError(
        "WRONG_CLUSTER",
        `The token is for cluster ${token.clusterId}, not for this one.`,
        {
          cluster_id: clusterId,
          token_cluster_id: token.clusterId,
        },
      );
    }
    const { memberId, nodeId, address, featureLevels = FEATURE_LEVELS_UNSAID } = request;
    await metadata.port.linearize({ signal });
    checkSupported(metadata.port.reader(), featureLevels);
    const { isStorageOnly } = token;
    const tokenHash = hashOfToken(token);
    this.#checkOwnPlace(request, tokenHash);
    const body = { kind: "admit-member", tokenHash, memberId, nodeId, address, isStorageOnly } as const;
    const { value } = await metadata.applyIdempotent(body, { signal });
    return { changeId: value.kind === "membership" ? value.changeId : 0 };
  }

  /**
   * Refuses a name that a member has, and an address at which another may be alive: it would be called in the place of the new one.
   * Only the member that the new one replaces may share either.
   */
  #checkOwnPlace({ memberId, nodeId, address }: JoinRequest, tokenHash: Uint8Array): void {
    const reader = this.#options.metadata.port.reader();
    const token = findJoinToken(reader, tokenHash);
    // The repeat of a request is answered as before, whatever came since.
    if (token === undefined || token.usedByMemberId > 0) return;
    for (const member of members(reader)) {
      if (member.memberId === token.replacesMemberId || member.memberId === memberId) continue;
      const facts = { member_id: String(member.memberId), node_id: member.nodeId };
      if (member.nodeId === nodeId) {
        throw new DriveError(
          "ARGUMENT_INVALID",
          `A member named ${nodeId} belongs to the cluster. Give this node another NODE_ID; to put it in the place of that member, ` +
            `make its token with netdisk cluster replace ${nodeId}.`,
          { ...facts, field: "node_id" },
        );
      }
      // One that is silent for a moment, or starts again, keeps its address.
      const isThere = this.#options.detector.state(member.memberId).health !== "down";
      if (member.address.toLowerCase() === address.toLowerCase() && isThere) {
        throw new DriveError(
          "ADDRESS_IN_USE",
          `${member.nodeId} is at ${address}, and not known to be down. Give this node the address under which its peers reach it (NODE_ADDR or --cluster-me).`,
          { ...facts, address },
        );
      }
    }
  }

  async removeNode(
    node: string,
    settings: { readonly force: boolean },
    options: AdminOptions = {},
  ): Promise<BegunChange> {
    const { metadata, consensus } = this.#options;
    await metadata.port.linearize(options);
    const body = { kind: "remove-member", isForced: settings.force } as const;
    const begin = async (memberId: number): Promise<BegunChange> => ({
      changeId: (await metadata.apply({ ...body, memberId }, "membership", options)).changeId,
    });
    const removed = this.#find(node) === undefined ? this.#findRemoved(node) : undefined;
    if (removed !== undefined && options.requestId !== undefined) {
      try {
        // The repeat of a request that has removed it is answered as it was.
        return await begin(removed);
      } catch (error) {
        if (!hasReason(error, "MEMBER_REMOVED")) throw error;
      }
    }
    const memberId = this.#resolve(node);
    const { config } = consensus.view();
    const refuse = (harm: Harm, reason: string | undefined): void => {
      if (reason !== undefined) throw unsafe(memberId, this.#nameOf(memberId), harm, reason);
    };
    if (votersOf(config).every((id) => id === memberId)) refuse("no-voter", "It is the only voter.");
    if (!settings.force) {
      const after = config.voters.filter((id) => id !== memberId);
      const isVoter = config.voters.includes(memberId);
      refuse("no-quorum", isVoter ? findNoQuorum(after, (id) => this.#isLive(id)) : undefined);
      refuse("last-copies", findLastCopies(metadata.port.reader(), memberId));
    }
    return begin(memberId);
  }

  async transferLeadership(node: string | undefined, options: AdminOptions = {}): Promise<BegunChange> {
    const { metadata, consensus } = this.#options;
    await metadata.port.linearize(options);
    const memberId = node === undefined ? 0 : this.#resolve(node);
    const leaderId = metadata.port.leaderId();
    if (leaderId === undefined) throw new DriveError("NO_LEADER", "No leader is known.");
    const { voters } = consensus.view().config;
    if (memberId > 0 && !voters.includes(memberId)) {
      throw new DriveError("ARGUMENT_INVALID", `${this.#nameOf(memberId)} is no voter and cannot lead.`, {
        member_id: String(memberId),
      });
    }
    const from = (id: number) => ({ kind: "transfer-leadership", memberId, leaderId: id }) as const;
    const begin = async (id: number): Promise<BegunChange> => ({
      changeId: (await metadata.apply(from(id), "membership", options)).changeId,
    });
    try {
      return await begin(leaderId);
    } catch (error) {
      const { requestId } = options;
      if (requestId === undefined || !hasReason(error, "REQUEST_ID_REUSED")) throw error;
      // Another led when it was asked for the first time: the repeat is answered as it was.
      await metadata.port.linearize(options);
      const reader = metadata.port.reader();
      const removed = removedMembers(reader, REMOVED_LOOK_COUNT).map((member) => member.memberId);
      const former = [...voters, ...removed].find((id) => isAnswered(reader, requestId, from(id)));
      if (former === undefined) throw error;
      return begin(former);
    }
  }

  async membership(options: ReadOptions = {}): Promise<MembershipStatus> {
    const { metadata, consensus, directory } = this.#options;
    if (options.consistency !== "stale") await metadata.port.linearize({ signal: options.signal });
    const { config } = consensus.view();
    const change = lastMembershipChange(metadata.port.reader());
    const ids = new Set([...directory.memberIds(), ...votersOf(config), ...config.learners]);
    return {
      members: [...ids]
        .sort((a, b) => a - b)
        .map((memberId) => ({ memberId, nodeId: this.#nameOf(memberId), part: partOf(config, memberId) })),
      isJoint: config.votersOutgoing.length > 0,
      change: change === undefined ? undefined : this.#progressOf(change, config),
    };
  }

  #progressOf(change: MembershipChange, config: MemberConfig): MembershipProgress {
    const { changeId, kind, memberId, formerMemberId, failure } = change;
    const { metadata, detector } = this.#options;
    const isComing = kind === "add" || kind === "replace";
    const isKnown = isComing && findMember(metadata.port.reader(), memberId) !== undefined;
    const appliedIndex = isKnown ? (detector.state(memberId).load?.appliedIndex ?? 0) : 0;
    const targetIndex = isComing ? metadata.port.appliedIndex() : 0;
    const phase = phaseOf(change, config, appliedIndex > 0 ? targetIndex - appliedIndex : Infinity);
    return {
      ...{ changeId, kind, phase, memberId, formerMemberId, appliedIndex, targetIndex },
      nodeId: memberId === 0 ? "" : change.nodeId || this.#nameOf(memberId),
      formerNodeId: formerMemberId === 0 ? "" : this.#nameOf(formerMemberId),
      reason: change.hasEnded ? failure : (this.#findHeldBack(change, phase, config) ?? ""),
    };
  }

  /** Why a new member that is ready waits, as far as this node can see it: the judgement that counts is the leader's. */
  #findHeldBack(change: MembershipChange, phase: MembershipPhase, config: MemberConfig): string | undefined {
    const { metadata, consensus } = this.#options;
    const { memberId, isStorageOnly } = change;
    if (findMember(metadata.port.reader(), memberId) === undefined) return undefined;
    if (isStorageOnly) return this.#lastCopies.find(change);
    if (phase !== "promoting" || !config.learners.includes(memberId)) return undefined;
    const { progress } = consensus.view();
    const isLive = (id: number): boolean => progress.get(id)?.isActive === true || this.#isLive(id);
    return findHeldBack(change, config.voters, isLive, this.#lastCopies);
  }

  #nameOf(memberId: number): string {
    const reader = this.#options.metadata.port.reader();
    const known = findMember(reader, memberId)?.nodeId;
    if (known !== undefined) return known;
    const change = lastMembershipChange(reader);
    if (change?.memberId === memberId && change.nodeId !== "") return change.nodeId;
    const removed = removedMembers(reader, REMOVED_LOOK_COUNT).find((each) => each.memberId === memberId);
    return removed !== undefined && removed.nodeId !== "" ? removed.nodeId : `member-${memberId}`;
  }

  /** The member of a node id, or of a member id in decimal. */
  #resolve(node: string): number {
    const memberId = this.#find(node);
    if (memberId !== undefined) return memberId;
    throw new DriveError("MEMBER_NOT_FOUND", `There is no node ${JSON.stringify(node)} in the cluster.`, {
      node,
    });
  }

  /** The member of that id or name that was removed; undefined where several had the name. */
  #findRemoved(node: string): number | undefined {
    const removed = removedMembers(this.#options.metadata.port.reader(), REMOVED_LOOK_COUNT).filter(
      ({ memberId, nodeId }) => nodeId === node || String(memberId) === node,
    );
    return removed.length === 1 ? removed[0]?.memberId : undefined;
  }

  #find(node: string): number | undefined {
    const { directory, metadata, consensus } = this.#options;
    const reader = metadata.port.reader();
    const known = directory.named(node);
    if (known !== undefined) return known.memberId;
    const open = openMembershipChange(reader);
    if (open !== undefined && open.memberId > 0 && open.nodeId === node) return open.memberId;
    const memberId = /^[1-9]\d{0,15}$/.test(node) ? Number(node) : 0;
    const isKnown = findMember(reader, memberId) !== undefined || open?.memberId === memberId;
    return memberId > 0 && (isKnown || isInConfig(consensus.view().config, memberId)) ? memberId : undefined;
  }

  #checkRoom(): void {
    const { voters } = this.#options.consensus.view().config;
    if (voters.length < VOTER_COUNT_MAX) return;
    throw new DriveError(
      "MEMBERSHIP_CHANGE_UNSAFE",
      `The cluster has ${VOTER_COUNT_MAX} voters, as many as it may have.`,
      { voter_count_max: String(VOTER_COUNT_MAX) },
    );
  }

  #isLive(memberId: number): boolean {
    const { metadata, detector } = this.#options;
    return memberId === metadata.port.memberId || detector.state(memberId).health === "up";
  }
}

/** What a removal would do: metadata by which a command line gives advice. Nothing makes the first one possible. */
type Harm = "no-voter" | "no-quorum" | "last-copies";

function unsafe(memberId: number, name: string, harm: Harm, reason: string): DriveError {
  return new DriveError("MEMBERSHIP_CHANGE_UNSAFE", `${name} cannot be removed now. ${reason}`, {
    member_id: String(memberId),
    harm,
    reason,
  });
}

/** A node that was admitted and has not registered: nothing of it is there that another could take over. */
function neverCame(memberId: number, node: string): DriveError {
  return new DriveError(
    "MEMBER_NOT_FOUND",
    `Node ${JSON.stringify(node)} was let in and has not come yet, so nothing of it can be replaced. Take it out with netdisk cluster remove ${node}, then make a token for the other one with netdisk cluster add.`,
    { node, member_id: String(memberId) },
  );
}

function partOf(config: MemberConfig, memberId: number): MemberPart {
  const isIn = config.voters.includes(memberId);
  const isOut = config.votersOutgoing.includes(memberId);
  if (config.votersOutgoing.length > 0 && isIn !== isOut) return isIn ? "incoming" : "outgoing";
  if (isIn) return "voter";
  return config.learners.includes(memberId) ? "learner" : "none";
}

function phaseOf(change: MembershipChange, config: MemberConfig, behind: number): MembershipPhase {
  if (change.hasEnded) return change.failure === "" ? "done" : "failed";
  if (change.kind === "remove") return "removing";
  if (change.kind === "transfer") return "transferring";
  if (!isInConfig(config, change.memberId)) return "joining";
  if (config.learners.includes(change.memberId) && behind > CATCH_UP_ENTRY_COUNT_MAX) return "catching-up";
  return "promoting";
}
