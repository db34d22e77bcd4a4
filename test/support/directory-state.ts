/** What a directory holds, to tell whether anything below it was changed. */
import { createHash } from "node:crypto";
import { lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";

/** Of each path in and below a directory, itself included: what it is, its size, when it was written last, and a digest of its bytes. */
export function directoryState(directory: string): Readonly<Record<string, string>> {
  const paths = readdirSync(directory, { recursive: true, encoding: "utf8" }).sort();
  return Object.fromEntries(["", ...paths].map((path) => [path, describe(join(directory, path))]));
}

function describe(path: string): string {
  const stat = lstatSync(path, { bigint: true });
  const times = `${stat.mtimeNs} ${stat.ctimeNs}`;
  if (stat.isDirectory()) return `directory ${times}`;
  if (stat.isSymbolicLink()) return `link ${times} ${readlinkSync(path)}`;
  const digest = createHash("sha256").update(readFileSync(path)).digest("hex");
  return `file ${times} ${stat.size} ${digest}`;
}
