/**
 * Finds members at addresses that the tree does not know yet.
 *
 * A member that moved registers its new address in the tree; but it may need to be reached for that. So every call says where its
 * caller wants to be reached (heard()), and while members are missing the configured peers are asked who they are, each host
 * name with all of its addresses, again and again: after all nodes moved at once, or while a new node has no tree. What was
 * found so counts until the tree says something newer. Members that nobody told of are found alike: those that a node knew may all
 * have been replaced while it was away.
 */
import { DriveError } from "../drive/errors.ts";
import type { Clock } from "../std/clock.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { BootstrapExchange } from "./bootstrap.ts";
import { PacedLoop } from "./paced-loop.ts";

/** How often peers are asked while members are missing. */
export const PEER_FIND_INTERVAL_MS = 2000;

/** What a PeerFinder needs. */
export interface PeerFinderOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly clusterId: string;
  /** This node, which is not looked for. */
  readonly memberId: number;
  readonly exchange: BootstrapExchange;
  /** The configured peers, host names resolved to each of their addresses; asked anew for each look. */
  readonly addresses: () => Promise<readonly string[]>;
  /** Members that should be reachable and are not. */
  readonly missing: () => readonly number[];
  /** Where the tree, or what was told when joining, says that a member is. */
  readonly knownAddress: (memberId: number) => string | undefined;
}

/** Where members were found. */
export class PeerFinder {
  readonly #options: PeerFinderOptions;
  readonly #loop: PacedLoop;
  /** What was found, and what was known then. */
  readonly #found = new Map<number, { readonly address: string; readonly known: string | undefined }>();

  constructor(options: PeerFinderOptions) {
    this.#options = options;
    this.#loop = new PacedLoop({
      clock: options.clock,
      idleMs: PEER_FIND_INTERVAL_MS,
      busyMs: PEER_FIND_INTERVAL_MS,
      work: () => this.#round(),
    });
  }

  start(): void {
    this.#loop.start();
  }

  stop(): Promise<void> {
    return this.#loop.stop();
  }

  /** host:port of a member: as it was found, unless something newer is known since; undefined when nobody knows. */
  addressOf(memberId: number): string | undefined {
    const known = this.#options.knownAddress(memberId);
    const found = this.#found.get(memberId);
    if (found === undefined) return known;
    if (found.known === known) return found.address;
    this.#found.delete(memberId);
    return known;
  }

  /** Members that were found where nothing newer says they are, or that nothing else tells of. */
  foundIds(): readonly number[] {
    return [...this.#found.keys()];
  }

  /** A member said where it wants to be reached. */
  heard(memberId: number, address: string): void {
    if (this.addressOf(memberId) !== address) this.#note(memberId, address);
  }

  #note(memberId: number, address: string): void {
    const { knownAddress, logger } = this.#options;
    this.#found.set(memberId, { address, known: knownAddress(memberId) });
    logger.info("member_found", { member_id: memberId, address });
  }

  async #round(): Promise<"idle"> {
    const missing = new Set(this.#options.missing());
    if (missing.size === 0) return "idle";
    const addresses = await this.#options.addresses();
    await Promise.all(addresses.map((address) => this.#ask(address, missing)));
    return "idle";
  }

  async #ask(address: string, missing: ReadonlySet<number>): Promise<void> {
    const { exchange, clusterId, memberId: ownId } = this.#options;
    try {
      const { memberId, cluster, formed } = await exchange.ask(address);
      if (!formed || cluster?.clusterId !== clusterId || memberId === ownId) return;
      // One that is not missed stays where the tree says, by whatever name the list has it.
      if (missing.has(memberId) || this.addressOf(memberId) === undefined) this.heard(memberId, address);
    } catch (error) {
      // Nobody there: the next look asks again.
      if (!(error instanceof DriveError)) throw error;
    }
  }
}
