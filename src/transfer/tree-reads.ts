/**
 * Reads of the tree for users: linearizable unless stale, with folder copies filled where a read needs it.
 *
 * A read that touches an unfinished copy has it carried on by a command and is done again, a bounded number of times: each
 * command makes up to BATCH_ITEM_COUNT_MAX names. Cursors are opaque to clients: the last name of the page.
 */
import type { MetadataClient } from "../cluster/metadata-client.ts";
import type { Extent } from "../drive/content.ts";
import type { EntryPage, EntryRef, PathEntry, ReadOptions } from "../drive/drive-api.ts";
import type { Entry, Locator } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { PAGE_SIZE_MAX, REPLICA_COUNT } from "../drive/limits.ts";
import { formatPath } from "../drive/path.ts";
import {
  clusterTime,
  extentsOf,
  list,
  resolve,
  type FoundEntry,
  type ListPage,
  type NeedsMaterialise,
} from "../metadata/view.ts";
import { locatorOf } from "./locators.ts";

/** Commands that one read may cost. A listing of an unfinished copy of a million names takes a thousand of them. */
export const MATERIALISE_COUNT_MAX = 2000;

/** Reads of the tree. */
export class TreeReads {
  readonly #metadata: MetadataClient;

  constructor(metadata: MetadataClient) {
    this.#metadata = metadata;
  }

  /** An entry and its path. Errors: PATH_NOT_FOUND, NOT_A_DIRECTORY. */
  async stat(ref: EntryRef, options: ReadOptions = {}): Promise<PathEntry> {
    const { entry, path } = await this.find(locatorOf(ref), options);
    return { entry, path: formatPath(path) };
  }

  /** As stat(), for a file. Errors: IS_A_DIRECTORY. */
  async statFile(ref: EntryRef, options: ReadOptions = {}): Promise<PathEntry> {
    const found = await this.stat(ref, options);
    if (found.entry.kind === "file") return found;
    throw new DriveError("IS_A_DIRECTORY", `${JSON.stringify(found.path)} is a folder.`, {
      path: found.path,
    });
  }

  /** A page of a directory. Errors: as DriveApi.list(). */
  async list(
    ref: EntryRef,
    page: { readonly cursor?: string | undefined; readonly countMax: number },
    options: ReadOptions = {},
  ): Promise<EntryPage> {
    const { countMax } = page;
    if (!Number.isSafeInteger(countMax) || countMax < 1 || countMax > PAGE_SIZE_MAX) {
      throw new DriveError("ARGUMENT_INVALID", `A page has 1 to ${PAGE_SIZE_MAX} entries, not ${countMax}.`, {
        count: String(countMax),
        count_max: String(PAGE_SIZE_MAX),
      });
    }
    const afterName = page.cursor === undefined ? undefined : nameOfCursor(page.cursor);
    const { entry, path } = await this.find(locatorOf(ref), options);
    if (entry.kind !== "directory") {
      const shown = formatPath(path);
      throw new DriveError("NOT_A_DIRECTORY", `${JSON.stringify(shown)} is a file.`, { path: shown });
    }
    const found = await this.listFound(entry.entryId, { afterName, countMax }, options);
    const last = found.entries.at(-1);
    const nextCursor = found.more && last !== undefined ? cursorOf(last.name) : undefined;
    return { entries: found.entries, path: formatPath(path), nextCursor };
  }

  /** A page of a directory that was found before, as the local store has it. Errors: PATH_NOT_FOUND, OVERLOADED. */
  listFound(
    directoryId: number,
    page: { readonly afterName?: string | undefined; readonly countMax: number },
    options: ReadOptions = {},
  ): Promise<ListPage> {
    return this.#carriedOn(() => list(this.#metadata.port.reader(), directoryId, page), options);
  }

  /** The extents of a file's content as the local store has them, in order. */
  extentsOf(entry: Entry): readonly Extent[] {
    return extentsOf(this.#metadata.port.reader(), entry.contentId);
  }

  /** Fewest verified copies of any extent, the members that hold one of every extent, and how long ago the oldest check was. */
  durability(entry: Entry): {
    readonly verifiedCount: number;
    readonly memberIds: readonly number[];
    readonly oldestCheckAgeMs: number | undefined;
  } {
    const verified = this.extentsOf(entry).map((extent) =>
      extent.replicas.filter((replica) => replica.state === "verified"),
    );
    const holders = verified.map((replicas) => replicas.map((replica) => replica.memberId));
    const [first] = holders;
    if (first === undefined) {
      return { verifiedCount: REPLICA_COUNT, memberIds: [], oldestCheckAgeMs: undefined };
    }
    const oldestMs = Math.min(...verified.flat().map((replica) => replica.checkTimeMs));
    const isKnown = Number.isFinite(oldestMs) && oldestMs > 0;
    const nowMs = clusterTime(this.#metadata.port.reader());
    const memberIds = first.filter((memberId) => holders.every((each) => each.includes(memberId)));
    return {
      verifiedCount: Math.min(...holders.map((each) => each.length)),
      memberIds: memberIds.sort((a, b) => a - b),
      oldestCheckAgeMs: isKnown ? Math.max(0, nowMs - oldestMs) : undefined,
    };
  }

  /** What a locator leads to. Errors: PATH_NOT_FOUND, NOT_A_DIRECTORY. */
  async find(locator: Locator, options: ReadOptions = {}): Promise<FoundEntry> {
    if (options.consistency !== "stale") await this.#metadata.port.linearize({ signal: options.signal });
    return this.#carriedOn(() => resolve(this.#metadata.port.reader(), locator), options);
  }

  /** Reads again and again, carrying on the folder copy that the read asks for in between. */
  async #carriedOn<T extends { readonly kind: string }>(
    read: () => T | NeedsMaterialise,
    options: ReadOptions,
  ): Promise<T> {
    const { port } = this.#metadata;
    for (let count = 0; ; count += 1) {
      const answer = read();
      if (!isUnfinished(answer)) return answer;
      if (count >= MATERIALISE_COUNT_MAX) {
        throw new DriveError("OVERLOADED", "The folder is a copy that is still being filled.", {
          directory_id: String(answer.directoryId),
        });
      }
      const { directoryId, path } = answer;
      const applied = await this.#metadata.applyIdempotent(
        { kind: "materialise", directoryId, path },
        { signal: options.signal },
      );
      // Even a stale read must see what it asked for.
      if (port.appliedIndex() < applied.index) await port.linearize({ signal: options.signal });
    }
  }
}

function isUnfinished<T extends { readonly kind: string }>(
  answer: T | NeedsMaterialise,
): answer is NeedsMaterialise {
  return answer.kind === "needs-materialise";
}

function cursorOf(name: string): string {
  return Buffer.from(name, "utf8").toString("base64url");
}

function nameOfCursor(cursor: string): string {
  const name = Buffer.from(cursor, "base64url").toString("utf8");
  if (name !== "" && cursorOf(name) === cursor) return name;
  throw new DriveError("ARGUMENT_INVALID", "The cursor is not one that a listing gave.", {});
}
