/**
 * Makes a store from a snapshot file, in a process of its own: the node goes on meanwhile as if nothing were going on.
 *
 * The parent sends LoadRequest and hears LoadAnswer, or a text that says why there is no store. Every block and the hash of all
 * records are checked before the answer; the record of the state, whose key comes first, is there from the start, so only the
 * parent, which switches to the store after the answer, makes it one that counts.
 */
import { hasReason } from "../drive/errors.ts";
import { isNoSpace } from "../std/disk.ts";
import { bytesEqual } from "../std/bytes.ts";
import { BulkOrderError, LmdbBulkLoad } from "../std/lmdb-bulk-load.ts";
import { RecordSum } from "../std/record-sum.ts";
import { SystemDisk } from "../std/system-disk.ts";
import { encodeStoreState } from "./codec.ts";
import { SnapshotFileReader } from "./snapshot-file.ts";
import type { LoadAnswer, LoadRequest } from "./snapshot-load.ts";

async function load({ path, target, stateKey }: LoadRequest): Promise<LoadAnswer> {
  const file = await new SystemDisk().open(path, "read");
  try {
    const reader = new SnapshotFileReader(file);
    const { metadata, clusterId, stateHash } = await reader.readHeader();
    const { index: appliedIndex, term: appliedTerm, confState } = metadata;
    const state = encodeStoreState({ clusterId, appliedIndex, appliedTerm, confState, stateHash });
    const store = await LmdbBulkLoad.open(target, await file.size());
    try {
      const sum = new RecordSum();
      store.add([{ key: stateKey, value: state }]);
      for await (const records of reader.readRecords()) {
        for (const { key, value } of records) sum.add(key, value);
        store.add(records);
      }
      if (!bytesEqual(sum.toBytes(), stateHash)) {
        const message = `The snapshot of index ${appliedIndex} does not have the state hash that it claims.`;
        return { kind: "damaged", message };
      }
      await store.finish();
      return { kind: "loaded" };
    } finally {
      await store.close();
    }
  } finally {
    await file.close();
  }
}

/** LMDB tells a full disk by its text alone. */
function refusal(error: unknown): LoadAnswer | string {
  const message = error instanceof Error ? error.message : String(error);
  if (hasReason(error, "DATA_CORRUPT")) return { kind: "damaged", message };
  if (error instanceof BulkOrderError)
    return { kind: "damaged", message: `The snapshot is wrong: ${message}.` };
  if (isNoSpace(error) || /no space left/i.test(message)) return { kind: "full", message };
  return String(error);
}

let isAnswered = false;

function answer(message: LoadAnswer | string): void {
  isAnswered = true;
  process.send?.(message, () => process.disconnect());
}

process.once("message", (request: LoadRequest) => {
  load(request).then(answer, (error: unknown) => answer(refusal(error)));
});

// Without the parent nobody will switch to the store, and the next one removes it.
process.once("disconnect", () => {
  if (!isAnswered) throw new Error("the parent is gone");
});
