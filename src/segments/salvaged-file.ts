/**
 * A file as recovery reads it when the disk cannot give all of it back: sectors that answer EIO read as zeros, which pass no
 * checksum, so that they are found damaged like any other damage, and never taken for absence.
 */
import { errnoOf, type DiskFile } from "../std/disk.ts";

/** What is given up at once when it cannot be read: a page. */
const UNREADABLE_SIZE_BYTES = 4096;

/** Reads of a file, with what cannot be read as zeros. */
export class SalvagedFile {
  readonly #file: DiskFile;
  readonly #isTolerant: boolean;
  #unreadableStart = Number.POSITIVE_INFINITY;
  #unreadableEnd = 0;

  /** @param isTolerant whether EIO is taken for damage; else it goes on to the caller */
  constructor(file: DiskFile, isTolerant: boolean) {
    this.#file = file;
    this.#isTolerant = isTolerant;
  }

  /** The path of the file. */
  get path(): string {
    return this.#file.path;
  }

  /** Where the first page starts that could not be read so far; infinite when all could. */
  get unreadableStart(): number {
    return this.#unreadableStart;
  }

  /** Where the last page ends that could not be read so far; 0 when all could. */
  get unreadableEnd(): number {
    return this.#unreadableEnd;
  }

  /** See DiskFile. */
  size(): Promise<number> {
    return this.#file.size();
  }

  /** See DiskFile. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    try {
      return await this.#file.read(offset, length);
    } catch (error) {
      if (!this.#isTolerant || errnoOf(error) !== "EIO") throw error;
    }
    const sizeBytes = Math.max(0, Math.min(length, (await this.#file.size()) - offset));
    const bytes = new Uint8Array(sizeBytes);
    // Page by page of the file: a piece that reached into two of them would give up the good one with the other.
    for (let from = offset; from < offset + sizeBytes;) {
      const pageEnd = (Math.floor(from / UNREADABLE_SIZE_BYTES) + 1) * UNREADABLE_SIZE_BYTES;
      const to = Math.min(offset + sizeBytes, pageEnd);
      const part = await this.#part(from, to);
      if (part !== undefined) bytes.set(part, from - offset);
      from = to;
    }
    return bytes;
  }

  /** What lies between two places of one page; undefined when it cannot be read. */
  async #part(from: number, to: number): Promise<Uint8Array | undefined> {
    try {
      return await this.#file.read(from, to - from);
    } catch (error) {
      if (errnoOf(error) !== "EIO") throw error;
      const pageStart = Math.floor(from / UNREADABLE_SIZE_BYTES) * UNREADABLE_SIZE_BYTES;
      this.#unreadableStart = Math.min(this.#unreadableStart, pageStart);
      this.#unreadableEnd = Math.max(this.#unreadableEnd, to);
      return undefined;
    }
  }
}
