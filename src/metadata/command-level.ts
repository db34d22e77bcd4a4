/** Which feature level (drive/feature-levels.ts) each command needs: one place, read when commands are written and applied. */
import { FEATURE_LEVEL_FIRST, FEATURE_LEVEL_REGISTERED } from "../drive/feature-levels.ts";
import type { CommandBody } from "./commands.ts";

/**
 * The level that a node must support to apply a command. Whatever is added to commands later gets the level that it came with
 * here; a new kind, and a new field whose absence would mean something else to an older version. What a command writes at a level
 * never changes (cluster/DESIGN.md).
 */
export function levelNeeded(body: CommandBody): number {
  if (body.kind === "bootstrap") return body.featureLevel ?? FEATURE_LEVEL_FIRST;
  if (body.kind === "raise-feature-level") return body.level;
  if (body.kind === "register-node" && body.node.featureLevelMax !== undefined)
    return FEATURE_LEVEL_REGISTERED;
  return FEATURE_LEVEL_FIRST;
}

/** Whether a command makes the level that it needs: it is applied below that. */
export function setsLevel({ kind }: CommandBody): boolean {
  return kind === "bootstrap" || kind === "raise-feature-level";
}
