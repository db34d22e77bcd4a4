/**
 * The keys that tickets are signed with, in the tree: so every member has the same ones, and a snapshot brings them along.
 *
 * The newest one signs, and its predecessor is good as well until the next rotation: far longer than any ticket.
 */
import { TICKET_KEY_MS, TICKET_KEY_SIZE_BYTES } from "../drive/limits.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { CommandBody } from "./commands.ts";
import { readRecord, refuse, type ApplyContext } from "./context.ts";
import { TICKET_KEYS_KEY } from "./keys.ts";
import { ticketKeysCodec, type TicketKeyRecord } from "./records.ts";

export type { TicketKeyRecord } from "./records.ts";

/** The keys that are good, newest first; none before the first leader made one. */
export function ticketKeys(reader: OrderedReader): readonly TicketKeyRecord[] {
  return readRecord(reader, TICKET_KEYS_KEY, ticketKeysCodec)?.keys ?? [];
}

/** Whether it is time for a new key. */
export function isTicketKeyDue(reader: OrderedReader, clusterTimeMs: number): boolean {
  const [newest] = ticketKeys(reader);
  return newest === undefined || clusterTimeMs - newest.startTimeMs >= TICKET_KEY_MS;
}

/** rotate-ticket-key. */
export function rotateTicketKey(
  context: ApplyContext,
  { secret }: Extract<CommandBody, { readonly kind: "rotate-ticket-key" }>,
): void {
  if (secret.length !== TICKET_KEY_SIZE_BYTES) {
    refuse(
      "ARGUMENT_INVALID",
      `The key of tickets has ${TICKET_KEY_SIZE_BYTES} bytes, not ${secret.length}.`,
    );
  }
  const { clusterTimeMs } = context.state;
  // Two leaders may have thought of it.
  if (!isTicketKeyDue(context, clusterTimeMs)) return;
  const [newest] = ticketKeys(context);
  const key = { keyId: (newest?.keyId ?? 0) + 1, secret, startTimeMs: clusterTimeMs };
  const keys = newest === undefined ? [key] : [key, newest];
  context.put(TICKET_KEYS_KEY, ticketKeysCodec.encode({ keys }));
}
