/**
 * Writes a frozen view of the state into a snapshot file: in pieces with a turn of the event loop between them, and only while it
 * gets on, because an open view keeps the store's file growing. Memory stays at a block.
 */
import type { SnapshotMetadata } from "../raft/types.ts";
import { must } from "../std/assert.ts";
import { bytesEqual } from "../std/bytes.ts";
import { sleep, type Clock } from "../std/clock.ts";
import type { DiskFile } from "../std/disk.ts";
import type { KeyValue, OrderedReader } from "../std/ordered-store.ts";
import { decodeStoreState, type StoreState } from "./codec.ts";
import { STORE_STATE_KEY } from "./replicated-store.ts";
import { SNAPSHOT_BLOCK_SIZE_BYTES, SnapshotFileWriter } from "./snapshot-file.ts";
import { RESERVED_PREFIX, STATE_KEY_END } from "./state-hash.ts";

/** Records read from the frozen view at a time; their bytes are bounded by SNAPSHOT_BLOCK_SIZE_BYTES as well. */
const SCAN_COUNT_MAX = 256;

/** A dump was given up: it stood still, or its store is replaced. */
export class DumpEndedError extends Error {
  override readonly name = "DumpEndedError";
}

/** How long a dump may stand still, and what ends it sooner. */
export interface DumpLimits {
  readonly clock: Clock;
  readonly stallMs: number;
  readonly signal: AbortSignal;
}

/** What is said of a dump that stood still. */
export function noProgress(stallMs: number): string {
  return `the dump made no progress for ${stallMs} ms`;
}

/** What consensus recorded in a view of the state. */
export function stateOf(view: OrderedReader): StoreState {
  return decodeStoreState(must(view.get(STORE_STATE_KEY), "the store has its state record"));
}

/** Where the state stands in the log. */
export function metadataOf({
  appliedIndex: index,
  appliedTerm: term,
  confState,
}: StoreState): SnapshotMetadata {
  return { index, term, confState };
}

/**
 * Writes the view into an empty file and makes it durable.
 * @throws DumpEndedError when it stood still; the reason of the signal; errors of the disk
 */
export async function writeDump(
  file: DiskFile,
  view: OrderedReader,
  state: StoreState,
  { clock, stallMs, signal }: DumpLimits,
): Promise<void> {
  const { clusterId, stateHash } = state;
  const writer = new SnapshotFileWriter(file);
  await writer.writeHeader({ clusterId, stateHash, metadata: metadataOf(state) });
  let after: Uint8Array | undefined;
  for (;;) {
    const startMs = clock.monotonicMs();
    const records = scan(view, after);
    for (const record of records) await writer.writeRecord(record);
    const last = records.at(-1);
    if (last === undefined) break;
    after = last.key;
    await sleep(clock, 0, signal);
    if (clock.monotonicMs() - startMs >= stallMs) throw new DumpEndedError(noProgress(stallMs));
  }
  await writer.finish();
}

/** The next records of the state machine, behind the key `after`: about a block of them. */
function scan(view: OrderedReader, after: Uint8Array | undefined): KeyValue[] {
  const records: KeyValue[] = [];
  let sizeBytes = 0;
  const from = after ?? Uint8Array.of(RESERVED_PREFIX + 1);
  for (const record of view.range({ from, to: Uint8Array.of(STATE_KEY_END), countMax: SCAN_COUNT_MAX })) {
    if (after !== undefined && bytesEqual(record.key, after)) continue;
    records.push(record);
    sizeBytes += record.key.length + record.value.length;
    if (sizeBytes >= SNAPSHOT_BLOCK_SIZE_BYTES) break;
  }
  return records;
}
