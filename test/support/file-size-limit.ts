/**
 * A disk that takes nothing, for processes that really write: the kernel's limit of the size of files. A write behind it fails
 * with EFBIG, which the program takes for a full disk as it does ENOSPC; what is below it, and every read, goes on. Needs neither
 * rights nor a file system of its own.
 */
import { execFileSync } from "node:child_process";

/** Sets how far process `pid` may write into any file, 0 for not at all; undefined: no limit again. */
export function limitFileSize(pid: number, sizeBytes: number | undefined): void {
  // The soft limit alone: the hard one could not be raised again.
  execFileSync("prlimit", ["--pid", String(pid), `--fsize=${sizeBytes ?? "unlimited"}:`]);
}
