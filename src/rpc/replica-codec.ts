/**
 * Between the messages of netdisk.peer.v1.ReplicaService and the types of the chunk store.
 *
 * Numbers become bigint and back here alone; malformed messages are ARGUMENT_INVALID.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  ContentPurpose,
  OriginHintSchema,
  type OriginHint as WireHint,
} from "../../gen/netdisk/peer/v1/peer_pb.ts";
import type {
  ExtentKey as WireExtentKey,
  ExtentKeySchema,
  Manifest as WireManifest,
  ManifestOrigin as WireOrigin,
  ManifestOriginSchema,
  ManifestSchema,
  Seal as WireSeal,
  SealSchema,
} from "../../gen/netdisk/peer/v1/peer_pb.ts";
import type {
  ExtentVerdict,
  ExtentVerdictSchema,
  GetExtentStateResponse,
  GetExtentStateResponseSchema,
  PutSmallRequest,
} from "../../gen/netdisk/peer/v1/replica_service_pb.ts";
import type { ExtentState, SmallExtent } from "../chunks/chunk-store.ts";
import type { ExtentKey, Manifest, ManifestOrigin, OriginHint, Seal } from "../drive/content.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES, ORIGIN_PATH_SIZE_BYTES_MAX } from "../drive/limits.ts";
import { DIGEST_SIZE_BYTES } from "../std/digest.ts";
import { keyOf, refuseField, required, toBigint, toNumber, toOptionalBigint } from "../contract/codec.ts";
import { decodeFailure, encodeFailure } from "./error-codec.ts";

/** The wire form of an extent's identity. */
export function encodeExtentKey(extent: ExtentKey): MessageInitShape<typeof ExtentKeySchema> {
  return { contentId: toBigint(extent.contentId), extentIndex: extent.extentIndex };
}

/** An extent's identity. */
export function decodeExtentKey(extent: WireExtentKey | undefined): ExtentKey {
  const { contentId, extentIndex } = required(extent, "extent");
  return { contentId: positive(contentId, "content_id"), extentIndex };
}

function positive(value: bigint, field: string): number {
  const number = toNumber(value, field);
  return number > 0 ? number : refuseField(field, "is 0");
}

/** Checks that `digest` has 32 bytes and `data` 1 byte to one chunk. */
export function checkChunk(chunk: { readonly digest: Uint8Array; readonly data: Uint8Array }): void {
  if (chunk.digest.length !== DIGEST_SIZE_BYTES) refuseField("digest", `has ${chunk.digest.length} bytes`);
  if (chunk.data.length === 0 || chunk.data.length > CHUNK_SIZE_BYTES) {
    refuseField("data", `has ${chunk.data.length} bytes; 1 to ${CHUNK_SIZE_BYTES} are allowed`);
  }
}

/** The wire form of an origin. */
export function encodeOrigin(origin: ManifestOrigin): MessageInitShape<typeof ManifestOriginSchema> {
  return {
    clusterId: origin.clusterId,
    entryId: toBigint(origin.entryId),
    commitIndex: toBigint(origin.commitIndex),
    ...(origin.hint !== undefined && { hint: encodeHint(origin.hint) }),
  };
}

const PURPOSES: Readonly<Record<OriginHint["purpose"], ContentPurpose>> = {
  file: ContentPurpose.FILE,
  "tree-snapshot": ContentPurpose.TREE_SNAPSHOT,
};

function encodeHint(hint: OriginHint): WireHint {
  return create(OriginHintSchema, {
    purpose: PURPOSES[hint.purpose],
    path: hint.path,
    modifyTimeMs: toBigint(hint.modifyTimeMs),
    contentSizeBytes: toBigint(hint.contentSizeBytes),
  });
}

function decodeHint(hint: WireHint): OriginHint {
  const { path } = hint;
  if (Buffer.byteLength(path, "utf8") > ORIGIN_PATH_SIZE_BYTES_MAX)
    return refuseField("hint.path", "is too long");
  return {
    purpose: keyOf(PURPOSES, hint.purpose, "hint.purpose"),
    path,
    modifyTimeMs: toNumber(hint.modifyTimeMs, "hint.modify_time_ms"),
    contentSizeBytes: toNumber(hint.contentSizeBytes, "hint.content_size_bytes"),
  };
}

/** An origin. */
export function decodeOrigin(origin: WireOrigin | undefined): ManifestOrigin {
  const { clusterId, entryId, commitIndex, hint } = required(origin, "origin");
  return {
    clusterId,
    entryId: toNumber(entryId, "entry_id"),
    commitIndex: toNumber(commitIndex, "commit_index"),
    ...(hint !== undefined && { hint: decodeHint(hint) }),
  };
}

/** The wire form of a seal. */
export function encodeSeal(seal: Seal): MessageInitShape<typeof SealSchema> {
  return {
    extent: encodeExtentKey(seal.extent),
    sizeBytes: toBigint(seal.sizeBytes),
    root: seal.root,
    memberId: toBigint(seal.memberId),
    storeIncarnation: seal.storeIncarnation,
  };
}

/** A seal. */
export function decodeSeal(seal: WireSeal | undefined): Seal {
  const wire = required(seal, "seal");
  return {
    extent: decodeExtentKey(wire.extent),
    sizeBytes: toNumber(wire.sizeBytes, "size_bytes"),
    root: wire.root,
    memberId: toNumber(wire.memberId, "member_id"),
    storeIncarnation: wire.storeIncarnation,
  };
}

/** The wire form of what a check of one extent found. */
export function encodeVerdict(verdict: Seal | DriveError): MessageInitShape<typeof ExtentVerdictSchema> {
  return verdict instanceof DriveError
    ? { outcome: { case: "failure", value: encodeFailure(verdict) } }
    : { outcome: { case: "seal", value: encodeSeal(verdict) } };
}

/** What a check of one extent found. */
export function decodeVerdict({ outcome }: ExtentVerdict): Seal | DriveError {
  if (outcome.case === "failure") return decodeFailure(outcome.value);
  return decodeSeal(outcome.value);
}

/** The wire form of a manifest. */
export function encodeManifest(manifest: Manifest): MessageInitShape<typeof ManifestSchema> {
  return {
    extent: encodeExtentKey(manifest.extent),
    sizeBytes: toBigint(manifest.sizeBytes),
    root: manifest.root,
    chunkDigests: [...manifest.chunkDigests],
    origin: encodeOrigin(manifest.origin),
  };
}

/** A manifest. */
export function decodeManifest(manifest: WireManifest | undefined): Manifest {
  const wire = required(manifest, "manifest");
  return {
    extent: decodeExtentKey(wire.extent),
    sizeBytes: toNumber(wire.sizeBytes, "size_bytes"),
    root: wire.root,
    chunkDigests: wire.chunkDigests,
    origin: decodeOrigin(wire.origin),
  };
}

/** A small extent as it came; its bytes and digest are checked for size alone. */
export function decodeSmall(request: PutSmallRequest): SmallExtent {
  checkChunk(request);
  return {
    extent: { contentId: positive(request.contentId, "content_id"), extentIndex: request.extentIndex },
    bytes: request.data,
    digest: request.digest,
    origin: {
      clusterId: request.originClusterId,
      entryId: toNumber(request.originEntryId, "origin_entry_id"),
      commitIndex: toNumber(request.originCommitIndex, "origin_commit_index"),
      ...(request.originHint !== undefined && { hint: decodeHint(request.originHint) }),
    },
  };
}

/** The wire form of a small extent, without its correlation id. */
export function encodeSmall(small: SmallExtent): {
  contentId: bigint;
  extentIndex: number;
  originEntryId: bigint;
  originCommitIndex: bigint;
  originClusterId: string;
  originHint?: WireHint;
  digest: Uint8Array;
  data: Uint8Array;
} {
  return {
    contentId: toBigint(small.extent.contentId),
    extentIndex: small.extent.extentIndex,
    originEntryId: toBigint(small.origin.entryId),
    originCommitIndex: toBigint(small.origin.commitIndex),
    originClusterId: small.origin.clusterId,
    ...(small.origin.hint !== undefined && { originHint: encodeHint(small.origin.hint) }),
    digest: small.digest,
    data: small.bytes,
  };
}

/** The wire form of an extent's state. */
export function encodeExtentState(state: ExtentState): MessageInitShape<typeof GetExtentStateResponseSchema> {
  switch (state.kind) {
    case "absent":
      return { state: { case: "absent", value: {} } };
    case "open":
      return { state: { case: "open", value: { chunkIndexes: [...state.chunkIndexes] } } };
    case "sealed":
      return {
        state: {
          case: "sealed",
          value: {
            sizeBytes: toBigint(state.sizeBytes),
            root: state.root,
            checkTimeMs: toOptionalBigint(state.checkTimeMs),
          },
        },
      };
    case "quarantined": {
      const value = { sizeBytes: toBigint(state.sizeBytes), chunkIndexes: [...state.chunkIndexes] };
      return { state: { case: "quarantined", value } };
    }
  }
}

/** An extent's state. */
export function decodeExtentState(response: GetExtentStateResponse): ExtentState {
  const { state } = response;
  switch (state.case) {
    case "absent":
      return { kind: "absent" };
    case "open":
      return { kind: "open", chunkIndexes: state.value.chunkIndexes };
    case "sealed":
      return {
        kind: "sealed",
        sizeBytes: toNumber(state.value.sizeBytes, "size_bytes"),
        root: state.value.root,
        ...(state.value.checkTimeMs !== undefined && {
          checkTimeMs: toNumber(state.value.checkTimeMs, "check_time_ms"),
        }),
      };
    case "quarantined":
      return {
        kind: "quarantined",
        sizeBytes: toNumber(state.value.sizeBytes, "size_bytes"),
        chunkIndexes: state.value.chunkIndexes,
      };
    case undefined:
      return refuseField("state", "is required");
  }
}
