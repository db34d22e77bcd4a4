/** What a task of the kind "replication" is to do and what came of it, as JSON. */
import type { ExtentKey } from "../drive/content.ts";
import { DriveError } from "../drive/errors.ts";
import { utf8 } from "../std/bytes.ts";

/** Extents of one task at most: their ids fit its parameters. */
export const REPLICATION_RUN_COUNT_MAX = 500;
/** Bytes of one task; one extent alone may have more. */
export const REPLICATION_RUN_BYTES_MAX = 4 * 1024 ** 3;

/** Why copies are made: too few are good, a member is emptied, or one holds too much. */
export type ReplicationPurpose = "repair" | "drain" | "balance";

const PURPOSES: readonly string[] = ["repair", "drain", "balance"] satisfies ReplicationPurpose[];

/** A run of extents of which copies are to be made. */
export interface ReplicationRun {
  readonly purpose: ReplicationPurpose;
  /** The member that gives its copies away; 0 for repair. */
  readonly fromMemberId: number;
  /** Each once. */
  readonly extents: readonly ExtentKey[];
}

/** What came of it. */
export interface ReplicationReport {
  /** Extents that have their copies where they should be. */
  readonly doneCount: number;
  /** Extents whose file was deleted meanwhile. */
  readonly goneCount: number;
  /** Extents that were left as they are: nothing was to be moved any more, or nobody could take it. */
  readonly leftCount: number;
  /** Copies that members were asked for. */
  readonly assignedCount: number;
}

/** The parameters of a task. */
export function encodeReplicationRun({ purpose, fromMemberId, extents }: ReplicationRun): Uint8Array {
  const pairs = extents.map(({ contentId, extentIndex }) => [contentId, extentIndex]);
  return utf8(JSON.stringify({ purpose, fromMemberId, extents: pairs }));
}

/** @throws DriveError ARGUMENT_INVALID */
export function parseReplicationRun(parameters: Uint8Array): ReplicationRun {
  const refuse = (cause?: unknown): never => {
    throw new DriveError("ARGUMENT_INVALID", "The parameters name no copies to be made.", {}, cause);
  };
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(parameters).toString("utf8"));
  } catch (error) {
    refuse(error);
  }
  const { purpose, fromMemberId, extents } = (value ?? {}) as Record<string, unknown>;
  if (typeof purpose !== "string" || !PURPOSES.includes(purpose) || !isCount(fromMemberId)) return refuse();
  if ((purpose === "repair") !== (fromMemberId === 0)) return refuse();
  if (!Array.isArray(extents) || extents.length > REPLICATION_RUN_COUNT_MAX) return refuse();
  return {
    purpose: purpose as ReplicationPurpose,
    fromMemberId,
    extents: extents.map((pair: unknown) => {
      const [contentId, extentIndex] = Array.isArray(pair) && pair.length === 2 ? (pair as unknown[]) : [];
      if (!isCount(contentId) || contentId === 0 || !isCount(extentIndex)) return refuse();
      return { contentId, extentIndex };
    }),
  };
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
