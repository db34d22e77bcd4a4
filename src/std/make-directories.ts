/**
 * Makes a folder with those above it, step by step.
 *
 * Node's own recursive mkdir never ends in file systems that refuse new folders with ENOENT, as /proc does: it takes that for a
 * missing parent, over and over, at full processor time and in a thread that no signal reaches. Here every folder is tried twice
 * at most.
 */
import { mkdir, stat } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { errnoOf } from "./disk.ts";

/** Mode of new folders when none is given, of which the process's mask takes its part. */
const MODE_DEFAULT = 0o777;

/**
 * Makes the folder `path` and those above it that are missing, with `mode`; one that is there, or is made meanwhile, is fine.
 * @throws errors of the system: EEXIST or ENOTDIR when something else is in the way, ENOENT where no folder can be made
 */
export async function makeDirectories(path: string, mode = MODE_DEFAULT): Promise<void> {
  const missing: string[] = [];
  // Up to the nearest one that is there or can be made.
  for (let at = resolve(path); !(await makeOne(at, mode, dirname(at) !== at)); at = dirname(at))
    missing.push(at);
  // And down again: what is refused now is refused for good.
  for (const at of missing.toReversed()) await makeOne(at, mode, false);
}

/** Makes one folder, unless it is there. Returns false when its parent is missing and `mayLackParent`. */
async function makeOne(path: string, mode: number, mayLackParent: boolean): Promise<boolean> {
  try {
    await mkdir(path, { mode });
  } catch (error) {
    if (errnoOf(error) === "ENOENT" && mayLackParent) return false;
    // Most say EEXIST of what is there; a read-only file system and the root of a drive have codes of their own.
    if (!(await isDirectory(path))) throw error;
  }
  return true;
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    // Why the folder could not be made says more than why it cannot be looked at.
    if (errnoOf(error) !== undefined) return false;
    throw error;
  }
}
