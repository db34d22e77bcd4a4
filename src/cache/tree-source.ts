/** Entries from the tree of this node, for the cache: its read index, and the change window kept up with the feed. */
import type { MetadataPort } from "../cluster/metadata-port.ts";
import type { Change } from "../drive/change.ts";
import type { DriveApi, EntryRef, ReadOptions } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { findAncestors } from "../metadata/entries.ts";
import { changesAfter } from "../metadata/view.ts";
import type { EntrySource, FoundEntry } from "./cached-stat.ts";
import type { ChangeWindow, WindowChange } from "./change-window.ts";

/** Commands that a read catches up with in one go; further behind, the window begins anew. Some 10 ms of work. */
export const FOLLOW_COMMAND_COUNT_MAX = 5000;

/** What a TreeSource needs. */
export interface TreeSourceOptions {
  readonly port: MetadataPort;
  /** Reads of the same tree. */
  readonly reads: Pick<DriveApi, "stat">;
  readonly window: ChangeWindow;
}

/** See the file's comment. */
export class TreeSource implements EntrySource {
  readonly #options: TreeSourceOptions;

  constructor(options: TreeSourceOptions) {
    this.#options = options;
  }

  async readIndex({ signal }: ReadOptions): Promise<number> {
    const { port, window } = this.#options;
    await port.linearize({ signal });
    this.#follow();
    return window.throughIndex;
  }

  async read(ref: EntryRef, { signal }: ReadOptions): Promise<FoundEntry> {
    const { port, reads } = this.#options;
    // The state goes on while it is read: what is found is at least as new as this.
    const version = port.appliedIndex();
    const found = await reads.stat(ref, { consistency: "stale", signal });
    const ancestors = findAncestors(port.reader(), found.entry.parentId);
    return { found, version, ancestorIds: ancestors?.map(({ id }) => id) };
  }

  /** Brings the window up to the applied index. */
  #follow(): void {
    const { port, window } = this.#options;
    const appliedIndex = port.appliedIndex();
    const { throughIndex } = window;
    if (appliedIndex <= throughIndex) return;
    if (appliedIndex - throughIndex > FOLLOW_COMMAND_COUNT_MAX) {
      window.restart(appliedIndex);
      return;
    }
    try {
      const changes = changesAfter(port.reader(), throughIndex, Number.POSITIVE_INFINITY);
      window.advance(changes.map(windowChangeOf), appliedIndex);
    } catch (error) {
      if (!(error instanceof DriveError) || error.reason !== "RANGE_NOT_SATISFIABLE") throw error;
      window.restart(appliedIndex);
    }
  }
}

function windowChangeOf({ index, kind, entry }: Change): WindowChange {
  const movesPaths = entry.kind === "directory" && (kind === "moved" || kind === "deleted");
  return { index, entryId: entry.entryId, movesPaths };
}
