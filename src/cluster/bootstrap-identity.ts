/**
 * Who a node is, on disk: made when its data directory is formatted, never reused, replaced only as a whole.
 *
 *   empty --(all agreed on a proposal)--> accepted --(all have accepted)--> formed --(log and state were made)--> started
 *     '---------------------(admitted with a token)------------------------->'     '--(the others say so)--> removed
 *
 * Whoever has started may have promised something to the others: its log and state must be there ever after. The mark lies
 * outside their directories, so that losing those cannot take it along.
 *
 * The member id is random and belongs to the data: a wiped node comes back as somebody else, because what it promised under
 * its old id is gone. A damaged file, or data without one, is never taken for an empty node.
 */
import { DriveError } from "../drive/errors.ts";
import { readAtomicFile, writeAtomicFile, type AtomicFileName } from "../std/atomic-file.ts";
import { toHex, utf8 } from "../std/bytes.ts";
import type { Disk } from "../std/disk.ts";
import type { Prng } from "../std/prng.ts";

/** Version of the file's content. */
const FORMAT_VERSION = 1;

/** Bytes of a cluster id and of an incarnation, before they are written in hexadecimal. */
const RANDOM_SIZE_BYTES = 16;

/** A founding member. */
export interface FoundingMember {
  readonly memberId: number;
  /** host:port under which the others reach it. */
  readonly address: string;
}

/** What the founding members agreed on. */
export interface ClusterProposal {
  readonly clusterId: string;
  /** Sorted by address. */
  readonly members: readonly FoundingMember[];
  /** Feature level that all of them support, with which the cluster begins; absent for the first one. */
  readonly featureLevel?: number | undefined;
}

/** Identity of a node's data. */
export interface NodeIdentity {
  /** Label of the node; may change. */
  readonly nodeId: string;
  /** Random, 1 to 2^53-1. */
  readonly memberId: number;
  /** Changes whenever the data is made anew. */
  readonly incarnation: string;
  readonly phase: "empty" | "accepted" | "formed" | "started" | "removed";
  /** Absent while empty. */
  readonly cluster?: ClusterProposal;
  /** Of a node that joined with a token: the members then, and where they were; without a tree, the voters it was told of last. */
  readonly contacts?: readonly FoundingMember[];
  /** Whether it joined as a storage-only node: it keeps no tree and has no vote, and never will. Absent for no. */
  readonly isStorageOnly?: boolean;
}

function identityFile(directory: string): AtomicFileName {
  return { directory, name: "identity", magic: "NDIDENT1" };
}

/** A new cluster id. */
export function makeClusterId(prng: Prng): string {
  return toHex(prng.bytes(RANDOM_SIZE_BYTES));
}

/** The identity of a data directory that is formatted now. */
export function makeIdentity(prng: Prng, nodeId: string): NodeIdentity {
  const memberId = 1 + prng.below(Number.MAX_SAFE_INTEGER);
  return { nodeId, memberId, incarnation: toHex(prng.bytes(RANDOM_SIZE_BYTES)), phase: "empty" };
}

/** Whether the node belongs to a cluster for good. */
export function isFormed(identity: NodeIdentity): boolean {
  return identity.phase === "formed" || identity.phase === "started";
}

/** Replaces the identity durably. The directory must exist. */
export async function storeIdentity(disk: Disk, directory: string, identity: NodeIdentity): Promise<void> {
  const content = JSON.stringify({ formatVersion: FORMAT_VERSION, ...identity });
  await writeAtomicFile(disk, identityFile(directory), utf8(content));
}

/**
 * The identity in `directory`; undefined when there is none.
 * @throws DriveError DATA_CORRUPT
 */
export async function findIdentity(disk: Disk, directory: string): Promise<NodeIdentity | undefined> {
  const found = await readAtomicFile(disk, identityFile(directory));
  if (found.kind === "absent") return undefined;
  if (found.kind === "damaged") throw corrupt(directory, found.reason);
  const identity = parseIdentity(Buffer.from(found.content).toString("utf8"));
  if (identity === undefined)
    throw corrupt(directory, "it is not an identity of a version that this program knows");
  return identity;
}

function parseIdentity(text: string): NodeIdentity | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isRecord(value) || value["formatVersion"] !== FORMAT_VERSION) return undefined;
  const { nodeId, memberId, incarnation, phase } = value;
  if (typeof nodeId !== "string" || !isMemberId(memberId) || typeof incarnation !== "string")
    return undefined;
  if (phase === "empty") return { nodeId, memberId, incarnation, phase };
  const cluster = parseProposal(value["cluster"]);
  if (phase !== "accepted" && phase !== "formed" && phase !== "started" && phase !== "removed")
    return undefined;
  if (cluster === undefined) return undefined;
  const { isStorageOnly = false } = value;
  if (typeof isStorageOnly !== "boolean") return undefined;
  const identity: NodeIdentity = {
    ...{ nodeId, memberId, incarnation, phase, cluster },
    ...(isStorageOnly && { isStorageOnly }),
  };
  if (value["contacts"] === undefined) return identity;
  const contacts = parseMembers(value["contacts"]);
  return contacts === undefined ? undefined : { ...identity, contacts };
}

/** The proposal in a parsed JSON value, or undefined when it is none. */
function parseProposal(value: unknown): ClusterProposal | undefined {
  if (!isRecord(value)) return undefined;
  const { clusterId } = value;
  const members = parseMembers(value["members"]);
  if (typeof clusterId !== "string" || clusterId === "" || members === undefined) return undefined;
  const { featureLevel } = value;
  return typeof featureLevel === "number" ? { clusterId, members, featureLevel } : { clusterId, members };
}

function parseMembers(value: unknown): readonly FoundingMember[] | undefined {
  if (!Array.isArray(value)) return undefined;
  const parsed: FoundingMember[] = [];
  for (const member of value as readonly unknown[]) {
    if (!isRecord(member)) return undefined;
    const { memberId, address } = member;
    if (!isMemberId(memberId) || typeof address !== "string") return undefined;
    parsed.push({ memberId, address });
  }
  return parsed;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

function isMemberId(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value > 0;
}

function corrupt(directory: string, reason: string): DriveError {
  const path = `${directory}/identity`;
  return new DriveError("DATA_CORRUPT", `The identity ${path} is damaged: ${reason}.`, { path, reason });
}
