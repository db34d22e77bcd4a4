/**
 * Trouble of a disk under a running process: calls that the operating system refuses (D10), syncs of the vote that fail (D7),
 * pages that cannot be read back any more (D6). Whatever of it a process cannot live with must end it with a message that names
 * the cause; whoever runs it starts it again on a disk that works.
 */
import type { SeededPrng } from "../../src/std/prng.ts";
import type { DiskOperation, MemoryDisk } from "../support/memory-disk.ts";
import { damageFile } from "./sim-damage.ts";
import type { SimMachine } from "./sim-machine.ts";

/** Kinds of trouble that end a process when it meets them. */
export type FatalTrouble =
  /** A sync of the file that keeps term and vote fails. */
  | "promise-sync-error"
  /** The file system has become read-only, as after an error of its journal. */
  | "read-only-disk"
  /** The process, or the system, has no file descriptor left for a while. */
  | "too-many-files"
  /** Permission to make and write files is gone. */
  | "access-denied";

/** Every kind of trouble. */
export type DiskTrouble = FatalTrouble | "read-error";

/** What the operating system says. */
const CODES: Readonly<Record<FatalTrouble, string>> = {
  "promise-sync-error": "EIO",
  "read-only-disk": "EROFS",
  "too-many-files": "EMFILE",
  "access-denied": "EACCES",
};

/** Everything that changes a file system. */
const CHANGES: readonly DiskOperation[] = [
  "create",
  "write",
  "truncate",
  "makeDirectory",
  "rename",
  "remove",
  "syncDirectory",
];
/** What takes a name and checks permission; files that are open already go on. */
const NAMES: readonly DiskOperation[] = ["create", "makeDirectory", "rename", "remove"];
const ANY_PATH = /./u;
/** Opens that fail before descriptors are free again. */
const EMFILE_COUNT_MAX = 4;

/** Makes the disk of a machine do that from now on, until its process has ended or `disk.clearFailures()`. */
export function trouble(disk: MemoryDisk, kind: FatalTrouble, prng: SeededPrng): void {
  const code = CODES[kind];
  const fail = (operations: readonly DiskOperation[], count: number): void => {
    for (const operation of operations) disk.failNext(operation, ANY_PATH, code, count);
  };
  switch (kind) {
    case "promise-sync-error":
      disk.failNext("sync", /PROMISES/u, code);
      return;
    case "read-only-disk":
      fail(CHANGES, Number.POSITIVE_INFINITY);
      return;
    case "access-denied":
      fail(NAMES, Number.POSITIVE_INFINITY);
      return;
    case "too-many-files":
      fail(["open", "create"], 1 + prng.below(EMFILE_COUNT_MAX));
  }
}

/** What is wrong with the error that ended a process because of such trouble; undefined when it says the cause. */
export function unclear(kind: FatalTrouble, error: Error): string | undefined {
  const texts: string[] = [];
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) texts.push(cause.message);
  const code = CODES[kind];
  return texts.some((text) => text.includes(code))
    ? undefined
    : `D10: the process ended without saying ${code}: ${texts.join(" <- ")}`;
}

/** Makes a page of a running machine's log or chunks unreadable; says which, or undefined when there is none yet. */
export function spoilRunning(machine: SimMachine, prng: SeededPrng): string | undefined {
  const files = prng.below(2) === 0 ? "chunks" : "raft/log";
  const done = damageFile(machine.disk, files, "unreadable-page", prng);
  if (done !== undefined && files === "raft/log") machine.isLogSpoiled = true;
  return done;
}
