/**
 * The small path: a content of at most one chunk is written and sealed on its targets in parallel, one fsync round, and then
 * committed by one command, under this node's write lease.
 *
 * Two equal seals are needed; a third that comes soon after is taken along, a later one is added afterwards. When the path is
 * not open (no lease, too few nodes answered in time, seals rejected) nothing happened and the caller takes the long one.
 * What targets hold of a content that was not committed is removed, also when the caller gives up before the command is
 * proposed; what that misses collection finds when the id is in no lease any more. After the proposal only the tree knows
 * whether the bytes are a file's, and they stay.
 */
import type { SmallExtent } from "../chunks/chunk-store.ts";
import { throwIfCanceled, unlessCanceled, unreachableError, withDeadline } from "../cluster/deadline.ts";
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

/** A content that its targets are sealing. */
interface Sealing {
  readonly contentId: number;
  readonly memberIds: readonly number[];
  /** The seals that came so far. */
  readonly answered: readonly Seal[];
  readonly neededCount: number;
  /** Resolves when the needed seals are there, or no more can come. */
  readonly enough: Promise<void>;
  /** Resolves when each target has answered, failed or been given up. */
  readonly all: Promise<void>;
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
    let sealing: Sealing | undefined;
    let seals: readonly Seal[] | undefined;
    try {
      const { at, attributes } = putIntent(request);
      const hint = this.#plane.hintOf(at.path, attributes, bytes.length);
      const small = { extent: { contentId, extentIndex: 0 }, bytes, digest };
      sealing = this.#beginSeals({ ...small, origin: this.#plane.originOf(0, hint) }, options.signal);
      seals = await this.#takeSeals(sealing, options.signal);
    } finally {
      budget.release(bytes.length);
      // Too few seals, or a caller that gave up: nothing was proposed, so nothing can come to refer to the bytes.
      if (sealing !== undefined && seals === undefined) this.#remove(sealing);
    }
    if (seals === undefined) return { outcome: "closed" };
    try {
      const content = { contentId, sizeBytes: bytes.length, digest, seals };
      const done = await this.#commit(request, content, options);
      if (done.outcome === "done") this.#plane.reports.addLate(lateSeals(sealing, seals));
      else this.#remove(sealing);
      return done;
    } catch (error) {
      if (error instanceof DriveError && error.spec.outcome === "definite") this.#remove(sealing);
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

  /** Has all targets seal at once. */
  #beginSeals(small: SmallExtent, signal: AbortSignal | undefined): Sealing {
    const { placement } = this.#plane;
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
    const { contentId } = small.extent;
    return { contentId, memberIds, answered, neededCount, enough: enough.promise, all };
  }

  /** The seals to commit with; undefined when fewer than needed came. @throws DriveError CANCELED */
  async #takeSeals(
    { answered, neededCount, enough, all }: Sealing,
    signal: AbortSignal | undefined,
  ): Promise<readonly Seal[] | undefined> {
    await unlessCanceled(enough, signal);
    const over = deferred<void>();
    const timer = this.#plane.clock.setTimer(SMALL_THIRD_SEAL_WAIT_MS, () => over.resolve());
    await unlessCanceled(Promise.race([all, over.promise]), signal).finally(() => timer.cancel());
    throwIfCanceled(signal);
    const seals = largestAgreement(answered);
    return seals.length < neededCount ? undefined : [...seals];
  }

  /**
   * Asks all targets under one deadline; resolves when each has answered, failed or been given up. A caller that gives up ends
   * the wait for a turn alone: a call cut short would leave open whether the target seals after it was told to remove.
   */
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
      const seal = await this.#sealAt(memberId, small, { call: inner, turn: eitherOf(inner, signal) });
      waiting.delete(memberId);
      if (seal !== undefined) onSeal(seal);
    };
    try {
      await withDeadline({ clock, timeoutMs: SMALL_SEAL_TIMEOUT_MS, onTimeout }, (inner) =>
        Promise.all(memberIds.map((memberId) => sealAt(memberId, inner))),
      );
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
      if (!hasReason(error, "PEER_UNREACHABLE")) return;
      for (const memberId of waiting) detector.report(memberId, "unreachable");
    }
  }

  async #sealAt(
    memberId: number,
    small: SmallExtent,
    signals: { readonly call: AbortSignal; readonly turn: AbortSignal },
  ): Promise<Seal | undefined> {
    const { ports, detector, budget } = this.#plane;
    const port = ports.forMember(memberId);
    if (port === undefined) return undefined;
    const { call, turn } = signals;
    try {
      return await budget.toTarget(memberId, small.bytes.length, turn, () => port.putSmall(small, call));
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
      if (!call.aborted && hasReason(error, "PEER_UNREACHABLE")) detector.report(memberId, "unreachable");
      return undefined;
    }
  }

  /** Removes what targets hold of a content that no file has, once none of them is still sealing it. */
  #remove({ contentId, memberIds, all }: Sealing): void {
    const { ports, chores } = this.#plane;
    chores.run(async () => {
      await all;
      for (const memberId of memberIds) {
        const port = ports.forMember(memberId);
        if (port !== undefined) chores.run(() => port.removeExtent({ contentId, extentIndex: 0 }));
      }
    });
  }
}

/** The seals beyond those that a content was committed with. */
async function lateSeals({ all, answered }: Sealing, seals: readonly Seal[]): Promise<readonly Seal[]> {
  await all;
  return answered.filter((seal) => !seals.includes(seal));
}

function eitherOf(inner: AbortSignal, signal: AbortSignal | undefined): AbortSignal {
  return signal === undefined ? inner : AbortSignal.any([inner, signal]);
}
