/** Has a snapshot file written by a process of its own; see snapshot-dump-child.ts. */
import { askChild, siblingModule } from "../std/child-task.ts";
import type { FrozenFile } from "../std/ordered-store.ts";
import { decodeStoreState, type StoreState } from "./codec.ts";
import { STORE_STATE_KEY } from "./replicated-store.ts";
import { DumpEndedError, type DumpLimits } from "./state-dump.ts";

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

/**
 * Writes the state in the file of a store into a new snapshot file, durably, and closes the frozen file.
 * @returns what the snapshot says of itself
 * @throws DumpEndedError when the time is over; the reason of the signal; what went wrong. The file may be there in part then.
 */
export async function dumpAside(
  frozen: FrozenFile,
  path: string,
  { clock, timeoutMs, signal }: DumpLimits,
): Promise<StoreState> {
  const abort = new AbortController();
  const timer = clock.setTimer(timeoutMs, () => {
    abort.abort(new DumpEndedError(`the dump took longer than ${timeoutMs} ms`));
  });
  try {
    const { path: store, isSealed } = frozen;
    const request: DumpRequest = { store, isSealed, path, stateKey: STORE_STATE_KEY };
    const child = siblingModule(import.meta.url, "snapshot-dump-child");
    // Ends only after the process has: nobody writes to the file any more, nor reads pages that are not kept.
    const answer = await askChild<Dumped>(child, request, AbortSignal.any([signal, abort.signal]));
    if (typeof answer === "string") throw new Error(answer);
    return decodeStoreState(answer.stateRecord);
  } finally {
    timer.cancel();
    frozen.close();
  }
}
