/**
 * Change events: what applying a command did to the tree, in order, for watchers, catalogs and caches.
 *
 * Events are numbered by (index, position): the log index of the command and the place within it. The feed is ordered,
 * unique and without gaps within its retention (reliability: C8).
 */
import type { Entry } from "./entry.ts";

/** One event. */
export interface Change {
  /** Log index of the command. */
  readonly index: number;
  /** Position among the events of that command, from 0. */
  readonly position: number;
  readonly kind: "created" | "updated" | "moved" | "deleted";
  /** The entry after the change; for "deleted" as it was before. */
  readonly entry: Entry;
  /** For "moved": where it was before. */
  readonly previous?: { readonly parentId: number; readonly name: string } | undefined;
}
