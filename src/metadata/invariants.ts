/**
 * What must be true of the state after every command: for tests, the simulator, and an operator in doubt.
 *
 * checkInvariants() reads everything and throws an AssertionError with all that is wrong. The tree is a tree; each row has its
 * way back and each way back its row; reference counts, counters and every index equal a recount; unfinished copies point to
 * older directories that are not taken apart. Costs time in proportion to the state.
 */
import type { ExtentKey } from "../drive/content.ts";
import { ROOT_ENTRY_ID, SYSTEM_ROOT_ENTRY_ID } from "../drive/entry.ts";
import { FEATURE_LEVEL_VOID_COPIES } from "../drive/feature-levels.ts";
import { SEAL_COUNT_MIN } from "../drive/limits.ts";
import { AssertionError } from "../std/assert.ts";
import { compareBytes, toHex } from "../std/bytes.ts";
import type { KeyValue, OrderedReader } from "../std/ordered-store.ts";
import { needsWork, tallyOf, verifiedCount } from "./extents.ts";
import { readState, scanPrefix } from "./context.ts";
import { isDecided } from "./copies.ts";
import { equalBytesKey, makeKey, numberInKey, placeKey, TABLE, tailOfKey, textInKey } from "./keys.ts";
import { isVoid, KnownStores } from "./known-stores.ts";
import { checkTasks } from "./task-invariants.ts";
import {
  contentCodec,
  copyCodec,
  dropCodec,
  entryRecordCodec,
  extentCodec,
  placeCodec,
  recountCodec,
  requestCodec,
  uploadCodec,
  type ContentRecord,
  type EntryRecord,
  type ExtentRecord,
  type StateRecord,
} from "./records.ts";

import { treeSnapshots } from "./tree-snapshots.ts";

class Findings {
  readonly list: string[] = [];

  check(condition: boolean, message: () => string): void {
    if (!condition && this.list.length < 50) this.list.push(message());
  }

  equal(what: string, actual: number, expected: number): void {
    this.check(actual === expected, () => `${what} is ${actual}, a recount gives ${expected}`);
  }
}

const all = (reader: OrderedReader, table: number): KeyValue[] =>
  scanPrefix(reader, makeKey(table, []), Number.POSITIVE_INFINITY);

/** Throws an AssertionError that names everything found wrong with the state (at most 50 findings). */
export function checkInvariants(reader: OrderedReader): void {
  const findings = new Findings();
  const state = readState(reader);
  const references = checkTree(reader, state, findings);
  for (const { contentId } of treeSnapshots(reader)) {
    references.set(contentId, (references.get(contentId) ?? 0) + 1);
  }
  checkContents(reader, state, references, findings);
  checkCopies(reader, state, findings);
  checkUploads(reader, state, findings);
  checkRequests(reader, state, findings);
  findings.equal("changeCount", state.changeCount, all(reader, TABLE.change).length);
  findings.equal("copiesChangeCount", state.copiesChangeCount, all(reader, TABLE.copiesChange).length);
  findings.equal("memberCount", state.memberCount, all(reader, TABLE.member).length);
  checkMembership(reader, state, findings);
  if (state.featureLevel >= FEATURE_LEVEL_VOID_COPIES) checkVoidCopies(reader, findings);
  checkTasks(reader, findings);
  if (findings.list.length > 0) throw new AssertionError(`broken invariants:\n${findings.list.join("\n")}`);
}

function checkMembership(reader: OrderedReader, state: StateRecord, findings: Findings): void {
  const removed = new Set(all(reader, TABLE.removedMember).map(({ key }) => numberInKey(key, 0)));
  findings.equal("removedMemberCount", state.removedMemberCount, removed.size);
  for (const { key } of [...all(reader, TABLE.member), ...all(reader, TABLE.lease)]) {
    const memberId = numberInKey(key, 0);
    findings.check(!removed.has(memberId), () => `member ${memberId} was removed and is registered`);
  }
  const pending = new Set(all(reader, TABLE.eviction).map(({ key }) => numberInKey(key, 0)));
  const forgotten = (memberId: number): boolean => removed.has(memberId) && !pending.has(memberId);
  for (const { key } of all(reader, TABLE.dropList)) {
    const memberId = numberInKey(key, 0);
    findings.check(!forgotten(memberId), () => `removed member ${memberId} is told to drop copies`);
  }
  for (const { contentId, extent } of allExtents(reader)) {
    for (const { memberId } of extent.replicas) {
      findings.check(!forgotten(memberId), () => `removed member ${memberId} has a copy of ${contentId}`);
    }
  }
}

// A copy that is called verified and counts no more is one that the recount of its member has yet to come to.
function checkVoidCopies(reader: OrderedReader, findings: Findings): void {
  const stores = new KnownStores(reader);
  const places = new Map(
    all(reader, TABLE.recount).map(({ key, value }) => [numberInKey(key, 0), recountCodec.decode(value)]),
  );
  for (const { contentId, extentIndex, extent } of allExtents(reader)) {
    for (const replica of extent.replicas) {
      const { memberId } = replica;
      const known = stores.of(memberId);
      if (known.member === undefined || !isVoid(replica, known)) continue;
      const place = places.get(memberId);
      const isAhead =
        place !== undefined &&
        (contentId > place.contentId || (contentId === place.contentId && extentIndex >= place.extentIndex));
      findings.check(
        isAhead,
        () => `the void copy of ${contentId}/${extentIndex} at ${memberId} is not recounted`,
      );
    }
  }
}

function allExtents(reader: OrderedReader): readonly (ExtentKey & { readonly extent: ExtentRecord })[] {
  const inline = all(reader, TABLE.content).flatMap(({ key, value }) => {
    const { extent } = contentCodec.decode(value);
    return extent === undefined ? [] : [{ contentId: numberInKey(key, 0), extentIndex: 0, extent }];
  });
  const rows = all(reader, TABLE.extent).map(({ key, value }) => ({
    ...{ contentId: numberInKey(key, 0), extentIndex: numberInKey(key, 1) },
    extent: extentCodec.decode(value),
  }));
  return [...inline, ...rows];
}

// Returns how many rows refer to each content.
function checkTree(reader: OrderedReader, state: StateRecord, findings: Findings): Map<number, number> {
  const references = new Map<number, number>();
  const parents = new Map<number, number>();
  const directories = new Set<number>([ROOT_ENTRY_ID, SYSTEM_ROOT_ENTRY_ID]);
  let fileCount = 0;
  const visit = (row: EntryRecord, parentId: number): void => {
    findings.check(!parents.has(row.entryId), () => `entry ${row.entryId} is in two places`);
    findings.check(row.entryId < state.nextEntryId, () => `entry ${row.entryId} has an id not given out`);
    parents.set(row.entryId, parentId);
    if (row.kind === "directory") directories.add(row.entryId);
    else {
      fileCount += 1;
      references.set(row.contentId, (references.get(row.contentId) ?? 0) + 1);
    }
  };
  for (const { key, value } of all(reader, TABLE.row)) {
    const parentId = numberInKey(key, 0);
    if (parentId === 0) continue;
    const row = entryRecordCodec.decode(value);
    visit(row, parentId);
    const place = reader.get(placeKey(row.entryId));
    const back = place === undefined ? undefined : placeCodec.decode(place);
    const isBack = back?.parentId === parentId && back.name === textInKey(key, 1);
    findings.check(
      isBack,
      () => `entry ${row.entryId} at (${parentId}, ${textInKey(key, 1)}) has no way back`,
    );
  }
  const rowCount = parents.size;
  const places = all(reader, TABLE.place);
  for (const { key } of places) {
    const entryId = numberInKey(key, 0);
    findings.check(parents.has(entryId), () => `the way back of entry ${entryId} leads from no row`);
  }
  findings.equal("the number of ways back", places.length, rowCount);
  for (const { key, value } of all(reader, TABLE.graveyard)) {
    visit(entryRecordCodec.decode(value), 0);
    findings.check(
      reader.get(placeKey(numberInKey(key, 0))) === undefined,
      () => `${toHex(key)} is deleted and placed`,
    );
  }
  for (const [entryId, parentId] of parents) {
    findings.check(
      parentId === 0 || directories.has(parentId),
      () => `entry ${entryId} lies in ${parentId}, no directory`,
    );
  }
  checkNoCycle(parents, findings);
  findings.equal("fileCount", state.fileCount, fileCount);
  findings.equal("directoryCount", state.directoryCount, directories.size - 2);
  return references;
}

function checkNoCycle(parents: ReadonlyMap<number, number>, findings: Findings): void {
  const good = new Set<number>([0, ROOT_ENTRY_ID, SYSTEM_ROOT_ENTRY_ID]);
  for (const start of parents.keys()) {
    const walk = new Set<number>();
    let id = start;
    while (!good.has(id) && !walk.has(id)) {
      walk.add(id);
      id = parents.get(id) ?? 0;
    }
    findings.check(!walk.has(id), () => `entry ${id} is below itself`);
    for (const each of walk) good.add(each);
  }
}

function checkContents(
  reader: OrderedReader,
  state: StateRecord,
  references: ReadonlyMap<number, number>,
  findings: Findings,
): void {
  const queued = new Set<number>();
  for (const { key, value } of all(reader, TABLE.dropQueue)) {
    if (dropCodec.decode(value).uploadId === 0) queued.add(numberInKey(key, 1));
  }
  const known = new Map<number, ContentRecord>();
  const extents: {
    readonly contentId: number;
    readonly extentIndex: number;
    readonly extent: ExtentRecord;
  }[] = [];
  let contentBytes = 0;
  for (const { key, value } of all(reader, TABLE.content)) {
    const contentId = numberInKey(key, 0);
    const content = contentCodec.decode(value);
    known.set(contentId, content);
    findings.equal(
      `referenceCount of content ${contentId}`,
      content.referenceCount,
      references.get(contentId) ?? 0,
    );
    findings.check(
      (content.referenceCount === 0) === queued.has(contentId),
      () => `content ${contentId}: drop queue`,
    );
    if (content.referenceCount > 0) contentBytes += content.sizeBytes;
    if (content.extent !== undefined) extents.push({ contentId, extentIndex: 0, extent: content.extent });
  }
  for (const contentId of references.keys()) {
    findings.check(known.has(contentId), () => `content ${contentId} is referred to and not there`);
  }
  // Not every content is in the index: one whose bytes were there already is left out, and stays out when the other goes.
  for (const { key, value } of all(reader, TABLE.equalBytes)) {
    const contentId = numberInKey(value, 0);
    const content = known.get(contentId);
    findings.check(
      content !== undefined && content.referenceCount > 0,
      () => `content ${contentId} is indexed and dropped`,
    );
    findings.check(
      content === undefined || compareBytes(key, equalBytesKey(content.treeHash, content.sizeBytes)) === 0,
      () => `content ${contentId} is indexed under bytes that it has not`,
    );
  }
  for (const { key, value } of all(reader, TABLE.extent)) {
    const contentId = numberInKey(key, 0);
    findings.check(
      known.get(contentId)?.extent === undefined && known.has(contentId),
      () => `stray extent ${toHex(key)}`,
    );
    extents.push({ contentId, extentIndex: numberInKey(key, 1), extent: extentCodec.decode(value) });
  }
  findings.equal("contentBytes", state.contentBytes, contentBytes);
  checkExtents(reader, state, { known, extents }, findings);
}

function checkExtents(
  reader: OrderedReader,
  state: StateRecord,
  found: {
    readonly known: ReadonlyMap<number, ContentRecord>;
    readonly extents: readonly {
      readonly contentId: number;
      readonly extentIndex: number;
      readonly extent: ExtentRecord;
    }[];
  },
  findings: Findings,
): void {
  const weak = new Map<number, number>();
  const counts = new Map<number, number>();
  const under = new Set<string>();
  const tally: Record<string, number> = Object.fromEntries(
    Object.keys(tallyOf({ sizeBytes: 0, root: new Uint8Array(0), replicas: [] })).map((name) => [name, 0]),
  );
  for (const { contentId, extentIndex, extent } of found.extents) {
    counts.set(contentId, (counts.get(contentId) ?? 0) + 1);
    const count = verifiedCount(extent);
    if (needsWork(extent)) under.add([count, contentId, extentIndex].join(" "));
    for (const [name, amount] of Object.entries(tallyOf(extent))) tally[name] = (tally[name] ?? 0) + amount;
    if (count < SEAL_COUNT_MIN) weak.set(contentId, (weak.get(contentId) ?? 0) + 1);
    const distinct = new Set(extent.replicas.map((replica) => replica.memberId));
    findings.equal(
      `replicas of extent ${extentIndex} of ${contentId}`,
      extent.replicas.length,
      distinct.size,
    );
  }
  for (const [contentId, content] of found.known) {
    // Extents go before their content when it is dropped.
    if (content.referenceCount === 0) continue;
    findings.equal(
      `weakExtentCount of content ${contentId}`,
      content.weakExtentCount,
      weak.get(contentId) ?? 0,
    );
    findings.equal(`extentCount of content ${contentId}`, content.extentCount, counts.get(contentId) ?? 0);
  }
  const indexed = all(reader, TABLE.underReplicated).map(({ key }) =>
    [0, 1, 2].map((i) => numberInKey(key, i)).join(" "),
  );
  for (const each of indexed) findings.check(under.has(each), () => `${each} is indexed as under-replicated`);
  findings.equal("the index of under-replicated extents", indexed.length, under.size);
  for (const [name, amount] of Object.entries(tally)) {
    findings.equal(name, state[name as keyof StateRecord], amount);
  }
}

function checkCopies(reader: OrderedReader, state: StateRecord, findings: Findings): void {
  const links = new Set(
    all(reader, TABLE.copier).map(({ key }) => `${numberInKey(key, 0)} ${numberInKey(key, 1)}`),
  );
  const copies = all(reader, TABLE.copy);
  const directories = new Set<number>([ROOT_ENTRY_ID]);
  for (const { value } of [...all(reader, TABLE.row), ...all(reader, TABLE.graveyard)]) {
    const row = entryRecordCodec.decode(value);
    if (row.kind === "directory") directories.add(row.entryId);
  }
  for (const { key, value } of copies) {
    const directoryId = numberInKey(key, 0);
    const { sourceId } = copyCodec.decode(value);
    findings.check(
      sourceId < directoryId,
      () => `directory ${directoryId} copies ${sourceId}, which is newer`,
    );
    findings.check(
      links.has(`${sourceId} ${directoryId}`),
      () => `copy ${directoryId} of ${sourceId} has no link`,
    );
    findings.check(directories.has(directoryId), () => `copy ${directoryId} is no directory`);
    findings.check(
      directories.has(sourceId),
      () => `source ${sourceId} of copy ${directoryId} is no directory`,
    );
  }
  findings.equal("the number of links to copiers", links.size, copies.length);
  findings.equal("pendingCopyCount", state.pendingCopyCount, copies.length);
  for (const { key } of all(reader, TABLE.absent)) {
    const directoryId = numberInKey(key, 0);
    const name = tailOfKey(key, 1);
    const isRow = reader.get(makeKey(TABLE.row, [directoryId], name)) !== undefined;
    findings.check(!isRow, () => `name ${toHex(name)} of ${directoryId} is there and marked absent`);
    const copy = reader.get(makeKey(TABLE.copy, [directoryId]));
    if (copy === undefined) continue;
    const isUseful = isDecided(reader, directoryId, copyCodec.decode(copy), name);
    findings.check(isUseful, () => `the mark ${toHex(name)} of ${directoryId} decides nothing`);
  }
}

function checkUploads(reader: OrderedReader, state: StateRecord, findings: Findings): void {
  const expiries = new Set(
    all(reader, TABLE.uploadExpiry).map(({ key }) => `${numberInKey(key, 0)} ${numberInKey(key, 1)}`),
  );
  const uploads = all(reader, TABLE.upload);
  let openCount = 0;
  for (const { key, value } of uploads) {
    const uploadId = numberInKey(key, 0);
    const upload = uploadCodec.decode(value);
    if (upload.state === "open") openCount += 1;
    findings.check(
      expiries.has(`${upload.expireTimeMs} ${uploadId}`),
      () => `upload ${uploadId} never expires`,
    );
  }
  findings.equal("the number of upload expiries", expiries.size, uploads.length);
  findings.equal("openUploadCount", state.openUploadCount, openCount);
}

function checkRequests(reader: OrderedReader, state: StateRecord, findings: Findings): void {
  const expiries = new Set(
    all(reader, TABLE.requestExpiry).map(({ key }) => `${numberInKey(key, 0)} ${textInKey(key, 1)}`),
  );
  const requests = all(reader, TABLE.request);
  for (const { key, value } of requests) {
    const { expireTimeMs } = requestCodec.decode(value);
    findings.check(
      expiries.has(`${expireTimeMs} ${textInKey(key, 0)}`),
      () => `request ${textInKey(key, 0)} never expires`,
    );
  }
  findings.equal("requestCount", state.requestCount, requests.length);
  findings.equal("the number of request expiries", expiries.size, requests.length);
}
