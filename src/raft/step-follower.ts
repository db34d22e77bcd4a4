/**
 * What a follower does with a message of its term.
 *
 * An append is taken only where the entry before it matches (Raft 5.3); a late or repeated one changes nothing. Requests
 * for the leader are passed on only if they were made here: a member that asks the wrong node is told by silence, so that
 * every message carries the identity of the node that sent it.
 */
import { entriesLost, historiesDiffer } from "./history-error.ts";
import { ACCEPTED, dropped, type ProposeOutcome } from "./outcome.ts";
import type { RaftContext } from "./raft-context.ts";
import { NO_MEMBER, type LogEntry, type Message } from "./types.ts";

/** Takes one message. */
export function stepFollower(raft: RaftContext, message: Message): ProposeOutcome {
  // oxlint-disable-next-line typescript/switch-exhaustiveness-check -- every other kind means nothing to a follower
  switch (message.kind) {
    case "propose":
      return forward(raft, message, raft.options.forwardProposals);
    case "read-index":
      return forward(raft, message, true);
    case "append":
      heardFromLeader(raft, message);
      takeAppend(raft, message);
      return ACCEPTED;
    case "heartbeat":
      heardFromLeader(raft, message);
      takeCommit(raft, message.commitIndex);
      raft.send({ kind: "heartbeat-response", to: message.from, context: message.context });
      askToMend(raft);
      return ACCEPTED;
    case "snapshot":
      heardFromLeader(raft, message);
      takeSnapshot(raft, message);
      return ACCEPTED;
    case "mend-response":
      raft.mending?.aim(raft.term, message.index, message.context);
      return ACCEPTED;
    case "forget-leader":
      // The election timer keeps running: forgetting allows voting for another, it does not ask for an election.
      raft.leaderId = NO_MEMBER;
      return ACCEPTED;
    case "timeout-now":
      // The leader wants this election, so there is no need to ask first (thesis 3.10).
      raft.startElection("transfer");
      return ACCEPTED;
    case "read-index-response":
      raft.readStates.push({ index: message.index, context: message.context });
      return ACCEPTED;
    default:
      return ACCEPTED;
  }
}

function heardFromLeader(raft: RaftContext, message: Message): void {
  raft.electionElapsed = 0;
  raft.leaderId = message.from;
}

/** While the log is being repaired: tells the leader what is here, and asks how far its log reaches. */
function askToMend(raft: RaftContext): void {
  if (raft.mending === undefined) return;
  const { nonce: context } = raft.mending;
  raft.send({ kind: "mend", to: raft.leaderId, index: raft.log.stableIndex, context });
}

function forward(raft: RaftContext, message: Message, isAllowed: boolean): ProposeOutcome {
  if (raft.leaderId === NO_MEMBER) return dropped("no-leader");
  const isOwn = message.from === NO_MEMBER || message.from === raft.id;
  if (!isAllowed || !isOwn) return dropped("not-leader");
  raft.send({
    kind: message.kind,
    to: raft.leaderId,
    entries: message.entries,
    context: message.context,
  });
  return ACCEPTED;
}

/** Takes over how far a leader says that what it and this member share is committed. */
function takeCommit({ log, mending, term }: RaftContext, commitIndex: number): void {
  // The leader may still believe what was acknowledged before the damage.
  const index = Math.min(commitIndex, mending?.matchedIn(term) ?? commitIndex);
  if (index > log.lastIndex) throw entriesLost(index, log.lastIndex);
  log.commitTo(index);
}

/** Every leader has everything that is committed (Raft 5.4, leader completeness): ends where one has another entry there. */
function refuseOtherHistory({ log }: RaftContext, { index, logTerm }: Message): void {
  if (index > log.commitIndex) return;
  const ownTerm = log.findTerm(index);
  if (ownTerm !== undefined && ownTerm !== logTerm) throw historiesDiffer(index, ownTerm, logTerm);
}

function takeAppend(raft: RaftContext, message: Message): void {
  const { log } = raft;
  if (takeFaultyAppend(raft, message)) return;
  refuseOtherHistory(raft, message);
  if (message.index < log.commitIndex) {
    // Everything committed matches anyway: tell the leader how far that is.
    raft.mending?.matched(raft.term, log.commitIndex);
    raft.send({ kind: "append-response", to: message.from, index: log.commitIndex });
    return;
  }
  const matched = log.maybeAppend(message.index, message.logTerm, message.entries, message.commitIndex);
  if (matched !== undefined) {
    raft.mending?.matched(raft.term, matched);
    raft.send({ kind: "append-response", to: message.from, index: matched });
    return;
  }
  // Guess where the logs may agree: no entry of a term above the leader's at that index can (Raft 5.3, last paragraph).
  const hint = log.findConflictByTerm(Math.min(message.index, log.lastIndex), message.logTerm);
  raft.send({
    kind: "append-response",
    to: message.from,
    index: message.index,
    reject: true,
    rejectHint: hint.index,
    logTerm: hint.term,
  });
  // A leader that believes an acknowledgement from before the damage takes the refusal for an old one.
  askToMend(raft);
}

function takeSnapshot(raft: RaftContext, message: Message): void {
  const taken = message.snapshot !== undefined && raft.restore(message.snapshot);
  // Refused or old: say what is committed, which the leader may take as matched.
  const index = taken ? raft.log.lastIndex : raft.log.commitIndex;
  raft.mending?.matched(raft.term, index);
  raft.send({ kind: "append-response", to: message.from, index });
}

/** The planted faults of a follower's append; false when none applies. */
function takeFaultyAppend(raft: RaftContext, message: Message): boolean {
  const { log } = raft;
  const { lastIndex } = log;
  if (raft.hasFault("append-after-zero-accepted") && message.index === 0) {
    const entries = message.entries.map((entry, i): LogEntry => ({ ...entry, index: lastIndex + 1 + i }));
    log.append(entries);
    raft.send({ kind: "append-response", to: message.from, index: log.lastIndex });
    return true;
  }
  if (raft.hasFault("empty-append-for-snapshot") && message.entries.length === 0 && message.logTerm === 0) {
    log.commitTo(Math.min(message.commitIndex, lastIndex));
    raft.send({ kind: "append-response", to: message.from, index: Math.min(message.index, lastIndex) });
    return true;
  }
  if (raft.hasFault("append-in-two-steps") && message.entries.length > 0) {
    // The storage deletes and writes in two steps; here what follows the place of the append is forgotten, and sent there.
    const isTaken = message.index >= log.commitIndex && log.matchesTerm(message.index, message.logTerm);
    if (isTaken) log.append(message.entries);
    return false;
  }
  if (raft.hasFault("commit-not-capped") && log.matchesTerm(message.index, message.logTerm)) {
    log.commitTo(Math.min(message.commitIndex, lastIndex));
  }
  if (raft.hasFault("commit-moves-back") && message.index + message.entries.length < log.commitIndex) {
    const index = message.index + message.entries.length;
    log.forceCommitForPlantedFault(Math.min(message.commitIndex, index));
    raft.send({ kind: "append-response", to: message.from, index });
    return true;
  }
  return false;
}
