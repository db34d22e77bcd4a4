/** Numbers, times and modes as people read them. Deterministic: no locale, times in UTC. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;

/** Bytes in binary units with at most one decimal: "512 B", "1.5 MiB". */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  // 1023.95 and more would be shown as "1024.0", which is the next unit's "1.0".
  if (unit > 0 && unit < UNITS.length - 1 && value >= 1023.95) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${UNITS[unit] ?? ""}`;
}

/** An integer with commas: "20,001". */
export function formatCount(count: number): string {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** "1 file", "2 files", "1 copy", "3 copies": the count with the noun that fits. */
export function formatQuantity(count: number, singular: string, plural = `${singular}s`): string {
  return `${formatCount(count)} ${count === 1 ? singular : plural}`;
}

// Controls, line separators, what turns the direction of writing, and halves of surrogate pairs.
const UNPRINTABLE =
  // oxlint-disable-next-line no-control-regex -- control characters are exactly what is looked for
  /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]|\p{Surrogate}/gu;

/**
 * `text` with everything escaped that could move the cursor, colour the terminal, or pretend to be another line: names come
 * from file systems and from other people.
 */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, (character) =>
    character === "\n" ? "\\n" : `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** As printable(), for text of several lines. */
export function printableLines(text: string): string {
  return text.split("\n").map(printable).join("\n");
}

/** Milliseconds since 1970 as "2026-01-02 03:04:05" in UTC. */
export function formatTime(timeMs: number): string {
  return isoTime(timeMs).slice(0, 19).replace("T", " ");
}

/** Milliseconds since 1970 in ISO 8601, for JSON; times beyond what a date can hold are cut to it. */
export function isoTime(timeMs: number): string {
  return new Date(Math.max(-8.64e15, Math.min(8.64e15, timeMs))).toISOString();
}

/** A duration in the two largest units that matter: "0.4 s", "12 s", "3 min 20 s", "2 h 5 min". */
export function formatDuration(durationMs: number): string {
  const seconds = durationMs / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** Permission bits of what was made without any: what most systems give, and `get` leaves to the umask. */
const MODE_DEFAULT = { file: 0o644, directory: 0o755 } as const;

/** Kind and permission bits as `ls -l` shows them: "drwxr-xr-x"; the usual ones where none were given. */
export function formatMode(kind: "file" | "directory", given: number | undefined): string {
  const letter = kind === "directory" ? "d" : "-";
  const mode = given ?? MODE_DEFAULT[kind];
  const bits = "rwxrwxrwx".split("").map((each, i) => ((mode & (0o400 >> i)) === 0 ? "-" : each));
  const special = (at: number, bit: number, set: string, unset: string): void => {
    if ((mode & bit) !== 0) bits[at] = bits[at] === "x" ? set : unset;
  };
  special(2, 0o4000, "s", "S");
  special(5, 0o2000, "s", "S");
  special(8, 0o1000, "t", "T");
  return letter + bits.join("");
}

/** Rows as aligned columns, two spaces between; columns named in `rightAligned` (from 0) end on one line. */
export function formatTable(
  rows: readonly (readonly string[])[],
  rightAligned: readonly number[] = [],
): readonly string[] {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, cell.length)));
  return rows.map((row) =>
    row
      .map((cell, i) =>
        rightAligned.includes(i) ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0),
      )
      .join("  ")
      .trimEnd(),
  );
}
