/**
 * Whom this node talks to: refuses members that were removed, and a second process that runs under a member id in use.
 *
 * Each process draws an id when it starts and says it with every call. While calls of one process of a member keep coming, those of
 * another are refused: a data directory was copied, and two processes that vote under one id could elect two leaders. A process
 * that ended is silent, so one that takes its place is refused for `windowMs` after its last word at most.
 */
import { DriveError } from "../drive/errors.ts";
import type { Clock } from "../std/clock.ts";

/** Members whose processes are remembered: more than a cluster may have. */
const MEMBER_COUNT_MAX = 2000;

/** What a PeerGuard needs. */
export interface PeerGuardOptions {
  readonly clock: Clock;
  /** How long a process counts as running after it was heard: a few heartbeats. */
  readonly windowMs: number;
  /** Whether a member was removed. */
  readonly isRemoved: (memberId: number) => boolean;
}

/** The judgement of callers. */
export class PeerGuard {
  readonly #options: PeerGuardOptions;
  readonly #heard = new Map<number, { processId: string; atMs: number }>();

  constructor(options: PeerGuardOptions) {
    this.#options = options;
  }

  /**
   * Takes a call of a member's process; "" when it does not say which.
   * @throws DriveError MEMBER_REMOVED, MEMBER_DUPLICATED (metadata `member_id`)
   */
  check(memberId: number, processId: string): void {
    const { clock, windowMs, isRemoved } = this.#options;
    if (isRemoved(memberId)) {
      throw new DriveError("MEMBER_REMOVED", `Member ${memberId} was removed from the cluster.`, {
        member_id: String(memberId),
      });
    }
    if (processId === "") return;
    const nowMs = clock.monotonicMs();
    const known = this.#heard.get(memberId);
    if (known !== undefined && known.processId !== processId && nowMs - known.atMs < windowMs) {
      throw new DriveError("MEMBER_DUPLICATED", `Another process runs as member ${memberId}.`, {
        member_id: String(memberId),
      });
    }
    this.#heard.delete(memberId);
    this.#heard.set(memberId, { processId, atMs: nowMs });
    const [oldest] = this.#heard.keys();
    if (this.#heard.size > MEMBER_COUNT_MAX && oldest !== undefined) this.#heard.delete(oldest);
  }
}
