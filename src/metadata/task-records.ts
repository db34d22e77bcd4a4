/** Records and commands of tasks: what is kept of each (drive/task.ts), how many there are, and the codecs of both. */
import type { Task, TaskKind, TaskState } from "../drive/task.ts";
import { TASK_KINDS, TASK_STATES } from "../drive/task.ts";
import {
  bool,
  bytes,
  inner,
  message,
  oneOf,
  optionalInner,
  repeatedInner,
  repeatedUint,
  text,
  uint,
  type Codec,
} from "./wire.ts";

/** The plain SHA-256 of a content, found out afterwards. */
export interface Sha256Finding {
  readonly contentId: number;
  readonly sha256: Uint8Array;
}

/** What a task found out about files. */
export interface TaskFindings {
  readonly sha256s: readonly Sha256Finding[];
}

/** No findings. */
export const NO_FINDINGS: TaskFindings = { sha256s: [] };

/** A run of the change feed for which upload tasks are made: commands after `afterIndex`, up to `throughIndex`. */
export interface PlannedRun {
  readonly afterIndex: number;
  readonly throughIndex: number;
}

/** Who works on a task, under which claim. */
export interface TaskHold {
  readonly taskId: number;
  readonly fence: number;
}

/** A copy that a member is to make. */
export interface Assignment {
  readonly contentId: number;
  readonly extentIndex: number;
  readonly memberId: number;
  /** Member whose copy goes afterwards; 0 for none. */
  readonly replacesMemberId: number;
}

/** What commands do to tasks. */
export type TaskCommandBody =
  /**
   * Makes a task, or finds the one with the same kind and key that has not failed or been cancelled. With `plan` it also moves the
   * checkpoint of the planner, which must be at `afterIndex`; without parameters then, only the checkpoint moves.
   */
  | {
      readonly kind: "create-task";
      readonly taskKind: TaskKind;
      readonly key: string;
      readonly parameters: Uint8Array;
      readonly plan: PlannedRun | undefined;
    }
  /** Gives a task that is due, or whose claim has expired, to a member for `leaseMs`. Answers it with a new fence. */
  | {
      readonly kind: "claim-task";
      readonly taskId: number;
      readonly memberId: number;
      readonly leaseMs: number;
    }
  /** Lengthens a claim, and records progress and what was found about files so far. */
  | {
      readonly kind: "renew-task";
      readonly hold: TaskHold;
      readonly leaseMs: number;
      readonly doneCount: number;
      readonly totalCount: number;
      readonly findings: TaskFindings;
    }
  /** Ends a task well. */
  | { readonly kind: "finish-task"; readonly hold: TaskHold; readonly result: Uint8Array }
  /** Ends an attempt badly: the task waits for the next one, or has failed when none is left or `isFinal`. */
  | {
      readonly kind: "fail-task";
      readonly hold: TaskHold;
      readonly reason: string;
      readonly message: string;
      readonly isFinal: boolean;
    }
  /** Gives a claim back without an attempt having been made: its worker stops. */
  | { readonly kind: "release-task"; readonly hold: TaskHold }
  /** A user lets a task that failed or was cancelled be tried anew. */
  | { readonly kind: "retry-task"; readonly taskId: number }
  /** A user ends a task. */
  | { readonly kind: "cancel-task"; readonly taskId: number }
  /**
   * What a task has members do: each item as assign-replica, at most BATCH_ITEM_COUNT_MAX. What is refused is left out, and the
   * answer counts the others.
   */
  | {
      readonly kind: "assign-replicas";
      readonly hold: TaskHold;
      readonly assignments: readonly Assignment[];
    };

type TaskCommandKind = TaskCommandBody["kind"];
type BodyOf<Kind extends TaskCommandKind> = Omit<Extract<TaskCommandBody, { readonly kind: Kind }>, "kind">;

const holdCodec = message<TaskHold>({ taskId: uint(1), fence: uint(2) });

const findingsCodec = message<TaskFindings>({
  sha256s: repeatedInner(1, message<Sha256Finding>({ contentId: uint(1), sha256: bytes(2) })),
});

const taskIdCodec = message<{ readonly taskId: number }>({ taskId: uint(1) });

/** Field number in the command and codec of every kind. Numbers never change. */
export const TASK_BODIES: {
  readonly [Kind in TaskCommandKind]: { readonly number: number; readonly codec: Codec<BodyOf<Kind>> };
} = {
  "create-task": {
    number: 90,
    codec: message<BodyOf<"create-task">>({
      taskKind: oneOf(1, TASK_KINDS),
      key: text(2),
      parameters: bytes(3),
      plan: optionalInner(4, message<PlannedRun>({ afterIndex: uint(1), throughIndex: uint(2) })),
    }),
  },
  "claim-task": {
    number: 91,
    codec: message<BodyOf<"claim-task">>({ taskId: uint(1), memberId: uint(2), leaseMs: uint(3) }),
  },
  "renew-task": {
    number: 92,
    codec: message<BodyOf<"renew-task">>({
      hold: inner(1, holdCodec),
      leaseMs: uint(2),
      doneCount: uint(3),
      totalCount: uint(4),
      findings: inner(5, findingsCodec),
    }),
  },
  "finish-task": {
    number: 93,
    codec: message<BodyOf<"finish-task">>({ hold: inner(1, holdCodec), result: bytes(2) }),
  },
  "fail-task": {
    number: 94,
    codec: message<BodyOf<"fail-task">>({
      hold: inner(1, holdCodec),
      reason: text(2),
      message: text(3),
      isFinal: bool(4),
    }),
  },
  "release-task": { number: 95, codec: message<BodyOf<"release-task">>({ hold: inner(1, holdCodec) }) },
  "retry-task": { number: 96, codec: taskIdCodec },
  "cancel-task": { number: 97, codec: taskIdCodec },
  "assign-replicas": {
    number: 98,
    codec: message<BodyOf<"assign-replicas">>({
      hold: inner(1, holdCodec),
      assignments: repeatedInner(
        2,
        message<Assignment>({
          contentId: uint(1),
          extentIndex: uint(2),
          memberId: uint(3),
          replacesMemberId: uint(4),
        }),
      ),
    }),
  },
};

/** Codec of a task: its record, under its id, and what commands about it answer. */
export const taskCodec: Codec<Task> = message<Task>({
  taskId: uint(1),
  kind: oneOf(2, TASK_KINDS),
  state: oneOf(3, TASK_STATES),
  key: text(4),
  attemptCount: uint(5),
  attemptCountMax: uint(6),
  fence: uint(7),
  memberId: uint(8),
  dueTimeMs: uint(9),
  progress: inner(10, message<Task["progress"]>({ doneCount: uint(1), totalCount: uint(2) })),
  createTimeMs: uint(11),
  updateTimeMs: uint(12),
  parameters: bytes(13),
  result: bytes(14),
  error: optionalInner(15, message<NonNullable<Task["error"]>>({ reason: text(1), message: text(2) })),
});

/** How many tasks there are, and how far the change feed has become tasks. */
export interface TaskTotals {
  readonly nextTaskId: number;
  /** By kind, and within that by state, in the order of TASK_KINDS and TASK_STATES. */
  readonly counts: readonly number[];
  /** Index of the command up to which the planner has made tasks of what was uploaded. */
  readonly plannedIndex: number;
}

/** Length of TaskTotals.counts once there was a task. */
export const TASK_CELL_COUNT = TASK_KINDS.length * TASK_STATES.length;

/** Codec of TaskTotals. */
export const taskTotalsCodec: Codec<TaskTotals> = message<TaskTotals>({
  nextTaskId: uint(1),
  counts: repeatedUint(2),
  plannedIndex: uint(3),
});

/** The place of a kind and state in TaskTotals.counts. */
export function cellOf(kind: TaskKind, state: TaskState): number {
  return TASK_KINDS.indexOf(kind) * TASK_STATES.length + TASK_STATES.indexOf(state);
}
