/**
 * Tickets: what a storage-only node serves bytes for. A voter that looked a file up says, signed with a key that only members have,
 * which bytes of which content under which name may be read at which member until when.
 *
 *   ndt1.<key id>.<claims, base64url>.<HMAC-SHA-256 over all before, base64url>
 *
 * Pure: keys, time and the member come in. A ticket is good for reading alone. Nothing of its content is trusted, or even decoded,
 * before its signature was compared.
 */
import type { Entry } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { TICKET_LENGTH_MAX, TICKET_LIFETIME_MS, TICKET_SLACK_MS } from "../drive/limits.ts";
import { entryCodec } from "../metadata/codec.ts";
import type { TicketKeyRecord } from "../metadata/ticket-keys.ts";
import { inner, message, uint } from "../metadata/wire.ts";
import { utf8 } from "../std/bytes.ts";
import { equalInConstantTime, hmacSha256 } from "../std/mac.ts";

const PATTERN = /^(ndt1\.([1-9]\d{0,15})\.([\w-]+))\.([\w-]{43})$/;

/** What a ticket says. */
export interface TicketClaims {
  /** The file at one version: content id, size, name, media type, digests, and the version that is its ETag. */
  readonly entry: Entry;
  /** The bytes [offset, offset + length) of it may be read. */
  readonly offset: number;
  readonly length: number;
  /** The member that may serve them. */
  readonly memberId: number;
  /** Cluster time from which on it is good for nothing. */
  readonly expireTimeMs: number;
}

const claimsCodec = message<TicketClaims>({
  entry: inner(1, entryCodec),
  offset: uint(2),
  length: uint(3),
  memberId: uint(4),
  expireTimeMs: uint(5),
});

/** The ticket with these claims under a key. */
export function signTicket(claims: TicketClaims, key: TicketKeyRecord): string {
  const payload = Buffer.from(claimsCodec.encode(claims)).toString("base64url");
  const signed = `ndt1.${key.keyId}.${payload}`;
  return `${signed}.${macOf(signed, key)}`;
}

function macOf(signed: string, key: TicketKeyRecord): string {
  return Buffer.from(hmacSha256(key.secret, utf8(signed))).toString("base64url");
}

/** The ticket for all bytes of a file at one member, good from cluster time `nowMs` on. */
export function ticketFor(entry: Entry, memberId: number, nowMs: number, key: TicketKeyRecord): string {
  const expireTimeMs = nowMs + TICKET_LIFETIME_MS;
  return signTicket({ entry, offset: 0, length: entry.sizeBytes, memberId, expireTimeMs }, key);
}

/**
 * What a ticket allows.
 * @param known the keys that are good, who this is, and cluster time
 * @throws DriveError TICKET_INVALID: it is none of this cluster's, was changed, is for another member, or is over
 */
export function openTicket(
  text: string,
  known: {
    readonly keys: readonly TicketKeyRecord[];
    readonly memberId: number;
    readonly nowMs: number;
  },
): TicketClaims {
  const [, signed, keyId, payload, mac] = text.length <= TICKET_LENGTH_MAX ? (PATTERN.exec(text) ?? []) : [];
  if (signed === undefined || payload === undefined || mac === undefined) throw invalid("It is no ticket.");
  const key = known.keys.find((each) => String(each.keyId) === keyId);
  if (key === undefined) throw invalid("Its key is not known, or no longer.");
  // As text, so that there is one way alone to write a signature.
  if (!equalInConstantTime(utf8(mac), utf8(macOf(signed, key)))) throw invalid("It was changed.");
  const claims = claimsCodec.decode(Buffer.from(payload, "base64url"));
  if (claims.memberId !== known.memberId) throw invalid("It is for another node.");
  if (known.nowMs >= claims.expireTimeMs + TICKET_SLACK_MS) throw invalid("It is over.");
  return claims;
}

function invalid(why: string): DriveError {
  return new DriveError("TICKET_INVALID", `The ticket allows nothing here. ${why}`);
}
