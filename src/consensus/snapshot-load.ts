/** Has a store made from a snapshot file by a process of its own; see snapshot-load-child.ts. */
import { DriveError } from "../drive/errors.ts";
import { askChild, siblingModule } from "../std/child-task.ts";
import type { BulkTarget } from "../std/ordered-store.ts";

/** What the process is asked for. */
export interface LoadRequest {
  /** The snapshot file. */
  readonly path: string;
  readonly target: BulkTarget;
  /** Key of the StoreState record. */
  readonly stateKey: Uint8Array;
}

/** How it went: refused for damage, or for want of space. */
export type LoadAnswer =
  | { readonly kind: "loaded" }
  | { readonly kind: "damaged"; readonly message: string }
  | { readonly kind: "full"; readonly message: string };

/** What a machine gives this work beside the node's own: some two thirds less than it. */
const LOAD_NICENESS = 5;

/**
 * Makes the store in `target`, durably, of what a snapshot file holds.
 * @throws DriveError DATA_CORRUPT when the file or its hash is wrong, NO_SPACE; the reason of the signal; what went wrong. The
 *   store may be there in part then.
 */
export async function loadAside(request: LoadRequest, signal?: AbortSignal): Promise<void> {
  const child = siblingModule(import.meta.url, "snapshot-load-child");
  const answer = await askChild<LoadAnswer>(child, request, { signal, niceness: LOAD_NICENESS });
  if (typeof answer === "string") throw new Error(`The snapshot was not loaded: ${answer}`);
  if (answer.kind === "damaged") throw new DriveError("DATA_CORRUPT", answer.message, { path: request.path });
  if (answer.kind === "full") throw new DriveError("NO_SPACE", answer.message, { path: request.path });
}
