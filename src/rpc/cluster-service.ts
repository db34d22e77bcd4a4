/**
 * ClusterService of netdisk.v1 over the drive and the membership.
 *
 * Readiness is answered in every state of the node: one that has no drive yet says so instead of failing.
 */
import { ClusterService } from "../../gen/netdisk/v1/cluster_service_pb.ts";
import type { AdminOptions, ClusterAdmin } from "../drive/cluster-admin.ts";
import { DriveError } from "../drive/errors.ts";
import { readOptions, toBigint, toNumber } from "../contract/codec.ts";
import type { DriveSource } from "../contract/service-handlers.ts";
import { encodeMembership } from "./membership-codec.ts";
import { service, type ServedService } from "./server-adapter.ts";
import { encodeClusterStatus } from "./transfer-codec.ts";

/** Gives the membership, or throws NODE_STARTING or NODE_STOPPING while there is none. */
export type AdminSource = () => ClusterAdmin;

/** An empty request id means that the caller names none. */
function adminOptions({ requestId }: { readonly requestId: string }, signal: AbortSignal): AdminOptions {
  return { signal, ...(requestId !== "" && { requestId }) };
}

/** The service over `drive` and `admin`. */
export function clusterService(drive: DriveSource, admin: AdminSource): ServedService {
  return service(ClusterService, {
    async getStatus(request, call) {
      return { status: encodeClusterStatus(await drive().cluster(readOptions(request, call.signal))) };
    },
    async startScrub(_request, call) {
      await drive().startScrub({ signal: call.signal });
      return {};
    },
    async setDraining({ nodeId, draining }, call) {
      await drive().setDraining(nodeId, draining, { signal: call.signal });
      return {};
    },
    async backUpTree(_request, call) {
      const { index, sizeBytes, wallTimeMs, isNew } = await admin().backUpTree({ signal: call.signal });
      const figures = { index: toBigint(index), sizeBytes: toBigint(sizeBytes) };
      return { ...figures, madeTimeMs: toBigint(wallTimeMs), isNew };
    },
    getReadiness() {
      try {
        const { ready, problems } = drive().readiness();
        return { ready, problems: [...problems] };
      } catch (error) {
        if (error instanceof DriveError) return { ready: false, problems: [error.message] };
        throw error;
      }
    },
    async getMembership(request, call) {
      return { status: encodeMembership(await admin().membership(readOptions(request, call.signal))) };
    },
    async createJoinToken(request, call) {
      const { secret, replacesNode, storageOnly } = request;
      const lifetimeMs = toNumber(request.lifetimeMs, "lifetime_ms");
      const made = await admin().createJoinToken(
        {
          secret,
          storageOnly,
          ...(lifetimeMs > 0 && { lifetimeMs }),
          ...(replacesNode !== "" && { replacesNode }),
        },
        adminOptions(request, call.signal),
      );
      return { token: made.token, lifetimeMs: toBigint(made.lifetimeMs) };
    },
    async removeNode(request, call) {
      const { node, force } = request;
      const begun = await admin().removeNode(node, { force }, adminOptions(request, call.signal));
      return { changeId: toBigint(begun.changeId) };
    },
    async transferLeadership(request, call) {
      const node = request.node === "" ? undefined : request.node;
      const begun = await admin().transferLeadership(node, adminOptions(request, call.signal));
      return { changeId: toBigint(begun.changeId) };
    },
  });
}
