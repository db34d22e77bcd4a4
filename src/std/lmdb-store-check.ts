/**
 * Whether the file of an LMDB store is what was written: LMDB itself has no checksums, and a damaged page may end the process
 * that opens it.
 *
 * A store that is closed in order leaves a certificate beside its file: size and CRC-32 of the whole file. When it fits at the
 * next start, nothing else needs to be read. When it does not (a crash, or damage), child processes check the tree of pages
 * and all records (lmdb-tree-check.ts), each a part of the file.
 */
import { open, readFile, rm, stat, writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { must } from "./assert.ts";
import { askChild, siblingModule } from "./child-task.ts";
import { crc32 } from "./crc32.ts";
import { errnoOf, isNoSpace } from "./disk.ts";
import type { CheckAnswer } from "./lmdb-check-child.ts";
import type { TreeCheckOptions, TreePart } from "./lmdb-tree-check.ts";
import { StoreCheckError, type StoreCondition } from "./ordered-store.ts";
import { RecordSum } from "./record-sum.ts";

/** Name of the file in the directory of a store. */
export const DATA_NAME = "data.mdb";

const CERTIFICATE_NAME = "closed.crc";

/** Bytes of the file read at once. */
const PIECE_SIZE_BYTES = 4 * 1024 * 1024;

/** A part of a file that is worth a process of its own. */
const PART_SIZE_BYTES_MIN = 64 * 1024 * 1024;

/** Processes that check one file at most: each holds all branch pages. */
const PART_COUNT_MAX = 4;

/** Times that a part is tried whose process ended without an answer, as one does for which there was no memory. */
const CHECK_ATTEMPT_COUNT_MAX = 3;

/**
 * Certifies the file of a store that was closed in order. On a full disk it stays without: the next start checks every record.
 * Errors: those of the file system other than no space.
 */
export async function certifyClosed(path: string): Promise<void> {
  try {
    await writeFile(join(path, CERTIFICATE_NAME), await describe(join(path, DATA_NAME)));
  } catch (error) {
    if (!isNoSpace(error)) throw error;
    await withdrawCertificate(path);
  }
}

/** Takes back the certificate of a store that is opened for writing. */
export async function withdrawCertificate(path: string): Promise<void> {
  await rm(join(path, CERTIFICATE_NAME), { force: true });
}

/**
 * Looks at a store that is not open, and changes nothing.
 * @param isSealed whether its values end with the checksum of checked-ordered-store.ts, which is checked then
 * Errors: StoreCheckError; those of the file system other than absence and EIO.
 */
export async function checkLmdbStore(path: string, isSealed: boolean): Promise<StoreCondition> {
  const file = join(path, DATA_NAME);
  try {
    const { size } = await stat(file);
    if (size === 0) return { kind: "damaged", reason: `${file} is empty` };
    const certificate = await readFile(join(path, CERTIFICATE_NAME), "utf8").catch(absentIsEmpty);
    if (certificate !== "" && certificate === (await describe(file))) return { kind: "verified" };
    return await checkParts(file, size, isSealed);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return { kind: "absent" };
    if (errnoOf(error) === "EIO")
      return { kind: "damaged", reason: `${file} cannot be read: ${String(error)}` };
    throw error;
  }
}

/** Lets child processes check the records, and adds up what they found. */
async function checkParts(file: string, sizeBytes: number, isSealed: boolean): Promise<StoreCondition> {
  const wanted = Math.min(
    PART_COUNT_MAX,
    availableParallelism(),
    Math.floor(sizeBytes / PART_SIZE_BYTES_MIN),
  );
  const partCount = Math.max(1, wanted);
  const parts = Array.from({ length: partCount }, (_, part) => ({ file, isSealed, part, partCount }));
  const child = siblingModule(import.meta.url, "lmdb-check-child");
  const answers = await Promise.all(parts.map((part) => askFor(child, part)));
  // One after the other now: together they may have taken more memory than there is.
  for (const [at, part] of parts.entries()) {
    for (let attempt = 1; answers[at]?.kind === "failed"; attempt += 1) {
      if (attempt === CHECK_ATTEMPT_COUNT_MAX) {
        const { reason } = answers[at];
        throw new StoreCheckError(
          `${file} could not be checked: ${reason}. It is left as it is; start again when the machine has memory and files to spare.`,
        );
      }
      answers[at] = await askFor(child, part);
    }
  }
  const found = { recordCount: 0, leafPageCount: 0, overflowPageCount: 0, sum: new RecordSum() };
  const checked: TreePart[] = [];
  for (const answer of answers) {
    if (answer.kind === "damaged") return { kind: "damaged", reason: `${file}: ${answer.reason}` };
    if (answer.kind === "checked") checked.push(answer.part);
  }
  for (const part of checked) {
    found.recordCount += part.recordCount;
    found.leafPageCount += part.leafPageCount;
    found.overflowPageCount += part.overflowPageCount;
    found.sum.addSum(new RecordSum(part.sum));
  }
  const { expected } = must(checked[0], "a part");
  for (const count of ["recordCount", "leafPageCount", "overflowPageCount"] as const) {
    if (found[count] === expected[count]) continue;
    const reason = `${file}: its ${count} is ${found[count]}, and it says ${expected[count]}`;
    return { kind: "damaged", reason };
  }
  return { kind: "readable", ...(isSealed && { recordSum: found.sum.toBytes() }) };
}

async function askFor(child: URL, part: TreeCheckOptions): Promise<CheckAnswer> {
  const answer = await askChild<CheckAnswer>(child, part);
  return typeof answer === "string" ? { kind: "failed", reason: answer } : answer;
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
