/** What calls of the drive have in common: how an entry is named, and the options of reads and changes. */
import type { Precondition } from "./entry.ts";

/** An entry by id or by absolute path. */
export type EntryRef = { readonly entryId: number } | { readonly path: string };

/** How fresh a read must be. "linearizable" sees every change acknowledged before it; "stale" answers from this node alone. */
export type Consistency = "linearizable" | "stale";

/** Options of every read. */
export interface ReadOptions {
  readonly consistency?: Consistency | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Options of every mutation. */
export interface WriteOptions {
  /** 1 to REQUEST_ID_SIZE_BYTES_MAX printable ASCII characters without spaces; one is made when absent. */
  readonly requestId?: string | undefined;
  readonly precondition?: Precondition | undefined;
  readonly signal?: AbortSignal | undefined;
}
