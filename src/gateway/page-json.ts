/**
 * A page of a folder as JSON text, written entry by entry: what JSON.stringify() of fileView() would write, for a fraction of the
 * work. A listing of 1,000 entries is the largest answer that is made of objects, and most of it is dates and digits in
 * hexadecimal. views.ts says what an entry looks like; a test holds the two against each other.
 */
import type { EntryPage } from "../drive/drive-api.ts";
import type { Entry } from "../drive/entry.ts";
import { toHex } from "../std/bytes.ts";
import { DATE_MS_MAX, timeText } from "./views.ts";

const DAY_MS = 86_400_000;

/** Days whose text is kept: the files of a folder are mostly of few. */
const DAY_COUNT_MAX = 1024;

/** `"2026-01-02T` by day since 1970. */
const days = new Map<number, string>();

const TWO_DIGITS = Array.from({ length: 60 }, (_, value) => String(value).padStart(2, "0"));
const THREE_DIGITS = Array.from({ length: 1000 }, (_, value) => String(value).padStart(3, "0"));

function dayJson(day: number): string {
  const known = days.get(day);
  if (known !== undefined) return known;
  if (days.size >= DAY_COUNT_MAX) days.clear();
  const text = timeText(day * DAY_MS);
  const made = `"${text.slice(0, text.indexOf("T") + 1)}`;
  days.set(day, made);
  return made;
}

/** timeText() of `timeMs`, in quotes. */
function timeJson(timeMs: number): string {
  // What is cut or moved to fit into a date is rare.
  if (!Number.isSafeInteger(timeMs) || Math.abs(timeMs) > DATE_MS_MAX - DAY_MS)
    return `"${timeText(timeMs)}"`;
  const day = Math.floor(timeMs / DAY_MS);
  const inDay = timeMs - day * DAY_MS;
  const second = Math.floor(inDay / 1000);
  const minute = Math.floor(second / 60);
  const hour = TWO_DIGITS[Math.floor(minute / 60)];
  const clock = `${hour}:${TWO_DIGITS[minute % 60]}:${TWO_DIGITS[second % 60]}`;
  return `${dayJson(day)}${clock}.${THREE_DIGITS[inDay % 1000]}Z"`;
}

// Text that JSON writes as it is.
const PLAIN = /^[ !#-[\]-~]*$/;

function textJson(text: string): string {
  return PLAIN.test(text) ? `"${text}"` : JSON.stringify(text);
}

function entryJson(entry: Entry): string {
  const { treeHash, sha256, mode, version } = entry;
  const treeHex = treeHash.length === 0 ? "" : toHex(treeHash);
  // Up to one chunk both are the same bytes.
  const plainHex = sha256 === treeHash || sha256.length === 0 ? treeHex : toHex(sha256);
  return (
    `{"fileId":"${entry.entryId}","parentId":"${entry.parentId}","name":${textJson(entry.name)},` +
    `"kind":"${entry.kind}","size":${entry.sizeBytes},"version":"${version}","etag":"\\"${version}\\"",` +
    (treeHex === "" ? "" : `"treeHash":"${treeHex}",`) +
    (sha256.length === 0 ? "" : `"sha256":"${plainHex}",`) +
    `"mediaType":${textJson(entry.mediaType)},` +
    (mode === undefined ? "" : `"mode":"${mode.toString(8).padStart(4, "0")}",`) +
    `"modifyTime":${timeJson(entry.modifyTimeMs)},"createTime":${timeJson(entry.createTimeMs)}}`
  );
}

/** Bytes that an entry usually stays below; where one does not, there is more to copy. */
const ENTRY_SIZE_BYTES = 512;

/** No character has more bytes in UTF-8 for each of its UTF-16 units. */
const UNIT_SIZE_BYTES_MAX = 3;

/** The body of GET /api/files: pageViewSchema in UTF-8. */
export function pageJson(page: EntryPage): Uint8Array {
  // Each entry goes into the bytes by itself: one text of all of them would have to be put together first, which costs more
  // than writing it.
  let bytes = Buffer.allocUnsafeSlow((page.entries.length + 1) * ENTRY_SIZE_BYTES);
  let filled = 0;
  const write = (text: string): void => {
    const needed = filled + text.length * UNIT_SIZE_BYTES_MAX;
    if (needed > bytes.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(needed, bytes.length * 2));
      bytes.copy(larger, 0, 0, filled);
      bytes = larger;
    }
    filled += bytes.write(text, filled, "utf8");
  };
  write(`{"path":${JSON.stringify(page.path)},"files":[`);
  let separator = "";
  for (const entry of page.entries) {
    write(separator + entryJson(entry));
    separator = ",";
  }
  const cursor = page.nextCursor === undefined ? "null" : JSON.stringify(page.nextCursor);
  write(`],"nextCursor":${cursor}}`);
  return bytes.subarray(0, filled);
}
