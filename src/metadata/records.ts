/**
 * What the state machine stores: the types of the values behind the keys of keys.ts, and their codecs.
 *
 * Schemas: proto/netdisk/storage/v1/metadata_records.proto; they are for ever, because snapshots carry these bytes from node
 * to node and over versions.
 */
import type { Change } from "../drive/change.ts";
import type { Entry } from "../drive/entry.ts";
import { attributesCodec, changeCodec, entryCodec, nodeCodec, preconditionCodec } from "./codec.ts";
import type { EntryAttributes, OnConflict, Precondition } from "../drive/entry.ts";
import type { NodeRegistration } from "./commands.ts";
import {
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
  readonly state: "verified" | "pending" | "suspect";
  /** Member whose copy goes when this one is verified; 0 for none. */
  readonly replacesMemberId: number;
}

const replicaCodec: Codec<ReplicaRecord> = message<ReplicaRecord>({
  memberId: uint(1),
  state: oneOf(2, ["verified", "pending", "suspect"]),
  replacesMemberId: uint(3),
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

/** A member as it registered; see commands.ts. */
export const memberCodec: Codec<NodeRegistration> = nodeCodec;

/** An event of the feed; see drive/change.ts. */
export const feedCodec: Codec<Change> = changeCodec;
