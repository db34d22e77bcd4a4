/** How a command ends: its exit code, and the errors that are about the command line itself. */
import { CommanderError } from "commander";
import { hasReason } from "../drive/errors.ts";

/** Everything that was asked for is done. */
export const EXIT_OK = 0;
/** Nothing, or not the one thing that was asked for, is done. */
export const EXIT_FAILURE = 1;
/** The command line or the configuration is wrong; nothing was tried. */
export const EXIT_USAGE = 2;
/** Some of several things are done, others failed; each failure was shown. */
export const EXIT_PARTIAL = 3;

/** The user ended the command (128 + SIGINT, as shells have it). */
export const EXIT_INTERRUPTED = 130;

/** The command line asks for something that makes no sense. `message` is one sentence that says how to put it right. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** The exit code for an error that ended a command. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError || error instanceof CommanderError) return EXIT_USAGE;
  return hasReason(error, "CONFIGURATION_INVALID") ? EXIT_USAGE : EXIT_FAILURE;
}

/** The exit code of a command over several things. */
export function exitCodeOfCounts(counts: {
  readonly doneCount: number;
  readonly failedCount: number;
}): number {
  if (counts.failedCount === 0) return EXIT_OK;
  return counts.doneCount === 0 ? EXIT_FAILURE : EXIT_PARTIAL;
}
