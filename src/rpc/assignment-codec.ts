/** Between the messages of netdisk.peer.v1.AssignmentService and the types of the feed. Malformed messages are ARGUMENT_INVALID. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  AssignedReplicaState,
  ExtentKnowledgeState,
  type AssignedExtent,
  type AssignedExtentSchema,
  type ExtentKnowledge,
  type ExtentKnowledgeSchema,
  type GetViewResponse,
  type GetViewResponseSchema,
  type WantedPlace,
  type WantedPlaceSchema,
} from "../../gen/netdisk/peer/v1/assignment_service_pb.ts";
import { keyOf, toBigint, toNumber } from "../contract/codec.ts";
import type { Extent, ReplicaState } from "../drive/content.ts";
import type { KeyedExtent, UnderReplicated } from "../metadata/view.ts";
import type { ExtentLook } from "../replication/assignments.ts";
import type { FeedView } from "../transfer/voter-feed.ts";
import { decodeExtentKey, encodeExtentKey } from "./replica-codec.ts";

const REPLICA_STATES: Readonly<Record<ReplicaState, AssignedReplicaState>> = {
  verified: AssignedReplicaState.VERIFIED,
  pending: AssignedReplicaState.PENDING,
  suspect: AssignedReplicaState.SUSPECT,
  corrupt: AssignedReplicaState.CORRUPT,
  lost: AssignedReplicaState.LOST,
};

const LOOK_STATES: Readonly<Record<ExtentLook["state"], ExtentKnowledgeState>> = {
  known: ExtentKnowledgeState.KNOWN,
  unknown: ExtentKnowledgeState.UNKNOWN,
  future: ExtentKnowledgeState.FUTURE,
};

/** The wire form of an extent. */
export function encodeAssigned(
  contentId: number,
  extent: Extent,
): MessageInitShape<typeof AssignedExtentSchema> {
  return {
    extent: encodeExtentKey({ contentId, extentIndex: extent.extentIndex }),
    sizeBytes: toBigint(extent.sizeBytes),
    root: extent.root,
    replicas: extent.replicas.map(({ memberId, state }) => ({
      memberId: toBigint(memberId),
      state: REPLICA_STATES[state],
    })),
  };
}

/** An extent with its content's id. When its copies were checked is not told. */
export function decodeAssigned({ extent, sizeBytes, root, replicas }: AssignedExtent): KeyedExtent {
  const { contentId, extentIndex } = decodeExtentKey(extent);
  return {
    contentId,
    extent: {
      extentIndex,
      sizeBytes: toNumber(sizeBytes, "size_bytes"),
      root,
      replicas: replicas.map(({ memberId, state }) => ({
        memberId: toNumber(memberId, "member_id"),
        state: keyOf(REPLICA_STATES, state, "state"),
        checkTimeMs: 0,
      })),
    },
  };
}

/** The wire form of a place in the list of what is wanted. */
export function encodePlace(place: UnderReplicated): MessageInitShape<typeof WantedPlaceSchema> {
  return { verifiedCount: place.verifiedCount, extent: encodeExtentKey(place) };
}

/** A place in the list of what is wanted. */
export function decodePlace(place: WantedPlace): UnderReplicated {
  return { verifiedCount: place.verifiedCount, ...decodeExtentKey(place.extent) };
}

/** The wire form of what the tree knows of an extent. */
export function encodeLook(
  contentId: number,
  look: ExtentLook,
): MessageInitShape<typeof ExtentKnowledgeSchema> {
  const { state, isDropped, extent } = look;
  return {
    state: LOOK_STATES[state],
    isDropped,
    ...(extent !== undefined && { extent: encodeAssigned(contentId, extent) }),
  };
}

/** What the tree knows of an extent. */
export function decodeLook({ state, isDropped, extent }: ExtentKnowledge): ExtentLook {
  return {
    state: keyOf(LOOK_STATES, state, "state"),
    isDropped,
    extent: extent === undefined ? undefined : decodeAssigned(extent).extent,
  };
}

/** The wire form of a view. */
export function encodeView(view: FeedView): MessageInitShape<typeof GetViewResponseSchema> {
  return {
    counters: view.counters.map(({ key, value }) => ({ key, value })),
    records: (view.records ?? []).map(({ key, value }) => ({ key, value })),
    recordsDigest: view.recordsDigest,
    appliedIndex: toBigint(view.appliedIndex),
    leaderId: toBigint(view.leaderId ?? 0),
    voterIds: view.voterIds.map(toBigint),
    term: toBigint(view.term),
  };
}

/** A view; its records are those that the caller has when `isKnown` says so of their digest. */
export function decodeView(view: GetViewResponse, isKnown: (digest: Uint8Array) => boolean): FeedView {
  const leaderId = toNumber(view.leaderId, "leader_id");
  return {
    counters: view.counters,
    records: isKnown(view.recordsDigest) ? undefined : view.records,
    recordsDigest: view.recordsDigest,
    appliedIndex: toNumber(view.appliedIndex, "applied_index"),
    leaderId: leaderId === 0 ? undefined : leaderId,
    voterIds: view.voterIds.map((id) => toNumber(id, "voter_ids")),
    term: toNumber(view.term, "term"),
  };
}
