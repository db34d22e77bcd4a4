/**
 * Goal: whatever queues deliver, each task is done once in effect and none is forgotten. Method: workers and outboxes of several
 * nodes over one table (the real state machine) under a clock that the test moves; cluster time follows it.
 */
import { expect } from "chai";
import { MetadataClient } from "../../../src/cluster/metadata-client.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { TASK_ATTEMPT_COUNT_MAX, TASK_BACKOFF_MS_MAX } from "../../../src/drive/limits.ts";
import type { Task } from "../../../src/drive/task.ts";
import { NO_FINDINGS } from "../../../src/metadata/task-records.ts";
import { countTasks } from "../../../src/metadata/task-view.ts";
import { must } from "../../../src/std/assert.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { deferred, type Deferred } from "../../../src/std/deferred.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { EmbeddedQueue } from "../../../src/tasks/embedded-queue.ts";
import type { TaskHandler, TaskWork } from "../../../src/tasks/task-handler.ts";
import { TaskOutbox } from "../../../src/tasks/task-outbox.ts";
import type { TaskQueue } from "../../../src/tasks/task-queue.ts";
import { TaskTable } from "../../../src/tasks/task-table.ts";
import {
  CLAIM_LEASE_MS,
  isFinal,
  PROGRESS_INTERVAL_MS,
  SLOT_COUNT,
  TaskWorker,
  type WorkOutcome,
} from "../../../src/tasks/task-worker.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { MemoryTree } from "../../support/memory-metadata-port.ts";

const RESULT = utf8("done");

/** A handler whose runs end when the test says so. */
class HeldHandler implements TaskHandler {
  readonly runs: { readonly task: Task; readonly work: TaskWork; readonly end: Deferred<Uint8Array> }[] = [];

  run(task: Task, work: TaskWork): Promise<Uint8Array> {
    const end = deferred<Uint8Array>();
    this.runs.push({ task, work, end });
    work.signal.addEventListener("abort", () => end.reject(new DriveError("CANCELED", "told to stop")));
    return end.promise;
  }

  last() {
    return must(this.runs.at(-1), "a run");
  }
}

class Bench {
  readonly clock = new FakeClock();
  readonly tree: MemoryTree;
  readonly #prng = new SeededPrng(1);
  readonly outcomes: WorkOutcome[] = [];

  constructor() {
    this.tree = new MemoryTree(this.clock);
  }

  table(memberId = 1): TaskTable {
    return new TaskTable(new MetadataClient(this.tree.port(memberId), this.#prng));
  }

  /** A node: its worker, its queue in memory and the outbox that fills it. */
  node(memberId: number, handler: TaskHandler, queue: TaskQueue = new EmbeddedQueue()) {
    const worker = new TaskWorker({
      clock: this.clock,
      table: this.table(memberId),
      handlers: new Map([["upload", handler]]),
      onEnded: (_kind, outcome) => void this.outcomes.push(outcome),
    });
    queue.consume("upload", SLOT_COUNT, (delivery) => worker.take("upload", delivery));
    const outbox = new TaskOutbox({
      clock: this.clock,
      port: this.tree.port(memberId),
      queue,
      isActive: () => true,
      republishAfterMs: 5000,
    });
    outbox.start();
    return { worker, outbox, queue };
  }

  create(key = ""): Promise<Task> {
    return this.table().create({ kind: "upload", key, parameters: utf8("{}") });
  }

  /** Moves the clock and cluster time, and ends claims as housekeeping does. */
  async advance(ms: number): Promise<void> {
    for (let left = ms; left > 0; left -= 1000) {
      await this.clock.advance(Math.min(1000, left));
      this.tree.apply({ kind: "advance-clock", elapsedMs: Math.min(1000, left) });
      this.tree.apply({ kind: "expire" });
    }
    await this.clock.advance(0);
  }

  state(taskId: number): string {
    return must(this.table().find(taskId), "the task").state;
  }
}

describe("TaskWorker", () => {
  it("takes a task from the queue, runs it and ends it in the table", async () => {
    const bench = new Bench();
    const handler = new HeldHandler();
    bench.node(1, handler);
    const { taskId } = await bench.create();
    await bench.advance(1000);
    handler.last().end.resolve(RESULT);
    await bench.advance(1000);

    expect(bench.table().find(taskId)).to.deep.include({ state: "done", attemptCount: 1 });
    expect(bench.outcomes).to.deep.equal(["done"]);
  });

  it("shows how far it is within a second, with one command however often the handler says it", async () => {
    const bench = new Bench();
    const handler = new HeldHandler();
    bench.node(1, handler);
    const { taskId } = await bench.create();
    await bench.advance(1000);
    const { work } = handler.last();
    const shown = (): unknown => bench.table().find(taskId)?.progress;
    for (let doneCount = 0; doneCount <= 3; doneCount += 1) work.progress(doneCount, 5);
    await bench.clock.advance(PROGRESS_INTERVAL_MS - 1);
    expect(shown()).to.deep.equal({ doneCount: 0, totalCount: 0 });
    await bench.clock.advance(1);
    expect(shown()).to.deep.equal({ doneCount: 3, totalCount: 5 });
    // The same once more is nothing to tell.
    work.progress(3, 5);
    await bench.advance(CLAIM_LEASE_MS / 3 - 1000);
    expect(bench.tree.count("renew-task")).to.equal(1);
    work.progress(4, 5);
    await bench.advance(1000);
    expect(shown()).to.deep.equal({ doneCount: 4, totalCount: 5 });
    handler.last().end.resolve(RESULT);
    await bench.advance(1000);
    expect(bench.state(taskId)).to.equal("done");
  });

  it("shows how much there was of what was done before anything of it was told", async () => {
    const bench = new Bench();
    const handler = new HeldHandler();
    bench.node(1, handler);
    const { taskId } = await bench.create();
    await bench.advance(1000);
    handler.last().work.progress(2, 5);
    handler.last().end.resolve(RESULT);
    await bench.clock.advance(0);
    expect(bench.table().find(taskId)).to.deep.include({
      state: "done",
      progress: { doneCount: 5, totalCount: 5 },
    });
    expect(bench.tree.count("renew-task")).to.equal(1);
  });

  it("says what it works on: since when, how far at this very moment, of too much the newest, and nothing that has ended", async () => {
    const bench = new Bench();
    const handler = new HeldHandler();
    const { worker } = bench.node(1, handler);
    const idsOf = (countMax: number): readonly number[] =>
      worker.running(countMax).map(({ taskId }) => taskId);
    expect(worker.running(9)).to.deep.equal([]);
    const ids = [(await bench.create()).taskId, (await bench.create()).taskId];
    await bench.advance(1000);
    const first = must(handler.runs[0], "the first run");
    const since = bench.clock.wallMs();
    await bench.advance(2000);
    first.work.progress(3, 5);

    const [told] = worker.running(2);
    expect(told).to.deep.include({ taskId: first.task.taskId, kind: "upload", fence: first.task.fence });
    expect(told?.progress).to.deep.equal({ doneCount: 3, totalCount: 5 });
    expect(told?.sinceTimeMs).to.be.within(since - 1000, since);
    expect(idsOf(3)).to.have.members(ids);
    expect(idsOf(2)).to.have.members(ids);
    expect(idsOf(1)).to.deep.equal([handler.last().task.taskId]);
    expect(idsOf(0)).to.deep.equal([]);
    for (const { end } of handler.runs) end.resolve(RESULT);
    await bench.advance(1000);
    expect(idsOf(9)).to.deep.equal([]);
  });

  it("keeps its claim for as long as the handler runs", async () => {
    const bench = new Bench();
    const handler = new HeldHandler();
    bench.node(1, handler);
    bench.node(2, handler);
    const { taskId } = await bench.create();
    await bench.advance(10 * CLAIM_LEASE_MS);

    expect(handler.runs).to.have.length(1);
    handler.last().end.resolve(RESULT);
    await bench.advance(1000);
    expect(bench.state(taskId)).to.equal("done");
  });

  it("lets one of several nodes have each task", async () => {
    const bench = new Bench();
    const ran: number[] = [];
    const handler: TaskHandler = {
      run: (task) => {
        ran.push(task.taskId);
        return Promise.resolve(RESULT);
      },
    };
    for (const memberId of [1, 2, 3]) bench.node(memberId, handler);
    const ids: number[] = [];
    for (let i = 0; i < 40; i += 1) ids.push((await bench.create()).taskId);
    await bench.advance(20_000);

    expect(ran.sort((a, b) => a - b)).to.deep.equal(ids);
    expect(countTasks(bench.tree.store).upload.done).to.equal(40);
  });

  it("works on so many of a kind at once", async () => {
    const bench = new Bench();
    const handler = new HeldHandler();
    bench.node(1, handler);
    for (let i = 0; i < SLOT_COUNT + 2; i += 1) await bench.create();
    await bench.advance(2000);

    expect(handler.runs).to.have.length(SLOT_COUNT);
  });

  it("tries a task that failed again after a pause, and lets it fail in the end", async () => {
    const bench = new Bench();
    let runCount = 0;
    bench.node(1, {
      run: () => {
        runCount += 1;
        return Promise.reject(new TypeError("a handler that breaks"));
      },
    });
    const { taskId } = await bench.create();
    await bench.advance(TASK_BACKOFF_MS_MAX);

    expect(runCount).to.equal(TASK_ATTEMPT_COUNT_MAX);
    expect(bench.table().find(taskId)).to.deep.include({
      state: "failed",
      error: { reason: "INTERNAL", message: "a handler that breaks" },
    });
    expect(bench.outcomes).to.deep.equal(["retried", "retried", "retried", "retried", "failed"]);
  });

  it("puts the message of a task that failed for good aside, and a user may let it be tried anew", async () => {
    const bench = new Bench();
    let isGood = false;
    const { queue } = bench.node(1, {
      run: () =>
        isGood ? Promise.resolve(RESULT) : Promise.reject(new DriveError("PATH_NOT_FOUND", "It is gone.")),
    });
    const { taskId } = await bench.create();
    await bench.advance(2000);
    expect(bench.state(taskId)).to.equal("failed");
    expect(await queue.depth("upload")).to.deep.equal({ readyCount: 0, deadCount: 1 });

    isGood = true;
    await bench.table().retry(taskId);
    await bench.advance(2000);
    expect(bench.state(taskId)).to.equal("done");
  });

  it("stops its handler when the task is cancelled", async () => {
    const bench = new Bench();
    const handler = new HeldHandler();
    bench.node(1, handler);
    const { taskId } = await bench.create();
    await bench.advance(1000);
    await bench.table().cancel(taskId);
    await bench.advance(CLAIM_LEASE_MS / 2);

    expect(handler.last().work.signal.aborted).to.equal(true);
    expect(bench.outcomes).to.deep.equal(["lost"]);
    expect(bench.state(taskId)).to.equal("cancelled");
  });

  it("cannot finish, nor record anything, after it was frozen past its lease and another node took over", async () => {
    const bench = new Bench();
    const [frozen, other] = [new HeldHandler(), new HeldHandler()];
    bench.node(1, frozen);
    const { taskId } = await bench.create();
    await bench.advance(1000);
    // What a frozen process wants to say waits until it goes on.
    const thawed = deferred<void>();
    bench.tree.onPropose = (body) =>
      body.kind === "renew-task" && body.hold.fence === frozen.last().task.fence ? thawed.promise : undefined;
    await bench.advance(CLAIM_LEASE_MS + 1000);
    bench.node(2, other);
    await bench.advance(5000);
    expect(other.runs).to.have.length(1);

    const recorded = frozen.last().work.record(NO_FINDINGS);
    frozen.last().end.resolve(utf8("too late"));
    thawed.resolve();
    const refusal = await recorded.then(
      () => "recorded",
      (error: unknown) => (error as DriveError).reason,
    );
    await bench.advance(1000);
    expect(refusal).to.equal("TASK_CLAIM_LOST");
    expect(bench.state(taskId)).to.equal("running");
    other.last().end.resolve(utf8("in time"));
    await bench.advance(1000);
    expect(Buffer.from(must(bench.table().find(taskId), "the task").result).toString()).to.equal("in time");
    expect(new Set(bench.outcomes)).to.deep.equal(new Set(["done", "lost"]));
  });

  it("gives its tasks back when its node stops, and another node goes on at once", async () => {
    const bench = new Bench();
    const handler = new HeldHandler();
    const { worker, outbox } = bench.node(1, handler);
    const { taskId } = await bench.create();
    await bench.advance(1000);
    await outbox.stop();
    await worker.stop();

    expect(bench.table().find(taskId)).to.include({ state: "waiting", attemptCount: 0 });
    bench.node(2, { run: () => Promise.resolve(RESULT) });
    await bench.advance(1000);
    expect(bench.state(taskId)).to.equal("done");
  });

  it("tells the table how a task ended as soon as there is a leader again", async () => {
    const bench = new Bench();
    const handler = new HeldHandler();
    bench.node(1, handler);
    const { taskId } = await bench.create();
    await bench.advance(1000);
    bench.tree.unavailable = true;
    // What there was to do cannot be told either, which is no failure of the task.
    handler.last().work.progress(1, 5);
    handler.last().end.resolve(RESULT);
    await bench.advance(5000);
    expect(bench.state(taskId)).to.equal("running");
    bench.tree.unavailable = false;
    await bench.advance(2000);

    expect(bench.state(taskId)).to.equal("done");
    expect(handler.runs).to.have.length(1);
  });

  it("does not mind that the answer to a finish was lost", async () => {
    const bench = new Bench();
    bench.node(1, { run: () => Promise.resolve(RESULT) });
    bench.tree.lostAnswers.set("finish-task", 1);
    const { taskId } = await bench.create();
    await bench.advance(3000);

    expect(bench.state(taskId)).to.equal("done");
    expect(bench.outcomes).to.deep.equal(["done"]);
  });

  it("lets a task fail whose result is too large", async () => {
    const bench = new Bench();
    bench.node(1, { run: () => Promise.resolve(new Uint8Array(70_000)) });
    const { taskId } = await bench.create();
    await bench.advance(3000);

    expect(bench.table().find(taskId)).to.deep.include({ state: "failed" });
  });

  it("knows which errors a repeat cannot mend", () => {
    expect(isFinal(new DriveError("PATH_NOT_FOUND", ""))).to.equal(true);
    expect(isFinal(new DriveError("QUORUM_NOT_REACHED", ""))).to.equal(false);
  });
});

describe("TaskOutbox", () => {
  it("publishes again what a queue lost", async () => {
    const bench = new Bench();
    const lossy: TaskQueue = {
      publish: () => Promise.resolve(),
      consume: () => () => Promise.resolve(),
      depth: () => Promise.resolve({ readyCount: 0, deadCount: 0 }),
    };
    let publishCount = 0;
    let isLossy = true;
    const good = new EmbeddedQueue();
    bench.node(
      1,
      { run: () => Promise.resolve(RESULT) },
      {
        ...lossy,
        publish: (message) => {
          publishCount += 1;
          return isLossy ? Promise.resolve() : good.publish(message);
        },
        consume: (...consumer) => good.consume(...consumer),
      },
    );
    const { taskId } = await bench.create();
    await bench.advance(4000);
    expect(publishCount).to.equal(1);
    isLossy = false;
    await bench.advance(3000);

    expect(publishCount).to.equal(2);
    expect(bench.state(taskId)).to.equal("done");
  });

  it("leaves alone what stands in line", async () => {
    const bench = new Bench();
    const handler = new HeldHandler();
    const published: number[] = [];
    const queue = new EmbeddedQueue();
    bench.node(1, handler, {
      publish: (message) => {
        published.push(message.taskId);
        return queue.publish(message);
      },
      consume: (...consumer) => queue.consume(...consumer),
      depth: (kind) => queue.depth(kind),
    });
    for (let i = 0; i < SLOT_COUNT + 3; i += 1) await bench.create();
    await bench.advance(60_000);

    expect(published).to.have.length(SLOT_COUNT + 3);
  });
});
