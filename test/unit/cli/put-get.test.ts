/**
 * Goal: what is put comes back the same, whatever it is and whatever happens on the way; failures are said and counted.
 * Method: the whole command line over a drive in memory and real files in a directory of the test.
 */
import { expect } from "chai";
import * as fs from "node:fs";
import { join } from "node:path";
import { FILE_COUNT_IN_FLIGHT } from "../../../src/cli/command-context.ts";
import type {
  ChunkReceipt,
  Download,
  EntryRef,
  PathEntry,
  UploadRequest,
  WriteOptions,
  Progress,
} from "../../../src/drive/drive-api.ts";
import type { OnConflict } from "../../../src/drive/entry.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { must } from "../../../src/std/assert.ts";
import { toHex } from "../../../src/std/bytes.ts";
import { foldTreeHash, sha256 } from "../../../src/std/digest.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { netdisk, pattern, useDirectory } from "./run-cli.ts";

const MIB = 1024 * 1024;

/** A drive whose nodes fail now and then, and that counts what it is asked. */
class FlakyDrive extends MemoryDrive {
  /** Errors that the next calls of a method fail with, one each. */
  readonly failures: Partial<
    Record<"putFile" | "writeChunk" | "completeUpload" | "openDownload" | "read", Error[]>
  > = {};
  readonly writtenChunks: number[] = [];
  putFileRequestIds: (string | undefined)[] = [];
  readOffsets: number[] = [];
  /** Runs before each chunk is taken. */
  beforeChunk: (chunkIndex: number) => void = () => undefined;

  #failNext(method: keyof FlakyDrive["failures"]): void {
    const error = this.failures[method]?.shift();
    if (error !== undefined) throw error;
  }

  override async putFile(
    request: UploadRequest,
    body: AsyncIterable<Uint8Array>,
    options?: WriteOptions,
  ): Promise<PathEntry> {
    this.putFileRequestIds.push(options?.requestId);
    this.#failNext("putFile");
    return super.putFile(request, body, options);
  }

  override async writeChunk(
    uploadId: number,
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array | undefined,
    signal?: AbortSignal,
  ): Promise<ChunkReceipt> {
    this.beforeChunk(chunkIndex);
    this.#failNext("writeChunk");
    this.writtenChunks.push(chunkIndex);
    return super.writeChunk(uploadId, chunkIndex, bytes, digest, signal);
  }

  override async completeUpload(
    uploadId: number,
    settings: { sizeBytes?: number | undefined; onConflict?: OnConflict | undefined },
    options?: WriteOptions,
  ): Promise<PathEntry> {
    this.#failNext("completeUpload");
    return super.completeUpload(uploadId, settings, options);
  }

  override async openDownload(ref: EntryRef): Promise<Download> {
    this.#failNext("openDownload");
    const download = await super.openDownload(ref);
    const begin = (offset: number): Error | undefined => {
      this.readOffsets.push(offset);
      return this.failures.read?.shift();
    };
    return {
      ...download,
      entry: download.entry,
      async *read(offset, length, signal) {
        const failure = begin(offset);
        // One chunk and a half, then the node is gone.
        yield* download.read(offset, failure === undefined ? length : Math.min(length, 1.5 * MIB), signal);
        if (failure !== undefined) throw failure;
      },
    };
  }
}

const gone = (): DriveError => new DriveError("PEER_UNREACHABLE", "The node is gone.");

/** Makes files from a description: text is content, undefined an empty folder. */
function makeTree(root: string, tree: Record<string, string | Uint8Array | undefined>): void {
  for (const [path, content] of Object.entries(tree)) {
    const full = join(root, path);
    fs.mkdirSync(content === undefined ? full : join(full, ".."), { recursive: true });
    if (content !== undefined) fs.writeFileSync(full, content);
  }
}

/** Every path under `root` with its kind, mode, time and content. */
function describeTree(root: string): Record<string, string> {
  const found: Record<string, string> = {};
  for (const path of fs.readdirSync(root, { recursive: true, encoding: "utf8" })) {
    const stats = fs.lstatSync(join(root, path));
    const content = stats.isFile() ? toHex(sha256(fs.readFileSync(join(root, path)))) : "folder";
    found[path] = `${(stats.mode & 0o7777).toString(8)} ${Math.floor(stats.mtimeMs)} ${content}`;
  }
  return found;
}

describe("netdisk put and get", () => {
  const here = useDirectory();

  it("brings a folder back with empty folders, modes and times", async () => {
    const drive = new MemoryDrive();
    makeTree(here.path, {
      "src/a.txt": "alpha",
      "src/empty.bin": "",
      "src/deep/er/b.bin": pattern(3 * MIB + 17),
      "src/deep/exact.bin": pattern(MIB),
      "src/void": undefined,
      "src/back\\slash and space": "x",
      "src/ümläut": "y",
    });
    fs.chmodSync(join(here.path, "src/a.txt"), 0o640);
    fs.chmodSync(join(here.path, "src/deep"), 0o750);
    fs.utimesSync(join(here.path, "src/a.txt"), 1_500_000_000.123, 1_500_000_000.123);
    fs.utimesSync(join(here.path, "src/deep/er"), 1_400_000_000, 1_400_000_000);

    const put = await netdisk(["put", "src", "/backup"], { drive, directory: here.path });
    const get = await netdisk(["get", "/backup/src", "out"], { drive, directory: here.path });

    expect(put.err + get.err).to.equal("");
    expect([put.code, get.code]).to.deep.equal([0, 0]);
    expect(put.out).to.include("6 files put to /backup");
    expect(describeTree(join(here.path, "out/src"))).to.deep.equal(describeTree(join(here.path, "src")));
  });

  it("puts the contents of a folder written with a slash into DEST itself", async () => {
    const drive = new MemoryDrive();
    makeTree(here.path, { "src/a.txt": "alpha", "src/b/c.txt": "c" });

    await netdisk(["put", "src/", "/backup"], { drive, directory: here.path });
    await netdisk(["get", "/backup/", "out"], { drive, directory: here.path });

    expect((await drive.stat({ path: "/backup/b/c.txt" })).entry.sizeBytes).to.equal(1);
    expect(Object.keys(describeTree(join(here.path, "out"))).toSorted()).to.deep.equal([
      "a.txt",
      "b",
      "b/c.txt",
    ]);
  });

  it("gives a single file the name DEST, or its own name in a folder", async () => {
    const drive = new MemoryDrive();
    makeTree(here.path, { "a.txt": "alpha" });
    await drive.createDirectory("/docs", { createParents: false, existOk: false, attributes: {} });

    for (const to of ["/x/new-name", "/docs", "/fresh/"]) {
      const { code, err } = await netdisk(["put", "a.txt", to], { drive, directory: here.path });
      expect(err).to.equal("");
      expect(code).to.equal(0);
    }
    const get = await netdisk(["get", "/docs/a.txt", "renamed"], { drive, directory: here.path });

    expect(get.code).to.equal(0);
    for (const path of ["/x/new-name", "/docs/a.txt", "/fresh/a.txt"]) {
      expect((await drive.stat({ path })).entry.sizeBytes, path).to.equal(5);
    }
    expect(fs.readFileSync(join(here.path, "renamed"), "utf8")).to.equal("alpha");
  });

  it("says that a file is in the way of the folder that DEST names, which no option replaces", async () => {
    const drive = new MemoryDrive();
    makeTree(here.path, { "a.txt": "alpha" });
    await netdisk(["put", "a.txt", "/docs/README.md"], { drive, directory: here.path });

    const args = ["put", "--on-conflict", "replace", "a.txt", "/docs/README.md/"];
    const { code, err } = await netdisk(args, { drive, directory: here.path });

    expect(code).to.equal(1);
    expect(err).to.include("NOT_A_DIRECTORY").and.not.include("--on-conflict");
  });

  for (const rule of ["fail", "replace"]) {
    it(`says of a pipe that goes to where a folder is that no file replaces it (--on-conflict ${rule})`, async () => {
      const drive = new MemoryDrive();
      await drive.createDirectory("/docs", { createParents: false, existOk: false, attributes: {} });

      const args = ["put", "--on-conflict", rule, "-", "/docs"];
      const { code, err } = await netdisk(args, { drive, stdin: [Buffer.from("x")] });

      expect(code).to.equal(1);
      expect(err)
        .to.include("[IS_A_DIRECTORY]")
        .and.include("a file never replaces a folder")
        .and.not.include("It differs")
        .and.not.include("--on-conflict");
    });
  }

  it("prints the path under which a file was stored when that is another than asked for", async () => {
    const drive = new MemoryDrive();
    makeTree(here.path, { "o.txt": "new", "p.txt": "also new" });
    for (const name of ["o.txt", "p.txt"]) {
      makeTree(here.path, { [`old/${name}`]: "old" });
      await netdisk(["put", `old/${name}`, `/${name}`], { drive, directory: here.path });
    }
    const rename = ["put", "--on-conflict", "rename"];

    const one = await netdisk([...rename, "o.txt", "/o.txt"], { drive, directory: here.path });
    const both = await netdisk([...rename, "o.txt", "p.txt", "/"], { drive, directory: here.path });
    const json = await netdisk([...rename, "--json", "o.txt", "/o.txt"], { drive, directory: here.path });

    const stored = (text: string): string[] =>
      [...text.matchAll(/stored as (.*)\.\n/g)].map(([, to]) => to ?? "");
    expect(one.out).to.include("1 file put to /o.txt (2),");
    expect(stored(one.err)).to.deep.equal(["/o.txt (2)"]);
    expect(both.out).to.include("2 files put to /,");
    expect(stored(both.err)).to.have.members(["/o.txt (3)", "/p.txt (2)"]);
    expect(json.records()[0]).to.include({ type: "file", path: "/o.txt (4)" });
  });

  it("ignores symbolic links inside folders, and says so", async () => {
    const drive = new MemoryDrive();
    makeTree(here.path, { "src/a.txt": "alpha" });
    fs.symlinkSync("/etc/passwd", join(here.path, "src/link"));

    const { code, err, out } = await netdisk(["put", "src", "/"], { drive, directory: here.path });

    expect(code).to.equal(0);
    expect(err).to.include("src/link is a symbolic link; ignored.");
    expect(out).to.include("1 link or special file ignored");
    expect((await drive.list({ path: "/src" }, { countMax: 10 })).entries).to.have.length(1);
  });

  for (const sizeBytes of [0, 5, MIB, MIB + 1, 2 * MIB, 5 * MIB + 3]) {
    it(`takes ${sizeBytes} bytes from a pipe and gives them back to one`, async () => {
      const drive = new MemoryDrive();
      const bytes = pattern(sizeBytes);
      const pieces = [bytes.subarray(0, 7), bytes.subarray(7, 1000), bytes.subarray(1000)];

      const put = await netdisk(["put", "-", "/in/pipe.bin"], { drive, stdin: pieces });
      const get = await netdisk(["get", "/in/pipe.bin", "-"], { drive });

      expect([put.code, get.code]).to.deep.equal([0, 0]);
      expect(get.bytes.equals(bytes)).to.equal(true);
      expect(get.err).to.equal("");
    });
  }

  it("sends a file again with the same request id when no node answered", async () => {
    const drive = new FlakyDrive();
    drive.failures.putFile = [gone(), new DriveError("COMMIT_OUTCOME_UNKNOWN", "It may have happened.")];
    makeTree(here.path, { "a.txt": "alpha" });

    const { code } = await netdisk(["put", "a.txt", "/a.txt"], { drive, directory: here.path });

    expect(code).to.equal(0);
    expect(drive.putFileRequestIds).to.have.length(3);
    expect(new Set(drive.putFileRequestIds).size).to.equal(1);
  });

  it("sends the chunks that were on their way to a node that died again, and no others", async () => {
    const drive = new FlakyDrive();
    drive.failures.writeChunk = [gone(), gone()];
    makeTree(here.path, { "big.bin": pattern(6 * MIB) });

    const { code } = await netdisk(["put", "big.bin", "/big.bin"], { drive, directory: here.path });

    expect(code).to.equal(0);
    expect(drive.writtenChunks.toSorted((a, b) => a - b)).to.deep.equal([0, 1, 2, 3, 4, 5]);
  });

  it("sends again what the cluster finds missing at the end", async () => {
    const drive = new FlakyDrive();
    drive.failures.completeUpload = [
      new DriveError("UPLOAD_INCOMPLETE", "Chunks are missing.", { missing: "1" }),
    ];
    let asked = 0;
    const status = drive.uploadStatus.bind(drive);
    drive.uploadStatus = async (uploadId, options) => {
      asked += 1;
      return { ...(await status(uploadId, options)), missing: [{ first: 1, last: 2 }] };
    };
    makeTree(here.path, { "big.bin": pattern(4 * MIB) });

    const { code } = await netdisk(["put", "big.bin", "/big.bin"], { drive, directory: here.path });

    expect(code).to.equal(0);
    expect(asked).to.equal(1);
    expect(drive.writtenChunks.toSorted((a, b) => a - b)).to.deep.equal([0, 1, 1, 2, 2, 3]);
  });

  it("names a path that is not there once", async () => {
    const path = join(here.path, "nonexist");

    const { err } = await netdisk(["put", path, "/x"], { drive: new FlakyDrive(), directory: here.path });

    expect(err).to.include(`netdisk: ${path}: There is no such file or folder here. [ENOENT]`);
  });

  it("goes on with the upload of a large file in the next run", async () => {
    const drive = new FlakyDrive();
    const bytes = pattern(20 * MIB);
    makeTree(here.path, { "big.bin": bytes });
    const world = { drive, directory: here.path, stateDirectory: join(here.path, "state") };
    let interrupt: (name: string) => void = () => undefined;
    drive.beforeChunk = (chunkIndex) => {
      if (chunkIndex === 12) interrupt("SIGINT");
    };

    const first = await netdisk(["put", "big.bin", "/big.bin"], {
      ...world,
      onListen: (signal) => (interrupt = signal),
    });
    const journal = join(here.path, "state/uploads");
    const [name = ""] = fs.readdirSync(journal);
    const remembered = JSON.parse(fs.readFileSync(join(journal, name), "utf8")) as { uploadId: number };
    const { missing } = await drive.uploadStatus(remembered.uploadId);
    const expected = missing.flatMap(({ first, last }) =>
      Array.from({ length: last - first + 1 }, (_, i) => first + i),
    );
    drive.beforeChunk = () => undefined;
    drive.writtenChunks.length = 0;
    const second = await netdisk(["put", "big.bin", "/big.bin"], world);

    expect([first.code, second.code]).to.deep.equal([130, 0]);
    expect(first.err).to.include("Interrupted. The same command goes on from there.");
    expect(second.out).to.match(/more were there already\)/);
    expect(expected.length).to.be.within(8, 19);
    expect(drive.writtenChunks.toSorted((a, b) => a - b)).to.deep.equal(expected);
    const { entry } = await drive.stat({ path: "/big.bin" });
    const leaves = Array.from({ length: 20 }, (_, i) => sha256(bytes.subarray(i * MIB, (i + 1) * MIB)));
    expect(toHex(entry.treeHash)).to.equal(toHex(foldTreeHash(leaves)));
    expect(fs.readdirSync(join(here.path, "state/uploads"))).to.deep.equal([]);
  });

  it("refuses to replace what is there, says how, and skips equal files", async () => {
    const drive = new MemoryDrive();
    makeTree(here.path, { "src/a.txt": "alpha", "src/b.txt": "beta", "src/big.bin": pattern(2 * MIB) });
    const world = { drive, directory: here.path };
    await netdisk(["put", "src", "/"], world);
    fs.writeFileSync(join(here.path, "src/b.txt"), "BETA");
    fs.writeFileSync(join(here.path, "src/c.txt"), "new");

    const again = await netdisk(["put", "src", "/"], world);
    const resumed = await netdisk(["put", "--json", "--on-conflict", "replace", "src", "/"], world);

    expect(resumed.err).to.equal("");
    expect(again.code).to.equal(3);
    expect(again.err).to.include("--on-conflict").and.include("[PATH_EXISTS]");
    expect(resumed.code).to.equal(0);
    const status = Object.fromEntries(
      resumed
        .records()
        .filter(({ type }) => type === "file")
        .map((record) => [String(record["path"]), record["status"]]),
    );
    expect(status).to.deep.equal({
      "/src/a.txt": "skipped",
      "/src/b.txt": "stored",
      "/src/big.bin": "skipped",
      "/src/c.txt": "skipped",
    });
  });

  it("goes on past a source that is missing, and ends with 3; with 1 when nothing was done", async () => {
    const drive = new MemoryDrive();
    makeTree(here.path, { "a.txt": "alpha" });

    const partly = await netdisk(["put", "a.txt", "nothing", "/d"], { drive, directory: here.path });
    const none = await netdisk(["put", "nothing", "/d"], { drive, directory: here.path });

    expect([partly.code, none.code]).to.deep.equal([3, 1]);
    expect(partly.err).to.include("[ENOENT]");
    expect((await drive.stat({ path: "/d/a.txt" })).entry.kind).to.equal("file");
  });

  it("ends at once, not once for each file, when the cluster stays away", async () => {
    const drive = new FlakyDrive();
    for (let i = 0; i < 200; i += 1) makeTree(here.path, { [`src/${i}`]: "x" });
    drive.failures.putFile = Array.from({ length: 10_000 }, gone);
    drive.cluster = () => Promise.reject(gone());

    const { code, err } = await netdisk(["put", "--timeout", "1", "src", "/"], {
      drive,
      directory: here.path,
    });

    expect(code).to.equal(1);
    expect(err).to.include("No node answers at").and.include("[PEER_UNREACHABLE]");
    expect(new Set(drive.putFileRequestIds).size).to.be.at.most(2 * FILE_COUNT_IN_FLIGHT);
  }).timeout(10_000);

  it("fails when the drive has other bytes than were sent", async () => {
    class LyingDrive extends MemoryDrive {
      override async putFile(...parameters: Parameters<MemoryDrive["putFile"]>): Promise<PathEntry> {
        const answer = await super.putFile(...parameters);
        return { ...answer, entry: { ...answer.entry, treeHash: new Uint8Array(32) } };
      }
    }
    makeTree(here.path, { "a.txt": "alpha" });

    const { code, err } = await netdisk(["put", "a.txt", "/a"], {
      drive: new LyingDrive(),
      directory: here.path,
    });

    expect(code).to.equal(1);
    expect(err).to.include("[DIGEST_MISMATCH]");
  });

  it("keeps nothing of a file that changes while it is read", async () => {
    const drive = new FlakyDrive();
    makeTree(here.path, { "big.bin": pattern(4 * MIB) });
    drive.beforeChunk = () => fs.appendFileSync(join(here.path, "big.bin"), "more");

    const { code, err } = await netdisk(["put", "big.bin", "/big.bin"], { drive, directory: here.path });

    expect(code).to.equal(1);
    expect(err).to.include("[PAYLOAD_TRUNCATED]");
    expect((await drive.list({ path: "/" }, { countMax: 10 })).entries).to.deep.equal([]);
  });

  it("goes on reading from another node where the first one stopped", async () => {
    const drive = new FlakyDrive();
    const bytes = pattern(5 * MIB);
    makeTree(here.path, { "big.bin": bytes });
    await netdisk(["put", "big.bin", "/big.bin"], { drive, directory: here.path });
    drive.failures.read = [gone(), gone()];

    const { code } = await netdisk(["get", "/big.bin", "copy.bin"], { drive, directory: here.path });

    expect(code).to.equal(0);
    expect(drive.readOffsets).to.deep.equal([0, 1.5 * MIB, 3 * MIB]);
    expect(fs.readFileSync(join(here.path, "copy.bin")).equals(bytes)).to.equal(true);
  });

  it("resumes a large download from the prefix that it can verify", async () => {
    const drive = new FlakyDrive();
    const bytes = pattern(20 * MIB);
    makeTree(here.path, { "big.bin": bytes });
    const world = { drive, directory: here.path };
    await netdisk(["put", "big.bin", "/big.bin"], world);
    const stop = new DriveError("CHUNK_LOST", "No good copy.");
    drive.failures.read = [gone(), gone(), gone(), stop];

    const first = await netdisk(["get", "/big.bin", "out/big.bin"], world);
    const left = fs.readdirSync(join(here.path, "out"));
    const part = join(here.path, "out", left.find((name) => name.endsWith(".part")) ?? "");
    const damaged = fs.openSync(part, "r+");
    fs.writeSync(damaged, Buffer.from("damage"), 0, 6, 4 * MIB + 100);
    fs.closeSync(damaged);
    drive.readOffsets.length = 0;
    const second = await netdisk(["get", "/big.bin", "out/big.bin"], world);

    expect([first.code, second.code]).to.deep.equal([1, 0]);
    expect(left).to.have.length(2);
    expect(drive.readOffsets).to.deep.equal([4 * MIB]);
    expect(fs.readdirSync(join(here.path, "out"))).to.deep.equal(["big.bin"]);
    expect(fs.readFileSync(join(here.path, "out/big.bin")).equals(bytes)).to.equal(true);
  });

  it("begins anew when the file was replaced since the first part", async () => {
    const drive = new FlakyDrive();
    makeTree(here.path, { "big.bin": pattern(20 * MIB) });
    const world = { drive, directory: here.path };
    await netdisk(["put", "big.bin", "/big.bin"], world);
    drive.failures.read = [new DriveError("CHUNK_LOST", "No good copy.")];
    await netdisk(["get", "/big.bin", "out/big.bin"], world);
    const bytes = pattern(20 * MIB, 2);
    fs.writeFileSync(join(here.path, "big.bin"), bytes);
    await netdisk(["put", "--on-conflict", "replace", "big.bin", "/big.bin"], world);

    const { code } = await netdisk(["get", "/big.bin", "out/big.bin"], world);

    expect(code).to.equal(0);
    expect(fs.readFileSync(join(here.path, "out/big.bin")).equals(bytes)).to.equal(true);
  }).timeout(5000);

  it("leaves no file behind when the bytes that come are wrong", async () => {
    const drive = new MemoryDrive();
    makeTree(here.path, { "a.txt": "alpha" });
    await netdisk(["put", "a.txt", "/a.txt"], { drive, directory: here.path });
    const openDownload = drive.openDownload.bind(drive);
    drive.openDownload = async (ref) => {
      const download = await openDownload(ref);
      return {
        ...download,
        entry: download.entry,
        async *read() {
          yield Buffer.from("ALPHA");
        },
      };
    };

    const { code, err } = await netdisk(["get", "/a.txt", "out/"], { drive, directory: here.path });

    expect(code).to.equal(1);
    expect(err).to.include("[DIGEST_MISMATCH]");
    expect(fs.readdirSync(join(here.path, "out"))).to.deep.equal([]);
  });

  it("replaces a file here only when told to, and leaves an equal one alone", async () => {
    const drive = new MemoryDrive();
    makeTree(here.path, { "a.txt": "alpha", "b.txt": "beta", "out/a.txt": "alpha", "out/b.txt": "BETA" });
    const world = { drive, directory: here.path };
    await netdisk(["put", "a.txt", "b.txt", "/"], world);

    const careful = await netdisk(["get", "/a.txt", "/b.txt", "out"], world);
    const kept = fs.readFileSync(join(here.path, "out/b.txt"), "utf8");
    const forced = await netdisk(["get", "--overwrite", "/a.txt", "/b.txt", "out"], world);

    expect([careful.code, forced.code]).to.deep.equal([3, 0]);
    expect(careful.err).to.include("--overwrite");
    expect(kept).to.equal("BETA");
    expect(fs.readFileSync(join(here.path, "out/b.txt"), "utf8")).to.equal("beta");
    expect(forced.out).to.match(/^1 file fetched to out and verified, 4 B in [\d.]+ s; 1 unchanged\.\n/);
  });

  it("counts in its summary what was sent, beside what was there already", async () => {
    const drive = new MemoryDrive();
    makeTree(here.path, { "src/a.txt": "alpha", "src/b.txt": "beta", "src/c.txt": "gamma" });
    fs.symlinkSync("a.txt", join(here.path, "src/link"));
    const world = { drive, directory: here.path };
    await netdisk(["put", "src", "/"], world);
    makeTree(here.path, { "src/new": "0123456789" });

    const text = await netdisk(["put", "src", "missing", "/"], world);
    const again = await netdisk(["put", "src", "/"], world);
    const json = await netdisk(["put", "--json", "src", "/"], world);

    expect(text.out).to.match(
      /^1 file put to \/, 10 B in [\d.]+ s; 3 unchanged; 1 link or special file ignored; 1 failed, shown above\.\n/,
    );
    expect(again.out).to.equal("0 files put to /; 4 unchanged; 1 link or special file ignored.\n");
    expect(json.records().at(-1)).to.include({ filesSkipped: 4, bytesTransferred: 0, bytesSkipped: 24 });
  });

  it("says when a name is stored in normal form C, in text and in JSON", async () => {
    const drive = new MemoryDrive();
    makeTree(here.path, { [`src/${"é".normalize("NFD")}`]: "x", "src/plain": "y" });

    const text = await netdisk(["put", "src", "/"], { drive, directory: here.path });
    const json = await netdisk(["put", "--json", "src", "/"], { drive, directory: here.path });

    expect(text.code).to.equal(0);
    expect(text.err.split("\n").filter((line) => line.includes("normal form C"))).to.have.length(1);
    expect(json.records().filter(({ type }) => type === "note")).to.deep.equal([
      {
        type: "note",
        source: join(here.path, "src", "é".normalize("NFD")),
        path: `/src/${"é".normalize("NFC")}`,
        note: "The name is stored in Unicode normal form C (NFC).",
      },
    ]);
  });

  it("fails for one of two files whose names would become one, and puts the other", async () => {
    const drive = new MemoryDrive();
    makeTree(here.path, {
      [`src/${"é".normalize("NFC")}`]: "composed",
      [`src/${"é".normalize("NFD")}`]: "apart",
    });

    const { code, err } = await netdisk(["put", "--on-conflict", "replace", "src", "/"], {
      drive,
      directory: here.path,
    });
    const back = await netdisk(["get", "/src/é", "-"], { drive, directory: here.path });

    expect(code).to.equal(3);
    expect(err).to.include("differs only in its Unicode normal form").and.include("[PATH_INVALID]");
    expect(back.out).to.equal("composed");
  });

  it("shows no control character of a local name raw", async () => {
    const drive = new MemoryDrive();
    const evil = "evil\u001b[31m\nnetdisk: all is well\u202e";
    makeTree(here.path, { [`src/${evil}`]: "x" });
    fs.symlinkSync("x", join(here.path, "src", `link${evil}`));

    const { code, err } = await netdisk(["put", "src", join("no", evil), "/"], {
      drive,
      directory: here.path,
    });

    expect(code).to.equal(1);
    expect(err).to.include("evil\\u001b[31m\\nnetdisk: all is well\\u202e");
    // oxlint-disable-next-line no-control-regex -- control characters are exactly what must not be there
    expect(err).to.not.match(/[\u0000-\u0009\u000b-\u001f\u202a-\u202e]/);
    for (const line of err.trimEnd().split("\n")) expect(line).to.not.match(/^netdisk: all is well/);
  });

  it("says all of it in JSON lines", async () => {
    const drive = new MemoryDrive();
    makeTree(here.path, { "src/a.txt": "alpha", "src/d": undefined });

    const put = await netdisk(["put", "--json", "src", "missing", "/"], { drive, directory: here.path });
    const get = await netdisk(["get", "--json", "/src", "out"], { drive, directory: here.path });

    const records = put.records();
    expect(records.map(({ type }) => String(type)).toSorted((a, b) => a.localeCompare(b))).to.deep.equal([
      "file",
      "file",
      "folder",
      "folder",
      "summary",
    ]);
    expect(records.find(({ status }) => status === "stored" && true)).to.have.property("path");
    const failed = records.find(({ status }) => status === "failed");
    expect(failed?.["error"]).to.include({ code: "ENOENT", outcome: "definite" });
    expect(records.at(-1)).to.include({
      type: "summary",
      filesDone: 1,
      filesFailed: 1,
      bytesTransferred: 5,
      bytesSkipped: 0,
      foldersDone: 2,
    });
    expect(get.records().at(0)).to.deep.include({
      type: "file",
      source: "/src/a.txt",
      status: "stored",
      sizeBytes: 5,
      treeHash: toHex(sha256(Buffer.from("alpha"))),
    });
    expect(put.err).to.equal("");
  });

  it("shows the copies that the cluster reports on a terminal, and clears the line at the end", async () => {
    const drive = new FlakyDrive();
    makeTree(here.path, { "big.bin": pattern(4 * MIB) });
    drive.failures.writeChunk = [gone(), gone(), gone(), gone()];
    let release: () => void = () => undefined;
    const shown = new Promise<void>((resolve) => (release = resolve));
    drive.completeUpload = async (...parameters) => {
      await shown;
      return MemoryDrive.prototype.completeUpload.apply(drive, parameters);
    };
    setTimeout(() => release(), 450);

    const { err } = await netdisk(["put", "big.bin", "/big.bin"], {
      drive,
      directory: here.path,
      terminalColumns: 200,
    });

    expect(err).to.include("copies 1: 4.0 MiB 2: 4.0 MiB 3: 4.0 MiB");
    expect(err.endsWith("\r\u001b[K")).to.equal(true);
  });

  it("never counts more copied bytes than a file has, though the cluster knows of them before their receipts", async () => {
    const drive = new FlakyDrive();
    makeTree(here.path, { "big.bin": pattern(4 * MIB) });
    const ahead: Progress = {
      ...{ id: "", kind: "upload", phase: "receiving", sizeBytes: 4 * MIB, transferredBytes: 3 * MIB },
      ...{ copiedBytes: [3 * MIB, 3 * MIB, 3 * MIB], errorReason: undefined },
    };
    // The next node knows less.
    drive.progress = [ahead, { ...ahead, copiedBytes: [MIB, MIB, 0] }];
    drive.failures.writeChunk = [gone(), gone()];

    const put = await netdisk(["put", "big.bin", "/big.bin", "--json"], { drive, directory: here.path });

    const summary = put.records().at(-1);
    expect(summary).to.include({ type: "summary", bytesTransferred: 4 * MIB });
    const [one, two, three] = must(summary, "a summary")["bytesCopied"] as number[];
    expect([one, two]).to.deep.equal([4 * MIB, 4 * MIB]);
    expect(three).to.be.within(3 * MIB, 4 * MIB);
  });

  it("has dozens of small files on their way at once, one request each, and never more than its bound", async () => {
    class CountingDrive extends MemoryDrive {
      inFlightCount = 0;
      inFlightCountMax = 0;
      requestCount = 0;

      override async putFile(...parameters: Parameters<MemoryDrive["putFile"]>): Promise<PathEntry> {
        this.requestCount += 1;
        this.inFlightCount += 1;
        this.inFlightCountMax = Math.max(this.inFlightCountMax, this.inFlightCount);
        await new Promise((resolve) => setTimeout(resolve, 20));
        this.inFlightCount -= 1;
        return super.putFile(...parameters);
      }
    }
    const drive = new CountingDrive();
    for (let i = 0; i < 500; i += 1) {
      if (i % 100 === 0) fs.mkdirSync(join(here.path, `src/${i / 100}`), { recursive: true });
      fs.writeFileSync(join(here.path, `src/${Math.floor(i / 100)}/${i}`), `file ${i}`);
    }

    const put = await netdisk(["put", "-q", "src", "/"], { drive, directory: here.path });
    const get = await netdisk(["get", "-q", "/src", "out"], { drive, directory: here.path });

    expect([put.code, get.code, put.out, get.out]).to.deep.equal([0, 0, "", ""]);
    expect(drive.requestCount).to.equal(500);
    expect(drive.inFlightCountMax).to.equal(FILE_COUNT_IN_FLIGHT);
    expect(describeTree(join(here.path, "out/src"))).to.deep.equal(describeTree(join(here.path, "src")));
  }).timeout(10_000);

  const wrong: readonly { readonly name: string; readonly args: readonly string[] }[] = [
    { name: "a destination that is no path on the drive", args: ["put", "a", "b"] },
    { name: "a source without a destination", args: ["put", "a"] },
    { name: "stdin beside other sources", args: ["put", "-", "a", "/b"] },
    { name: "stdin without a name", args: ["put", "-", "/b/"] },
    { name: "two sources of one name", args: ["put", "x/a", "y/a", "/"] },
    { name: "two files to stdout", args: ["get", "/a", "/b", "-"] },
    { name: "JSON and a file on one stream", args: ["get", "--json", "/a", "-"] },
    { name: "a conflict rule that does not exist", args: ["put", "--on-conflict", "ask", "a", "/"] },
  ];
  for (const { name, args } of wrong) {
    it(`refuses ${name} as wrong usage`, async () => {
      makeTree(here.path, { "x/a": "1", "y/a": "2" });

      const { code, err } = await netdisk(args, { drive: new MemoryDrive(), directory: here.path });

      expect(code).to.equal(2);
      expect(err).to.include("USAGE");
    });
  }
});
