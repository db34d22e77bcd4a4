/**
 * Prepared downloads. Goal: an archive is the same bytes at every node and for every range, whatever becomes of its files, until
 * its time is over. Method: whole drives in memory over the real state machine; tasks are run by hand.
 */
import { expect } from "chai";
import { valueOfKind } from "../../../src/cluster/metadata-client.ts";
import {
  CHUNK_SIZE_BYTES,
  CLOCK_ADVANCE_MS_MAX,
  DROP_GRACE_MS,
  PREPARED_DOWNLOAD_LIFETIME_MS,
} from "../../../src/drive/limits.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import type { Task } from "../../../src/drive/task.ts";
import { findTask } from "../../../src/metadata/task-view.ts";
import { getContent } from "../../../src/metadata/view.ts";
import { must } from "../../../src/std/assert.ts";
import { isFinal } from "../../../src/tasks/task-worker.ts";
import { DownloadMaker } from "../../../src/transfer/download-maker.ts";
import { DownloadSweeper } from "../../../src/transfer/download-sweeper.ts";
import { DownloadTaskHandler, PreparedDownloads } from "../../../src/transfer/prepared-downloads.ts";
import { FilePutter } from "../../../src/transfer/put-file.ts";
import { Snapshots } from "../../../src/transfer/snapshot.ts";
import { TreeReads } from "../../../src/transfer/tree-reads.ts";
import { UploadManager } from "../../../src/transfer/upload-manager.ts";
import { unpackStored } from "../../support/archives.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { bytesOf, freePace, patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

const LARGE = patternBytes(3 * CHUNK_SIZE_BYTES + 77);
const MEDIUM = patternBytes(300 * 1024, 2);

/** One node's prepared downloads, its tasks run when the test says so. */
class Preparer {
  readonly drives: TestDrives;
  readonly downloads: PreparedDownloads;
  readonly handler: DownloadTaskHandler;
  readonly sweeper: DownloadSweeper;
  readonly progress: [number, number][] = [];
  readonly #memberId: number;

  constructor(drives: TestDrives, memberId = 1, bounds: { entries?: number; downloads?: number } = {}) {
    this.drives = drives;
    this.#memberId = memberId;
    const { plane } = drives.node(memberId);
    const { metadata } = plane;
    const reads = new TreeReads(metadata);
    const snapshots = new Snapshots(metadata, reads);
    this.downloads = new PreparedDownloads({
      plane,
      reads,
      downloadCountMax: bounds.downloads,
      tasks: {
        create: async ({ kind, key, parameters }, options) =>
          (
            await metadata.apply(
              { kind: "create-task", taskKind: kind, key, parameters, plan: undefined },
              "task",
              options,
            )
          ).task,
        get: async (taskId) => Promise.resolve(this.task(taskId)),
        cancel: async (taskId, options) =>
          (await metadata.apply({ kind: "cancel-task", taskId }, "task", options)).task,
      },
    });
    const maker = new DownloadMaker({
      plane,
      snapshots,
      putter: new FilePutter(plane, new UploadManager(plane)),
      pace: freePace(drives.clock).pace,
      entryCountMax: bounds.entries,
    });
    this.handler = new DownloadTaskHandler(maker, this.downloads);
    this.sweeper = new DownloadSweeper({
      clock: drives.clock,
      metadata,
      snapshots,
      findTask: (taskId) => findTask(drives.tree.store, taskId),
    });
  }

  task(taskId: number): Task {
    const task = findTask(this.drives.tree.store, taskId);
    if (task === undefined) throw new DriveError("TASK_NOT_FOUND", "There is no such task.");
    return task;
  }

  async ask(paths: readonly string[], name?: string): Promise<number> {
    const sources = paths.map((path) => ({ path }));
    return (await this.downloads.prepare({ sources, name })).downloadId;
  }

  /** Claims a task, works on it and records how that ended. */
  async run(taskId: number): Promise<void> {
    const memberId = this.#memberId;
    const { fence } = valueOfKind(
      this.drives.tree.apply({ kind: "claim-task", taskId, memberId, leaseMs: 60_000 }),
      "task",
    ).task;
    const hold = { taskId, fence };
    try {
      const result = await this.handler.run(this.task(taskId), {
        signal: new AbortController().signal,
        progress: (done, total) => this.progress.push([done, total]),
      });
      this.drives.tree.apply({ kind: "finish-task", hold, result });
    } catch (error) {
      if (!(error instanceof DriveError)) throw error;
      const { reason, message } = error;
      this.drives.tree.apply({ kind: "fail-task", hold, reason, message, isFinal: isFinal(error) });
    }
  }

  async prepared(paths: readonly string[], name?: string): Promise<number> {
    const id = await this.ask(paths, name);
    await this.run(id);
    expect(this.task(id).state, this.task(id).error?.message).to.equal("done");
    return id;
  }

  async whole(downloadId: number): Promise<Buffer> {
    const opened = await this.downloads.open(downloadId);
    return bytesOf(opened.read(0, opened.sizeBytes));
  }
}

async function withFolder(): Promise<TestDrives> {
  const drives = new TestDrives(3);
  drives.grantLease();
  const drive = drives.drive();
  const put = (path: string, bytes: Uint8Array) => drive.putFile(uploadOf(path), streamOf(bytes));
  await put("/照片/大.bin", LARGE);
  await put("/照片/中.bin", MEDIUM);
  await put("/照片/空.txt", new Uint8Array(0));
  for (let i = 0; i < 30; i += 1) await put(`/照片/小/${i}.txt`, Buffer.from(`file ${i}\n`));
  const attributes = {};
  await drive.createDirectory("/照片/空文件夹", { createParents: false, existOk: false, attributes });
  return drives;
}

function advance(drives: TestDrives, ms: number): void {
  for (let left = ms; left > 0; left -= CLOCK_ADVANCE_MS_MAX) {
    drives.tree.apply({ kind: "advance-clock", elapsedMs: Math.min(left, CLOCK_ADVANCE_MS_MAX) });
  }
}

/** The leader's chores until nothing is left. */
function reclaimAll(drives: TestDrives): void {
  for (const body of [{ kind: "reclaim" }, { kind: "expire" }] as const) {
    while (valueOfKind(drives.tree.apply(body), "batch").more);
  }
}

describe("prepared downloads", function () {
  this.timeout(20_000);

  it("hold a folder with all that is in it, at every node, with the announced length", async () => {
    const drives = await withFolder();
    const id = await new Preparer(drives).prepared(["/照片"]);

    const archives = await Promise.all([1, 2, 3].map((member) => new Preparer(drives, member).whole(id)));
    const files = unpackStored(must(archives[0], "an archive"));
    const status = await new Preparer(drives, 3).downloads.status(id);

    expect(archives.map((archive) => archive.equals(must(archives[0], "the first")))).to.deep.equal([
      true,
      true,
      true,
    ]);
    expect(files.size).to.equal(36);
    expect(files.get("照片/大.bin")?.equals(LARGE)).to.equal(true);
    expect(files.get("照片/中.bin")?.equals(MEDIUM)).to.equal(true);
    expect(files.get("照片/空.txt")?.length).to.equal(0);
    expect(files.get("照片/小/7.txt")?.toString()).to.equal("file 7\n");
    expect([...files.keys()]).to.include.members(["照片/", "照片/小/", "照片/空文件夹/"]);
    expect(status).to.include({ state: "done", name: "照片.zip", entryCount: 36 });
    expect(status.sizeBytes).to.equal(archives[0]?.length);
  });

  it("do not count among the files of users, but apart, while they are filled and after", async () => {
    const drives = await withFolder();
    const figures = async (): Promise<unknown> => {
      const { fileCount, directoryCount } = await drives.drive(2).cluster();
      return { fileCount, directoryCount };
    };
    const materialise = (): unknown =>
      drives.tree.apply({ kind: "materialise", directoryId: 0, path: [] }).outcome;
    const before = await figures();
    expect(before).to.deep.equal({ fileCount: 33, directoryCount: 3 });
    expect((await drives.drive(2).cluster()).preparedDownloads).to.equal(undefined);

    const preparer = new Preparer(drives);
    const snapshots = new Snapshots(
      drives.node(1).plane.metadata,
      new TreeReads(drives.node(1).plane.metadata),
    );
    const source = must((await drives.drive().stat({ path: "/照片" })).entry.entryId, "a folder");
    await snapshots.make(777, [source], new AbortController().signal);
    expect(await figures(), "nothing of the copy is made").to.deep.equal(before);
    materialise();
    expect(await figures(), "some or all is made").to.deep.equal(before);
    const id = await preparer.prepared(["/照片"]);
    for (let i = 0; i < 10; i += 1) materialise();
    await drives.drive().putFile(uploadOf("/new"), streamOf(MEDIUM));

    expect(await figures()).to.deep.equal({ fileCount: 34, directoryCount: 3 });
    const kept = must((await drives.drive(2).cluster()).preparedDownloads, "what is kept");
    expect(kept.downloadCount).to.equal(2);
    // Each has the files, and the one that is ready its layout.
    expect(kept.fileCount).to.equal(2 * 33 + 1);
    expect(kept.sizeBytes).to.be.greaterThan(2 * (LARGE.length + MEDIUM.length));
    expect(kept.expireTimeMs).to.equal((await preparer.downloads.status(id)).expireTimeMs);

    advance(drives, PREPARED_DOWNLOAD_LIFETIME_MS + 1);
    await preparer.sweeper.round(new AbortController().signal);
    expect(await figures(), "removed and not reclaimed").to.deep.equal({ fileCount: 34, directoryCount: 3 });
    reclaimAll(drives);
    expect(await figures()).to.deep.equal({ fileCount: 34, directoryCount: 3 });
    expect((await drives.drive(2).cluster()).preparedDownloads).to.equal(undefined);
  });

  it("give back what they keep when they are released, at once and harmlessly twice", async () => {
    const drives = await withFolder();
    const preparer = new Preparer(drives);
    const id = await preparer.prepared(["/照片"]);
    const opened = await preparer.downloads.open(id);
    await drives.drive().remove({ path: "/照片" }, { recursive: true });

    await new Preparer(drives, 2).downloads.release(id);
    await new Preparer(drives, 3).downloads.release(id);
    reclaimAll(drives);
    advance(drives, 2 * DROP_GRACE_MS);
    reclaimAll(drives);

    const { contentBytes, preparedDownloads } = await drives.drive().cluster();
    expect({ contentBytes, preparedDownloads }).to.deep.equal({
      contentBytes: 0,
      preparedDownloads: undefined,
    });
    await expectReason("DOWNLOAD_EXPIRED", () => preparer.downloads.open(id));
    await expectReason("DOWNLOAD_EXPIRED", () => bytesOf(opened.read(0, opened.sizeBytes)));
    await expectReason("TASK_NOT_FOUND", () => preparer.downloads.release(4711));
  });

  it("tell who reads a large file of one that is released that it was, when the copies go", async () => {
    const drives = new TestDrives(3);
    const preparer = new Preparer(drives);
    const bytes = patternBytes(12 * CHUNK_SIZE_BYTES);
    const { entry } = await drives.drive().putFile(uploadOf("/large"), streamOf(bytes));
    const id = await preparer.prepared(["/large"]);
    const opened = await preparer.downloads.open(id);
    const reading = opened.read(0, opened.sizeBytes)[Symbol.asyncIterator]();
    for (let count = 0; count < 3; count += 1) expect((await reading.next()).done).to.equal(false);

    await drives.drive().remove({ path: "/large" }, { recursive: false });
    await preparer.downloads.release(id);
    reclaimAll(drives);
    advance(drives, 2 * DROP_GRACE_MS);
    reclaimAll(drives);
    const extent = { contentId: entry.contentId, extentIndex: 0 };
    for (const memberId of [1, 2, 3]) await drives.replicas.store(memberId).removeExtent(extent);

    const outcome = expectReason("DOWNLOAD_EXPIRED", async () => {
      while ((await reading.next()).done !== true);
    });
    for (let count = 0; count < 20; count += 1) await drives.clock.advance(1000);
    await outcome;
  });

  it("are prepared no further once they are released, whoever works on them still", async () => {
    const drives = await withFolder();
    const preparer = new Preparer(drives);
    const waiting = await preparer.ask(["/照片"]);
    const running = await preparer.ask(["/照片"]);
    drives.tree.apply({ kind: "claim-task", taskId: running, memberId: 1, leaseMs: 60_000 });

    await preparer.downloads.release(waiting);
    await preparer.downloads.release(running);
    // The worker has not heard of it yet.
    const work = { signal: new AbortController().signal, progress: () => undefined };
    await preparer.handler.run(preparer.task(running), work);
    await preparer.sweeper.round(new AbortController().signal);

    expect([preparer.task(waiting).state, preparer.task(running).state]).to.deep.equal([
      "cancelled",
      "cancelled",
    ]);
    expect((await drives.drive().cluster()).preparedDownloads).to.equal(undefined);
    await expectReason("DOWNLOAD_FAILED", () => preparer.downloads.open(running));
  });

  it("give the same bytes for any range as for the whole", async () => {
    const drives = await withFolder();
    const preparer = new Preparer(drives);
    const id = await preparer.prepared(["/照片"]);
    const whole = await preparer.whole(id);
    const opened = await new Preparer(drives, 2).downloads.open(id);

    for (let at = 0; at < whole.length; at += 250_007) {
      for (const length of [1, 4096, 700_000]) {
        const to = Math.min(whole.length, at + length);
        const range = await bytesOf(opened.read(at, to - at));
        if (!range.equals(whole.subarray(at, to))) expect.fail(`[${at}, ${to}) differs`);
      }
    }
    await expectReason("RANGE_NOT_SATISFIABLE", () => bytesOf(opened.read(whole.length, 1)));
  });

  it("stay what they were while files are replaced, deleted and reclaimed", async () => {
    const drives = await withFolder();
    const drive = drives.drive();
    const preparer = new Preparer(drives);
    const id = await preparer.prepared(["/照片"]);
    const before = await preparer.whole(id);
    const { etag } = await preparer.downloads.open(id);

    await drive.putFile(uploadOf("/照片/中.bin", { onConflict: "replace" }), streamOf(patternBytes(9)));
    await drive.remove({ path: "/照片" }, { recursive: true });
    reclaimAll(drives);
    advance(drives, 2 * DROP_GRACE_MS);
    reclaimAll(drives);

    expect((await new Preparer(drives, 3).whole(id)).equals(before)).to.equal(true);
    expect((await new Preparer(drives, 3).downloads.open(id)).etag).to.equal(etag);
  });

  it("hold what the folder had when preparing began, although it is gone while files are read", async () => {
    const drives = await withFolder();
    const preparer = new Preparer(drives);
    const id = await preparer.ask(["/照片"]);
    let removal: Promise<void> | undefined;
    drives.tree.onPropose = (body) => {
      // The first command after the snapshot is complete.
      if (body.kind !== "create-directory" || body.at.path.at(-1) !== "complete") return;
      drives.tree.onPropose = undefined;
      removal = drives.drive().remove({ path: "/照片" }, { recursive: true });
    };

    await preparer.run(id);
    await removal;

    expect(unpackStored(await preparer.whole(id)).size).to.equal(36);
  });

  it("tell how far preparing is, in bytes of files", async () => {
    const drives = await withFolder();
    const preparer = new Preparer(drives);
    await preparer.prepared(["/照片"]);

    const [first, last] = [preparer.progress[0], preparer.progress.at(-1)];
    expect(first?.[0]).to.equal(0);
    expect(last?.[0]).to.equal(last?.[1]);
    expect(last?.[1]).to.be.above(LARGE.length + MEDIUM.length);
  });

  it("take several files and folders, equal names numbered, and the whole drive", async () => {
    const drives = await withFolder();
    await drives.drive().putFile(uploadOf("/b/小"), streamOf(Buffer.from("a file")));
    const preparer = new Preparer(drives);

    const some = await preparer.prepared(["/照片/小", "/b/小", "/照片/空.txt"], "my files");
    const all = await preparer.prepared(["/"]);

    const names = [...unpackStored(await preparer.whole(some)).keys()];
    expect(names.filter((name) => !/^小\/./.test(name))).to.deep.equal(["小/", "小 (2)", "空.txt"]);
    expect((await preparer.downloads.status(some)).name).to.equal("my files.zip");
    expect(unpackStored(await preparer.whole(all)).size).to.equal(38);
  });

  it("have the same tag and bytes when the same files are prepared twice", async () => {
    const drives = await withFolder();
    const preparer = new Preparer(drives);

    const [one, two] = [await preparer.prepared(["/照片"]), await preparer.prepared(["/照片"])];

    const tags = await Promise.all([one, two].map(async (id) => (await preparer.downloads.open(id)).etag));
    expect(tags[0]).to.equal(tags[1]);
    expect((await preparer.whole(one)).equals(await preparer.whole(two))).to.equal(true);
  });

  it("say what keeps them from being read: unknown, not ready, cancelled, expired", async () => {
    const drives = await withFolder();
    const preparer = new Preparer(drives);
    const { downloads } = preparer;
    await expectReason("TASK_NOT_FOUND", () => downloads.open(99));

    const id = await preparer.ask(["/照片"]);
    await expectReason("DOWNLOAD_NOT_READY", () => downloads.open(id));
    const other = await preparer.ask(["/照片"]);
    drives.tree.apply({ kind: "cancel-task", taskId: other });
    await expectReason("DOWNLOAD_FAILED", () => downloads.open(other));

    await preparer.run(id);
    advance(drives, PREPARED_DOWNLOAD_LIFETIME_MS - 1000);
    await preparer.whole(id);
    advance(drives, 2000);
    await expectReason("DOWNLOAD_EXPIRED", () => downloads.open(id));
  });

  it("give everything back when their time is over, or when they were cancelled", async () => {
    const drives = await withFolder();
    const preparer = new Preparer(drives);
    const { entry } = await drives.drive().stat({ path: "/照片/大.bin" });
    await preparer.prepared(["/照片"]);
    const failed = await preparer.ask(["/照片"]);
    drives.tree.onPropose = (body) => {
      if (body.kind === "put-small" && body.at.path.includes("layout"))
        throw new DriveError("NO_SPACE", "Full.");
    };
    await preparer.run(failed);
    drives.tree.onPropose = undefined;
    drives.tree.apply({ kind: "cancel-task", taskId: failed });
    await drives.drive().remove({ path: "/照片" }, { recursive: true });
    const references = (): number => {
      reclaimAll(drives);
      return getContent(drives.tree.store, entry.contentId)?.referenceCount ?? 0;
    };
    const signal = new AbortController().signal;

    expect(references()).to.equal(2);
    await preparer.sweeper.round(signal);
    expect(references()).to.equal(1);
    advance(drives, PREPARED_DOWNLOAD_LIFETIME_MS + 1000);
    await new Preparer(drives, 2).sweeper.round(signal);
    expect(references(), "only the leader sweeps").to.equal(1);
    await preparer.sweeper.round(signal);
    expect(references()).to.equal(0);
  });

  it("are tried again after an attempt that ended in the middle, at another node", async () => {
    const drives = await withFolder();
    const preparer = new Preparer(drives);
    const id = await preparer.ask(["/照片"]);
    drives.tree.onPropose = (body) => {
      if (body.kind === "copy-entry") throw new DriveError("NO_LEADER", "No leader.");
    };
    await preparer.run(id);
    drives.tree.lostAnswers.set("copy-entry", 1);
    drives.tree.onPropose = undefined;
    advance(drives, 60_000);
    await preparer.run(id);
    advance(drives, 60_000);
    expect(preparer.task(id).state).to.equal("waiting");

    await new Preparer(drives, 2).run(id);

    expect(preparer.task(id).state).to.equal("done");
    expect(unpackStored(await preparer.whole(id)).size).to.equal(36);
  });

  it("are bounded in entries, sources and number", async () => {
    const drives = await withFolder();
    const atLimit = new Preparer(drives, 1, { entries: 36, downloads: 2 });
    const above = new Preparer(drives, 1, { entries: 35 });

    await atLimit.prepared(["/照片"]);
    const id = await above.ask(["/照片"]);
    await above.run(id);

    expect(above.task(id)).to.include({ state: "failed" });
    expect(above.task(id).error?.reason).to.equal("DOWNLOAD_TOO_LARGE");
    await expectReason("DOWNLOAD_FAILED", () => above.downloads.open(id));
    await expectReason("OVERLOADED", () => atLimit.ask(["/照片"]));
    await expectReason("ARGUMENT_INVALID", () => above.ask([]));
    await expectReason("ARGUMENT_INVALID", () => above.ask(Array.from({ length: 1001 }, () => "/照片")));
    await above.ask(Array.from({ length: 1000 }, () => "/照片"));
    await expectReason("PATH_NOT_FOUND", () => above.ask(["/照片", "/none"]));
  });

  it("go on from other copies in the middle of a file", async () => {
    const drives = await withFolder();
    const preparer = new Preparer(drives, 2);
    const id = await preparer.prepared(["/照片"]);
    const opened = await preparer.downloads.open(id);
    const whole = await preparer.whole(id);

    const parts: Uint8Array[] = [];
    for await (const part of opened.read(0, opened.sizeBytes)) {
      parts.push(part);
      if (parts.length === 1) drives.kill(2);
    }

    expect(Buffer.concat(parts).equals(whole)).to.equal(true);
  });
});
