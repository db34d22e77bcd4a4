/**
 * The disk as a dependency: files by path, with the durability rules spelled out.
 *
 * What is written is durable only after sync() of the file; that a file exists under its name is durable only after
 * syncDirectory() of the directory. Until then a crash may lose any part of it, in any order, or tear it (reliability:
 * D1-D3). Errors are Node's own (an Error with a string `code`: ENOSPC, EIO, ENOENT...). After sync() rejected, the state
 * of the file is unknown and it must never be synced again: the process ends (Rebello et al., "Can Applications Recover
 * from fsync Failures?", ATC 2020).
 */

/** An open file. Positions and sizes are in bytes. */
export interface DiskFile {
  /** The path it was opened with. */
  readonly path: string;
  /** The size now, unsynced writes included. */
  size(): Promise<number>;
  /** Reads up to `length` bytes at `offset`; fewer only at the end of the file. The caller owns the result. */
  read(offset: number, length: number): Promise<Uint8Array>;
  /** As read(), on the calling thread; for small reads that are nearly always in the page cache. */
  readSync(offset: number, length: number): Uint8Array;
  /** Writes `parts` one after another at `offset`. They must not change before it settles. Rejects with ENOSPC when full. */
  write(offset: number, parts: readonly Uint8Array[]): Promise<void>;
  /** Makes everything written so far durable (fdatasync). Never call again after it rejected. */
  sync(): Promise<void>;
  /** Cuts or extends with zeros; durable after sync(). */
  truncate(sizeBytes: number): Promise<void>;
  /**
   * Whether the path still names this file: no when it was removed or replaced there, and then what this file holds goes with the
   * last process that has it open. Rejects with EBADF when closed.
   */
  isNamed(): Promise<boolean>;
  /** Closes the file; harmless when closed. Does not sync. */
  close(): Promise<void>;
}

/** How open() treats a file that is or is not there. */
export type OpenMode =
  /** The file must exist; opened for reading and writing. */
  | "existing"
  /** The file must not exist (EEXIST); it is made empty. */
  | "create"
  /** Opened, or made empty when absent. */
  | "open-or-create"
  /** The file must exist; opened for reading only. */
  | "read";

/** Free and total space of the file system that holds a path. */
export interface DiskSpace {
  readonly freeBytes: number;
  readonly totalBytes: number;
}

/** Which file a path names, and how long it is. */
export interface FileStat {
  /** 32 bits of what tells it from the other files that exist at the same time. */
  readonly fileNumber: number;
  /** 32 bits of the time at which it was made, never changed later; 0 when that is not known, or not yet. */
  readonly madeAt: number;
  readonly sizeBytes: number;
}

/** A file system, rooted wherever its maker said. Paths use "/". */
export interface Disk {
  open(path: string, mode: OpenMode): Promise<DiskFile>;
  /** Makes the directory and its parents; harmless when they exist. */
  makeDirectory(path: string): Promise<void>;
  /** Names in the directory in byte order; rejects with ENOENT when it is absent. */
  list(path: string): Promise<string[]>;
  /** Whether something exists at the path. */
  exists(path: string): Promise<boolean>;
  /** Which file is at the path; undefined when there is none. */
  stat(path: string): Promise<FileStat | undefined>;
  /** Moves `from` over `to` atomically; durable after syncDirectory(). */
  rename(from: string, to: string): Promise<void>;
  /** Removes a file, or a directory with everything in it; harmless when absent. */
  remove(path: string): Promise<void>;
  /** Makes creations, renames and removals in the directory durable. */
  syncDirectory(path: string): Promise<void>;
  /** Space of the file system that holds `path`. */
  space(path: string): Promise<DiskSpace>;
}

/** Whether the operating system says that there is no space: of the disk, of the quota, of the largest file. */
export function isNoSpace(error: unknown): boolean {
  const code = errnoOf(error);
  return code === "ENOSPC" || code === "EDQUOT" || code === "EFBIG";
}

/** Whether an error says that the process, or the system, has no file descriptor left: it passes when others are closed. */
export function isTooManyFiles(error: unknown): boolean {
  const code = errnoOf(error);
  return code === "EMFILE" || code === "ENFILE";
}

/** The `code` of an error of the operating system, or undefined when `error` is none. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}
