/**
 * One simulated machine: a disk and key-value stores that survive its processes, and the DriveNode that runs on it now.
 *
 * The node is the one that production runs, built from simulated ports. A power loss takes every byte that was not synced, or
 * tears it; a kill takes only the process. What a dead incarnation still has under way hangs for ever.
 */
import type { ExtentKey } from "../../src/drive/content.ts";
import { hasReason, type DriveError } from "../../src/drive/errors.ts";
import { DriveNode } from "../../src/node/drive-node.ts";
import type { StoreKeeperOptions } from "../../src/node/drive-node-options.ts";
import type { ServingNode } from "../../src/node/serving-node.ts";
import { FILE_CHECK_INTERVAL_MS } from "../../src/node/store-keeper.ts";
import { StorageNode } from "../../src/node/storage-node.ts";
import { assert, must } from "../../src/std/assert.ts";
import type { PlantedLevelFault } from "../../src/cluster/planted-faults.ts";
import type { FeatureLevels } from "../../src/drive/feature-levels.ts";
import type { PlantedFault } from "../../src/raft/planted-faults.ts";
import type { PlantedChunkFault } from "../../src/replication/planted-faults.ts";
import { inlineDigester } from "../../src/std/digest.ts";
import type { Disk } from "../../src/std/disk.ts";
import { CheckedOrderedStoreProvider } from "../../src/std/checked-ordered-store.ts";
import { MemoryOrderedStoreProvider, type StoreDamage } from "../../src/std/memory-ordered-store.ts";
import type { OrderedStoreProvider } from "../../src/std/ordered-store.ts";
import type { Prng, SeededPrng } from "../../src/std/prng.ts";
import type { Message } from "../../src/raft/types.ts";
import type { ReplicaPort } from "../../src/replication/replica-port.ts";
import type { Logger } from "../../src/telemetry/logger.ts";
import { noMetrics } from "../../src/telemetry/metrics.ts";
import { MemoryDisk, type DiskOperation } from "../support/memory-disk.ts";
import type { SimNetwork } from "./sim-network.ts";
import type { SimPlan } from "./sim-plan.ts";
import { SimProcess, type SimScheduler } from "./sim-scheduler.ts";
import { simVoterClients, simVoterFeed, type SimVoterContact } from "./sim-storage.ts";
import { firstLevelsOf, foundingLevelOf } from "./sim-upgrade-plan.ts";
import {
  simForwarder,
  simHeartbeats,
  simPeerReplica,
  simRaftTransport,
  type SimEndpoint,
} from "./sim-transport.ts";

/** Where a machine keeps its data. */
export const DATA_DIRECTORY = "/data";

/** The cluster that every machine belongs to. */
export const CLUSTER_ID = "simulated-cluster";
/** Bytes of a segment of the chunk store: a few uploads fill one. */
const CHUNK_SEGMENT_SIZE_BYTES = 128 * 1024;
/** How often a store looks for segments to compact. */
const COMPACTION_IDLE_MS = 2_000;
/** When a store is scrubbed first: within most runs. */
const SCRUB_FIRST_WAIT_MS = 5_000;

/** A store that serves has looked at its files within this much virtual time, by whatever clock. */
export const LOST_FILES_SEEN_MS = 1.5 * FILE_CHECK_INTERVAL_MS;
/** The same though its process stood still for a while, or its disk was full. */
const LOST_FILES_SEEN_LATE_MS = 2 * FILE_CHECK_INTERVAL_MS;

/** The store is compared with the tree much more often than in production, so that a run sees it. */
const SWEEP_INTERVAL_MS = 3_000;
/** What a node logs when it finds copies damaged or missing. */
const DAMAGE_EVENTS: readonly string[] = ["chunks_damaged", "copy_missing", "scrub_found_damage"];
const YEAR_MS = 365 * 24 * 3600 * 1000;

/** What a machine is part of. */
export interface SimMachineOptions {
  readonly memberId: number;
  /** The members that the log begins with. */
  readonly founderIds: readonly number[];
  readonly plan: SimPlan;
  readonly scheduler: SimScheduler;
  readonly network: SimNetwork;
  readonly prng: SeededPrng;
  readonly nodeOf: (memberId: number) => DriveNode | undefined;
  /** The present incarnation of a member of either kind. */
  readonly peerOf: (memberId: number) => ServingNode | undefined;
  /** Where a machine without tree and vote finds voters at first; undefined for a voter. */
  readonly contacts?: readonly SimVoterContact[] | undefined;
  readonly onMessage: (message: Message) => void;
  /** Called before a Raft message is handed to the node of this machine. */
  readonly onDelivery: (message: Message) => void;
  /** Called before a process ends: the last chance to look at it as it was. */
  readonly onStopping: (machine: SimMachine) => void;
  readonly fail: (error: Error) => void;
  /** Hears that a process of this machine refused to run because of its version; stops it. */
  readonly onUnsupported: (machine: SimMachine, error: Error) => void;
  /** Makes the disk of this machine something else, for planted faults. */
  readonly wrapDisk?: ((disk: Disk) => Disk) | undefined;
  readonly plantedFault?: PlantedFault | undefined;
  readonly plantedChunkFault?: PlantedChunkFault | undefined;
  readonly plantedLevelFault?: PlantedLevelFault | undefined;
}

/** A machine and the process on it. */
export class SimMachine {
  readonly memberId: number;
  readonly disk: MemoryDisk;
  /** Bytes that its disk holds when nothing makes it full. */
  readonly diskCapacityBytes: number;
  /** Lines that its processes logged lately. */
  readonly log: string[] = [];
  /** How long an operation of the disk takes on average. */
  diskMeanMs: number;
  /** What the version of the program on it supports. */
  featureLevels: FeatureLevels;
  /** The highest level that a version which ever ran on it supports; 0 before the first start. */
  supportedMax = 0;
  /** Until when no operation of the disk ends. */
  diskStuckUntilMs = 0;
  incarnationCount = 0;
  /** How far its log was durable when that was damaged; undefined once it is mended. */
  rottenIndex: number | undefined;
  /** Whether a page of its log became unreadable while its process ran, which nobody may have noticed yet. */
  isLogSpoiled = false;
  /** Copies that its processes said to be damaged or missing, as nameOfExtent() names them, in the order in which they did. */
  readonly badCopies: string[] = [];
  /** Files that its processes said to be missing, replaced or cut short. */
  lostFileCount = 0;
  /** Whether a process ended before it could see that bytes of its files were exchanged or filled up: the next one may not see it. */
  mayHideDamage = false;
  /** When that last happened to a file. */
  #exchangedMs = -Infinity;
  /** Called when what its disk was made to do has ended the process; undefined while nothing was. */
  onDiskError: ((error: Error) => void) | undefined;
  /** Whether the cluster was asked to remove its member: its process ends itself when it hears that it was. */
  isLeaving = false;
  /** Whether the cluster has removed its member. */
  isRemoved = false;
  /** Whether its disk is lost for good. */
  isLost = false;
  /** By the clock of its process: when the last question was asked that a voter answered; -Infinity before the first answer. */
  voterAnswerMs = -Infinity;
  readonly #options: SimMachineOptions;
  readonly #stores: MemoryOrderedStoreProvider;
  readonly #indexes: MemoryOrderedStoreProvider;
  readonly #wallOffsetMs: number;
  readonly #rate: number;
  #process: SimProcess | undefined;
  #node: ServingNode | undefined;
  #isServing = false;
  /** The process that ends itself because of its version: it serves no more, whatever of its start is still to come. */
  #unsupported: SimProcess | undefined;
  /** The durable mark that a process keeps in its identity. */
  #isStarted = false;
  /** What a storage-only node wrote down of its voters. */
  #savedContacts: readonly SimVoterContact[] = [];

  constructor(options: SimMachineOptions) {
    this.#options = options;
    this.memberId = options.memberId;
    const { plan, prng } = options;
    this.diskMeanMs = plan.diskMeanMs;
    this.featureLevels = firstLevelsOf(plan.upgrade, this.memberId);
    this.#wallOffsetMs = plan.clockSkew ? Math.floor((prng.float() - 0.5) * 4 * YEAR_MS) : 0;
    this.#rate = plan.clockSkew ? 0.8 + prng.float() * 0.4 : 1;
    this.disk = new MemoryDisk({ afterCrash: "hang" });
    this.diskCapacityBytes = this.disk.capacityBytes;
    const beforeFlush = (): Promise<void> => this.#diskTime("sync", 0);
    this.#stores = new MemoryOrderedStoreProvider({ beforeFlush });
    this.#indexes = new MemoryOrderedStoreProvider({ beforeFlush });
  }

  /** Makes the data directory; once, before the first start. */
  async format(): Promise<void> {
    await this.disk.makeDirectory(DATA_DIRECTORY);
    await this.disk.syncDirectory("/");
    this.disk.onOperation = (operation, _path, sizeBytes) => this.#diskTime(operation, sizeBytes);
  }

  /** What the node calls itself, and the others it. */
  get nodeId(): string {
    return nodeIdOf(this.memberId);
  }

  /** Where it says that it is. */
  get address(): string {
    return `10.0.0.${this.memberId}:7400`;
  }

  /** The living process; undefined while the machine is down. */
  get process(): SimProcess | undefined {
    return this.#process;
  }

  /** Whether it keeps no tree and has no vote. */
  get isStorageOnly(): boolean {
    return this.#options.contacts !== undefined;
  }

  /** The node of either kind once its process lives, whether or not it serves yet. */
  get peer(): ServingNode | undefined {
    return this.#node;
  }

  /** The node of either kind once it has started. */
  get servingPeer(): ServingNode | undefined {
    return this.#isServing ? this.#node : undefined;
  }

  /** The voter once its process lives, whether or not it serves yet. */
  get node(): DriveNode | undefined {
    return this.#node instanceof DriveNode ? this.#node : undefined;
  }

  /** The voter once it has started. */
  get servingNode(): DriveNode | undefined {
    return this.#isServing ? this.node : undefined;
  }

  /** Starts a process, which opens what the disk holds. */
  start(): void {
    assert(this.#process === undefined, "the machine is down");
    const { scheduler, memberId, fail } = this.#options;
    this.incarnationCount += 1;
    this.supportedMax = Math.max(this.supportedMax, this.featureLevels.max);
    const name = `n${memberId}.${this.incarnationCount}`;
    const process = new SimProcess(name, scheduler, this.#wallOffsetMs, this.#rate);
    this.#process = process;
    const node = this.#makeNode(process);
    this.#node = node;
    scheduler.note(`${name} starts`);
    // From an event of its own, so that the start belongs to the process.
    process.after(0.01, "", () => {
      node.start().then(
        () => {
          if (process.alive && this.#unsupported !== process) this.#isServing = true;
        },
        (error: unknown) => {
          if (!process.alive) return;
          if (!this.#isUnsupported(process, error)) fail(asError(`${name} did not start`, error));
        },
      );
    });
  }

  /** Whether a process ends because of its version: then it serves no more, and whoever runs the machine hears of it. */
  #isUnsupported(process: SimProcess, error: unknown): boolean {
    if (!hasReason(error, "VERSION_UNSUPPORTED")) return false;
    this.#isServing = false;
    this.#unsupported = process;
    // From an event of its own: it is in the middle of a turn.
    this.#options.scheduler.schedule(0, `${process.name} is of another version`, () => {
      if (this.#process === process) this.#options.onUnsupported(this, error);
    });
    return true;
  }

  /** Ends the process at once; with "power-loss" what was not synced is lost or torn too. */
  stop(how: "kill" | "power-loss"): void {
    const process = must(this.#process, "the machine is up");
    const { scheduler, network, prng, onStopping } = this.#options;
    onStopping(this);
    this.onDiskError = undefined;
    this.mayHideDamage ||= scheduler.nowMs < this.#exchangedMs + LOST_FILES_SEEN_LATE_MS;
    const serving = this.servingNode;
    if (this.isLogSpoiled && serving !== undefined) {
      // From the next start on recovery knows, and mends.
      const { stableIndex } = serving.consensus.status();
      this.rottenIndex = Math.max(this.rottenIndex ?? 0, stableIndex);
      this.isLogSpoiled = false;
    }
    scheduler.note(`${process.name} ${how}`);
    this.#process = undefined;
    this.#node = undefined;
    this.#isServing = false;
    process.kill();
    network.breakConnectionsOf(process);
    if (how === "kill") this.disk.kill();
    else this.disk.crash(prng.fork());
    this.#stores.crash(prng.fork());
    this.#indexes.crash(prng.fork());
  }

  #diskTime(operation: DiskOperation, sizeBytes: number): Promise<void> {
    const process = this.#process;
    // Died in the middle of a turn: what a dead process asks for is never answered.
    if (process === undefined) return new Promise<never>(() => undefined);
    const { prng, plan, scheduler } = this.#options;
    const stuckMs = this.diskStuckUntilMs - scheduler.nowMs;
    if (stuckMs > 0) return process.delay(stuckMs);
    const isSync = operation === "sync" || operation === "syncDirectory";
    // The page cache answers at once, in this very turn or some microtasks later.
    if (!isSync && prng.float() < plan.instantDiskRate) return process.hop();
    // 500 MB/s, and a sync costs some seeks.
    const meanMs = this.diskMeanMs * (isSync ? 3 : 1);
    return process.delay(0.005 - Math.log(1 - prng.float()) * meanMs + sizeBytes / 500_000);
  }

  #makeNode(process: SimProcess): ServingNode {
    const { network, memberId, nodeOf, peerOf, onMessage, onDelivery, contacts } = this.#options;
    const endpoint: SimEndpoint = {
      ...{ network, memberId, process, nodeOf, peerOf, onMessage, onDelivery },
      clusterId: CLUSTER_ID,
      self: () => must(this.node, "a voter sends Raft messages"),
    };
    const common = this.#commonOptions(process, endpoint);
    if (contacts === undefined) return this.#makeVoter(process, endpoint, common);
    this.voterAnswerMs = -Infinity;
    const known = [...contacts, ...this.#savedContacts];
    return new StorageNode({
      ...common,
      contacts: known,
      saveContacts: (voters) => {
        this.#savedContacts = voters;
        return Promise.resolve();
      },
      // Addresses stay, and there is no list of peers.
      foundIds: () => [],
      voterFeed: (voterId) =>
        simVoterFeed(endpoint, voterId, (askedMs) => {
          this.voterAnswerMs = Math.max(this.voterAnswerMs, askedMs);
        }),
      voterClients: simVoterClients(endpoint, known),
    });
  }

  #makeVoter(
    process: SimProcess,
    endpoint: SimEndpoint,
    common: StoreKeeperOptions & { readonly onRefused: (error: DriveError) => void },
  ): DriveNode {
    const { founderIds, plan, plantedFault } = this.#options;
    const { inFlightBytesMax: _, ...bounds } = plan.bounds;
    return new DriveNode({
      ...common,
      clusterId: CLUSTER_ID,
      founderIds,
      foundingLevel: foundingLevelOf(plan.upgrade),
      whenAbsent: this.#isStarted ? "refuse" : "create",
      onCreated: async () => {
        // Hangs for ever when the process dies meanwhile.
        await this.#diskTime("sync", 0);
        this.#isStarted = true;
      },
      stores: this.#checked(process, this.#stores),
      transport: simRaftTransport(endpoint),
      forwarder: simForwarder(endpoint),
      plantedFault,
      plantedLevelFault: this.#options.plantedLevelFault,
      tuning: {
        ...bounds,
        logEntryCountMax: plan.logEntryCountMax,
        logKeepEntryCount: Math.floor(plan.logEntryCountMax / 3),
        stateHashEntryCount: 16,
        storeFlushIntervalMs: 2_000,
      },
    });
  }

  /** What a node of either kind is made from. */
  #commonOptions(
    process: SimProcess,
    endpoint: SimEndpoint,
  ): StoreKeeperOptions & { readonly onRefused: (error: DriveError) => void } {
    const { memberId, plan, scheduler, prng, fail, wrapDisk, plantedChunkFault } = this.#options;
    const peers = new Map<number, ReplicaPort>();
    const peerReplica = (id: number): ReplicaPort => {
      const known = peers.get(id) ?? simPeerReplica(endpoint, id);
      peers.set(id, known);
      return known;
    };
    const disk = this.disk.process();
    return {
      memberId,
      registration: {
        nodeId: this.nodeId,
        address: this.address,
        httpUrl: `http://10.0.0.${memberId}:8080`,
        // Clients of voters are sent on to nodes without a tree, which want to see a ticket.
        publicUrl: this.isStorageOnly ? publicUrlOf(memberId) : "",
        zone: "",
        isStorageOnly: this.isStorageOnly,
      },
      disk: wrapDisk === undefined ? disk : wrapDisk(disk),
      directory: DATA_DIRECTORY,
      indexes: this.#checked(process, this.#indexes),
      clock: process,
      prng: prng.fork(),
      digester: inlineDigester,
      logger: this.#logger(process, "node"),
      metrics: noMetrics,
      heartbeats: simHeartbeats(endpoint),
      peerReplica,
      reserveBytes: 0,
      inFlightBytesMax: plan.bounds.inFlightBytesMax,
      plantedChunkFault,
      featureLevels: this.featureLevels,
      sweepIntervalMs: SWEEP_INTERVAL_MS,
      // Small and soon, so that compaction and scrub happen within a run.
      chunkSegmentSizeBytesMax: CHUNK_SEGMENT_SIZE_BYTES,
      scrubFirstWaitMs: SCRUB_FIRST_WAIT_MS,
      compactionIdleMs: COMPACTION_IDLE_MS,
      onRefused: (error) => {
        if (!process.alive || this.#isUnsupported(process, error)) return;
        if (!this.isLeaving || !hasReason(error, "MEMBER_REMOVED")) {
          fail(asError(`${process.name} was refused`, error));
          return;
        }
        // From an event of its own: it is in the middle of a call.
        scheduler.schedule(0, `${process.name} hears that it was removed`, () => {
          if (this.#process === process) this.stop("kill");
        });
      },
      onFatal: (error) => {
        if (!process.alive) return;
        const { onDiskError } = this;
        this.onDiskError = undefined;
        if (onDiskError !== undefined) onDiskError(error);
        else fail(asError(`${process.name} ended itself`, error));
      },
    };
  }

  /** As production has them: with a checksum in each record. Damage comes at rest, so no record fails later on. */
  #checked(process: SimProcess, stores: MemoryOrderedStoreProvider): CheckedOrderedStoreProvider {
    return new CheckedOrderedStoreProvider(storesOf(process, stores), (error) => {
      if (process.alive) this.#options.fail(asError(`${process.name} met a damaged record`, error));
    });
  }

  /** Damages a store of the machine, which is down; false when there is nothing to damage in that way. */
  spoilStore(which: "state" | "index", how: StoreDamage, prng: Prng): boolean {
    assert(this.#process === undefined, "the machine is down");
    const stores = which === "state" ? this.#stores : this.#indexes;
    const { names } = stores;
    const name = names[prng.below(Math.max(1, names.length))];
    if (name === undefined || !stores.spoil(name, how, prng)) return false;
    this.#options.scheduler.note(`n${this.memberId} ${name} ${how}`);
    return true;
  }

  /** Loses the directory of the chunk store; the machine is down, and what else it holds is kept. */
  loseChunks(): void {
    assert(this.#process === undefined, "the machine is down");
    this.disk.lose(`${DATA_DIRECTORY}/chunks`);
  }

  /** A file of the chunk store was replaced or cut short under the running process. */
  noteExchange(): void {
    this.#exchangedMs = this.#options.scheduler.nowMs;
  }

  #logger(process: SimProcess, module: string): Logger {
    const write =
      (level: string) =>
      (event: string, fields: object = {}): void => {
        if (event === "segment_file_lost") this.lostFileCount += 1;
        if (DAMAGE_EVENTS.includes(event)) this.badCopies.push(nameOfExtent(fields as ExtentKey));
        const text = `${this.#options.scheduler.nowMs.toFixed(1)} ${process.name} ${level} ${module} ${event} ${JSON.stringify(fields)}`;
        this.log.push(text.length > 600 ? `${text.slice(0, 600)}...` : text);
        if (this.log.length > 200) this.log.splice(0, 100);
      };
    return {
      child: (name) => this.#logger(process, name),
      debug: write("debug"),
      info: write("info"),
      warn: write("warn"),
      error: write("error"),
      fatal: write("fatal"),
    };
  }
}

/** The stores as one process sees them: one that died between two steps of its start opens nothing any more. */
function storesOf(process: SimProcess, stores: OrderedStoreProvider): OrderedStoreProvider {
  const whileAlive = <T>(work: () => Promise<T>): Promise<T> =>
    process.alive ? work() : new Promise<never>(() => undefined);
  return {
    open: (name) => whileAlive(() => stores.open(name)),
    check: (name) => whileAlive(() => stores.check(name)),
    list: () => whileAlive(() => stores.list()),
    remove: (name) => whileAlive(() => stores.remove(name)),
  };
}

/** An extent in messages. */
export function nameOfExtent({ contentId, extentIndex }: ExtentKey): string {
  return `${contentId}/${extentIndex}`;
}

/** The node id of a member's machine. */
export function nodeIdOf(memberId: number): string {
  return `node${memberId}`;
}

/** Where clients reach a machine, as voters tell them. */
export function publicUrlOf(memberId: number): string {
  return `http://10.0.0.${memberId}:8080`;
}

/** The member behind that. */
export function memberOfUrl(url: string): number {
  return Number(/^http:\/\/10\.0\.0\.(\d+):/u.exec(url)?.[1]);
}

function asError(what: string, error: unknown): Error {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return new Error(`${what}: ${text}`, { cause: error });
}
