/**
 * What is known of a chunk store, and what that means for a copy there: whether it counts, and when it was last read.
 *
 * A copy counts only while its member is registered with the very store that sealed it and has not been given up: isVoid()
 * says so at once, for every reader. What a scrub pass found good costs one record a pass, not one a copy: checkTimeOf() puts
 * the two together. Changes nothing: stores.ts does.
 */
import type { OrderedReader } from "../std/ordered-store.ts";
import { readRecord } from "./context.ts";
import { storeKey } from "./keys.ts";
import { findMember } from "./members.ts";
import { storeCodec, type MemberRecord, type ReplicaRecord, type StoreRecord } from "./records.ts";

const NO_STORE: StoreRecord = {
  lostTimeMs: 0,
  drainTimeMs: 0,
  scrubbedIncarnation: "",
  scrubPass: 0,
  scrubStartTimeMs: 0,
  scrubEndTimeMs: 0,
  scrubExtentCount: 0,
  scrubBytes: 0,
  scrubDamagedCount: 0,
};

/** What is known of a member's store; the empty record when nothing is. */
export function findStore(reader: OrderedReader, memberId: number): StoreRecord {
  return readRecord(reader, storeKey(memberId), storeCodec) ?? NO_STORE;
}

/** A member and its store, read once for many copies. */
export interface KnownStore {
  readonly member: MemberRecord | undefined;
  readonly store: StoreRecord;
}

/** Looks stores up, each once. For one pass over a state that does not change meanwhile. */
export class KnownStores {
  readonly #reader: OrderedReader;
  readonly #found = new Map<number, KnownStore>();

  constructor(reader: OrderedReader) {
    this.#reader = reader;
  }

  /** A member and its store. */
  of(memberId: number): KnownStore {
    let known = this.#found.get(memberId);
    if (known === undefined) {
      known = { member: findMember(this.#reader, memberId), store: findStore(this.#reader, memberId) };
      this.#found.set(memberId, known);
    }
    return known;
  }
}

/** Whether a copy that was verified counts no more, whatever its record says. */
export function isVoid(replica: ReplicaRecord, { member, store }: KnownStore): boolean {
  if (replica.state !== "verified") return false;
  return member?.storeGeneration !== replica.storeGeneration || store.lostTimeMs > 0;
}

/** Cluster time at which a verified copy was last read whole, as far as is known; 0 when it is not. */
export function checkTimeOf(replica: ReplicaRecord, { member, store }: KnownStore): number {
  const isOfStore = member !== undefined && store.scrubbedIncarnation === member.storeIncarnation;
  const isCovered = isOfStore && store.scrubPass > 0 && replica.verifyTimeMs <= store.scrubStartTimeMs;
  // The pass read it at some time after it began: the beginning is what is certain.
  return isCovered ? store.scrubStartTimeMs : replica.verifyTimeMs;
}
