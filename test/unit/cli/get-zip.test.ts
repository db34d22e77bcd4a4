/** `netdisk get --zip`. */
import { expect } from "chai";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DriveError } from "../../../src/drive/errors.ts";
import { noTasks, type Task } from "../../../src/drive/task.ts";
import { downloadStatus, FakePreparedDownloads } from "../../support/fake-prepared-downloads.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { netdisk } from "./run-cli.ts";

const BYTES = Buffer.from(Array.from({ length: 5000 }, (_, i) => i % 251));

describe("netdisk get --zip", function () {
  this.timeout(20_000);
  let folder = "";
  let downloads: FakePreparedDownloads;
  let drive: MemoryDrive;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "netdisk-zip-"));
    downloads = new FakePreparedDownloads(BYTES);
    drive = new MemoryDrive();
    drive.preparedDownloads = downloads;
  });
  afterEach(async () => {
    await rm(folder, { recursive: true, force: true });
  });

  it("waits until the archive is ready, and stores it under its name in a folder", async () => {
    downloads.states = [downloadStatus(), downloadStatus({ state: "running" }), ...downloads.states];

    const result = await netdisk(["get", "--zip", "/照片", "/b", folder], { drive });

    expect(result.code, result.err).to.equal(0);
    expect(downloads.asked[0]?.sources).to.deep.equal([{ path: "/照片" }, { path: "/b" }]);
    expect(await readdir(folder)).to.deep.equal(["照片.zip"]);
    expect((await readFile(join(folder, "照片.zip"))).equals(BYTES)).to.equal(true);
    expect(result.out).to.include("3 files and folders");
  });

  it("releases the download once it is here whole, unless it is to be kept", async () => {
    const fetch = (name: string, ...more: string[]) =>
      netdisk(["get", "--zip", ...more, "/a", join(folder, name)], { drive });

    expect((await fetch("kept.zip", "--keep")).code).to.equal(0);
    expect(downloads.released).to.deep.equal([]);
    downloads.breakAfter = { sizeBytes: 1500, error: new DriveError("CHUNK_LOST", "Lost.") };
    expect((await fetch("broken.zip")).code).to.not.equal(0);
    expect(downloads.released).to.deep.equal([]);
    expect((await fetch("whole.zip")).code).to.equal(0);
    expect(downloads.released).to.deep.equal([12]);
    expect((await netdisk(["get", "--zip", "/a", "-"], { drive })).code).to.equal(0);
    expect(downloads.released).to.deep.equal([12, 12]);
  });

  it("has the archive although it could not be released, and says so", async () => {
    downloads.releaseFailure = new DriveError("INTERNAL", "The node is older.");

    const result = await netdisk(["get", "--zip", "/a", join(folder, "x.zip")], { drive });

    expect(result.code).to.equal(0);
    expect(result.err).to.include("keeps the prepared download 12 for 24 hours: The node is older.");
    expect(await readdir(folder)).to.deep.equal(["x.zip"]);
  });

  it("releases one by its task once it is done, and cancels it before that", async () => {
    const cancelled: number[] = [];
    const task = (state: Task["state"]): Task => ({
      ...{ taskId: 12, kind: "download", key: "", state, attemptCount: 1, attemptCountMax: 5, memberId: 0 },
      ...{
        parameters: new Uint8Array(0),
        result: new Uint8Array(0),
        progress: { doneCount: 0, totalCount: 0 },
      },
      ...{ createTimeMs: 0, updateTimeMs: 0, dueTimeMs: 0, fence: 0, error: undefined },
    });
    const run = (state: Task["state"]) => {
      drive.tasks = {
        ...noTasks,
        get: () => Promise.resolve(task(state)),
        cancel: (taskId) => {
          cancelled.push(taskId);
          return Promise.resolve(task("cancelled"));
        },
      };
      return netdisk(["tasks", "cancel", "12"], { drive });
    };

    expect((await run("running")).code).to.equal(0);
    expect([cancelled, downloads.released]).to.deep.equal([[12], []]);
    const { code, err } = await run("done");
    expect([code, cancelled, downloads.released]).to.deep.equal([0, [12], [12]]);
    expect(err).to.include("The download is released");
  });

  it("goes on where reading broke off", async () => {
    downloads.breakAfter = { sizeBytes: 1500, error: new DriveError("NO_LEADER", "No leader.") };

    const result = await netdisk(["get", "--zip", "/a", join(folder, "x.zip")], { drive });

    expect(result.code, result.err).to.equal(0);
    expect(downloads.ranges).to.deep.equal([
      [0, 5000],
      [1500, 3500],
    ]);
    expect((await readFile(join(folder, "x.zip"))).equals(BYTES)).to.equal(true);
  });

  it("replaces nothing unless told to, and leaves nothing of an archive that failed", async () => {
    const path = join(folder, "x.zip");
    await writeFile(path, "mine");
    expect((await netdisk(["get", "--zip", "/a", path], { drive })).code).to.not.equal(0);
    expect(await readFile(path, "utf8")).to.equal("mine");

    downloads.breakAfter = { sizeBytes: 1500, error: new DriveError("CHUNK_LOST", "Lost.") };
    expect((await netdisk(["get", "--zip", "--overwrite", "/a", path], { drive })).code).to.not.equal(0);
    expect(await readdir(folder)).to.deep.equal(["x.zip"]);
    expect(await readFile(path, "utf8")).to.equal("mine");

    expect((await netdisk(["get", "--zip", "--overwrite", "/a", path], { drive })).code).to.equal(0);
    expect((await readFile(path)).equals(BYTES)).to.equal(true);
  });

  it("says why a download could not be prepared", async () => {
    const error = { reason: "DOWNLOAD_TOO_LARGE", message: "There are too many files." };
    downloads.states = [downloadStatus({ state: "failed", error })];

    const result = await netdisk(["get", "--zip", "/a", join(folder, "x.zip")], { drive });

    expect(result.code).to.not.equal(0);
    expect(result.err).to.include("There are too many files.");
    expect(await readdir(folder)).to.deep.equal([]);
  });
});
