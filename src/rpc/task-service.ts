/** TaskService of netdisk.v1 on gRPC. What it does stands in contract/task-codec.ts, which serves Connect as well. */
import { TaskService } from "../../gen/netdisk/v1/task_service_pb.ts";
import type { DriveSource } from "../contract/service-handlers.ts";
import { taskHandlers } from "../contract/task-codec.ts";
import { service, type ServedService } from "./server-adapter.ts";

/** The service over `drive`. */
export function taskService(drive: DriveSource): ServedService {
  return service(TaskService, taskHandlers(drive));
}
