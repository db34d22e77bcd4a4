/**
 * A disk above another one that it only reads: every change stays in memory and goes when nobody holds it any more.
 *
 * For looking at files with code that repairs them as it opens them: it sees its repairs, and the files stay as they are. What is
 * below must not change meanwhile, and what is written is meant to be little. Durability means nothing here: syncs do nothing.
 */
import { assert } from "./assert.ts";
import type { Disk, DiskFile, DiskSpace, FileStat, OpenMode } from "./disk.ts";

/** What is written over a file. */
interface Patch {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** A file: the front of one below, if any, under patches in the order of their writing; zeros elsewhere. */
interface Content {
  readonly basePath: string | undefined;
  baseSizeBytes: number;
  patches: readonly Patch[];
  sizeBytes: number;
}

/** See the head of this file. Errors: those of the disk below, and of the system where it would give them (ENOENT, EEXIST). */
export class OverlayDisk implements Disk {
  readonly #below: Disk;
  /** Files that were opened or made here. */
  readonly #files = new Map<string, Content>();
  readonly #directories = new Set<string>();
  /** What is below these paths, and they themselves, is not there any more. */
  readonly #removed = new Set<string>();

  /** @param below read only */
  constructor(below: Disk) {
    this.#below = below;
  }

  async open(path: string, mode: OpenMode): Promise<DiskFile> {
    const below = this.#files.has(path) ? undefined : await this.#adopt(path);
    // Somebody else may have opened it meanwhile.
    const found = this.#files.get(path) ?? below;
    if (found !== undefined && mode === "create") throw systemError("EEXIST", path);
    if (found === undefined && (mode === "existing" || mode === "read")) throw systemError("ENOENT", path);
    const content = found ?? { basePath: undefined, baseSizeBytes: 0, patches: [], sizeBytes: 0 };
    this.#files.set(path, content);
    const { basePath } = content;
    const base = basePath === undefined ? undefined : await this.#below.open(basePath, "read");
    return new OverlayFile(path, content, base, () => this.#files.get(path) === content);
  }

  async makeDirectory(path: string): Promise<void> {
    if (await this.exists(path)) return;
    for (let at = path; at !== parentOf(at) && !(await this.exists(at)); at = parentOf(at))
      this.#directories.add(at);
  }

  async list(path: string): Promise<string[]> {
    const shown = this.#shows(path) && (await this.#below.exists(path)) ? await this.#below.list(path) : [];
    if (shown.length === 0 && !(await this.exists(path))) throw systemError("ENOENT", path);
    const names = new Set(shown.filter((name) => this.#shows(`${path}/${name}`)));
    for (const each of [...this.#files.keys(), ...this.#directories]) {
      if (parentOf(each) === path) names.add(each.slice(path.length + 1));
    }
    return [...names].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  }

  async exists(path: string): Promise<boolean> {
    if (this.#files.has(path) || this.#directories.has(path)) return true;
    return this.#shows(path) && (await this.#below.exists(path));
  }

  async stat(path: string): Promise<FileStat | undefined> {
    const content = this.#files.get(path);
    if (content === undefined) return this.#shows(path) ? await this.#below.stat(path) : undefined;
    const { basePath, sizeBytes } = content;
    const base = basePath === undefined ? undefined : await this.#below.stat(basePath);
    return { fileNumber: 0, madeAt: 0, ...base, sizeBytes };
  }

  /** See Disk; of files only. */
  async rename(from: string, to: string): Promise<void> {
    const content = this.#files.get(from) ?? (await this.#adopt(from));
    if (content === undefined) throw systemError("ENOENT", from);
    this.#hide(from);
    this.#hide(to);
    this.#files.set(to, content);
  }

  remove(path: string): Promise<void> {
    this.#hide(path);
    return Promise.resolve();
  }

  syncDirectory(): Promise<void> {
    return Promise.resolve();
  }

  space(path: string): Promise<DiskSpace> {
    return this.#below.space(path);
  }

  /** A file below as it is now; undefined when there is none. */
  async #adopt(path: string): Promise<Content | undefined> {
    const found = this.#shows(path) ? await this.#below.stat(path) : undefined;
    if (found === undefined) return undefined;
    const { sizeBytes } = found;
    return { basePath: path, baseSizeBytes: sizeBytes, patches: [], sizeBytes };
  }

  #hide(path: string): void {
    this.#removed.add(path);
    for (const made of [this.#files, this.#directories]) {
      for (const each of made.keys()) if (each === path || each.startsWith(`${path}/`)) made.delete(each);
    }
  }

  /** Whether what is below at a path can be seen. */
  #shows(path: string): boolean {
    if (this.#removed.has(path)) return false;
    const parent = parentOf(path);
    return parent === path || this.#shows(parent);
  }
}

class OverlayFile implements DiskFile {
  readonly path: string;
  readonly #content: Content;
  readonly #base: DiskFile | undefined;
  readonly #hasName: () => boolean;

  constructor(path: string, content: Content, base: DiskFile | undefined, hasName: () => boolean) {
    this.path = path;
    this.#content = content;
    this.#base = base;
    this.#hasName = hasName;
  }

  size(): Promise<number> {
    return Promise.resolve(this.#content.sizeBytes);
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    const baseLength = this.#baseLength(offset, length);
    return this.#patched(
      offset,
      length,
      baseLength > 0 ? await this.#base?.read(offset, baseLength) : undefined,
    );
  }

  readSync(offset: number, length: number): Uint8Array {
    const baseLength = this.#baseLength(offset, length);
    return this.#patched(
      offset,
      length,
      baseLength > 0 ? this.#base?.readSync(offset, baseLength) : undefined,
    );
  }

  write(offset: number, parts: readonly Uint8Array[]): Promise<void> {
    const content = this.#content;
    const bytes = Buffer.concat(parts);
    if (bytes.length > 0) {
      content.patches = [...content.patches, { offset, bytes }];
      content.sizeBytes = Math.max(content.sizeBytes, offset + bytes.length);
    }
    return Promise.resolve();
  }

  sync(): Promise<void> {
    return Promise.resolve();
  }

  truncate(sizeBytes: number): Promise<void> {
    const content = this.#content;
    content.patches = content.patches
      .filter(({ offset }) => offset < sizeBytes)
      .map(({ offset, bytes }) => ({ offset, bytes: bytes.subarray(0, sizeBytes - offset) }));
    content.baseSizeBytes = Math.min(content.baseSizeBytes, sizeBytes);
    content.sizeBytes = sizeBytes;
    return Promise.resolve();
  }

  isNamed(): Promise<boolean> {
    return Promise.resolve(this.#hasName());
  }

  async close(): Promise<void> {
    await this.#base?.close();
  }

  /** How much of a read the file below answers. */
  #baseLength(offset: number, length: number): number {
    return Math.min(length, this.#content.baseSizeBytes - offset);
  }

  #patched(offset: number, length: number, base: Uint8Array | undefined): Uint8Array {
    const { patches, sizeBytes } = this.#content;
    const result = Buffer.alloc(Math.max(0, Math.min(length, sizeBytes - offset)));
    if (base !== undefined) result.set(base);
    for (const patch of patches) {
      const skipped = Math.max(0, offset - patch.offset);
      const at = Math.max(0, patch.offset - offset);
      if (at < result.length) result.set(patch.bytes.subarray(skipped, skipped + result.length - at), at);
    }
    return result;
  }
}

/** The directory that a path is in; the path itself at the top. */
function parentOf(path: string): string {
  assert(path !== "", "a path");
  const at = path.lastIndexOf("/");
  if (at < 0) return path === "." ? path : ".";
  return at === 0 ? "/" : path.slice(0, at);
}

function systemError(code: string, path: string): Error {
  return Object.assign(new Error(`${code}: ${path}`), { code });
}
