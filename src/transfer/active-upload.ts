/**
 * One open upload as this node works on it: writers for its extents, and early seals of extents that are full.
 *
 * Nothing here matters beyond this process: the upload's record lies in the tree, its chunks at the targets. Another node, or
 * this one after a restart, makes its own ActiveUpload and goes on. An extent that this node has seen filled is sealed at once
 * in the background, so that completing takes no longer for a large file than for a small one.
 */
import { throwIfCanceled } from "../cluster/deadline.ts";
import type { Seal } from "../drive/content.ts";
import { chunkCount, extentCount, extentSizeBytes } from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES, EXTENT_CHUNK_COUNT_MAX, THIRD_SEAL_WAIT_MS } from "../drive/limits.ts";
import { formatRanges, parseRanges } from "../drive/chunk-ranges.ts";
import { hasEntry, pathOf, type UploadInfo } from "../metadata/view.ts";
import { ExtentWriter } from "../replication/extent-writer.ts";
import type { SealedExtent } from "../replication/sealer.ts";
import { must } from "../std/assert.ts";
import { deferred } from "../std/deferred.ts";
import { Semaphore } from "../std/semaphore.ts";
import type { DataPlane } from "./data-plane.ts";
import { InOrderDigest } from "./in-order-digest.ts";
import type { TransferProgress } from "./progress.ts";
import { withLivingTargets } from "./stale-targets.ts";
import { folderGone, getOpenUpload } from "./upload-record.ts";

/** The record is read again when it is older than this: targets may have been assigned, or the upload ended, elsewhere. */
export const RECORD_REFRESH_MS = 500;
/** An upload that receives chunks shows a sign of life this often; far below the seven days after which it expires. */
export const RENEW_INTERVAL_MS = 60 * 60 * 1000;
/** Extents sealed at once when an upload completes. */
export const SEAL_PARALLEL_COUNT = 4;

/** The seals of a whole content. */
export interface SealedContent {
  readonly seals: readonly Seal[];
  /** Roots of the extents in order. */
  readonly roots: readonly Uint8Array[];
  readonly late: readonly Promise<readonly Seal[]>[];
}

/** An upload in work at this node. */
export class ActiveUpload {
  readonly uploadId: number;
  readonly progress: TransferProgress;
  /** What this node knows of the plain digest. */
  readonly plain = new InOrderDigest();
  readonly #plane: DataPlane;
  #record: UploadInfo;
  #recordAtMs: number;
  /** Assignments made here that the local store does not show before it has applied `index`. */
  readonly #assigned = new Map<number, { readonly index: number; readonly memberIds: readonly number[] }>();
  #renewedAtMs: number;
  readonly #writers = new Map<number, ExtentWriter>();
  readonly #assigning = new Map<number, Promise<readonly number[]>>();
  /** What was counted of each extent; "full" once all of it came and was sealed. */
  readonly #tallies = new Map<number, ExtentTally | "full">();
  readonly #early = new Map<number, Promise<SealedExtent | undefined>>();

  constructor(plane: DataPlane, record: UploadInfo) {
    this.uploadId = record.uploadId;
    this.#plane = plane;
    this.#record = record;
    this.#recordAtMs = plane.clock.monotonicMs();
    this.#renewedAtMs = this.#recordAtMs;
    this.progress = plane.progress.open(String(record.uploadId), "upload", record.sizeBytes);
  }

  /** The record as last read. */
  get record(): UploadInfo {
    return this.#record;
  }

  /** Checks, as far as this node's tree has come, that there is a folder to put the file into. @throws DriveError PATH_NOT_FOUND */
  checkFolder(): void {
    if (!hasEntry(this.#plane.metadata.port.reader(), this.#record.parentId)) throw folderGone(this.#record);
  }

  /**
   * Writes one chunk of the content.
   * @throws DriveError as ExtentWriter.writeChunk(), and UPLOAD_NOT_FOUND, UPLOAD_FINISHED, PATH_NOT_FOUND
   */
  async writeChunk(
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array,
    signal?: AbortSignal,
  ): Promise<number> {
    const extentIndex = Math.floor(chunkIndex / EXTENT_CHUNK_COUNT_MAX);
    const inExtent = chunkIndex % EXTENT_CHUNK_COUNT_MAX;
    const writer = await this.#writer(extentIndex);
    const count = await writer.writeChunk(inExtent, bytes, digest, signal);
    this.#noteReceived(extentIndex, inExtent, bytes.length, writer);
    return count;
  }

  /**
   * Seals every extent of a content of `sizeBytes`. Those that were sealed when they were full are taken as they are as far as their
   * copies count: an upload may last longer than a member that died meanwhile is waited for.
   * @throws DriveError UPLOAD_INCOMPLETE (metadata `missing`: chunk indexes of the content), or as Sealer.seal()
   */
  async sealAll(sizeBytes: number, signal?: AbortSignal): Promise<SealedContent> {
    const count = extentCount(sizeBytes);
    const sealed: SealedExtent[] = [];
    const missing: number[] = [];
    const slots = new Semaphore(SEAL_PARALLEL_COUNT);
    let missingCount = 0;
    const sealInto = async (extentIndex: number): Promise<void> => {
      await slots.acquire(1);
      try {
        const early = this.#counting(await this.#early.get(extentIndex));
        sealed[extentIndex] = early ?? (await this.#seal(extentIndex, sizeBytes, sizeBytes, signal));
      } catch (error) {
        if (!hasReason(error, "UPLOAD_INCOMPLETE")) throw error;
        const chunks = chunkCount(extentSizeBytes(sizeBytes, extentIndex));
        missingCount += Number(error.metadata["missing_count"] ?? 0);
        for (const index of parseRanges(error.metadata["missing"] ?? "", chunks)) {
          missing.push(extentIndex * EXTENT_CHUNK_COUNT_MAX + index);
        }
      } finally {
        slots.release(1);
      }
    };
    await allOrFirstError(Array.from({ length: count }, (_, extentIndex) => sealInto(extentIndex)));
    if (missing.length > 0) {
      throw new DriveError("UPLOAD_INCOMPLETE", `${missingCount} chunks of the upload are missing.`, {
        missing: formatRanges(missing.sort((a, b) => a - b)),
        missing_count: String(missingCount),
      });
    }
    const inOrder = Array.from({ length: count }, (_, index) =>
      must(sealed[index], "every extent was sealed"),
    );
    return {
      seals: inOrder.flatMap((extent) => extent.seals),
      roots: inOrder.map((extent) => must(extent.seals[0], "a sealed extent has seals").root),
      late: inOrder.map((extent) => extent.late),
    };
  }

  /** An extent with those of its seals that count, when they are enough. */
  #counting(sealed: SealedExtent | undefined): SealedExtent | undefined {
    const { placement, reports } = this.#plane;
    const seals = sealed?.seals.filter(({ memberId }) => !reports.isGivenUp(memberId)) ?? [];
    return sealed === undefined || seals.length < placement.quorum() ? undefined : { ...sealed, seals };
  }

  /** Forgets early seals, after the tree rejected them: they are asked for again. */
  forgetSeals(): void {
    this.#early.clear();
  }

  /** Gives up what is under way. The upload itself stays open. */
  stop(): void {
    for (const writer of this.#writers.values()) writer.stop();
    this.#writers.clear();
  }

  async #writer(extentIndex: number): Promise<ExtentWriter> {
    this.#refresh();
    const { contentId, sizeBytes } = this.#record;
    const existing = this.#writers.get(extentIndex);
    if (existing !== undefined) return existing;
    const memberIds = this.#targetsOf(extentIndex) ?? (await this.#assignOnce(extentIndex));
    const again = this.#writers.get(extentIndex);
    if (again !== undefined) return again;
    const { clock, ports, detector, budget, filler, placement } = this.#plane;
    const tally = this.#tallyOf(extentIndex);
    const writer = new ExtentWriter({
      clock,
      ports,
      detector,
      budget,
      filler,
      extent: { contentId, extentIndex },
      expectedSizeBytes: sizeBytes === undefined ? undefined : extentSizeBytes(sizeBytes, extentIndex),
      memberIds,
      quorum: () => placement.quorum(),
      reassign: (failed) => this.#reassign(extentIndex, writer, failed),
      onCopy: (size, copyNumber, chunkIndex) => {
        if (tally !== "full" && tally.copy(chunkIndex, copyNumber)) this.progress.addCopied(size, copyNumber);
      },
    });
    this.#writers.set(extentIndex, writer);
    return writer;
  }

  /** Reads the record again when it is old, and follows what another node changed. */
  #refresh(): void {
    const now = this.#plane.clock.monotonicMs();
    if (now - this.#renewedAtMs >= RENEW_INTERVAL_MS) this.#renew(now);
    if (now - this.#recordAtMs < RECORD_REFRESH_MS) return;
    const { port } = this.#plane.metadata;
    this.#record = getOpenUpload(port.reader(), this.uploadId);
    this.#recordAtMs = now;
    // Better than taking ten gigabytes that can go nowhere.
    this.checkFolder();
    for (const [extentIndex, writer] of this.#writers) {
      const memberIds = this.#targetsOf(extentIndex);
      if (memberIds !== undefined && !sameMembers(memberIds, writer.memberIds)) writer.retarget(memberIds);
    }
  }

  #targetsOf(extentIndex: number): readonly number[] | undefined {
    const { port } = this.#plane.metadata;
    const own = this.#assigned.get(extentIndex);
    if (own !== undefined && port.appliedIndex() < own.index) return own.memberIds;
    if (own !== undefined) {
      this.#assigned.delete(extentIndex);
      this.#record = getOpenUpload(port.reader(), this.uploadId);
    }
    return this.#record.extents.find((extent) => extent.extentIndex === extentIndex)?.memberIds;
  }

  #assignOnce(extentIndex: number): Promise<readonly number[]> {
    let assigning = this.#assigning.get(extentIndex);
    if (assigning === undefined) {
      const plane = this.#plane;
      assigning = withLivingTargets(plane, undefined, () =>
        this.#assign(extentIndex, plane.placement.choose()),
      ).finally(() => this.#assigning.delete(extentIndex));
      this.#assigning.set(extentIndex, assigning);
    }
    return assigning;
  }

  async #assign(extentIndex: number, memberIds: readonly number[]): Promise<readonly number[]> {
    const { uploadId } = this;
    const targets = { extentIndex, memberIds };
    const applied = await this.#plane.metadata.applyIdempotent({ kind: "assign-extent", uploadId, targets });
    this.#assigned.set(extentIndex, { index: applied.index, memberIds });
    return memberIds;
  }

  async #reassign(
    extentIndex: number,
    writer: ExtentWriter,
    failed: readonly number[],
  ): Promise<readonly number[] | undefined> {
    const { directory, placement } = this.#plane;
    return withLivingTargets(this.#plane, undefined, async () => {
      const isGone = (memberId: number): boolean =>
        failed.includes(memberId) || directory.find(memberId) === undefined;
      const kept = writer.memberIds.filter((memberId) => !isGone(memberId));
      const memberIds = placement.replace(kept, writer.memberIds.filter(isGone));
      if (memberIds === undefined) return undefined;
      // A failed target that has come back needs no agreement: it is assigned already.
      if (sameMembers(memberIds, this.#targetsOf(extentIndex) ?? [])) return memberIds;
      return this.#assign(extentIndex, memberIds);
    });
  }

  #renew(now: number): void {
    this.#renewedAtMs = now;
    const { uploadId } = this;
    this.#plane.chores.run(() => this.#plane.metadata.applyIdempotent({ kind: "renew-upload", uploadId }));
  }

  #tallyOf(extentIndex: number): ExtentTally | "full" {
    let tally = this.#tallies.get(extentIndex);
    if (tally === undefined) {
      tally = new ExtentTally();
      this.#tallies.set(extentIndex, tally);
    }
    return tally;
  }

  #noteReceived(extentIndex: number, inExtent: number, chunkBytes: number, writer: ExtentWriter): void {
    const tally = this.#tallyOf(extentIndex);
    if (tally === "full" || !tally.receive(inExtent)) return;
    this.progress.addTransferred(chunkBytes);
    const sizeBytes = this.#record.sizeBytes;
    const fullSizeBytes = EXTENT_CHUNK_COUNT_MAX * CHUNK_SIZE_BYTES;
    const extentBytes = sizeBytes === undefined ? fullSizeBytes : extentSizeBytes(sizeBytes, extentIndex);
    if (tally.receivedCount < chunkCount(extentBytes) || this.#early.has(extentIndex)) return;
    const contentBytes = sizeBytes ?? (extentIndex + 1) * fullSizeBytes;
    const sealing = this.#sealEarly(extentIndex, contentBytes, writer);
    this.#early.set(extentIndex, sealing);
  }

  /** Seals a full extent in the background; undefined when that failed, and completing tries again. */
  async #sealEarly(
    extentIndex: number,
    contentBytes: number,
    writer: ExtentWriter,
  ): Promise<SealedExtent | undefined> {
    try {
      const sealed = await this.#seal(extentIndex, contentBytes, this.#record.sizeBytes ?? 0, undefined);
      if (this.#writers.get(extentIndex) === writer) this.#writers.delete(extentIndex);
      this.#tallies.set(extentIndex, "full");
      return sealed;
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
      this.#early.delete(extentIndex);
      return undefined;
    }
  }

  async #seal(
    extentIndex: number,
    contentBytes: number,
    knownSizeBytes: number,
    signal: AbortSignal | undefined,
  ): Promise<SealedExtent> {
    throwIfCanceled(signal);
    const writer = this.#writers.get(extentIndex);
    if (writer !== undefined) await this.#settleWriter(writer);
    const former = writer?.memberIds ?? this.#targetsOf(extentIndex) ?? [];
    const memberIds = await this.#withEnough(extentIndex, former);
    if (memberIds !== former) writer?.retarget(memberIds);
    const isUp = (memberId: number): boolean => this.#plane.detector.state(memberId).health !== "down";
    const sources = [...new Set([...memberIds, ...former])].filter(isUp);
    const { contentId, parentId, name, attributes } = this.#record;
    const path = [...(pathOf(this.#plane.metadata.port.reader(), parentId) ?? []), name];
    const hint = this.#plane.hintOf(path, attributes, knownSizeBytes);
    return this.#plane.sealer.seal(
      {
        extent: { contentId, extentIndex },
        sizeBytes: extentSizeBytes(contentBytes, extentIndex),
        origin: this.#plane.originOf(this.uploadId, hint),
      },
      { memberIds, sources, neededCount: this.#plane.placement.quorum(), signal },
    );
  }

  /**
   * The targets to seal an extent on: when those that were not given up, nor removed, are too few, others take the place of the rest.
   * What these lack is filled from a copy that is left, so that a client who has sent everything need not come back; while none can be
   * reached, the old targets are waited for.
   */
  async #withEnough(extentIndex: number, memberIds: readonly number[]): Promise<readonly number[]> {
    const { detector, directory, placement, reports } = this.#plane;
    const isGone = (memberId: number): boolean =>
      reports.isGivenUp(memberId) || directory.find(memberId) === undefined;
    return withLivingTargets(this.#plane, undefined, async () => {
      const kept = memberIds.filter((memberId) => !isGone(memberId));
      const canFill = kept.some((memberId) => detector.state(memberId).health !== "down");
      if (kept.length >= placement.quorum() || !canFill) return memberIds;
      const chosen = placement.replace(kept, memberIds.filter(isGone));
      return chosen === undefined ? memberIds : this.#assign(extentIndex, chosen);
    });
  }

  /** Copies still under way are worth a short wait: what arrives need not be filled from another node. */
  async #settleWriter(writer: ExtentWriter): Promise<void> {
    const over = deferred<void>();
    const timer = this.#plane.clock.setTimer(THIRD_SEAL_WAIT_MS, () => over.resolve());
    await Promise.race([writer.settled(), over.promise]);
    timer.cancel();
  }
}

/** Which chunks of an extent came through this node, and how many copies of each: what is sent again counts once. */
class ExtentTally {
  receivedCount = 0;
  readonly #received = new Uint8Array(EXTENT_CHUNK_COUNT_MAX);
  readonly #copyCounts = new Uint8Array(EXTENT_CHUNK_COUNT_MAX);

  /** Whether a chunk that came is new. */
  receive(chunkIndex: number): boolean {
    if (this.#received[chunkIndex] !== 0) return false;
    this.#received[chunkIndex] = 1;
    this.receivedCount += 1;
    return true;
  }

  /** Whether a chunk had fewer copies than `copyNumber` so far. */
  copy(chunkIndex: number, copyNumber: number): boolean {
    if ((this.#copyCounts[chunkIndex] ?? copyNumber) >= copyNumber) return false;
    this.#copyCounts[chunkIndex] = copyNumber;
    return true;
  }
}

function sameMembers(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((memberId) => b.includes(memberId));
}

/** Waits for all; throws the first error in order, after all have ended. */
export async function allOrFirstError(work: readonly Promise<void>[]): Promise<void> {
  const outcomes = await Promise.allSettled(work);
  const failed = outcomes.find((outcome) => outcome.status === "rejected");
  if (failed !== undefined) throw failed.reason;
}
