/**
 * Reads a whole LMDB store in a process of its own: a damaged page may end the process that touches it, and this one may end.
 *
 * The parent sends the path of the store and hears "intact", or what is wrong. Every record is read in order and found again by
 * its key, and their number is compared with what the store says, so that no damaged page hides any.
 */
import { open, type RootDatabase } from "lmdb";

/** What is wrong with the store in the directory `path`; undefined when nothing is. */
function findFault(path: string): string | undefined {
  const database: RootDatabase<Buffer, Buffer> = open<Buffer, Buffer>({
    path,
    keyEncoding: "binary",
    encoding: "binary",
    compression: false,
    cache: false,
    maxDbs: 1,
    readOnly: true,
  });
  const stats: { readonly entryCount?: number } = database.getStats();
  let count = 0;
  let last: Buffer | undefined;
  for (const { key, value } of database.getRange({})) {
    if (last !== undefined && Buffer.compare(last, key) >= 0) return "its keys are out of order";
    const found = database.get(key);
    if (found === undefined || !found.equals(value)) return "a record is not found by its key";
    last = Buffer.from(key);
    count += 1;
  }
  if (stats.entryCount !== count)
    return `it has ${count} records, and says it has ${stats.entryCount ?? "none"}`;
  return undefined;
}

process.once("message", (path: string) => {
  let answer: string;
  try {
    answer = findFault(path) ?? "intact";
  } catch (error) {
    answer = String(error);
  }
  process.send?.(answer, () => process.disconnect());
});
