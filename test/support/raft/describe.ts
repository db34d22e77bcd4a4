/**
 * Text for messages, entries and batches in the layout that etcd-io/raft's scenario files use, so that our nodes can be
 * compared with theirs.
 *
 * Our membership changes have one kind of entry where etcd has two; a change that was proposed in the old form says so in
 * its context (see V1_CONTEXT), and nothing else depends on that.
 */
import { decodeConfChange } from "../../../src/raft/conf-change-codec.ts";
import type { ProgressView } from "../../../src/raft/progress.ts";
import type { Ready } from "../../../src/raft/raft-node.ts";
import {
  LOCAL_APPEND_THREAD,
  LOCAL_APPLY_THREAD,
  NO_MEMBER,
  type ConfChangeStep,
  type ConfState,
  type HardState,
  type LogEntry,
  type MemberId,
  type Message,
  type MessageKind,
  type Role,
  type Snapshot,
} from "../../../src/raft/types.ts";
import { bytesEqual, utf8 } from "../../../src/std/bytes.ts";
import { readNumber } from "./datadriven.ts";

/** Context of a change that was proposed with v1=true. */
export const V1_CONTEXT = utf8("v1");

/** etcd's names of messages. */
const MESSAGE_NAMES: Readonly<Record<MessageKind, string>> = {
  hup: "MsgHup",
  beat: "MsgBeat",
  unreachable: "MsgUnreachable",
  "snapshot-status": "MsgSnapStatus",
  "check-quorum": "MsgCheckQuorum",
  "storage-append": "MsgStorageAppend",
  "storage-append-response": "MsgStorageAppendResp",
  "storage-apply": "MsgStorageApply",
  "storage-apply-response": "MsgStorageApplyResp",
  propose: "MsgProp",
  append: "MsgApp",
  "append-response": "MsgAppResp",
  vote: "MsgVote",
  "vote-response": "MsgVoteResp",
  "pre-vote": "MsgPreVote",
  "pre-vote-response": "MsgPreVoteResp",
  snapshot: "MsgSnap",
  heartbeat: "MsgHeartbeat",
  "heartbeat-response": "MsgHeartbeatResp",
  "transfer-leader": "MsgTransferLeader",
  "timeout-now": "MsgTimeoutNow",
  "read-index": "MsgReadIndex",
  "read-index-response": "MsgReadIndexResp",
  mend: "MsgMend",
  "mend-response": "MsgMendResp",
  "forget-leader": "MsgForgetLeader",
};

const ROLE_NAMES: Readonly<Record<Role, string>> = {
  follower: "StateFollower",
  "pre-candidate": "StatePreCandidate",
  candidate: "StateCandidate",
  leader: "StateLeader",
};

const PROGRESS_NAMES = {
  probe: "StateProbe",
  replicate: "StateReplicate",
  snapshot: "StateSnapshot",
} as const;

const STEP_LETTERS = { "add-voter": "v", "add-learner": "l", remove: "r", update: "u" } as const;

/** Kinds that tell a commit index here and do not in etcd; it is not printed. */
const VOTE_KINDS: ReadonlySet<MessageKind> = new Set<MessageKind>([
  "vote",
  "vote-response",
  "pre-vote",
  "pre-vote-response",
]);

/** etcd's name of a message kind. */
export function messageName(kind: MessageKind): string {
  return MESSAGE_NAMES[kind];
}

/** Whether etcd has messages of that name. */
export function isMessageName(name: string): boolean {
  return Object.values(MESSAGE_NAMES).includes(name);
}

/** etcd's name of a role. */
export function roleName(role: Role): string {
  return ROLE_NAMES[role];
}

/** The steps that a text like "v1 l2 r3 u4" stands for. */
export function parseSteps(text: string): ConfChangeStep[] {
  const words = text.split(/\s+/).filter((word) => word !== "");
  return words.map((word) => {
    if (!/^[vlru]\d+$/.test(word)) throw new Error(`not a step: ${word}`);
    const memberId = readNumber(word.slice(1));
    for (const kind of ["add-voter", "add-learner", "remove", "update"] as const) {
      if (word.startsWith(STEP_LETTERS[kind])) return { kind, memberId };
    }
    throw new Error(`not a step: ${word}`);
  });
}

/** "1/12 EntryNormal "data"". */
export function describeEntry(entry: LogEntry): string {
  const at = `${entry.term}/${entry.index}`;
  if (entry.kind === "normal")
    return `${at} EntryNormal ${JSON.stringify(Buffer.from(entry.data).toString())}`;
  const change = decodeConfChange(entry.data);
  const name = bytesEqual(change.context, V1_CONTEXT) ? "EntryConfChange" : "EntryConfChangeV2";
  const steps = change.steps.map((step) => `${STEP_LETTERS[step.kind]}${step.memberId}`);
  return [at, name, ...steps].join(" ");
}

/** One message; several lines when it carries several entries, a snapshot or responses. */
export function describeMessage(message: Message, indent = ""): string {
  let text = `${indent}${target(message.from)}->${target(message.to)} ${MESSAGE_NAMES[message.kind]}`;
  text += ` Term:${message.term} Log:${message.logTerm}/${message.index}`;
  if (message.reject) text += ` Rejected (Hint: ${message.rejectHint})`;
  if (message.commitIndex !== 0 && !VOTE_KINDS.has(message.kind)) text += ` Commit:${message.commitIndex}`;
  if (message.votedFor !== NO_MEMBER) text += ` Vote:${message.votedFor}`;
  const entries = message.entries.map(describeEntry);
  if (entries.length === 1) text += ` Entries:[${entries[0]}]`;
  else if (entries.length > 1) {
    text += ` Entries:[${entries.map((entry) => `\n${indent}  ${entry}`).join("")}\n${indent}]`;
  }
  if (message.snapshot !== undefined) text += `\n${indent}  Snapshot: ${describeSnapshot(message.snapshot)}`;
  if (message.responses.length > 0) {
    const responses = message.responses.map((response) => `\n${describeMessage(response, `${indent}  `)}`);
    text += ` Responses:[${responses.join("")}\n${indent}]`;
  }
  return text;
}

/** A batch of work. */
export function describeReady(ready: Ready): string {
  const lines: string[] = [];
  if (ready.softState !== undefined) {
    lines.push(`Lead:${ready.softState.leaderId} State:${ROLE_NAMES[ready.softState.role]}`);
  }
  if (ready.hardState !== undefined) lines.push(`HardState ${describeHardState(ready.hardState)}`);
  for (const read of ready.readStates)
    lines.push(`ReadState ${Buffer.from(read.context).toString()} ${read.index}`);
  if (ready.entries.length > 0) lines.push("Entries:", ...ready.entries.map(describeEntry));
  if (ready.snapshot !== undefined) lines.push(`Snapshot ${describeSnapshot(ready.snapshot)}`);
  if (ready.committedEntries.length > 0) {
    lines.push("CommittedEntries:", ...ready.committedEntries.map(describeEntry));
  }
  if (ready.messages.length > 0) {
    lines.push("Messages:", ...ready.messages.map((message) => describeMessage(message)));
  }
  if (lines.length === 0) return "<empty Ready>";
  return [`Ready MustSync=${ready.mustSync}:`, ...lines].join("\n");
}

/** "StateReplicate match=1 next=2 …". */
export function describeProgress(progress: ProgressView): string {
  let text = `${PROGRESS_NAMES[progress.state]} match=${progress.matchIndex} next=${progress.nextIndex}`;
  if (progress.isLearner) text += " learner";
  if (progress.isPaused) text += " paused";
  if (progress.pendingSnapshotIndex > 0) text += ` pendingSnap=${progress.pendingSnapshotIndex}`;
  if (!progress.recentActive) text += " inactive";
  if (progress.inflightCount > 0) text += ` inflight=${progress.inflightCount}`;
  if (progress.inflightCount > 0 && progress.inflightFull) text += "[full]";
  return text;
}

/** "voters=(1 2)&&(1) learners=(3) learners_next=(1) autoleave". */
export function describeConfig(config: ConfState): string {
  let text = `voters=(${config.voters.join(" ")})`;
  if (config.votersOutgoing.length > 0) text += `&&(${config.votersOutgoing.join(" ")})`;
  if (config.learners.length > 0) text += ` learners=(${config.learners.join(" ")})`;
  if (config.learnersNext.length > 0) text += ` learners_next=(${config.learnersNext.join(" ")})`;
  if (config.autoLeave) text += " autoleave";
  return text;
}

function describeHardState(state: HardState): string {
  const vote = state.votedFor === NO_MEMBER ? "" : ` Vote:${state.votedFor}`;
  return `Term:${state.term}${vote} Commit:${state.commitIndex}`;
}

function describeSnapshot(snapshot: Snapshot): string {
  const { index, term, confState } = snapshot.metadata;
  const lists = [
    `Voters:[${confState.voters.join(" ")}]`,
    `VotersOutgoing:[${confState.votersOutgoing.join(" ")}]`,
    `Learners:[${confState.learners.join(" ")}]`,
    `LearnersNext:[${confState.learnersNext.join(" ")}]`,
  ];
  return `Index:${index} Term:${term} ConfState:${lists.join(" ")} AutoLeave:${confState.autoLeave}`;
}

function target(id: MemberId): string {
  if (id === NO_MEMBER) return "None";
  if (id === LOCAL_APPEND_THREAD) return "AppendThread";
  if (id === LOCAL_APPLY_THREAD) return "ApplyThread";
  return id.toString(16);
}
