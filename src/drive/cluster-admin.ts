/**
 * The port for changing who belongs to the cluster: tokens to join with, removal, leadership, and how a change is going.
 *
 * rpc/ and the command line use nothing else; cluster/membership.ts implements it at any node, RemoteClusterAdmin over gRPC. Nodes
 * are named by their node id, or by their member id in decimal when two have the same name. What is begun here is carried out by
 * whoever leads, also when that changes; membership() shows how far it is.
 */
import type { ReadOptions } from "./drive-api.ts";

/** Options of every change. */
export interface AdminOptions {
  /** The same id again, within REQUEST_RETENTION_MS, returns the first answer; one is made when absent. */
  readonly requestId?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What a token is to be. */
export interface JoinTokenRequest {
  /** 32 to 64 hexadecimal digits that nobody can guess, drawn by the caller: so the same request always means the same token. */
  readonly secret: string;
  /** Milliseconds for which it is good, in cluster time; JOIN_TOKEN_LIFETIME_MS_DEFAULT when absent. */
  readonly lifetimeMs?: number | undefined;
  /** The node that the new one takes the place of. */
  readonly replacesNode?: string | undefined;
  /** Whether the node is to keep no tree and have no vote; decided by `replacesNode` when there is one. False when absent. */
  readonly storageOnly?: boolean | undefined;
}

/** A token with which one node may join. */
export interface JoinToken {
  /** For `netdisk serve --join`. */
  readonly token: string;
  /** Milliseconds for which it is good from now. */
  readonly lifetimeMs: number;
}

/** A change that has begun. */
export interface BegunChange {
  readonly changeId: number;
}

/** What a member is to consensus. */
export type MemberPart =
  /** Votes. */
  | "voter"
  /** Receives the log and does not vote. */
  | "learner"
  /** While two configurations hold: votes in the new one alone, or in the old one alone. */
  | "incoming"
  | "outgoing"
  /** Is in no configuration. */
  | "none";

/** How far a change is. */
export type MembershipPhase =
  /** The node was admitted and is not in the configuration yet. */
  "joining" | "catching-up" | "promoting" | "removing" | "transferring" | "done" | "failed";

/** The change under way, or the last one that ended. */
export interface MembershipProgress {
  readonly changeId: number;
  readonly kind: "add" | "remove" | "replace" | "transfer";
  readonly phase: MembershipPhase;
  /** The member that comes, or is to lead; 0 for none. */
  readonly memberId: number;
  readonly nodeId: string;
  /** The member that goes, or led; 0 for none. */
  readonly formerMemberId: number;
  readonly formerNodeId: string;
  /** Log index that the new member has applied, of the one that it is to reach, as heard last; 0 when not known. */
  readonly appliedIndex: number;
  readonly targetIndex: number;
  /** Why it failed, or why it waits; "" otherwise. */
  readonly reason: string;
}

/** The membership as one node sees it. */
export interface MembershipStatus {
  readonly members: readonly {
    readonly memberId: number;
    readonly nodeId: string;
    readonly part: MemberPart;
  }[];
  /** Whether two configurations hold at once, as in the middle of a replacement. */
  readonly isJoint: boolean;
  readonly change: MembershipProgress | undefined;
}

/** A snapshot of the tree that is kept in the cluster. */
export interface TreeBackup {
  /** It shows the tree after the command at this index. */
  readonly index: number;
  readonly sizeBytes: number;
  /** Wall time at which it was made. */
  readonly wallTimeMs: number;
  /** False when there was one already that shows everything. */
  readonly isNew: boolean;
}

/** Changing who belongs to the cluster, and keeping snapshots of its tree. */
export interface ClusterAdmin {
  /**
   * Makes a token with which one node may join. Only its hash is kept.
   * Errors: ARGUMENT_INVALID, MEMBER_NOT_FOUND (replacesNode), MEMBERSHIP_CHANGE_UNSAFE (VOTER_COUNT_MAX voters),
   * OVERLOADED (JOIN_TOKEN_COUNT_MAX).
   */
  createJoinToken(request: JoinTokenRequest, options?: AdminOptions): Promise<JoinToken>;
  /**
   * Begins to remove a node; its copies are made elsewhere. Errors: MEMBER_NOT_FOUND, MEMBERSHIP_CHANGE_IN_PROGRESS, and
   * MEMBERSHIP_CHANGE_UNSAFE unless `force`: the rest would have no live quorum, or a file would lose its last copy.
   */
  removeNode(
    node: string,
    settings: { readonly force: boolean },
    options?: AdminOptions,
  ): Promise<BegunChange>;
  /**
   * Begins to hand leadership to a node, or to the one that is furthest along. Errors: MEMBER_NOT_FOUND,
   * MEMBERSHIP_CHANGE_IN_PROGRESS, ARGUMENT_INVALID (no voter), NO_LEADER.
   */
  transferLeadership(node: string | undefined, options?: AdminOptions): Promise<BegunChange>;
  /**
   * Has a snapshot of the tree kept that shows everything acknowledged before. Repeating it is harmless.
   * Errors: OVERLOADED, QUORUM_NOT_REACHED, NO_SPACE, NO_LEADER, COMMIT_OUTCOME_UNKNOWN.
   */
  backUpTree(options?: { readonly signal?: AbortSignal | undefined }): Promise<TreeBackup>;
  /** Who belongs to the cluster, and how the last change is going. */
  membership(options?: ReadOptions): Promise<MembershipStatus>;
}
