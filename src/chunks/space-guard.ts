/**
 * Keeps a reserve of the disk free: writes are refused before the disk is full, so that removal, repair and the Raft log go
 * on; they are accepted again by themselves as soon as there is space.
 *
 * Counts down from the last figure of the file system and asks again every so many bytes, and whenever it would refuse.
 */
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import type { Disk, DiskSpace } from "../std/disk.ts";

/** Bytes taken after which the file system is asked again: others write to it too. */
const REFRESH_INTERVAL_BYTES = 32 * 1024 * 1024;

/** The reserve of one store. */
export class SpaceGuard {
  readonly #disk: Disk;
  readonly #path: string;
  readonly #reserveBytes: number;
  /** Beyond the reserve, for compaction alone: a disk that fills with what is dead can still be cleaned. */
  readonly #compactionBytes: number;
  #space: DiskSpace;
  #takenBytes = 0;
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
    return !this.#allows(CHUNK_SIZE_BYTES);
  }

  /** Accounts for a write of `sizeBytes`. Errors: NO_SPACE when it would touch the reserve. */
  async take(sizeBytes: number): Promise<void> {
    await this.require(sizeBytes);
    this.#takenBytes += sizeBytes;
  }

  /** Accounts for a write of compaction, which may use what is kept for it. Errors: NO_SPACE when it would touch the reserve. */
  async takeForCompaction(sizeBytes: number): Promise<void> {
    const isEnough = (): boolean =>
      this.#space.freeBytes - this.#takenBytes - sizeBytes >= this.#reserveBytes;
    if (!isEnough()) await this.refresh();
    if (!isEnough()) throw this.#noSpace();
    this.#takenBytes += sizeBytes;
  }

  /** Checks that `sizeBytes` could be written, without accounting for them. Errors: NO_SPACE. */
  async require(sizeBytes: number): Promise<void> {
    if (!this.#allows(sizeBytes) || this.#takenBytes >= REFRESH_INTERVAL_BYTES) await this.refresh();
    if (!this.#allows(sizeBytes)) throw this.#noSpace();
  }

  /** Asks the file system. */
  async refresh(): Promise<void> {
    this.#refreshing ??= this.#refresh().finally(() => {
      this.#refreshing = undefined;
    });
    await this.#refreshing;
  }

  async #refresh(): Promise<void> {
    this.#space = await this.#disk.space(this.#path);
    this.#takenBytes = 0;
  }

  #allows(sizeBytes: number): boolean {
    const kept = this.#reserveBytes + this.#compactionBytes;
    return this.#space.freeBytes - this.#takenBytes - sizeBytes >= kept;
  }

  #noSpace(): DriveError {
    const freeBytes = String(this.space.freeBytes);
    const reserveBytes = this.#reserveBytes + this.#compactionBytes;
    return new DriveError(
      "NO_SPACE",
      `The disk has ${freeBytes} bytes left, and ${reserveBytes} are kept in reserve.`,
      { free_bytes: freeBytes, reserve_bytes: String(reserveBytes) },
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
