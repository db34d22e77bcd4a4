/**
 * Files of the chunk store that go under a running process: removed, cut short, or replaced by other bytes, one of them or all.
 *
 * Who has a removed or replaced file open goes on with the old one; a cut is seen by everybody. The store notices all three within
 * the interval of its look (src/chunks/lost-files.ts), but for what it says that it cannot: a cut between the question for the size
 * and the write that follows, which is not made here, and bytes that were exchanged before a process began, which reads find.
 */
import { must } from "../../src/std/assert.ts";
import type { Prng } from "../../src/std/prng.ts";
import type { MemoryDisk } from "../support/memory-disk.ts";
import { pathsToDamage } from "./sim-damage.ts";
import type { SimMachine } from "./sim-machine.ts";

/** In one of so many losses all files go at once. */
const WHOLE_STORES = 4;

type Way = "removed" | "replaced" | "cut-short";

/** Loses files under the running process of a machine; says which, empty when there is none yet. */
export function loseFiles(machine: SimMachine, prng: Prng): readonly string[] {
  const { disk } = machine;
  const all = pathsToDamage(disk, "chunks", "flipped-bit");
  if (all.length === 0) return [];
  const one = must(all[prng.below(all.length)], "a file");
  const paths = prng.below(WHOLE_STORES) === 0 ? all : [one];
  return paths.map((path) => {
    const way = drawWay(disk, path, prng);
    if (way === "removed") disk.lose(path);
    else machine.noteExchange();
    if (way === "cut-short") disk.cut(path, prng.below(disk.contentOf(path).length));
    if (way === "replaced") {
      const other = must(all[prng.below(all.length)], "a file");
      disk.replace(path, otherBytes(disk, path, other, prng));
    }
    return `${path} ${way}`;
  });
}

function drawWay(disk: MemoryDisk, path: string, prng: Prng): Way {
  const way = must((["removed", "replaced", "cut-short"] as const)[prng.below(3)], "a way");
  return way === "cut-short" && disk.isBeingWritten(path) ? "removed" : way;
}

/** What somebody puts in the place of a file: an older state of it, one of another file, or one of which a part is zeros. */
function otherBytes(disk: MemoryDisk, path: string, otherPath: string, prng: Prng): Uint8Array {
  const bytes = disk.contentOf(path);
  const at = prng.below(bytes.length);
  switch (prng.below(3)) {
    case 0:
      return bytes.subarray(0, at);
    case 1:
      // It may have been removed a moment ago.
      return disk.filesBelow(otherPath).length > 0 ? disk.contentOf(otherPath) : bytes.subarray(0, at);
    default:
      return bytes.fill(0, at);
  }
}
