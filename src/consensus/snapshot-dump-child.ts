/**
 * Writes a snapshot file from the file of a store, in a process of its own: the node goes on meanwhile as if nothing were going on.
 *
 * The parent sends DumpRequest and hears Dumped, or a text that says why there is no snapshot. Every page and record on the way is
 * checked, so that damage is not handed on.
 */
import { tellProgress } from "../std/child-task.ts";
import { walkRecords } from "../std/lmdb-tree-check.ts";
import { SystemDisk } from "../std/system-disk.ts";
import { bytesEqual } from "../std/bytes.ts";
import { decodeStoreState, type StoreState } from "./codec.ts";
import { RecordBlock, SnapshotFileWriter } from "./snapshot-file.ts";
import type { Dumped, DumpRequest } from "./snapshot-dump.ts";
import { RESERVED_PREFIX } from "./state-hash.ts";

async function dump({ store, isSealed, path, stateKey }: DumpRequest): Promise<Dumped> {
  const block = new RecordBlock();
  let stateRecord: Uint8Array | undefined;
  const walk = walkRecords({ file: store, isSealed }, (bytes, keyStart, valueStart, end) => {
    if (bytes[keyStart] !== RESERVED_PREFIX) block.addWithin(bytes, keyStart, valueStart, end);
    else if (bytesEqual(bytes.subarray(keyStart, valueStart), stateKey))
      stateRecord = Uint8Array.from(bytes.subarray(valueStart, end));
  });
  const file = await new SystemDisk().open(path, "create");
  try {
    const writer = new SnapshotFileWriter(file);
    let state: StoreState | undefined;
    // Its key comes first, so that the first turn has it.
    for (let turn = walk.next(); turn.done !== true; turn = walk.next()) {
      if (state === undefined) {
        if (stateRecord === undefined) throw new Error("the store has lost its state record");
        state = decodeStoreState(stateRecord);
        const { clusterId, stateHash, appliedIndex: index, appliedTerm: term, confState } = state;
        await writer.writeHeader({ clusterId, stateHash, metadata: { index, term, confState } });
      }
      if (!block.isFull) continue;
      await writer.writeRecords(block);
      tellProgress();
    }
    if (stateRecord === undefined) throw new Error("the store has lost its state record");
    await writer.writeRecords(block);
    await writer.finish();
    return { stateRecord };
  } finally {
    await file.close();
  }
}

let isAnswered = false;

function answer(message: Dumped | string): void {
  isAnswered = true;
  process.send?.(message, () => process.disconnect());
}

process.once("message", (request: DumpRequest) => {
  dump(request).then(answer, (error: unknown) => answer(String(error)));
});

// Without the parent nobody keeps the pages, and the next one removes the file.
process.once("disconnect", () => {
  if (!isAnswered) throw new Error("the parent is gone");
});
