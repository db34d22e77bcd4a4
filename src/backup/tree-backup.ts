/**
 * Makes snapshots of the tree and keeps them as contents, so that the tree can be rebuilt when every voter has lost it.
 *
 *   dump of a frozen view -> local file -> extents on three members -> seals -> record-tree-snapshot -> file removed
 *
 * The leader makes one when something changed since the newest and that is older than the interval; any voter makes one when
 * asked. It is written under the node's write lease, as a small file is, so a maker that dies leaves only extents that collection
 * finds. Memory stays at some chunks; the disk holds one more copy of the tree while it is sent.
 */
import { throwIfCanceled } from "../cluster/deadline.ts";
import type { FailureDetector } from "../cluster/failure-detector-port.ts";
import type { MetadataClient } from "../cluster/metadata-client.ts";
import { PacedLoop } from "../cluster/paced-loop.ts";
import type { WriteLease } from "../cluster/write-lease.ts";
import type { Dumped } from "../consensus/snapshots.ts";
import type { TreeBackup } from "../drive/cluster-admin.ts";
import {
  extentCount,
  extentSizeBytes,
  type ManifestOrigin,
  type OriginHint,
  type Seal,
} from "../drive/content.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES, EXTENT_SIZE_BYTES_MAX } from "../drive/limits.ts";
import { lastEventIndex, snapshotAge } from "../metadata/tree-snapshots.ts";
import { clusterTime } from "../metadata/view.ts";
import type { BackgroundPace } from "../replication/background-pace.ts";
import type { Chores } from "../replication/chores.ts";
import { ExtentWriter } from "../replication/extent-writer.ts";
import type { HoleFiller } from "../replication/hole-filler.ts";
import type { Placement } from "../replication/placement.ts";
import type { ReplicaPorts } from "../replication/replica-port.ts";
import type { ReplicaReports } from "../replication/replica-reports.ts";
import type { SealedExtent, Sealer } from "../replication/sealer.ts";
import type { WriteBudget } from "../replication/write-budget.ts";
import { must } from "../std/assert.ts";
import type { Clock } from "../std/clock.ts";
import { foldTreeHash, type Digester } from "../std/digest.ts";
import type { Disk, DiskFile } from "../std/disk.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import { Semaphore } from "../std/semaphore.ts";

/** A changed tree is snapshotted this often. */
export const TREE_SNAPSHOT_INTERVAL_MS = 10 * 60_000;
/** How often it is looked at whether one is due, when that is shorter than the interval. */
export const TREE_SNAPSHOT_LOOK_MS = 60_000;
/**
 * A snapshot that took long is followed by a pause of so many times that long: it never takes more than a fifth of the time, and
 * one that takes two minutes still comes every ten.
 */
export const PAUSE_FACTOR = 4;
/** Bytes a second while users move bytes. */
export const TREE_SNAPSHOT_BUSY_BYTES_PER_SECOND = 16 * 1024 * 1024;

/** The parts of the data plane that a snapshot is written with. */
export interface BackupPlane {
  readonly clock: Clock;
  readonly digester: Digester;
  readonly metadata: MetadataClient;
  readonly lease: WriteLease;
  readonly placement: Placement;
  readonly ports: ReplicaPorts;
  readonly detector: FailureDetector;
  readonly budget: WriteBudget;
  readonly filler: HoleFiller;
  readonly sealer: Sealer;
  readonly chores: Chores;
  readonly reports: ReplicaReports;
  originOf(entryId: number, hint: OriginHint): ManifestOrigin;
}

/** What a TreeBackups needs. */
export interface TreeBackupsOptions {
  readonly plane: BackupPlane;
  readonly disk: Disk;
  /** Belongs to this alone; its parent exists. */
  readonly directory: string;
  /** As Snapshots.dumpTo() of consensus. */
  readonly dump: <T>(
    path: string,
    look: (reader: OrderedReader) => T,
    signal: AbortSignal,
  ) => Promise<Dumped<T>>;
  readonly isLeading: () => boolean;
  readonly pace: BackgroundPace;
  /** TREE_SNAPSHOT_INTERVAL_MS when absent. */
  readonly intervalMs?: number | undefined;
  readonly onMade?: ((made: TreeBackup) => void) | undefined;
  readonly onError?: ((error: DriveError) => void) | undefined;
}

/** Makes snapshots of the tree at this node. start() on every voter; by itself it works only where the node leads. */
export class TreeBackups {
  readonly #options: TreeBackupsOptions;
  readonly #loop: PacedLoop;
  readonly #turn = new Semaphore(1);
  readonly #stopping = new AbortController();
  #notBeforeMs = -Infinity;

  constructor(options: TreeBackupsOptions) {
    this.#options = options;
    const lookMs = Math.min(this.#intervalMs, TREE_SNAPSHOT_LOOK_MS);
    this.#loop = new PacedLoop({
      clock: options.plane.clock,
      idleMs: lookMs,
      busyMs: lookMs,
      work: (signal) => this.#round(signal),
      onError: options.onError,
    });
  }

  start(): void {
    this.#loop.start();
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new DriveError("NODE_STOPPING", "The node stops."));
    await this.#loop.stop();
    await this.#turn.acquire(1);
  }

  /**
   * Sees to it that a snapshot shows everything that was acknowledged before the call, and tells which one.
   * @throws DriveError OVERLOADED (no write lease now, or the state could not be dumped in time), QUORUM_NOT_REACHED, NO_SPACE,
   *   NO_LEADER, COMMIT_OUTCOME_UNKNOWN, CANCELED, NODE_STOPPING
   */
  async backUp(signal?: AbortSignal): Promise<TreeBackup> {
    const { metadata } = this.#options.plane;
    const either = AbortSignal.any([this.#stopping.signal, ...(signal === undefined ? [] : [signal])]);
    await metadata.port.linearize({ signal: either });
    return await this.#inTurn(either, async () => {
      const { newest, isBehind } = snapshotAge(metadata.port.reader());
      if (newest === undefined || isBehind) return await this.#make(either);
      const { index, sizeBytes, wallTimeMs } = newest;
      return { index, sizeBytes, wallTimeMs, isNew: false };
    });
  }

  get #intervalMs(): number {
    return this.#options.intervalMs ?? TREE_SNAPSHOT_INTERVAL_MS;
  }

  async #round(signal: AbortSignal): Promise<"idle"> {
    const { isLeading, plane, onMade } = this.#options;
    const startMs = plane.clock.monotonicMs();
    if (!isLeading() || startMs < this.#notBeforeMs) return "idle";
    const { isBehind, ageMs } = snapshotAge(plane.metadata.port.reader());
    if (!isBehind || ageMs < this.#intervalMs) return "idle";
    try {
      onMade?.(await this.#inTurn(signal, () => this.#make(signal)));
    } finally {
      const now = plane.clock.monotonicMs();
      this.#notBeforeMs = now + (now - startMs) * PAUSE_FACTOR;
    }
    return "idle";
  }

  async #inTurn<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    await this.#turn.acquire(1, signal);
    try {
      return await work();
    } finally {
      this.#turn.release(1);
    }
  }

  async #make(signal: AbortSignal): Promise<TreeBackup> {
    const { disk, directory, dump, plane } = this.#options;
    const path = `${directory}/tree.dump`;
    await disk.makeDirectory(directory);
    try {
      const { metadata, seen } = await dump(
        path,
        (reader) => ({ eventIndex: lastEventIndex(reader), clusterTimeMs: clusterTime(reader) }),
        signal,
      );
      const file = await disk.open(path, "read");
      try {
        const { index } = metadata;
        const sizeBytes = await this.#keep(file, { index, ...seen }, signal);
        return { index, sizeBytes, wallTimeMs: plane.clock.wallMs(), isNew: true };
      } finally {
        await file.close();
      }
    } finally {
      await disk.remove(path);
    }
  }

  /** Writes the file as a content and has it recorded; returns its size. */
  async #keep(
    file: DiskFile,
    shows: { readonly index: number; readonly eventIndex: number; readonly clusterTimeMs: number },
    signal: AbortSignal,
  ): Promise<number> {
    const { metadata, lease, clock, chores, ports, reports } = this.#options.plane;
    const contentId = lease.takeContentId();
    if (contentId === undefined)
      throw new DriveError("OVERLOADED", "The node has no write lease at present.");
    const sizeBytes = await file.size();
    const written = new Set<number>();
    const sealed: SealedExtent[] = [];
    const purpose = "tree-snapshot" as const;
    const hint = { purpose, path: "", modifyTimeMs: clock.wallMs(), contentSizeBytes: sizeBytes };
    // The index says which of several snapshots is the newest.
    const origin = { ...this.#options.plane.originOf(0, hint), commitIndex: shows.index };
    const giveUp = (): void => {
      for (const memberId of written) {
        const port = ports.forMember(memberId);
        for (let extentIndex = 0; extentIndex < extentCount(sizeBytes); extentIndex += 1) {
          if (port !== undefined) chores.run(() => port.removeExtent({ contentId, extentIndex }));
        }
      }
    };
    try {
      for (let extentIndex = 0; extentIndex < extentCount(sizeBytes); extentIndex += 1) {
        sealed.push(
          await this.#writeExtent(file, { contentId, extentIndex, sizeBytes, origin }, written, signal),
        );
      }
      const roots = sealed.map(({ seals }) => must(seals[0], "a sealed extent has seals").root);
      const seals = sealed.flatMap((extent): readonly Seal[] => extent.seals);
      const { memberId } = metadata.port;
      const content = { memberId, contentId, sizeBytes, treeHash: foldTreeHash(roots), seals };
      await metadata.applyAny({ kind: "record-tree-snapshot", ...content, ...shows }, { signal });
    } catch (error) {
      // What may have been recorded stays; if it was not, collection finds it when the lease is over.
      if (error instanceof DriveError && error.spec.outcome === "definite") giveUp();
      throw error;
    }
    for (const { late } of sealed) reports.addLate(late);
    return sizeBytes;
  }

  async #writeExtent(
    file: DiskFile,
    content: {
      readonly contentId: number;
      readonly extentIndex: number;
      readonly sizeBytes: number;
      readonly origin: ManifestOrigin;
    },
    written: Set<number>,
    signal: AbortSignal,
  ): Promise<SealedExtent> {
    const { plane, pace } = this.#options;
    const { clock, ports, detector, budget, filler, placement, digester } = plane;
    const { contentId, extentIndex, origin } = content;
    const extent = { contentId, extentIndex };
    const sizeBytes = extentSizeBytes(content.sizeBytes, extentIndex);
    const writer = new ExtentWriter({
      ...{ clock, ports, detector, budget, filler, extent },
      expectedSizeBytes: sizeBytes,
      memberIds: placement.choose(),
      quorum: () => placement.quorum(),
      reassign: (failed) => {
        const kept = writer.memberIds.filter((memberId) => !failed.includes(memberId));
        return Promise.resolve(placement.replace(kept, failed));
      },
    });
    const note = (): void => writer.memberIds.forEach((memberId) => written.add(memberId));
    try {
      const start = extentIndex * EXTENT_SIZE_BYTES_MAX;
      for (let at = 0; at < sizeBytes; at += CHUNK_SIZE_BYTES) {
        throwIfCanceled(signal);
        const length = Math.min(CHUNK_SIZE_BYTES, sizeBytes - at);
        await pace.take(length, signal);
        const bytes = await file.read(start + at, length);
        await writer.writeChunk(at / CHUNK_SIZE_BYTES, bytes, await digester.sha256(bytes), signal);
        note();
      }
      await writer.settled();
      note();
      const targets = { memberIds: writer.memberIds, neededCount: placement.quorum(), signal };
      return await plane.sealer.seal({ extent, sizeBytes, origin }, targets);
    } finally {
      note();
      writer.stop();
    }
  }
}
