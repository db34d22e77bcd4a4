/** The disk of the machine: Disk over node:fs. */
import * as fs from "node:fs";
import { mkdir, open, readdir, rename, rm, stat, statfs, type FileHandle } from "node:fs/promises";
import { errnoOf, type Disk, type DiskFile, type DiskSpace, type OpenMode } from "./disk.ts";

const FLAGS: Record<OpenMode, number> = {
  existing: fs.constants.O_RDWR,
  create: fs.constants.O_RDWR | fs.constants.O_CREAT | fs.constants.O_EXCL,
  "open-or-create": fs.constants.O_RDWR | fs.constants.O_CREAT,
  read: fs.constants.O_RDONLY,
};

class SystemFile implements DiskFile {
  readonly path: string;
  readonly #handle: FileHandle;
  #closed = false;

  constructor(path: string, handle: FileHandle) {
    this.path = path;
    this.#handle = handle;
  }

  async size(): Promise<number> {
    return (await this.#handle.stat()).size;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    const buffer = Buffer.allocUnsafe(length);
    let filled = 0;
    while (filled < length) {
      const { bytesRead } = await this.#handle.read(buffer, filled, length - filled, offset + filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return buffer.subarray(0, filled);
  }

  readSync(offset: number, length: number): Uint8Array {
    const buffer = Buffer.allocUnsafe(length);
    let filled = 0;
    while (filled < length) {
      const bytesRead = fs.readSync(this.#handle.fd, buffer, filled, length - filled, offset + filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return buffer.subarray(0, filled);
  }

  async write(offset: number, parts: readonly Uint8Array[]): Promise<void> {
    // writev() may write less than asked (a signal, a nearly full disk); go on where it stopped, so that the caller sees
    // either everything written or the error.
    let pending = parts.filter((part) => part.length > 0);
    let position = offset;
    while (pending.length > 0) {
      const { bytesWritten } = await this.#handle.writev(pending as Uint8Array[], position);
      position += bytesWritten;
      let left = bytesWritten;
      const rest: Uint8Array[] = [];
      for (const part of pending) {
        if (left >= part.length) left -= part.length;
        else {
          rest.push(left > 0 ? part.subarray(left) : part);
          left = 0;
        }
      }
      pending = rest;
    }
  }

  sync(): Promise<void> {
    return this.#handle.datasync();
  }

  truncate(sizeBytes: number): Promise<void> {
    return this.#handle.truncate(sizeBytes);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#handle.close();
  }
}

/** Files of the machine, by ordinary paths. New files are readable by their owner only. */
export class SystemDisk implements Disk {
  async open(path: string, mode: OpenMode): Promise<DiskFile> {
    return new SystemFile(path, await open(path, FLAGS[mode], 0o600));
  }

  async makeDirectory(path: string): Promise<void> {
    await mkdir(path, { recursive: true, mode: 0o700 });
  }

  async list(path: string): Promise<string[]> {
    return (await readdir(path)).sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  }

  async exists(path: string): Promise<boolean> {
    try {
      await stat(path);
      return true;
    } catch (error) {
      if (errnoOf(error) === "ENOENT") return false;
      throw error;
    }
  }

  rename(from: string, to: string): Promise<void> {
    return rename(from, to);
  }

  remove(path: string): Promise<void> {
    return rm(path, { recursive: true, force: true });
  }

  async syncDirectory(path: string): Promise<void> {
    const handle = await open(path, fs.constants.O_RDONLY);
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  }

  async space(path: string): Promise<DiskSpace> {
    const figures = await statfs(path);
    return { freeBytes: figures.bavail * figures.bsize, totalBytes: figures.blocks * figures.bsize };
  }
}
