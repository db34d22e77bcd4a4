/**
 * Commands and results as bytes: what goes into the Raft log and back to the proposer.
 *
 * Schema: proto/netdisk/storage/v1/metadata.proto, for ever. Decoding a committed command that is damaged is an
 * AssertionError. Also holds the codecs of the vocabulary that commands share with records.ts.
 */
import type { Change } from "../drive/change.ts";
import type { Seal } from "../drive/content.ts";
import type { Entry, EntryAttributes, Locator, OnConflict, Precondition } from "../drive/entry.ts";
import { DriveError, isErrorReason } from "../drive/errors.ts";
import { FEATURE_LEVEL_FIRST } from "../drive/feature-levels.ts";
import { assert, must } from "../std/assert.ts";
import { levelNeeded } from "./command-level.ts";
import type {
  Applied,
  Command,
  CommandBody,
  CommandKind,
  CommandResult,
  ExtentTargets,
  NodeRegistration,
  PutIntent,
  Rejected,
  ResultValue,
} from "./commands.ts";
import { TASK_BODIES, taskCodec } from "./task-records.ts";
import {
  bool,
  bytes,
  inner,
  mapped,
  message,
  oneOf,
  optionalBool,
  optionalInner,
  optionalSint,
  optionalText,
  optionalUint,
  repeatedInner,
  repeatedText,
  repeatedUint,
  sint,
  text,
  textMap,
  uint,
  type Codec,
  type Field,
} from "./wire.ts";

/** An entry whole, as results and events carry it. */
export const entryCodec: Codec<Entry> = message<Entry>({
  entryId: uint(1),
  parentId: uint(2),
  name: text(3),
  kind: oneOf(4, ["file", "directory"]),
  version: uint(5),
  sizeBytes: uint(6),
  contentId: uint(7),
  treeHash: bytes(8),
  sha256: bytes(9),
  mediaType: text(10),
  mode: optionalUint(11),
  modifyTimeMs: sint(12),
  createTimeMs: sint(13),
});

/** Attributes given by a client. */
export const attributesCodec: Codec<EntryAttributes> = message<EntryAttributes>({
  modifyTimeMs: optionalSint(1),
  mode: optionalUint(2),
  mediaType: optionalText(3),
});

const versionsCodec = message<{ readonly versions: readonly number[] }>({ versions: repeatedUint(1) });

/** A precondition. No versions at all and an empty list of them are told apart. */
export const preconditionCodec: Codec<Precondition> = message<Precondition>({
  ifVersions: mapped<readonly number[] | undefined, { readonly versions: readonly number[] } | undefined>(
    optionalInner(1, versionsCodec),
    (versions) => (versions === undefined ? undefined : { versions }),
    (list) => list?.versions,
  ),
  ifExists: optionalBool(2),
  ifAbsent: optionalBool(3),
});

const placeCodec = message<{ readonly parentId: number; readonly name: string }>({
  parentId: uint(1),
  name: text(2),
});

/** An event of the feed. */
export const changeCodec: Codec<Change> = message<Change>({
  index: uint(1),
  position: uint(2),
  kind: oneOf(3, ["created", "updated", "moved", "deleted"]),
  entry: inner(4, entryCodec),
  previous: optionalInner(5, placeCodec),
});

/** A node as it registers. */
export const nodeCodec: Codec<NodeRegistration> = message<NodeRegistration>({
  memberId: uint(1),
  nodeId: text(2),
  storeIncarnation: text(3),
  address: text(4),
  httpUrl: text(5),
  publicUrl: text(6),
  zone: text(7),
  isStorageOnly: bool(8),
  featureLevelMax: optionalUint(9),
});

const locatorCodec: Codec<Locator> = message<Locator>({ baseId: uint(1), path: repeatedText(2) });

const extentKeyCodec = message<{ readonly contentId: number; readonly extentIndex: number }>({
  contentId: uint(1),
  extentIndex: uint(2),
});

const sealCodec: Codec<Seal> = message<Seal>({
  extent: inner(1, extentKeyCodec),
  sizeBytes: uint(2),
  root: bytes(3),
  memberId: uint(4),
  storeIncarnation: text(5),
});

const targetsCodec: Codec<ExtentTargets> = message<ExtentTargets>({
  extentIndex: uint(1),
  memberIds: repeatedUint(2),
});

const CONFLICT_POLICIES: readonly OnConflict[] = ["fail", "rename", "replace"];
const conflictField: Field<OnConflict> = oneOf(4, CONFLICT_POLICIES);

function optionalConflict(number: number): Field<OnConflict | undefined> {
  return mapped<OnConflict | undefined, number | undefined>(
    optionalUint(number),
    (policy) => (policy === undefined ? undefined : CONFLICT_POLICIES.indexOf(policy) + 1),
    (value) =>
      value === undefined ? undefined : must(CONFLICT_POLICIES[value - 1], "a known conflict policy"),
  );
}

const putIntentCodec: Codec<PutIntent> = message<PutIntent>({
  at: inner(1, locatorCodec),
  createParents: bool(2),
  onConflict: conflictField,
  attributes: inner(7, attributesCodec),
});

type BodyOf<Kind extends CommandKind> = Omit<Extract<CommandBody, { readonly kind: Kind }>, "kind">;
type BodyCodecs = {
  readonly [Kind in CommandKind]: { readonly number: number; readonly codec: Codec<BodyOf<Kind>> };
};

const none = message<object>({});
const moveFields = {
  source: inner<Locator>(1, locatorCodec),
  to: inner<Locator>(2, locatorCodec),
  onConflict: conflictField,
  precondition: inner<Precondition>(5, preconditionCodec),
};

/** Field number in the command and codec of every kind. Numbers never change. */
const BODIES: BodyCodecs = {
  bootstrap: {
    number: 10,
    codec: message<BodyOf<"bootstrap">>({
      clusterId: text(1),
      chunkSizeBytes: uint(2),
      formatVersion: uint(3),
      featureLevel: optionalUint(4),
    }),
  },
  "advance-clock": { number: 11, codec: message<BodyOf<"advance-clock">>({ elapsedMs: uint(1) }) },
  "register-node": { number: 12, codec: message<BodyOf<"register-node">>({ node: inner(1, nodeCodec) }) },
  "renew-write-lease": {
    number: 13,
    codec: message<BodyOf<"renew-write-lease">>({
      memberId: uint(1),
      storeIncarnation: text(2),
      idCount: uint(3),
    }),
  },
  "create-directory": {
    number: 14,
    codec: message<BodyOf<"create-directory">>({
      at: inner(1, locatorCodec),
      createParents: bool(2),
      existOk: bool(3),
      attributes: inner(4, attributesCodec),
      precondition: inner(5, preconditionCodec),
    }),
  },
  "move-entry": { number: 15, codec: message<BodyOf<"move-entry">>(moveFields) },
  "copy-entry": { number: 16, codec: message<BodyOf<"copy-entry">>(moveFields) },
  "delete-entry": {
    number: 17,
    codec: message<BodyOf<"delete-entry">>({
      at: inner(1, locatorCodec),
      recursive: bool(2),
      precondition: inner(5, preconditionCodec),
    }),
  },
  "update-entry": {
    number: 18,
    codec: message<BodyOf<"update-entry">>({
      at: inner(1, locatorCodec),
      attributes: inner(4, attributesCodec),
      precondition: inner(5, preconditionCodec),
    }),
  },
  "init-upload": {
    number: 19,
    codec: message<BodyOf<"init-upload">>({
      at: inner(1, locatorCodec),
      createParents: bool(2),
      sizeBytes: optionalUint(3),
      onConflict: conflictField,
      precondition: inner(5, preconditionCodec),
      treeHash: bytes(6),
      attributes: inner(7, attributesCodec),
      extents: repeatedInner(8, targetsCodec),
    }),
  },
  "renew-upload": { number: 20, codec: message<BodyOf<"renew-upload">>({ uploadId: uint(1) }) },
  "assign-extent": {
    number: 21,
    codec: message<BodyOf<"assign-extent">>({ uploadId: uint(1), targets: inner(2, targetsCodec) }),
  },
  "complete-upload": {
    number: 22,
    codec: message<BodyOf<"complete-upload">>({
      uploadId: uint(1),
      sizeBytes: uint(2),
      treeHash: bytes(3),
      sha256: bytes(4),
      precondition: inner(5, preconditionCodec),
      seals: repeatedInner(6, sealCodec),
      onConflict: optionalConflict(7),
      put: optionalInner(8, putIntentCodec),
    }),
  },
  "abort-upload": { number: 23, codec: message<BodyOf<"abort-upload">>({ uploadId: uint(1) }) },
  "put-small": {
    number: 24,
    codec: message<BodyOf<"put-small">>({
      at: inner(1, locatorCodec),
      createParents: bool(2),
      sizeBytes: uint(3),
      onConflict: conflictField,
      precondition: inner(5, preconditionCodec),
      treeHash: bytes(6),
      attributes: inner(7, attributesCodec),
      memberId: uint(8),
      contentId: uint(9),
      seals: repeatedInner(10, sealCodec),
    }),
  },
  "add-replica": { number: 25, codec: message<BodyOf<"add-replica">>({ seal: inner(1, sealCodec) }) },
  "add-replicas": {
    number: 33,
    codec: message<BodyOf<"add-replicas">>({ seals: repeatedInner(1, sealCodec) }),
  },
  "assign-replica": {
    number: 26,
    codec: message<BodyOf<"assign-replica">>({
      contentId: uint(1),
      extentIndex: uint(2),
      memberId: uint(3),
      replacesMemberId: uint(4),
    }),
  },
  "report-replica": {
    number: 27,
    codec: message<BodyOf<"report-replica">>({
      contentId: uint(1),
      extentIndex: uint(2),
      memberId: uint(3),
      finding: oneOf(4, ["suspect", "corrupt", "lost"]),
    }),
  },
  "declare-lost": {
    number: 50,
    codec: message<BodyOf<"declare-lost">>({ memberId: uint(1), storeIncarnation: text(2) }),
  },
  "return-store": {
    number: 51,
    codec: message<BodyOf<"return-store">>({ memberId: uint(1), storeIncarnation: text(2) }),
  },
  "report-scrub": {
    number: 52,
    codec: message<BodyOf<"report-scrub">>({
      memberId: uint(1),
      storeIncarnation: text(2),
      pass: uint(3),
      startTimeMs: uint(4),
      extentCount: uint(5),
      bytes: uint(6),
      damagedCount: uint(7),
    }),
  },
  "set-draining": {
    number: 53,
    codec: message<BodyOf<"set-draining">>({ memberId: uint(1), draining: bool(2) }),
  },
  recount: { number: 54, codec: none },
  "request-scrub": { number: 55, codec: none },
  "rotate-ticket-key": { number: 70, codec: message<BodyOf<"rotate-ticket-key">>({ secret: bytes(1) }) },
  "raise-feature-level": { number: 71, codec: message<BodyOf<"raise-feature-level">>({ level: uint(1) }) },
  "record-sha256": {
    number: 28,
    codec: message<BodyOf<"record-sha256">>({ contentId: uint(1), sha256: bytes(2) }),
  },
  expire: { number: 29, codec: none },
  reclaim: { number: 30, codec: none },
  materialise: {
    number: 31,
    codec: message<BodyOf<"materialise">>({ directoryId: uint(1), path: repeatedText(2) }),
  },
  "confirm-dropped": {
    number: 32,
    codec: message<BodyOf<"confirm-dropped">>({
      memberId: uint(1),
      extents: repeatedInner(2, extentKeyCodec),
    }),
  },
  "issue-join-token": {
    number: 40,
    codec: message<BodyOf<"issue-join-token">>({
      tokenHash: bytes(1),
      lifetimeMs: uint(2),
      replacesMemberId: uint(3),
    }),
  },
  "admit-member": {
    number: 41,
    codec: message<BodyOf<"admit-member">>({
      tokenHash: bytes(1),
      memberId: uint(2),
      nodeId: text(3),
      address: text(4),
      isStorageOnly: bool(5),
    }),
  },
  "remove-member": {
    number: 42,
    codec: message<BodyOf<"remove-member">>({ memberId: uint(1), isForced: bool(2) }),
  },
  "transfer-leadership": {
    number: 43,
    codec: message<BodyOf<"transfer-leadership">>({ memberId: uint(1), leaderId: uint(2) }),
  },
  "end-membership-change": {
    number: 44,
    codec: message<BodyOf<"end-membership-change">>({ changeId: uint(1), failure: text(2) }),
  },
  evict: { number: 45, codec: none },
  "record-tree-snapshot": {
    number: 80,
    codec: message<BodyOf<"record-tree-snapshot">>({
      memberId: uint(1),
      contentId: uint(2),
      sizeBytes: uint(3),
      treeHash: bytes(4),
      seals: repeatedInner(5, sealCodec),
      index: uint(6),
      eventIndex: uint(7),
      clusterTimeMs: uint(8),
    }),
  },
  ...TASK_BODIES,
};

/** All kinds of commands. */
export const COMMAND_KINDS: readonly CommandKind[] = Object.keys(BODIES) as CommandKind[];

// A field per kind, of which exactly one is set: a oneof on the wire.
type Envelope = {
  requestId: string;
  deadlineMs: number;
  wallTimeMs: number;
  featureLevel?: number | undefined;
} & {
  [Kind in CommandKind]?: BodyOf<Kind> | undefined;
};

const envelopeFields: Record<string, unknown> = {
  requestId: text(1),
  deadlineMs: uint(2),
  wallTimeMs: sint(3),
  featureLevel: optionalUint(4),
};
for (const kind of COMMAND_KINDS) {
  const { number, codec } = BODIES[kind];
  envelopeFields[kind] = optionalInner(number, codec as Codec<object>);
}
const envelopeCodec = message<Envelope>(envelopeFields as never, { sparse: true });

/** The bytes of a command. */
export function encodeCommand(command: Command): Uint8Array {
  const { requestId, deadlineMs, wallTimeMs, body } = command;
  const level = levelNeeded(body);
  const featureLevel = level > FEATURE_LEVEL_FIRST ? level : undefined;
  return envelopeCodec.encode({
    requestId,
    deadlineMs,
    wallTimeMs,
    featureLevel,
    [body.kind]: body,
  } as Envelope);
}

/**
 * The command of these bytes, which it views and which must not change.
 * @throws DriveError VERSION_UNSUPPORTED for a kind that this version does not know: whoever is to apply it must not go on
 */
export function decodeCommand(data: Uint8Array): Command {
  const envelope = envelopeCodec.decode(data);
  const { requestId, deadlineMs, wallTimeMs, featureLevel } = envelope;
  for (const kind of COMMAND_KINDS) {
    const body = envelope[kind];
    if (body === undefined) continue;
    const command = { requestId, deadlineMs, wallTimeMs, body: { kind, ...body } as CommandBody };
    return featureLevel === undefined ? command : { ...command, featureLevel };
  }
  throw new DriveError(
    "VERSION_UNSUPPORTED",
    `The log holds a command that this version of netdisk does not know${featureLevel === undefined ? "" : ` (feature level ${featureLevel})`}: start this node with the newer version that the other nodes run.`,
    featureLevel === undefined ? {} : { feature_level: String(featureLevel) },
  );
}

interface EntryValue {
  readonly entry: Entry;
  readonly path: readonly string[];
}

type ValueOf<Kind extends ResultValue["kind"]> = Omit<Extract<ResultValue, { readonly kind: Kind }>, "kind">;

interface AppliedRecord {
  readonly none: object | undefined;
  readonly entry: EntryValue | undefined;
  readonly upload: ValueOf<"upload"> | undefined;
  readonly "write-lease": ValueOf<"write-lease"> | undefined;
  readonly batch: ValueOf<"batch"> | undefined;
  readonly membership: ValueOf<"membership"> | undefined;
  readonly task: ValueOf<"task"> | undefined;
}

const appliedCodec = message<AppliedRecord>({
  none: optionalInner(1, none),
  entry: optionalInner(2, message<EntryValue>({ entry: inner(1, entryCodec), path: repeatedText(2) })),
  upload: optionalInner(
    3,
    message<ValueOf<"upload">>({
      uploadId: uint(1),
      contentId: uint(2),
      expireTimeMs: uint(3),
      entry: optionalInner(4, entryCodec),
    }),
  ),
  "write-lease": optionalInner(
    4,
    message<ValueOf<"write-lease">>({ expireTimeMs: uint(1), firstContentId: uint(2), idCount: uint(3) }),
  ),
  batch: optionalInner(5, message<ValueOf<"batch">>({ itemCount: uint(1), more: bool(2) })),
  membership: optionalInner(10, message<ValueOf<"membership">>({ changeId: uint(1), expireTimeMs: uint(2) })),
  task: optionalInner(90, message<ValueOf<"task">>({ task: inner(1, taskCodec) })),
});

interface RejectedRecord {
  readonly reason: string;
  readonly message: string;
  readonly metadata: Readonly<Record<string, string>>;
}

interface ResultRecord {
  readonly index: number;
  readonly applied: AppliedRecord | undefined;
  readonly rejected: RejectedRecord | undefined;
}

const resultCodec = message<ResultRecord>({
  index: uint(1),
  applied: optionalInner(2, appliedCodec),
  rejected: optionalInner(
    3,
    message<RejectedRecord>({ reason: text(1), message: text(2), metadata: textMap(3) }),
  ),
});

const NO_VALUE: AppliedRecord = {
  none: undefined,
  entry: undefined,
  upload: undefined,
  "write-lease": undefined,
  batch: undefined,
  membership: undefined,
  task: undefined,
};

/** The bytes of a result. */
export function encodeResult(result: CommandResult): Uint8Array {
  if (result.outcome === "rejected") {
    return resultCodec.encode({ index: result.index, applied: undefined, rejected: result });
  }
  const applied = { ...NO_VALUE, [result.value.kind]: result.value };
  return resultCodec.encode({ index: result.index, applied, rejected: undefined });
}

/** The result of these bytes, which it views and which must not change. */
export function decodeResult(data: Uint8Array): CommandResult {
  const { index, applied, rejected } = resultCodec.decode(data);
  if (rejected !== undefined) {
    assert(isErrorReason(rejected.reason), `${rejected.reason} is no reason of the catalogue`);
    return { outcome: "rejected", index, ...rejected } as Rejected;
  }
  const value = decodeValue(must(applied, "a result is applied or rejected"));
  return { outcome: "applied", index, value } satisfies Applied;
}

function decodeValue(record: AppliedRecord): ResultValue {
  if (record.entry !== undefined) return { kind: "entry", ...record.entry };
  if (record.upload !== undefined) return { kind: "upload", ...record.upload };
  if (record["write-lease"] !== undefined) return { kind: "write-lease", ...record["write-lease"] };
  if (record.batch !== undefined) return { kind: "batch", ...record.batch };
  if (record.membership !== undefined) return { kind: "membership", ...record.membership };
  if (record.task !== undefined) return { kind: "task", ...record.task };
  return { kind: "none" };
}
