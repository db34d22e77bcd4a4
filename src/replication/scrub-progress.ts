/**
 * How far a scrub pass is, kept in a small file beside the chunks so that a restart goes on where it was.
 *
 * Disposable: a file that is absent, damaged, or of another store begins a new pass, which costs reading again and nothing else.
 */
import type { ExtentKey } from "../drive/content.ts";
import { readAtomicFile, writeAtomicFile } from "../std/atomic-file.ts";
import { asBuffer } from "../std/bytes.ts";
import type { Disk } from "../std/disk.ts";

const FILE = { name: "scrub", magic: "NDSCRUB1" } as const;

/** A pass under way. */
export interface ScrubProgress {
  readonly storeIncarnation: string;
  /** From 1. */
  readonly pass: number;
  /** Cluster time at which it began. */
  readonly startTimeMs: number;
  /** The last extent that was read; undefined before the first. */
  readonly after: ExtentKey | undefined;
  readonly extentCount: number;
  readonly bytes: number;
  readonly damagedCount: number;
}

/** Keeps the progress of one store. */
export interface ScrubProgressStore {
  load(): Promise<ScrubProgress | undefined>;
  save(progress: ScrubProgress): Promise<void>;
}

/** ScrubProgressStore in a file of `directory`, which exists. */
export class ScrubProgressFile implements ScrubProgressStore {
  readonly #disk: Disk;
  readonly #directory: string;

  constructor(disk: Disk, directory: string) {
    this.#disk = disk;
    this.#directory = directory;
  }

  async load(): Promise<ScrubProgress | undefined> {
    const found = await readAtomicFile(this.#disk, { directory: this.#directory, ...FILE });
    if (found.kind !== "intact") return undefined;
    return JSON.parse(asBuffer(found.content).toString("utf8")) as ScrubProgress;
  }

  async save(progress: ScrubProgress): Promise<void> {
    const content = Buffer.from(JSON.stringify(progress));
    await writeAtomicFile(this.#disk, { directory: this.#directory, ...FILE }, content);
  }
}
