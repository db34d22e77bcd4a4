/**
 * The faults of the torture run: each is one kind of trouble that begins, lasts a while and is mended. One at a time, so that the
 * time without an acknowledged write can be told by kind; at most a minority of the nodes is out of order, but for the power cut.
 */
import { must } from "../../../src/std/assert.ts";
import { sleep, type Clock } from "../../../src/std/clock.ts";
import type { SeededPrng } from "../../../src/std/prng.ts";
import type { FaultCluster, FaultNode } from "../../support/fault-cluster.ts";
import { RESERVE_BYTES } from "../../support/fault-cluster.ts";
import { CLIENT } from "../../support/links/link-rules.ts";

/** Every kind of fault. */
export const FAULT_KINDS = [
  "kill-leader",
  "kill-follower",
  "kill-all",
  "pause-leader",
  "pause-follower",
  "cut-leader-off",
  "cut-halves",
  "cut-leader-to-followers",
  "cut-followers-to-leader",
  "freeze-node",
  "lose-bytes",
  "refuse-node",
  "delay-links",
  "reset-connections",
  "disk-full",
  "disk-stuck",
] as const;

/** One of FAULT_KINDS. */
export type FaultKind = (typeof FAULT_KINDS)[number];

/** Kinds that need disks of the nodes' own. */
const DISK_KINDS: readonly FaultKind[] = ["disk-full", "disk-stuck"];

/** Longest time a fault lasts, and of a pause: longer than any timeout between nodes. */
export interface NemesisOptions {
  readonly cluster: FaultCluster;
  readonly clock: Clock;
  readonly prng: SeededPrng;
  readonly faultMsMax: number;
  readonly pauseMsMax: number;
}

/** A fault that was there. */
export interface Fault {
  readonly kind: FaultKind;
  readonly beganMs: number;
  readonly mendedMs: number;
  /** Nodes that it hit. */
  readonly places: readonly string[];
  /** Whether it did something to somebody: a signal delivered, bytes held, a disk full. */
  readonly hadEffect: boolean;
}

/** The kinds that can be had here. */
export function possibleKinds(cluster: FaultCluster): readonly FaultKind[] {
  const hasDisks = cluster.nodes.every(({ volume }) => volume.isOwn);
  return FAULT_KINDS.filter((kind) => hasDisks || !DISK_KINDS.includes(kind));
}

/** Makes trouble. */
export class Nemesis {
  readonly #options: NemesisOptions;

  constructor(options: NemesisOptions) {
    this.#options = options;
  }

  /** Lets one fault begin, last and end. All processes run again when it resolves, perhaps not ready yet. */
  async strike(kind: FaultKind): Promise<Fault> {
    const { cluster, clock } = this.#options;
    const leader = await cluster.leader();
    const followers = this.#shuffled(cluster.nodes.filter((node) => node !== leader));
    const minority = followers.slice(0, Math.floor((cluster.nodes.length - 1) / 2));
    const before = await cluster.links.counts();
    const beganMs = clock.monotonicMs();
    const { hit, isCertain } = await this.#make(kind, leader, followers, minority);
    const after = await cluster.links.counts();
    const touched = (["heldPieces", "lostPieces", "delayedPieces", "resets", "refused"] as const).some(
      (each) => after[each] > before[each],
    );
    return {
      kind,
      beganMs,
      mendedMs: clock.monotonicMs(),
      places: hit.map(({ place }) => place),
      hadEffect: isCertain || touched,
    };
  }

  async #make(
    kind: FaultKind,
    leader: FaultNode,
    followers: readonly FaultNode[],
    minority: readonly FaultNode[],
  ): Promise<{ readonly hit: readonly FaultNode[]; readonly isCertain: boolean }> {
    const { cluster } = this.#options;
    const { links } = cluster;
    const follower = must(followers[0], "a follower");
    const places = (nodes: readonly FaultNode[]): readonly string[] => nodes.map(({ place }) => place);
    const others = links.others(leader.place);
    switch (kind) {
      case "kill-leader":
        return this.#kill([leader]);
      case "kill-follower":
        return this.#kill(minority);
      case "kill-all":
        return this.#kill(cluster.nodes);
      case "pause-leader":
        return this.#pause([leader]);
      case "pause-follower":
        return this.#pause([follower]);
      case "cut-leader-off":
        return this.#onLinks([leader], () => links.setBoth([leader.place], others, { hold: true }));
      case "cut-halves": {
        const rest = links.places.filter((place) => !places(minority).includes(place));
        return this.#onLinks(minority, () => links.setBoth(places(minority), rest, { hold: true }));
      }
      case "cut-leader-to-followers":
        return this.#onLinks([leader], () => links.set([leader.place], others, { hold: true }));
      case "cut-followers-to-leader":
        return this.#onLinks([leader], () => links.set(others, [leader.place], { hold: true }));
      case "freeze-node": {
        const node = this.#draw(cluster.nodes);
        return this.#onLinks([node], () => links.setBoth([node.place], links.everyone, { hold: true }));
      }
      case "lose-bytes":
        return this.#onLinks([follower], () =>
          links.setBoth([follower.place], [...links.others(follower.place), CLIENT], { lose: true }),
        );
      case "refuse-node": {
        const node = this.#draw(cluster.nodes);
        return this.#onLinks([node], () => links.set(links.everyone, [node.place], { refuse: true }));
      }
      case "delay-links": {
        const delayMs = 5 + this.#options.prng.below(60);
        const rule = { delayMs, jitterMs: delayMs };
        return this.#onLinks(cluster.nodes, () => links.setBoth(links.everyone, links.everyone, rule));
      }
      case "reset-connections":
        return this.#reset();
      case "disk-full":
        return this.#fillDisk(this.#draw(cluster.nodes));
      case "disk-stuck":
        return this.#freezeDisk(this.#draw(cluster.nodes));
    }
  }

  /** Ends processes at once and starts them again after a while. */
  async #kill(nodes: readonly FaultNode[]): Promise<{ hit: readonly FaultNode[]; isCertain: boolean }> {
    const { cluster } = this.#options;
    const pids = nodes.map(({ process }) => process.pid);
    await Promise.all(nodes.map(({ process }) => process.kill()));
    await this.#last();
    for (const node of nodes) await cluster.startNode(node);
    return { hit: nodes, isCertain: nodes.every(({ process }, at) => process.pid !== pids[at]) };
  }

  async #pause(nodes: readonly FaultNode[]): Promise<{ hit: readonly FaultNode[]; isCertain: boolean }> {
    const { clock, prng, pauseMsMax } = this.#options;
    for (const { process } of nodes) await process.signal("SIGSTOP");
    // From a few milliseconds to the longest, all orders of magnitude alike.
    await sleep(clock, 5 * (pauseMsMax / 5) ** prng.float());
    for (const { process } of nodes) await process.signal("SIGCONT");
    return { hit: nodes, isCertain: nodes.every(({ process }) => process.running) };
  }

  async #onLinks(
    hit: readonly FaultNode[],
    set: () => Promise<void>,
  ): Promise<{ hit: readonly FaultNode[]; isCertain: boolean }> {
    await set();
    await this.#last();
    await this.#options.cluster.links.heal();
    return { hit, isCertain: false };
  }

  async #reset(): Promise<{ hit: readonly FaultNode[]; isCertain: boolean }> {
    const { cluster, clock, prng, faultMsMax } = this.#options;
    const { links } = cluster;
    const untilMs = clock.monotonicMs() + faultMsMax / 2;
    while (clock.monotonicMs() < untilMs) {
      await links.reset(links.everyone, links.everyone);
      await sleep(clock, 200 + prng.below(800));
    }
    return { hit: cluster.nodes, isCertain: false };
  }

  /** Leaves less than the reserve, so that the node must refuse writes and serve on. */
  async #fillDisk(node: FaultNode): Promise<{ hit: readonly FaultNode[]; isCertain: boolean }> {
    node.volume.fill(RESERVE_BYTES / 2);
    await this.#last();
    node.volume.free();
    return { hit: [node], isCertain: true };
  }

  async #freezeDisk(node: FaultNode): Promise<{ hit: readonly FaultNode[]; isCertain: boolean }> {
    const { clock, prng } = this.#options;
    node.volume.freeze();
    await sleep(clock, 500 + prng.below(1_000));
    node.volume.thaw();
    return { hit: [node], isCertain: true };
  }

  #last(): Promise<void> {
    const { clock, prng, faultMsMax } = this.#options;
    return sleep(clock, faultMsMax * (0.3 + 0.7 * prng.float()));
  }

  #draw<T>(items: readonly T[]): T {
    return must(items[this.#options.prng.below(items.length)], "an item");
  }

  #shuffled<T>(items: readonly T[]): readonly T[] {
    return items
      .map((item) => ({ item, at: this.#options.prng.float() }))
      .sort((a, b) => a.at - b.at)
      .map(({ item }) => item);
  }
}
