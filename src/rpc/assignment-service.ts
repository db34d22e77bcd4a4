/**
 * AssignmentService of netdisk.peer.v1 over the tree at this voter. The caller is who its headers say, and is checked like every
 * caller among nodes; it is told of its own assignments alone.
 */
import { AssignmentService } from "../../gen/netdisk/peer/v1/assignment_service_pb.ts";
import { decodeRef, refuseField } from "../contract/codec.ts";
import { LOOK_COUNT_MAX } from "../replication/assignments.ts";
import { must } from "../std/assert.ts";
import type { VoterFeed } from "../transfer/voter-feed.ts";
import { decodePlace, encodeAssigned, encodeLook, encodePlace, encodeView } from "./assignment-codec.ts";
import { checkPeer, type IdentitySource } from "./peer-identity.ts";
import { decodeExtentKey, encodeExtentKey } from "./replica-codec.ts";
import { service, type ServedService, type ServerCall } from "./server-adapter.ts";

/** Milliseconds that a proposal may wait for. */
const PROPOSE_TIMEOUT_MS_MAX = 60_000;

/** What the service needs; each source throws NODE_STARTING while there is nothing to give. */
export interface AssignmentServiceOptions {
  readonly identity: IdentitySource;
  /** The answers to one member. Throws NOT_LEADER at a node that does not keep the tree itself. */
  readonly feedFor: (memberId: number) => VoterFeed;
}

/** The service over the tree at this node. */
export function assignmentService(options: AssignmentServiceOptions): ServedService {
  const feed = (call: ServerCall): VoterFeed => options.feedFor(checkPeer(call, options.identity()).memberId);
  return service(AssignmentService, {
    async getView({ recordsDigest }, call) {
      return encodeView(
        await feed(call).view(recordsDigest.length === 0 ? undefined : recordsDigest, call.signal),
      );
    },
    async listHeld({ after }, call) {
      const { extents, next } = await feed(call).held(
        after === undefined ? undefined : decodeExtentKey(after),
        call.signal,
      );
      return {
        extents: extents.map(({ contentId, extent }) => encodeAssigned(contentId, extent)),
        ...(next !== undefined && { next: encodeExtentKey(next) }),
      };
    },
    async listWanted({ after }, call) {
      const { extents, next } = await feed(call).wanted(
        after === undefined ? undefined : decodePlace(after),
        call.signal,
      );
      return {
        extents: extents.map(({ contentId, extent }) => encodeAssigned(contentId, extent)),
        ...(next !== undefined && { next: encodePlace(next) }),
      };
    },
    async listDropped(_request, call) {
      return { extents: (await feed(call).dropped(call.signal)).map(encodeExtentKey) };
    },
    async lookUp({ extents }, call) {
      if (extents.length === 0 || extents.length > LOOK_COUNT_MAX) {
        refuseField("extents", `has ${extents.length} items; 1 to ${LOOK_COUNT_MAX} are allowed`);
      }
      const keys = extents.map(decodeExtentKey);
      const looks = await feed(call).look(keys, { fresh: true, signal: call.signal });
      return {
        extents: looks.map((look, at) => encodeLook(must(keys[at], "a key for each answer").contentId, look)),
      };
    },
    async openFile({ ref, stale }, call) {
      const { ticket, path, extents } = await feed(call).openFile(decodeRef(ref), {
        consistency: stale ? "stale" : "linearizable",
        signal: call.signal,
      });
      // The ticket names the content; here the position in it is enough.
      return { ticket, path, extents: extents.map((extent) => encodeAssigned(1, extent)) };
    },
    async proposeCommand({ command, timeoutMs }, call) {
      const limited = Math.min(PROPOSE_TIMEOUT_MS_MAX, Math.max(1, timeoutMs));
      return { result: await feed(call).propose(command, { timeoutMs: limited, signal: call.signal }) };
    },
  });
}
