/**
 * What a leader does with a message.
 *
 * Messages of its own term only; terms were compared before. Messages of somebody who is not in the configuration are
 * ignored. Answers may be late, repeated or reordered: each is compared with the follower's progress first.
 */
import { changeConfig, isJoint, transitionOf } from "./conf-change.ts";
import { findConfChange } from "./conf-change-codec.ts";
import {
  broadcastAppend,
  broadcastHeartbeat,
  maybeSendAppend,
  releasePostponedReads,
  sendFreedAppends,
  sendTimeoutNow,
  startRead,
} from "./leader-sends.ts";
import { NO_BYTES } from "./message.ts";
import { ACCEPTED, dropped, type ProposeOutcome } from "./outcome.ts";
import type { Progress } from "./progress.ts";
import type { RaftContext } from "./raft-context.ts";
import { NO_MEMBER, type LogEntry, type Message } from "./types.ts";

/** Takes one message of the leader's term. */
export function stepLeader(raft: RaftContext, message: Message): ProposeOutcome {
  // oxlint-disable-next-line typescript/switch-exhaustiveness-check -- all other kinds need a member to be from
  switch (message.kind) {
    case "beat":
      for (const progress of raft.tracker.progress.values()) progress.isResumable = true;
      broadcastHeartbeat(raft);
      return ACCEPTED;
    case "check-quorum":
      checkQuorum(raft);
      return ACCEPTED;
    case "propose":
      return stepProposal(raft, message);
    case "read-index":
      return stepReadIndex(raft, message);
    default:
  }
  const progress = raft.tracker.progress.get(message.from);
  if (progress !== undefined) stepMember(raft, message, progress);
  return ACCEPTED;
}

function stepMember(raft: RaftContext, message: Message, progress: Progress): void {
  // oxlint-disable-next-line typescript/switch-exhaustiveness-check -- every other kind means nothing to a leader
  switch (message.kind) {
    case "append-response":
      progress.recentActive = true;
      if (message.reject) appendRejected(raft, message, progress);
      else appendAcknowledged(raft, message, progress);
      return;
    case "heartbeat-response":
      heartbeatAnswered(raft, message, progress);
      return;
    case "mend":
      progress.recentActive = true;
      progress.loseBehind(message.index);
      // Even an empty one shows the follower how far its log is this one.
      maybeSendAppend(raft, message.from, true);
      raft.send({
        kind: "mend-response",
        to: message.from,
        index: raft.log.lastIndex,
        context: message.context,
      });
      return;
    case "snapshot-status":
      snapshotEnded(message, progress);
      return;
    case "unreachable":
      // Entries sent ahead are probably lost: find out where the follower is before sending more.
      if (progress.state === "replicate") progress.becomeProbe();
      return;
    case "transfer-leader":
      startTransfer(raft, message, progress);
      return;
    default:
  }
}

function checkQuorum(raft: RaftContext): void {
  if (!raft.tracker.isQuorumActive()) {
    raft.becomeFollower(raft.term, NO_MEMBER);
    return;
  }
  for (const [id, progress] of raft.tracker.progress) {
    if (id !== raft.id) progress.recentActive = false;
  }
}

function stepProposal(raft: RaftContext, message: Message): ProposeOutcome {
  if (!raft.tracker.progress.has(raft.id)) return dropped("removed");
  if (raft.leadTransferee !== NO_MEMBER) return dropped("transfer-in-progress");
  const lastIndex = raft.log.lastIndex;
  const pendingConfIndex = raft.pendingConfIndex;
  let isRefused = false;
  const entries = message.entries.map((entry, i) => {
    if (entry.kind !== "conf-change") return entry;
    if (!isConfChangeAllowed(raft, entry)) {
      isRefused = true;
      // The place is kept by an empty entry, so that the entries proposed with it keep theirs.
      return { ...entry, kind: "normal" as const, data: NO_BYTES };
    }
    raft.pendingConfIndex = lastIndex + i + 1;
    return entry;
  });
  if (!raft.appendEntries(entries)) {
    raft.pendingConfIndex = pendingConfIndex;
    return dropped("uncommitted-bytes-full");
  }
  broadcastAppend(raft);
  return isRefused ? dropped("conf-change-refused") : ACCEPTED;
}

/** One change at a time, counted from when it is applied, and only one that can follow the configuration in force. */
function isConfChangeAllowed(raft: RaftContext, entry: LogEntry): boolean {
  if (raft.pendingConfIndex > raft.log.appliedIndex) return false;
  const change = findConfChange(entry.data);
  if (change === undefined) return false;
  const { config } = raft.tracker;
  if (isJoint(config) !== (transitionOf(change) === "leave-joint")) return false;
  return changeConfig(config, change).ok;
}

function stepReadIndex(raft: RaftContext, message: Message): ProposeOutcome {
  const isOwn = message.from === NO_MEMBER || message.from === raft.id;
  if (!isOwn && !raft.tracker.progress.has(message.from)) return dropped("removed");
  return startRead(raft, { from: message.from, context: message.context });
}

/** The logs do not match before the entries sent: go back to where they may (Raft 5.3, last paragraph). */
function appendRejected(raft: RaftContext, message: Message, progress: Progress): void {
  // The follower has named its term at the hint; our log may rule out more than it could.
  const hint =
    message.logTerm > 0
      ? raft.log.findConflictByTerm(message.rejectHint, message.logTerm).index
      : message.rejectHint;
  if (!progress.maybeDecrease(message.index, hint)) return;
  if (progress.state === "replicate") progress.becomeProbe();
  maybeSendAppend(raft, message.from, true);
}

function appendAcknowledged(raft: RaftContext, message: Message, progress: Progress): void {
  // Nobody can hold more than this leader has sent in its term.
  if (message.index > raft.log.lastIndex) return;
  // An answer that repeats matchIndex still shows a probed follower to be reachable.
  const isProbeAnswered = progress.state === "probe" && progress.matchIndex === message.index;
  if (!progress.maybeUpdate(message.index) && !isProbeAnswered) return;
  if (progress.state === "probe") progress.becomeReplicate();
  else if (progress.state === "replicate") progress.inflights.freeTo(message.index);
  else if (progress.matchIndex + 1 >= raft.log.firstIndex) {
    // Whatever snapshot it took, the log reaches it from here on.
    progress.becomeProbe();
    progress.becomeReplicate();
  }

  if (raft.maybeCommit()) {
    releasePostponedReads(raft);
    broadcastAppend(raft);
  } else if (message.from !== raft.id && progress.canBumpCommit(raft.log.commitIndex)) {
    maybeSendAppend(raft, message.from, true);
  }
  if (message.from === raft.id) return;
  sendFreedAppends(raft, message.from);
  if (message.from === raft.leadTransferee && progress.matchIndex === raft.log.lastIndex) {
    sendTimeoutNow(raft, message.from);
  }
}

function heartbeatAnswered(raft: RaftContext, message: Message, progress: Progress): void {
  progress.recentActive = true;
  // A follower that was paused answers all heartbeats that waited for it at once: an append for each would bury both.
  if (progress.isResumable) {
    progress.isResumable = false;
    progress.flowPaused = false;
    // Lacking entries, or a probe whose answer was lost. Into a full window this sends an empty append, whose answer frees it.
    if (progress.matchIndex < raft.log.lastIndex || progress.state === "probe") {
      maybeSendAppend(raft, message.from, true);
    }
  }
  if (message.context.length === 0) return;
  const confirmed = raft.readOnly.acknowledge(
    message.from,
    message.context,
    raft.tracker.config,
    raft.id,
    raft.hasFault("read-round-reused"),
  );
  for (const read of confirmed) raft.answerRead(read.request, read.commitIndex);
}

function snapshotEnded(message: Message, progress: Progress): void {
  if (progress.state !== "snapshot") return;
  // After a failure the follower is where it was: forget the snapshot, or the probe would start above it.
  if (message.reject) progress.pendingSnapshotIndex = 0;
  progress.becomeProbe();
  // Success is acknowledged by the follower itself; failure is tried again after a heartbeat.
  progress.flowPaused = true;
}

function startTransfer(raft: RaftContext, message: Message, progress: Progress): void {
  const transferee = message.from;
  if (progress.isLearner || transferee === raft.leadTransferee) return;
  raft.leadTransferee = NO_MEMBER;
  if (transferee === raft.id) return;
  // It has one election timeout to succeed.
  raft.electionElapsed = 0;
  raft.leadTransferee = transferee;
  if (progress.matchIndex === raft.log.lastIndex) sendTimeoutNow(raft, transferee);
  else maybeSendAppend(raft, transferee, true);
}
