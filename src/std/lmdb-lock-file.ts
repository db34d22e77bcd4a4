/**
 * LMDB's lock file, kept in memory instead of beside the data.
 *
 * Every read transaction writes its number into the lock file, which is mapped into memory. On a disk that hangs, such a write waits in
 * the kernel as soon as the page was written back since the last one (ext4 then wants to note a new modification time), and with
 * it the main thread: for a second of that, the other nodes elect another leader. What the file holds is worthless after the process
 * has ended, and one process at a time uses it (node/data-lock.ts), so a link leads to a file of a file system in memory. Where there is
 * none, it stays beside the data.
 *
 * A process that is killed leaves its folder behind until its data directory is opened again, which may be never. So the folder's
 * name says whose it is (pid namespace, pid, and when that process began), and whoever starts next removes those of the dead.
 */
import { mkdtemp, readdir, readFile, readlink, rm, symlink } from "node:fs/promises";
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
  const made = await makeLockFolder(memoryDirectory);
  // LMDB then makes its file beside the data, as it always did.
  if (made === undefined) return false;
  await symlink(join(made, LOCK_NAME), join(directory, LOCK_NAME));
  return true;
}

/** Makes a folder of this process for a lock. @returns undefined where that is not possible: not there, not ours to write, or full */
export async function makeLockFolder(memoryDirectory = MEMORY_DIRECTORY): Promise<string | undefined> {
  try {
    return await mkdtemp(join(memoryDirectory, `${PREFIX}${await ownerName()}-`));
  } catch {
    return undefined;
  }
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

/** The namespace of process ids that this process lives in, as digits; undefined where the kernel does not say. */
async function pidNamespace(): Promise<string | undefined> {
  const link = await readlink("/proc/self/ns/pid").catch(() => "");
  return /\d+/.exec(link)?.[0];
}

/** When a process began, in ticks since the machine started; undefined when there is no such process. */
async function beginningOf(pid: number | "self"): Promise<string | undefined> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
  // The second field is a name in parentheses that may hold anything; this is the 22nd.
  return text
    .slice(text.lastIndexOf(")") + 2)
    .split(" ")
    .at(19);
}

async function ownerName(): Promise<string> {
  return `${(await pidNamespace()) ?? "0"}-${process.pid}-${(await beginningOf("self")) ?? "0"}`;
}

/**
 * Removes the locks of processes that are gone. Those of processes that this one cannot see (another namespace, as in containers
 * that share the memory) stay, and so does what others may not remove. @returns how many were removed
 */
export async function removeStaleLocks(memoryDirectory = MEMORY_DIRECTORY): Promise<number> {
  const namespace = await pidNamespace();
  // No such directory: nothing is kept there.
  const names = await readdir(memoryDirectory).catch((): string[] => []);
  let count = 0;
  for (const name of names) {
    const [, where, pid, beginning] = /^netdisk-lock-(\d+)-(\d+)-(\d+)-/.exec(name) ?? [];
    if (namespace === undefined || where !== namespace || pid === undefined) continue;
    if ((await beginningOf(Number(pid))) === beginning) continue;
    const removed = await rm(join(memoryDirectory, name), { recursive: true, force: true }).then(
      () => 1,
      () => 0,
    );
    count += removed;
  }
  return count;
}
