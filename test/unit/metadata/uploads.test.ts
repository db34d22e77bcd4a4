/** Uploads, small files, leases, replicas and what is dropped: each refusal, each bound, and the counters throughout. */
import { expect } from "chai";
import type { Seal } from "../../../src/drive/content.ts";
import {
  CHUNK_SIZE_BYTES,
  CONTENT_ID_COUNT_MAX,
  CONTENT_SIZE_BYTES_MAX,
  DROP_GRACE_MS,
  EXTENT_SIZE_BYTES_MAX,
  REQUEST_RETENTION_MS,
  TASK_LEASE_MS_MIN,
  UPLOAD_LEASE_MS,
  WRITE_LEASE_MS,
} from "../../../src/drive/limits.ts";
import type { Task } from "../../../src/drive/task.ts";
import type { CommandBody, ResultValue } from "../../../src/metadata/commands.ts";
import {
  contentState,
  counters,
  dropList,
  extentsOf,
  getContent,
  getUpload,
  listExtents,
  pendingWork,
  underReplicated,
  uploadPath,
  writeLease,
} from "../../../src/metadata/view.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { foldTreeHash, sha256 } from "../../../src/std/digest.ts";
import { at, Harness, MEMBER_IDS, present, sealOf } from "./harness.ts";

type Body<Kind extends CommandBody["kind"]> = Extract<CommandBody, { readonly kind: Kind }>;
type Upload = ResultValue & { readonly kind: "upload" };

const EMPTY = new Uint8Array(0);
const BYTES = utf8("twelve bytes");

function initBody(path: string, overrides: Partial<Body<"init-upload">> = {}): Body<"init-upload"> {
  return {
    ...{ kind: "init-upload", at: at(path), createParents: false, sizeBytes: BYTES.length, treeHash: EMPTY },
    ...{
      onConflict: "fail",
      attributes: {},
      precondition: {},
      extents: [{ extentIndex: 0, memberIds: MEMBER_IDS }],
    },
    ...overrides,
  };
}

function init(h: Harness, path: string, overrides: Partial<Body<"init-upload">> = {}): Upload {
  const value = h.ok(initBody(path, overrides));
  if (value.kind !== "upload") throw new Error(value.kind);
  return value;
}

function taskOf(value: ResultValue): Task {
  if (value.kind !== "task") throw new Error(value.kind);
  return value.task;
}

function completeBody(
  upload: Upload,
  overrides: Partial<Body<"complete-upload">> = {},
): Body<"complete-upload"> {
  const seals = MEMBER_IDS.map((memberId) => sealOf(upload.contentId, memberId, BYTES));
  return {
    ...{
      kind: "complete-upload",
      uploadId: upload.uploadId,
      sizeBytes: BYTES.length,
      treeHash: sha256(BYTES),
    },
    ...{ sha256: EMPTY, seals, precondition: {}, onConflict: undefined, put: undefined },
    ...overrides,
  };
}

const seals = (upload: Upload, memberIds: readonly number[]): Seal[] =>
  memberIds.map((memberId) => sealOf(upload.contentId, memberId, BYTES));

describe("uploads", () => {
  let h: Harness;
  beforeEach(() => {
    h = new Harness().bootstrap();
  });

  it("take another answer to a taken name when they are completed", () => {
    const [first, second] = [init(h, "/taken"), init(h, "/taken")];
    h.ok(completeBody(first));
    h.refused("PATH_EXISTS", completeBody(second));
    const done = h.ok(completeBody(second, { onConflict: "rename" }));
    expect(done).to.have.nested.property("entry.name", "taken (2)");
  });

  it("become a file with the upload's id, and completing again answers the same", () => {
    const upload = init(h, "/a/b", { createParents: true });
    expect(getUpload(h.store, upload.uploadId)?.extents).to.deep.equal([
      { extentIndex: 0, memberIds: MEMBER_IDS },
    ]);
    expect(uploadPath(h.store, present(getUpload(h.store, upload.uploadId)))).to.deep.equal(["a", "b"]);
    expect(contentState(h.store, upload.contentId)).to.equal("uploading");

    const entry = h.entry(completeBody(upload));

    expect(entry.entryId).to.equal(upload.uploadId);
    expect(entry.sha256).to.deep.equal(sha256(BYTES));
    expect(h.entry(completeBody(upload))).to.deep.equal(entry);
    expect(contentState(h.store, upload.contentId)).to.equal("committed");
    h.refused("UPLOAD_FINISHED", { kind: "abort-upload", uploadId: upload.uploadId });
    expect(counters(h.store).replicas).to.include({
      extentCount: 1,
      fullyReplicatedCount: 1,
      underReplicatedCount: 0,
    });
  });

  it("follow their folder when it moves, and are refused when it is deleted", () => {
    h.mkdir("/a");
    const [one, two] = [init(h, "/a/1"), init(h, "/a/2")];
    h.move("/a", "/b");
    expect(h.entry(completeBody(one)).parentId).to.equal(h.mkdir("/b", { existOk: true }).entryId);
    h.remove("/b");
    h.refused("PATH_NOT_FOUND", completeBody(two));
  });

  it("are refused with too few equal seals of members that still have their store", () => {
    const upload = init(h, "/f");
    h.refused("SEAL_REJECTED", completeBody(upload, { seals: seals(upload, [101]) }));
    h.refused("SEAL_REJECTED", completeBody(upload, { seals: seals(upload, [101, 101]) }));
    h.refused("SEAL_REJECTED", completeBody(upload, { seals: [] }));
    h.refused("SEAL_REJECTED", completeBody(upload, { seals: seals(upload, [101, 102, 999]) }));
    const other = sealOf(upload.contentId, 102, utf8("eleven byte"));
    h.refused("SEAL_REJECTED", completeBody(upload, { seals: [...seals(upload, [101]), other] }));
    const foreign = sealOf(upload.contentId + 1, 102, BYTES);
    h.refused("SEAL_REJECTED", completeBody(upload, { seals: [...seals(upload, [101, 102]), foreign] }));
    h.register(103, "a new store");
    h.refused("SEAL_REJECTED", completeBody(upload));
    expect(h.entry(completeBody(upload, { seals: seals(upload, [101, 102]) })).sizeBytes).to.equal(
      BYTES.length,
    );
    expect(present(extentsOf(h.store, upload.contentId)[0]).replicas.map((r) => r.state)).to.deep.equal([
      "verified",
      "verified",
      "pending",
    ]);
    expect(underReplicated(h.store, undefined, 10)).to.deep.equal([
      { verifiedCount: 2, contentId: upload.contentId, extentIndex: 0 },
    ]);
  });

  it("are refused when bytes are not as announced", () => {
    const upload = init(h, "/f", { treeHash: sha256(BYTES) });
    h.refused("ARGUMENT_INVALID", completeBody(upload, { sizeBytes: 11 }));
    h.refused("DIGEST_MISMATCH", completeBody(upload, { treeHash: sha256(EMPTY) }));
    const unknown = init(h, "/g", { sizeBytes: undefined });
    h.refused("DIGEST_MISMATCH", completeBody(unknown, { treeHash: sha256(EMPTY) }));
    h.refused("UPLOAD_NOT_FOUND", completeBody({ ...upload, uploadId: 12_345 }));
    h.refused("PAYLOAD_TOO_LARGE", initBody("/h", { sizeBytes: CONTENT_SIZE_BYTES_MAX + 1 }));
    h.refused("ARGUMENT_INVALID", initBody("/h", { treeHash: BYTES }));
    h.refused("ARGUMENT_INVALID", initBody("/h", { extents: [] }));
    h.refused("ARGUMENT_INVALID", initBody("/h", { extents: [{ extentIndex: 0, memberIds: [101] }] }));
    h.refused("ARGUMENT_INVALID", initBody("/h", { extents: [{ extentIndex: 0, memberIds: [101, 999] }] }));
  });

  it("settle names when they are completed; of two replacements with If-Match the second loses", () => {
    const [one, two] = [init(h, "/f"), init(h, "/f", { onConflict: "rename" })];
    const first = h.entry(completeBody(one));
    expect(h.entry(completeBody(two)).name).to.equal("f (2)");
    h.refused("PATH_EXISTS", initBody("/f"));
    const guard = { onConflict: "replace", precondition: { ifVersions: [first.version] } } as const;
    const [three, four] = [init(h, "/f", guard), init(h, "/f", guard)];
    expect(h.entry(completeBody(three)).entryId).to.equal(first.entryId);
    h.refused("VERSION_MISMATCH", completeBody(four));
  });

  it("of several extents fold their roots, and drop what was assigned in vain", () => {
    const sizeBytes = EXTENT_SIZE_BYTES_MAX + BYTES.length;
    const roots = [sha256(utf8("first")), sha256(BYTES)];
    const upload = init(h, "/big", { sizeBytes: undefined });
    h.register(104);
    const assign = (extentIndex: number, memberIds: number[]): CommandBody => ({
      ...{ kind: "assign-extent", uploadId: upload.uploadId, targets: { extentIndex, memberIds } },
    });
    h.ok(assign(1, [101, 102, 104]));
    h.ok(assign(1, [101, 102, 103]));
    h.ok(assign(2, [101, 102]));
    const all = roots.flatMap((root, extentIndex) =>
      MEMBER_IDS.map((memberId) => ({
        ...sealOf(upload.contentId, memberId, BYTES, extentIndex),
        ...{ root, sizeBytes: extentIndex === 0 ? EXTENT_SIZE_BYTES_MAX : BYTES.length },
      })),
    );

    h.ok(completeBody(upload, { sizeBytes, treeHash: foldTreeHash(roots), seals: all }));

    expect(extentsOf(h.store, upload.contentId).map((extent) => extent.sizeBytes)).to.deep.equal([
      EXTENT_SIZE_BYTES_MAX,
      BYTES.length,
    ]);
    expect(dropList(h.store, 104, 10)).to.deep.equal([{ contentId: upload.contentId, extentIndex: 1 }]);
    expect(dropList(h.store, 101, 10)).to.deep.equal([{ contentId: upload.contentId, extentIndex: 2 }]);
    const small = h.put("/small");
    const walked = [
      ...listExtents(h.store, undefined, 2),
      ...listExtents(h.store, { contentId: upload.contentId, extentIndex: 1 }, 5),
    ];
    expect(walked.map((each) => [each.contentId, each.extent.extentIndex])).to.deep.equal([
      [upload.contentId, 0],
      [upload.contentId, 1],
      [small.contentId, 0],
    ]);
  });

  it("share equal bytes at once", () => {
    const first = h.entry(completeBody(init(h, "/f")));
    const upload = init(h, "/g", { treeHash: sha256(BYTES) });

    expect(upload.entry?.contentId).to.equal(first.contentId);
    expect(upload.entry?.entryId).to.equal(upload.uploadId);
    expect(h.entry(completeBody(upload)).contentId).to.equal(first.contentId);
    expect(getContent(h.store, first.contentId)?.referenceCount).to.equal(2);
    expect(counters(h.store)).to.include({ contentBytes: BYTES.length, openUploadCount: 0 });
    h.ok({
      kind: "report-replica",
      contentId: first.contentId,
      extentIndex: 0,
      memberId: 101,
      finding: "corrupt",
    });
    h.ok({
      kind: "report-replica",
      contentId: first.contentId,
      extentIndex: 0,
      memberId: 102,
      finding: "corrupt",
    });
    expect(init(h, "/h", { treeHash: sha256(BYTES) }).entry).to.equal(undefined);
  });

  it("expire after their last sign of life, are remembered, and leave nothing behind", () => {
    const upload = init(h, "/f");
    const aborted = init(h, "/g");
    h.ok({ kind: "abort-upload", uploadId: aborted.uploadId });
    h.refused("UPLOAD_NOT_FOUND", completeBody(aborted));
    h.advance(UPLOAD_LEASE_MS - 1);
    const renewed = h.ok({ kind: "renew-upload", uploadId: upload.uploadId });
    expect(renewed).to.include({ expireTimeMs: 2 * UPLOAD_LEASE_MS - 1 });
    h.advance(UPLOAD_LEASE_MS);
    expect(pendingWork(h.store).expirable).to.equal(true);
    h.refused("UPLOAD_EXPIRED", completeBody(upload));
    h.drain("expire");
    h.refused("UPLOAD_EXPIRED", completeBody(upload));
    h.advance(Math.max(REQUEST_RETENTION_MS, DROP_GRACE_MS));
    h.drain("expire");
    h.refused("UPLOAD_NOT_FOUND", completeBody(upload));
    const dropped = [aborted.contentId, upload.contentId].map((contentId) => ({ contentId, extentIndex: 0 }));
    const sorted = dropped.toSorted((a, b) => a.contentId - b.contentId);
    for (const memberId of MEMBER_IDS) expect(dropList(h.store, memberId, 10)).to.deep.equal(sorted);
    h.ok({ kind: "confirm-dropped", memberId: 101, extents: sorted });
    expect(dropList(h.store, 101, 10)).to.deep.equal([]);
    expect(contentState(h.store, upload.contentId)).to.equal("unknown");
    expect(counters(h.store).openUploadCount).to.equal(0);
  }).timeout(20_000);

  it("are bounded in number, and members are", () => {
    const small = new Harness({ uploadCountMax: 2, memberCountMax: 3 }).bootstrap();
    init(small, "/a");
    init(small, "/b");
    small.refused("OVERLOADED", initBody("/c"));
    const node = {
      nodeId: "n",
      storeIncarnation: "s",
      address: "a:1",
      httpUrl: "",
      publicUrl: "",
      zone: "",
      isStorageOnly: false,
    };
    small.refused("OVERLOADED", { kind: "register-node", node: { ...node, memberId: 104 } });
    small.register(103, "again");
  });
});

describe("an upload with a target that is given up meanwhile", () => {
  const lost = { kind: "declare-lost", memberId: 102, storeIncarnation: "store-102" } as const;

  it("is completed by two others that sealed, and lacks a copy from the first moment on", () => {
    const h = new Harness().bootstrap(3);
    const upload = init(h, "/up");
    h.ok(lost);
    for (; pendingWork(h.store).recountable;) h.ok({ kind: "recount" });

    h.ok(completeBody(upload));

    const states = extentsOf(h.store, upload.contentId).flatMap(({ replicas }) =>
      replicas.map((each) => each.state),
    );
    expect(states).to.deep.equal(["verified", "lost", "verified"]);
    expect(counters(h.store).replicas).to.include({ underReplicatedCount: 1, lostCount: 1 });
  });

  it("is not completed by it and one other, and is once a third has sealed", () => {
    const h = new Harness().bootstrap(3);
    const upload = init(h, "/up");
    h.ok(lost);

    h.refused("SEAL_REJECTED", completeBody(upload, { seals: seals(upload, [101, 102]) }));
    h.ok(completeBody(upload, { seals: seals(upload, [101, 103]) }));

    const copies = extentsOf(h.store, upload.contentId).flatMap(({ replicas }) => replicas);
    expect(copies.map(({ memberId, state }) => `${memberId} ${state}`)).to.deep.equal([
      ...["101 verified", "103 verified", "102 pending"],
    ]);
  });
});

describe("small files", () => {
  it("need a lease on their id that has not expired and an id never used", () => {
    const h = new Harness().bootstrap();
    h.refused("SEAL_REJECTED", {
      kind: "renew-write-lease",
      memberId: 101,
      storeIncarnation: "old",
      idCount: 1,
    });
    const tooMany = { memberId: 101, storeIncarnation: "store-101", idCount: CONTENT_ID_COUNT_MAX + 1 };
    h.refused("ARGUMENT_INVALID", { kind: "renew-write-lease", ...tooMany });
    expect(h.lease(CONTENT_ID_COUNT_MAX).idCount).to.equal(CONTENT_ID_COUNT_MAX);
    const body = h.putBody("/f");
    expect(contentState(h.store, body.contentId)).to.equal("leased");
    h.refused("SEAL_REJECTED", { ...body, memberId: 102 });
    h.refused("SEAL_REJECTED", { ...body, contentId: body.contentId + 1_000_000 });
    h.ok(body);
    h.refused("SEAL_REJECTED", { ...body, at: at("/g") });
    const next = h.putBody("/g");
    h.advance(WRITE_LEASE_MS);
    h.refused("SEAL_REJECTED", next);
    expect(contentState(h.store, next.contentId)).to.equal("unknown");
    h.lease(1);
    h.refused("SEAL_REJECTED", next);
    expect(writeLease(h.store, 101)?.blocks.length).to.equal(1);
  });

  it("have two equal seals, right bytes and at most one chunk; empty ones have none", () => {
    const h = new Harness().bootstrap();
    const body = h.putBody("/f");
    h.refused("SEAL_REJECTED", { ...body, seals: body.seals.slice(0, 1) });
    h.refused("DIGEST_MISMATCH", { ...body, treeHash: sha256(EMPTY) });
    h.refused("SEAL_REJECTED", { ...body, sizeBytes: CHUNK_SIZE_BYTES });
    h.refused("PAYLOAD_TOO_LARGE", { ...body, sizeBytes: CHUNK_SIZE_BYTES + 1 });
    h.ok({ ...body, seals: body.seals.slice(0, 2) });
    const empty = h.put("/empty", { text: "" });
    expect(empty.sha256).to.deep.equal(sha256(EMPTY));
    expect(extentsOf(h.store, empty.contentId)).to.deep.equal([]);
    h.remove("/empty");
    h.advance(DROP_GRACE_MS);
    h.drain("expire");
    expect(getContent(h.store, empty.contentId)).to.equal(undefined);
  });
});

describe("a cluster of one member", () => {
  it("takes one seal, until a second member has registered", () => {
    const h = new Harness();
    h.register(101);
    expect(h.put("/f", { memberIds: [101] }).name).to.equal("f");
    const next = h.putBody("/g", { memberIds: [101] });
    h.register(102);
    h.refused("SEAL_REJECTED", next);
  });
});

describe("replicas", () => {
  it("are added, suspected, replaced and dropped, with every counter and index right", () => {
    const h = new Harness().bootstrap();
    h.register(104);
    const { contentId } = h.put("/f", { text: "x" });
    const key = { contentId, extentIndex: 0 };
    const states = (): string[] =>
      present(extentsOf(h.store, contentId)[0]).replicas.map((r) => `${r.memberId} ${r.state}`);

    h.ok({ kind: "report-replica", ...key, memberId: 101, finding: "corrupt" });
    expect(counters(h.store).replicas).to.include({
      underReplicatedCount: 1,
      corruptCount: 1,
      suspectCount: 0,
    });
    h.ok({ kind: "assign-replica", ...key, memberId: 104, replacesMemberId: 101 });
    // The damaged copy stays until three others are verified: it may hold the last good bytes of some chunk.
    expect(states()).to.deep.equal(["101 corrupt", "102 verified", "103 verified", "104 pending"]);
    expect(dropList(h.store, 101, 10)).to.deep.equal([]);
    h.refused("SEAL_REJECTED", { kind: "add-replica", seal: sealOf(contentId, 104, utf8("y")) });
    h.refused("CHUNK_NOT_FOUND", { kind: "add-replica", seal: sealOf(contentId + 1, 104, utf8("x")) });
    h.refused("ARGUMENT_INVALID", { kind: "assign-replica", ...key, memberId: 999, replacesMemberId: 0 });
    h.ok({ kind: "add-replica", seal: sealOf(contentId, 104, utf8("x")) });
    expect(counters(h.store).replicas).to.include({ fullyReplicatedCount: 1, corruptCount: 0 });

    expect(states()).to.deep.equal(["102 verified", "103 verified", "104 verified"]);
    expect(dropList(h.store, 101, 10)).to.deep.equal([key]);

    // Rebalancing: a verified copy stays until its replacement is verified.
    h.ok({ kind: "assign-replica", ...key, memberId: 101, replacesMemberId: 104 });
    expect(dropList(h.store, 101, 10)).to.deep.equal([]);
    expect(states()).to.include("104 verified");
    expect(counters(h.store).replicas).to.include({ fullyReplicatedCount: 1, movingCount: 1 });
    expect(underReplicated(h.store, undefined, 10)).to.deep.equal([{ verifiedCount: 3, ...key }]);
    h.ok({ kind: "add-replica", seal: sealOf(contentId, 101, utf8("x")) });
    expect(states()).to.deep.equal(["102 verified", "103 verified", "101 verified"]);
    expect(dropList(h.store, 104, 10)).to.deep.equal([key]);
  });

  it("are added many at once, and one that is refused does not keep the others out", () => {
    const h = new Harness({ batchItemCountMax: 3 }).bootstrap();
    h.register(104);
    const ids = ["a", "b"].map((name) => h.put(`/${name}`, { text: name }).contentId);
    for (const contentId of ids) {
      h.ok({ kind: "assign-replica", contentId, extentIndex: 0, memberId: 104, replacesMemberId: 101 });
    }
    const good = ids.map((contentId, at) => sealOf(contentId, 104, utf8("ab"[at] ?? "")));
    const wrong = sealOf(ids[0] ?? 0, 104, utf8("other bytes"));
    const unknown = sealOf(999, 104, utf8("a"));

    h.refused("ARGUMENT_INVALID", { kind: "add-replicas", seals: [wrong, unknown, ...good] });
    expect(h.ok({ kind: "add-replicas", seals: [wrong, unknown, present(good[0])] })).to.include({
      itemCount: 1,
    });
    expect(h.ok({ kind: "add-replicas", seals: good })).to.include({ itemCount: 2 });
    expect(counters(h.store).replicas).to.include({ fullyReplicatedCount: 2, movingCount: 0 });
    expect(dropList(h.store, 101, 10).map(({ contentId }) => contentId)).to.deep.equal(ids);
  });

  it("are assigned many at once by who holds the task, and by nobody who has lost it", () => {
    const h = new Harness({ batchItemCountMax: 2 }).bootstrap();
    h.register(104);
    const { contentId } = h.put("/f", { text: "x" });
    const { taskId } = taskOf(
      h.ok({
        kind: "create-task",
        taskKind: "replication",
        key: "",
        parameters: utf8("{}"),
        plan: undefined,
      }),
    );
    const claim = { kind: "claim-task", taskId, memberId: 101, leaseMs: TASK_LEASE_MS_MIN } as const;
    const first = { taskId, fence: taskOf(h.ok(claim)).fence };
    const good = { contentId, extentIndex: 0, memberId: 104, replacesMemberId: 101 };
    const gone = { ...good, contentId: 999 };

    h.refused("ARGUMENT_INVALID", { kind: "assign-replicas", hold: first, assignments: [gone, gone, good] });
    h.advance(TASK_LEASE_MS_MIN);
    const second = { taskId, fence: taskOf(h.ok(claim)).fence };
    h.refused("TASK_CLAIM_LOST", { kind: "assign-replicas", hold: first, assignments: [good] });
    expect(counters(h.store).replicas).to.include({ movingCount: 0 });
    const answer = h.ok({ kind: "assign-replicas", hold: second, assignments: [gone, good] });
    expect(answer).to.include({ itemCount: 1 });
    expect(counters(h.store).replicas).to.include({ movingCount: 1 });
  });

  it("never lose the last copy, however suspect", () => {
    const h = new Harness().bootstrap();
    h.register(104);
    const { contentId } = h.put("/f", { text: "x" });
    const key = { contentId, extentIndex: 0 };
    for (const memberId of MEMBER_IDS) h.ok({ kind: "report-replica", ...key, memberId, finding: "corrupt" });
    h.ok({ kind: "assign-replica", ...key, memberId: 104, replacesMemberId: 101 });
    expect(present(extentsOf(h.store, contentId)[0]).replicas.length).to.equal(4);
    expect(underReplicated(h.store, undefined, 10)[0]?.verifiedCount).to.equal(0);
    expect(underReplicated(h.store, { verifiedCount: 0, ...key }, 10)).to.deep.equal([]);
  });

  it("are dropped after the grace when the last reference goes, and a SHA-256 is kept once", () => {
    const h = new Harness().bootstrap();
    const { contentId } = h.put("/f", { text: "x" });
    h.copy("/f", "/g");
    h.ok({ kind: "record-sha256", contentId, sha256: sha256(BYTES) });
    h.refused("DIGEST_MISMATCH", { kind: "record-sha256", contentId, sha256: sha256(EMPTY) });
    h.refused("ARGUMENT_INVALID", { kind: "record-sha256", contentId, sha256: EMPTY });
    h.remove("/f");
    expect(contentState(h.store, contentId)).to.equal("committed");
    h.remove("/g");
    expect(contentState(h.store, contentId)).to.equal("dropping");
    h.advance(DROP_GRACE_MS - 1);
    h.drain("expire");
    expect(dropList(h.store, 101, 10)).to.deep.equal([]);
    h.advance(1);
    h.drain("expire");
    expect(dropList(h.store, 101, 10)).to.deep.equal([{ contentId, extentIndex: 0 }]);
    expect(counters(h.store).replicas.extentCount).to.equal(0);
    h.refused("CHUNK_NOT_FOUND", { kind: "record-sha256", contentId, sha256: sha256(BYTES) });
  });
});
