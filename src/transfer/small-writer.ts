/**
 * The small path: a content of at most one chunk is written and sealed on its targets in parallel, one fsync round, and then
 * committed by one command, under this node's write lease.
 *
 * Two equal seals are needed; a third that comes soon after is taken along, a later one is added afterwards. When the path is
 * not open (no lease, too few nodes answered in time, seals rejected) nothing happened and the caller takes the long one.
 * What targets hold of a content that was not committed is removed; if that fails, collection finds it when the lease ends.
 */
import type { SmallExtent } from "../chunks/chunk-store.ts";
import { throwIfCanceled, unreachableError, withDeadline } from "../cluster/deadline.ts";
import type { Seal } from "../drive/content.ts";
import type { PathEntry, WriteOptions } from "../drive/drive-api.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { formatPath } from "../drive/path.ts";
import { largestAgreement } from "../replication/sealer.ts";
import { deferred } from "../std/deferred.ts";
import { checkTreeHash, EMPTY_TREE_HASH } from "./content-checks.ts";
import type { DataPlane } from "./data-plane.ts";
import { putIntent, type StoreRequest } from "./locators.ts";

/** After the second seal the third is awaited this long: some fsyncs of a busy disk. A late one costs a command of its own. */
export const SMALL_THIRD_SEAL_WAIT_MS = 50;
/** A target that has not sealed a small content after this long is given up. */
export const SMALL_SEAL_TIMEOUT_MS = 5_000;

/** What became of a small put. */
export type SmallOutcome =
  | { readonly outcome: "done"; readonly file: PathEntry }
  /** Nothing was proposed: no lease, or too few seals. */
  | { readonly outcome: "closed" }
  /** The tree answered SEAL_REJECTED, and remembers that under the request id. */
  | { readonly outcome: "rejected" };

interface SmallSeals {
  readonly seals: readonly Seal[];
  readonly late: Promise<readonly Seal[]>;
  readonly memberIds: readonly number[];
}

/** Writes small contents. */
export class SmallWriter {
  readonly #plane: DataPlane;

  constructor(plane: DataPlane) {
    this.#plane = plane;
  }

  /**
   * Puts a file of `bytes` (undefined: empty).
   * @returns the file, or why the small path is not open now; then nothing happened
   * @throws DriveError what the tree answered (PATH_EXISTS...), DIGEST_MISMATCH, COMMIT_OUTCOME_UNKNOWN, OVERLOADED
   */
  async put(
    request: StoreRequest,
    bytes: Uint8Array | undefined,
    options: WriteOptions & { readonly requestId: string },
  ): Promise<SmallOutcome> {
    const { lease, digester, budget } = this.#plane;
    throwIfCanceled(options.signal);
    const digest = bytes === undefined ? EMPTY_TREE_HASH : await digester.sha256(bytes);
    checkTreeHash(request.treeHash, digest);
    const contentId = lease.takeContentId();
    if (contentId === undefined) return { outcome: "closed" };
    if (bytes === undefined)
      return this.#commit(request, { contentId, sizeBytes: 0, digest, seals: [] }, options);
    this.#plane.hashed.remember(bytes, digest);
    await budget.admit(bytes.length, options.signal);
    let sealed: SmallSeals | undefined;
    try {
      const { at, attributes } = putIntent(request);
      const hint = this.#plane.hintOf(at.path, attributes, bytes.length);
      const small = { extent: { contentId, extentIndex: 0 }, bytes, digest };
      sealed = await this.#seal({ ...small, origin: this.#plane.originOf(0, hint) }, options.signal);
    } finally {
      budget.release(bytes.length);
    }
    if (sealed === undefined) return { outcome: "closed" };
    const { seals, late, memberIds } = sealed;
    try {
      const content = { contentId, sizeBytes: bytes.length, digest, seals };
      const done = await this.#commit(request, content, options);
      if (done.outcome === "done") this.#plane.reports.addLate(late);
      else this.#remove(contentId, memberIds);
      return done;
    } catch (error) {
      if (error instanceof DriveError && error.spec.outcome === "definite")
        this.#remove(contentId, memberIds);
      throw error;
    }
  }

  async #commit(
    request: StoreRequest,
    content: {
      readonly contentId: number;
      readonly sizeBytes: number;
      readonly digest: Uint8Array;
      readonly seals: readonly Seal[];
    },
    options: WriteOptions & { readonly requestId: string },
  ): Promise<SmallOutcome> {
    const { metadata, lease } = this.#plane;
    try {
      const { entry, path } = await metadata.applyEntry(
        {
          kind: "put-small",
          ...putIntent(request),
          precondition: options.precondition ?? {},
          memberId: metadata.port.memberId,
          contentId: content.contentId,
          sizeBytes: content.sizeBytes,
          treeHash: content.digest,
          seals: content.seals,
        },
        options,
      );
      return { outcome: "done", file: { entry, path: formatPath(path) } };
    } catch (error) {
      if (!hasReason(error, "SEAL_REJECTED")) throw error;
      lease.distrust();
      return { outcome: "rejected" };
    }
  }

  /** Seals on all targets at once; undefined when fewer than needed answered. */
  async #seal(small: SmallExtent, signal: AbortSignal | undefined): Promise<SmallSeals | undefined> {
    const { placement, clock } = this.#plane;
    const neededCount = placement.quorum();
    const memberIds = placement.choose();
    const answered: Seal[] = [];
    const enough = deferred<void>();
    const all = this.#sealAll(memberIds, small, signal, (seal) => {
      answered.push(seal);
      if (largestAgreement(answered).length >= neededCount) enough.resolve();
    });
    all.then(
      () => enough.resolve(),
      (error: unknown) => enough.reject(error as Error),
    );
    await enough.promise;
    const over = deferred<void>();
    const timer = clock.setTimer(SMALL_THIRD_SEAL_WAIT_MS, () => over.resolve());
    await Promise.race([all, over.promise]);
    timer.cancel();
    throwIfCanceled(signal);
    const seals = [...largestAgreement(answered)];
    if (seals.length < neededCount) {
      this.#remove(small.extent.contentId, memberIds);
      return undefined;
    }
    const late = all.then(() => answered.filter((seal) => !seals.includes(seal)));
    return { seals, late, memberIds };
  }

  /** Asks all targets under one deadline; resolves when each has answered, failed or been given up. */
  async #sealAll(
    memberIds: readonly number[],
    small: SmallExtent,
    signal: AbortSignal | undefined,
    onSeal: (seal: Seal) => void,
  ): Promise<void> {
    const { clock, detector } = this.#plane;
    const waiting = new Set(memberIds);
    const onTimeout = () => unreachableError(Math.min(...waiting), "a small content", SMALL_SEAL_TIMEOUT_MS);
    const sealAt = async (memberId: number, inner: AbortSignal): Promise<void> => {
      const seal = await this.#sealAt(memberId, small, inner);
      waiting.delete(memberId);
      if (seal !== undefined) onSeal(seal);
    };
    try {
      await withDeadline({ clock, timeoutMs: SMALL_SEAL_TIMEOUT_MS, signal, onTimeout }, (inner) =>
        Promise.all(memberIds.map((memberId) => sealAt(memberId, inner))),
      );
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
      if (!hasReason(error, "PEER_UNREACHABLE")) return;
      for (const memberId of waiting) detector.report(memberId, "unreachable");
    }
  }

  async #sealAt(memberId: number, small: SmallExtent, signal: AbortSignal): Promise<Seal | undefined> {
    const { ports, detector, budget } = this.#plane;
    const port = ports.forMember(memberId);
    if (port === undefined) return undefined;
    try {
      return await budget.toTarget(memberId, small.bytes.length, signal, () => port.putSmall(small, signal));
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
      if (!signal.aborted && hasReason(error, "PEER_UNREACHABLE")) detector.report(memberId, "unreachable");
      return undefined;
    }
  }

  #remove(contentId: number, memberIds: readonly number[]): void {
    const { ports, chores } = this.#plane;
    for (const memberId of memberIds) {
      const port = ports.forMember(memberId);
      if (port !== undefined) chores.run(() => port.removeExtent({ contentId, extentIndex: 0 }));
    }
  }
}
