/**
 * The tree as a storage-only node has it: the small part that every node knows, kept up by asking voters once a second, and commands
 * that voters carry out. A MetadataPort, so that everything that needs no more runs as it does at a voter.
 *
 * Nothing of it is kept on disk. How long ago a voter answered is known at any time: after VOTER_CONTACT_MS_MAX without an answer
 * this node may not serve any more, because files may have been deleted and tickets be over without its knowing.
 */
import { PacedLoop } from "../cluster/paced-loop.ts";
import type { MetadataPort, ProposeOptions } from "../cluster/metadata-port.ts";
import type { DriveError } from "../drive/errors.ts";
import { REQUEST_RETENTION_MS, VOTER_CONTACT_MS_MAX } from "../drive/limits.ts";
import { decodeResult, encodeCommand } from "../metadata/codec.ts";
import type { CommandBody, CommandResult } from "../metadata/commands.ts";
import { checkProposable } from "../metadata/feature-level.ts";
import { installView } from "../metadata/member-view.ts";
import { clusterInfo, clusterTime } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import type { OrderedReader, OrderedStore } from "../std/ordered-store.ts";
import { VOTER_ASK_TIMEOUT_MS, type VoterFeed } from "./voter-feed.ts";

/** How often the view is asked for. */
export const VIEW_INTERVAL_MS = 1000;

/** What a RemoteTree needs. */
export interface RemoteTreeOptions {
  readonly clock: Clock;
  readonly memberId: number;
  readonly feed: VoterFeed;
  /** An empty store in memory. */
  readonly store: OrderedStore;
  /** Voters to ask before the first answer. */
  readonly firstVoterIds: readonly number[];
  readonly onError?: ((error: DriveError) => void) | undefined;
}

/** The small part of the tree. start() keeps it up. */
export class RemoteTree implements MetadataPort {
  readonly #options: RemoteTreeOptions;
  readonly #loop: PacedLoop;
  readonly #listeners = new Set<(appliedIndex: number) => void>();
  #recordsDigest: Uint8Array | undefined;
  #appliedIndex = 0;
  #leaderId: number | undefined;
  #voterIds: readonly number[];
  #term = 0;
  /** When the question was asked whose answer is the newest one. */
  #contactMs: number | undefined;

  constructor(options: RemoteTreeOptions) {
    this.#options = options;
    this.#voterIds = options.firstVoterIds;
    this.#loop = new PacedLoop({
      clock: options.clock,
      idleMs: VIEW_INTERVAL_MS,
      busyMs: VIEW_INTERVAL_MS,
      work: (signal) => this.linearize({ signal }).then(() => "idle" as const),
      onError: options.onError,
    });
  }

  start(): void {
    this.#loop.start();
  }

  stop(): Promise<void> {
    return this.#loop.stop();
  }

  get memberId(): number {
    return this.#options.memberId;
  }

  async propose(body: CommandBody, options: ProposeOptions = {}): Promise<CommandResult> {
    const { clock, feed } = this.#options;
    const { requestId = "", timeoutMs = VOTER_ASK_TIMEOUT_MS, signal } = options;
    checkProposable(this.reader(), body);
    const deadlineMs = requestId === "" ? 0 : clusterTime(this.reader()) + REQUEST_RETENTION_MS;
    const command = encodeCommand({ requestId, deadlineMs, wallTimeMs: clock.wallMs(), body });
    return decodeResult(await feed.propose(command, { timeoutMs, signal }));
  }

  async linearize({
    signal,
  }: {
    readonly timeoutMs?: number | undefined;
    readonly signal?: AbortSignal | undefined;
  } = {}): Promise<void> {
    const { clock, feed, store } = this.#options;
    const askedMs = clock.monotonicMs();
    const knownDigest = this.#recordsDigest;
    const view = await feed.view(knownDigest, signal);
    this.#contactMs = Math.max(this.#contactMs ?? askedMs, askedMs);
    // Answers to questions that were asked at once may come in any order.
    if (view.appliedIndex < this.#appliedIndex) return;
    if (view.records === undefined && this.#recordsDigest !== knownDigest) return;
    installView(store, view.counters, view.records);
    this.#recordsDigest = view.recordsDigest;
    this.#appliedIndex = view.appliedIndex;
    this.#leaderId = view.leaderId;
    this.#voterIds = view.voterIds;
    this.#term = view.term;
    await store.flush();
    for (const listener of this.#listeners) listener(view.appliedIndex);
  }

  reader(): OrderedReader {
    return this.#options.store;
  }

  appliedIndex(): number {
    return this.#appliedIndex;
  }

  leaderId(): number | undefined {
    return this.#leaderId;
  }

  onApplied(listener: (appliedIndex: number) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Who votes, as told last. */
  voterIds(): readonly number[] {
    return this.#voterIds;
  }

  /** Raft term, as told last. */
  term(): number {
    return this.#term;
  }

  /** Whether a voter answered of late: only then may this node serve. */
  isInContact(): boolean {
    const { clock } = this.#options;
    return this.#contactMs !== undefined && clock.monotonicMs() - this.#contactMs < VOTER_CONTACT_MS_MAX;
  }

  /** Cluster time at least as late as any voter knows it, as long as clocks agree; undefined before the first answer. */
  clusterTimeMs(): number | undefined {
    if (this.#contactMs === undefined || clusterInfo(this.reader()) === undefined) return undefined;
    return clusterTime(this.reader()) + (this.#options.clock.monotonicMs() - this.#contactMs);
  }
}
