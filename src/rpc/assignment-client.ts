/**
 * VoterFeed over gRPC: one voter as a storage-only node asks it. Questions have a short deadline, because another voter may answer; a
 * lost question is PEER_UNREACHABLE, a lost proposal COMMIT_OUTCOME_UNKNOWN.
 */
import type { GetViewResponse } from "../../gen/netdisk/peer/v1/assignment_service_pb.ts";
import { encodeRef } from "../contract/codec.ts";
import { bytesEqual } from "../std/bytes.ts";
import { VOTER_ANSWER_TIMEOUT_MS, type VoterFeed } from "../transfer/voter-feed.ts";
import { decodeAssigned, decodeLook, decodePlace, decodeView, encodePlace } from "./assignment-codec.ts";
import type { PeerClient, PeerClients } from "./peer-clients.ts";
import { decodeExtentKey, encodeExtentKey } from "./replica-codec.ts";

/** A voter answers within the caller's time; it is given up when even that answer is so much late. */
const ANSWER_GRACE_MS = 1_000;

/** The feed of one voter. */
export function grpcVoterFeed(clients: PeerClients, voterId: number): VoterFeed {
  const question = (signal: AbortSignal | undefined) =>
    ({ timeoutMs: VOTER_ANSWER_TIMEOUT_MS, signal, lostReason: "PEER_UNREACHABLE" }) as const;
  // The connection first, so that a voter that is away is PEER_UNREACHABLE and nothing was sent.
  const assignments = async (): Promise<PeerClient["assignments"]> =>
    (await clients.connect(voterId)).assignments;
  return {
    async view(knownDigest, signal) {
      const recordsDigest = knownDigest ?? new Uint8Array(0);
      const view: GetViewResponse = await (await assignments()).getView({ recordsDigest }, question(signal));
      return decodeView(view, (digest) => knownDigest !== undefined && bytesEqual(digest, knownDigest));
    },
    async held(after, signal) {
      const request = after === undefined ? {} : { after: encodeExtentKey(after) };
      const { extents, next } = await (await assignments()).listHeld(request, question(signal));
      return {
        extents: extents.map(decodeAssigned),
        next: next === undefined ? undefined : decodeExtentKey(next),
      };
    },
    async wanted(after, signal) {
      const request = after === undefined ? {} : { after: encodePlace(after) };
      const { extents, next } = await (await assignments()).listWanted(request, question(signal));
      return {
        extents: extents.map(decodeAssigned),
        next: next === undefined ? undefined : decodePlace(next),
      };
    },
    async dropped(signal) {
      return (await (await assignments()).listDropped({}, question(signal))).extents.map(decodeExtentKey);
    },
    async look(extents, { signal }) {
      const request = { extents: extents.map(encodeExtentKey) };
      return (await (await assignments()).lookUp(request, question(signal))).extents.map(decodeLook);
    },
    async openFile(ref, { consistency, signal } = {}) {
      const request = { ref: encodeRef(ref), stale: consistency === "stale" };
      const { ticket, path, extents } = await (await assignments()).openFile(request, question(signal));
      return { ticket, path, extents: extents.map((each) => decodeAssigned(each).extent) };
    },
    async propose(command, { timeoutMs, signal }) {
      const whole = Math.max(1, Math.ceil(timeoutMs));
      const { result } = await (
        await assignments()
      ).proposeCommand({ command, timeoutMs: whole }, { timeoutMs: whole + ANSWER_GRACE_MS, signal });
      return result;
    },
  };
}
