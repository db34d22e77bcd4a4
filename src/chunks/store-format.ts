/**
 * The identity of a chunk store, in a file of its own: made at random when the store is formatted, checked at every start.
 *
 * The file is first written as "formatting", then the log is made, then it is written as "formatted": so a log that is not
 * there is a new one in the first case and lost data in the second, and a lost identity file is never taken for a new disk.
 */
import { DriveError } from "../drive/errors.ts";
import { readAtomicFile, writeAtomicFile } from "../std/atomic-file.ts";
import { asBuffer, toHex } from "../std/bytes.ts";
import type { Disk } from "../std/disk.ts";
import type { Prng } from "../std/prng.ts";

/** Version of the layout of a store's directory. */
export const STORE_VERSION = 1;

const FILE = { name: "store", magic: "NDCHUNKS" } as const;

/** Bytes of an incarnation: enough that two are never equal. */
const INCARNATION_SIZE_BYTES = 16;

/** What the identity file says. */
export interface StoreFormat {
  readonly storeIncarnation: string;
  readonly memberId: number;
  /** Whether the log was made. */
  readonly state: "formatting" | "formatted";
}

/**
 * Reads the identity of a store, or makes one in an empty directory.
 * Errors: DATA_CORRUPT when it is damaged, of another member or version, or missing beside data.
 */
export async function openStoreFormat(options: {
  readonly disk: Disk;
  readonly directory: string;
  readonly memberId: number;
  readonly prng: Prng;
}): Promise<StoreFormat> {
  const { disk, directory, memberId, prng } = options;
  await disk.makeDirectory(directory);
  const found = await readAtomicFile(disk, { directory, ...FILE });
  if (found.kind === "damaged") throw corrupt(directory, `its identity is damaged (${found.reason})`);
  if (found.kind === "intact") {
    const { version, ...format } = JSON.parse(asBuffer(found.content).toString("utf8")) as StoreFormat & {
      version: number;
    };
    if (version !== STORE_VERSION) throw corrupt(directory, `it has version ${version}`);
    if (format.memberId !== memberId) throw corrupt(directory, `it belongs to member ${format.memberId}`);
    return format;
  }
  const others = (await disk.list(directory)).filter((name) => !name.endsWith(".tmp"));
  if (others.length > 0) throw corrupt(directory, "its identity is gone, but there is data");
  const format: StoreFormat = {
    storeIncarnation: toHex(prng.bytes(INCARNATION_SIZE_BYTES)),
    memberId,
    state: "formatting",
  };
  await write(disk, directory, format);
  const parent = directory.slice(0, Math.max(1, directory.lastIndexOf("/")));
  await disk.syncDirectory(directory.includes("/") ? parent : ".");
  return format;
}

/** Records that the log was made: from now on its absence is damage. */
export async function finishStoreFormat(disk: Disk, directory: string, format: StoreFormat): Promise<void> {
  if (format.state === "formatted") return;
  await write(disk, directory, { ...format, state: "formatted" });
}

async function write(disk: Disk, directory: string, format: StoreFormat): Promise<void> {
  const content = Buffer.from(JSON.stringify({ version: STORE_VERSION, ...format }));
  await writeAtomicFile(disk, { directory, ...FILE }, content);
}

function corrupt(directory: string, why: string): DriveError {
  return new DriveError("DATA_CORRUPT", `The chunk store in ${directory} cannot be used: ${why}.`, {
    path: directory,
    what: why,
  });
}
