/** DownloadService of netdisk.v1 on gRPC. What it does stands in contract/download-codec.ts, which serves Connect as well. */
import { DownloadService } from "../../gen/netdisk/v1/download_service_pb.ts";
import { downloadHandlers } from "../contract/download-codec.ts";
import type { DriveSource } from "../contract/service-handlers.ts";
import { service, type ServedService } from "./server-adapter.ts";

/** The service over `drive`. */
export function downloadService(drive: DriveSource): ServedService {
  return service(DownloadService, downloadHandlers(drive));
}
