/**
 * A log that never changes: commands of every kind, with the refusals that are remembered, in chapters. What it leaves in the tree
 * is recorded in fixed-log.test.ts. Add chapters at the end; what is there stays as it is.
 */
import type { ErrorReason } from "../../../src/drive/errors.ts";
import { REQUEST_RETENTION_MS, TASK_LEASE_MS_MIN, TICKET_KEY_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { encodeCommand } from "../../../src/metadata/codec.ts";
import type { CommandBody, CommandKind, CommandResult } from "../../../src/metadata/commands.ts";
import { MetadataStateMachine } from "../../../src/metadata/state-machine.ts";
import { NO_FINDINGS } from "../../../src/metadata/task-records.ts";
import { toHex, utf8 } from "../../../src/std/bytes.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { MemoryOrderedStore } from "../../../src/std/memory-ordered-store.ts";
import { RecordSum, SUM_KEY_END, SUM_KEY_START } from "../../../src/std/record-sum.ts";
import { registrationOf } from "../../support/memory-metadata-port.ts";
import { at, mkdirBody, sealOf, transferBody } from "./harness.ts";

const WALL_TIME_MS = 1_700_000_000_000;
const MEMBER_IDS = [101, 102, 103];
const EMPTY = new Uint8Array(0);
const BYTES = utf8("twelve bytes");
const LARGE = utf8("other twelve");
/** First content id of the one lease of the log, which is asked for before any other id is given out. */
const CONTENT_ID = 1;

type BodyOf<Kind extends CommandKind> = Extract<CommandBody, { readonly kind: Kind }>;

/** Applies the log to an empty state, one command after the other. */
export class LogWriter {
  /** By chapter: hash of the whole state after it, as members compare it. */
  readonly stateHashes: Record<string, string> = {};
  readonly kinds = new Set<CommandKind>();
  readonly refusals = new Set<ErrorReason>();
  readonly #store = new MemoryOrderedStore();
  readonly #machine = new MetadataStateMachine();
  #index = 0;

  chapter(name: string, write: () => void): void {
    write();
    const sum = new RecordSum();
    const all = { from: Uint8Array.of(SUM_KEY_START), to: Uint8Array.of(SUM_KEY_END) };
    for (const { key, value } of this.#store.range(all)) sum.add(key, value);
    this.stateHashes[name] = toHex(sum.toBytes());
  }

  /** Every command has a request id of its own, so that its answer is kept in the state. */
  say(body: CommandBody, requestId = `request-${this.#index + 1}`, deadlineMs = 0): CommandResult {
    this.#index += 1;
    this.kinds.add(body.kind);
    const wallTimeMs = WALL_TIME_MS + this.#index;
    const data = encodeCommand({ requestId, deadlineMs, wallTimeMs, body });
    const result = this.#store.transaction((t) =>
      this.#machine.apply(t, { index: this.#index, term: 1, data }),
    );
    if (result.outcome === "rejected") this.refusals.add(result.reason);
    return result;
  }

  /** The commands of cluster time have no request id: they are the leader's. */
  advance(elapsedMs: number): void {
    for (let left = elapsedMs; left > 0; left -= 10_000) {
      this.say({ kind: "advance-clock", elapsedMs: Math.min(10_000, left) }, "");
    }
  }
}

function numberOf(
  result: CommandResult,
  key: "uploadId" | "contentId" | "changeId" | "firstContentId",
): number {
  if (result.outcome === "rejected") return 0;
  const { value } = result;
  if (value.kind === "write-lease" && key === "firstContentId") return value[key];
  if (value.kind === "upload" && key !== "changeId" && key !== "firstContentId") return value[key];
  return value.kind === "membership" && key === "changeId" ? value.changeId : 0;
}

function holdOf(result: CommandResult): { readonly taskId: number; readonly fence: number } {
  if (result.outcome === "rejected" || result.value.kind !== "task") return { taskId: 0, fence: 0 };
  return { taskId: result.value.task.taskId, fence: result.value.task.fence };
}

const putBody = (path: string, contentId: number, more: Partial<BodyOf<"put-small">> = {}): CommandBody => ({
  ...{ kind: "put-small", at: at(path), createParents: false, onConflict: "fail", attributes: {} },
  ...{ precondition: {}, memberId: 101, contentId, sizeBytes: BYTES.length, treeHash: sha256(BYTES) },
  seals: MEMBER_IDS.map((memberId) => sealOf(contentId, memberId, BYTES)),
  ...more,
});

/** Applies the log to an empty state; at the first feature level until its last chapters, or at a later one from its beginning. */
export function applyFixedLog(level: 1 | 2 | 3): LogWriter {
  const log = new LogWriter();
  const founding = level === 1 ? {} : { featureLevel: level };

  log.chapter("members", () => {
    const bootstrap: CommandBody = {
      ...{ kind: "bootstrap", clusterId: "cluster", chunkSizeBytes: 1024 * 1024, formatVersion: 1 },
      ...founding,
    };
    log.say(bootstrap, "");
    log.say(bootstrap, "");
    for (const memberId of [...MEMBER_IDS, 104]) {
      const storeIncarnation = `store-${memberId}`;
      const said = level === 1 ? {} : { featureLevelMax: level };
      const node = registrationOf(memberId, { storeIncarnation, ...said });
      log.say({ kind: "register-node", node }, "");
    }
    const node = registrationOf(104, { storeIncarnation: "store-104", featureLevelMax: 2 });
    log.say({ kind: "register-node", node });
    log.advance(5000);
    log.say({ kind: "advance-clock", elapsedMs: 0 });
    log.say({ kind: "rotate-ticket-key", secret: new Uint8Array(TICKET_KEY_SIZE_BYTES).fill(7) });
    log.say({ kind: "rotate-ticket-key", secret: new Uint8Array(TICKET_KEY_SIZE_BYTES - 1) });
    const lease = { kind: "renew-write-lease", memberId: 101, idCount: 1000 } as const;
    log.say({ ...lease, storeIncarnation: "store-101" });
    log.say({ ...lease, storeIncarnation: "store-before" });
  });

  log.chapter("tree", () => {
    log.say(mkdirBody("/a"));
    log.say(mkdirBody("/a"));
    log.say(mkdirBody("/a", { existOk: true }));
    log.say(mkdirBody("/x/y/z", { createParents: true }));
    log.say(mkdirBody("/none/b"));
    log.say(mkdirBody(`/${"long".repeat(64)}`));
    log.say(mkdirBody(`/${"deep/".repeat(300)}`, { createParents: true }));
    log.say(putBody("/a/f", CONTENT_ID));
    log.say(putBody("/a/f", CONTENT_ID + 1));
    log.say(putBody("/a/f", CONTENT_ID + 1, { onConflict: "rename" }));
    log.say(putBody("/a/f", CONTENT_ID + 2, { onConflict: "replace", precondition: { ifVersions: [1] } }));
    log.say(putBody("/a/f", CONTENT_ID + 2, { onConflict: "replace" }));
    log.say(putBody("/a", CONTENT_ID + 3, { onConflict: "replace" }));
    log.say(putBody("/a/f/g", CONTENT_ID + 3));
    log.say(putBody("/a/g", CONTENT_ID + 3, { precondition: { ifExists: true } }));
    log.say(putBody("/a/f", CONTENT_ID + 3, { onConflict: "replace", precondition: { ifAbsent: true } }));
    log.say(putBody("/a/g", CONTENT_ID + 3, { seals: [] }));
    log.say(putBody("/a/g", 999_999));
    const empty = { sizeBytes: 0, treeHash: sha256(EMPTY), seals: [] };
    log.say(putBody("/empty", CONTENT_ID + 4, empty));
    log.say(putBody("/new/h", CONTENT_ID + 5, { createParents: true, attributes: { mode: 0o600 } }));
    log.say({ kind: "update-entry", at: at("/a/f"), attributes: { mediaType: "text/x" }, precondition: {} });
    log.say({ kind: "update-entry", at: at("/a/none"), attributes: {}, precondition: {} });
    const stale = { ifVersions: [1] };
    log.say({ kind: "update-entry", at: at("/a/f"), attributes: { mode: 1 }, precondition: stale });
    log.say(transferBody("move-entry", "/a/f", "/x/f"));
    log.say(transferBody("move-entry", "/a/none", "/x/g"));
    log.say(transferBody("move-entry", "/x", "/x/y/x"));
    log.say(transferBody("move-entry", "/new/h", "/x/f"));
    log.say(transferBody("move-entry", "/new/h", "/x/y", "replace"));
    log.say(transferBody("move-entry", "/new", "/x/f", "replace"));
    log.say(transferBody("move-entry", "/new/h", "/x/h", "fail", stale));
    log.say(transferBody("copy-entry", "/x", "/copy"));
    log.say(transferBody("copy-entry", "/x/f", "/copy/f"));
    log.say(transferBody("copy-entry", "/x/f", "/copy/f", "rename"));
    log.say(transferBody("copy-entry", "/x/none", "/g"));
    log.say({ kind: "materialise", directoryId: 0, path: [] });
    log.say({ kind: "delete-entry", at: at("/none"), recursive: false, precondition: {} });
    log.say({ kind: "delete-entry", at: at("/x"), recursive: false, precondition: {} });
    log.say({ kind: "delete-entry", at: at("/x"), recursive: true, precondition: stale });
    log.say({ kind: "delete-entry", at: at("/"), recursive: true, precondition: {} });
    log.say({ kind: "delete-entry", at: at("/x"), recursive: true, precondition: {} });
    log.say({ kind: "reclaim" });
  });

  log.chapter("requests", () => {
    log.say(mkdirBody("/once"), "once");
    log.say(mkdirBody("/once"), "once");
    log.say(mkdirBody("/twice"), "once");
    log.say(mkdirBody("/once"), "refused");
    log.say(mkdirBody("/once"), "refused");
    log.say(mkdirBody("/late"), "late", 1);
    log.say(mkdirBody("/early"), "early", REQUEST_RETENTION_MS * 2);
    log.say(mkdirBody("/with-deadline"), "deadline", 20_000);
    log.say(mkdirBody("/improper"), "not a request id");
  });

  log.chapter("uploads", () => {
    const init: BodyOf<"init-upload"> = {
      ...{ kind: "init-upload", at: at("/up"), createParents: false, sizeBytes: LARGE.length },
      ...{ treeHash: EMPTY, onConflict: "fail", attributes: {}, precondition: {} },
      extents: [{ extentIndex: 0, memberIds: MEMBER_IDS }],
    };
    const begun = log.say(init);
    const [uploadId, contentId] = [numberOf(begun, "uploadId"), numberOf(begun, "contentId")];
    log.say({ ...init, at: at("/a") });
    log.say({ ...init, at: at("/none/up") });
    log.say({ ...init, at: at("/instant"), sizeBytes: BYTES.length, treeHash: sha256(BYTES) });
    log.say({ ...init, extents: [] });
    log.say({ kind: "renew-upload", uploadId });
    log.say({ kind: "renew-upload", uploadId: 999 });
    const targets = { extentIndex: 0, memberIds: [101, 102, 104] };
    log.say({ kind: "assign-extent", uploadId, targets });
    log.say({ kind: "assign-extent", uploadId, targets: { ...targets, extentIndex: 7 } });
    const complete: BodyOf<"complete-upload"> = {
      ...{ kind: "complete-upload", uploadId, sizeBytes: LARGE.length, treeHash: sha256(LARGE) },
      ...{ sha256: EMPTY, precondition: {}, onConflict: undefined, put: undefined },
      seals: [101, 102, 104].map((memberId) => sealOf(contentId, memberId, LARGE)),
    };
    log.say({ ...complete, treeHash: sha256(BYTES) });
    log.say({ ...complete, seals: complete.seals.slice(0, 1) });
    log.say({ ...complete, sizeBytes: 5 });
    log.say(complete);
    log.say(complete);
    log.say({ kind: "abort-upload", uploadId });
    const second = log.say({ ...init, at: at("/second") });
    log.say({ kind: "abort-upload", uploadId: numberOf(second, "uploadId") });
    log.say({ kind: "abort-upload", uploadId: 999 });
    log.say({ ...complete, uploadId: numberOf(second, "uploadId") });
    const put = { at: at("/put"), createParents: false, onConflict: "fail", attributes: {} } as const;
    log.say({ ...complete, uploadId: 999, put });
    log.say({ kind: "record-sha256", contentId, sha256: sha256(LARGE) });
    log.say({ kind: "record-sha256", contentId, sha256: sha256(BYTES) });
    log.say({ kind: "record-sha256", contentId: 999, sha256: sha256(BYTES) });
  });

  log.chapter("copies", () => {
    const contentId = CONTENT_ID + 1;
    const key = { contentId, extentIndex: 0 };
    log.say({ kind: "assign-replica", ...key, memberId: 104, replacesMemberId: 101 });
    log.say({ kind: "assign-replica", ...key, memberId: 104, replacesMemberId: 101 });
    log.say({ kind: "assign-replica", ...key, contentId: 999, memberId: 104, replacesMemberId: 0 });
    log.say({ kind: "add-replica", seal: sealOf(contentId, 104, BYTES) });
    log.say({ kind: "add-replica", seal: sealOf(contentId, 104, LARGE) });
    log.say({ kind: "add-replicas", seals: [sealOf(contentId, 104, BYTES), sealOf(999, 104, BYTES)] });
    log.say({ kind: "report-replica", ...key, memberId: 102, finding: "suspect" });
    log.say({ kind: "report-replica", ...key, memberId: 102, finding: "corrupt" });
    log.say({ kind: "report-replica", ...key, memberId: 999, finding: "lost" });
    log.say({ kind: "set-draining", memberId: 103, draining: true });
    log.say({ kind: "set-draining", memberId: 999, draining: true });
    log.say({ kind: "request-scrub" });
    const scrub: BodyOf<"report-scrub"> = {
      ...{ kind: "report-scrub", memberId: 103, storeIncarnation: "store-103", pass: 1, startTimeMs: 1000 },
      ...{ extentCount: 5, bytes: 500, damagedCount: 0 },
    };
    log.say(scrub);
    log.say({ ...scrub, pass: 2, storeIncarnation: "store-before" });
    log.say({ ...scrub, pass: 2, startTimeMs: 10_000_000 });
    log.say({ kind: "declare-lost", memberId: 102, storeIncarnation: "store-102" });
    log.say({ kind: "declare-lost", memberId: 999, storeIncarnation: "store-999" });
    log.say({ kind: "recount" });
    log.say({ kind: "return-store", memberId: 102, storeIncarnation: "store-before" });
    log.say({ kind: "return-store", memberId: 102, storeIncarnation: "store-102" });
    log.say({ kind: "recount" });
    const snapshotId = CONTENT_ID + 6;
    const snapshot: BodyOf<"record-tree-snapshot"> = {
      ...{ kind: "record-tree-snapshot", memberId: 101, contentId: snapshotId, sizeBytes: BYTES.length },
      ...{ treeHash: sha256(BYTES), index: 1, eventIndex: 0, clusterTimeMs: 0 },
      seals: MEMBER_IDS.map((memberId) => sealOf(snapshotId, memberId, BYTES)),
    };
    log.say({ ...snapshot, index: 1_000_000 });
    log.say({ ...snapshot, seals: [] });
    log.say(snapshot);
  });

  log.chapter("tasks", () => {
    const create = (key: string): BodyOf<"create-task"> => ({
      ...{ kind: "create-task", taskKind: "upload", key, parameters: utf8("{}"), plan: undefined },
    });
    const claim = (taskId: number, memberId: number): CommandBody => ({
      ...{ kind: "claim-task", taskId, memberId, leaseMs: TASK_LEASE_MS_MIN },
    });
    const renew = (hold: { readonly taskId: number; readonly fence: number }): BodyOf<"renew-task"> => ({
      ...{ kind: "renew-task", hold, leaseMs: TASK_LEASE_MS_MIN, doneCount: 1, totalCount: 2 },
      findings: { sha256s: [{ contentId: CONTENT_ID + 1, sha256: sha256(BYTES) }] },
    });
    const fail = (
      hold: { readonly taskId: number; readonly fence: number },
      isFinal: boolean,
    ): CommandBody => ({
      ...{ kind: "fail-task", hold, reason: "INTERNAL", message: "no luck", isFinal },
    });
    const { taskId } = holdOf(log.say(create("one")));
    log.say(create("one"));
    log.say(create("k".repeat(5000)));
    log.say({ ...create("planned"), plan: { afterIndex: 0, throughIndex: 10 } });
    log.say({ ...create("planned late"), plan: { afterIndex: 3, throughIndex: 12 } });
    log.say(claim(999, 101));
    const lost = holdOf(log.say(claim(taskId, 101)));
    log.say(claim(taskId, 102));
    log.say(renew(lost));
    log.advance(TASK_LEASE_MS_MIN);
    const held = holdOf(log.say(claim(taskId, 102)));
    log.say({ ...renew(lost), findings: NO_FINDINGS });
    log.say({ kind: "finish-task", hold: lost, result: utf8("late") });
    log.say(fail(lost, false));
    log.say({ kind: "release-task", hold: lost });
    log.say({ kind: "finish-task", hold: held, result: utf8("done") });
    log.say({ kind: "cancel-task", taskId });
    const second = holdOf(log.say(create("two"))).taskId;
    log.say(fail(holdOf(log.say(claim(second, 101))), false));
    log.say(claim(second, 101));
    log.advance(60_000);
    log.say({ kind: "release-task", hold: holdOf(log.say(claim(second, 101))) });
    log.say(fail(holdOf(log.say(claim(second, 103))), true));
    log.say({ kind: "retry-task", taskId: second });
    log.say({ kind: "retry-task", taskId: second });
    log.say({ kind: "cancel-task", taskId: second });
    log.say({ kind: "cancel-task", taskId: 999 });
    const replication: CommandBody = { ...create("moves"), taskKind: "replication" };
    const moving = holdOf(log.say(claim(holdOf(log.say(replication)).taskId, 101)));
    const assignments = [
      { contentId: CONTENT_ID + 2, extentIndex: 0, memberId: 104, replacesMemberId: 102 },
      { contentId: 999, extentIndex: 0, memberId: 104, replacesMemberId: 102 },
    ];
    log.say({ kind: "assign-replicas", hold: moving, assignments });
    log.say({ kind: "assign-replicas", hold: lost, assignments });
    log.advance(TASK_LEASE_MS_MIN);
    log.say({ kind: "expire" });
  });

  log.chapter("membership", () => {
    const tokenHash = sha256(utf8("token"));
    log.say({ kind: "issue-join-token", tokenHash, lifetimeMs: 60_000, replacesMemberId: 0 });
    log.say({ kind: "issue-join-token", tokenHash, lifetimeMs: 60_000, replacesMemberId: 0 });
    log.say({ kind: "issue-join-token", tokenHash, lifetimeMs: 1, replacesMemberId: 0 });
    log.say({
      kind: "issue-join-token",
      tokenHash: sha256(BYTES),
      lifetimeMs: 60_000,
      replacesMemberId: 999,
    });
    const admit: CommandBody = {
      ...{ kind: "admit-member", tokenHash, memberId: 105, nodeId: "node-105" },
      ...{ address: "10.0.0.105:1", isStorageOnly: false },
    };
    log.say({ ...admit, tokenHash: sha256(LARGE) });
    const changeId = numberOf(log.say(admit), "changeId");
    log.say({ ...admit, memberId: 106 });
    log.say({ kind: "transfer-leadership", memberId: 102, leaderId: 101 });
    log.say({ kind: "raise-feature-level", level: 2 });
    log.say({ kind: "end-membership-change", changeId, failure: "it never came" });
    log.say({ kind: "end-membership-change", changeId, failure: "" });
    log.say({ kind: "transfer-leadership", memberId: 999, leaderId: 101 });
    const transfer = log.say({ kind: "transfer-leadership", memberId: 102, leaderId: 101 });
    log.say({ kind: "end-membership-change", changeId: numberOf(transfer, "changeId"), failure: "" });
    log.say({ kind: "remove-member", memberId: 999, isForced: false });
    const removed = log.say({ kind: "remove-member", memberId: 104, isForced: true });
    log.say({ kind: "end-membership-change", changeId: numberOf(removed, "changeId"), failure: "" });
    log.say({ kind: "register-node", node: registrationOf(104, { storeIncarnation: "store-104" }) });
    log.say({ kind: "evict" });
  });

  log.chapter("what is forgotten", () => {
    log.advance(REQUEST_RETENTION_MS + 60_000);
    log.say({ kind: "expire" });
    log.say({ kind: "reclaim" });
    const extents = [{ contentId: CONTENT_ID, extentIndex: 0 }];
    log.say({ kind: "confirm-dropped", memberId: 101, extents });
    log.say({ kind: "confirm-dropped", memberId: 999, extents });
  });

  log.chapter("the level is raised", () => {
    log.say({ kind: "raise-feature-level", level: 2 });
    log.say({ kind: "raise-feature-level", level: 1 });
    const node = registrationOf(103, { storeIncarnation: "store-103", featureLevelMax: 2 });
    log.say({ kind: "register-node", node });
  });

  log.chapter("copies that count no more", () => {
    const idCount = 10;
    const lease = {
      kind: "renew-write-lease",
      memberId: 101,
      storeIncarnation: "store-101",
      idCount,
    } as const;
    const contentId = numberOf(log.say(lease), "firstContentId");
    const key = { contentId, extentIndex: 0 };
    log.say(putBody("/void", contentId));
    log.say({ kind: "register-node", node: registrationOf(106, { storeIncarnation: "store-106" }) });
    log.say({ kind: "assign-replica", ...key, memberId: 106, replacesMemberId: 101 });
    log.say({ kind: "declare-lost", memberId: 102, storeIncarnation: "store-102" });
    log.say({ kind: "add-replica", seal: sealOf(contentId, 106, BYTES) });
    log.say({ kind: "add-replica", seal: sealOf(contentId, 102, BYTES) });
    log.say({ kind: "add-replicas", seals: [sealOf(contentId, 102, BYTES), sealOf(contentId, 103, BYTES)] });
    log.say({ kind: "recount" });
    log.say(putBody("/late", contentId + 1));
    const few = [101, 102].map((memberId) => sealOf(contentId + 2, memberId, BYTES));
    log.say(putBody("/few", contentId + 2, { seals: few }));
  });

  log.chapter("the level is raised further", () => {
    for (const memberId of [...MEMBER_IDS, 106]) {
      const said = { storeIncarnation: `store-${memberId}`, featureLevelMax: 3 };
      log.say({ kind: "register-node", node: registrationOf(memberId, said) });
    }
    log.say({ kind: "raise-feature-level", level: 3 });
    log.say({ kind: "recount" });
  });

  return log;
}
