/** Ranges of feature levels from messages between nodes; they are written as they are. */
import type { FeatureLevels as WireLevels } from "../../gen/netdisk/peer/v1/node_service_pb.ts";
import type { FeatureLevels } from "../drive/feature-levels.ts";

/** From a message; undefined for absent, as of a version before there were levels. */
export function decodeLevels(levels: WireLevels | undefined): FeatureLevels | undefined {
  return levels === undefined ? undefined : { min: levels.min, max: levels.max };
}
