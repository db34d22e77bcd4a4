/**
 * A storage-only node without its edges: a chunk store and the loops about it, without tree and vote, put together from ports.
 *
 * What it needs to know it asks of voters (transfer/voter-feed.ts); what it finds and does it tells the tree through them. Nothing
 * here decides anything about files: the two phases of dropping, the sealing of copies and who holds what are the tree's.
 */
import type { FoundingMember } from "../cluster/bootstrap-identity.ts";
import type { NodeLoad } from "../cluster/failure-detector-port.ts";
import { Refusals } from "../cluster/refusals.ts";
import type { ClusterAdmin } from "../drive/cluster-admin.ts";
import type { DriveApi, ReportedTask, ServiceStatus } from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { FEATURE_LEVELS } from "../drive/feature-levels.ts";
import { VOTER_CONTACT_MS_MAX } from "../drive/limits.ts";
import { checkSupported } from "../metadata/feature-level.ts";
import { isRemoved } from "../metadata/members.ts";
import { AssignedRepair } from "../replication/assigned-repair.ts";
import type { ReplicaPort } from "../replication/replica-port.ts";
import { MemoryOrderedStoreProvider } from "../std/memory-ordered-store.ts";
import type { Logger } from "../telemetry/logger.ts";
import { RemoteTree } from "../transfer/remote-tree.ts";
import { AnyVoter, type VoterFeed } from "../transfer/voter-feed.ts";
import type { StoreKeeperOptions } from "./drive-node-options.ts";
import { observeStore } from "./observation.ts";
import type { ServingNode } from "./serving-node.ts";
import { StorageDrive } from "./storage-drive.ts";
import { openChunkStore, StoreKeeper, type NodeLoop } from "./store-keeper.ts";

/** The drive and the membership as voters offer them to clients, over connections that follow where voters are. */
export interface VoterClients {
  readonly drive: DriveApi;
  readonly admin: ClusterAdmin;
  /** From now on these are asked: host:port, at least one. */
  setAddresses(addresses: readonly string[]): void;
  close(): void;
}

/** The ports and settings of a StorageNode. */
export interface StorageNodeOptions extends StoreKeeperOptions {
  /** Members that may vote, as told when this one joined and as saved since, and where they were. */
  readonly contacts: readonly FoundingMember[];
  /** Makes durable who votes and where, for the next start; called again a second later when it rejects. */
  readonly saveContacts: (voters: readonly FoundingMember[]) => Promise<void>;
  /** Members that were heard of other than through voters: asked as well while no voter answers. */
  readonly foundIds: () => readonly number[];
  /** A voter as it answers this node; undefined while its address is not known. */
  readonly voterFeed: (memberId: number) => VoterFeed | undefined;
  /** Connections to voters for what is handed on to them. */
  readonly voterClients: VoterClients;
  /** Services outside of the node, for its status. */
  readonly outside?: (() => readonly ServiceStatus[]) | undefined;
  /**
   * Called when the others say that this member was removed, or runs twice, and when the cluster has a feature level that this
   * node does not support; onFatal() when absent. The process must end.
   */
  readonly onRefused?: ((error: DriveError) => void) | undefined;
}

interface Running {
  readonly keeper: StoreKeeper;
  readonly tree: RemoteTree;
  readonly drive: StorageDrive;
  readonly loops: readonly NodeLoop[];
}

/** A storage-only node without its edges. start() once, stop() any number of times. */
export class StorageNode implements ServingNode {
  readonly #options: StorageNodeOptions;
  readonly #logger: Logger;
  readonly #refusals: Refusals;
  readonly #madeAtMs: number;
  #running: Running | undefined;
  #stopping: Promise<void> | undefined;
  #addresses = "";
  #saving: Promise<void> | undefined;
  #saved = "";
  /** Why the voters could not be saved; "" when they were. */
  #saveFailure = "";
  #isRefused = false;

  constructor(options: StorageNodeOptions) {
    this.#options = options;
    this.#madeAtMs = options.clock.wallMs();
    this.#logger = options.logger.child("node");
    this.#refusals = new Refusals({
      clock: options.clock,
      memberId: options.memberId,
      onRefused: (error) => {
        this.#logger.error("member_refused", { reason: error.reason, detail: error.message });
        (options.onRefused ?? options.onFatal)(error);
      },
    });
  }

  /**
   * Opens the chunk store and starts the loops. Ready to serve once a voter has answered and this node is registered.
   * @throws DriveError DATA_CORRUPT; errors of the disk
   */
  async start(): Promise<void> {
    const { clock, memberId, contacts, voterFeed } = this.#options;
    const opened = await openChunkStore(this.#options, this.#logger);
    const store = await new MemoryOrderedStoreProvider().open("view");
    const feed = new AnyVoter({
      clock,
      voterIds: () => this.#idsToAsk(tree).filter((id) => id !== memberId),
      feedOf: voterFeed,
    });
    const tree = new RemoteTree({
      ...{ clock, memberId, feed, store },
      firstVoterIds: contacts.map((contact) => contact.memberId),
      onError: (error) => this.#hear("view", error),
    });
    const keeper = new StoreKeeper(
      this.#options,
      opened,
      {
        port: tree,
        assignments: feed,
        expectedMemberCount: () => tree.voterIds().length,
        refusals: this.#refusals,
      },
      this.#logger,
    );
    const drive = new StorageDrive({
      ...{ plane: keeper.plane, tree, feed },
      atVoters: () => this.#voterDrive(),
      problems: () => this.problems(),
      services: () => this.services(),
      warnings: () => this.warnings(),
    });
    const repair = new AssignedRepair({
      ...{ clock, assignments: feed, copies: keeper.copies },
      onError: keeper.onError("repair"),
    });
    this.#running = { keeper, tree, drive, loops: [repair, ...keeper.loops] };
    let isStarted = false;
    tree.onApplied(() => {
      if (this.#isRefusedByLevel(tree)) return;
      this.#followVoters();
      if (isStarted || this.#stopping !== undefined) return;
      // Before the first answer nothing is known of this node's files.
      isStarted = true;
      for (const loop of this.#running?.loops ?? []) loop.start();
    });
    tree.start();
    keeper.detector.start();
  }

  get drive(): StorageDrive {
    return this.#active().drive;
  }

  get admin(): ClusterAdmin {
    return this.#options.voterClients.admin;
  }

  get replica(): ReplicaPort {
    return this.#active().keeper.replica;
  }

  load(): NodeLoad {
    return this.#active().keeper.load();
  }

  /** @throws DriveError NOT_LEADER always: a storage-only node keeps no tree that others could ask for */
  feedFor(): VoterFeed {
    throw new DriveError("NOT_LEADER", "This is a storage-only node: it keeps no tree.");
  }

  /** None: tasks are worked on by nodes that keep the tree. */
  runningTasks(): readonly ReportedTask[] {
    return [];
  }

  addressOf(memberId: number): string | undefined {
    return this.#running?.keeper.plane.directory.addressOf(memberId);
  }

  isRemoved(memberId: number): boolean {
    return this.#running !== undefined && isRemoved(this.#running.tree.reader(), memberId);
  }

  /** Those that keep the tree. */
  memberAddresses(): readonly FoundingMember[] {
    return this.#active()
      .keeper.plane.directory.members()
      .filter((member) => !member.isStorageOnly)
      .map(({ memberId, address }) => ({ memberId, address }));
  }

  missingMembers(): readonly number[] {
    if (this.#running === undefined) return [];
    const { tree, keeper } = this.#running;
    const others = new Set([...tree.voterIds(), ...keeper.plane.directory.memberIds()]);
    others.delete(this.#options.memberId);
    if (!tree.isInContact()) return [...others];
    return [...others].filter((memberId) => keeper.detector.state(memberId).health !== "up");
  }

  problems(): readonly string[] {
    const running = this.#running;
    if (running === undefined) return ["The node is starting."];
    if (this.#stopping !== undefined) return ["The node is stopping."];
    const { tree, keeper } = running;
    const problems: string[] = [];
    if (!tree.isInContact()) {
      problems.push(`No voter of the cluster has answered for ${VOTER_CONTACT_MS_MAX / 1000} s.`);
    }
    if (keeper.plane.directory.find(this.#options.memberId) === undefined) {
      problems.push("The node is not registered yet.");
    }
    return problems;
  }

  warnings(): readonly string[] {
    const warnings = this.#running?.keeper.warnings() ?? [];
    if (this.#saveFailure === "") return warnings;
    return [...warnings, `Where the voters are could not be saved: ${this.#saveFailure}`];
  }

  /** PostgreSQL is for voters alone. */
  services(): readonly ServiceStatus[] {
    const outside = this.#options.outside?.() ?? [];
    return [...outside, { name: "postgres", state: "off", sinceTimeMs: this.#madeAtMs, detail: "" }];
  }

  observe(): void {
    const running = this.#running;
    if (running !== undefined) observeStore(running.keeper, this.#options.metrics);
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    const running = this.#running;
    if (running === undefined) return;
    for (const loop of [...running.loops].reverse()) await loop.stop();
    await running.tree.stop();
    await this.#saving;
    running.keeper.detector.stop();
    this.#options.voterClients.close();
    await running.keeper.close();
  }

  /** Who is asked for what a voter knows: those that vote, and while none of them answers all that may have become voters since. */
  #idsToAsk(tree: RemoteTree): readonly number[] {
    if (tree.isInContact()) return tree.voterIds();
    const members = this.memberAddresses().map(({ memberId }) => memberId);
    return [...new Set([...tree.voterIds(), ...members, ...this.#options.foundIds()])];
  }

  /** What a voter told may be of a level that this version does not support: nothing is to be done by it then. */
  #isRefusedByLevel(tree: RemoteTree): boolean {
    if (this.#isRefused || this.#stopping !== undefined) return this.#isRefused;
    const { featureLevels = FEATURE_LEVELS, onRefused, onFatal } = this.#options;
    try {
      checkSupported(tree.reader(), featureLevels);
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
      this.#isRefused = true;
      (onRefused ?? onFatal)(error);
    }
    return this.#isRefused;
  }

  /** Hands requests on to where the voters are now, and remembers that for the next start. */
  #followVoters(): void {
    const voters = this.#voters();
    if (voters.length === 0) return;
    this.#saveVoters(voters);
    const addresses = voters.map(({ address }) => address);
    if (addresses.join() === this.#addresses) return;
    this.#addresses = addresses.join();
    this.#options.voterClients.setAddresses(addresses);
  }

  /** Those that vote and whose address is known. */
  #voters(): readonly FoundingMember[] {
    const ids = this.#running?.tree.voterIds() ?? [];
    return ids.flatMap((memberId) => {
      const address = this.addressOf(memberId);
      return address === undefined ? [] : [{ memberId, address }];
    });
  }

  /** One write at a time; what it misses, or could not write, the next view brings again. */
  #saveVoters(voters: readonly FoundingMember[]): void {
    const text = JSON.stringify(voters);
    if (text === this.#saved || this.#saving !== undefined) return;
    this.#saving = this.#options
      .saveContacts(voters)
      .then(
        () => {
          this.#saved = text;
          this.#saveFailure = "";
        },
        (error: unknown) => {
          const reason = String(error);
          if (reason !== this.#saveFailure) this.#logger.warn("contacts_not_saved", { reason });
          this.#saveFailure = reason;
        },
      )
      .finally(() => (this.#saving = undefined));
  }

  #voterDrive(): DriveApi {
    if (this.#addresses !== "") return this.#options.voterClients.drive;
    throw new DriveError("NODE_STARTING", "No voter of the cluster has answered yet.");
  }

  #hear(loop: string, error: DriveError): void {
    this.#refusals.note(error);
    this.#logger.debug("round_failed", { loop, reason: error.reason, detail: error.message });
  }

  #active(): Running {
    if (this.#running !== undefined) return this.#running;
    throw new DriveError("NODE_STARTING", "The node is starting.");
  }
}
