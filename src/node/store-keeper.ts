/**
 * What every node runs for the bytes it holds, whether it keeps the tree or not: the chunk store, heartbeats, the data plane, and
 * the loops that register the node, collect, audit, scrub and compact.
 *
 * The replicated tree comes in as a MetadataPort. open() opens what is on disk and attach() builds the rest over the port; the
 * owner starts and stops the loops.
 */
import { DiskChunkStore } from "../chunks/disk-chunk-store.ts";
import { isUsedElsewhere, type NodeLoad } from "../cluster/failure-detector-port.ts";
import { HeartbeatFailureDetector } from "../cluster/failure-detector.ts";
import type { MetadataPort } from "../cluster/metadata-port.ts";
import { NodeRegistrar } from "../cluster/node-registrar.ts";
import { PacedLoop } from "../cluster/paced-loop.ts";
import type { Refusals } from "../cluster/refusals.ts";
import { describeBrake, type CollectionBrake } from "../drive/collection-brake.ts";
import type { ExtentKey } from "../drive/content.ts";
import type { DriveError } from "../drive/errors.ts";
import { FEATURE_LEVEL_REGISTERED, FEATURE_LEVELS, type FeatureLevels } from "../drive/feature-levels.ts";
import type { NodeRegistration } from "../metadata/commands.ts";
import { featureLevel } from "../metadata/feature-level.ts";
import { storeOf } from "../metadata/view.ts";
import type { Assignments } from "../replication/assignments.ts";
import { BackgroundPace } from "../replication/background-pace.ts";
import { Compactor } from "../replication/compactor.ts";
import { CopyMaker } from "../replication/copy-maker.ts";
import { DropCollector } from "../replication/drop-collector.ts";
import { ExtentLocks } from "../replication/extent-locks.ts";
import { InventoryAudit } from "../replication/inventory-audit.ts";
import { LocalReplica } from "../replication/local-replica.ts";
import { RateMeter } from "../replication/rate-meter.ts";
import { REPAIR_BUSY_BYTES_PER_SECOND } from "../replication/repair.ts";
import { ReplicaCopier } from "../replication/replica-copier.ts";
import type { ReplicaPort, ReplicaPorts } from "../replication/replica-port.ts";
import { ScrubProgressFile } from "../replication/scrub-progress.ts";
import { SCRUB_REQUESTED_BYTES_PER_SECOND, Scrubber } from "../replication/scrubber.ts";
import { sleep, type Clock } from "../std/clock.ts";
import { DigestMemory } from "../std/digest.ts";
import { formatDuration } from "../std/format.ts";
import type { OrderedStore } from "../std/ordered-store.ts";
import type { Logger } from "../telemetry/logger.ts";
import { DataPlane } from "../transfer/data-plane.ts";
import type { StoreKeeperOptions } from "./drive-node-options.ts";

/** Name of the chunk index among the indexes. */
const INDEX_NAME = "chunks";

/** How often the file system is asked for its free space: a full disk is known, and so is the end of it, this soon. */
const SPACE_INTERVAL_MS = 1000;

/** How often the files of the chunk store are looked for where they belong: what was removed under the node is known this soon. */
export const FILE_CHECK_INTERVAL_MS = 30_000;
/** Pause between pieces of that look. */
const FILE_CHECK_PAUSE_MS = 1;

/** A loop that a node runs. */
export interface NodeLoop {
  start(): void;
  stop(): Promise<void> | void;
}

/** What is told of the tree, beside the port. */
export interface TreeSource {
  readonly port: MetadataPort;
  readonly assignments: Assignments;
  /** How many members consensus has; see Placement. */
  readonly expectedMemberCount: () => number;
  /** Hears what peers and the tree say about this member. */
  readonly refusals: Refusals;
}

/** The chunk store as it was opened, before there is a tree. */
export interface OpenedStore {
  readonly index: OrderedStore;
  readonly store: DiskChunkStore;
  /** Digests that were computed at this node, shared with the data plane. */
  readonly hashed: DigestMemory;
  /** Sets who hears of each extent that a read of the store found damaged. */
  readonly hearDamage: (listener: (extent: ExtentKey) => void) => void;
}

/**
 * Opens the chunk store; a damaged index is made anew.
 * @throws DriveError DATA_CORRUPT; errors of the disk
 */
export async function openChunkStore(options: StoreKeeperOptions, logger: Logger): Promise<OpenedStore> {
  const { indexes, disk, clock, memberId, onFatal } = options;
  const condition = await indexes.check(INDEX_NAME);
  if (condition.kind === "damaged") {
    // Everything in it is in the segments too.
    logger.error("chunk_index_damaged", { reason: condition.reason });
    await indexes.remove(INDEX_NAME);
  }
  const index = await indexes.open(INDEX_NAME);
  const hashed = new DigestMemory();
  let onDamaged: ((extent: ExtentKey) => void) | undefined;
  const store = await DiskChunkStore.open({
    disk,
    clock,
    prng: options.prng,
    digester: options.digester,
    hashed,
    directory: `${options.directory}/chunks`,
    index,
    memberId,
    onFatal,
    onDamage: (extent, chunkIndexes) => {
      logger.error("chunks_damaged", { ...extent, chunk_indexes: chunkIndexes.slice(0, 100) });
      onDamaged?.(extent);
    },
    onMended: (extent) => logger.info("chunks_read_well_again", { ...extent }),
    onFault: (fault) => logger.error("segment_damaged", { fault }),
    onLostFile: ({ path, kind }) => logger.error("segment_file_lost", { path, kind }),
    onTrouble: (error) => logger.warn("segment_chore_failed", { error }),
    ...(options.chunkSegmentSizeBytesMax !== undefined && {
      segmentSizeBytesMax: options.chunkSegmentSizeBytesMax,
    }),
    ...(options.reserveBytes !== undefined && { reserveBytes: options.reserveBytes }),
  });
  const hearDamage = (listener: (extent: ExtentKey) => void): void => {
    onDamaged = listener;
  };
  return { index, store, hashed, hearDamage };
}

/** The parts that every node has. */
export class StoreKeeper {
  readonly store: DiskChunkStore;
  /** The own chunk store as peers see it. */
  readonly replica: ReplicaPort;
  /** The chunk stores of all members. */
  readonly replicas: ReplicaPorts;
  readonly detector: HeartbeatFailureDetector;
  readonly plane: DataPlane;
  readonly copier: ReplicaCopier;
  readonly meter: RateMeter;
  readonly scrubber: Scrubber;
  /** Makes the copies that the tree expects of this node. */
  readonly copies: CopyMaker;
  /** In the order in which they are started; the failure detector is apart. */
  readonly loops: readonly NodeLoop[];
  readonly #clock: Clock;
  /** Of what was found in the place of other files. */
  readonly #fileCheckPace: BackgroundPace;
  readonly #collector: DropCollector;
  /** The feature levels that this node supports. */
  readonly featureLevels: FeatureLevels;
  readonly #index: OrderedStore;
  readonly #refusals: Refusals;
  readonly #logger: Logger;

  constructor(options: StoreKeeperOptions, opened: OpenedStore, tree: TreeSource, logger: Logger) {
    const { clock, digester, memberId, plantedChunkFault } = options;
    const { store, hashed } = opened;
    this.#clock = clock;
    this.#index = opened.index;
    this.#refusals = tree.refusals;
    this.#logger = logger;
    this.store = store;
    this.replica = new LocalReplica(store, (extent) => this.scrubber.checkTimeOf(extent));
    this.detector = new HeartbeatFailureDetector({
      clock,
      heartbeats: tree.refusals.listenTo(options.heartbeats),
      memberId,
      memberIds: () => this.plane.directory.memberIds(),
      ownLoad: () => this.load(),
      ...options.detection,
    });
    this.replicas = {
      forMember: (id: number): ReplicaPort | undefined =>
        id === memberId ? this.replica : options.peerReplica(id),
    };
    this.plane = new DataPlane({
      clock,
      prng: options.prng,
      digester,
      hashed,
      metadata: tree.port,
      replicas: this.replicas,
      detector: this.detector,
      inFlightBytesMax: options.inFlightBytesMax,
      expectedMemberCount: tree.expectedMemberCount,
    });
    const { metadata, lease, reports } = this.plane;
    opened.hearDamage((extent) => reports.reportBad(extent, memberId, "corrupt"));
    const locks = new ExtentLocks();
    const { assignments } = tree;
    this.meter = new RateMeter(clock);
    // A node that is too full for users still mends its own copies.
    const ownCopies = new LocalReplica(store, undefined, "copies");
    this.copier = new ReplicaCopier({
      pace: new BackgroundPace({
        clock,
        bytesPerSecond: () => Infinity,
        busyBytesPerSecond: REPAIR_BUSY_BYTES_PER_SECOND,
        isBusy: () => this.isUsed(),
      }),
      meter: this.meter,
      ports: { forMember: (id) => (id === memberId ? ownCopies : this.replicas.forMember(id)) },
      detector: this.detector,
      digester,
      hashed,
      budget: this.plane.budget,
      memberId,
      plantedFault: plantedChunkFault,
      onBadReplica: (extent, id, finding) => reports.reportBad(extent, id, finding),
    });
    this.#fileCheckPace = new BackgroundPace({
      clock,
      bytesPerSecond: () => SCRUB_REQUESTED_BYTES_PER_SECOND,
      busyBytesPerSecond: REPAIR_BUSY_BYTES_PER_SECOND,
      isBusy: () => this.isUsed(),
    });
    this.copies = new CopyMaker({
      ...{ clock, metadata, assignments, locks, placement: this.plane.placement, copier: this.copier },
      onError: this.onError("repair"),
    });
    this.scrubber = new Scrubber({
      clock,
      metadata,
      store,
      progress: new ScrubProgressFile(options.disk, `${options.directory}/chunks`),
      isBusy: () => this.isUsed(),
      firstWaitMs: options.scrubFirstWaitMs,
      checkFiles: (signal) => this.#checkFiles(signal),
      onDamaged: (extent) => logger.error("scrub_found_damage", { ...extent }),
      onError: this.onError("scrub"),
      onFatal: options.onFatal,
    });
    this.featureLevels = options.featureLevels ?? FEATURE_LEVELS;
    const self = (): NodeRegistration => {
      const { storeIncarnation } = store;
      const registration = { ...options.registration, memberId, storeIncarnation };
      // What older versions would not keep is not said before the cluster has the level for it.
      if (featureLevel(tree.port.reader()) < FEATURE_LEVEL_REGISTERED) return registration;
      return { ...registration, featureLevelMax: this.featureLevels.max };
    };
    this.#collector = new DropCollector({
      ...{ clock, metadata, assignments, store, locks, sweepIntervalMs: options.sweepIntervalMs },
      isPinned: (contentId) => this.plane.pins.isPinned(contentId),
      orphanShareMax: options.orphanShareMax,
      onBrake: (found) => logger.error("collection_braked", { ...found }),
      onError: this.onError("collection"),
      plantedFault: plantedChunkFault,
    });
    this.loops = [
      new PacedLoop({
        clock,
        idleMs: SPACE_INTERVAL_MS,
        busyMs: SPACE_INTERVAL_MS,
        work: () => store.refreshSpace().then(() => "idle" as const),
      }),
      new PacedLoop({
        clock,
        idleMs: FILE_CHECK_INTERVAL_MS,
        busyMs: FILE_CHECK_INTERVAL_MS,
        work: (signal) => this.#checkFiles(signal).then(() => "idle" as const),
        onError: this.onError("file check"),
      }),
      new NodeRegistrar({ clock, metadata, lease, self, onError: this.onError("registration") }),
      this.#collector,
      new InventoryAudit({
        ...{ clock, metadata, assignments, store },
        onMissing: (extent) => logger.error("copy_missing", { ...extent }),
        onError: this.onError("audit"),
      }),
      this.scrubber,
      new Compactor({
        clock,
        store,
        isBusy: () => this.isUsed(),
        idleMs: options.compactionIdleMs,
        onCompacted: (result) => logger.debug("segment_compacted", { ...result }),
        onError: this.onError("compaction"),
      }),
    ];
  }

  async #checkFiles(signal: AbortSignal): Promise<void> {
    await this.store.checkFiles(async (sizeBytes) => {
      await sleep(this.#clock, FILE_CHECK_PAUSE_MS, signal);
      await this.#fileCheckPace.take(sizeBytes, signal);
    });
  }

  /** What a loop tells when a round failed: heard for what it says about this member, and logged. */
  onError(loop: string): (error: DriveError) => void {
    return (error) => {
      this.#refusals.note(error);
      this.#logger.debug("round_failed", { loop, reason: error.reason, detail: error.message });
    };
  }

  /** Figures about this node for its peers. */
  load(): NodeLoad {
    const { store, plane, copier, meter, scrubber } = this;
    const { freeBytes, totalBytes, liveBytes, writesRefused, quarantinedExtentCount } = store.stats();
    return {
      freeBytes,
      totalBytes,
      liveBytes,
      writesRefused,
      // Of users: what repair holds must not make other nodes' repair yield.
      inflightBytes: plane.budget.heldBytes - copier.heldBytes,
      appliedIndex: plane.metadata.port.appliedIndex(),
      repairBytesPerSecond: meter.bytesPerSecond(),
      quarantinedCount: quarantinedExtentCount,
      scrubProgress: scrubber.progress(),
      collectionBrake: this.#collector.brake,
      featureLevels: this.featureLevels,
    };
  }

  /** Why collection removes nothing that the tree does not know; undefined while it would. */
  get collectionBrake(): CollectionBrake | undefined {
    return this.#collector.brake;
  }

  /** What an operator should look at, as sentences. */
  warnings(): readonly string[] {
    const { brake } = this.#collector;
    const { directory, metadata } = this.plane;
    // A node that is suspected for a moment is no reason to call anybody.
    const away = this.detector
      .states()
      .filter(({ health }) => health === "down")
      .map(({ memberId, sinceMs }) => {
        const name = directory.nodeIdOf(memberId);
        const isGivenUp = storeOf(metadata.port.reader(), memberId).lostTimeMs > 0;
        const then = isGivenUp
          ? `it was given up, and its copies are made elsewhere. Start it again, or remove it with "netdisk cluster remove ${name}".`
          : "the copies there cannot be read now.";
        return `${name} is down, last heard of ${formatDuration(sinceMs)} ago: ${then}`;
      });
    if (brake === undefined) return away;
    return [...away, describeBrake(directory.nodeIdOf(this.store.memberId), brake)];
  }

  /** Closes the store and its index; the loops have ended. */
  async close(): Promise<void> {
    await this.store.close();
    await this.#index.close();
  }

  /** Users come first: their bytes at this node, and those that other nodes tell of with their heartbeats. */
  isUsed(): boolean {
    const { plane, copier, detector } = this;
    return (
      plane.pins.isAnyPinned ||
      plane.budget.heldBytes > copier.heldBytes ||
      isUsedElsewhere(detector, plane.metadata.port.memberId)
    );
  }
}
