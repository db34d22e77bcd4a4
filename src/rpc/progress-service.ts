/**
 * ProgressService of netdisk.v1 over the drive.
 */
import { ProgressService } from "../../gen/netdisk/v1/progress_service_pb.ts";
import { refuseField } from "./codec.ts";
import { PROGRESS_ID_LENGTH_MAX } from "./limits.ts";
import type { DriveSource } from "./metadata-service.ts";
import { service, type ServedService } from "./server-adapter.ts";
import { encodeProgress } from "./transfer-codec.ts";

/** The service over `drive`. */
export function progressService(drive: DriveSource): ServedService {
  return service(ProgressService, {
    async *watch({ id }, call) {
      if (id === "" || id.length > PROGRESS_ID_LENGTH_MAX) {
        refuseField("id", `has ${id.length} characters; 1 to ${PROGRESS_ID_LENGTH_MAX} are allowed`);
      }
      for await (const progress of drive().watchProgress(id, call.signal)) {
        yield { progress: encodeProgress(progress) };
      }
    },
  });
}
