/**
 * The failure detector: heartbeats to every registered peer, and a judgement by silence.
 *
 *   up --(suspectAfterMs of silence, or evidence of a refused connection)--> suspect --(downAfterMs)--> down
 *   any --(an answer, or evidence that it was reached)--> up
 *
 * It is an oracle for placement and routing alone: nothing about safety depends on it (Chandra and Toueg 1996; a wrong
 * suspicion costs a copy that repair makes later). Time is monotonic and local. When this process itself stood still, the
 * silence it sees is its own and is not held against the peers.
 */
import type { NodeHealth } from "../drive/drive-api.ts";
import { hasReason } from "../drive/errors.ts";
import type { Clock, Timer } from "../std/clock.ts";
import { sharedAbortController, unreachableError, withDeadline } from "./deadline.ts";
import type { FailureDetector, HeartbeatPort, NodeLoad, PeerState } from "./failure-detector-port.ts";

/** How often each peer is asked. */
export const HEARTBEAT_INTERVAL_MS = 500;
/** A heartbeat that took longer counts as unanswered; shorter than the suspicion, so that one lost answer causes none. */
export const HEARTBEAT_DEADLINE_MS = 1500;
/** Silence after which a peer gets no new work while others can take it. */
export const SUSPECT_AFTER_MS = 2000;
/** Silence after which a peer counts as gone: nothing waits for it any more. */
export const DOWN_AFTER_MS = 6000;

/** Settings of HeartbeatFailureDetector. */
export interface FailureDetectorOptions {
  readonly clock: Clock;
  readonly heartbeats: HeartbeatPort;
  /** This node; always "up". */
  readonly memberId: number;
  /** Every registered member, this node included or not, in any order; asked on every round. */
  readonly memberIds: () => readonly number[];
  /** This node's own figures. */
  readonly ownLoad: () => NodeLoad;
  readonly intervalMs?: number;
  readonly deadlineMs?: number;
  readonly suspectAfterMs?: number;
  readonly downAfterMs?: number;
}

interface Peer {
  heardAtMs: number;
  refused: boolean;
  health: NodeHealth;
  upSinceMs: number;
  load: NodeLoad | undefined;
  asking: boolean;
}

/** FailureDetector over heartbeats. start() begins asking, stop() ends it; judgements are given at any time. */
export class HeartbeatFailureDetector implements FailureDetector {
  readonly #clock: Clock;
  readonly #heartbeats: HeartbeatPort;
  readonly #memberId: number;
  readonly #memberIds: () => readonly number[];
  readonly #ownLoad: () => NodeLoad;
  readonly #intervalMs: number;
  readonly #deadlineMs: number;
  readonly #suspectAfterMs: number;
  readonly #downAfterMs: number;
  readonly #startedAtMs: number;
  readonly #peers = new Map<number, Peer>();
  readonly #listeners = new Set<(state: PeerState) => void>();
  #timer: Timer | undefined;
  #roundAtMs: number;
  #stopping = sharedAbortController();

  constructor(options: FailureDetectorOptions) {
    this.#clock = options.clock;
    this.#heartbeats = options.heartbeats;
    this.#memberId = options.memberId;
    this.#memberIds = options.memberIds;
    this.#ownLoad = options.ownLoad;
    this.#intervalMs = options.intervalMs ?? HEARTBEAT_INTERVAL_MS;
    this.#deadlineMs = options.deadlineMs ?? HEARTBEAT_DEADLINE_MS;
    this.#suspectAfterMs = options.suspectAfterMs ?? SUSPECT_AFTER_MS;
    this.#downAfterMs = options.downAfterMs ?? DOWN_AFTER_MS;
    this.#startedAtMs = options.clock.monotonicMs();
    this.#roundAtMs = this.#startedAtMs;
  }

  /** Begins the rounds of heartbeats; the first goes out at once. */
  start(): void {
    if (this.#timer !== undefined) return;
    this.#stopping = sharedAbortController();
    this.#roundAtMs = this.#clock.monotonicMs();
    this.#round();
  }

  /** Ends the rounds and gives up heartbeats under way. */
  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#stopping.abort();
  }

  state(memberId: number): PeerState {
    if (memberId === this.#memberId) {
      const sinceMs = this.#clock.monotonicMs() - this.#startedAtMs;
      return { memberId, health: "up", sinceMs, load: this.#ownLoad() };
    }
    return this.#stateOf(memberId, this.#judge(memberId));
  }

  states(): readonly PeerState[] {
    const known = new Set([this.#memberId, ...this.#memberIds()]);
    return [...known].sort((a, b) => a - b).map((memberId) => this.state(memberId));
  }

  report(memberId: number, outcome: "reached" | "unreachable"): void {
    if (memberId === this.#memberId) return;
    const peer = this.#peer(memberId);
    if (outcome === "reached") {
      peer.heardAtMs = this.#clock.monotonicMs();
      peer.refused = false;
    } else {
      peer.refused = true;
    }
    this.#judge(memberId);
  }

  /** Calls `listener` with the new state of a peer whenever its health changes; returns a function that ends it. */
  onChange(listener: (state: PeerState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #round(): void {
    const now = this.#clock.monotonicMs();
    this.#forgivePause(now - this.#roundAtMs - this.#intervalMs);
    this.#roundAtMs = now;
    const members = this.#memberIds();
    for (const memberId of this.#peers.keys()) {
      if (!members.includes(memberId)) this.#peers.delete(memberId);
    }
    for (const memberId of members) {
      if (memberId === this.#memberId) continue;
      this.#judge(memberId);
      void this.#ask(memberId);
    }
    this.#timer = this.#clock.setTimer(this.#intervalMs, () => this.#round());
  }

  /** A timer that came late by more than a heartbeat means that this process stood still: nobody could be heard meanwhile. */
  #forgivePause(lateMs: number): void {
    if (lateMs <= this.#intervalMs) return;
    for (const peer of this.#peers.values()) peer.heardAtMs += lateMs;
  }

  async #ask(memberId: number): Promise<void> {
    const peer = this.#peer(memberId);
    if (peer.asking) return;
    peer.asking = true;
    try {
      const { signal } = this.#stopping;
      const onTimeout = () => unreachableError(memberId, "a heartbeat", this.#deadlineMs);
      peer.load = await withDeadline(
        { clock: this.#clock, timeoutMs: this.#deadlineMs, signal, onTimeout },
        (inner) => this.#heartbeats.ping(memberId, inner),
      );
      this.report(memberId, "reached");
    } catch (error) {
      // A refused connection, or a node that says that it cannot serve, is evidence; a missing answer is only silence, which
      // #judge() measures.
      const timedOut = hasReason(error, "PEER_UNREACHABLE") && error.metadata["timeout_ms"] !== undefined;
      if (!timedOut && !this.#stopping.signal.aborted) this.report(memberId, "unreachable");
    } finally {
      peer.asking = false;
    }
  }

  #peer(memberId: number): Peer {
    const found = this.#peers.get(memberId);
    if (found !== undefined) return found;
    const now = this.#clock.monotonicMs();
    const peer: Peer = {
      heardAtMs: now,
      refused: false,
      health: "up",
      upSinceMs: now,
      load: undefined,
      asking: false,
    };
    this.#peers.set(memberId, peer);
    return peer;
  }

  #judge(memberId: number): Peer {
    const peer = this.#peer(memberId);
    const now = this.#clock.monotonicMs();
    const silenceMs = now - peer.heardAtMs;
    let health: NodeHealth = "up";
    if (silenceMs >= this.#downAfterMs) health = "down";
    else if (peer.refused || silenceMs >= this.#suspectAfterMs) health = "suspect";
    if (health !== peer.health) {
      peer.health = health;
      if (health === "up") peer.upSinceMs = now;
      for (const listener of this.#listeners) listener(this.#stateOf(memberId, peer));
    }
    return peer;
  }

  #stateOf(memberId: number, peer: Peer): PeerState {
    const { health, load } = peer;
    // Suspicion and its confirmation are one silence. A standstill of this process may move `heardAtMs` past now.
    const beganMs = health === "up" ? peer.upSinceMs : peer.heardAtMs;
    return { memberId, health, sinceMs: Math.max(0, this.#clock.monotonicMs() - beganMs), load };
  }
}
