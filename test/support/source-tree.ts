/** Makes trees of real files to put into the drive, and compares trees by SHA-256. */
import { createCipheriv, createHash } from "node:crypto";
import {
  closeSync,
  createReadStream,
  mkdirSync,
  openSync,
  readdirSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join, relative } from "node:path";
import { SeededPrng } from "../../src/std/prng.ts";

const MIB = 1024 * 1024;

/** What to make. */
export interface SourceTreeOptions {
  readonly fileCount: number;
  /** Size of one large file beside the others; none when 0. */
  readonly largeSizeBytes: number;
  readonly seed: number;
}

/** Fills a file with `sizeBytes` pseudo-random bytes that depend on `seed` alone. */
export function writeRandomFile(path: string, sizeBytes: number, seed: number): void {
  const cipher = createCipheriv(
    "aes-128-ctr",
    Buffer.alloc(16, seed & 255),
    Buffer.alloc(16, (seed >> 8) & 255),
  );
  const zeros = Buffer.alloc(Math.min(MIB, Math.max(1, sizeBytes)));
  const file = openSync(path, "w");
  try {
    for (let written = 0; written < sizeBytes;) {
      const piece = cipher.update(zeros.subarray(0, Math.min(zeros.length, sizeBytes - written)));
      written += writeSync(file, piece);
    }
  } finally {
    closeSync(file);
  }
}

/**
 * Makes a tree in `directory`: folders three levels deep with names in several scripts, an empty folder, empty files, mostly
 * small files, some of a few MiB, and one large one.
 */
export function makeSourceTree(directory: string, options: SourceTreeOptions): void {
  const prng = new SeededPrng(options.seed);
  const top = ["photos", "文档", "Проекты", "a b c", "deep"];
  mkdirSync(join(directory, "empty folder"), { recursive: true });
  for (let index = 0; index < options.fileCount; index += 1) {
    const folder = join(
      directory,
      top[index % top.length] ?? "other",
      `set ${index % 37}`,
      `day-${index % 11}`,
    );
    mkdirSync(folder, { recursive: true });
    const draw = prng.below(1000);
    const sizeBytes =
      draw < 5
        ? 0
        : draw < 990
          ? 1 + prng.below(16 * 1024)
          : draw < 998
            ? prng.below(MIB)
            : MIB + prng.below(3 * MIB);
    const path = join(folder, `文件 ${index}.bin`);
    writeRandomFile(path, sizeBytes, index * 7 + options.seed);
    const modified = 1_600_000_000 + index;
    utimesSync(path, modified, modified);
  }
  if (options.largeSizeBytes > 0)
    writeRandomFile(join(directory, "large.bin"), options.largeSizeBytes, options.seed);
  else writeFileSync(join(directory, "note.txt"), "no large file in this tree\n");
}

/** The SHA-256 of a file, in hexadecimal. */
export async function fileSha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const piece of createReadStream(path, { highWaterMark: MIB })) hash.update(piece as Buffer);
  return hash.digest("hex");
}

/** What a tree holds: relative path -> "directory", or SHA-256, size and modification second of a file. */
export async function describeTree(directory: string): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  const visit = async (folder: string): Promise<void> => {
    for (const item of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, item.name);
      const name = relative(directory, path);
      if (item.isDirectory()) {
        found.set(name, "directory");
        await visit(path);
      } else {
        const { size, mtimeMs } = statSync(path);
        found.set(name, `${await fileSha256(path)} ${size} ${Math.floor(mtimeMs / 1000)}`);
      }
    }
  };
  await visit(directory);
  return found;
}
