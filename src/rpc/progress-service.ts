/**
 * ProgressService of netdisk.v1 on gRPC. What it does stands in contract/service-handlers.ts, which serves Connect as well.
 */
import { ProgressService } from "../../gen/netdisk/v1/progress_service_pb.ts";
import { progressHandlers, type DriveSource } from "../contract/service-handlers.ts";
import { service, type ServedService } from "./server-adapter.ts";

/** The service over `drive`. */
export function progressService(drive: DriveSource): ServedService {
  return service(ProgressService, progressHandlers(drive));
}
