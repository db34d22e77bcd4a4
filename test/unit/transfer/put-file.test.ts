/**
 * Goal: a stream becomes a file with exactly its bytes, or nothing; whatever its length and whatever the nodes do. Method: whole
 * drives over the real state machine and in-memory stores with faults.
 */
import { expect } from "chai";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import type { PathEntry } from "../../../src/drive/drive-api.ts";
import { deferred } from "../../../src/std/deferred.ts";
import { foldTreeHash, sha256 } from "../../../src/std/digest.ts";
import { SMALL_SEAL_TIMEOUT_MS } from "../../../src/transfer/small-writer.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { settle } from "../../support/fake-clock.ts";
import { bytesOf, patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

function treeHashOf(bytes: Buffer): Uint8Array {
  const leaves: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += CHUNK_SIZE_BYTES) {
    leaves.push(sha256(bytes.subarray(at, at + CHUNK_SIZE_BYTES)));
  }
  return leaves.length === 0 ? sha256(bytes) : foldTreeHash(leaves);
}

async function readBack(drives: TestDrives, path: string, memberId = 1): Promise<Buffer> {
  const download = await drives.drive(memberId).openDownload({ path });
  return bytesOf(download.read(0, download.entry.sizeBytes));
}

const SIZES = [
  0,
  1,
  4096,
  CHUNK_SIZE_BYTES - 1,
  CHUNK_SIZE_BYTES,
  CHUNK_SIZE_BYTES + 1,
  3 * CHUNK_SIZE_BYTES,
  5 * CHUNK_SIZE_BYTES + 17,
];

describe("putFile()", () => {
  for (const sizeBytes of SIZES) {
    for (const known of [true, false]) {
      for (const leased of [true, false]) {
        const what = `${sizeBytes} bytes of ${known ? "known" : "unknown"} length ${leased ? "with" : "without"} a lease`;
        it(`makes a file of ${what}`, async () => {
          const drives = new TestDrives(3);
          if (leased) drives.grantLease();
          const bytes = patternBytes(sizeBytes);
          const request = uploadOf("/a/b.bin", { sizeBytes: known ? sizeBytes : undefined });

          const { entry, path } = await drives.drive().putFile(request, streamOf(bytes));
          await drives.node(1).plane.chores.idle();

          expect(path).to.equal("/a/b.bin");
          expect(entry.sizeBytes).to.equal(sizeBytes);
          expect(Buffer.from(entry.treeHash).equals(treeHashOf(bytes))).to.equal(true);
          expect(Buffer.from(entry.sha256).equals(sha256(bytes))).to.equal(true);
          expect((await readBack(drives, "/a/b.bin", 2)).equals(bytes)).to.equal(true);
          expect((await drives.drive().durability({ path: "/a/b.bin" })).verifiedCount).to.equal(3);
          const small = leased && sizeBytes <= CHUNK_SIZE_BYTES;
          expect(drives.tree.count("put-small")).to.equal(small ? 1 : 0);
          expect(drives.tree.count("init-upload")).to.equal(small ? 0 : 1);
        });
      }
    }
  }

  it("takes the long path when the lease turns out to be expired, and leaves nothing of the small one", async () => {
    const drives = new TestDrives(3);
    drives.grantLease();
    for (let i = 0; i < 7; i += 1) drives.tree.apply({ kind: "advance-clock", elapsedMs: 10_000 });

    await drives.drive().putFile(uploadOf("/f"), streamOf(patternBytes(100)));
    await drives.node(1).plane.chores.idle();

    expect((await readBack(drives, "/f")).equals(patternBytes(100))).to.equal(true);
    expect(drives.replicas.store(2).extents.size).to.equal(1);
    expect(drives.node(1).plane.lease.usable).to.equal(false);
  });

  it("writes a small file with two copies while one node is down, and says so", async () => {
    const drives = new TestDrives(3);
    drives.grantLease();
    drives.kill(3);

    await drives.drive().putFile(uploadOf("/f"), streamOf(patternBytes(100)));

    const durability = await drives.drive().durability({ path: "/f" });
    expect(durability).to.deep.include({ verifiedCount: 2, nodeIds: ["node-1", "node-2"] });
    expect((await drives.drive().cluster()).replicas.underReplicatedCount).to.equal(1);
  });

  it("adds the third copy of a small file when its seal comes late", async () => {
    const drives = new TestDrives(3);
    drives.grantLease();
    drives.replicas.delayMs.set(3, 500);

    const putting = drives.drive().putFile(uploadOf("/f"), streamOf(patternBytes(100)));
    await drives.clock.advance(100);
    await putting;
    expect((await drives.drive().durability({ path: "/f" })).verifiedCount).to.equal(2);
    await drives.clock.advance(1000);

    expect((await drives.drive().durability({ path: "/f" })).verifiedCount).to.equal(3);
  });

  it("says QUORUM_NOT_REACHED when two of three nodes are down, with or without a lease", async () => {
    const drives = new TestDrives(3);
    drives.grantLease();
    drives.kill(2);
    drives.kill(3);

    await expectReason("QUORUM_NOT_REACHED", () =>
      drives.drive().putFile(uploadOf("/f"), streamOf(patternBytes(100))),
    );
    await expectReason("QUORUM_NOT_REACHED", () =>
      drives.drive().putFile(uploadOf("/g"), streamOf(patternBytes(3 * CHUNK_SIZE_BYTES))),
    );
    await expectReason("PATH_NOT_FOUND", () => drives.drive().stat({ path: "/f" }));
  });

  it("leaves nothing when the stream fails in the middle", async () => {
    const drives = new TestDrives(3);
    async function* failing(): AsyncGenerator<Uint8Array> {
      yield patternBytes(3 * CHUNK_SIZE_BYTES);
      throw new DriveError("PAYLOAD_TRUNCATED", "The client went away.");
    }

    await expectReason("PAYLOAD_TRUNCATED", () => drives.drive().putFile(uploadOf("/f"), failing()));
    await drives.node(1).plane.chores.idle();

    expect(drives.tree.count("abort-upload")).to.equal(1);
    expect((await drives.drive().cluster()).openUploadCount).to.equal(0);
    await expectReason("PATH_NOT_FOUND", () => drives.drive().stat({ path: "/f" }));
  });

  for (const sizeBytes of [99, 3 * CHUNK_SIZE_BYTES - 1]) {
    it(`refuses ${sizeBytes} bytes where one more, or one less, was stated`, async () => {
      const drives = new TestDrives(3);
      drives.grantLease();
      const put = (stated: number) =>
        drives.drive().putFile(uploadOf("/f", { sizeBytes: stated }), streamOf(patternBytes(sizeBytes)));

      await expectReason("PAYLOAD_TRUNCATED", () => put(sizeBytes + 1));
      await expectReason("PAYLOAD_TOO_LARGE", () => put(sizeBytes - 1));
      await drives.node(1).plane.chores.idle();

      expect((await drives.drive().cluster()).openUploadCount).to.equal(0);
      expect((await drives.drive().cluster()).fileCount).to.equal(0);
    });
  }

  for (const sizeBytes of [100, 2 * CHUNK_SIZE_BYTES]) {
    it(`checks a stated tree hash over ${sizeBytes} bytes`, async () => {
      const drives = new TestDrives(3);
      drives.grantLease();
      const bytes = patternBytes(sizeBytes);
      const put = (treeHash: Uint8Array) =>
        drives.drive().putFile(uploadOf("/f", { treeHash }), streamOf(bytes));

      await expectReason("DIGEST_MISMATCH", () => put(sha256(Buffer.from("other"))));
      const { entry } = await put(treeHashOf(bytes));

      expect(entry.sizeBytes).to.equal(sizeBytes);
    });
  }

  for (const sizeBytes of [100, 2 * CHUNK_SIZE_BYTES]) {
    it(`treats a taken name as asked, with ${sizeBytes} bytes`, async () => {
      const drives = new TestDrives(3);
      drives.grantLease();
      const drive = drives.drive();
      const first = await drive.putFile(uploadOf("/f"), streamOf(patternBytes(sizeBytes, 1)));
      const put = (onConflict: "fail" | "rename" | "replace", seed: number) =>
        drive.putFile(uploadOf("/f", { onConflict }), streamOf(patternBytes(sizeBytes, seed)));

      await expectReason("PATH_EXISTS", () => put("fail", 2));
      const renamed = await put("rename", 3);
      const replaced = await put("replace", 4);

      expect(renamed.path).to.equal("/f (2)");
      expect(replaced.entry.entryId).to.equal(first.entry.entryId);
      expect((await readBack(drives, "/f")).equals(patternBytes(sizeBytes, 4))).to.equal(true);
      expect((await readBack(drives, "/f (2)")).equals(patternBytes(sizeBytes, 3))).to.equal(true);
    });

    it(`answers a repeated request id with the first file, with ${sizeBytes} bytes`, async () => {
      const drives = new TestDrives(3);
      drives.grantLease();
      const put = (memberId: number) =>
        drives
          .drive(memberId)
          .putFile(uploadOf("/f"), streamOf(patternBytes(sizeBytes)), { requestId: "put-1" });
      drives.tree.lostAnswers.set(sizeBytes > CHUNK_SIZE_BYTES ? "complete-upload" : "put-small", 1);

      await expectReason("COMMIT_OUTCOME_UNKNOWN", () => put(1));
      const again = await put(2);
      const third = await put(1);

      expect(again.path).to.equal("/f");
      expect(third.entry).to.deep.equal(again.entry);
      expect((await drives.drive().cluster()).fileCount).to.equal(1);
    });
  }

  for (const lease of [true, false]) {
    it(`refuses a request id that made another file, ${lease ? "with" : "without"} the small path`, async () => {
      const drives = new TestDrives(3);
      if (lease) drives.grantLease();
      const put = (path: string, bytes: Uint8Array, options: object = {}) =>
        drives.drive().putFile(uploadOf(path, options), streamOf(bytes), { requestId: "r" });
      const bytes = patternBytes(50);
      const first = await put("/f", bytes);

      await expectReason("REQUEST_ID_REUSED", () => put("/g", bytes));
      await expectReason("REQUEST_ID_REUSED", () => put("/f", patternBytes(50, 9)));
      await expectReason("REQUEST_ID_REUSED", () => put("/f", bytes, { onConflict: "replace" }));
      await expectReason("REQUEST_ID_REUSED", () => put("/f", patternBytes(3 * CHUNK_SIZE_BYTES)));
      await expectReason("REQUEST_ID_REUSED", () =>
        drives.drive().remove({ path: "/f" }, { recursive: false }, { requestId: "r" }),
      );
      expect(await put("/f", bytes)).to.deep.equal(first);
    });
  }

  it("repeats a refusal to a repeat that takes the other path", async () => {
    const drives = new TestDrives(3);
    await drives.drive().putFile(uploadOf("/f"), streamOf(patternBytes(10)));
    drives.grantLease();
    const put = () => drives.drive().putFile(uploadOf("/f"), streamOf(patternBytes(50)), { requestId: "r" });
    await expectReason("PATH_EXISTS", put);
    await expectReason("PATH_EXISTS", put);
  });

  it("gets the first answer too when the repeat takes the other path", async () => {
    const drives = new TestDrives(3);
    const put = () =>
      drives
        .drive()
        .putFile(uploadOf("/f", { onConflict: "rename" }), streamOf(patternBytes(50)), { requestId: "r" });
    const first = await put();
    drives.grantLease();

    const again = await put();

    expect(again.path).to.equal(first.path);
    expect((await drives.drive().cluster()).fileCount).to.equal(1);
  });

  it("writes the file anew when an earlier attempt at another node aborts while the repeat sends", async () => {
    const drives = new TestDrives(3);
    const bytes = patternBytes(3 * CHUNK_SIZE_BYTES);
    const put = (memberId: number, stream: AsyncIterable<Uint8Array>) =>
      drives.drive(memberId).putFile(uploadOf("/f", { sizeBytes: bytes.length }), stream, { requestId: "r" });
    const firstMayFail = deferred<void>();
    const firstFailed = deferred<void>();
    async function* failing(): AsyncGenerator<Uint8Array> {
      yield bytes.subarray(0, 2 * CHUNK_SIZE_BYTES);
      await firstMayFail.promise;
      throw new DriveError("PAYLOAD_TRUNCATED", "The client went away.");
    }
    async function* whole(): AsyncGenerator<Uint8Array> {
      yield bytes.subarray(0, 2 * CHUNK_SIZE_BYTES);
      await firstFailed.promise;
      yield bytes.subarray(2 * CHUNK_SIZE_BYTES);
    }

    const first = expectReason("PAYLOAD_TRUNCATED", () => put(1, failing()));
    await settle();
    const second = put(2, whole());
    await settle();
    firstMayFail.resolve();
    await first;
    await drives.node(1).plane.chores.idle();
    firstFailed.resolve();
    const { path } = await second;

    expect(path).to.equal("/f");
    expect((await readBack(drives, "/f")).equals(bytes)).to.equal(true);
    expect((await drives.drive().cluster()).openUploadCount).to.equal(0);
  });

  it("makes one file of two attempts at once, and leaves no upload open", async () => {
    const drives = new TestDrives(3);
    const bytes = patternBytes(3 * CHUNK_SIZE_BYTES);
    const put = (memberId: number) =>
      drives
        .drive(memberId)
        .putFile(uploadOf("/f", { onConflict: "rename" }), streamOf(bytes), { requestId: "r" });

    const [first, second] = await Promise.all([put(1), put(2)]);
    for (const memberId of [1, 2]) await drives.node(memberId).plane.chores.idle();

    expect(second).to.deep.equal(first);
    const { fileCount, openUploadCount } = await drives.drive().cluster();
    expect({ fileCount, openUploadCount }).to.deep.equal({ fileCount: 1, openUploadCount: 0 });
  });

  it("gets the file of an earlier attempt that was made while the repeat began", async () => {
    const drives = new TestDrives(3);
    const put = (memberId: number) =>
      drives
        .drive(memberId)
        .putFile(uploadOf("/f"), streamOf(patternBytes(3 * CHUNK_SIZE_BYTES)), { requestId: "r" });
    let first: PathEntry | undefined;
    drives.tree.onPropose = async () => {
      drives.tree.onPropose = undefined;
      first = await put(1);
    };

    const second = await put(2);

    expect(second).to.deep.equal(first);
    expect((await drives.drive().cluster()).openUploadCount).to.equal(0);
  });

  it("writes the file anew when the attempt before was aborted ahead of its own completion", async () => {
    const drives = new TestDrives(3);
    const bytes = patternBytes(3 * CHUNK_SIZE_BYTES);
    const put = () => drives.drive().putFile(uploadOf("/f"), streamOf(bytes), { requestId: "r" });
    drives.tree.onPropose = (body) => {
      if (body.kind !== "complete-upload") return;
      drives.tree.onPropose = undefined;
      drives.tree.apply({ kind: "abort-upload", uploadId: body.uploadId });
    };

    await expectReason("UPLOAD_NOT_FOUND", put);
    await put();

    expect((await readBack(drives, "/f")).equals(bytes)).to.equal(true);
  });

  for (const isLeased of [true, false]) {
    const where = isLeased ? "the small path is open" : "only the long path is open";
    it(`makes one file when a small one was refused, its repeat succeeded unheard, and then ${where}`, async () => {
      const drives = new TestDrives(3);
      const put = (memberId: number) =>
        drives
          .drive(memberId)
          .putFile(uploadOf("/f", { onConflict: "rename" }), streamOf(patternBytes(50)), { requestId: "r" });
      drives.grantLease(1);
      for (let i = 0; i < 7; i += 1) drives.tree.apply({ kind: "advance-clock", elapsedMs: 10_000 });
      drives.tree.lostAnswers.set("complete-upload", 2);
      const unheard = await put(1).catch((error: unknown) => error);
      expect(unheard).to.be.instanceOf(DriveError);
      drives.tree.lostAnswers.clear();
      if (isLeased) drives.grantLease(2);

      const repeats = [await put(2), await put(3), await put(1)];

      expect(new Set(repeats.map(({ path }) => path))).to.deep.equal(new Set(["/f"]));
      expect((await drives.drive().cluster()).fileCount).to.equal(1);
    });
  }

  it("goes on when a target dies in the middle, with a spare in its place and three copies at the end", async () => {
    const drives = new TestDrives(4);
    let victim: number | undefined;
    let writes = 0;
    drives.replicas.onCall = (call) => {
      if (call.method !== "writeChunk") return;
      if (call.memberId !== 1) victim ??= call.memberId;
      if (call.memberId !== victim) return;
      writes += 1;
      if (writes === 4) drives.kill(victim);
    };
    const bytes = patternBytes(40 * CHUNK_SIZE_BYTES);

    await drives.drive().putFile(uploadOf("/f", { sizeBytes: bytes.length }), streamOf(bytes));
    await drives.node(1).plane.chores.idle();

    const { nodeIds, verifiedCount } = await drives.drive().durability({ path: "/f" });
    expect(verifiedCount).to.equal(3);
    expect(nodeIds).not.to.include(`node-${victim}`);
    expect(drives.tree.count("assign-extent")).to.equal(1);
    expect((await readBack(drives, "/f", 4)).equals(bytes)).to.equal(true);
  });

  it("goes on with two targets when a third dies and there is no spare", async () => {
    const drives = new TestDrives(3);
    let writes = 0;
    drives.replicas.onCall = (call) => {
      if (call.method !== "writeChunk" || call.memberId !== 2) return;
      writes += 1;
      if (writes === 2) drives.kill(2);
    };
    const bytes = patternBytes(20 * CHUNK_SIZE_BYTES);

    await drives.drive().putFile(uploadOf("/f"), streamOf(bytes));

    expect((await drives.drive().durability({ path: "/f" })).verifiedCount).to.equal(2);
    expect((await readBack(drives, "/f")).equals(bytes)).to.equal(true);
  });

  it("ends with CANCELED when the caller gives up, and aborts the upload", async () => {
    const drives = new TestDrives(3);
    drives.replicas.hanging.add(1).add(2).add(3);
    const caller = new AbortController();

    const outcome = expectReason("CANCELED", () =>
      drives
        .drive()
        .putFile(uploadOf("/f"), streamOf(patternBytes(3 * CHUNK_SIZE_BYTES)), { signal: caller.signal }),
    );
    await settle();
    caller.abort();
    await outcome;
    await settle();

    expect((await drives.drive().cluster()).openUploadCount).to.equal(0);
  });

  for (const answer of ["known", "lost"] as const) {
    it(`aborts the upload when the caller gives up while it begins, the answer ${answer}`, async () => {
      const drives = new TestDrives(3);
      const caller = new AbortController();
      if (answer === "lost") drives.tree.lostAnswers.set("init-upload", 1);
      drives.tree.onPropose = (body) => {
        if (body.kind === "init-upload") caller.abort();
        return Promise.resolve();
      };

      const stream = streamOf(patternBytes(3 * CHUNK_SIZE_BYTES));
      const outcome = await drives
        .drive()
        .putFile(uploadOf("/f"), stream, { signal: caller.signal })
        .catch((error: unknown) => error);
      await drives.node(1).plane.chores.idle();

      expect(outcome).to.be.instanceOf(DriveError);
      expect(drives.tree.count("init-upload")).to.be.at.least(1);
      expect((await drives.drive().cluster()).openUploadCount).to.equal(0);
      await expectReason("PATH_NOT_FOUND", () => drives.drive().stat({ path: "/f" }));
    });
  }

  it("leaves nothing behind of 100 small files whose callers give up before anything is proposed", async () => {
    const drives = new TestDrives(3);
    drives.grantLease();
    // The second answers late and the third not at all: a caller gives up while none, one or two seals are there.
    drives.replicas.delayMs.set(2, 20);
    drives.replicas.hanging.add(3);
    const puts = Array.from({ length: 100 }, (_, i) => {
      const caller = new AbortController();
      drives.clock.setTimer(i % 60, () => caller.abort());
      const stream = streamOf(patternBytes(1000, i));
      return expectReason("CANCELED", () =>
        drives.drive().putFile(uploadOf(`/f${i}`), stream, { signal: caller.signal }),
      );
    });

    await drives.clock.advance(60);
    await Promise.all(puts);
    const sealedBefore = drives.replicas.store(1).extents.size;
    drives.replicas.hanging.delete(3);
    await drives.clock.advance(SMALL_SEAL_TIMEOUT_MS + 1000);
    await drives.node(1).plane.chores.idle();

    expect(sealedBefore).to.be.above(0);
    expect(drives.tree.count("put-small")).to.equal(0);
    for (const memberId of [1, 2, 3]) {
      expect([...drives.replicas.store(memberId).extents.keys()], `member ${memberId}`).to.deep.equal([]);
    }
  });

  it("keeps the bytes of a small file whose caller gives up once it is proposed", async () => {
    const drives = new TestDrives(3);
    drives.grantLease();
    const caller = new AbortController();
    drives.tree.onPropose = (body) => {
      if (body.kind === "put-small") caller.abort();
    };
    const bytes = patternBytes(1000);

    await expectReason("CANCELED", () =>
      drives.drive().putFile(uploadOf("/f"), streamOf(bytes), { signal: caller.signal }),
    );
    await drives.clock.advance(SMALL_SEAL_TIMEOUT_MS + 1000);
    await drives.node(1).plane.chores.idle();

    expect((await readBack(drives, "/f")).equals(bytes)).to.equal(true);
  });
});
