/**
 * ClusterService of netdisk.v1 over the drive.
 *
 * Readiness is answered in every state of the node: one that has no drive yet says so instead of failing.
 */
import { ClusterService } from "../../gen/netdisk/v1/cluster_service_pb.ts";
import { DriveError } from "../drive/errors.ts";
import { readOptions } from "../contract/codec.ts";
import type { DriveSource } from "../contract/service-handlers.ts";
import { service, type ServedService } from "./server-adapter.ts";
import { encodeClusterStatus } from "./transfer-codec.ts";

/** The service over `drive`. */
export function clusterService(drive: DriveSource): ServedService {
  return service(ClusterService, {
    async getStatus(request, call) {
      return { status: encodeClusterStatus(await drive().cluster(readOptions(request, call.signal))) };
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
  });
}
