/**
 * What the state machine stores: the types of the values behind the keys of keys.ts, and their codecs.
 *
 * Schemas: proto/netdisk/storage/v1/metadata_records.proto; they are for ever, because snapshots carry these bytes from node
 * to node and over versions.
 */
import type { Change } from "../drive/change.ts";
import type { ReplicaState } from "../drive/content.ts";
import type { Entry } from "../drive/entry.ts";
import { attributesCodec, changeCodec, entryCodec, preconditionCodec } from "./codec.ts";
import type { EntryAttributes, OnConflict, Precondition } from "../drive/entry.ts";
import type { NodeRegistration } from "./commands.ts";
import {
  bool,
  bytes,
  inner,
  message,
  oneOf,
  optionalInner,
  optionalUint,
  repeatedInner,
  repeatedText,
  repeatedUint,
  sint,
  text,
  uint,
  type Codec,
} from "./wire.ts";

/** The counters of the whole state: one record, read and written once a command. */
export interface StateRecord {
  clusterTimeMs: number;
  /** Next id of an entry or upload. */
  nextEntryId: number;
  nextContentId: number;
  /** Rows of the tree by kind, the root excepted; what was deleted counts until it is reclaimed. */
  fileCount: number;
  directoryCount: number;
  openUploadCount: number;
  /** Bytes of the contents that something refers to. */
  contentBytes: number;
  /** Extents by copies: all, with REPLICA_COUNT verified ones, with fewer, with a suspect one. */
  extentCount: number;
  fullExtentCount: number;
  underExtentCount: number;
  suspectExtentCount: number;
  requestCount: number;
  changeCount: number;
  /** Events of commands up to this index may have been trimmed from the feed. */
  changesTrimmedIndex: number;
  /** Directories whose copy is not finished. While it is 0, nothing of copies.ts is looked at. */
  pendingCopyCount: number;
  memberCount: number;
  /** Members that were removed. While it is 0, nothing is looked up about them. */
  removedMemberCount: number;
  /** Extents with a corrupt, lost and pending copy. An extent may be among several. */
  corruptExtentCount: number;
  lostExtentCount: number;
  pendingExtentCount: number;
  /** Extents with one verified copy, and with none. */
  singleExtentCount: number;
  uncopiedExtentCount: number;
  /** Bytes of the verified copies that are wanted and not there. */
  missingCopyBytes: number;
  /** Extents whose copies are all verified and of which one is to move to another member. */
  movingExtentCount: number;
  /** Cluster time at which a scrub of every store was asked for last; 0 for never. */
  scrubRequestTimeMs: number;
  /** Records of the feed of copies. */
  copiesChangeCount: number;
  /** Records of the feed of copies up to this index may have been trimmed. */
  copiesTrimmedIndex: number;
  /** Feature level of the cluster; 0 for the first one. */
  featureLevel: number;
}

/** Codec of StateRecord. */
export const stateCodec: Codec<StateRecord> = message<StateRecord>({
  clusterTimeMs: uint(1),
  nextEntryId: uint(2),
  nextContentId: uint(3),
  fileCount: uint(4),
  directoryCount: uint(5),
  openUploadCount: uint(6),
  contentBytes: uint(7),
  extentCount: uint(8),
  fullExtentCount: uint(9),
  underExtentCount: uint(10),
  suspectExtentCount: uint(11),
  requestCount: uint(12),
  changeCount: uint(13),
  changesTrimmedIndex: uint(14),
  pendingCopyCount: uint(15),
  memberCount: uint(16),
  removedMemberCount: uint(20),
  corruptExtentCount: uint(30),
  lostExtentCount: uint(31),
  pendingExtentCount: uint(32),
  singleExtentCount: uint(33),
  uncopiedExtentCount: uint(34),
  missingCopyBytes: uint(35),
  movingExtentCount: uint(36),
  scrubRequestTimeMs: uint(37),
  copiesChangeCount: uint(17),
  copiesTrimmedIndex: uint(18),
  featureLevel: uint(19),
});

/** Identity and settings of the cluster, from the bootstrap command. */
export interface ClusterRecord {
  readonly clusterId: string;
  readonly chunkSizeBytes: number;
  readonly formatVersion: number;
}

/** Codec of ClusterRecord. */
export const clusterCodec: Codec<ClusterRecord> = message<ClusterRecord>({
  clusterId: text(1),
  chunkSizeBytes: uint(2),
  formatVersion: uint(3),
});

/** A row of the tree, under (parent id, name). */
export interface EntryRecord {
  readonly entryId: number;
  readonly kind: "file" | "directory";
  readonly version: number;
  readonly sizeBytes: number;
  readonly contentId: number;
  readonly treeHash: Uint8Array;
  readonly mediaType: string;
  readonly mode: number | undefined;
  readonly modifyTimeMs: number;
  readonly createTimeMs: number;
}

/** Codec of EntryRecord. */
export const entryRecordCodec: Codec<EntryRecord> = message<EntryRecord>({
  entryId: uint(1),
  kind: oneOf(2, ["file", "directory"]),
  version: uint(3),
  sizeBytes: uint(4),
  contentId: uint(5),
  treeHash: bytes(6),
  mediaType: text(7),
  mode: optionalUint(8),
  modifyTimeMs: sint(9),
  createTimeMs: sint(10),
});

/** Where an entry is: the way back from its id. */
export interface PlaceRecord {
  readonly parentId: number;
  readonly name: string;
}

/** Codec of PlaceRecord. */
export const placeCodec: Codec<PlaceRecord> = message<PlaceRecord>({ parentId: uint(1), name: text(2) });

/** A copy of an extent. */
export interface ReplicaRecord {
  readonly memberId: number;
  readonly state: ReplicaState;
  /** Member whose copy goes when this one is verified; 0 for none. */
  readonly replacesMemberId: number;
  /** Which of the member's chunk stores sealed it: a seal of an earlier one is void. */
  readonly storeGeneration: number;
  /** Cluster time of its seal, or of its last check by repair; 0 when unknown. Scrub passes are in StoreRecord. */
  readonly verifyTimeMs: number;
}

const replicaCodec: Codec<ReplicaRecord> = message<ReplicaRecord>({
  memberId: uint(1),
  state: oneOf(2, ["verified", "pending", "suspect", "corrupt", "lost"]),
  replacesMemberId: uint(3),
  storeGeneration: uint(4),
  verifyTimeMs: uint(5),
});

/** One extent of a content. */
export interface ExtentRecord {
  readonly sizeBytes: number;
  readonly root: Uint8Array;
  readonly replicas: readonly ReplicaRecord[];
}

/** Codec of ExtentRecord. */
export const extentCodec: Codec<ExtentRecord> = message<ExtentRecord>({
  sizeBytes: uint(1),
  root: bytes(2),
  replicas: repeatedInner(3, replicaCodec),
});

/** A content. The only extent of a content is kept in here; several have records of their own. */
export interface ContentRecord {
  readonly sizeBytes: number;
  readonly treeHash: Uint8Array;
  readonly sha256: Uint8Array;
  /** Rows that point here; at 0 the content waits to be dropped. */
  readonly referenceCount: number;
  readonly extentCount: number;
  /** Extents with fewer than SEAL_COUNT_MIN verified copies; equal bytes are only shared while there is none. */
  readonly weakExtentCount: number;
  readonly extent: ExtentRecord | undefined;
}

/** Codec of ContentRecord. */
export const contentCodec: Codec<ContentRecord> = message<ContentRecord>({
  sizeBytes: uint(1),
  treeHash: bytes(2),
  sha256: bytes(3),
  referenceCount: uint(4),
  extentCount: uint(5),
  weakExtentCount: uint(6),
  extent: optionalInner(7, extentCodec),
});

/** An upload. */
export interface UploadRecord {
  readonly state: "open" | "complete" | "expired";
  readonly contentId: number;
  /** Where the file is to be. */
  readonly parentId: number;
  readonly name: string;
  readonly sizeBytes: number | undefined;
  readonly treeHash: Uint8Array;
  readonly onConflict: OnConflict;
  readonly attributes: EntryAttributes;
  readonly precondition: Precondition;
  /** When an open upload expires; afterwards when the record is forgotten. */
  readonly expireTimeMs: number;
  /** Of a complete upload: the answer that completing it again gets. */
  readonly entry: Entry | undefined;
  readonly path: readonly string[];
}

/** Codec of UploadRecord. */
export const uploadCodec: Codec<UploadRecord> = message<UploadRecord>({
  state: oneOf(1, ["open", "complete", "expired"]),
  contentId: uint(2),
  parentId: uint(3),
  name: text(4),
  sizeBytes: optionalUint(5),
  treeHash: bytes(6),
  onConflict: oneOf(7, ["fail", "rename", "replace"]),
  attributes: inner(8, attributesCodec),
  precondition: inner(9, preconditionCodec),
  expireTimeMs: uint(10),
  entry: optionalInner(11, entryCodec),
  path: repeatedText(12),
});

/** Who holds an extent of an open upload. */
export interface TargetsRecord {
  readonly memberIds: readonly number[];
  /** Members that were replaced and may hold a part. */
  readonly formerMemberIds: readonly number[];
}

/** Codec of TargetsRecord. */
export const targetsCodec: Codec<TargetsRecord> = message<TargetsRecord>({
  memberIds: repeatedUint(1),
  formerMemberIds: repeatedUint(2),
});

/** Something whose copies are to be dropped when its grace is over. */
export interface DropRecord {
  /** 0: the extents of the content; else those that were assigned to this upload's targets. */
  readonly uploadId: number;
}

/** Codec of DropRecord. */
export const dropCodec: Codec<DropRecord> = message<DropRecord>({ uploadId: uint(1) });

/** The remembered answer to a request. */
export interface RequestRecord {
  readonly expireTimeMs: number;
  readonly result: Uint8Array;
  /** Of the command that was answered: fingerprintOf() in requests.ts. */
  readonly fingerprint: Uint8Array;
}

/** Codec of RequestRecord. */
export const requestCodec: Codec<RequestRecord> = message<RequestRecord>({
  expireTimeMs: uint(1),
  result: bytes(2),
  fingerprint: bytes(3),
});

/** A run of content ids. */
export interface IdBlock {
  readonly firstContentId: number;
  readonly idCount: number;
}

const blockCodec: Codec<IdBlock> = message<IdBlock>({ firstContentId: uint(1), idCount: uint(2) });

/** A member's lease for small writes. */
export interface LeaseRecord {
  readonly storeIncarnation: string;
  readonly expireTimeMs: number;
  /** Oldest first. */
  readonly blocks: readonly IdBlock[];
}

/** Codec of LeaseRecord. */
export const leaseCodec: Codec<LeaseRecord> = message<LeaseRecord>({
  storeIncarnation: text(1),
  expireTimeMs: uint(2),
  blocks: repeatedInner(3, blockCodec),
});

/** An unfinished copy of a directory. */
export interface CopyRecord {
  /** The directory it copies. */
  readonly sourceId: number;
  /** Names (UTF-8) below this are decided. */
  readonly cursor: Uint8Array;
  /** Index and wall time of the copy command: version and creation time of what it copies. */
  readonly copyIndex: number;
  readonly copyTimeMs: number;
}

/** Codec of CopyRecord. */
export const copyCodec: Codec<CopyRecord> = message<CopyRecord>({
  sourceId: uint(1),
  cursor: bytes(2),
  copyIndex: uint(3),
  copyTimeMs: sint(4),
});

/** A token with which one node may join. */
export interface JoinTokenRecord {
  readonly expireTimeMs: number;
  /** Member that the node takes the place of; 0 for none. */
  readonly replacesMemberId: number;
  /** 0 while nobody has used it. */
  readonly usedByMemberId: number;
  /** The change that it began; 0 while nobody has used it. */
  readonly changeId: number;
}

/** Codec of JoinTokenRecord. */
export const joinTokenCodec: Codec<JoinTokenRecord> = message<JoinTokenRecord>({
  expireTimeMs: uint(1),
  replacesMemberId: uint(2),
  usedByMemberId: uint(3),
  changeId: uint(4),
});

/** A change of the membership, under way or the last one that ended. */
export interface MembershipChange {
  /** Index of the command that began it. */
  readonly changeId: number;
  readonly kind: "add" | "remove" | "replace" | "transfer";
  /** The member that comes, or is to lead; 0 for none, or for whoever is furthest along. */
  readonly memberId: number;
  /** The member that goes, or led when the change began; 0 for none. */
  readonly formerMemberId: number;
  /** Name and host:port of the one that comes; "" for none. */
  readonly nodeId: string;
  readonly address: string;
  /** Whether it is made also when it is not safe. */
  readonly isForced: boolean;
  /** Cluster time of its begin. */
  readonly startTimeMs: number;
  readonly hasEnded: boolean;
  /** Why it failed; "" when it did not. */
  readonly failure: string;
  /** Whether the one that comes keeps no tree and has no vote. */
  readonly isStorageOnly: boolean;
}

/** Codec of MembershipChange. */
export const membershipChangeCodec: Codec<MembershipChange> = message<MembershipChange>({
  changeId: uint(1),
  kind: oneOf(2, ["add", "remove", "replace", "transfer"]),
  memberId: uint(3),
  formerMemberId: uint(4),
  nodeId: text(5),
  address: text(6),
  isForced: bool(7),
  startTimeMs: uint(8),
  hasEnded: bool(9),
  failure: text(10),
  isStorageOnly: bool(11),
});

/** A member that was removed: its id is never used again. */
export interface RemovedMemberRecord {
  readonly nodeId: string;
  /** Index and wall time of the command that removed it. */
  readonly index: number;
  readonly wallTimeMs: number;
}

/** Codec of RemovedMemberRecord. */
export const removedMemberCodec: Codec<RemovedMemberRecord> = message<RemovedMemberRecord>({
  nodeId: text(1),
  index: uint(2),
  wallTimeMs: sint(3),
});

/** How far the copies at a removed member are forgotten. */
export interface EvictionRecord {
  readonly contentId: number;
  readonly extentIndex: number;
  /** Contents from here on never had a copy there. */
  readonly endContentId: number;
}

/** Codec of EvictionRecord. */
export const evictionCodec: Codec<EvictionRecord> = message<EvictionRecord>({
  contentId: uint(1),
  extentIndex: uint(2),
  endContentId: uint(3),
});

/** A snapshot of the tree, kept as a content. */
export interface TreeSnapshotRecord {
  readonly contentId: number;
  readonly sizeBytes: number;
  /** Index of the last event of the feed that it shows; 0 for none. */
  readonly eventIndex: number;
  /** Cluster time of the state that it shows. */
  readonly clusterTimeMs: number;
  /** Wall time at which it was recorded. */
  readonly wallTimeMs: number;
}

/** Codec of TreeSnapshotRecord. */
export const treeSnapshotCodec: Codec<TreeSnapshotRecord> = message<TreeSnapshotRecord>({
  contentId: uint(1),
  sizeBytes: uint(2),
  eventIndex: uint(3),
  clusterTimeMs: uint(4),
  wallTimeMs: sint(5),
});

/** A member as it registered (see commands.ts), and which of its chunk stores it has. */
export interface MemberRecord extends NodeRegistration {
  /** How often it came with another chunk store. */
  readonly storeGeneration: number;
}

/** Codec of MemberRecord. */
export const memberCodec: Codec<MemberRecord> = message<MemberRecord>({
  memberId: uint(1),
  nodeId: text(2),
  storeIncarnation: text(3),
  address: text(4),
  httpUrl: text(5),
  publicUrl: text(6),
  zone: text(7),
  isStorageOnly: bool(8),
  featureLevelMax: optionalUint(9),
  storeGeneration: uint(20),
});

/** What is known of a member's chunk store beside its registration; absent until there is something. */
export interface StoreRecord {
  /** Cluster time at which its copies were declared lost; 0 while they are not. */
  readonly lostTimeMs: number;
  /** Cluster time at which it was told to empty itself; 0 while it is not. */
  readonly drainTimeMs: number;
  /** The last complete scrub pass, of the store of this incarnation; pass 0 for none. */
  readonly scrubbedIncarnation: string;
  readonly scrubPass: number;
  readonly scrubStartTimeMs: number;
  readonly scrubEndTimeMs: number;
  readonly scrubExtentCount: number;
  readonly scrubBytes: number;
  readonly scrubDamagedCount: number;
}

/** Codec of StoreRecord. */
export const storeCodec: Codec<StoreRecord> = message<StoreRecord>({
  lostTimeMs: uint(1),
  drainTimeMs: uint(2),
  scrubbedIncarnation: text(3),
  scrubPass: uint(4),
  scrubStartTimeMs: uint(5),
  scrubEndTimeMs: uint(6),
  scrubExtentCount: uint(7),
  scrubBytes: uint(8),
  scrubDamagedCount: uint(9),
});

/** Where the recount of a member's copies goes on. */
export interface RecountRecord {
  readonly contentId: number;
  readonly extentIndex: number;
}

/** Codec of RecountRecord. */
export const recountCodec: Codec<RecountRecord> = message<RecountRecord>({
  contentId: uint(1),
  extentIndex: uint(2),
});

/** A key of tickets. */
export interface TicketKeyRecord {
  /** Its number, from 1. */
  readonly keyId: number;
  readonly secret: Uint8Array;
  /** Cluster time at which it was made. */
  readonly startTimeMs: number;
}

/** The keys of tickets, newest first; at most two. */
export interface TicketKeysRecord {
  readonly keys: readonly TicketKeyRecord[];
}

const ticketKeyCodec: Codec<TicketKeyRecord> = message<TicketKeyRecord>({
  keyId: uint(1),
  secret: bytes(2),
  startTimeMs: uint(3),
});

/** Codec of TicketKeysRecord. */
export const ticketKeysCodec: Codec<TicketKeysRecord> = message<TicketKeysRecord>({
  keys: repeatedInner(1, ticketKeyCodec),
});

/** An event of the feed; see drive/change.ts. */
export const feedCodec: Codec<Change> = changeCodec;
