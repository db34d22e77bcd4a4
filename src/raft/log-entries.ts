/**
 * Sizes of log entries, and cutting a run of them to a size.
 *
 * Two measures are kept apart on purpose. The payload (data only) counts against the uncommitted bytes of a leader, so that
 * the empty entry that opens a term can never be refused. The size (data and a fixed part) counts against messages and
 * batches, so that a flood of empty entries is bounded too.
 */
import type { LogEntry } from "./types.ts";

/** What an entry costs beside its data, in bytes: index, term, kind and framing in their usual encoding. */
export const ENTRY_OVERHEAD_BYTES = 8;

/** Size of one entry in bytes, as messages and batches count it. */
export function entrySizeBytes(entry: LogEntry): number {
  return entry.data.length + ENTRY_OVERHEAD_BYTES;
}

/** Sum of entrySizeBytes(). */
export function entriesSizeBytes(entries: readonly LogEntry[]): number {
  let sizeBytes = 0;
  for (const entry of entries) sizeBytes += entry.data.length + ENTRY_OVERHEAD_BYTES;
  return sizeBytes;
}

/** Sum of the data lengths in bytes. */
export function payloadSizeBytes(entries: readonly LogEntry[]): number {
  let sizeBytes = 0;
  for (const entry of entries) sizeBytes += entry.data.length;
  return sizeBytes;
}

/**
 * The longest prefix of `entries` that is not larger than `sizeBytesMax`, but at least the first entry, so that one
 * entry over the limit cannot stop replication. Returns `entries` itself when nothing is cut.
 */
export function limitSize(entries: readonly LogEntry[], sizeBytesMax: number): readonly LogEntry[] {
  let sizeBytes = 0;
  for (let i = 0; i < entries.length; i += 1) {
    sizeBytes += (entries[i]?.data.length ?? 0) + ENTRY_OVERHEAD_BYTES;
    if (sizeBytes > sizeBytesMax && i > 0) return entries.slice(0, i);
  }
  return entries;
}
