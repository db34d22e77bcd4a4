/**
 * Keeps a reserve of the disk free: writes of users are refused before the disk is full, so that removal, repair and the Raft log
 * go on; they are accepted again by themselves as soon as there is space.
 *
 * From the full disk up: half of the reserve is the Raft log's and the tree's; then what compaction may use, because it gives back
 * more; then the other half of the reserve, for copies that repair makes; then everybody's. So each goes on where the next one up
 * has stopped.
 *
 * Counts down from the last figure of the file system and asks again every so many bytes, and whenever it would refuse.
 */
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import type { Disk, DiskSpace } from "../std/disk.ts";
import { formatBytes } from "../std/format.ts";

/** Bytes taken after which the file system is asked again: others write to it too. */
const REFRESH_INTERVAL_BYTES = 32 * 1024 * 1024;

/** Who writes: users, or the node itself because the cluster lacks a copy. */
export type SpaceUse = "users" | "copies";

/** The reserve of one store. */
export class SpaceGuard {
  readonly #disk: Disk;
  readonly #path: string;
  readonly #reserveBytes: number;
  /** Beside the reserve, for compaction alone: a disk that fills with what is dead can still be cleaned. */
  readonly #compactionBytes: number;
  #space: DiskSpace;
  #takenBytes = 0;
  /** Of writes under way: the file system may not know of them yet. */
  #heldBytes = 0;
  #refreshing: Promise<void> | undefined;

  private constructor(
    disk: Disk,
    path: string,
    reserves: { readonly reserveBytes: number; readonly compactionBytes: number },
    space: DiskSpace,
  ) {
    this.#disk = disk;
    this.#path = path;
    this.#reserveBytes = reserves.reserveBytes;
    this.#compactionBytes = reserves.compactionBytes;
    this.#space = space;
  }

  /**
   * @param reserveBytes what stays free; undefined: defaultReserveBytes() of the file system
   * @param compactionBytes what stays free beside it for compaction alone, but never more than a twentieth of the disk
   */
  static async open(
    disk: Disk,
    path: string,
    reserveBytes: number | undefined,
    compactionBytes = 0,
  ): Promise<SpaceGuard> {
    const space = await disk.space(path);
    const reserves = {
      reserveBytes: reserveBytes ?? defaultReserveBytes(space),
      compactionBytes: Math.min(compactionBytes, Math.floor(space.totalBytes / 20)),
    };
    return new SpaceGuard(disk, path, reserves, space);
  }

  /** Free and total bytes as known now. */
  get space(): DiskSpace {
    return { ...this.#space, freeBytes: Math.max(0, this.#space.freeBytes - this.#takenBytes) };
  }

  /**
   * Whether a chunk would be refused, by the figures known now. Not a memory of the last refusal: nobody sends writes to a
   * store that says so, so only refresh() could ever end it.
   */
  get refused(): boolean {
    return !this.#allows(CHUNK_SIZE_BYTES, "users");
  }

  /**
   * Accounts for a write of `sizeBytes` that `work` makes; until that settles no answer of the file system is believed to include
   * it. Errors: NO_SPACE when it would touch what is kept from `use`, with nothing done; those of `work`.
   */
  async hold<T>(sizeBytes: number, work: () => Promise<T>, use: SpaceUse = "users"): Promise<T> {
    if (this.#isDue(sizeBytes, use)) await this.refresh();
    // Nobody else comes between this look and the taking, however many were waiting for the answer.
    if (!this.#allows(sizeBytes, use)) throw this.#noSpace(use);
    this.#takenBytes += sizeBytes;
    this.#heldBytes += sizeBytes;
    try {
      return await work();
    } finally {
      this.#heldBytes -= sizeBytes;
    }
  }

  /** Accounts for a write of compaction, which may use what is kept for it. Errors: NO_SPACE when it would touch the rest. */
  async takeForCompaction(sizeBytes: number): Promise<void> {
    const isEnough = (): boolean => this.space.freeBytes - sizeBytes >= this.#lastBytes;
    if (!isEnough()) await this.refresh();
    if (!isEnough()) throw this.#noSpace("copies");
    this.#takenBytes += sizeBytes;
  }

  /** Checks that `sizeBytes` could be written, without accounting for them. Errors: NO_SPACE. */
  async require(sizeBytes: number, use: SpaceUse = "users"): Promise<void> {
    if (this.#isDue(sizeBytes, use)) await this.refresh();
    if (!this.#allows(sizeBytes, use)) throw this.#noSpace(use);
  }

  /** Asks the file system. */
  async refresh(): Promise<void> {
    this.#refreshing ??= this.#refresh().finally(() => {
      this.#refreshing = undefined;
    });
    await this.#refreshing;
  }

  async #refresh(): Promise<void> {
    const heldBytes = this.#heldBytes;
    const takenBytes = this.#takenBytes;
    this.#space = await this.#disk.space(this.#path);
    // What was under way then, and what was taken since: bytes of it that are counted twice make this refuse early, never late.
    this.#takenBytes = heldBytes + (this.#takenBytes - takenBytes);
  }

  #isDue(sizeBytes: number, use: SpaceUse): boolean {
    return !this.#allows(sizeBytes, use) || this.#takenBytes - this.#heldBytes >= REFRESH_INTERVAL_BYTES;
  }

  #allows(sizeBytes: number, use: SpaceUse): boolean {
    return this.#space.freeBytes - this.#takenBytes - sizeBytes >= this.#keptFrom(use);
  }

  /** Bytes of the reserve that chunks never use, whoever writes them. */
  get #lastBytes(): number {
    return Math.ceil(this.#reserveBytes / 2);
  }

  #keptFrom(use: SpaceUse): number {
    return (use === "users" ? this.#reserveBytes : this.#lastBytes) + this.#compactionBytes;
  }

  #noSpace(use: SpaceUse): DriveError {
    const { freeBytes } = this.space;
    const reserveBytes = this.#keptFrom(use);
    return new DriveError(
      "NO_SPACE",
      `The disk is full: it has ${formatBytes(freeBytes)} left, and ${formatBytes(reserveBytes)} are kept in reserve.`,
      { free_bytes: String(freeBytes), reserve_bytes: String(reserveBytes) },
    );
  }
}

/** Largest reserve by default: 2 % of a very large disk would be more than removal and repair ever need. */
const RESERVE_BYTES_MAX = 16 * 1024 ** 3;
const RESERVE_BYTES_MIN = 1024 ** 3;

/** 2 % of the disk, at least 1 GiB and at most 16 GiB, but never more than a tenth of a small disk. */
export function defaultReserveBytes(space: DiskSpace): number {
  const share = Math.max(RESERVE_BYTES_MIN, Math.floor(space.totalBytes / 50));
  return Math.min(share, RESERVE_BYTES_MAX, Math.floor(space.totalBytes / 10));
}
