/**
 * A disk in memory with the durability rules of std/disk.ts taken at their worst: what was not synced may be lost, torn at
 * sector boundaries or kept in any subset at a crash, and so may directory operations that no syncDirectory() followed.
 *
 * Deterministic: what a crash keeps depends on the Prng handed in alone, and time passes only in `onOperation`. Faults are
 * asked for by failNext(), by a capacity, or by flipping bits of the durable image. After crash() the files opened before it
 * are dead: their operations reject with code ECRASH, or never settle with `afterCrash: "hang"`, like those of a process
 * that is gone.
 */
import { assert, must } from "../../src/std/assert.ts";
import type { Disk, DiskFile, DiskSpace, FileStat, OpenMode } from "../../src/std/disk.ts";
import type { Prng } from "../../src/std/prng.ts";

/** Everything the disk does that can be delayed, counted or made to fail. */
export type DiskOperation =
  | "open"
  | "create"
  | "read"
  | "write"
  | "sync"
  | "truncate"
  | "close"
  | "makeDirectory"
  | "list"
  | "exists"
  | "stat"
  | "rename"
  | "remove"
  | "syncDirectory"
  | "space";

/** How a MemoryDisk behaves. */
export interface MemoryDiskOptions {
  /** Bytes of all files together at most: writes and extensions beyond reject with ENOSPC after a partial write. */
  readonly capacityBytes?: number;
  /** Awaited before each asynchronous operation: the place to let virtual time pass, to count, to crash. */
  readonly onOperation?: (
    operation: DiskOperation,
    path: string,
    sizeBytes: number,
  ) => Promise<void> | undefined;
  /** What becomes of operations of before a crash: reject with ECRASH (default), or never settle. */
  readonly afterCrash?: "reject" | "hang";
}

/** What spoilPage() makes unreadable at once. */
const PAGE_SIZE_BYTES = 4096;

const SECTOR_SIZES_BYTES = [512, 4096] as const;
const CAPACITY_BYTES_DEFAULT = 2 ** 40;

type PendingWrite =
  | { readonly kind: "write"; readonly offset: number; readonly bytes: Uint8Array }
  | { readonly kind: "truncate"; readonly sizeBytes: number };

interface FileNode {
  readonly kind: "file";
  readonly fileNumber: number;
  /** What readers see. */
  content: GrowingBytes;
  /** What a crash cannot take away. */
  durable: GrowingBytes;
  pending: PendingWrite[];
  /** How many writes syncs have taken out of `pending` so far. */
  syncedCount: number;
  /** Pages that the disk cannot give back. */
  readonly unreadable: Set<number>;
  /** Open files through which it is being changed, with the epoch of their process. */
  readonly writers: Map<MemoryFile, number>;
}

interface DirectoryNode {
  readonly kind: "directory";
  readonly entries: Map<string, Node>;
  durableEntries: Map<string, Node>;
  /** Changes since the last sync: each sets names to nodes, or removes them, as one. */
  pending: ReadonlyMap<string, Node | undefined>[];
}

type Node = FileNode | DirectoryNode;

interface Failure {
  readonly operation: DiskOperation;
  readonly pattern: RegExp;
  readonly code: string;
  count: number;
}

/** A file system in memory. */
export class MemoryDisk implements Disk {
  readonly #root: DirectoryNode = newDirectory();
  readonly #failures: Failure[] = [];
  readonly #counts = new Map<DiskOperation, number>();
  readonly #hang: boolean;
  #epoch = 0;
  /** Hook awaited before each asynchronous operation; may be replaced at any time. */
  onOperation: MemoryDiskOptions["onOperation"];
  /** Bytes of all files together at most; may be changed at any time. */
  capacityBytes: number;

  constructor(options: MemoryDiskOptions = {}) {
    this.capacityBytes = options.capacityBytes ?? CAPACITY_BYTES_DEFAULT;
    this.onOperation = options.onOperation;
    this.#hang = options.afterCrash === "hang";
  }

  /** How often `operation` was started. */
  countOf(operation: DiskOperation): number {
    return this.#counts.get(operation) ?? 0;
  }

  /** Makes the next `count` operations of this kind on paths that match reject with an error of this code. */
  failNext(operation: DiskOperation, pattern: RegExp, code: string, count = 1): void {
    this.#failures.push({ operation, pattern, code, count });
  }

  /** Forgets failures that were asked for and have not happened; returns how many. */
  clearFailures(): number {
    return this.#failures.splice(0).length;
  }

  /** Bytes of all files now. */
  get usedBytes(): number {
    return sizeOf(this.#root);
  }

  /** Bytes that still fit; not counted out while the disk is without a capacity. */
  get freeBytes(): number {
    if (this.capacityBytes === CAPACITY_BYTES_DEFAULT) return this.capacityBytes;
    return Math.max(0, this.capacityBytes - this.usedBytes);
  }

  /**
   * Pulls the plug. Of every file, each sector of each write since its last sync is kept or lost by chance, and each
   * truncation; of every directory, each change since its last sync. What is open is dead; the disk can be used again.
   */
  crash(prng: Prng): void {
    this.#epoch += 1;
    this.#failures.length = 0;
    crashDirectory(this.#root, prng);
  }

  /** As crash(), but only the process dies: everything written is kept, synced or not. */
  kill(): void {
    this.#epoch += 1;
    this.#failures.length = 0;
  }

  /** Flips bit `bit` (0-7) of the byte at `offset`, in what is durable and in what readers see. */
  flipBit(path: string, offset: number, bit = 0): void {
    const file = this.#fileAt(path);
    for (const bytes of [file.content, file.durable]) {
      if (offset < bytes.length) bytes.set(offset, must(bytes.at(offset), "within the file") ^ (1 << bit));
    }
  }

  /** Makes reads of the page at `offset` reject with EIO until it is written again. */
  spoilPage(path: string, offset: number): void {
    this.#fileAt(path).unreadable.add(Math.floor(offset / PAGE_SIZE_BYTES));
  }

  /** The bytes that readers of a file see now. */
  contentOf(path: string): Uint8Array {
    return this.#fileAt(path).content.slice(0, Number.MAX_SAFE_INTEGER);
  }

  /** Replaces a file as damage would: at once and durably, without any operation being counted. */
  overwrite(path: string, bytes: Uint8Array): void {
    const file = this.#fileAt(path);
    file.content = GrowingBytes.of(bytes);
    file.durable = GrowingBytes.of(bytes);
    // A sync that is under way covers nothing that comes after this.
    file.syncedCount += file.pending.length;
    file.pending = [];
  }

  /**
   * Whether the living process is in the middle of changing the file at a path: a write or truncation is under way, or its writer has
   * asked how long it is and not acted on the answer yet. What is cut off then is filled with zeros by a write that nobody could stop.
   */
  isBeingWritten(path: string): boolean {
    return [...this.#fileAt(path).writers.values()].includes(this.#epoch);
  }

  /** Cuts off the end of a file as damage would, in place: who has it open sees it. */
  cut(path: string, sizeBytes: number): void {
    this.overwrite(path, this.contentOf(path).subarray(0, sizeBytes));
  }

  /** Loses a file, or a directory with all that is in it, as damage would. */
  lose(path: string): void {
    const { directory, name } = this.#parentOf(path);
    directory.entries.delete(name);
    directory.durableEntries.delete(name);
    directory.pending = directory.pending.map((change) => {
      const rest = new Map(change);
      rest.delete(name);
      return rest;
    });
  }

  /** Puts another file with these bytes in the place of one, durably, as restoring a backup does: who has the old one open keeps it. */
  replace(path: string, bytes: Uint8Array): void {
    this.lose(path);
    const { directory, name } = this.#parentOf(path);
    const node = newFile(bytes);
    directory.entries.set(name, node);
    directory.durableEntries.set(name, node);
  }

  /** Paths of all files below `path`, in byte order. */
  filesBelow(path: string): string[] {
    const node = this.#find(path);
    if (node === undefined) return [];
    if (node.kind === "file") return [path];
    const prefix = path === "/" ? "" : path;
    return namesOf(node).flatMap((name) => this.filesBelow(`${prefix}/${name}`));
  }

  async open(path: string, mode: OpenMode): Promise<DiskFile> {
    const existed = this.#find(path) !== undefined;
    const creates = !existed && (mode === "create" || mode === "open-or-create");
    const epoch = this.#epoch;
    await this.begin(creates ? "create" : "open", path, 0, epoch);
    if (epoch !== this.#epoch) await this.alive(path, epoch);
    const { directory, name } = this.#parentOf(path);
    let node = directory.entries.get(name);
    if (node?.kind === "directory") throw osError("EISDIR", path);
    if (node !== undefined && mode === "create") throw osError("EEXIST", path);
    if (node === undefined) {
      if (mode === "existing" || mode === "read") throw osError("ENOENT", path);
      node = newFile(new Uint8Array(0));
      change(directory, new Map([[name, node]]));
    }
    return new MemoryFile(this, path, node, { writable: mode !== "read", epoch: this.#epoch });
  }

  async makeDirectory(path: string): Promise<void> {
    const epoch = this.#epoch;
    await this.begin("makeDirectory", path, 0, epoch);
    if (epoch !== this.#epoch) await this.alive(path, epoch);
    let directory = this.#root;
    for (const name of componentsOf(path)) {
      let next = directory.entries.get(name);
      if (next === undefined) {
        next = newDirectory();
        change(directory, new Map([[name, next]]));
      }
      if (next.kind === "file") throw osError("ENOTDIR", path);
      directory = next;
    }
  }

  async list(path: string): Promise<string[]> {
    const epoch = this.#epoch;
    await this.begin("list", path, 0, epoch);
    if (epoch !== this.#epoch) await this.alive(path, epoch);
    return namesOf(this.#directoryAt(path));
  }

  async exists(path: string): Promise<boolean> {
    const epoch = this.#epoch;
    await this.begin("exists", path, 0, epoch);
    if (epoch !== this.#epoch) await this.alive(path, epoch);
    return this.#find(path) !== undefined;
  }

  async stat(path: string): Promise<FileStat | undefined> {
    const epoch = this.#epoch;
    await this.begin("stat", path, 0, epoch);
    if (epoch !== this.#epoch) await this.alive(path, epoch);
    const node = this.#find(path);
    if (node === undefined) return undefined;
    const { fileNumber, content } = this.#fileAt(path);
    return { fileNumber, madeAt: 0, sizeBytes: content.length };
  }

  async rename(from: string, to: string): Promise<void> {
    const epoch = this.#epoch;
    await this.begin("rename", to, 0, epoch);
    if (epoch !== this.#epoch) await this.alive(to, epoch);
    const source = this.#parentOf(from);
    const target = this.#parentOf(to);
    const node = source.directory.entries.get(source.name);
    if (node === undefined) throw osError("ENOENT", from);
    assert(source.directory === target.directory, "MemoryDisk renames within one directory only");
    change(
      source.directory,
      new Map<string, Node | undefined>([
        [source.name, undefined],
        [target.name, node],
      ]),
    );
  }

  async remove(path: string): Promise<void> {
    const epoch = this.#epoch;
    await this.begin("remove", path, 0, epoch);
    if (epoch !== this.#epoch) await this.alive(path, epoch);
    if (this.#find(path) === undefined) return;
    const { directory, name } = this.#parentOf(path);
    change(directory, new Map([[name, undefined]]));
  }

  async syncDirectory(path: string): Promise<void> {
    const epoch = this.#epoch;
    await this.begin("syncDirectory", path, 0, epoch);
    if (epoch !== this.#epoch) await this.alive(path, epoch);
    const directory = this.#directoryAt(path);
    directory.durableEntries = new Map(directory.entries);
    directory.pending = [];
  }

  async space(path: string): Promise<DiskSpace> {
    const epoch = this.#epoch;
    await this.begin("space", path, 0, epoch);
    if (epoch !== this.#epoch) await this.alive(path, epoch);
    return { freeBytes: this.freeBytes, totalBytes: this.capacityBytes };
  }

  /**
   * The disk as one process sees it: after the next crash, or kill, its operations end as those of a process that is gone,
   * while the disk itself serves the next process. What outlives its process in a test must not touch the disk any more.
   */
  process(): Disk {
    return new ProcessDisk(this, this.#epoch);
  }

  /** Counts an operation of the process of `epoch`, lets time pass, and fails it when that was asked for. For MemoryFile. */
  async begin(operation: DiskOperation, path: string, sizeBytes: number, epoch: number): Promise<void> {
    await this.alive(path, epoch);
    this.#counts.set(operation, this.countOf(operation) + 1);
    const waiting = this.onOperation?.(operation, path, sizeBytes);
    if (waiting !== undefined) await waiting;
    await this.alive(path, epoch);
    const failure = this.#failures.find(
      (candidate) => candidate.operation === operation && candidate.pattern.test(path),
    );
    if (failure === undefined) return;
    failure.count -= 1;
    if (failure.count <= 0) this.#failures.splice(this.#failures.indexOf(failure), 1);
    throw osError(failure.code, path);
  }

  /** Ends an operation of a process that has crashed. For MemoryFile. */
  async alive(path: string, epoch: number): Promise<void> {
    if (epoch === this.#epoch) return;
    if (this.#hang) await new Promise<never>(() => undefined);
    throw osError("ECRASH", path);
  }

  /** Whether a path names this very file. For MemoryFile. */
  hasAt(path: string, file: unknown): boolean {
    return this.#find(path) === file;
  }

  /** Whether the process of `epoch` lives. For ProcessDisk. */
  isAlive(epoch: number): boolean {
    return epoch === this.#epoch;
  }

  #find(path: string): Node | undefined {
    let node: Node | undefined = this.#root;
    for (const name of componentsOf(path)) {
      if (node?.kind !== "directory") return undefined;
      node = node.entries.get(name);
    }
    return node;
  }

  #fileAt(path: string): FileNode {
    const node = this.#find(path);
    if (node?.kind !== "file") throw osError("ENOENT", path);
    return node;
  }

  #directoryAt(path: string): DirectoryNode {
    const node = this.#find(path);
    if (node === undefined) throw osError("ENOENT", path);
    if (node.kind === "file") throw osError("ENOTDIR", path);
    return node;
  }

  #parentOf(path: string): { readonly directory: DirectoryNode; readonly name: string } {
    const components = componentsOf(path);
    const name = must(components.pop(), "a path names something below the root");
    return { directory: this.#directoryAt(`/${components.join("/")}`), name };
  }
}

class ProcessDisk implements Disk {
  readonly #disk: MemoryDisk;
  readonly #epoch: number;

  constructor(disk: MemoryDisk, epoch: number) {
    this.#disk = disk;
    this.#epoch = epoch;
  }

  open(path: string, mode: OpenMode): Promise<DiskFile> {
    return this.#alive(path, () => this.#disk.open(path, mode));
  }

  makeDirectory(path: string): Promise<void> {
    return this.#alive(path, () => this.#disk.makeDirectory(path));
  }

  list(path: string): Promise<string[]> {
    return this.#alive(path, () => this.#disk.list(path));
  }

  exists(path: string): Promise<boolean> {
    return this.#alive(path, () => this.#disk.exists(path));
  }

  stat(path: string): Promise<FileStat | undefined> {
    return this.#alive(path, () => this.#disk.stat(path));
  }

  rename(from: string, to: string): Promise<void> {
    return this.#alive(to, () => this.#disk.rename(from, to));
  }

  remove(path: string): Promise<void> {
    return this.#alive(path, () => this.#disk.remove(path));
  }

  syncDirectory(path: string): Promise<void> {
    return this.#alive(path, () => this.#disk.syncDirectory(path));
  }

  space(path: string): Promise<DiskSpace> {
    return this.#alive(path, () => this.#disk.space(path));
  }

  async #alive<T>(path: string, work: () => Promise<T>): Promise<T> {
    if (!this.#disk.isAlive(this.#epoch)) await this.#disk.alive(path, this.#epoch);
    return await work();
  }
}

class MemoryFile implements DiskFile {
  readonly path: string;
  readonly #disk: MemoryDisk;
  readonly #node: FileNode;
  readonly #writable: boolean;
  readonly #epoch: number;
  #closed = false;

  constructor(
    disk: MemoryDisk,
    path: string,
    node: FileNode,
    options: { readonly writable: boolean; readonly epoch: number },
  ) {
    this.#disk = disk;
    this.path = path;
    this.#node = node;
    this.#writable = options.writable;
    this.#epoch = options.epoch;
  }

  async size(): Promise<number> {
    if (this.#writable) this.#node.writers.set(this, this.#epoch);
    await this.#disk.alive(this.path, this.#epoch);
    return this.#node.content.length;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    this.#open();
    await this.#begin("read", length);
    if (!this.#disk.isAlive(this.#epoch)) await this.#disk.alive(this.path, this.#epoch);
    this.#refuseUnreadable(offset, length);
    return this.#node.content.slice(offset, length);
  }

  readSync(offset: number, length: number): Uint8Array {
    this.#open();
    this.#refuseUnreadable(offset, length);
    return this.#node.content.slice(offset, length);
  }

  async write(offset: number, parts: readonly Uint8Array[]): Promise<void> {
    this.#open();
    if (!this.#writable) throw osError("EBADF", this.path);
    const bytes = Buffer.concat(parts);
    this.#node.writers.set(this, this.#epoch);
    try {
      await this.#begin("write", bytes.length);
      if (!this.#disk.isAlive(this.#epoch)) await this.#disk.alive(this.path, this.#epoch);
      const grows = Math.max(0, offset + bytes.length - this.#node.content.length);
      const free = this.#disk.freeBytes;
      const fits = grows > free ? Math.max(0, bytes.length - (grows - free)) : bytes.length;
      if (fits > 0) {
        const kept = Uint8Array.from(bytes.subarray(0, fits));
        this.#node.content.write(offset, kept);
        for (const page of pagesOf(offset, fits)) this.#node.unreadable.delete(page);
        this.#node.pending.push({ kind: "write", offset, bytes: kept });
      }
      if (fits < bytes.length) throw osError("ENOSPC", this.path);
    } finally {
      this.#node.writers.delete(this);
    }
  }

  #refuseUnreadable(offset: number, length: number): void {
    const { unreadable, content } = this.#node;
    if (unreadable.size === 0) return;
    const readable = Math.min(length, content.length - offset);
    if (pagesOf(offset, readable).some((page) => unreadable.has(page))) throw osError("EIO", this.path);
  }

  async sync(): Promise<void> {
    this.#open();
    // What is written while the sync is under way is not promised by it.
    const node = this.#node;
    const covered = node.syncedCount + node.pending.length;
    await this.#begin("sync", 0);
    if (!this.#disk.isAlive(this.#epoch)) await this.#disk.alive(this.path, this.#epoch);
    const synced = node.pending.splice(0, Math.max(0, covered - node.syncedCount));
    node.syncedCount += synced.length;
    for (const pending of synced) apply(node.durable, pending);
  }

  async truncate(sizeBytes: number): Promise<void> {
    this.#open();
    if (!this.#writable) throw osError("EBADF", this.path);
    this.#node.writers.set(this, this.#epoch);
    try {
      await this.#begin("truncate", sizeBytes);
      if (!this.#disk.isAlive(this.#epoch)) await this.#disk.alive(this.path, this.#epoch);
      this.#node.content.resize(sizeBytes);
      this.#node.pending.push({ kind: "truncate", sizeBytes });
    } finally {
      this.#node.writers.delete(this);
    }
  }

  async isNamed(): Promise<boolean> {
    this.#open();
    await this.#begin("exists", 0);
    if (!this.#disk.isAlive(this.#epoch)) await this.#disk.alive(this.path, this.#epoch);
    return this.#disk.hasAt(this.path, this.#node);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#node.writers.delete(this);
    await this.#begin("close", 0);
  }

  #begin(operation: DiskOperation, sizeBytes: number): Promise<void> {
    return this.#disk.begin(operation, this.path, sizeBytes, this.#epoch);
  }

  #open(): void {
    if (this.#closed) throw osError("EBADF", this.path);
  }
}

/** Bytes that grow at the end without being copied each time. */
class GrowingBytes {
  length = 0;
  #bytes = new Uint8Array(0);

  static of(bytes: Uint8Array): GrowingBytes {
    const result = new GrowingBytes();
    result.write(0, bytes);
    return result;
  }

  at(offset: number): number | undefined {
    return offset < this.length ? this.#bytes[offset] : undefined;
  }

  set(offset: number, value: number): void {
    this.#bytes[offset] = value;
  }

  slice(offset: number, length: number): Uint8Array {
    return this.#bytes.slice(Math.min(offset, this.length), Math.min(this.length, offset + length));
  }

  write(offset: number, bytes: Uint8Array): void {
    if (offset + bytes.length > this.length) this.resize(offset + bytes.length);
    this.#bytes.set(bytes, offset);
  }

  resize(length: number): void {
    if (length > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(length, 2 * this.#bytes.length));
      grown.set(this.#bytes.subarray(0, this.length));
      this.#bytes = grown;
    } else if (length < this.length) {
      this.#bytes.fill(0, length, this.length);
    }
    this.length = length;
  }
}

function crashDirectory(directory: DirectoryNode, prng: Prng): void {
  for (const pending of directory.pending) {
    if (prng.below(2) === 0) applyChange(directory.durableEntries, pending);
  }
  directory.pending = [];
  directory.entries.clear();
  for (const [name, node] of [...directory.durableEntries].sort(byName)) {
    directory.entries.set(name, node);
    if (node.kind === "directory") crashDirectory(node, prng);
    else crashFile(node, prng);
  }
}

function pagesOf(offset: number, length: number): number[] {
  const first = Math.floor(offset / PAGE_SIZE_BYTES);
  const last = Math.floor((offset + length - 1) / PAGE_SIZE_BYTES);
  return length <= 0 ? [] : Array.from({ length: last - first + 1 }, (_, at) => first + at);
}

function crashFile(file: FileNode, prng: Prng): void {
  // Most crashes lose by chance; some lose all, or nothing but the order of things, which deserve to be common too.
  const mood = prng.below(4);
  for (const pending of file.pending) {
    if (mood === 0) continue;
    if (mood === 1) apply(file.durable, pending);
    else if (pending.kind === "truncate") {
      if (prng.below(2) === 0) apply(file.durable, pending);
    } else crashWrite(file.durable, pending, prng);
  }
  file.pending = [];
  file.content = GrowingBytes.of(file.durable.slice(0, file.durable.length));
}

function crashWrite(durable: GrowingBytes, write: PendingWrite & { kind: "write" }, prng: Prng): void {
  const sectorSize = must(SECTOR_SIZES_BYTES[prng.below(SECTOR_SIZES_BYTES.length)], "a sector size");
  const end = write.offset + write.bytes.length;
  for (let from = write.offset; from < end;) {
    const to = Math.min(end, (Math.floor(from / sectorSize) + 1) * sectorSize);
    if (prng.below(2) === 0) {
      durable.write(from, write.bytes.subarray(from - write.offset, to - write.offset));
    } else if (to > durable.length && prng.below(4) === 0) {
      // The new size reached the disk, the bytes did not: they read as zeros.
      durable.resize(to);
    }
    from = to;
  }
}

function apply(bytes: GrowingBytes, pending: PendingWrite): void {
  if (pending.kind === "write") bytes.write(pending.offset, pending.bytes);
  else bytes.resize(pending.sizeBytes);
}

function change(directory: DirectoryNode, names: ReadonlyMap<string, Node | undefined>): void {
  applyChange(directory.entries, names);
  directory.pending.push(names);
}

function applyChange(entries: Map<string, Node>, names: ReadonlyMap<string, Node | undefined>): void {
  for (const [name, node] of names) {
    if (node === undefined) entries.delete(name);
    else entries.set(name, node);
  }
}

let fileCount = 0;

function newFile(bytes: Uint8Array): FileNode {
  fileCount += 1;
  return {
    kind: "file",
    fileNumber: fileCount,
    content: GrowingBytes.of(bytes),
    durable: GrowingBytes.of(bytes),
    pending: [],
    syncedCount: 0,
    unreadable: new Set(),
    writers: new Map(),
  };
}

function newDirectory(): DirectoryNode {
  return { kind: "directory", entries: new Map(), durableEntries: new Map(), pending: [] };
}

function componentsOf(path: string): string[] {
  return path.split("/").filter((name) => name.length > 0 && name !== ".");
}

function byName(a: readonly [string, Node], b: readonly [string, Node]): number {
  return Buffer.compare(Buffer.from(a[0]), Buffer.from(b[0]));
}

function namesOf(directory: DirectoryNode): string[] {
  return [...directory.entries].sort(byName).map(([name]) => name);
}

function sizeOf(node: Node): number {
  if (node.kind === "file") return node.content.length;
  let sum = 0;
  for (const child of node.entries.values()) sum += sizeOf(child);
  return sum;
}

function osError(code: string, path: string): Error {
  return Object.assign(new Error(`${code}: ${path}`), { code });
}
