/** The disk of the machine: Disk over node:fs. */
import * as fs from "node:fs";
import { open, readdir, rename, rm, stat, statfs, type FileHandle } from "node:fs/promises";
import { errnoOf, type Disk, type DiskFile, type DiskSpace, type FileStat, type OpenMode } from "./disk.ts";
import { makeDirectories } from "./make-directories.ts";

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

  async isNamed(): Promise<boolean> {
    const own = await this.#handle.stat({ bigint: true });
    try {
      const named = await stat(this.path, { bigint: true });
      return named.ino === own.ino && named.dev === own.dev;
    } catch (error) {
      if (errnoOf(error) === "ENOENT") return false;
      throw error;
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#handle.close();
  }
}

/** Files of the machine, by ordinary paths. New files are readable by their owner only. */
export class SystemDisk implements Disk {
  /** File systems that are known to keep the times at which files were made. */
  readonly #devicesWithBirth = new Set<bigint>();

  async open(path: string, mode: OpenMode): Promise<DiskFile> {
    return new SystemFile(path, await open(path, FLAGS[mode], 0o600));
  }

  async makeDirectory(path: string): Promise<void> {
    await makeDirectories(path, 0o700);
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

  async stat(path: string): Promise<FileStat | undefined> {
    try {
      const { ino, dev, birthtimeNs, ctimeNs, size } = await stat(path, { bigint: true });
      // Where files do not tell when they were made, Node gives 0 or the time of the last change: one other than that shows that they do.
      if (birthtimeNs > 0n && birthtimeNs !== ctimeNs) this.#devicesWithBirth.add(dev);
      const madeAt = this.#devicesWithBirth.has(dev) ? Math.max(1, fold(birthtimeNs)) : 0;
      return { fileNumber: fold(ino ^ (dev << 20n)), madeAt, sizeBytes: Number(size) };
    } catch (error) {
      if (errnoOf(error) === "ENOENT") return undefined;
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

/** 64 bits in 32. */
function fold(value: bigint): number {
  return Number(BigInt.asUintN(32, value ^ (value >> 32n)));
}
