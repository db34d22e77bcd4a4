/**
 * The small part of the state that a node without the tree keeps: the cluster, its members and their stores, the counters with
 * cluster time, and the keys of tickets. Bounded by the number of members, not by the number of files.
 *
 * It is handed on record by record in the form that the state has it, so everything that reads only these records (members.ts,
 * and of view.ts members(), storeOf(), clusterTime(), clusterInfo(), scrubRequestTime()) works on both.
 */
import { MEMBER_COUNT_MAX } from "../drive/limits.ts";
import { sha256 } from "../std/digest.ts";
import type { KeyValue, OrderedReader, OrderedStore } from "../std/ordered-store.ts";
import {
  afterPrefix,
  CLUSTER_KEY,
  makeKey,
  MEMBERSHIP_CHANGE_KEY,
  STATE_KEY,
  TABLE,
  TICKET_KEYS_KEY,
} from "./keys.ts";

/** Tables that every node knows. */
const TABLES = [TABLE.member, TABLE.store, TABLE.removedMember] as const;
/** Records of one table at most. */
const TABLE_RECORD_COUNT_MAX = 2 * MEMBER_COUNT_MAX;

/** The view at one index. */
export interface MemberView {
  /** What changes with every command. */
  readonly counters: readonly KeyValue[];
  /** Everything else, in key order within each table. */
  readonly records: readonly KeyValue[];
}

/** The view of a state. */
export function memberView(reader: OrderedReader): MemberView {
  const single = (key: Uint8Array): readonly KeyValue[] => {
    const value = reader.get(key);
    return value === undefined ? [] : [{ key, value }];
  };
  const table = (first: number): readonly KeyValue[] => {
    const from = makeKey(first, []);
    return [...reader.range({ from, to: afterPrefix(from), countMax: TABLE_RECORD_COUNT_MAX })];
  };
  return {
    counters: single(STATE_KEY),
    records: [
      ...[CLUSTER_KEY, MEMBERSHIP_CHANGE_KEY, TICKET_KEYS_KEY].flatMap(single),
      ...TABLES.flatMap(table),
    ],
  };
}

/** A digest that two runs of records share when they are equal. */
export function digestOfRecords(records: readonly KeyValue[]): Uint8Array {
  const lengths = records.flatMap(({ key, value }) => [key.length, value.length]);
  const parts = records.flatMap(({ key, value }) => [key, value]);
  return sha256(Buffer.concat([new Uint8Array(Uint32Array.from(lengths).buffer), ...parts]));
}

/** Puts a view in the place of what a store holds; `records` undefined: they are as before. */
export function installView(
  store: OrderedStore,
  counters: readonly KeyValue[],
  records: readonly KeyValue[] | undefined,
): void {
  store.transaction((transaction) => {
    if (records !== undefined) {
      const range = { from: new Uint8Array([0]), to: new Uint8Array([0xff]) };
      for (const { key } of [...transaction.range(range)]) transaction.delete(key);
    }
    for (const { key, value } of [...(records ?? []), ...counters]) transaction.put(key, value);
  });
}
