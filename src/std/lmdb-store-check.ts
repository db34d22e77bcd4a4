/**
 * Whether the file of an LMDB store is what was written: LMDB itself has no checksums, and a damaged page may end the process
 * that opens it.
 *
 * A store that is closed in order leaves a certificate beside its file: size and CRC-32 of the whole file. When it fits at the
 * next start, nothing else needs to be read. When it does not (a crash, or damage), a child process reads the whole store first
 * (lmdb-check-child.ts), and its records are to be checked by their owner.
 */
import { fork } from "node:child_process";
import { open, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { crc32 } from "./crc32.ts";
import { errnoOf } from "./disk.ts";
import type { StoreCondition } from "./ordered-store.ts";
import { removeLock } from "./lmdb-lock-file.ts";

const DATA_NAME = "data.mdb";
const CERTIFICATE_NAME = "closed.crc";

/** Bytes of the file read at once. */
const PIECE_SIZE_BYTES = 4 * 1024 * 1024;

/** Certifies the file of a store that was closed in order. Errors: those of the file system. */
export async function certifyClosed(path: string): Promise<void> {
  await writeFile(join(path, CERTIFICATE_NAME), await describe(join(path, DATA_NAME)));
}

/** Takes back the certificate of a store that is opened for writing. */
export async function withdrawCertificate(path: string): Promise<void> {
  await rm(join(path, CERTIFICATE_NAME), { force: true });
}

/** Looks at a store that is not open. Errors: those of the file system other than absence and EIO. */
export async function checkLmdbStore(path: string): Promise<StoreCondition> {
  const file = join(path, DATA_NAME);
  try {
    const { size } = await stat(file);
    if (size === 0) return { kind: "damaged", reason: `${file} is empty` };
    const certificate = await readFile(join(path, CERTIFICATE_NAME), "utf8").catch(absentIsEmpty);
    if (certificate !== "" && certificate === (await describe(file))) return { kind: "verified" };
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return { kind: "absent" };
    if (errnoOf(error) === "EIO")
      return { kind: "damaged", reason: `${file} cannot be read: ${String(error)}` };
    throw error;
  }
  // That of a process that was killed, perhaps before the machine started anew: it would lead to a file that cannot be made.
  await removeLock(path);
  const answer = await askChild(path);
  return answer === "intact" ? { kind: "readable" } : { kind: "damaged", reason: `${file}: ${answer}` };
}

function absentIsEmpty(error: unknown): string {
  if (errnoOf(error) !== "ENOENT") throw error;
  return "";
}

/** Size and checksum of a file, as text. */
async function describe(path: string): Promise<string> {
  const file = await open(path, "r");
  try {
    const piece = Buffer.allocUnsafe(PIECE_SIZE_BYTES);
    let crc = 0;
    let sizeBytes = 0;
    for (;;) {
      const { bytesRead } = await file.read(piece, 0, piece.length, sizeBytes);
      if (bytesRead === 0) return `${sizeBytes} ${crc}\n`;
      crc = crc32(piece.subarray(0, bytesRead), crc);
      sizeBytes += bytesRead;
    }
  } finally {
    await file.close();
  }
}

/** What the child says about the store, or how it ended without a word. */
async function askChild(path: string): Promise<string> {
  const extension = import.meta.url.endsWith(".ts") ? "ts" : "js";
  const child = fork(fileURLToPath(new URL(`./lmdb-check-child.${extension}`, import.meta.url)), {
    stdio: ["ignore", "ignore", "ignore", "ipc"],
  });
  return await new Promise<string>((resolve, reject) => {
    let answer: string | undefined;
    child.once("message", (message) => {
      answer = typeof message === "string" ? message : "it gave no answer";
    });
    child.once("error", reject);
    child.once("exit", (code, signal) => {
      resolve(answer ?? `reading it ended the process that tried (${signal ?? `code ${String(code)}`})`);
    });
    child.send(path);
  });
}
