/**
 * Commands: everything that can be written to the Raft log for the state machine, and what applying one answers.
 *
 * A command carries all that applying it needs: time and ids come in with it. Applying is deterministic; a rejection is
 * data, replicated like a success. The encoded form (codec.ts, netdisk.storage.v1) is for ever.
 */
import type { ReplicaFinding, Seal } from "../drive/content.ts";
import type { Entry, EntryAttributes, Locator, OnConflict, Precondition } from "../drive/entry.ts";
import type { ErrorReason } from "../drive/errors.ts";
import type { Task } from "../drive/task.ts";
import type { TaskCommandBody } from "./task-records.ts";

/** A command with its envelope. */
export interface Command {
  /** Identity for exactly-once application; "" for commands that are idempotent by themselves. */
  readonly requestId: string;
  /** Cluster time after which the command must not be applied any more (REQUEST_EXPIRED); at most REQUEST_RETENTION_MS ahead. 0: none. */
  readonly deadlineMs: number;
  /** Wall time of the proposing node: display data for create and change times. */
  readonly wallTimeMs: number;
  /** Feature level that applying it needs, as its bytes say; absent for the first one. Encoding goes by the body alone. */
  readonly featureLevel?: number | undefined;
  readonly body: CommandBody;
}

/** A node as it registers itself. */
export interface NodeRegistration {
  readonly memberId: number;
  readonly nodeId: string;
  readonly storeIncarnation: string;
  /** host:port of gRPC. */
  readonly address: string;
  readonly httpUrl: string;
  /** URL under which clients outside reach the node; "" when there is none. */
  readonly publicUrl: string;
  readonly zone: string;
  /** Whether it keeps no tree and has no vote: it holds copies alone. */
  readonly isStorageOnly: boolean;
  /** Highest feature level that it supports; absent below FEATURE_LEVEL_REGISTERED, where older versions would not keep it. */
  readonly featureLevelMax?: number | undefined;
}

/** Members that are to hold an extent. */
export interface ExtentTargets {
  readonly extentIndex: number;
  readonly memberIds: readonly number[];
}

/** What a one-shot upload was asked to do, beside its bytes and precondition. */
export interface PutIntent {
  readonly at: Locator;
  readonly createParents: boolean;
  readonly onConflict: OnConflict;
  readonly attributes: EntryAttributes;
}

/** What a command does. */
export type CommandBody =
  /** First command of a cluster: its identity and the settings that every node must agree on. Applied once; later ones are ignored. */
  | {
      readonly kind: "bootstrap";
      readonly clusterId: string;
      readonly chunkSizeBytes: number;
      readonly formatVersion: number;
      /** Feature level that all founders support; absent for the first one. */
      readonly featureLevel?: number | undefined;
    }
  /** Moves cluster time by the leader's elapsed monotonic time, 0 to CLOCK_ADVANCE_MS_MAX. */
  | { readonly kind: "advance-clock"; readonly elapsedMs: number }
  | { readonly kind: "register-node"; readonly node: NodeRegistration }
  /** Renews the node's lease for small writes and hands it a block of content ids. Rejected for a stale incarnation. */
  | {
      readonly kind: "renew-write-lease";
      readonly memberId: number;
      readonly storeIncarnation: string;
      /** Content ids wanted, 0 to 1,000,000. */
      readonly idCount: number;
    }
  | {
      readonly kind: "create-directory";
      readonly at: Locator;
      readonly createParents: boolean;
      readonly existOk: boolean;
      readonly attributes: EntryAttributes;
      readonly precondition: Precondition;
    }
  | {
      readonly kind: "move-entry";
      readonly source: Locator;
      readonly to: Locator;
      readonly onConflict: OnConflict;
      readonly precondition: Precondition;
    }
  | {
      readonly kind: "copy-entry";
      readonly source: Locator;
      readonly to: Locator;
      readonly onConflict: OnConflict;
      readonly precondition: Precondition;
    }
  | {
      readonly kind: "delete-entry";
      readonly at: Locator;
      readonly recursive: boolean;
      readonly precondition: Precondition;
    }
  | {
      readonly kind: "update-entry";
      readonly at: Locator;
      readonly attributes: EntryAttributes;
      readonly precondition: Precondition;
    }
  | {
      readonly kind: "init-upload";
      readonly at: Locator;
      readonly createParents: boolean;
      /** Undefined when unknown. */
      readonly sizeBytes: number | undefined;
      /** Empty when unknown. With a size, equal bytes already here complete the upload at once. */
      readonly treeHash: Uint8Array;
      readonly onConflict: OnConflict;
      readonly attributes: EntryAttributes;
      readonly precondition: Precondition;
      /** Targets of each extent of a known size; of extent 0 when it is unknown. */
      readonly extents: readonly ExtentTargets[];
    }
  /** A sign of life: moves the upload's expiry. */
  | { readonly kind: "renew-upload"; readonly uploadId: number }
  /** Sets the targets of one extent: a further one of an upload of unknown size, or after a target died. */
  | { readonly kind: "assign-extent"; readonly uploadId: number; readonly targets: ExtentTargets }
  | {
      readonly kind: "complete-upload";
      readonly uploadId: number;
      readonly sizeBytes: number;
      readonly treeHash: Uint8Array;
      /** Empty when unknown. */
      readonly sha256: Uint8Array;
      readonly seals: readonly Seal[];
      readonly precondition: Precondition;
      /** Instead of what init-upload said; undefined: as it said. */
      readonly onConflict: OnConflict | undefined;
      /** Set for a one-shot upload: makes its request the same whether put-small or this command answers it. */
      readonly put: PutIntent | undefined;
    }
  | { readonly kind: "abort-upload"; readonly uploadId: number }
  /** A content of at most one chunk, written and sealed under the proposing node's write lease: the whole upload in one command. */
  | {
      readonly kind: "put-small";
      readonly at: Locator;
      readonly createParents: boolean;
      readonly onConflict: OnConflict;
      readonly attributes: EntryAttributes;
      readonly precondition: Precondition;
      /** The member whose lease and id block are used. */
      readonly memberId: number;
      readonly contentId: number;
      readonly sizeBytes: number;
      readonly treeHash: Uint8Array;
      /** Empty for an empty file. */
      readonly seals: readonly Seal[];
    }
  /** A copy made by repair, or a late seal: becomes "verified". */
  | { readonly kind: "add-replica"; readonly seal: Seal }
  /** Several of these at once, at most BATCH_ITEM_COUNT_MAX; what is refused is left out, and the answer counts the others. */
  | { readonly kind: "add-replicas"; readonly seals: readonly Seal[] }
  /** Names a member that is to receive a copy ("pending"), and optionally one that it replaces. */
  | {
      readonly kind: "assign-replica";
      readonly contentId: number;
      readonly extentIndex: number;
      readonly memberId: number;
      readonly replacesMemberId: number;
    }
  /** A copy was found damaged or missing: it takes the state that `finding` names. */
  | {
      readonly kind: "report-replica";
      readonly contentId: number;
      readonly extentIndex: number;
      readonly memberId: number;
      readonly finding: ReplicaFinding;
    }
  /** The leader gives a member up that has been down for longer than the grace: its copies count as lost, recounted in batches. */
  | { readonly kind: "declare-lost"; readonly memberId: number; readonly storeIncarnation: string }
  /** A member that was given up is back, with the same store, and has compared its inventory with the tree. */
  | { readonly kind: "return-store"; readonly memberId: number; readonly storeIncarnation: string }
  /** A scrub pass over a store is complete: whatever was sealed there before it began was read whole and found good, but for what was reported by itself. */
  | {
      readonly kind: "report-scrub";
      readonly memberId: number;
      readonly storeIncarnation: string;
      /** From 1, ascending. */
      readonly pass: number;
      /** Cluster time. */
      readonly startTimeMs: number;
      readonly extentCount: number;
      readonly bytes: number;
      readonly damagedCount: number;
    }
  /** A member is to give its copies to others and takes no new ones, or not any more. */
  | { readonly kind: "set-draining"; readonly memberId: number; readonly draining: boolean }
  /** Marks copies of stores that were lost or replaced, at most BATCH_ITEM_COUNT_MAX extents. */
  | { readonly kind: "recount" }
  /** Every store is to begin a scrub pass now. */
  | { readonly kind: "request-scrub" }
  /** Keeps the plain SHA-256 of a content that was computed afterwards. */
  | { readonly kind: "record-sha256"; readonly contentId: number; readonly sha256: Uint8Array }
  /** Ends uploads and remembered requests whose time has come, at most BATCH_ITEM_COUNT_MAX. */
  | { readonly kind: "expire" }
  /** Takes apart what deletion detached, at most BATCH_ITEM_COUNT_MAX entries. */
  | { readonly kind: "reclaim" }
  /**
   * Goes on with folder copies, at most BATCH_ITEM_COUNT_MAX entries: of any when `directoryId` is 0; else of what `path` from
   * that directory leads to, because a reader needs it (view.ts says when). A reader asks again until the view is content.
   */
  | { readonly kind: "materialise"; readonly directoryId: number; readonly path: readonly string[] }
  /** A member has removed its copies of these dropped extents. */
  | {
      readonly kind: "confirm-dropped";
      readonly memberId: number;
      readonly extents: readonly { readonly contentId: number; readonly extentIndex: number }[];
    }
  /** Keeps the hash of a token with which one node may join. */
  | {
      readonly kind: "issue-join-token";
      /** SHA-256 of the token. */
      readonly tokenHash: Uint8Array;
      /** In cluster time, JOIN_TOKEN_LIFETIME_MS_MIN to _MAX. */
      readonly lifetimeMs: number;
      /** Member that the node takes the place of; 0 for none. */
      readonly replacesMemberId: number;
    }
  /** A node with a token asks to become a member: begins an "add", or a "replace" when its token says so. Idempotent by token and member. */
  | {
      readonly kind: "admit-member";
      readonly tokenHash: Uint8Array;
      readonly memberId: number;
      readonly nodeId: string;
      readonly address: string;
      /** As its token says: it is never a learner or voter. */
      readonly isStorageOnly: boolean;
    }
  /** Begins a "remove"; of a member that is being added, it takes the place of that change. */
  | { readonly kind: "remove-member"; readonly memberId: number; readonly isForced: boolean }
  /** Begins a "transfer" to a member, 0 for the one that is furthest along, from the one that leads. */
  | { readonly kind: "transfer-leadership"; readonly memberId: number; readonly leaderId: number }
  /** The leader: what began at `changeId` is done, or has failed. Ignored when it ended before. */
  | { readonly kind: "end-membership-change"; readonly changeId: number; readonly failure: string }
  /** Forgets copies at removed members, at most BATCH_ITEM_COUNT_MAX items. */
  | { readonly kind: "evict" }
  /** Keeps a snapshot of the tree that was sealed under the write lease of a member, and lets go of those beyond the newest. */
  | {
      readonly kind: "record-tree-snapshot";
      /** The member whose lease and id block are used. */
      readonly memberId: number;
      readonly contentId: number;
      readonly sizeBytes: number;
      readonly treeHash: Uint8Array;
      readonly seals: readonly Seal[];
      /** What the snapshot shows: the state after the command at `index`, its last event and cluster time then. */
      readonly index: number;
      readonly eventIndex: number;
      readonly clusterTimeMs: number;
    }
  | TaskCommandBody
  /** Makes a key for tickets, TICKET_KEY_SIZE_BYTES drawn by the proposer; ignored while the newest one is younger than TICKET_KEY_MS. */
  | { readonly kind: "rotate-ticket-key"; readonly secret: Uint8Array }
  /** The leader: every member supports this feature level. Ignored when the cluster has it or a higher one. */
  | { readonly kind: "raise-feature-level"; readonly level: number };

/** The kinds of commands. */
export type CommandKind = CommandBody["kind"];

/** What applying a command answered. */
export type CommandResult = Applied | Rejected;

/** The command took effect (or had before, under the same request id). */
export interface Applied {
  readonly outcome: "applied";
  /** Log index at which it took effect. */
  readonly index: number;
  readonly value: ResultValue;
}

/** The command was refused and changed nothing. Deterministic: every replica refuses alike. */
export interface Rejected {
  readonly outcome: "rejected";
  readonly index: number;
  readonly reason: ErrorReason;
  readonly message: string;
  readonly metadata: Readonly<Record<string, string>>;
}

/** The answer by kind of command. */
export type ResultValue =
  | { readonly kind: "none" }
  /** Tree commands, complete-upload and put-small: the entry after the command, and its absolute path. */
  | { readonly kind: "entry"; readonly entry: Entry; readonly path: readonly string[] }
  /** init-upload; `entry` is set when equal bytes were here (instant). */
  | {
      readonly kind: "upload";
      readonly uploadId: number;
      readonly contentId: number;
      readonly expireTimeMs: number;
      readonly entry: Entry | undefined;
    }
  /** renew-write-lease: ids [firstContentId, firstContentId + idCount). */
  | {
      readonly kind: "write-lease";
      readonly expireTimeMs: number;
      readonly firstContentId: number;
      readonly idCount: number;
    }
  /** issue-join-token: when it expires; commands that begin a change: its id. The other one is 0. */
  | { readonly kind: "membership"; readonly changeId: number; readonly expireTimeMs: number }
  /** Commands about a task: the task after it. */
  | { readonly kind: "task"; readonly task: Task }
  /** expire, reclaim, materialise, evict, recount, add-replicas, assign-replicas: how many items were touched, and whether more are left. */
  | { readonly kind: "batch"; readonly itemCount: number; readonly more: boolean };
