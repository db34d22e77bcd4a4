/**
 * Goal: a drained member ends up without copies and every file keeps three verified ones all the time; a member that holds too
 * much gives to those that hold less; nobody is filled beyond the mark; what lacks copies gets them by tasks, and without them where
 * those cannot be had; a worker that dies loses no task and has no effect afterwards. Method: whole data planes over the real state
 * machine, with all loops that make copies under the test's clock.
 */
import { expect } from "chai";
import type { Task } from "../../../src/drive/task.ts";
import { countTasks, findTask, listTasks } from "../../../src/metadata/task-view.ts";
import { counters, dropList } from "../../../src/metadata/view.ts";
import { IMBALANCE_BYTES_MIN, PENDING_GRACE_MS } from "../../../src/replication/assigning.ts";
import { isRecounting } from "../../../src/metadata/stores.ts";
import { PLAN_AFTER_MS } from "../../../src/replication/repair.ts";
import { must } from "../../../src/std/assert.ts";
import { UNDER_WAY_COUNT_MAX } from "../../../src/tasks/replication-handler.ts";
import { OPEN_COUNT_MAX, REPLAN_AFTER_MS } from "../../../src/tasks/replication-planner.ts";
import {
  encodeReplicationRun,
  parseReplicationRun,
  REPLICATION_RUN_COUNT_MAX,
  type ReplicationReport,
  type ReplicationRun,
} from "../../../src/tasks/replication-run.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { CopyLoops } from "../../support/copy-loops.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { idleLoad } from "../../support/fake-detector.ts";
import { copiesAt, putMany as put, TestDrives } from "../../support/use-drives.ts";

function tasksOf(drives: TestDrives): readonly Task[] {
  return listTasks(drives.tree.store, { kind: "replication" }, undefined, 1000);
}

function reportsOf(drives: TestDrives): readonly ReplicationReport[] {
  return tasksOf(drives)
    .filter(({ state }) => state === "done")
    .map(({ result }) => JSON.parse(Buffer.from(result).toString("utf8")) as ReplicationReport);
}

function runsOf(drives: TestDrives): readonly ReplicationRun[] {
  return tasksOf(drives).map(({ parameters }) => parseReplicationRun(parameters));
}

const replicasOf = (drives: TestDrives) => counters(drives.tree.store).replicas;

/** Notes the fewest verified copies that any extent had, and the most extents that were on the way at once. */
function watch(drives: TestDrives): { fewest: number; most: number } {
  const seen = { fewest: 3, most: 0 };
  drives.tree.onPropose = () => {
    const { underReplicatedCount, movingCount } = replicasOf(drives);
    if (underReplicatedCount > 0) seen.fewest = 2;
    seen.most = Math.max(seen.most, movingCount);
  };
  return seen;
}

/** Marks the copies of all files at a member lost, as when its disk was replaced. */
async function lose(drives: TestDrives, memberId: number, count: number): Promise<void> {
  for (let i = 0; i < count; i += 1) {
    const { entry } = await drives.drive().stat({ path: `/f${i}` });
    const extent = { contentId: entry.contentId, extentIndex: 0 };
    await drives.replicas.store(memberId).removeExtent(extent);
    drives.tree.apply({ kind: "report-replica", ...extent, memberId, finding: "lost" });
  }
}

describe("Moves", function () {
  this.timeout(20_000);

  it("empty a drained member by tasks, and no file ever has fewer than three verified copies meanwhile", async () => {
    const drives = new TestDrives(4);
    const count = 80;
    await put(drives, count);
    const held = await copiesAt(drives, 2, count);
    expect(held).to.be.greaterThan(0);
    const seen = watch(drives);
    await drives.drive().setDraining("node-2", true);
    const loops = new CopyLoops(drives, [1, 2, 3, 4]);
    await loops.pass(30_000);
    await loops.stop();

    expect(await copiesAt(drives, 2, count)).to.equal(0);
    expect(seen.fewest).to.equal(3);
    expect(replicasOf(drives)).to.include({ fullyReplicatedCount: count, movingCount: 0 });
    expect(dropList(drives.tree.store, 2, 1000).length).to.equal(held);
    expect(runsOf(drives)).to.have.length(1);
    expect(runsOf(drives)[0]).to.include({ purpose: "drain", fromMemberId: 2 });
    expect(reportsOf(drives)).to.deep.equal([
      { doneCount: held, goneCount: 0, leftCount: 0, assignedCount: held },
    ]);
    // Members are named, and copies told of, many with one command.
    expect(drives.tree.count("assign-replica")).to.equal(0);
    expect(drives.tree.count("assign-replicas")).to.equal(1);
  });

  it("keep a bounded number of copies on the way, and others follow as they end", async () => {
    const drives = new TestDrives(4);
    const count = UNDER_WAY_COUNT_MAX + 150;
    await put(drives, count);
    await lose(drives, 4, count);
    const onlyAt = [1, 2, 3];
    for (const memberId of onlyAt) drives.detector.loads.set(memberId, idleLoad({ liveBytes: 1 }));
    const repair = new CopyLoops(drives, [4]);
    await repair.pass(20_000);
    await repair.stop();
    const held = await copiesAt(drives, 2, count);
    expect(held).to.be.greaterThan(UNDER_WAY_COUNT_MAX);
    const seen = watch(drives);
    await drives.drive().setDraining("node-2", true);
    const loops = new CopyLoops(drives, [1, 2, 3, 4]);
    await loops.pass(40_000);
    await loops.stop();

    expect(await copiesAt(drives, 2, count)).to.equal(0);
    expect(seen).to.deep.equal({ fewest: 3, most: UNDER_WAY_COUNT_MAX });
  });

  it("leave everything where it is, and make no task, while no other member can take it", async () => {
    const drives = new TestDrives(3);
    await put(drives, 3);
    await drives.drive().setDraining("node-2", true);
    const loops = new CopyLoops(drives, [1, 2, 3]);
    await loops.pass(60_000);
    await loops.stop();
    expect(await copiesAt(drives, 2, 3)).to.equal(3);
    expect(tasksOf(drives)).to.deep.equal([]);
  });

  it("give a drained member nothing new, until draining ends", async () => {
    const drives = new TestDrives(4);
    await drives.drive().setDraining("node-2", true);
    await put(drives, 8);
    expect(await copiesAt(drives, 2, 8)).to.equal(0);
    await drives.drive().setDraining("node-2", false);
    for (let i = 0; i < 8; i += 1) await drives.drive().remove({ path: `/f${i}` }, { recursive: false });
    await put(drives, 8);
    expect(await copiesAt(drives, 2, 8)).to.be.greaterThan(0);
  });

  it("are asked for by the member's name or id, and no other", async () => {
    const drive = new TestDrives(4).drive();
    await drive.setDraining("2", true);
    await drive.setDraining("node-2", false);
    for (const unknown of ["node-9", "9", ""]) {
      await expectReason("MEMBER_NOT_FOUND", () => drive.setDraining(unknown, true));
    }
  });

  it("go from a member that holds much more to one that holds less, and never to a full one", async () => {
    for (const isFull of [false, true]) {
      const drives = new TestDrives(4);
      drives.kill(4);
      await put(drives, 6);
      drives.revive(4);
      for (const [memberId, liveBytes] of [
        [1, 2 * IMBALANCE_BYTES_MIN],
        [2, 8 * IMBALANCE_BYTES_MIN],
        [3, 2 * IMBALANCE_BYTES_MIN],
        [4, 0],
      ] as const) {
        const freeBytes = memberId === 4 && isFull ? 1e11 : 1e12;
        drives.detector.loads.set(memberId, idleLoad({ liveBytes, freeBytes }));
      }
      const loops = new CopyLoops(drives, [1, 2, 3, 4]);
      await loops.pass(30_000);
      await loops.stop();
      expect(await copiesAt(drives, 4, 6)).to.equal(isFull ? 0 : 6);
      expect(await copiesAt(drives, 2, 6)).to.equal(isFull ? 6 : 0);
      if (!isFull) expect(runsOf(drives)[0]).to.include({ purpose: "balance", fromMemberId: 2 });
    }
  });

  it("go to another member when the one that was to take a copy went down", async () => {
    const drives = new TestDrives(5);
    drives.kill(4);
    drives.kill(5);
    await put(drives, 12);
    const held = await copiesAt(drives, 2, 12);
    await drives.drive().setDraining("node-2", true);
    // Nobody but member 5 can take copies, and it does not make them.
    drives.revive(5);
    const loops = new CopyLoops(drives, [1, 2, 3]);
    await loops.pass(10_000);
    expect(replicasOf(drives)).to.include({ movingCount: held });
    drives.kill(5);
    drives.detector.sinceMs.set(5, PENDING_GRACE_MS);
    drives.revive(4);
    const late = new CopyLoops(drives, [4], { withoutWorkers: true });
    await loops.pass(30_000);
    await Promise.all([loops.stop(), late.stop()]);

    expect(await copiesAt(drives, 2, 12)).to.equal(0);
    expect(replicasOf(drives)).to.include({ movingCount: 0 });
    expect(dropList(drives.tree.store, 2, 100)).to.have.length(held);
  });

  it("end when a user cancels their task, and are not taken up again for a while", async () => {
    const drives = new TestDrives(4);
    await put(drives, 12);
    const held = await copiesAt(drives, 2, 12);
    await drives.drive().setDraining("node-2", true);
    const idle = new CopyLoops(drives, [1], { withoutWorkers: true });
    await idle.pass(5000);
    const { taskId } = must(tasksOf(drives)[0], "a task that waits");
    drives.tree.apply({ kind: "cancel-task", taskId });
    await idle.pass(1000);
    await idle.stop();
    const loops = new CopyLoops(drives, [1, 2, 3, 4]);
    await loops.pass(REPLAN_AFTER_MS - 60_000);
    expect(await copiesAt(drives, 2, 12)).to.equal(held);
    await loops.pass(120_000);
    await loops.stop();

    expect(await copiesAt(drives, 2, 12)).to.equal(0);
    expect(findTask(drives.tree.store, taskId)?.state).to.equal("cancelled");
  });
});

describe("A task of copies", function () {
  this.timeout(20_000);

  it("is taken over when its worker dies in the middle, and what was begun is not done twice", async () => {
    const drives = new TestDrives(5);
    const count = 60;
    await put(drives, count);
    await drives.drive().setDraining("node-2", true);
    const held = await copiesAt(drives, 2, count);
    const loops = new CopyLoops(drives, [1, 2, 3, 4, 5]);
    let deadId = 0;
    drives.tree.onPropose = (body) => {
      // Members were named, and the first of them have made their copies.
      if (deadId > 0 || (body.kind !== "add-replica" && body.kind !== "add-replicas")) return;
      const running = tasksOf(drives).find(({ state }) => state === "running");
      deadId = running?.memberId ?? 0;
      if (deadId > 0) loops.die(deadId);
    };
    await loops.pass(120_000);
    expect(deadId, "the worker that died").to.be.greaterThan(0);
    if (deadId !== 1) drives.tree.leaderId = 1;
    else drives.tree.leaderId = 3;
    drives.detector.sinceMs.set(deadId, PENDING_GRACE_MS);
    await loops.pass(120_000);
    await loops.stop();

    expect(await copiesAt(drives, 2, count)).to.equal(0);
    expect(replicasOf(drives)).to.include({ fullyReplicatedCount: count, movingCount: 0 });
    const first = must(tasksOf(drives).at(-1), "the first task");
    expect(first).to.include({ state: "done", attemptCount: 2 });
    expect(first.memberId).not.to.equal(deadId);
    // One copy was made in the place of each that went, and none beside.
    for (let i = 0; i < count; i += 1) {
      const { nodeIds } = await drives.drive(drives.tree.leaderId).durability({ path: `/f${i}` });
      expect(nodeIds, `/f${i}`).to.have.length(3);
    }
    expect(dropList(drives.tree.store, 2, 1000)).to.have.length(held);
  });

  it("names nobody once its claim was lost", async () => {
    const drives = new TestDrives(4);
    await put(drives, 12);
    await drives.drive().setDraining("node-2", true);
    const held = await copiesAt(drives, 2, 12);
    const loops = new CopyLoops(drives, [1, 2, 3, 4]);
    drives.tree.onPropose = (body) => {
      if (body.kind === "assign-replicas")
        drives.tree.apply({ kind: "cancel-task", taskId: body.hold.taskId });
    };
    await loops.pass(30_000);
    await loops.stop();
    expect(replicasOf(drives)).to.include({ movingCount: 0 });
    expect(await copiesAt(drives, 2, 12)).to.equal(held);
    expect(countTasks(drives.tree.store).replication).to.include({ cancelled: 1, done: 0, waiting: 0 });
  });

  it("that names no copies fails for good", async () => {
    const drives = new TestDrives(3);
    const loops = new CopyLoops(drives, [1]);
    const parameters = utf8('{"purpose":"whim"}');
    drives.tree.apply({ kind: "create-task", taskKind: "replication", key: "", parameters, plan: undefined });
    await loops.pass(3000);
    await loops.stop();
    const [task] = tasksOf(drives);
    expect(task).to.include({ state: "failed", attemptCount: 1 });
    expect(task?.error?.reason).to.equal("ARGUMENT_INVALID");
  });
});

describe("Repair by tasks", function () {
  this.timeout(20_000);

  /** Member 4 is up and has nothing; the copies at member 3 are gone for good. */
  async function broken(count: number): Promise<TestDrives> {
    const drives = await withoutThird(count, PENDING_GRACE_MS);
    await lose(drives, 3, count);
    return drives;
  }

  /** The same, but member 3 was given up a moment after it was last heard of. */
  async function givenUp(count: number): Promise<TestDrives> {
    const drives = await withoutThird(count, 1);
    drives.tree.apply({ kind: "declare-lost", memberId: 3, storeIncarnation: "store-3" });
    while (isRecounting(drives.tree.store)) drives.tree.apply({ kind: "recount" });
    return drives;
  }

  async function withoutThird(count: number, sinceMs: number): Promise<TestDrives> {
    const drives = new TestDrives(4);
    drives.kill(4);
    await put(drives, count);
    drives.revive(4);
    drives.kill(3);
    drives.detector.sinceMs.set(3, sinceMs);
    return drives;
  }

  /** As many tasks of repair as may be open, about something else. */
  function fillTasks(drives: TestDrives): void {
    const extents = [{ contentId: 1_000_000, extentIndex: 0 }];
    const parameters = encodeReplicationRun({ purpose: "repair", fromMemberId: 0, extents });
    for (let i = 0; i < OPEN_COUNT_MAX.repair; i += 1) {
      drives.tree.apply({
        kind: "create-task",
        taskKind: "replication",
        key: "",
        parameters,
        plan: undefined,
      });
    }
  }

  it("makes the copies of a lost member elsewhere, many extents a task", async () => {
    const drives = await broken(20);
    const loops = new CopyLoops(drives, [1, 2, 4]);
    await loops.pass(20_000);
    await loops.stop();

    expect(await copiesAt(drives, 4, 20)).to.equal(20);
    expect(drives.tree.count("assign-replica")).to.equal(0);
    expect(runsOf(drives)[0]).to.include({ purpose: "repair", fromMemberId: 0 });
    expect(reportsOf(drives)[0]).to.include({ doneCount: 20, assignedCount: 20 });
  });

  it("makes tasks at once of what a member had that was given up: nobody is about to make that", async () => {
    const drives = await givenUp(5);
    const loops = new CopyLoops(drives, [1, 2, 4]);
    await loops.pass(PLAN_AFTER_MS - 1);
    await loops.stop();
    expect(runsOf(drives)[0]).to.include({ purpose: "repair" });
    expect(drives.tree.count("assign-replica")).to.equal(0);
  });

  it("lets what was given up wait a while for a task when as many are open as may be", async () => {
    const drives = await givenUp(5);
    fillTasks(drives);
    const loops = new CopyLoops(drives, [1, 2, 4], { withoutWorkers: true });
    await loops.pass(PLAN_AFTER_MS - 1);
    expect(drives.tree.count("assign-replica")).to.equal(0);
    await loops.pass(PLAN_AFTER_MS);
    await loops.stop();
    expect(drives.tree.count("assign-replica")).to.equal(5);
  });

  it("does without tasks when nobody works on them, and within a minute", async () => {
    const drives = await broken(20);
    const loops = new CopyLoops(drives, [1, 2, 4], { withoutWorkers: true });
    await loops.pass(40_000);
    await loops.stop();

    expect(await copiesAt(drives, 4, 20)).to.equal(20);
    expect(countTasks(drives.tree.store).replication.waiting).to.equal(1);
  });

  it("does without tasks when as many are open as may be", async () => {
    const drives = await broken(5);
    fillTasks(drives);
    const loops = new CopyLoops(drives, [1, 2, 4], { withoutWorkers: true });
    await loops.pass(20_000);
    await loops.stop();

    expect(await copiesAt(drives, 4, 5)).to.equal(5);
    expect(countTasks(drives.tree.store).replication.waiting).to.equal(OPEN_COUNT_MAX.repair);
  });

  it("does not make an extent with a single good copy wait for a task", async () => {
    const drives = await broken(1);
    const { entry } = await drives.drive().stat({ path: "/f0" });
    const extent = { contentId: entry.contentId, extentIndex: 0 };
    drives.tree.apply({ kind: "report-replica", ...extent, memberId: 2, finding: "suspect" });
    const loops = new CopyLoops(drives, [1, 4], { withoutWorkers: true });
    await loops.pass(2500);
    await loops.stop();

    expect(await copiesAt(drives, 4, 1)).to.equal(1);
    expect(tasksOf(drives)).to.deep.equal([]);
  });

  it("makes no task of what nobody can mend", async () => {
    const drives = new TestDrives(3);
    await put(drives, 5);
    drives.kill(3);
    drives.detector.sinceMs.set(3, PENDING_GRACE_MS);
    await lose(drives, 3, 5);
    const loops = new CopyLoops(drives, [1, 2]);
    await loops.pass(120_000);
    await loops.stop();
    expect(tasksOf(drives)).to.deep.equal([]);
  });

  it("watches over copies that a member makes anew in its own place", async () => {
    const drives = new TestDrives(3);
    await put(drives, 8);
    await lose(drives, 3, 8);
    const planning = new CopyLoops(drives, [1, 2]);
    await planning.pass(8000);
    expect(countTasks(drives.tree.store).replication.running).to.equal(1);
    const owner = new CopyLoops(drives, [3]);
    await planning.pass(10_000);
    await Promise.all([planning.stop(), owner.stop()]);

    expect(await copiesAt(drives, 3, 8)).to.equal(8);
    expect(reportsOf(drives)).to.deep.equal([{ doneCount: 8, goneCount: 0, leftCount: 0, assignedCount: 0 }]);
  });
});

describe("Parameters of a task of copies", () => {
  const extents = Array.from({ length: REPLICATION_RUN_COUNT_MAX }, (_, at) => ({
    contentId: Number.MAX_SAFE_INTEGER - at,
    extentIndex: 4095,
  }));

  it("hold as many extents as a task may have, and no more", async () => {
    const run: ReplicationRun = { purpose: "drain", fromMemberId: 7, extents };
    const parameters = encodeReplicationRun(run);
    expect(parameters.length).to.be.below(64 * 1024);
    expect(parseReplicationRun(parameters)).to.deep.equal(run);
    const more = { ...run, extents: [...extents, { contentId: 1, extentIndex: 0 }] };
    await expectReason("ARGUMENT_INVALID", () => parseReplicationRun(encodeReplicationRun(more)));
  });

  it("are refused when they are none", async () => {
    for (const text of [
      "",
      "null",
      "{}",
      '{"purpose":"repair","fromMemberId":1,"extents":[]}',
      '{"purpose":"drain","fromMemberId":0,"extents":[]}',
      '{"purpose":"drain","fromMemberId":1,"extents":[[0,0]]}',
      '{"purpose":"drain","fromMemberId":1,"extents":[[1,-1]]}',
      '{"purpose":"drain","fromMemberId":1,"extents":[[1]]}',
    ]) {
      await expectReason("ARGUMENT_INVALID", () => parseReplicationRun(utf8(text)));
    }
  });
});
