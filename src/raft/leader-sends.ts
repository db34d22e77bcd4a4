/**
 * What a leader sends: appends, snapshots, heartbeats, and the answers to reads.
 *
 * Members are always visited in the order of their ids. A follower is sent entries only as its Progress allows; when the
 * log no longer reaches back far enough, it is sent a snapshot instead.
 */
import { assert, must } from "../std/assert.ts";
import { payloadSizeBytes } from "./log-entries.ts";
import { ACCEPTED, dropped, type ProposeOutcome } from "./outcome.ts";
import type { Progress } from "./progress.ts";
import type { RaftContext } from "./raft-context.ts";
import type { ReadRequest } from "./read-only.ts";
import { SnapshotTemporarilyUnavailableError, type MemberId, type Snapshot } from "./types.ts";

/** Sends everybody what they lack, or an empty append that tells the commit index. */
export function broadcastAppend(raft: RaftContext): void {
  for (const id of raft.tracker.progress.keys()) {
    if (id !== raft.id) maybeSendAppend(raft, id, true);
  }
}

/** Sends entries to those that lack some and may be sent to; used when the configuration has changed. */
export function sendToNewMembers(raft: RaftContext): void {
  for (const id of raft.tracker.progress.keys()) {
    if (id !== raft.id) maybeSendAppend(raft, id, false);
  }
}

/**
 * Sends one append, or a snapshot, to `to` if its progress allows; returns whether anything was sent.
 * @param sendIfEmpty whether an append without entries is worth sending, to tell the commit index
 */
export function maybeSendAppend(raft: RaftContext, to: MemberId, sendIfEmpty: boolean): boolean {
  const progress = must(raft.tracker.progress.get(to), "only members are sent to");
  const isFlowIgnored = raft.hasFault("flow-not-paused") && progress.state === "replicate";
  if (progress.isPaused && !isFlowIgnored) return false;
  const prevIndex = progress.nextIndex - 1;
  const prevTerm = raft.log.findTerm(prevIndex);
  if (prevTerm === undefined) {
    if (!raft.hasFault("empty-append-for-snapshot")) return sendSnapshot(raft, to, progress);
    if (sendIfEmpty) raft.send({ kind: "append", to, index: prevIndex, commitIndex: raft.log.commitIndex });
    return false;
  }
  // A full window lets an empty message through now and then: its answer frees the window when all in it was lost.
  const isFull = progress.state === "replicate" && progress.inflights.isFull;
  const entries = isFull ? [] : raft.log.findEntries(progress.nextIndex, raft.options.entriesSizeBytesMax);
  if (entries === undefined) return sendSnapshot(raft, to, progress);
  if (entries.length === 0 && !sendIfEmpty) return false;
  const { commitIndex } = raft.log;
  raft.send({ kind: "append", to, index: prevIndex, logTerm: prevTerm, entries, commitIndex });
  progress.sentEntries(entries.length, payloadSizeBytes(entries));
  progress.sentCommit(commitIndex);
  if (isFlowIgnored) progress.inflights.reset();
  return true;
}

/**
 * Sends what a window that an answer has freed takes, which may be several messages. As long as one of them is in flight its answer
 * comes here again, so a bound delays nothing for good: the window of a follower that is far behind fills by doubling, and no step reads
 * megabytes of small entries at once.
 */
export function sendFreedAppends(raft: RaftContext, to: MemberId): void {
  const { appendsPerAnswerMax = Number.POSITIVE_INFINITY } = raft.options;
  for (let count = 0; count < appendsPerAnswerMax && maybeSendAppend(raft, to, false);) count += 1;
}

/** Sends everybody a heartbeat that carries the newest read round, if reads wait. */
export function broadcastHeartbeat(raft: RaftContext): void {
  const context = raft.readOnly.heartbeatContext();
  // A read that comes in from here on is confirmed only by heartbeats made after it.
  raft.readOnly.closeRound();
  for (const [id, progress] of raft.tracker.progress) {
    if (id === raft.id) continue;
    // Not above matchIndex: the follower may hold other entries there than those that are committed.
    const commitIndex = Math.min(progress.matchIndex, raft.log.commitIndex);
    raft.send({ kind: "heartbeat", to: id, commitIndex, ...(context === undefined ? {} : { context }) });
    progress.sentCommit(commitIndex);
  }
}

/** Tells `to` to campaign at once (thesis 3.10). */
export function sendTimeoutNow(raft: RaftContext, to: MemberId): void {
  raft.send({ kind: "timeout-now", to });
}

/** Begins a read: in the open round, or postponed until this leader has committed in its term. */
export function startRead(raft: RaftContext, request: ReadRequest): ProposeOutcome {
  if (raft.readOnly.isFull) return dropped("reads-full");
  if (!raft.hasCommittedInTerm()) raft.readOnly.postpone(request);
  else if (raft.tracker.isSingleton(raft.id)) raft.answerRead(request, raft.log.commitIndex);
  else raft.readOnly.add(request, raft.log.commitIndex);
  return ACCEPTED;
}

/** Begins the postponed reads once an entry of this term is committed. */
export function releasePostponedReads(raft: RaftContext): void {
  if (!raft.hasCommittedInTerm()) return;
  for (const request of raft.readOnly.takePostponed()) startRead(raft, request);
}

function sendSnapshot(raft: RaftContext, to: MemberId, progress: Progress): boolean {
  // A snapshot is costly: not for somebody who has not been heard from.
  if (!progress.recentActive) return false;
  const snapshot = findSnapshot(raft);
  if (snapshot === undefined) return false;
  assert(snapshot.metadata.index > 0, "the log is cut off but there is no snapshot of what was cut");
  progress.becomeSnapshot(snapshot.metadata.index);
  raft.send({ kind: "snapshot", to, snapshot });
  return true;
}

function findSnapshot(raft: RaftContext): Snapshot | undefined {
  try {
    return raft.log.snapshot();
  } catch (error) {
    // None at hand now; the next heartbeat's answer comes here again.
    if (error instanceof SnapshotTemporarilyUnavailableError) return undefined;
    throw error;
  }
}
