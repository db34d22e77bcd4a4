/**
 * RaftTransport over gRPC: one long-lived stream to each peer, unary votes, streamed snapshots.
 *
 *   send() -> queue of the peer -> frames of up to RAFT_FRAME_SIZE_BYTES_MAX -> RaftService.Stream
 *
 * Raft wants the newest messages, not all of them: when a queue is full, or its stream breaks, what waits is dropped and the
 * core is told, which then probes. A stream is opened by the first message and again after a break, no sooner than
 * RECONNECT_BACKOFF_MS_MIN. Incoming messages are raft-service.ts's.
 */
import { encodeMessage, encodeStateHash, type StateHash } from "../consensus/codec.ts";
import type { PeerHandler, RaftTransport } from "../consensus/transport.ts";
import { DriveError } from "../drive/errors.ts";
import type { MemberId, Message, MessageKind } from "../raft/types.ts";
import { must } from "../std/assert.ts";
import { sleep, type Clock } from "../std/clock.ts";
import { endOfTurn } from "../std/turn.ts";
import { deferred, type Deferred } from "../std/deferred.ts";
import type { Logger } from "../telemetry/logger.ts";
import { toBigint } from "../contract/codec.ts";
import {
  RAFT_FRAME_SIZE_BYTES_MAX,
  RAFT_QUEUE_BYTES_MAX,
  RAFT_QUEUE_COUNT_MAX,
  RECONNECT_BACKOFF_MS_MIN,
  SNAPSHOT_TIMEOUT_MS,
  VOTE_TIMEOUT_MS,
} from "./limits.ts";
import type { PeerClients } from "./peer-clients.ts";

/** Kinds that go past the queue: an election must not wait behind a backlog of log entries. */
const VOTE_KINDS: ReadonlySet<MessageKind> = new Set<MessageKind>([
  "vote",
  "vote-response",
  "pre-vote",
  "pre-vote-response",
]);

/** What a transport needs. */
export interface RaftTransportOptions {
  readonly clients: PeerClients;
  readonly clock: Clock;
  readonly logger: Logger;
}

interface Frame {
  messages: Uint8Array[];
  stateHashes: Uint8Array[];
}

interface Queued {
  readonly kind: "messages" | "stateHashes";
  readonly bytes: Uint8Array;
}

/** The stream to one peer and what waits for it. */
class RaftLink {
  readonly #memberId: MemberId;
  readonly #options: RaftTransportOptions;
  readonly #handler: PeerHandler;
  readonly #stop = new AbortController();
  #queue: Queued[] = [];
  #queuedBytes = 0;
  #wake: Deferred<void> | undefined;

  constructor(memberId: MemberId, options: RaftTransportOptions, handler: PeerHandler) {
    this.#memberId = memberId;
    this.#options = options;
    this.#handler = handler;
    void this.#run();
  }

  /** Queues one encoded message; drops it and says so when the queue is full. */
  offer(queued: Queued): void {
    const full =
      this.#queue.length >= RAFT_QUEUE_COUNT_MAX ||
      (this.#queue.length > 0 && this.#queuedBytes + queued.bytes.length > RAFT_QUEUE_BYTES_MAX);
    if (full) {
      this.#handler.peerUnreachable(this.#memberId);
      return;
    }
    this.#queue.push(queued);
    this.#queuedBytes += queued.bytes.length;
    this.#wake?.resolve();
  }

  stop(): void {
    this.#stop.abort(new DriveError("NODE_STOPPING", "The transport is stopped."));
    this.#wake?.resolve();
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await this.#waitForMessages();
      if (signal.aborted) return;
      await this.#stream();
      if (signal.aborted) return;
      this.#dropAll();
      this.#handler.peerUnreachable(this.#memberId);
      this.#handler.peerDisconnected(this.#memberId);
      await sleep(this.#options.clock, RECONNECT_BACKOFF_MS_MIN, signal).catch(() => undefined);
    }
  }

  async #waitForMessages(): Promise<void> {
    while (this.#queue.length === 0 && !this.#stop.signal.aborted) {
      this.#wake = deferred<void>();
      await this.#wake.promise;
    }
  }

  /** Runs one stream until it ends, for whatever reason. */
  async #stream(): Promise<void> {
    const ended = new AbortController();
    const signal = AbortSignal.any([this.#stop.signal, ended.signal]);
    signal.addEventListener("abort", () => this.#wake?.resolve(), { once: true });
    try {
      const client = this.#options.clients.get(this.#memberId);
      const options = { signal, lostReason: "PEER_UNREACHABLE" as const };
      // The answers say how much arrived; that the stream stands is all that matters here.
      for await (const _ of client.raft.stream(this.#frames(signal), options)) continue;
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      const reason = error instanceof DriveError ? error.reason : "INTERNAL";
      this.#options.logger.debug("raft_stream_ended", {
        peer: this.#memberId,
        reason,
        message: String(error),
      });
    } finally {
      ended.abort();
    }
  }

  async *#frames(signal: AbortSignal): AsyncIterable<Frame> {
    while (!signal.aborted) {
      if (this.#queue.length > 0) {
        yield this.#nextFrame();
        continue;
      }
      this.#wake = deferred<void>();
      await this.#wake.promise;
      // What Raft sends in the same turn of the event loop goes along in one frame.
      await endOfTurn();
    }
  }

  #nextFrame(): Frame {
    const frame: Frame = { messages: [], stateHashes: [] };
    let sizeBytes = 0;
    let count = 0;
    for (const { kind, bytes } of this.#queue) {
      if (count > 0 && sizeBytes + bytes.length > RAFT_FRAME_SIZE_BYTES_MAX) break;
      frame[kind].push(bytes);
      sizeBytes += bytes.length;
      count += 1;
    }
    this.#queue = this.#queue.slice(count);
    this.#queuedBytes -= sizeBytes;
    return frame;
  }

  #dropAll(): void {
    this.#queue = [];
    this.#queuedBytes = 0;
  }
}

/** Sends Raft messages to peers; attach() a handler before the first send(). */
export class GrpcRaftTransport implements RaftTransport {
  readonly #options: RaftTransportOptions;
  readonly #links = new Map<MemberId, RaftLink>();
  #handler: PeerHandler | undefined;
  #stopped = false;

  constructor(options: RaftTransportOptions) {
    this.#options = { ...options, logger: options.logger.child("rpc") };
  }

  /** Names who hears of lost messages and broken connections. Once, before anything is sent. */
  attach(handler: PeerHandler): void {
    this.#handler = handler;
  }

  send(messages: readonly Message[]): void {
    if (this.#stopped) return;
    for (const message of messages) {
      const bytes = encodeMessage(message);
      if (VOTE_KINDS.has(message.kind)) void this.#vote(message.to, bytes);
      else this.#link(message.to).offer({ kind: "messages", bytes });
    }
  }

  sendStateHash(to: MemberId, stateHash: StateHash): void {
    if (this.#stopped) return;
    this.#link(to).offer({ kind: "stateHashes", bytes: encodeStateHash(stateHash) });
  }

  async sendSnapshot(
    message: Message,
    pieces: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<void> {
    const client = this.#options.clients.get(message.to);
    const options = { signal, timeoutMs: SNAPSHOT_TIMEOUT_MS, lostReason: "PEER_UNREACHABLE" as const };
    await client.bulkRaft.installSnapshot(snapshotFrames(message, pieces), options);
  }

  /** Ends every stream; later messages are dropped. Idempotent. */
  stop(): void {
    this.#stopped = true;
    for (const link of this.#links.values()) link.stop();
    this.#links.clear();
  }

  #link(to: MemberId): RaftLink {
    const known = this.#links.get(to);
    if (known !== undefined) return known;
    const handler = must(this.#handler, "attach() comes before send()");
    const link = new RaftLink(to, this.#options, handler);
    this.#links.set(to, link);
    return link;
  }

  async #vote(to: MemberId, message: Uint8Array): Promise<void> {
    try {
      const client = this.#options.clients.get(to);
      await client.raft.vote({ message }, { timeoutMs: VOTE_TIMEOUT_MS, lostReason: "PEER_UNREACHABLE" });
    } catch (error) {
      if (this.#stopped) return;
      // A lost vote costs an election round at most, which the core repeats by its own timers.
      this.#options.logger.debug("vote_lost", { peer: to, message: String(error) });
      this.#handler?.peerUnreachable(to);
    }
  }
}

async function* snapshotFrames(
  message: Message,
  pieces: AsyncIterable<Uint8Array>,
): AsyncIterable<{ message?: Uint8Array; offset?: bigint; data?: Uint8Array; finish?: boolean }> {
  yield { message: encodeMessage(message) };
  let offset = 0;
  for await (const data of pieces) {
    yield { offset: toBigint(offset), data };
    offset += data.length;
  }
  yield { offset: toBigint(offset), finish: true };
}
