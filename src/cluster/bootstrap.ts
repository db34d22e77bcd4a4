/**
 * Brings a node from its data directory to membership of a cluster: formats it, asks the others, and carries out what the
 * bootstrap rule decides, until Raft may start.
 *
 * Answers say only what is durable. The rule itself is in bootstrap-rule.ts, the file in bootstrap-identity.ts; how questions
 * travel is the port's matter. Time and chance come in, so that the simulator can run all of it.
 */
import { DriveError } from "../drive/errors.ts";
import { FEATURE_LEVELS, type FeatureLevels } from "../drive/feature-levels.ts";
import { assert, must } from "../std/assert.ts";
import { makeDurableDirectory } from "../std/atomic-file.ts";
import { sleep, type Clock } from "../std/clock.ts";
import type { Disk } from "../std/disk.ts";
import type { Prng } from "../std/prng.ts";
import type { Logger } from "../telemetry/logger.ts";
import {
  findIdentity,
  isFormed,
  makeClusterId,
  makeIdentity,
  storeIdentity,
  type ClusterProposal,
  type FoundingMember,
  type NodeIdentity,
} from "./bootstrap-identity.ts";
import {
  decideBootstrap,
  findForeign,
  normalizeAddress,
  normalizeAddresses,
  reportOf,
  type BootstrapReport,
  type BootstrapView,
} from "./bootstrap-rule.ts";

import { findToken } from "./join-token.ts";
import { joinWithToken, type JoinOptions } from "./join.ts";

/** All addresses are asked this often until the cluster is formed. */
export const BOOTSTRAP_ASK_INTERVAL_MS = 500;

/** How a node asks another one; rpc/ implements it. */
export interface BootstrapExchange {
  /**
   * What the node at `address` says about itself (its answer()). Rejects with any error when it cannot be reached; must
   * settle within a few seconds.
   */
  ask(address: string): Promise<BootstrapReport>;
}

/** Settings and dependencies of a Bootstrap. */
export interface BootstrapOptions {
  readonly disk: Disk;
  /** The data directory; made when absent, in a directory that exists. */
  readonly directory: string;
  /** Names in the data directory that hold data: without an identity none of them may exist. */
  readonly dataNames: readonly string[];
  readonly nodeId: string;
  /** host:port under which the others reach this node. */
  readonly address: string;
  /** host:port of all nodes, with or without this one. */
  readonly peers: readonly string[];
  readonly exchange: BootstrapExchange;
  /** Set to join a cluster with a token instead of forming one; ignored once this node belongs to that cluster. */
  readonly join?: JoinOptions | undefined;
  /** What this node supports; FEATURE_LEVELS when absent. */
  readonly featureLevels?: FeatureLevels | undefined;
  readonly clock: Clock;
  readonly prng: Prng;
  readonly logger: Logger;
}

/** What a node needs to know to start Raft. */
export interface ClusterMembership {
  readonly clusterId: string;
  readonly memberId: number;
  readonly incarnation: string;
  /** Whether this member has taken part before (markStarted()): then its log and state must be there. */
  readonly isStarted: boolean;
  /** Feature level that the founders agreed on; absent for the first one. */
  readonly foundingLevel?: number | undefined;
  /** Those that formed the cluster. */
  readonly founders: ClusterProposal["members"];
  /** Where members are, as far as this node was told; newest last. */
  readonly contacts: readonly FoundingMember[];
  /** Whether it keeps no tree and has no vote. */
  readonly isStorageOnly: boolean;
}

/** One node's way into its cluster. */
export class Bootstrap {
  readonly #options: BootstrapOptions;
  readonly #logger: Logger;
  #address: string;
  #addresses: readonly string[];
  #identity: NodeIdentity | undefined;
  #reason = "The node is starting.";
  /** The write under way, or the last one: a second one must not start from what the first replaces. */
  #writing: Promise<void> = Promise.resolve();

  constructor(options: BootstrapOptions) {
    this.#options = options;
    this.#logger = options.logger.child("bootstrap");
    this.#address = normalizeAddress(options.address);
    this.#addresses = normalizeAddresses([...options.peers, options.address]);
  }

  /** Why the cluster is not formed yet, for status pages and logs; "" once it is. */
  get waitingReason(): string {
    return this.#reason;
  }

  /**
   * Opens the identity, or formats the data directory. Before anything else.
   * @throws DriveError DATA_CORRUPT when it is damaged, or there is data without it; MEMBER_REMOVED when the cluster removed it
   */
  async open(): Promise<NodeIdentity> {
    const { disk, directory, prng, nodeId, dataNames } = this.#options;
    await makeDurableDirectory(disk, directory);
    const found = await findIdentity(disk, directory);
    if (found !== undefined) {
      if (found.phase === "removed") throw removedError(found.memberId);
      this.#identity = found;
      return found;
    }
    for (const name of dataNames) {
      if (!(await disk.exists(`${directory}/${name}`))) continue;
      const path = `${directory}/${name}`;
      throw new DriveError("DATA_CORRUPT", `There is data in ${path}, but the node's identity is gone.`, {
        path,
      });
    }
    const identity = makeIdentity(prng, nodeId);
    await storeIdentity(disk, directory, identity);
    this.#logger.info("data_directory_formatted", { member_id: identity.memberId });
    this.#identity = identity;
    return identity;
  }

  /** What this node says to whoever asks, at any time after open(). */
  answer(): BootstrapReport {
    return reportOf(this.#view(new Map()));
  }

  /**
   * Asks and decides until the cluster is formed; at once when it was before. Rejects with the signal's reason.
   * @throws DriveError WRONG_CLUSTER when the addresses belong to several clusters
   */
  async run(signal?: AbortSignal): Promise<ClusterMembership> {
    const { clock, prng, join } = this.#options;
    if (join !== undefined) await this.#join(join, signal);
    for (;;) {
      signal?.throwIfAborted();
      const reports = isFormed(this.#known()) ? new Map<string, BootstrapReport>() : await this.#askAll();
      const step = decideBootstrap(this.#view(reports), () => makeClusterId(prng));
      switch (step.kind) {
        case "start":
          this.#reason = "";
          return this.#membership(step.cluster);
        case "store":
          await this.#store(step.identity);
          continue;
        case "fail":
          this.#reason = step.error.message;
          throw step.error;
        case "wait":
          this.#waitFor(step.reason);
      }
      await sleep(clock, BOOTSTRAP_ASK_INTERVAL_MS, signal);
    }
  }

  /** Becomes a member by a token, unless this node is one. */
  async #join(join: JoinOptions, signal: AbortSignal | undefined): Promise<void> {
    const { memberId, phase, cluster } = this.#known();
    const token = findToken(join.token);
    if (token === undefined) throw new DriveError("JOIN_TOKEN_INVALID", "This is no token to join with.");
    if (cluster !== undefined && cluster.clusterId !== token.clusterId) {
      throw new DriveError(
        "WRONG_CLUSTER",
        `The data directory belongs to cluster ${cluster.clusterId}, and the token is for ${token.clusterId}.`,
        { cluster_id: cluster.clusterId, token_cluster_id: token.clusterId },
      );
    }
    if (phase !== "empty") return;
    const { nodeId, clock } = this.#options;
    const { featureLevels = FEATURE_LEVELS } = this.#options;
    const self = { memberId, nodeId, address: this.#address, featureLevels };
    const onWait = (reason: string): void => this.#waitFor(reason);
    const answer = await joinWithToken(join, self, { clock, signal, onWait });
    if (answer.cluster.clusterId !== token.clusterId) {
      throw new DriveError("WRONG_CLUSTER", `A node of cluster ${answer.cluster.clusterId} answered.`, {
        cluster_id: answer.cluster.clusterId,
        token_cluster_id: token.clusterId,
      });
    }
    const { cluster: joined, members: contacts } = answer;
    const { isStorageOnly } = token;
    await this.#store({
      ...this.#known(),
      ...{ phase: "formed", cluster: joined, contacts },
      ...(isStorageOnly && { isStorageOnly }),
    });
  }

  /** Makes it durable that the cluster removed this member: it never starts again. */
  async markRemoved(): Promise<void> {
    await this.#update((identity) =>
      identity.phase === "removed" ? identity : { ...identity, phase: "removed" },
    );
  }

  /**
   * Makes it durable who votes now and where, instead of what was saved before: where the next start asks. For a member without a
   * tree, which would else know only the members of the day it joined. Nothing is written when nothing changed, for an empty list,
   * or once the member was removed. Rejects with errors of the disk.
   */
  async saveContacts(voters: readonly FoundingMember[]): Promise<void> {
    const contacts = voters
      .map(({ memberId, address }) => ({ memberId, address }))
      .sort((a, b) => a.memberId - b.memberId);
    if (contacts.length === 0) return;
    const text = JSON.stringify(contacts);
    await this.#update((identity) =>
      isFormed(identity) && JSON.stringify(identity.contacts) !== text ? { ...identity, contacts } : identity,
    );
  }

  /**
   * Makes it durable that this member's log and state were made, so that they are never made again under its id. After run()
   * has answered; before the member votes or acknowledges anything. Harmless when it was done before.
   */
  async markStarted(): Promise<void> {
    await this.#update((identity) => {
      assert(isFormed(identity), "a member of a cluster starts");
      return identity.phase === "formed" ? { ...identity, phase: "started" } : identity;
    });
  }

  /**
   * Asks all addresses once, after the cluster was formed, whether they belong to it.
   * @throws DriveError WRONG_CLUSTER when one belongs to another cluster
   */
  async checkPeers(): Promise<void> {
    const foreign = findForeign(this.#view(await this.#askAll()));
    if (foreign !== undefined) throw foreign;
  }

  /** Asks every other address. One that turns out to be this node under another name becomes its name. */
  async #askAll(): Promise<ReadonlyMap<string, BootstrapReport>> {
    const { exchange } = this.#options;
    const others = this.#addresses.filter((address) => address !== this.#address);
    const answers = await Promise.allSettled(others.map((address) => exchange.ask(address)));
    const reports = new Map<string, BootstrapReport>();
    for (const [at, answer] of answers.entries()) {
      const address = must(others[at], "one answer per address");
      if (answer.status === "rejected") {
        this.#logger.debug("peer_not_asked", { address, reason: String(answer.reason) });
      } else if (answer.value.memberId === this.#known().memberId) {
        this.#rename(address);
      } else {
        reports.set(address, answer.value);
      }
    }
    return reports;
  }

  /** The list names this node `address`: that is what the others know it by. */
  #rename(address: string): void {
    this.#logger.info("own_address_found", { address, configured: this.#address });
    this.#addresses = this.#addresses.filter((other) => other !== this.#address);
    this.#address = address;
  }

  /** Stores what `change` makes of the identity, after the writes before it; nothing when it returns the same one. */
  #update(change: (identity: NodeIdentity) => NodeIdentity): Promise<void> {
    const done = this.#writing.then(async () => {
      const identity = change(this.#known());
      if (identity !== this.#known()) await this.#store(identity);
    });
    // Who asked for it hears of a failure; the next write starts all the same.
    this.#writing = done.catch(() => undefined);
    return done;
  }

  async #store(identity: NodeIdentity): Promise<void> {
    const { disk, directory } = this.#options;
    const { phase, cluster, contacts } = identity;
    const isNews = phase !== this.#known().phase;
    await storeIdentity(disk, directory, identity);
    this.#identity = identity;
    if (isNews) this.#logger.info("cluster_" + phase, { cluster_id: cluster?.clusterId });
    else this.#logger.info("contacts_saved", { member_ids: contacts?.map(({ memberId }) => memberId) });
  }

  #waitFor(reason: string): void {
    if (reason !== this.#reason) this.#logger.warn("cluster_not_formed", { reason });
    this.#reason = reason;
  }

  #membership(cluster: ClusterProposal): ClusterMembership {
    const { memberId, incarnation, phase, contacts = [], isStorageOnly = false } = this.#known();
    const { clusterId, members: founders, featureLevel: foundingLevel } = cluster;
    const isStarted = phase === "started";
    const known = { clusterId, memberId, incarnation, isStarted, isStorageOnly };
    return { ...known, foundingLevel, founders, contacts: [...founders, ...contacts] };
  }

  #view(reports: ReadonlyMap<string, BootstrapReport>): BootstrapView {
    const { featureLevels = FEATURE_LEVELS } = this.#options;
    return {
      ...{ identity: this.#known(), address: this.#address, addresses: this.#addresses },
      ...{ featureLevels, reports },
    };
  }

  #known(): NodeIdentity {
    return must(this.#identity, "open() comes first");
  }
}

function removedError(memberId: number): DriveError {
  return new DriveError("MEMBER_REMOVED", `The cluster removed member ${memberId}, whose data this is.`, {
    member_id: String(memberId),
  });
}
