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
  #hasUnreadable = false;

  /** @param isTolerant whether EIO is taken for damage; else it goes on to the caller */
  constructor(file: DiskFile, isTolerant: boolean) {
    this.#file = file;
    this.#isTolerant = isTolerant;
  }

  /** The path of the file. */
  get path(): string {
    return this.#file.path;
  }

  /** Whether anything could not be read so far. */
  get hasUnreadable(): boolean {
    return this.#hasUnreadable;
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
    for (let at = 0; at < sizeBytes; at += UNREADABLE_SIZE_BYTES) {
      const part = await this.#page(offset + at, Math.min(UNREADABLE_SIZE_BYTES, sizeBytes - at));
      if (part !== undefined) bytes.set(part, at);
    }
    return bytes;
  }

  async #page(offset: number, length: number): Promise<Uint8Array | undefined> {
    try {
      return await this.#file.read(offset, length);
    } catch (error) {
      if (errnoOf(error) !== "EIO") throw error;
      this.#hasUnreadable = true;
      return undefined;
    }
  }
}
