/**
 * The ordered keys of the state. The first byte says what a record is; integers are eight bytes, big-endian, so that keys
 * order as numbers do; names are UTF-8, so that a directory lists in code point order. Keys that start with 0x00 belong to
 * consensus/. Everything here is part of snapshots: numbers never change.
 *
 *   01 00                        StateRecord          0d requestId              RequestRecord
 *   01 01                        ClusterRecord        0e time requestId         -
 *   02 parentId name             EntryRecord          0f index position         Change
 *   03 entryId                   PlaceRecord          10 memberId               NodeRegistration
 *   04 contentId                 ContentRecord        11 memberId               LeaseRecord
 *   05 contentId extentIndex     ExtentRecord         12 entryId                EntryRecord  (graveyard)
 *   06 treeHash size             contentId            13 directoryId            CopyRecord
 *   07 copies contentId extent   -                    14 sourceId directoryId   -  (copiers of a directory)
 *   08 memberId contentId extent -  (to be dropped)   15 directoryId name       -  (decided: absent)
 *   09 time contentId            DropRecord           17 uploadId extentIndex   TargetsRecord
 *   0a uploadId                  UploadRecord         18 contentId              uploadId
 *   0b time uploadId             -                    20 tokenHash              JoinTokenRecord
 *   01 02                        MembershipChange     21 memberId               RemovedMemberRecord
 *   22 memberId                  EvictionRecord     31 index                    TreeSnapshotRecord
 *   01 10                        TicketKeysRecord
 *                                                     19 memberId               StoreRecord
 *                                                     1a memberId               RecountRecord
 *                                                   30 index contentId          -  (its copies changed)
 *   01 03                        TaskTotals           41 state kind taskId        -
 *   40 taskId                    Task                 42 phase time taskId        kind
 *                                                     43 kind key                 taskId
 */
import { assert } from "../std/assert.ts";
import { utf8 } from "../std/bytes.ts";

/** First bytes of keys. */
export const TABLE = {
  single: 0x01,
  row: 0x02,
  place: 0x03,
  content: 0x04,
  extent: 0x05,
  equalBytes: 0x06,
  underReplicated: 0x07,
  dropList: 0x08,
  dropQueue: 0x09,
  upload: 0x0a,
  uploadExpiry: 0x0b,
  request: 0x0d,
  requestExpiry: 0x0e,
  change: 0x0f,
  member: 0x10,
  lease: 0x11,
  graveyard: 0x12,
  copy: 0x13,
  copier: 0x14,
  absent: 0x15,
  targets: 0x17,
  uploadOfContent: 0x18,
  copiesChange: 0x30,
  joinToken: 0x20,
  removedMember: 0x21,
  eviction: 0x22,
  store: 0x19,
  recount: 0x1a,
  treeSnapshot: 0x31,
  task: 0x40,
  taskByState: 0x41,
  taskByTime: 0x42,
  taskByKey: 0x43,
} as const;

/** The value of records whose key says it all. */
export const NOTHING = new Uint8Array([1]);

/** The key of the StateRecord. */
export const STATE_KEY = new Uint8Array([TABLE.single, 0]);

/** The key of the ClusterRecord. */
export const CLUSTER_KEY = new Uint8Array([TABLE.single, 1]);

/** The key of the TicketKeysRecord. */
export const TICKET_KEYS_KEY = new Uint8Array([TABLE.single, 0x10]);

/** The key of the change of the membership that is under way or ended last. */
export const MEMBERSHIP_CHANGE_KEY = new Uint8Array([TABLE.single, 2]);

/** The key of the number of tasks and the checkpoint of their planner. */
export const TASK_TOTALS_KEY = new Uint8Array([TABLE.single, 3]);

function writeUint(key: Uint8Array, offset: number, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, `a key holds ${value}`);
  const high = Math.floor(value / 0x100000000);
  const low = value % 0x100000000;
  for (let i = 0; i < 4; i += 1) {
    key[offset + i] = (high >>> (24 - 8 * i)) & 0xff;
    key[offset + 4 + i] = (low >>> (24 - 8 * i)) & 0xff;
  }
}

/** A key of a table with integers and then bytes. */
export function makeKey(table: number, numbers: readonly number[], tail?: Uint8Array): Uint8Array {
  const key = new Uint8Array(1 + numbers.length * 8 + (tail?.length ?? 0));
  key[0] = table;
  for (let i = 0; i < numbers.length; i += 1) writeUint(key, 1 + i * 8, numbers[i] as number);
  if (tail !== undefined) key.set(tail, 1 + numbers.length * 8);
  return key;
}

/** Integer number `position` of a key. */
export function numberInKey(key: Uint8Array, position: number): number {
  const offset = 1 + position * 8;
  assert(key.length >= offset + 8, `a key of ${key.length} bytes has no integer ${position}`);
  let value = 0;
  for (let i = 0; i < 8; i += 1) value = value * 256 + (key[offset + i] as number);
  assert(Number.isSafeInteger(value), "a key holds a number beyond 2^53-1");
  return value;
}

/** What follows the `numberCount` integers of a key. */
export function tailOfKey(key: Uint8Array, numberCount: number): Uint8Array {
  return key.subarray(1 + numberCount * 8);
}

/** The text that follows the `numberCount` integers of a key. */
export function textInKey(key: Uint8Array, numberCount: number): string {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString("utf8", 1 + numberCount * 8);
}

/** The smallest key above all keys that start with `prefix`. */
export function afterPrefix(prefix: Uint8Array): Uint8Array {
  const end = new Uint8Array(prefix);
  for (let i = end.length - 1; i >= 0; i -= 1) {
    if (end[i] !== 0xff) {
      end[i] = (end[i] as number) + 1;
      return end.subarray(0, i + 1);
    }
  }
  throw new RangeError("no key is above this prefix");
}

/** The smallest key above `key`. */
export function successor(key: Uint8Array): Uint8Array {
  const next = new Uint8Array(key.length + 1);
  next.set(key);
  return next;
}

/** The key of a row of the tree. */
export const rowKey = (parentId: number, name: string): Uint8Array =>
  makeKey(TABLE.row, [parentId], utf8(name));
/** The key of an entry's place. */
export const placeKey = (entryId: number): Uint8Array => makeKey(TABLE.place, [entryId]);
/** The key of a content. */
export const contentKey = (contentId: number): Uint8Array => makeKey(TABLE.content, [contentId]);
/** The key of an extent of a content with several. */
export const extentKey = (contentId: number, extentIndex: number): Uint8Array =>
  makeKey(TABLE.extent, [contentId, extentIndex]);

/** The index of equal bytes: tree hash, then size. */
export function equalBytesKey(treeHash: Uint8Array, sizeBytes: number): Uint8Array {
  const key = new Uint8Array(1 + 32 + 8);
  assert(treeHash.length === 32, `a tree hash has 32 bytes, not ${treeHash.length}`);
  key[0] = TABLE.equalBytes;
  key.set(treeHash, 1);
  writeUint(key, 33, sizeBytes);
  return key;
}

/** The key in the index of extents with fewer copies than wanted. */
export const underReplicatedKey = (copyCount: number, contentId: number, extentIndex: number): Uint8Array =>
  makeKey(TABLE.underReplicated, [copyCount, contentId, extentIndex]);
/** The key on a member's drop list. */
export const dropListKey = (memberId: number, contentId: number, extentIndex: number): Uint8Array =>
  makeKey(TABLE.dropList, [memberId, contentId, extentIndex]);
/** The key in the queue of what is to be dropped. */
export const dropQueueKey = (timeMs: number, contentId: number): Uint8Array =>
  makeKey(TABLE.dropQueue, [timeMs, contentId]);
/** The key of an upload. */
export const uploadKey = (uploadId: number): Uint8Array => makeKey(TABLE.upload, [uploadId]);
/** The key in the queue of expiring uploads. */
export const uploadExpiryKey = (timeMs: number, uploadId: number): Uint8Array =>
  makeKey(TABLE.uploadExpiry, [timeMs, uploadId]);
/** The key that leads from a content to the upload that writes it. */
export const uploadOfContentKey = (contentId: number): Uint8Array =>
  makeKey(TABLE.uploadOfContent, [contentId]);
/** The key of an extent's targets. */
export const targetsKey = (uploadId: number, extentIndex: number): Uint8Array =>
  makeKey(TABLE.targets, [uploadId, extentIndex]);
/** The key of a remembered answer. */
export const requestKey = (requestId: string): Uint8Array => makeKey(TABLE.request, [], utf8(requestId));
/** The key in the queue of expiring answers. */
export const requestExpiryKey = (timeMs: number, requestId: string): Uint8Array =>
  makeKey(TABLE.requestExpiry, [timeMs], utf8(requestId));
/** The key of an event. */
export const changeKey = (index: number, position: number): Uint8Array =>
  makeKey(TABLE.change, [index, position]);
/** The key that says that copies of a content changed with the command at `index`. */
export const copiesChangeKey = (index: number, contentId: number): Uint8Array =>
  makeKey(TABLE.copiesChange, [index, contentId]);
/** The key of a member. */
export const memberKey = (memberId: number): Uint8Array => makeKey(TABLE.member, [memberId]);
/** The key of what is known of a member's chunk store. */
export const storeKey = (memberId: number): Uint8Array => makeKey(TABLE.store, [memberId]);
/** The key of the recount of a member's copies. */
export const recountKey = (memberId: number): Uint8Array => makeKey(TABLE.recount, [memberId]);
/** The key of a member's lease. */
export const leaseKey = (memberId: number): Uint8Array => makeKey(TABLE.lease, [memberId]);
/** The key of a snapshot of the tree as it was after the command at `index`. */
export const treeSnapshotKey = (index: number): Uint8Array => makeKey(TABLE.treeSnapshot, [index]);
/** The key of a token to join with. */
export const joinTokenKey = (tokenHash: Uint8Array): Uint8Array => makeKey(TABLE.joinToken, [], tokenHash);
/** The key of a removed member. */
export const removedMemberKey = (memberId: number): Uint8Array => makeKey(TABLE.removedMember, [memberId]);
/** The key of a removed member whose copies are being forgotten. */
export const evictionKey = (memberId: number): Uint8Array => makeKey(TABLE.eviction, [memberId]);
/** The key of a deleted directory. */
export const graveyardKey = (entryId: number): Uint8Array => makeKey(TABLE.graveyard, [entryId]);
/** The key of an unfinished copy. */
export const copyKey = (directoryId: number): Uint8Array => makeKey(TABLE.copy, [directoryId]);
/** The key that leads from a source to a copy of it. */
export const copierKey = (sourceId: number, directoryId: number): Uint8Array =>
  makeKey(TABLE.copier, [sourceId, directoryId]);
/** The key that marks a name of an unfinished copy absent. */
export const absentKey = (directoryId: number, name: Uint8Array): Uint8Array =>
  makeKey(TABLE.absent, [directoryId], name);
/** The key of a task. */
export const taskKey = (taskId: number): Uint8Array => makeKey(TABLE.task, [taskId]);
/** The key of a task among those of a state and kind; both by their numbers in tasks.ts. */
export const taskByStateKey = (state: number, kind: number, taskId: number): Uint8Array =>
  makeKey(TABLE.taskByState, [state, kind, taskId]);
/** The key of a task among those of a phase, by when something is due. */
export const taskByTimeKey = (phase: number, timeMs: number, taskId: number): Uint8Array =>
  makeKey(TABLE.taskByTime, [phase, timeMs, taskId]);
/** The key that leads from the key of a task to the newest task with it. */
export const taskByKeyKey = (kind: number, key: string): Uint8Array =>
  makeKey(TABLE.taskByKey, [kind], utf8(key));
