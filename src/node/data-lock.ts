/**
 * Keeps a second process away from a data directory.
 *
 * On Linux the lock is a listening socket in the abstract namespace, named after the directory's device and inode: the kernel
 * hands it to one process at a time and takes it back when that process ends, however it ends, so a lock is never stale and
 * never needs cleaning up. Elsewhere it is a listening socket file in the directory, taken over when nobody answers behind it.
 * Processes in different network namespaces do not see each other's abstract sockets: the store that opens the directory next
 * (LMDB) is the second line there.
 */
import { rmSync, statSync } from "node:fs";
import { connect, createServer, type Server } from "node:net";
import { join } from "node:path";
import { errnoOf } from "../std/disk.ts";
import { makeDirectories } from "../std/make-directories.ts";
import { DriveError } from "../drive/errors.ts";

/** A held lock. */
export interface DataLock {
  /** Gives the directory free. Idempotent. */
  release(): Promise<void>;
}

function listen(server: Server, address: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(address, () => {
      server.off("error", reject);
      resolve();
    });
  });
}

function answers(address: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(address);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

/**
 * Locks `directory`, which is made when absent, until release() or the end of the process.
 * @throws DriveError DATA_DIRECTORY_IN_USE when another process has it, NOT_A_DIRECTORY when a file is there; errors of the system
 */
export async function lockDataDirectory(directory: string): Promise<DataLock> {
  try {
    await makeDirectories(directory, 0o700);
  } catch (error) {
    if (errnoOf(error) !== "EEXIST" && errnoOf(error) !== "ENOTDIR") throw error;
    throw new DriveError(
      "NOT_A_DIRECTORY",
      `The data directory ${directory} cannot be made: a file is in its place, or in that of a folder above.`,
      { path: directory },
      error,
    );
  }
  const identity = statSync(directory, { bigint: true });
  const abstract = process.platform === "linux";
  const address = abstract ? `\0netdisk-data-${identity.dev}-${identity.ino}` : join(directory, "lock.sock");
  const server = createServer((socket) => socket.destroy());
  try {
    await listen(server, address);
  } catch (error) {
    if (errnoOf(error) !== "EADDRINUSE") throw error;
    if (abstract || (await answers(address))) {
      throw new DriveError(
        "DATA_DIRECTORY_IN_USE",
        `The data directory ${directory} is in use by another process.`,
        { directory },
        error,
      );
    }
    rmSync(address, { force: true });
    await listen(server, address);
  }
  server.unref();
  return {
    release: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
      }),
  };
}
