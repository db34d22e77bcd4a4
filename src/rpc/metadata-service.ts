/**
 * MetadataService of netdisk.v1 on gRPC. What it does stands in contract/service-handlers.ts, which serves Connect as well.
 */
import { MetadataService } from "../../gen/netdisk/v1/metadata_service_pb.ts";
import { metadataHandlers, type DriveSource } from "../contract/service-handlers.ts";
import { service, type ServedService } from "./server-adapter.ts";

/** The service over `drive`. */
export function metadataService(drive: DriveSource): ServedService {
  return service(MetadataService, metadataHandlers(drive));
}
