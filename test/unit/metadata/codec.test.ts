/**
 * Goal: what codec.ts and records.ts write is the protobuf of the schemas. Method: every kind of command, result and record, with
 * every field set, goes through the generated code and back; the generated code must know every field.
 */
import { fromBinary, toBinary, type DescMessage, type Message } from "@bufbuild/protobuf";
import { expect } from "chai";
import {
  MetadataCommandSchema,
  MetadataResultSchema,
  StoredChangeSchema,
} from "../../../gen/netdisk/storage/v1/metadata_pb.ts";
import * as gen from "../../../gen/netdisk/storage/v1/metadata_records_pb.ts";
import * as tasks from "../../../gen/netdisk/storage/v1/metadata_tasks_pb.ts";
import type { Seal } from "../../../src/drive/content.ts";
import type { Entry } from "../../../src/drive/entry.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { FEATURE_LEVEL_FIRST } from "../../../src/drive/feature-levels.ts";
import type { Task } from "../../../src/drive/task.ts";
import { decodeCommand, decodeResult, encodeCommand, encodeResult } from "../../../src/metadata/codec.ts";
import { levelNeeded } from "../../../src/metadata/command-level.ts";
import type { CommandBody, CommandResult } from "../../../src/metadata/commands.ts";
import * as records from "../../../src/metadata/records.ts";
import * as taskRecords from "../../../src/metadata/task-records.ts";
import type { Codec } from "../../../src/metadata/wire.ts";

const BIG = Number.MAX_SAFE_INTEGER;
const digest = new Uint8Array(32).map((_, i) => i + 1);
const at = { baseId: 1, path: ["a", "文件", "x".repeat(200)] };
const attributes = { modifyTimeMs: -5, mode: 0, mediaType: "" };
const precondition = { ifVersions: [1, BIG], ifExists: false, ifAbsent: true };
const seal: Seal = {
  extent: { contentId: BIG, extentIndex: 3 },
  sizeBytes: 7,
  root: digest,
  memberId: BIG,
  storeIncarnation: "s",
};
const node = {
  memberId: BIG,
  nodeId: "n",
  storeIncarnation: "s",
  address: "a",
  httpUrl: "h",
  publicUrl: "p",
  zone: "z",
  isStorageOnly: true,
  featureLevelMax: 2,
};
const entry: Entry = {
  ...{
    entryId: BIG,
    parentId: 2,
    name: "n",
    kind: "directory",
    version: 3,
    sizeBytes: 4,
    contentId: 5,
    treeHash: digest,
  },
  ...{
    sha256: digest,
    mediaType: "text/plain",
    mode: 0o644,
    modifyTimeMs: -1_700_000_000_000,
    createTimeMs: 1,
  },
};

const bodies: CommandBody[] = [
  { kind: "bootstrap", clusterId: "c", chunkSizeBytes: 1, formatVersion: 2, featureLevel: 3 },
  { kind: "raise-feature-level", level: 2 },
  { kind: "advance-clock", elapsedMs: 3 },
  { kind: "register-node", node },
  { kind: "renew-write-lease", memberId: 1, storeIncarnation: "s", idCount: 2 },
  { kind: "create-directory", at, createParents: true, existOk: true, attributes, precondition },
  { kind: "move-entry", source: at, to: { baseId: 2, path: [] }, onConflict: "rename", precondition },
  { kind: "copy-entry", source: at, to: at, onConflict: "fail", precondition },
  { kind: "delete-entry", at, recursive: true, precondition },
  { kind: "update-entry", at, attributes, precondition },
  {
    ...{
      kind: "init-upload",
      at,
      createParents: true,
      sizeBytes: 0,
      treeHash: digest,
      onConflict: "replace",
      attributes,
    },
    ...{ precondition, extents: [{ extentIndex: 0, memberIds: [1, BIG] }] },
  },
  { kind: "renew-upload", uploadId: 1 },
  { kind: "assign-extent", uploadId: 1, targets: { extentIndex: 2, memberIds: [3] } },
  {
    kind: "complete-upload",
    uploadId: 1,
    sizeBytes: 2,
    treeHash: digest,
    sha256: digest,
    seals: [seal, seal],
    ...{
      precondition,
      onConflict: "rename",
      put: { at, createParents: true, onConflict: "fail", attributes },
    },
  },
  { kind: "abort-upload", uploadId: 1 },
  {
    ...{
      kind: "put-small",
      at,
      createParents: true,
      onConflict: "fail",
      attributes,
      precondition,
      memberId: 1,
    },
    ...{ contentId: 2, sizeBytes: 3, treeHash: digest, seals: [seal] },
  },
  { kind: "add-replica", seal },
  { kind: "add-replicas", seals: [seal, seal] },
  {
    kind: "assign-replicas",
    hold: { taskId: 1, fence: BIG },
    assignments: [{ contentId: BIG, extentIndex: 2, memberId: 3, replacesMemberId: 4 }],
  },
  { kind: "assign-replica", contentId: 1, extentIndex: 2, memberId: 3, replacesMemberId: 4 },
  { kind: "report-replica", contentId: 1, extentIndex: 2, memberId: 3, finding: "lost" },
  { kind: "declare-lost", memberId: 1, storeIncarnation: "s" },
  { kind: "return-store", memberId: 1, storeIncarnation: "s" },
  {
    ...{ kind: "report-scrub", memberId: 1, storeIncarnation: "s", pass: 2, startTimeMs: 3 },
    ...{ extentCount: 4, bytes: BIG, damagedCount: 5 },
  },
  { kind: "set-draining", memberId: 1, draining: true },
  {
    ...{ kind: "record-tree-snapshot", memberId: 1, contentId: BIG, sizeBytes: 3, treeHash: digest },
    ...{ seals: [seal], index: 4, eventIndex: 5, clusterTimeMs: BIG },
  },
  { kind: "recount" },
  { kind: "request-scrub" },
  { kind: "record-sha256", contentId: 1, sha256: digest },
  { kind: "expire" },
  { kind: "reclaim" },
  { kind: "materialise", directoryId: 1, path: ["a"] },
  { kind: "confirm-dropped", memberId: 1, extents: [{ contentId: 2, extentIndex: 3 }] },
  { kind: "issue-join-token", tokenHash: digest, lifetimeMs: 1, replacesMemberId: BIG },
  { kind: "admit-member", tokenHash: digest, memberId: BIG, nodeId: "n", address: "a", isStorageOnly: true },
  { kind: "remove-member", memberId: BIG, isForced: true },
  { kind: "transfer-leadership", memberId: BIG, leaderId: 2 },
  { kind: "end-membership-change", changeId: BIG, failure: "f" },
  { kind: "evict" },
  {
    ...{ kind: "create-task", taskKind: "download", key: "k", parameters: digest },
    plan: { afterIndex: 1, throughIndex: BIG },
  },
  { kind: "claim-task", taskId: BIG, memberId: 2, leaseMs: 3 },
  {
    ...{ kind: "renew-task", hold: { taskId: 1, fence: BIG }, leaseMs: 2, doneCount: 3, totalCount: 4 },
    findings: {
      sha256s: [{ contentId: BIG, sha256: digest }],
    },
  },
  { kind: "finish-task", hold: { taskId: 1, fence: 2 }, result: digest },
  { kind: "fail-task", hold: { taskId: 1, fence: 2 }, reason: "r", message: "m", isFinal: true },
  { kind: "release-task", hold: { taskId: 1, fence: 2 } },
  { kind: "retry-task", taskId: BIG },
  { kind: "cancel-task", taskId: BIG },
  { kind: "rotate-ticket-key", secret: digest },
];

const task: Task = {
  ...{ taskId: BIG, kind: "replication", state: "failed", key: "k", attemptCount: 1, attemptCountMax: 2 },
  ...{ fence: BIG, memberId: 3, dueTimeMs: 4, progress: { doneCount: 5, totalCount: 6 } },
  ...{ createTimeMs: 7, updateTimeMs: 8, parameters: digest, result: digest },
  error: { reason: "r", message: "m" },
};

const results: CommandResult[] = [
  { outcome: "applied", index: BIG, value: { kind: "none" } },
  { outcome: "applied", index: 1, value: { kind: "entry", entry, path: ["a", "b"] } },
  {
    outcome: "applied",
    index: 1,
    value: { kind: "upload", uploadId: 1, contentId: 2, expireTimeMs: 3, entry },
  },
  {
    outcome: "applied",
    index: 1,
    value: { kind: "upload", uploadId: 1, contentId: 2, expireTimeMs: 3, entry: undefined },
  },
  {
    outcome: "applied",
    index: 1,
    value: { kind: "write-lease", expireTimeMs: 1, firstContentId: 2, idCount: 3 },
  },
  { outcome: "applied", index: 1, value: { kind: "batch", itemCount: 1, more: true } },
  { outcome: "applied", index: 1, value: { kind: "membership", changeId: 1, expireTimeMs: 2 } },
  { outcome: "applied", index: 1, value: { kind: "task", task } },
  { outcome: "rejected", index: 1, reason: "PATH_NOT_FOUND", message: "m", metadata: { path: "/a", b: "" } },
];

// The bytes after a pass through the generated code, which must know every field of them.
function throughGenerated(schema: DescMessage, bytes: Uint8Array): Uint8Array {
  const message = fromBinary(schema, bytes);
  const visit = (value: unknown): void => {
    if (typeof value !== "object" || value === null || value instanceof Uint8Array) return;
    expect((value as Message).$unknown, JSON.stringify(Object.keys(value))).to.equal(undefined);
    for (const each of Object.values(value)) visit(each);
  };
  visit(message);
  return toBinary(schema, message);
}

// Uint8Array and Buffer hold the same bytes and are equal here.
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, plain(each)]));
}

describe("encodeCommand()", () => {
  it("gives bytes that encoding the next command leaves as they are, whatever their size", () => {
    const commands = [1, 20, 200, 2_000].map((count) => ({
      requestId: "",
      deadlineMs: 0,
      wallTimeMs: count,
      body: {
        kind: "confirm-dropped" as const,
        memberId: 7,
        extents: Array.from({ length: count }, (_, extentIndex) => ({ contentId: count, extentIndex })),
      },
    }));
    const encoded = commands.map((command) => encodeCommand(command));

    expect(encoded.map((bytes) => decodeCommand(bytes))).to.deep.equal(commands);
  });

  for (const body of bodies) {
    it(`writes ${body.kind} as the schema says`, () => {
      const command = { requestId: "r", deadlineMs: BIG, wallTimeMs: -1, body };

      const bytes = encodeCommand(command);

      // What it needs is written too, where that is more than the first level.
      const level = levelNeeded(body);
      const written = level === FEATURE_LEVEL_FIRST ? command : { ...command, featureLevel: level };
      expect(plain(decodeCommand(bytes))).to.deep.equal(plain(written));
      expect(plain(decodeCommand(throughGenerated(MetadataCommandSchema, bytes)))).to.deep.equal(
        plain(written),
      );
    });
  }

  it("writes a registration without a feature level as versions did before there were levels", () => {
    const { featureLevelMax: _, ...former } = node;
    const body: CommandBody = { kind: "register-node", node: former };
    const bytes = encodeCommand({ requestId: "", deadlineMs: 0, wallTimeMs: 0, body });
    const { featureLevel, body: generated } = fromBinary(MetadataCommandSchema, bytes);
    const registered = generated.case === "registerNode" ? generated.value.node : undefined;

    expect(featureLevel).to.equal(undefined);
    expect(registered?.featureLevelMax).to.equal(undefined);
    expect(registered?.nodeId).to.equal(node.nodeId);
  });

  it("says of a command that it does not know that a newer version is needed, and of which level", () => {
    // Field 3000, as a kind of the future would have; and one that says its level.
    const unknown = Uint8Array.of(0xc2, 0xbb, 0x01, 0x00);
    const withLevel = Uint8Array.of(0x20, 0x09, ...unknown);

    for (const bytes of [unknown, withLevel]) {
      expect(() => decodeCommand(bytes))
        .to.throw(DriveError, /newer version/)
        .with.property("reason", "VERSION_UNSUPPORTED");
    }
    expect(() => decodeCommand(withLevel)).to.throw("feature level 9");
  });

  it("tells an empty list of versions from none", () => {
    const body: CommandBody = {
      kind: "delete-entry",
      at,
      recursive: false,
      precondition: { ifVersions: [] },
    };
    const decoded = decodeCommand(encodeCommand({ requestId: "", deadlineMs: 0, wallTimeMs: 0, body })).body;

    expect(decoded.kind === "delete-entry" ? decoded.precondition.ifVersions : undefined).to.deep.equal([]);
  });

  it("refuses bytes that are cut off or of no known kind", () => {
    const bytes = encodeCommand({
      requestId: "r",
      deadlineMs: 0,
      wallTimeMs: 0,
      body: bodies[4] as CommandBody,
    });
    for (const end of [0, 3, bytes.length - 1])
      expect(() => decodeCommand(bytes.subarray(0, end))).to.throw();
  });
});

describe("encodeResult()", () => {
  for (const [i, result] of results.entries()) {
    it(`writes result ${i} (${result.outcome === "applied" ? result.value.kind : result.reason}) as the schema says`, () => {
      const bytes = encodeResult(result);

      expect(plain(decodeResult(bytes))).to.deep.equal(plain(result));
      expect(plain(decodeResult(throughGenerated(MetadataResultSchema, bytes)))).to.deep.equal(plain(result));
    });
  }
});

describe("records", () => {
  const extent: records.ExtentRecord = {
    ...{ sizeBytes: 1, root: digest },
    replicas: [{ memberId: BIG, state: "lost", replacesMemberId: 7, storeGeneration: 8, verifyTimeMs: 9 }],
  };
  const state = Object.fromEntries(
    Object.keys(records.stateCodec.decode(new Uint8Array(0))).map((name, i) => [name, i + 1]),
  ) as unknown as records.StateRecord;
  const { parentId: _parentId, name: _name, sha256: _sha256, ...row } = entry;
  const upload: records.UploadRecord = {
    ...{
      state: "expired",
      contentId: 1,
      parentId: 2,
      name: "n",
      sizeBytes: 3,
      treeHash: digest,
      onConflict: "rename",
    },
    ...{ attributes, precondition, expireTimeMs: 4, entry, path: ["a"] },
  };
  const content = {
    sizeBytes: 1,
    treeHash: digest,
    sha256: digest,
    referenceCount: 2,
    extentCount: 3,
    weakExtentCount: 4,
    extent,
  };
  const cases: [string, DescMessage, Codec<never>, object][] = [
    ["StateRecord", gen.StateRecordSchema, records.stateCodec as never, state],
    [
      "ClusterRecord",
      gen.ClusterRecordSchema,
      records.clusterCodec as never,
      { clusterId: "c", chunkSizeBytes: 1, formatVersion: 2 },
    ],
    ["EntryRecord", gen.EntryRecordSchema, records.entryRecordCodec as never, row],
    ["ExtentRecord", gen.ExtentRecordSchema, records.extentCodec as never, extent],
    ["ContentRecord", gen.ContentRecordSchema, records.contentCodec as never, content],
    ["UploadRecord", gen.UploadRecordSchema, records.uploadCodec as never, upload],
    [
      "TargetsRecord",
      gen.TargetsRecordSchema,
      records.targetsCodec as never,
      { memberIds: [1], formerMemberIds: [2, 300] },
    ],
    [
      "TreeSnapshotRecord",
      gen.TreeSnapshotRecordSchema,
      records.treeSnapshotCodec as never,
      { contentId: BIG, sizeBytes: 2, eventIndex: 3, clusterTimeMs: 4, wallTimeMs: -5 },
    ],
    ["DropRecord", gen.DropRecordSchema, records.dropCodec as never, { uploadId: 1 }],
    [
      "RequestRecord",
      gen.RequestRecordSchema,
      records.requestCodec as never,
      { expireTimeMs: 1, result: digest, fingerprint: digest.subarray(0, 16) },
    ],
    [
      "LeaseRecord",
      gen.LeaseRecordSchema,
      records.leaseCodec as never,
      { storeIncarnation: "s", expireTimeMs: 1, blocks: [{ firstContentId: 1, idCount: 2 }] },
    ],
    [
      "CopyRecord",
      gen.CopyRecordSchema,
      records.copyCodec as never,
      { sourceId: 1, cursor: digest, copyIndex: 2, copyTimeMs: -3 },
    ],
    [
      "JoinTokenRecord",
      gen.JoinTokenRecordSchema,
      records.joinTokenCodec as never,
      { expireTimeMs: 1, replacesMemberId: 2, usedByMemberId: 3, changeId: 4 },
    ],
    [
      "MembershipChangeRecord",
      gen.MembershipChangeRecordSchema,
      records.membershipChangeCodec as never,
      {
        ...{ changeId: 1, kind: "transfer", memberId: 2, formerMemberId: BIG, nodeId: "n", address: "a" },
        ...{ isForced: true, startTimeMs: 3, hasEnded: true, failure: "f", isStorageOnly: true },
      },
    ],
    [
      "RemovedMemberRecord",
      gen.RemovedMemberRecordSchema,
      records.removedMemberCodec as never,
      { nodeId: "n", index: 1, wallTimeMs: -2 },
    ],
    [
      "EvictionRecord",
      gen.EvictionRecordSchema,
      records.evictionCodec as never,
      { contentId: 1, extentIndex: 2, endContentId: BIG },
    ],
    ["TaskRecord", tasks.TaskRecordSchema, taskRecords.taskCodec as never, task],
    [
      "TaskTotals",
      tasks.TaskTotalsSchema,
      taskRecords.taskTotalsCodec as never,
      { nextTaskId: BIG, counts: [0, 1, BIG], plannedIndex: 3 },
    ],
    [
      "TicketKeysRecord",
      gen.TicketKeysRecordSchema,
      records.ticketKeysCodec as never,
      { keys: [{ keyId: 1, secret: new Uint8Array(32).fill(7), startTimeMs: BIG }] },
    ],
    [
      "StoredChange",
      StoredChangeSchema,
      records.feedCodec as never,
      { index: 1, position: 2, kind: "moved", entry, previous: { parentId: 1, name: "n" } },
    ],
  ];
  for (const [name, schema, codec, value] of cases) {
    it(`writes ${name} as the schema says`, () => {
      const bytes = codec.encode(value as never);

      expect(plain(codec.decode(throughGenerated(schema, bytes)))).to.deep.equal(plain(value));
    });
  }
});
