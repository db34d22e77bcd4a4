/** Has a snapshot file written by a process of its own; see snapshot-dump-child.ts. */
import { askChild, siblingModule } from "../std/child-task.ts";
import type { FrozenFile } from "../std/ordered-store.ts";
import { decodeStoreState, type StoreState } from "./codec.ts";
import { StallWatch } from "./deadline.ts";
import { STORE_STATE_KEY } from "./replicated-store.ts";
import { DumpEndedError, noProgress, type DumpLimits } from "./state-dump.ts";

/** What a machine gives this work beside the node's own: some two thirds less than it. */
const DUMP_NICENESS = 5;

/** What the process is asked for. */
export interface DumpRequest {
  /** The file of the store; its pages are kept until the answer. */
  readonly store: string;
  /** See FrozenFile. */
  readonly isSealed: boolean;
  /** Where the snapshot goes; nothing is there. */
  readonly path: string;
  /** Key of the StoreState record. */
  readonly stateKey: Uint8Array;
}

/** A snapshot file that is whole and durable. */
export interface Dumped {
  /** The StoreState record of what is in it. */
  readonly stateRecord: Uint8Array;
}

/** What the process says of why there is no snapshot. */
export class DumpFailedError extends Error {
  override readonly name = "DumpFailedError";

  /** Whether the disk was full. */
  get isNoSpace(): boolean {
    return /\b(ENOSPC|EDQUOT)\b/.test(this.message);
  }
}

/**
 * Writes the state in the file of a store into a new snapshot file, durably, and closes the frozen file.
 * @returns what the snapshot says of itself
 * @throws DumpEndedError when it stands still; the reason of the signal; DumpFailedError and others for what went wrong. The file may be there in part then.
 */
export async function dumpAside(
  frozen: FrozenFile,
  path: string,
  { clock, stallMs, signal }: DumpLimits,
): Promise<StoreState> {
  const abort = new AbortController();
  const watch = new StallWatch(clock, stallMs, () => abort.abort(new DumpEndedError(noProgress(stallMs))));
  try {
    const { path: store, isSealed } = frozen;
    const request: DumpRequest = { store, isSealed, path, stateKey: STORE_STATE_KEY };
    const child = siblingModule(import.meta.url, "snapshot-dump-child");
    // Ends only after the process has: nobody writes to the file any more, nor reads pages that are not kept.
    const answer = await askChild<Dumped>(child, request, {
      signal: AbortSignal.any([signal, abort.signal]),
      onProgress: () => watch.progress(),
      niceness: DUMP_NICENESS,
    });
    if (typeof answer === "string") throw new DumpFailedError(answer);
    return decodeStoreState(answer.stateRecord);
  } finally {
    watch.stop();
    frozen.close();
  }
}
