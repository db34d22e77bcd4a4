/**
 * What the leader does for the tree by itself: moves cluster time, and takes expiry, reclaiming and folder copies forward in
 * bounded batches, paced so that users' commands go first, and raises the feature level when every member supports a newer one.
 *
 * Cluster time moves only by the monotonic time that this node measured while it was leader without a break, at most
 * CLOCK_ADVANCE_MS_MAX a command; what was measured for a proposal that failed is lost, so it can only run late. Every
 * command is harmless twice, and when two nodes believe to lead for a moment only one of them commits.
 */
import type { CommandBody } from "../metadata/commands.ts";
import { isTicketKeyDue } from "../metadata/ticket-keys.ts";
import { clusterInfo, clusterTime, pendingWork } from "../metadata/view.ts";
import { CLOCK_ADVANCE_MS_MAX, TICKET_KEY_SIZE_BYTES } from "../drive/limits.ts";
import type { DriveError } from "../drive/errors.ts";
import type { Clock } from "../std/clock.ts";
import type { Prng } from "../std/prng.ts";
import { throwIfCanceled } from "./deadline.ts";
import { valueOfKind, type MetadataClient } from "./metadata-client.ts";
import { PacedLoop } from "./paced-loop.ts";

/** How often cluster time moves. Leases are a minute, so a second is fine enough; each costs one log entry. */
export const CLOCK_ADVANCE_INTERVAL_MS = 1000;
/** Pause between batches while there is more to do. */
export const HOUSEKEEPING_BUSY_MS = 20;
/** Least time that is worth a command. */
const CLOCK_ADVANCE_MS_MIN = 1;

/** What Housekeeping needs. */
export interface HousekeepingOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  /** Source of the keys of tickets: one that nobody can guess. */
  readonly prng: Prng;
  /** The feature level that the cluster can be raised to now; undefined when it stays. Asked every round at the leader. */
  readonly raisableLevel?: (() => number | undefined) | undefined;
  /** Called every round at the leader: for what only a leader does, and seldom. */
  readonly onLeading?: (() => void) | undefined;
  /** Hears that the cluster has this feature level now. */
  readonly onRaised?: ((level: number) => void) | undefined;
  readonly onError?: (error: DriveError) => void;
}

/** The leader's chores. start() on every node; it does nothing where the node does not lead. */
export class Housekeeping {
  readonly #options: HousekeepingOptions;
  readonly #loop: PacedLoop;
  #leadingSinceMs: number | undefined;

  constructor(options: HousekeepingOptions) {
    this.#options = options;
    this.#loop = new PacedLoop({
      clock: options.clock,
      idleMs: CLOCK_ADVANCE_INTERVAL_MS,
      busyMs: HOUSEKEEPING_BUSY_MS,
      work: (signal) => this.#round(signal),
      onError: options.onError,
    });
  }

  start(): void {
    this.#loop.start();
  }

  stop(): Promise<void> {
    return this.#loop.stop();
  }

  async #round(signal: AbortSignal): Promise<"busy" | "idle"> {
    const { metadata, clock } = this.#options;
    if (metadata.port.leaderId() !== metadata.port.memberId) {
      this.#leadingSinceMs = undefined;
      return "idle";
    }
    this.#options.onLeading?.();
    const now = clock.monotonicMs();
    if (this.#leadingSinceMs === undefined) this.#leadingSinceMs = now;
    else if (now - this.#leadingSinceMs >= CLOCK_ADVANCE_INTERVAL_MS / 2)
      await this.#advanceClock(now, signal);
    return this.#batches(signal);
  }

  async #advanceClock(now: number, signal: AbortSignal): Promise<void> {
    const elapsedMs = Math.floor(now - (this.#leadingSinceMs ?? now));
    this.#leadingSinceMs = now;
    if (elapsedMs < CLOCK_ADVANCE_MS_MIN) return;
    await this.#propose(
      { kind: "advance-clock", elapsedMs: Math.min(elapsedMs, CLOCK_ADVANCE_MS_MAX) },
      signal,
    );
  }

  /** One batch of each kind that has work. */
  async #batches(signal: AbortSignal): Promise<"busy" | "idle"> {
    const pending = pendingWork(this.#options.metadata.port.reader());
    const bodies: CommandBody[] = [];
    if (pending.expirable) bodies.push({ kind: "expire" });
    if (pending.reclaimable) bodies.push({ kind: "reclaim" });
    if (pending.recountable) bodies.push({ kind: "recount" });
    if (pending.materialisable) bodies.push({ kind: "materialise", directoryId: 0, path: [] });
    if (pending.evictable) bodies.push({ kind: "evict" });
    await this.#raiseLevel(signal);
    await this.#rotateTicketKey(signal);
    let more = false;
    for (const body of bodies) {
      throwIfCanceled(signal);
      const result = await this.#propose(body, signal);
      if (valueOfKind(result, "batch").more) more = true;
    }
    return more ? "busy" : "idle";
  }

  async #raiseLevel(signal: AbortSignal): Promise<void> {
    const level = this.#options.raisableLevel?.();
    if (level === undefined) return;
    await this.#propose({ kind: "raise-feature-level", level }, signal);
    this.#options.onRaised?.(level);
  }

  /** Makes a key for tickets when there is none, or it is old. */
  async #rotateTicketKey(signal: AbortSignal): Promise<void> {
    const { metadata, prng } = this.#options;
    const reader = metadata.port.reader();
    if (clusterInfo(reader) === undefined || !isTicketKeyDue(reader, clusterTime(reader))) return;
    await this.#propose({ kind: "rotate-ticket-key", secret: prng.bytes(TICKET_KEY_SIZE_BYTES) }, signal);
  }

  #propose(body: CommandBody, signal: AbortSignal) {
    return this.#options.metadata.applyIdempotent(body, { signal });
  }
}
