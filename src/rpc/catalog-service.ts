/** CatalogService of netdisk.v1 on gRPC. What it does stands in contract/catalog-codec.ts, which serves Connect as well. */
import { CatalogService } from "../../gen/netdisk/v1/catalog_service_pb.ts";
import { catalogHandlers } from "../contract/catalog-codec.ts";
import type { DriveSource } from "../contract/service-handlers.ts";
import { service, type ServedService } from "./server-adapter.ts";

/** The service over `drive`. */
export function catalogService(drive: DriveSource): ServedService {
  return service(CatalogService, catalogHandlers(drive));
}
