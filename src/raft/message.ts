/**
 * Building messages, and what kinds of them there are.
 *
 * A message is made in one place so that all have the same shape (one hidden class in the engine) and unused fields hold
 * their empty value. Which kinds may come from the network is decided here and enforced by RaftNode.step().
 */
import { NO_MEMBER, type LogEntry, type MemberId, type Message, type MessageKind } from "./types.ts";

/** No bytes. Shared; never written to. */
export const NO_BYTES: Uint8Array = new Uint8Array(0);

/** Context of the vote requests of a leadership transfer, which may interrupt a leader's lease (thesis 3.10). */
export const TRANSFER_CONTEXT: Uint8Array = Uint8Array.from([0x74, 0x78]);

/** No entries. Shared; never written to. */
const NO_ENTRIES: readonly LogEntry[] = [];

/** No messages. Shared; never written to. */
const NO_MESSAGES: readonly Message[] = [];

/** Some fields of a message. */
export type MessageFields = Partial<Message> & { readonly kind: MessageKind };

/** A message whose fields, other than those given, are empty; `from` and `term` may be given apart. */
export function makeMessage(
  fields: MessageFields,
  from: MemberId = fields.from ?? NO_MEMBER,
  term: number = fields.term ?? 0,
): Message {
  return {
    kind: fields.kind,
    from,
    to: fields.to ?? NO_MEMBER,
    term,
    logTerm: fields.logTerm ?? 0,
    index: fields.index ?? 0,
    entries: fields.entries ?? NO_ENTRIES,
    commitIndex: fields.commitIndex ?? 0,
    commitTerm: fields.commitTerm ?? 0,
    reject: fields.reject ?? false,
    rejectHint: fields.rejectHint ?? 0,
    context: fields.context ?? NO_BYTES,
    snapshot: fields.snapshot,
    votedFor: fields.votedFor ?? NO_MEMBER,
    responses: fields.responses ?? NO_MESSAGES,
  };
}

/** Kinds that are only ever made by this node for itself; one that arrives from the network is refused. */
const LOCAL_KINDS: ReadonlySet<MessageKind> = new Set<MessageKind>([
  "hup",
  "beat",
  "unreachable",
  "snapshot-status",
  "check-quorum",
  "forget-leader",
  "storage-append",
  "storage-append-response",
  "storage-apply",
  "storage-apply-response",
]);

/** Kinds that answer a message of ours, so that their sender must be in the configuration. */
const RESPONSE_KINDS: ReadonlySet<MessageKind> = new Set<MessageKind>([
  "append-response",
  "vote-response",
  "pre-vote-response",
  "heartbeat-response",
  "read-index-response",
]);

/** Kinds that carry no term: they are requests to whoever leads, whatever the term. */
const TERMLESS_KINDS: ReadonlySet<MessageKind> = new Set<MessageKind>(["propose", "read-index"]);

/** Whether `kind` never travels between members. */
export function isLocalKind(kind: MessageKind): boolean {
  return LOCAL_KINDS.has(kind);
}

/** Whether `kind` answers a message, so that only members of the configuration may send it. */
export function isResponseKind(kind: MessageKind): boolean {
  return RESPONSE_KINDS.has(kind);
}

/** Whether messages of `kind` carry term 0. */
export function isTermlessKind(kind: MessageKind): boolean {
  return TERMLESS_KINDS.has(kind);
}
