/**
 * Damage to what a machine has stored, put there while it is down: bits that flip, writes that went to another place (D5) or
 * nowhere (D9), pages that cannot be read (D6), stores that are gone, unreadable or old copies.
 *
 * A write that went nowhere is indistinguishable from one that a crash took, when it is the newest of a log; so it is put into
 * the front of a file, where a later record says that it was durable.
 */
import { must } from "../../src/std/assert.ts";
import type { StoreDamage } from "../../src/std/memory-ordered-store.ts";
import type { SeededPrng } from "../../src/std/prng.ts";
import type { MemoryDisk } from "../support/memory-disk.ts";
import { DATA_DIRECTORY } from "./sim-machine.ts";

/** Kinds of damage to files. */
export type FileDamage = "flipped-bit" | "misdirected-write" | "lost-write" | "unreadable-page";

/** Which files: those of the chunk store, or those of the Raft log. */
export type DamagedFiles = "chunks" | "raft/log";

/** Ways in which a store is damaged. */
export const STORE_DAMAGES: readonly StoreDamage[] = ["record", "unreadable", "gone", "older"];

/** Bytes at the start of a segment that are not damaged: its header, without which the whole file is lost. */
const SEGMENT_HEADER_BYTES = 64;
const SECTOR_BYTES = 512;
/** Files of fewer sectors do not lose or swap any. */
const SECTOR_COUNT_MIN = 5;
/** The front of a file in which a write may be lost. */
const LOST_WRITE_PART = 0.5;

/** Files that can be damaged in that way. */
export function pathsToDamage(disk: MemoryDisk, files: DamagedFiles, how: FileDamage): readonly string[] {
  const isOfSectors = how === "misdirected-write" || how === "lost-write";
  const sizeBytesMin = isOfSectors ? SECTOR_COUNT_MIN * SECTOR_BYTES : SEGMENT_HEADER_BYTES + 1;
  return disk
    .filesBelow(`${DATA_DIRECTORY}/${files}`)
    .filter((path) => path.endsWith(".seg"))
    .filter((path) => disk.contentOf(path).length >= sizeBytesMin);
}

/** Damages a file; says what it did, or undefined when there is nothing to damage. */
export function damageFile(
  disk: MemoryDisk,
  files: DamagedFiles,
  how: FileDamage,
  prng: SeededPrng,
): string | undefined {
  const paths = pathsToDamage(disk, files, how);
  if (paths.length === 0) return undefined;
  const path = must(paths[prng.below(paths.length)], "a file");
  const content = disk.contentOf(path);
  const offset = SEGMENT_HEADER_BYTES + prng.below(content.length - SEGMENT_HEADER_BYTES);
  switch (how) {
    case "flipped-bit":
      disk.flipBit(path, offset, prng.below(8));
      break;
    case "unreadable-page":
      disk.spoilPage(path, offset);
      break;
    case "misdirected-write": {
      // The first sector holds the header.
      const sectorCount = Math.floor(content.length / SECTOR_BYTES);
      const from = 1 + prng.below(sectorCount - 2);
      const to = from + 1 + prng.below(sectorCount - from - 1);
      content.set(content.slice(from * SECTOR_BYTES, (from + 1) * SECTOR_BYTES), to * SECTOR_BYTES);
      disk.overwrite(path, content);
      break;
    }
    case "lost-write": {
      const sectorCount = Math.floor((content.length * LOST_WRITE_PART) / SECTOR_BYTES);
      const at = (1 + prng.below(sectorCount - 1)) * SECTOR_BYTES;
      disk.overwrite(path, content.fill(0, at, at + SECTOR_BYTES));
      break;
    }
  }
  return `${how} ${path} about ${offset}`;
}
