/**
 * Goal: a client outside sees the drive whole over gRPC, and goes on when nodes fail.
 * Method: RemoteDriveApi against servers on loopback over one MemoryDrive, as the nodes of a cluster share one tree; nodes are
 * stopped in the middle of calls.
 */
import { expect } from "chai";
import type { UploadRequest } from "../../../src/drive/drive-api.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { CHUNK_SIZE_BYTES, CONTENT_SIZE_BYTES_MAX, PAGE_SIZE_MAX } from "../../../src/drive/limits.ts";
import { chunkService } from "../../../src/rpc/chunk-service.ts";
import { clusterService } from "../../../src/rpc/cluster-service.ts";
import { metadataService } from "../../../src/rpc/metadata-service.ts";
import { progressService } from "../../../src/rpc/progress-service.ts";
import { RemoteDriveApi } from "../../../src/rpc/remote-drive-api.ts";
import { toHex } from "../../../src/std/bytes.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { SystemPrng } from "../../../src/std/prng.ts";
import { noAdmin } from "../../support/no-admin.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { startRpc, type RpcFixture } from "../../support/rpc-fixture.ts";

const MIB = CHUNK_SIZE_BYTES;

function request(path: string, more: Partial<UploadRequest> = {}): UploadRequest {
  return { path, sizeBytes: undefined, onConflict: "fail", attributes: {}, createParents: false, ...more };
}

function pattern(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8)) % 251);
}

async function* piecesOf(bytes: Uint8Array, size: number): AsyncIterable<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function collect(pieces: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const piece of pieces) parts.push(piece);
  return Buffer.concat(parts);
}

describe("RemoteDriveApi", function () {
  this.timeout(10_000);
  let drive: MemoryDrive;
  let nodes: RpcFixture[];
  let remote: RemoteDriveApi;

  async function node(served: MemoryDrive): Promise<RpcFixture> {
    const source = (): MemoryDrive => served;
    return startRpc(
      [
        metadataService(source),
        chunkService(source),
        progressService(source),
        clusterService(source, noAdmin),
      ],
      {
        stopGraceMs: 0,
      },
    );
  }

  function client(addresses: readonly string[], timeoutMs = 5000): RemoteDriveApi {
    return new RemoteDriveApi({ addresses, clock: new SystemClock(), prng: new SystemPrng(), timeoutMs });
  }

  beforeEach(async () => {
    drive = new MemoryDrive();
    nodes = await Promise.all([node(drive), node(drive), node(drive)]);
    remote = client(nodes.map(({ address }) => address));
  });

  afterEach(async () => {
    remote.close();
    await Promise.all(nodes.map((each) => each.stop()));
  });

  async function stopNode(index: number): Promise<void> {
    await nodes[index]?.stop();
  }

  it("makes, lists, moves, copies, updates and deletes entries", async () => {
    const attributes = { mode: 0o750, modifyTimeMs: 1_700_000_000_123 };
    const made = await remote.createDirectory("/a/b", { createParents: true, existOk: false, attributes });
    await remote.putFile(request("/a/b/f"), piecesOf(pattern(10), 10));
    await remote.copy({ path: "/a/b/f" }, "/a/b/g", "fail");
    await remote.move({ path: "/a/b/g" }, "/a/h", "fail");
    await remote.update({ path: "/a/h" }, { mediaType: "text/plain" });

    const page = await remote.list({ path: "/a" }, { countMax: 1 });
    const rest = await remote.list({ path: "/a" }, { countMax: 1, cursor: page.nextCursor });

    expect(made.entry.mode).to.equal(0o750);
    expect(made.entry.modifyTimeMs).to.equal(1_700_000_000_123);
    expect([...page.entries, ...rest.entries].map(({ name }) => name)).to.deep.equal(["b", "h"]);
    expect(rest.nextCursor).to.equal(undefined);
    expect((await remote.stat({ path: "/a/h" })).entry).to.deep.equal(
      (await drive.stat({ path: "/a/h" })).entry,
    );
    expect((await remote.durability({ path: "/a/h" })).nodeIds).to.deep.equal(["n1", "n2", "n3"]);
    await expectReason("DIRECTORY_NOT_EMPTY", () => remote.remove({ path: "/a" }, { recursive: false }));
    await remote.remove({ entryId: made.entry.entryId }, { recursive: true });
    await expectReason("PATH_NOT_FOUND", () => remote.stat({ path: "/a/b" }));
  });

  for (const [rule, outcome] of [
    ["fail", "PATH_EXISTS"],
    ["rename", "/f (2)"],
    ["replace", "/f"],
  ] as const) {
    it(`settles at the end what happens when two uploads want one name: "${rule}"`, async () => {
      const begin = async (text: string): Promise<number> => {
        const { uploadId } = await remote.initUpload(request("/f", { sizeBytes: text.length }));
        await remote.writeChunk(uploadId, 0, Buffer.from(text), undefined);
        return uploadId;
      };
      const [first, second] = [await begin("first"), await begin("second!")];
      const { entry } = await remote.completeUpload(first, {});

      const ended = await remote
        .completeUpload(second, { onConflict: rule })
        .then(({ path }) => path)
        .catch((error: unknown) => (error instanceof DriveError ? error.reason : error));

      expect(ended).to.equal(outcome);
      const original = await remote.openDownload({ path: "/f" });
      const bytes = await collect(original.read(0, original.entry.sizeBytes));
      expect(String(bytes)).to.equal(rule === "replace" ? "second!" : "first");
      expect(original.entry.entryId).to.equal(entry.entryId);
      const names = (await remote.list({ path: "/" }, { countMax: 10 })).entries.map(({ name }) => name);
      expect(names).to.deep.equal(rule === "rename" ? ["f", "f (2)"] : ["f"]);
      // A refusal leaves the upload open: it can be completed under another rule.
      if (rule === "fail") {
        expect((await remote.completeUpload(second, { onConflict: "rename" })).path).to.equal("/f (2)");
      }
    });
  }

  it("refuses an upload whose path ends in a slash or has a name that no new file may have", async () => {
    for (const path of ["/a/", "/a\u202eb", "/\ufeffa/b"]) {
      await expectReason("PATH_INVALID", () => remote.initUpload(request(path, { sizeBytes: 1 })));
      await expectReason("PATH_INVALID", () => remote.putFile(request(path), piecesOf(pattern(1), 1)));
    }
  });

  it("hands on preconditions, request ids and consistency", async () => {
    await remote.createDirectory("/a", { createParents: false, existOk: false, attributes: {} });

    await expectReason("VERSION_MISMATCH", () =>
      remote.update({ path: "/a" }, {}, { requestId: "r1", precondition: { ifVersions: [] } }),
    );
    await remote.stat({ path: "/a" }, { consistency: "stale" });

    expect(drive.lastWrite?.requestId).to.equal("r1");
    expect(drive.lastWrite?.precondition).to.deep.equal({ ifVersions: [] });
    expect(drive.lastRead?.consistency).to.equal("stale");
  });

  it("takes a page of the maximum and refuses one above", async () => {
    await remote.list({ path: "/" }, { countMax: PAGE_SIZE_MAX });

    await expectReason("ARGUMENT_INVALID", () => remote.list({ path: "/" }, { countMax: PAGE_SIZE_MAX + 1 }));
  });

  it("refuses a file above the limit, and takes an announcement at it", async () => {
    await remote.initUpload(request("/big", { sizeBytes: CONTENT_SIZE_BYTES_MAX }));

    await expectReason("PAYLOAD_TOO_LARGE", () =>
      remote.initUpload(request("/bigger", { sizeBytes: CONTENT_SIZE_BYTES_MAX + 1 })),
    );
  });

  for (const sizeBytes of [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 12345]) {
    for (const known of [true, false]) {
      it(`uploads and downloads ${sizeBytes} bytes, ${known ? "size announced" : "size unknown"}`, async () => {
        const bytes = pattern(sizeBytes);

        const put = await remote.putFile(request("/f", known ? { sizeBytes } : {}), piecesOf(bytes, 300_001));
        const download = await remote.openDownload({ path: "/f" });

        expect(put.entry.sizeBytes).to.equal(sizeBytes);
        expect(download.path).to.equal("/f");
        expect((await collect(download.read(0, sizeBytes))).equals(bytes)).to.equal(true);
        if (sizeBytes > 10) {
          expect((await collect(download.read(7, sizeBytes - 9))).equals(bytes.subarray(7, -2))).to.equal(
            true,
          );
        }
      });
    }
  }

  it("lists unfinished uploads by pages, as the drive tells of them", async () => {
    const sizes = [undefined, 7, 8];
    for (const sizeBytes of sizes) await drive.initUpload(request(`/f${sizeBytes}`, { sizeBytes }));

    const first = await remote.openUploads({ countMax: 2 });
    const second = await remote.openUploads({ countMax: 2, cursor: first.nextCursor });

    const { uploads } = await drive.openUploads({ countMax: 10 });
    expect([first.uploads.length, second.nextCursor]).to.deep.equal([2, undefined]);
    expect([...first.uploads, ...second.uploads]).to.deep.equal(uploads);
  });

  it("leaves nothing of an upload whose source fails", async () => {
    const broken = async function* (): AsyncIterable<Uint8Array> {
      yield pattern(3 * MIB);
      throw new DriveError("PAYLOAD_TRUNCATED", "the disk was pulled");
    };

    await expectReason("PAYLOAD_TRUNCATED", () => remote.putFile(request("/f"), broken()));

    await expectReason("PATH_NOT_FOUND", () => remote.stat({ path: "/f" }));
    expect((await remote.cluster()).openUploadCount).to.equal(0);
  });

  it("does not pass off a file of another tree hash than stated for what was asked for", async () => {
    // The drive in memory makes files of uploads unchecked, as nodes of earlier versions do.
    const bytes = pattern(2 * MIB);
    const stated = request("/f", { treeHash: new Uint8Array(32) });

    const error = await expectReason("DIGEST_MISMATCH", () => remote.putFile(stated, piecesOf(bytes, MIB)));

    expect(error.metadata["stated"]).to.equal("00".repeat(32));
    const { entry } = await drive.stat({ path: "/f" });
    const right = request("/g", { treeHash: entry.treeHash });
    expect((await remote.putFile(right, piecesOf(bytes, MIB))).entry.treeHash).to.deep.equal(entry.treeHash);
  });

  it("refuses an announced size that is not what comes", async () => {
    await expectReason("PAYLOAD_TRUNCATED", () =>
      remote.putFile(request("/f", { sizeBytes: 11 }), piecesOf(pattern(10), 10)),
    );
  });

  it("goes on with an upload of unknown outcome when the same request comes again, whatever became of it", async () => {
    const bytes = pattern(3 * MIB);
    const hasty = client(
      nodes.map(({ address }) => address),
      200,
    );
    const complete = drive.completeUpload.bind(drive);
    const options = { requestId: "the-same" };
    for (const isDone of [false, true]) {
      drive.completeUpload = async (...parameters) => {
        if (isDone) await complete(...parameters);
        throw new DriveError("COMMIT_OUTCOME_UNKNOWN", "the leader was lost");
      };
      await expectReason("COMMIT_OUTCOME_UNKNOWN", () =>
        hasty.putFile(request("/f"), piecesOf(bytes, MIB), options),
      );
    }
    drive.completeUpload = complete;

    const put = await hasty.putFile(request("/f"), piecesOf(bytes, MIB), options);

    expect(put.path).to.equal("/f");
    expect(put.entry.sizeBytes).to.equal(bytes.length);
    hasty.close();
  });

  it("begins an upload anew when the same request comes again after its source failed", async () => {
    const options = { requestId: "the-same" };
    const broken = async function* (): AsyncIterable<Uint8Array> {
      yield pattern(3 * MIB);
      throw new DriveError("PAYLOAD_TRUNCATED", "the disk was pulled");
    };
    for (let attempt = 0; attempt < 2; attempt += 1) {
      await expectReason("PAYLOAD_TRUNCATED", () => remote.putFile(request("/f"), broken(), options));
    }

    const put = await remote.putFile(request("/f"), piecesOf(pattern(3 * MIB), MIB), options);

    expect(put.entry.sizeBytes).to.equal(3 * MIB);
  });

  it("sends chunks in any order, each with its own error", async () => {
    const bytes = pattern(3 * MIB);
    const ticket = await remote.initUpload(request("/f", { sizeBytes: bytes.length }));
    const chunk = (index: number) => bytes.subarray(index * MIB, (index + 1) * MIB);

    const wrong = expectReason("DIGEST_MISMATCH", () =>
      remote.writeChunk(ticket.uploadId, 1, chunk(1), new Uint8Array(32)),
    );
    await Promise.all(
      [2, 0].map((index) => remote.writeChunk(ticket.uploadId, index, chunk(index), undefined)),
    );
    await wrong;
    const status = await remote.uploadStatus(ticket.uploadId);

    expect(status.missing).to.deep.equal([{ first: 1, last: 1 }]);
    expect(status.committedSizeBytes).to.equal(MIB);
    const error = await expectReason("UPLOAD_INCOMPLETE", () => remote.completeUpload(ticket.uploadId, {}));
    expect(error.metadata["missing"]).to.equal("1");
    await remote.writeChunk(ticket.uploadId, 1, chunk(1), undefined);
    expect((await remote.completeUpload(ticket.uploadId, {})).entry.sizeBytes).to.equal(3 * MIB);
    await expectReason("UPLOAD_FINISHED", () => remote.writeChunk(ticket.uploadId, 1, chunk(1), undefined));
  });

  it("answers everyone who sends a chunk at the same time, with the same bytes and with others", async () => {
    const { uploadId } = await remote.initUpload(request("/f", { sizeBytes: 2 * MIB }));
    const send = (index: number, fill: number, digest?: Uint8Array) =>
      remote.writeChunk(uploadId, index, new Uint8Array(MIB).fill(fill), digest);
    const digestOf = (fill: number): string => toHex(sha256(new Uint8Array(MIB).fill(fill)));

    const wrong = expectReason("DIGEST_MISMATCH", () => send(0, 1, new Uint8Array(32)));
    const receipts = await Promise.all([send(0, 1), send(0, 1), send(1, 3), send(0, 2), send(0, 1)]);
    await wrong;

    expect(receipts.map(({ digest }) => toHex(digest))).to.deep.equal([1, 1, 3, 2, 1].map(digestOf));
  });

  it("goes on with an upload at another node when one dies in the middle", async () => {
    const bytes = pattern(12 * MIB);
    const dying = async function* (): AsyncIterable<Uint8Array> {
      for (let at = 0; at < bytes.length; at += MIB) {
        if (at === 5 * MIB) await stopNode(0);
        yield bytes.subarray(at, at + MIB);
      }
    };

    await remote.putFile(request("/f"), dying());

    const download = await remote.openDownload({ path: "/f" });
    expect((await collect(download.read(0, bytes.length))).equals(bytes)).to.equal(true);
  });

  it("goes on with a download at another node when one dies in the middle", async () => {
    const bytes = pattern(12 * MIB);
    await remote.putFile(request("/f"), piecesOf(bytes, MIB));
    const download = await remote.openDownload({ path: "/f" });

    const parts: Uint8Array[] = [];
    for await (const piece of download.read(0, bytes.length)) {
      parts.push(piece);
      if (parts.length === 3) await stopNode(0);
    }

    expect(Buffer.concat(parts).equals(bytes)).to.equal(true);
  });

  it("does not mix two versions of a file that is replaced while it is read", async () => {
    await remote.putFile(request("/f"), piecesOf(pattern(12 * MIB), MIB));
    const download = await remote.openDownload({ path: "/f" });
    const open = drive.openDownload.bind(drive);

    await expectReason("VERSION_MISMATCH", async () => {
      let count = 0;
      for await (const _ of download.read(0, 12 * MIB)) {
        count += 1;
        if (count > 1) continue;
        drive.openDownload = async (ref, options) => {
          const opened = await open(ref, options);
          return Object.assign(opened, { entry: { ...opened.entry, contentId: 999 } });
        };
        await stopNode(0);
      }
    });
  });

  it("tells that a file was replaced between opening and reading, never that its path is not there", async () => {
    await remote.putFile(request("/f"), piecesOf(pattern(1000), 1000));
    const download = await remote.openDownload({ path: "/f" });
    await remote.remove({ path: "/f" }, { recursive: false });
    await remote.putFile(request("/f"), piecesOf(pattern(2000), 2000));

    await expectReason("VERSION_MISMATCH", () => collect(download.read(0, 1000)));
  });

  it("asks the next node when one cannot serve", async () => {
    drive.failure = new DriveError("NO_LEADER", "an election is on");

    const made = await remote.createDirectory("/a", { createParents: false, existOk: false, attributes: {} });

    expect(made.path).to.equal("/a");
  });

  it("repeats a change whose outcome is unknown under the same request id", async () => {
    drive.failure = new DriveError("COMMIT_OUTCOME_UNKNOWN", "the leader was lost");

    await remote.createDirectory("/a", { createParents: false, existOk: false, attributes: {} });

    expect(drive.lastWrite?.requestId).to.match(/^[0-9a-f]{32}$/);
  });

  it("does not repeat what is wrong with the request", async () => {
    const calls = client(
      nodes.map(({ address }) => address),
      300_000,
    );

    await expectReason("PATH_INVALID", () => calls.stat({ path: "no-slash" }));

    calls.close();
  });

  it("gives up after its time with the last error, never silently", async () => {
    const lonely = client(["127.0.0.1:1"], 200);

    await expectReason("PEER_UNREACHABLE", () => lonely.stat({ path: "/" }));

    expect(lonely.readiness().ready).to.equal(false);
    lonely.close();
  });

  it("follows changes across a node's death without gaps or repetitions", async () => {
    const make = (name: string) =>
      drive.createDirectory(`/${name}`, { createParents: false, existOk: false, attributes: {} });
    await make("a");
    await make("b");
    const abort = new AbortController();

    const seen: string[] = [];
    for await (const changes of remote.watchChanges(0, abort.signal)) {
      seen.push(...changes.map(({ entry }) => entry.name));
      if (seen.length === 2) {
        await stopNode(0);
        await make("c");
      }
      if (seen.length === 3) break;
    }

    expect(seen).to.deep.equal(["a", "b", "c"]);
  });

  it("shows progress and the cluster", async () => {
    drive.progress = [
      {
        id: "5",
        kind: "upload",
        phase: "done",
        sizeBytes: 9,
        transferredBytes: 9,
        copiedBytes: [9, 9, 0],
        errorReason: undefined,
      },
    ];

    const seen = [];
    for await (const progress of remote.watchProgress("5")) seen.push(progress);

    expect(seen).to.deep.equal(drive.progress);
    expect(await remote.cluster()).to.deep.equal({ ...(await drive.cluster()), services: [] });
    drive.featureLevel = 3;
    const leveled = await remote.cluster();
    expect([leveled.featureLevel, leveled.nodes[0]?.featureLevelMax]).to.deep.equal([3, 4]);
    drive.prepared = { downloadCount: 2, fileCount: 30, sizeBytes: 4000, expireTimeMs: 1_790_000_000_123 };
    expect((await remote.cluster()).preparedDownloads).to.deep.equal(drive.prepared);
    drive.collectionBrake = { extentCount: 9, orphanCount: 8, futureCount: 7 };
    expect((await remote.cluster()).nodes[0]?.collectionBrake).to.deep.equal(drive.collectionBrake);
    drive.report = {
      ...{ seenTimeMs: 1_790_000_000_123, isReady: true, inflightBytes: 4, appliedIndex: 5 },
      ...{ freeBytes: 6, totalBytes: 7 },
      transfers: [
        { id: "8", kind: "upload", sizeBytes: undefined, transferredBytes: 9 },
        { id: "d-1", kind: "download", sizeBytes: 0, transferredBytes: 0 },
      ],
      tasks: [
        { taskId: 3, kind: "upload", fence: 9, sinceTimeMs: 10, progress: { doneCount: 1, totalCount: 2 } },
        {
          taskId: 4,
          kind: "download",
          fence: 11,
          sinceTimeMs: 12,
          progress: { doneCount: 0, totalCount: 0 },
        },
        {
          taskId: 5,
          kind: "replication",
          fence: 13,
          sinceTimeMs: 14,
          progress: { doneCount: 5, totalCount: 0 },
        },
      ],
    };
    expect((await remote.cluster()).nodes[0]?.report).to.deep.equal(drive.report);
  });

  it("is cancelled by the caller", async () => {
    const abort = new AbortController();
    abort.abort();

    await expectReason("CANCELED", () => remote.stat({ path: "/" }, { signal: abort.signal }));
  });
});
