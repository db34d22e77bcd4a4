/**
 * LMDB's lock file, kept in memory instead of beside the data.
 *
 * Every read transaction writes its number into the lock file, which is mapped into memory. On a disk that hangs, such a write waits in
 * the kernel as soon as the page was written back since the last one (ext4 then wants to note a new modification time), and with
 * it the main thread: for a second of that, the other nodes elect another leader. What the file holds is worthless after the process
 * has ended, and one process at a time uses it (node/data-lock.ts), so a link leads to a file of a file system in memory. Where there is
 * none, it stays beside the data.
 */
import { mkdtemp, readlink, rm, symlink } from "node:fs/promises";
import { dirname, join } from "node:path";

/** A file system in memory, on Linux. */
const MEMORY_DIRECTORY = "/dev/shm";

const LOCK_NAME = "lock.mdb";
const PREFIX = "netdisk-lock-";

/**
 * Makes `directory`, an LMDB environment that is not open, ready to be opened with its lock in memory.
 * @returns whether it is in memory; false where that is not possible
 */
export async function moveLockToMemory(
  directory: string,
  memoryDirectory = MEMORY_DIRECTORY,
): Promise<boolean> {
  await removeLock(directory, memoryDirectory);
  let made: string;
  try {
    made = await mkdtemp(join(memoryDirectory, PREFIX));
  } catch {
    // Not there, not ours to write, or full: LMDB then makes its file beside the data, as it always did.
    return false;
  }
  await symlink(join(made, LOCK_NAME), join(directory, LOCK_NAME));
  return true;
}

/** Removes the lock of an environment that is not open, wherever it is: one of a process that was killed, too. */
export async function removeLock(directory: string, memoryDirectory = MEMORY_DIRECTORY): Promise<void> {
  const link = join(directory, LOCK_NAME);
  // No link: a plain file of before, or nothing at all.
  const target = await readlink(link).catch(() => undefined);
  if (target?.startsWith(join(memoryDirectory, PREFIX)) === true && target.endsWith(LOCK_NAME)) {
    const made = dirname(target);
    if (dirname(made) === memoryDirectory) await rm(made, { recursive: true, force: true });
  }
  await rm(link, { force: true });
}
