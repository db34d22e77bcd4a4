/**
 * Goal: a task is worked on by one worker at a time, ends once, and no bound is passed. Method: commands and a recount of all
 * invariants after each; random commands of many workers against a plain model; each bound one below and one above.
 */
import { expect } from "chai";
import {
  TASK_ATTEMPT_COUNT_MAX,
  TASK_BACKOFF_MS_MAX,
  TASK_BACKOFF_MS_MIN,
  TASK_ERROR_SIZE_BYTES_MAX,
  TASK_KEY_SIZE_BYTES_MAX,
  TASK_LEASE_MS_MAX,
  TASK_LEASE_MS_MIN,
  TASK_PAYLOAD_SIZE_BYTES_MAX,
  TASK_RETENTION_MS,
} from "../../../src/drive/limits.ts";
import { TASK_KINDS, TASK_STATES, type Task } from "../../../src/drive/task.ts";
import type { CommandBody, CommandResult } from "../../../src/metadata/commands.ts";
import { NO_FINDINGS, type TaskFindings } from "../../../src/metadata/task-records.ts";
import { dueTasks, countTasks, findTask, listTasks, plannedIndex } from "../../../src/metadata/task-view.ts";
import { backoffMs } from "../../../src/metadata/tasks.ts";
import { clusterTime, getContent, getEntry, pendingWork } from "../../../src/metadata/view.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { Harness, present } from "./harness.ts";

const LEASE_MS = 10_000;
const PARAMETERS = utf8("{}");

interface Hold {
  readonly taskId: number;
  readonly fence: number;
}

function create(key = "", kind: Task["kind"] = "upload", parameters = PARAMETERS): CommandBody {
  return { kind: "create-task", taskKind: kind, key, parameters, plan: undefined };
}

const claim = (taskId: number, memberId = 101, leaseMs = LEASE_MS): CommandBody => ({
  kind: "claim-task",
  taskId,
  memberId,
  leaseMs,
});

const renew = (hold: Hold, findings: TaskFindings = NO_FINDINGS, leaseMs = LEASE_MS): CommandBody => ({
  ...{ kind: "renew-task", hold, leaseMs, doneCount: 1, totalCount: 2 },
  findings,
});

const finish = (hold: Hold, result = utf8("good")): CommandBody => ({ kind: "finish-task", hold, result });

const fail = (hold: Hold, isFinal = false, message = "no luck"): CommandBody => ({
  ...{ kind: "fail-task", hold, reason: "INTERNAL", message },
  isFinal,
});

/** The task that a command answered. */
function task(harness: Harness, body: CommandBody): Task {
  const value = harness.ok(body);
  if (value.kind !== "task") throw new Error(`answered ${value.kind}`);
  return value.task;
}

const holdOf = ({ taskId, fence }: Task): Hold => ({ taskId, fence });

/** Makes a task and claims it. */
function running(harness: Harness, key = ""): Task {
  return task(harness, claim(task(harness, create(key)).taskId));
}

function reasonOf(result: CommandResult): string {
  return result.outcome === "rejected" ? result.reason : "applied";
}

describe("a task", function () {
  this.timeout(30_000);
  it("waits, runs and is done", () => {
    const harness = new Harness().bootstrap();
    const made = task(harness, create("key"));
    const claimed = task(harness, claim(made.taskId));
    const renewed = task(harness, renew(claimed));
    const done = task(harness, finish(claimed));

    expect(made).to.include({ state: "waiting", attemptCount: 0, fence: 0, key: "key" });
    expect(claimed).to.include({ state: "running", attemptCount: 1, memberId: 101 });
    expect(renewed.progress).to.deep.equal({ doneCount: 1, totalCount: 2 });
    expect(done).to.include({ state: "done", error: undefined });
    expect(done.progress).to.deep.equal({ doneCount: 2, totalCount: 2 });
    expect(Buffer.from(done.result).toString()).to.equal("good");
    expect(countTasks(harness.store).upload).to.deep.equal({
      ...{ waiting: 0, running: 0, done: 1, failed: 0, cancelled: 0 },
    });
  });

  it("is made once for a key of its kind, unless it has failed or been cancelled", () => {
    const harness = new Harness().bootstrap();
    const first = task(harness, create("key"));
    expect(task(harness, create("key")).taskId).to.equal(first.taskId);
    expect(task(harness, create("key", "download")).taskId).not.to.equal(first.taskId);
    harness.ok({ kind: "cancel-task", taskId: first.taskId });

    const second = task(harness, create("key"));

    expect(second.taskId).to.be.greaterThan(first.taskId);
    harness.refused("TASK_STATE_CONFLICT", { kind: "retry-task", taskId: first.taskId });
    const done = task(harness, finish(task(harness, claim(second.taskId))));
    expect(task(harness, create("key")), "what is done is answered").to.deep.equal(done);
  });

  it("is claimed by one worker until its claim has expired, not a millisecond earlier", () => {
    const harness = new Harness().bootstrap();
    const claimed = running(harness);
    harness.advance(LEASE_MS - 1);
    harness.refused("TASK_STATE_CONFLICT", claim(claimed.taskId, 102));
    harness.advance(1);
    const again = task(harness, claim(claimed.taskId, 102));

    expect(again).to.include({ memberId: 102, attemptCount: 2 });
    expect(again.fence).to.be.greaterThan(claimed.fence);
  });

  it("is neither renewed, finished, failed nor given back by a worker that lost its claim", () => {
    const harness = new Harness().bootstrap();
    const lost = running(harness);
    harness.advance(LEASE_MS);
    const held = task(harness, claim(lost.taskId, 102));
    for (const body of [renew(lost), finish(lost), fail(lost)]) harness.refused("TASK_CLAIM_LOST", body);
    harness.refused("TASK_CLAIM_LOST", { kind: "release-task", hold: holdOf(lost) });
    harness.ok(finish(held, utf8("mine")));
    harness.refused("TASK_CLAIM_LOST", finish(lost, utf8("late")));

    expect(Buffer.from(present(findTask(harness.store, lost.taskId)).result).toString()).to.equal("mine");
  });

  it("may be finished twice under the claim that finished it, and stays as it was", () => {
    const harness = new Harness().bootstrap();
    const held = running(harness);
    const first = task(harness, finish(held, utf8("once")));

    expect(task(harness, finish(held, utf8("twice")))).to.deep.equal(first);
  });

  it("is finished by a late worker whose claim expired while nobody else took it", () => {
    const harness = new Harness().bootstrap();
    const held = running(harness);
    harness.advance(2 * LEASE_MS);

    expect(task(harness, finish(held)).state).to.equal("done");
  });

  it("waits longer after each attempt that failed, and has failed after the last", () => {
    const harness = new Harness().bootstrap();
    const { taskId } = task(harness, create());
    for (let attempt = 1; attempt < TASK_ATTEMPT_COUNT_MAX; attempt += 1) {
      const held = task(harness, claim(taskId));
      const failed = task(harness, fail(held));
      const pauseMs = TASK_BACKOFF_MS_MIN * 2 ** (attempt - 1);
      const dueTimeMs = clusterTime(harness.store) + pauseMs;
      expect(failed).to.include({ state: "waiting", dueTimeMs });
      harness.advance(pauseMs - 1);
      harness.refused("TASK_STATE_CONFLICT", claim(taskId));
      expect(dueTasks(harness.store, 10)).to.deep.equal([]);
      harness.advance(1);
      expect(dueTasks(harness.store, 10)).to.deep.equal([{ taskId, kind: "upload", dueTimeMs }]);
    }
    const last = task(harness, fail(task(harness, claim(taskId))));

    expect(last).to.deep.include({ state: "failed", error: { reason: "INTERNAL", message: "no luck" } });
    expect(backoffMs(100)).to.equal(TASK_BACKOFF_MS_MAX);
  });

  it("has failed at once when another attempt is of no use", () => {
    const harness = new Harness().bootstrap();
    expect(task(harness, fail(running(harness), true)).state).to.equal("failed");
  });

  it("goes to the next attempt when its worker does not come back, and fails with the last", () => {
    const harness = new Harness().bootstrap();
    const { taskId } = task(harness, create());
    for (let attempt = 1; attempt <= TASK_ATTEMPT_COUNT_MAX; attempt += 1) {
      harness.ok(claim(taskId));
      harness.advance(LEASE_MS);
      expect(pendingWork(harness.store).expirable).to.equal(true);
      harness.drain("expire");
      harness.advance(TASK_BACKOFF_MS_MAX);
    }

    const given = present(findTask(harness.store, taskId));
    expect(given.state).to.equal("failed");
    expect(given.error?.reason).to.equal("TASK_CLAIM_LOST");
  });

  it("is not claimed once more when its attempts are used up and its claim has just expired", () => {
    const harness = new Harness().bootstrap();
    const { taskId } = task(harness, create());
    for (let attempt = 1; attempt <= TASK_ATTEMPT_COUNT_MAX; attempt += 1) {
      harness.ok(claim(taskId));
      harness.advance(LEASE_MS);
    }
    harness.refused("TASK_STATE_CONFLICT", claim(taskId));
  });

  it("given back by its worker costs no attempt", () => {
    const harness = new Harness().bootstrap();
    const held = running(harness);

    const back = task(harness, { kind: "release-task", hold: holdOf(held) });

    expect(back).to.include({ state: "waiting", attemptCount: 0 });
    harness.refused("TASK_CLAIM_LOST", finish(held));
  });

  it("that failed or was cancelled is tried anew when a user says so, others are not", () => {
    const harness = new Harness().bootstrap();
    const failed = task(harness, fail(running(harness), true));
    const retried = task(harness, { kind: "retry-task", taskId: failed.taskId });
    expect(retried).to.include({ state: "waiting", attemptCount: 0 });
    expect(task(harness, { kind: "retry-task", taskId: failed.taskId }), "again").to.deep.equal(retried);

    const done = task(harness, finish(task(harness, claim(failed.taskId))));
    harness.refused("TASK_STATE_CONFLICT", { kind: "retry-task", taskId: done.taskId });
    harness.refused("TASK_NOT_FOUND", { kind: "retry-task", taskId: 77 });
  });

  it("that was cancelled takes nothing from its worker any more", () => {
    const harness = new Harness().bootstrap();
    const held = running(harness);
    const cancelled = task(harness, { kind: "cancel-task", taskId: held.taskId });
    expect(task(harness, { kind: "cancel-task", taskId: held.taskId })).to.deep.equal(cancelled);

    harness.refused("TASK_CLAIM_LOST", renew(held));
    harness.refused("TASK_CLAIM_LOST", finish(held));
    harness.refused("TASK_STATE_CONFLICT", claim(held.taskId));
    const done = task(harness, finish(running(harness)));
    harness.refused("TASK_STATE_CONFLICT", { kind: "cancel-task", taskId: done.taskId });
    harness.refused("TASK_NOT_FOUND", { kind: "cancel-task", taskId: 77 });
  });

  it("is forgotten when the retention is over, not a millisecond earlier, and its key is free then", () => {
    const harness = new Harness().bootstrap();
    const { taskId } = task(harness, finish(running(harness, "key")));
    harness.advance(TASK_RETENTION_MS - 1);
    harness.drain("expire");
    expect(findTask(harness.store, taskId)?.state).to.equal("done");
    harness.advance(1);
    harness.drain("expire");

    expect(findTask(harness.store, taskId)).to.equal(undefined);
    expect(task(harness, create("key")).taskId, "ids are not used again").to.be.greaterThan(taskId);
  });
});

describe("the bounds of tasks", () => {
  it("let so many of a kind be open and not one more", () => {
    const harness = new Harness({ taskOpenCountMax: 2 }).bootstrap();
    const first = running(harness);
    harness.ok(create());
    harness.refused("OVERLOADED", create());
    harness.ok(create("", "download"));
    const failed = task(harness, fail(first, true));
    harness.ok(create());
    harness.refused("OVERLOADED", { kind: "retry-task", taskId: failed.taskId });
  });

  it("remember so many that have ended, the newest", () => {
    const harness = new Harness({ taskEndedCountMax: 2 }).bootstrap();
    const ids = [1, 2, 3].map(() => task(harness, finish(running(harness))).taskId);

    expect(ids.map((id) => findTask(harness.store, id)?.state)).to.deep.equal([undefined, "done", "done"]);
  });

  it("hold for parameters, results, keys, leases and findings", () => {
    const harness = new Harness({ taskFindingCountMax: 2 }).bootstrap();
    const bytes = (length: number): Uint8Array => new Uint8Array(length);
    harness.ok(create("", "upload", bytes(TASK_PAYLOAD_SIZE_BYTES_MAX)));
    harness.refused("ARGUMENT_INVALID", create("", "upload", bytes(TASK_PAYLOAD_SIZE_BYTES_MAX + 1)));
    harness.ok(create("k".repeat(TASK_KEY_SIZE_BYTES_MAX)));
    harness.refused("ARGUMENT_INVALID", create("k".repeat(TASK_KEY_SIZE_BYTES_MAX + 1)));
    const { taskId } = task(harness, create());
    for (const leaseMs of [TASK_LEASE_MS_MIN - 1, TASK_LEASE_MS_MAX + 1]) {
      harness.refused("ARGUMENT_INVALID", claim(taskId, 101, leaseMs));
    }
    const held = task(harness, claim(taskId, 101, TASK_LEASE_MS_MIN));
    harness.ok(renew(held, NO_FINDINGS, TASK_LEASE_MS_MAX));
    harness.refused("ARGUMENT_INVALID", renew(held, NO_FINDINGS, TASK_LEASE_MS_MAX + 1));
    const sha256s = [1, 2, 3].map((contentId) => ({ contentId, sha256: new Uint8Array(32) }));
    harness.ok(renew(held, { sha256s: sha256s.slice(1) }));
    harness.refused("ARGUMENT_INVALID", renew(held, { sha256s }));
    harness.refused(
      "ARGUMENT_INVALID",
      renew(held, { sha256s: [{ contentId: 1, sha256: new Uint8Array(31) }] }),
    );
    harness.refused("ARGUMENT_INVALID", finish(held, bytes(TASK_PAYLOAD_SIZE_BYTES_MAX + 1)));
    harness.ok(finish(held, bytes(TASK_PAYLOAD_SIZE_BYTES_MAX)));
  });

  it("cut what is said about a failure off between two characters", () => {
    const harness = new Harness().bootstrap();
    const failed = task(harness, fail(running(harness), true, `x${"文".repeat(TASK_ERROR_SIZE_BYTES_MAX)}`));

    const { message } = present(failed.error);
    expect(utf8(message).length).to.equal(TASK_ERROR_SIZE_BYTES_MAX);
    expect(message).to.match(/^x文+$/);
  });
});

describe("the plan of upload tasks", () => {
  const plan = (afterIndex: number, throughIndex: number, parameters = PARAMETERS): CommandBody => ({
    ...{ kind: "create-task", taskKind: "upload", key: "", parameters },
    plan: { afterIndex, throughIndex },
  });

  it("goes on where it was, and a planner that is elsewhere is refused", () => {
    const harness = new Harness().bootstrap();
    expect(task(harness, plan(0, 2)).state).to.equal("waiting");
    harness.refused("VERSION_MISMATCH", plan(0, 3));
    expect(harness.ok(plan(2, 4, new Uint8Array(0))).kind, "a run without files makes no task").to.equal(
      "none",
    );

    expect(plannedIndex(harness.store)).to.equal(4);
    expect(countTasks(harness.store).upload.waiting).to.equal(1);
    harness.refused("ARGUMENT_INVALID", plan(4, 3));
    harness.refused("ARGUMENT_INVALID", plan(4, 1000));
  });

  it("stays where it is when there is no room for the task", () => {
    const harness = new Harness({ taskOpenCountMax: 1 }).bootstrap();
    harness.ok(plan(0, 2));
    harness.refused("OVERLOADED", plan(2, 3));

    expect(plannedIndex(harness.store)).to.equal(2);
  });
});

describe("findings of a task", () => {
  const found = (contentId: number): TaskFindings => ({
    sha256s: [{ contentId, sha256: new Uint8Array(32).fill(7) }],
  });

  it("are kept with the content, once, and are of no use for one that is gone", () => {
    const harness = new Harness().bootstrap();
    const file = harness.put("/a");
    const held = running(harness);
    harness.ok(renew(held, found(file.contentId)));
    harness.ok(renew(held, { sha256s: [{ contentId: file.contentId, sha256: new Uint8Array(32).fill(8) }] }));
    harness.ok(renew(held, found(file.contentId + 1000)));

    expect(Buffer.from(present(getContent(harness.store, file.contentId)).sha256)).to.deep.equal(
      Buffer.alloc(32, 7),
    );
    expect(getEntry(harness.store, file.entryId)).to.deep.equal(file);
  });

  it("are not recorded for a worker that lost its claim", () => {
    const harness = new Harness().bootstrap();
    const file = harness.put("/a");
    const held = running(harness);
    harness.ok({ kind: "cancel-task", taskId: held.taskId });
    harness.refused("TASK_CLAIM_LOST", renew(held, found(file.contentId)));
  });
});

describe("listTasks()", () => {
  it("gives the newest first, page by page, by kind and state", () => {
    const harness = new Harness().bootstrap();
    const made = [0, 1, 2, 3, 4, 5, 6].map((i) =>
      task(harness, create("", i % 2 === 0 ? "upload" : "download")),
    );
    const ids = made.map(({ taskId }) => taskId);
    for (const id of ids.slice(0, 3)) harness.ok(claim(id));
    const list = (filter: object, before?: number, count = 100): number[] =>
      listTasks(harness.store, filter, before, count).map(({ taskId }) => taskId);
    const pick = (...places: number[]): number[] => places.map((place) => present(ids[place]));

    expect(list({})).to.deep.equal([...ids].reverse());
    expect(list({}, undefined, 3)).to.deep.equal(pick(6, 5, 4));
    expect(list({}, ids[4], 3)).to.deep.equal(pick(3, 2, 1));
    expect(list({ kind: "upload" })).to.deep.equal(pick(6, 4, 2, 0));
    expect(list({ state: "running" })).to.deep.equal(pick(2, 1, 0));
    expect(list({ kind: "download", state: "waiting" })).to.deep.equal(pick(5, 3));
    expect(list({ kind: "replication" })).to.deep.equal([]);
  });
});

describe("the table of tasks under many workers", function () {
  this.timeout(30_000);
  const seeds = [1, 2, 3, 4];
  for (const seed of seeds) {
    it(`lets each task end once, by the claim that the table names (seed=${seed})`, () => {
      const prng = new SeededPrng(seed);
      const harness = new Harness({ taskOpenCountMax: 12, taskEndedCountMax: 20 }).bootstrap();
      const holds: Hold[] = [];
      const finishers = new Map<number, number>();
      let newestId = 1;
      let finishedCount = 0;
      let refusedCount = 0;
      for (let step = 0; step < 400; step += 1) {
        const taskId = Math.max(1, newestId - prng.below(10));
        const hold =
          holds.length > 0 && prng.below(10) > 0
            ? present(holds.at(-1 - prng.below(Math.min(6, holds.length))))
            : { taskId, fence: 7 };
        const bodies: readonly CommandBody[] = [
          ...[create(prng.below(2) === 0 ? "" : `k${prng.below(5)}`), claim(taskId, 101 + prng.below(3))],
          ...[
            claim(taskId, 101 + prng.below(3)),
            claim(taskId, 101),
            renew(hold),
            finish(hold),
            finish(hold),
          ],
          ...[fail(hold, prng.below(4) === 0), { kind: "release-task" as const, hold }],
          ...[
            { kind: "cancel-task" as const, taskId },
            { kind: "retry-task" as const, taskId },
          ],
          ...[{ kind: "advance-clock" as const, elapsedMs: prng.below(9000) }, { kind: "expire" as const }],
        ];
        const body = present(bodies[prng.below(bodies.length)]);
        const before = findTask(harness.store, "hold" in body ? body.hold.taskId : taskId);
        const result = harness.apply(body);
        if (reasonOf(result) !== "applied") refusedCount += 1;
        const after =
          result.outcome === "applied" && result.value.kind === "task" ? result.value.task : undefined;
        newestId = Math.max(newestId, after?.taskId ?? 0);
        if (body.kind === "claim-task" && after !== undefined) holds.push(holdOf(after));
        if ("hold" in body && after !== undefined) {
          expect(after.fence, "only the newest claim has an effect").to.equal(body.hold.fence);
        }
        if (body.kind === "finish-task" && after !== undefined && before?.state !== "done") {
          expect(finishers.get(after.taskId), `task ${after.taskId} ends well once`).to.equal(undefined);
          finishers.set(after.taskId, after.fence);
          finishedCount += 1;
        }
        const known = after ?? before;
        const finisher = known === undefined ? undefined : finishers.get(known.taskId);
        if (finisher !== undefined) expect(known).to.include({ state: "done", fence: finisher });
      }

      expect(finishedCount, "tasks that ended well").to.be.greaterThan(5);
      expect(refusedCount, "commands that were refused").to.be.greaterThan(50);
      const total = TASK_KINDS.flatMap((kind) =>
        TASK_STATES.map((state) => countTasks(harness.store)[kind][state]),
      );
      expect(total.reduce((sum, count) => sum + count)).to.equal(
        listTasks(harness.store, {}, undefined, 1000).length,
      );
    });
  }
});
