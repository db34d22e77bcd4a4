/**
 * Goal: what users wrote is checked once, in runs, whoever leads. Method: drives over the real state machine with chunk stores in
 * memory; a planner and workers under a clock of the test.
 */
import { expect } from "chai";
import { extentsOf, getEntry } from "../../../src/metadata/view.ts";
import { countTasks, listTasks, plannedIndex } from "../../../src/metadata/task-view.ts";
import type { PlannedRun } from "../../../src/metadata/task-records.ts";
import { must } from "../../../src/std/assert.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { EmbeddedQueue } from "../../../src/tasks/embedded-queue.ts";
import { TaskOutbox } from "../../../src/tasks/task-outbox.ts";
import { TaskTable } from "../../../src/tasks/task-table.ts";
import { TaskWorker } from "../../../src/tasks/task-worker.ts";
import { CHECK_BYTES_MAX, CHECK_FILE_COUNT_MAX, UploadHandler } from "../../../src/tasks/upload-handler.ts";
import { UploadPlanner } from "../../../src/tasks/upload-planner.ts";
import {
  encodeUploadRun,
  parseUploadRun,
  UPLOAD_RUN_COUNT_MAX,
  type UploadReport,
} from "../../../src/tasks/upload-run.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { freePace, patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";
import { utf8 } from "../../../src/std/bytes.ts";

class Bench extends TestDrives {
  readonly badCopies: string[] = [];
  readonly passedOver: PlannedRun[] = [];

  constructor(limits = {}) {
    super(3, 3, limits);
    for (const memberId of [1, 2, 3]) this.grantLease(memberId);
  }

  planner(memberId = 1): UploadPlanner {
    const { metadata } = this.node(memberId).plane;
    const planner = new UploadPlanner({
      clock: this.clock,
      metadata,
      onPassedOver: (run) => void this.passedOver.push(run),
    });
    planner.start();
    return planner;
  }

  worker(memberId = 1): void {
    const { plane } = this.node(memberId);
    const { port } = plane.metadata;
    const queue = new EmbeddedQueue();
    const handler = new UploadHandler({
      reader: () => port.reader(),
      ports: this.replicas,
      read: (extent, length, signal) =>
        plane.reader.read({ extent, offset: 0, length, rankedMemberIds: () => [1, 2, 3], signal }),
      pace: freePace(this.clock).pace,
      onBadCopy: (extent, id, finding) => void this.badCopies.push(`${extent.contentId} ${id} ${finding}`),
    });
    const table = new TaskTable(plane.metadata);
    const worker = new TaskWorker({ clock: this.clock, table, handlers: new Map([["upload", handler]]) });
    queue.consume("upload", 2, (delivery) => worker.take("upload", delivery));
    const outbox = new TaskOutbox({
      ...{ clock: this.clock, port, queue, isActive: () => true },
      republishAfterMs: 5000,
    });
    outbox.start();
  }

  async put(path: string, bytes: Uint8Array = utf8(path)): Promise<number> {
    const { entry } = await this.drive().putFile(
      uploadOf(path, { sizeBytes: bytes.length }),
      streamOf(bytes),
    );
    return entry.entryId;
  }

  entry(entryId: number) {
    return must(getEntry(this.tree.store, entryId), "the file");
  }

  reports(): UploadReport[] {
    return listTasks(this.tree.store, { state: "done" }, undefined, 100).map(
      ({ result }) => JSON.parse(Buffer.from(result).toString()) as UploadReport,
    );
  }
}

describe("UploadPlanner", function () {
  this.timeout(30_000);

  it("makes one task of all files that were written meanwhile, once, whichever nodes believe to lead", async () => {
    const bench = new Bench();
    bench.tree.leaderId = 1;
    const ids = [await bench.put("/a"), await bench.put("/b"), await bench.put("/c")];
    bench.planner(1);
    await bench.clock.advance(0);
    bench.tree.leaderId = 2;
    bench.planner(2);
    await bench.clock.advance(20_000);
    bench.tree.leaderId = 1;
    await bench.clock.advance(20_000);

    const tasks = listTasks(bench.tree.store, {}, undefined, 10);
    expect(tasks.map(({ parameters }) => parseUploadRun(parameters).entryIds)).to.deep.equal([ids]);
  });

  it("costs no command while nobody writes files", async () => {
    const bench = new Bench();
    bench.planner();
    await bench.clock.advance(60_000);

    expect(bench.tree.count("create-task")).to.equal(0);
  });

  it("splits many files into runs", async () => {
    const bench = new Bench();
    for (let i = 0; i < 600; i += 1) await bench.put(`/${i}`, utf8("same"));
    bench.planner();
    await bench.clock.advance(10_000);

    const runs = listTasks(bench.tree.store, {}, undefined, 10).map(({ parameters }) =>
      parseUploadRun(parameters),
    );
    expect(runs).to.have.length(2);
    expect(new Set(runs.flatMap(({ entryIds }) => entryIds)).size).to.equal(600);
  });

  it("passes over what the feed has forgotten, and says so", async () => {
    const bench = new Bench({ changeCountMax: 4 });
    for (let i = 0; i < 20; i += 1) await bench.put(`/${i}`);
    bench.planner();
    await bench.clock.advance(10_000);

    expect(bench.passedOver).to.have.length(1);
    expect(countTasks(bench.tree.store).upload.waiting).to.equal(1);
    expect(plannedIndex(bench.tree.store)).to.be.greaterThan(must(bench.passedOver[0], "a run").throughIndex);
  });

  it("waits while as many tasks are open as may be, and goes on then", async () => {
    const bench = new Bench({ taskOpenCountMax: 1 });
    bench.planner();
    await bench.put("/a");
    await bench.clock.advance(10_000);
    await bench.put("/b");
    await bench.clock.advance(10_000);
    expect(countTasks(bench.tree.store).upload.waiting).to.equal(1);
    bench.worker();
    await bench.clock.advance(30_000);

    expect(bench.reports().map(({ fileCount }) => fileCount)).to.deep.equal([1, 1]);
  });
});

describe("UploadHandler", function () {
  this.timeout(30_000);

  it("verifies every copy, and changes nothing", async () => {
    const bench = new Bench();
    const file = await bench.put("/a.txt");
    await bench.put("/b");
    const before = bench.entry(file);
    bench.planner();
    bench.worker();
    await bench.clock.advance(60_000);

    expect(bench.entry(file)).to.deep.equal(before);
    expect(bench.reports(), "one task for both, and no further one").to.deep.equal([
      {
        ...{ fileCount: 2, goneCount: 0, verifiedCopyCount: 6, badCopyCount: 0, unansweredCopyCount: 0 },
        sha256Count: 0,
      },
    ]);
  });

  it("computes the plain SHA-256 of a file that came through several nodes", async () => {
    const bench = new Bench();
    const bytes = patternBytes(3 * 1024 * 1024 + 5);
    const [drive, other] = [bench.drive(1), bench.drive(2)];
    const { uploadId } = await drive.initUpload(uploadOf("/big", { sizeBytes: bytes.length }));
    for (const index of [3, 1, 0, 2]) {
      const through = index % 2 === 0 ? drive : other;
      await through.writeChunk(uploadId, index, bytes.subarray(index << 20, (index + 1) << 20), undefined);
    }
    const { entry } = await drive.completeUpload(uploadId, {});
    expect(entry.sha256, "not known at first").to.have.length(0);
    bench.planner();
    bench.worker();
    await bench.clock.advance(30_000);

    expect(Buffer.from(bench.entry(entry.entryId).sha256)).to.deep.equal(Buffer.from(sha256(bytes)));
    expect(bench.reports()[0]).to.include({ sha256Count: 1, verifiedCopyCount: 3 });
  });

  it("reports a damaged and a missing copy, and goes on where a node does not answer", async () => {
    const bench = new Bench();
    const damaged = bench.entry(await bench.put("/damaged")).contentId;
    const missing = bench.entry(await bench.put("/missing")).contentId;
    bench.replicas.store(1).damage({ contentId: damaged, extentIndex: 0 }, 0);
    await bench.replicas.store(2).removeExtent({ contentId: missing, extentIndex: 0 });
    bench.kill(3);
    bench.planner();
    bench.worker();
    await bench.clock.advance(60_000);

    expect(bench.badCopies.sort((a, b) => a.localeCompare(b))).to.deep.equal([
      `${damaged} 1 corrupt`,
      `${missing} 2 lost`,
    ]);
    expect(bench.reports()[0]).to.include({ verifiedCopyCount: 2, badCopyCount: 2, unansweredCopyCount: 2 });
  });

  for (const [fileCount, callCount] of [
    [CHECK_FILE_COUNT_MAX, 1],
    [CHECK_FILE_COUNT_MAX + 1, 2],
  ] as const) {
    it(`asks each node ${callCount === 1 ? "once" : "twice"} about ${fileCount} small files`, async () => {
      const bench = new Bench();
      for (let file = 0; file < fileCount; file += 1) await bench.put(`/f${file}`);
      const asked: number[] = [];
      bench.replicas.onCall = ({ method, memberId }) => {
        if (method === "verifyExtents") asked.push(memberId);
      };
      bench.planner();
      bench.worker();
      await bench.clock.advance(60_000);

      expect(bench.reports()[0]).to.include({ fileCount, verifiedCopyCount: 3 * fileCount });
      for (const memberId of [1, 2, 3]) {
        expect(asked.filter((id) => id === memberId)).to.have.length(callCount);
      }
    });
  }

  for (const [excessBytes, callCount] of [
    [0, 1],
    [1, 2],
  ] as const) {
    it(`reads ${excessBytes === 0 ? "4 MiB" : "more than 4 MiB"} with ${callCount} calls to each node`, async () => {
      const bench = new Bench();
      await bench.put("/half", patternBytes(CHECK_BYTES_MAX / 2));
      await bench.put("/rest", patternBytes(CHECK_BYTES_MAX / 2 + excessBytes));
      let askedCount = 0;
      bench.replicas.onCall = ({ method }) => {
        if (method === "verifyExtents") askedCount += 1;
      };
      bench.planner();
      bench.worker();
      await bench.clock.advance(60_000);

      expect(bench.reports()[0]).to.include({ fileCount: 2, verifiedCopyCount: 6 });
      expect(askedCount).to.equal(3 * callCount);
    });
  }

  it("does not mind files that went meanwhile", async () => {
    const bench = new Bench();
    const entryId = await bench.put("/gone");
    bench.planner();
    await bench.clock.advance(10_000);
    await bench.drive().remove({ entryId }, { recursive: false });
    bench.worker();
    await bench.clock.advance(10_000);

    expect(bench.reports()[0]).to.include({ fileCount: 0, goneCount: 1 });
    expect(extentsOf(bench.tree.store, 0)).to.deep.equal([]);
  });
});

describe("parseUploadRun()", () => {
  it("takes as many files as a run may have and not one more", async () => {
    const entryIds = Array.from({ length: UPLOAD_RUN_COUNT_MAX }, (_, i) => i + 1);
    expect(parseUploadRun(encodeUploadRun({ entryIds })).entryIds).to.have.length(UPLOAD_RUN_COUNT_MAX);
    const more = encodeUploadRun({ entryIds: [...entryIds, UPLOAD_RUN_COUNT_MAX + 1] });
    await expectReason("ARGUMENT_INVALID", () => Promise.resolve().then(() => parseUploadRun(more)));
  });

  for (const text of ["", "{}", "null", '{"entryIds":[0]}', '{"entryIds":["1"]}']) {
    it(`refuses ${JSON.stringify(text)}`, async () => {
      await expectReason("ARGUMENT_INVALID", () => Promise.resolve().then(() => parseUploadRun(utf8(text))));
    });
  }
});
