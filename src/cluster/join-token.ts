/**
 * The token with which one node joins: it names the cluster, so that a node finds out at once when it asks the wrong one, and
 * holds a secret of which the cluster keeps the hash alone.
 *
 *   ndj1.<cluster id>.<secret in hexadecimal>      for a node that is going to vote
 *   nds1.<cluster id>.<secret in hexadecimal>      for a storage-only node
 *
 * What the node is going to be is part of what is hashed, so it cannot be changed on the way.
 */
import { utf8 } from "../std/bytes.ts";
import { sha256 } from "../std/digest.ts";

/** Hexadecimal digits of a secret: least, and most. */
export const SECRET_LENGTH_MIN = 32;
export const SECRET_LENGTH_MAX = 64;

const PATTERN = new RegExp(
  `^nd([js])1\\.([0-9A-Za-z-]{1,64})\\.([0-9a-f]{${SECRET_LENGTH_MIN},${SECRET_LENGTH_MAX}})$`,
);

/** A token's parts. */
export interface ParsedToken {
  readonly clusterId: string;
  readonly secret: string;
  /** Whether the node that joins with it keeps no tree and has no vote. */
  readonly isStorageOnly: boolean;
}

/** Whether `secret` may be part of a token. */
export function isSecret(secret: string): boolean {
  return new RegExp(`^[0-9a-f]{${SECRET_LENGTH_MIN},${SECRET_LENGTH_MAX}}$`).test(secret);
}

/** The token of a cluster with this secret. */
export function formatToken({ clusterId, secret, isStorageOnly }: ParsedToken): string {
  return `${isStorageOnly ? "nds1" : "ndj1"}.${clusterId}.${secret}`;
}

/** The parts of a token, or undefined when the text is none. */
export function findToken(text: string): ParsedToken | undefined {
  const [, kind, clusterId, secret] = PATTERN.exec(text.trim()) ?? [];
  if (clusterId === undefined || secret === undefined) return undefined;
  return { clusterId, secret, isStorageOnly: kind === "s" };
}

/** What the cluster keeps of a token. */
export function hashOfToken(token: ParsedToken): Uint8Array {
  return sha256(utf8(formatToken(token)));
}
