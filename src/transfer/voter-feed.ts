/**
 * What a storage-only node asks of voters: the port, the answers as a voter gives them (TreeFeed), and asking whichever voter
 * answers (AnyVoter).
 *
 *   storage-only node --> AnyVoter --> rpc/assignment-client.ts ~~network~~ rpc/assignment-service.ts --> TreeFeed --> the tree
 *
 * A voter reads the tree only after ReadIndex, so answers of different voters follow each other: what one has told is never unsaid by
 * another that lags. One that cannot confirm that it knows everything gives no answer.
 */
import { throwIfCanceled } from "../cluster/deadline.ts";
import type { MetadataPort } from "../cluster/metadata-port.ts";
import type { Extent, ExtentKey } from "../drive/content.ts";
import type { EntryRef, ReadOptions } from "../drive/drive-api.ts";
import { DriveError, hasReason, type ErrorReason } from "../drive/errors.ts";
import { digestOfRecords, memberView } from "../metadata/member-view.ts";
import type { UnderReplicated } from "../metadata/view.ts";
import {
  TreeAssignments,
  type AssignmentPage,
  type Assignments,
  type ExtentLook,
  type WantedPage,
} from "../replication/assignments.ts";
import { bytesEqual } from "../std/bytes.ts";
import { sleep, type Clock } from "../std/clock.ts";
import type { KeyValue } from "../std/ordered-store.ts";

/** How long a storage-only node tries voters for one answer: longer than an election takes. */
export const VOTER_ASK_TIMEOUT_MS = 10_000;
/** How long one voter may take for an answer. */
export const VOTER_ANSWER_TIMEOUT_MS = 4_000;
/** Pause after no voter answered. */
const ROUND_PAUSE_MS = 200;

/** What says nothing about the question: another voter may answer it. */
const PASSING_REASONS: readonly ErrorReason[] = [
  "NOT_LEADER",
  "NO_LEADER",
  "NODE_STARTING",
  "NODE_STOPPING",
  "PEER_UNREACHABLE",
  "OVERLOADED",
  // Somebody else is at its address now, as after a replacement on the same machine.
  "WRONG_CLUSTER",
];

/** The small part of the state (metadata/member-view.ts) and what consensus knows, at one voter. */
export interface FeedView {
  readonly counters: readonly KeyValue[];
  /** Undefined when the caller has them. */
  readonly records: readonly KeyValue[] | undefined;
  readonly recordsDigest: Uint8Array;
  readonly appliedIndex: number;
  readonly leaderId: number | undefined;
  readonly voterIds: readonly number[];
  readonly term: number;
}

/** A file that a storage-only node may serve. */
export interface OpenedFile {
  readonly ticket: string;
  readonly path: string;
  readonly extents: readonly Extent[];
}

/** What may be asked. Errors: NO_LEADER, PEER_UNREACHABLE, NODE_STARTING, NODE_STOPPING, MEMBER_REMOVED. */
export interface VoterFeed extends Assignments {
  /** @param knownDigest of the records that the caller has; undefined for none */
  view(knownDigest: Uint8Array | undefined, signal?: AbortSignal): Promise<FeedView>;
  /** Errors: PATH_NOT_FOUND, IS_A_DIRECTORY. */
  openFile(ref: EntryRef, options?: ReadOptions): Promise<OpenedFile>;
  /** The encoded result of an encoded command. Errors: COMMIT_OUTCOME_UNKNOWN. */
  propose(
    command: Uint8Array,
    options: { readonly timeoutMs: number; readonly signal?: AbortSignal | undefined },
  ): Promise<Uint8Array>;
}

/** What a voter answers from. */
export interface TreeFeedOptions {
  readonly port: MetadataPort;
  readonly consensus: { voterIds(): readonly number[]; term(): number };
  readonly openFile: (memberId: number, ref: EntryRef, options?: ReadOptions) => Promise<OpenedFile>;
  readonly propose: VoterFeed["propose"];
}

/** The answers of a voter to one storage-only member. */
export class TreeFeed extends TreeAssignments implements VoterFeed {
  readonly #options: TreeFeedOptions;
  readonly #callerId: number;

  /** @param memberId who asks */
  constructor(options: TreeFeedOptions, memberId: number) {
    super(options.port, memberId, true);
    this.#options = options;
    this.#callerId = memberId;
  }

  async view(knownDigest: Uint8Array | undefined, signal?: AbortSignal): Promise<FeedView> {
    const { port, consensus } = this.#options;
    await port.linearize({ signal });
    const { counters, records } = memberView(port.reader());
    const recordsDigest = digestOfRecords(records);
    const isKnown = knownDigest !== undefined && bytesEqual(knownDigest, recordsDigest);
    return {
      counters,
      records: isKnown ? undefined : records,
      recordsDigest,
      appliedIndex: port.appliedIndex(),
      leaderId: port.leaderId(),
      voterIds: consensus.voterIds(),
      term: consensus.term(),
    };
  }

  openFile(ref: EntryRef, options?: ReadOptions): Promise<OpenedFile> {
    return this.#options.openFile(this.#callerId, ref, options);
  }

  propose(
    command: Uint8Array,
    options: { readonly timeoutMs: number; readonly signal?: AbortSignal | undefined },
  ): Promise<Uint8Array> {
    return this.#options.propose(command, options);
  }
}

/** What AnyVoter asks. */
export interface AnyVoterOptions {
  readonly clock: Clock;
  /** Who votes, as far as this node knows; asked anew for each round. */
  readonly voterIds: () => readonly number[];
  /** Undefined while a voter's address is not known. */
  readonly feedOf: (memberId: number) => VoterFeed | undefined;
}

/**
 * Asks one voter after another until one answers, the one that answered last first. Where time was over, the next question goes on: a
 * few that keep silent never hide the others.
 */
export class AnyVoter implements VoterFeed {
  readonly #options: AnyVoterOptions;
  /** Who answered last, or is next. */
  #firstId = 0;

  constructor(options: AnyVoterOptions) {
    this.#options = options;
  }

  view(knownDigest: Uint8Array | undefined, signal?: AbortSignal): Promise<FeedView> {
    return this.#ask(signal, (feed) => feed.view(knownDigest, signal));
  }

  held(after: ExtentKey | undefined, signal?: AbortSignal): Promise<AssignmentPage> {
    return this.#ask(signal, (feed) => feed.held(after, signal));
  }

  wanted(after: UnderReplicated | undefined, signal?: AbortSignal): Promise<WantedPage> {
    return this.#ask(signal, (feed) => feed.wanted(after, signal));
  }

  dropped(signal?: AbortSignal): Promise<readonly ExtentKey[]> {
    return this.#ask(signal, (feed) => feed.dropped(signal));
  }

  async look(
    extents: readonly ExtentKey[],
    options: { readonly fresh: boolean; readonly signal?: AbortSignal | undefined },
  ): Promise<readonly ExtentLook[]> {
    if (extents.length === 0) return [];
    const looks = await this.#ask(options.signal, (feed) => feed.look(extents, options));
    if (looks.length === extents.length) return looks;
    throw new DriveError("INTERNAL", `A voter answered ${looks.length} of ${extents.length} questions.`);
  }

  openFile(ref: EntryRef, options: ReadOptions = {}): Promise<OpenedFile> {
    return this.#ask(options.signal, (feed) => feed.openFile(ref, options));
  }

  propose(
    command: Uint8Array,
    options: { readonly timeoutMs: number; readonly signal?: AbortSignal | undefined },
  ): Promise<Uint8Array> {
    return this.#ask(options.signal, (feed) => feed.propose(command, options), options.timeoutMs);
  }

  async #ask<T>(
    signal: AbortSignal | undefined,
    work: (feed: VoterFeed) => Promise<T>,
    timeoutMs = VOTER_ASK_TIMEOUT_MS,
  ): Promise<T> {
    const { clock, voterIds, feedOf } = this.#options;
    const endMs = clock.monotonicMs() + timeoutMs;
    let last = new DriveError("NO_LEADER", "No voter of the cluster can be reached.");
    for (;;) {
      for (const id of startingAt(this.#firstId, voterIds())) {
        throwIfCanceled(signal);
        if (clock.monotonicMs() >= endMs) {
          this.#firstId = id;
          break;
        }
        const feed = feedOf(id);
        if (feed === undefined) continue;
        try {
          const answer = await work(feed);
          this.#firstId = id;
          return answer;
        } catch (error) {
          if (!hasReason(error, ...PASSING_REASONS)) throw error;
          last = error;
        }
      }
      // That one voter cannot be reached says nothing to who asked this node.
      if (clock.monotonicMs() + ROUND_PAUSE_MS >= endMs) throw noVoter(last);
      await sleep(clock, ROUND_PAUSE_MS, signal);
    }
  }
}

function startingAt(id: number, ids: readonly number[]): readonly number[] {
  const at = Math.max(0, ids.indexOf(id));
  return [...ids.slice(at), ...ids.slice(0, at)];
}

function noVoter(last: DriveError): DriveError {
  if (last.reason === "NO_LEADER" || last.reason === "OVERLOADED") return last;
  return new DriveError("NO_LEADER", `No voter of the cluster answers: ${last.message}`, {}, last);
}
