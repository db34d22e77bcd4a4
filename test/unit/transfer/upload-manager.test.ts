/**
 * Goal: an upload by chunks ends as a file with exactly its bytes, in any order of chunks, through any nodes, over the death of
 * any of them. Method: whole drives over the real state machine and in-memory stores; "restart" throws all memory away.
 */
import { expect } from "chai";
import { finished } from "../../../src/chunks/chunk-errors.ts";
import {
  CHUNK_SIZE_BYTES,
  CONTENT_SIZE_BYTES_MAX,
  EXTENT_SIZE_BYTES_MAX,
  THIRD_SEAL_WAIT_MS,
  UPLOAD_LEASE_MS,
} from "../../../src/drive/limits.ts";
import type { Progress } from "../../../src/drive/drive-api.ts";
import { RECORD_REFRESH_MS, RENEW_INTERVAL_MS } from "../../../src/transfer/active-upload.ts";
import { COMMIT_ATTEMPT_COUNT_MAX, COMMIT_RETRY_WAIT_MS } from "../../../src/transfer/upload-manager.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import type { LocalDrive } from "../../../src/transfer/local-drive.ts";
import { foldTreeHash, sha256 } from "../../../src/std/digest.ts";
import { must } from "../../../src/std/assert.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { getUpload } from "../../../src/metadata/view.ts";
import { settle } from "../../support/fake-clock.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { bytesOf, patternBytes, TestDrives, uploadOf } from "../../support/use-drives.ts";

const SIZE_BYTES = 5 * CHUNK_SIZE_BYTES + 100;
const CONTENT = patternBytes(SIZE_BYTES);
const CHUNKS = Array.from({ length: 6 }, (_, i) =>
  CONTENT.subarray(i * CHUNK_SIZE_BYTES, (i + 1) * CHUNK_SIZE_BYTES),
);

function chunk(index: number): Buffer {
  return must(CHUNKS[index], `chunk ${index}`);
}

async function begin(drive: LocalDrive, sizeBytes: number | undefined = SIZE_BYTES): Promise<number> {
  return (await drive.initUpload(uploadOf("/f", { sizeBytes }))).uploadId;
}

async function send(drive: LocalDrive, uploadId: number, indexes: readonly number[]): Promise<void> {
  for (const index of indexes) await drive.writeChunk(uploadId, index, chunk(index), undefined);
}

async function expectContent(drives: TestDrives, memberId = 1): Promise<void> {
  const download = await drives.drive(memberId).openDownload({ path: "/f" });
  expect((await bytesOf(download.read(0, SIZE_BYTES))).equals(CONTENT)).to.equal(true);
}

describe("UploadManager", () => {
  it("says where to send what, and how long there is time", async () => {
    const drives = new TestDrives(3);

    const ticket = await drives.drive().initUpload(uploadOf("/f", { sizeBytes: SIZE_BYTES }));

    expect(ticket.chunkCount).to.equal(6);
    expect(ticket.instant).to.equal(false);
    expect(ticket.targets.map((target) => target.nodeId)).to.have.members(["node-1", "node-2", "node-3"]);
  });

  it("takes chunks in any order, through any node", async () => {
    const seed = 7;
    const prng = new SeededPrng(seed);
    for (let round = 0; round < 10; round += 1) {
      const drives = new TestDrives(3);
      const uploadId = await begin(drives.drive());
      const left = [0, 1, 2, 3, 4, 5, 2, 5];
      while (left.length > 0) {
        const [index = 0] = left.splice(prng.below(left.length), 1);
        await send(drives.drive(1 + prng.below(3)), uploadId, [index]);
      }

      const { entry } = await drives.drive(1 + prng.below(3)).completeUpload(uploadId, {});

      expect(entry.entryId, `seed=${seed} round=${round}`).to.equal(uploadId);
      expect(Buffer.from(entry.treeHash).equals(foldTreeHash(CHUNKS.map(sha256)))).to.equal(true);
      await expectContent(drives);
    }
  });

  it("takes chunks in parallel", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());

    const receipts = await Promise.all(
      CHUNKS.map((bytes, index) => drives.drive().writeChunk(uploadId, index, bytes, sha256(bytes))),
    );
    await drives.drive().completeUpload(uploadId, {});

    for (const { replicaCount } of receipts) expect(replicaCount).to.be.at.least(2);
    await expectContent(drives);
  });

  it("goes on at another node when the first one has died, with what is missing told", async () => {
    const drives = new TestDrives(4);
    const uploadId = await begin(drives.drive(1));
    await send(drives.drive(1), uploadId, [0, 2, 3]);
    drives.kill(1);

    const status = await drives.drive(2).uploadStatus(uploadId);
    expect(status.missing).to.deep.equal([
      { first: 1, last: 1 },
      { first: 4, last: 5 },
    ]);
    expect(status.committedSizeBytes).to.equal(CHUNK_SIZE_BYTES);
    await send(drives.drive(2), uploadId, [1, 4, 5]);
    const { path } = await drives.drive(2).completeUpload(uploadId, {});

    expect(path).to.equal("/f");
    await expectContent(drives, 3);
  });

  it("completes after every node has forgotten what it had in memory", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(), uploadId, [0, 1, 2, 3, 4, 5]);
    for (const member of [1, 2, 3]) drives.restart(member);

    await drives.drive(3).completeUpload(uploadId, {});

    await expectContent(drives, 2);
  });

  it("says which chunks are missing when it is completed too early", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(), uploadId, [0, 3]);

    const error = await expectReason("UPLOAD_INCOMPLETE", () => drives.drive().completeUpload(uploadId, {}));
    expect(error.metadata["missing"]).to.equal("1-2,4-5");
    expect(error.metadata["missing_count"]).to.equal("4");

    await send(drives.drive(), uploadId, [1, 2, 4, 5]);
    await drives.drive().completeUpload(uploadId, {});
    await expectContent(drives);
  });

  it("names missing chunks of later extents by their place in the content", async () => {
    const drives = new TestDrives(3);
    const sizeBytes = EXTENT_SIZE_BYTES_MAX + 2 * CHUNK_SIZE_BYTES;
    const uploadId = await begin(drives.drive(), sizeBytes);
    await drives.drive().writeChunk(uploadId, 1025, chunk(0), undefined);

    const error = await expectReason("UPLOAD_INCOMPLETE", () => drives.drive().completeUpload(uploadId, {}));

    expect(error.metadata["missing"]).to.equal("0-1024");
  });

  it("puts a content of several extents together", async function () {
    this.timeout(10_000);
    const drives = new TestDrives(3);
    for (const store of drives.replicas.stores.values()) store.trusting = true;
    const sizeBytes = 2 * EXTENT_SIZE_BYTES_MAX + 5;
    const uploadId = await begin(drives.drive(), sizeBytes);
    const one = chunk(0);
    const digest = sha256(one);
    for (let index = 0; index < 2048; index += 1)
      await drives.drive().writeChunk(uploadId, index, one, digest);
    await drives.drive().writeChunk(uploadId, 2048, one.subarray(0, 5), undefined);

    const { entry } = await drives.drive().completeUpload(uploadId, {});

    const leaves = Array.from({ length: 2048 }, () => digest);
    const expected = foldTreeHash([...leaves, sha256(one.subarray(0, 5))]);
    expect(Buffer.from(entry.treeHash).equals(expected)).to.equal(true);
    const download = await drives.drive(2).openDownload({ path: "/f" });
    const across = await bytesOf(download.read(EXTENT_SIZE_BYTES_MAX - 3, 6));
    expect(across.equals(Buffer.concat([one.subarray(-3), one.subarray(0, 3)]))).to.equal(true);
  });

  it("has sealed full extents before it is completed, so that completing asks for the last one only", async function () {
    this.timeout(10_000);
    const drives = new TestDrives(3);
    for (const store of drives.replicas.stores.values()) store.trusting = true;
    const uploadId = await begin(drives.drive(), 2 * EXTENT_SIZE_BYTES_MAX);
    const digest = sha256(chunk(0));
    for (let index = 0; index < 2047; index += 1) {
      await drives.drive().writeChunk(uploadId, index, chunk(0), digest);
    }
    const seals: number[] = [];
    drives.replicas.onCall = (call) => {
      if (call.method === "sealExtent") seals.push(call.extent.extentIndex);
    };

    await drives.drive().writeChunk(uploadId, 2047, chunk(0), digest);
    await drives.drive().completeUpload(uploadId, {});

    expect(seals).to.deep.equal([1, 1, 1]);
  });

  it("answers a finished upload with its file, at every node and under every request id", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(), uploadId, [0, 1, 2, 3, 4, 5]);
    const done = await drives.drive().completeUpload(uploadId, {}, { requestId: "one" });

    expect(await drives.drive().completeUpload(uploadId, {}, { requestId: "one" })).to.deep.equal(done);
    expect(await drives.drive(2).completeUpload(uploadId, {}, { requestId: "two" })).to.deep.equal(done);
    expect((await drives.drive(3).uploadStatus(uploadId)).state).to.equal("complete");
    await expectReason("UPLOAD_FINISHED", () => send(drives.drive(2), uploadId, [0]));
  });

  it("answers the file when the answer of the first completion was lost", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(), uploadId, [0, 1, 2, 3, 4, 5]);
    drives.tree.lostAnswers.set("complete-upload", 1);

    await expectReason("COMMIT_OUTCOME_UNKNOWN", () =>
      drives.drive().completeUpload(uploadId, {}, { requestId: "one" }),
    );
    await drives.drive(2).completeUpload(uploadId, {}, { requestId: "one" });

    expect((await drives.drive().cluster()).fileCount).to.equal(1);
    await expectContent(drives);
  });

  it("settles two uploads of one name as each asked", async () => {
    for (const onConflict of ["fail", "rename", "replace"] as const) {
      const drives = new TestDrives(3);
      const drive = drives.drive();
      const start = async () =>
        (await drive.initUpload(uploadOf("/f", { sizeBytes: SIZE_BYTES, onConflict }))).uploadId;
      const [first, second] = [await start(), await start()];
      await send(drive, first, [0, 1, 2, 3, 4, 5]);
      await send(drive, second, [0, 1, 2, 3, 4, 5]);
      const done = await drive.completeUpload(first, {});

      const other = drive.completeUpload(second, {});

      if (onConflict === "fail") await expectReason("PATH_EXISTS", () => other);
      if (onConflict === "rename") expect((await other).path).to.equal("/f (2)");
      if (onConflict === "replace") expect((await other).entry.entryId).to.equal(done.entry.entryId);
    }
  });

  it("seals anew when a target got a new store between seal and commit", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(), uploadId, [0, 1, 2, 3, 4, 5]);
    let proposals = 0;
    drives.tree.onPropose = (body) => {
      if (body.kind !== "complete-upload") return;
      proposals += 1;
      if (proposals > 1) return;
      const { node } = { node: must(drives.node(3).plane.directory.find(3), "member 3") };
      drives.tree.apply({ kind: "register-node", node: { ...node, storeIncarnation: "other" } });
      drives.kill(3);
    };

    await drives.drive().completeUpload(uploadId, {}, { requestId: "one" });

    expect(proposals).to.equal(2);
    await expectContent(drives);
  });

  /** The targets of the only extent. */
  function targetsOf(drives: TestDrives, uploadId: number): readonly number[] {
    const { extents } = must(getUpload(drives.tree.store, uploadId), "the upload");
    return must(extents[0], "its extent").memberIds;
  }

  /** The file is acknowledged, two copies count, and repair knows. */
  async function expectTwoCopies(drives: TestDrives): Promise<void> {
    await drives.node(1).plane.chores.idle();
    expect((await drives.drive().durability({ path: "/f" })).verifiedCount).to.equal(2);
    expect((await drives.drive().cluster()).replicas).to.include({
      fullyReplicatedCount: 0,
      underReplicatedCount: 1,
    });
    await expectContent(drives);
  }

  /** Waits until all three targets sealed the only extent, before anybody asked for it. */
  async function sealedEarly(drives: TestDrives, uploadId: number): Promise<void> {
    const { contentId } = must(getUpload(drives.tree.store, uploadId), "the upload");
    await settle();
    for (const memberId of targetsOf(drives, uploadId)) {
      const { kind } = await drives.replicas.store(memberId).extentState({ contentId, extentIndex: 0 });
      expect(kind, `at member ${memberId}`).to.equal("sealed");
    }
  }

  it("seals anew when a target was given up while the upload went on, and counts only what is left", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(), uploadId, [0, 1, 2, 3, 4, 5]);
    await sealedEarly(drives, uploadId);
    drives.giveUp(3);

    await drives.drive().completeUpload(uploadId, {});

    await expectTwoCopies(drives);
  });

  it("does not count a third seal that came late, of a member that was given up before the upload was completed", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(), uploadId, [0, 1, 2, 3, 4]);
    drives.replicas.onCall = (call) => {
      if (call.memberId === 3 && call.method === "sealExtent") drives.replicas.delayMs.set(3, 4000);
    };
    await send(drives.drive(), uploadId, [5]);
    await drives.clock.advance(THIRD_SEAL_WAIT_MS + 4000);
    await sealedEarly(drives, uploadId);
    drives.giveUp(3);

    await drives.drive().completeUpload(uploadId, {});

    await expectTwoCopies(drives);
    expect(drives.tree.count("add-replica")).to.equal(0);
  });

  it("reports a copy whose member was given up while it was being recorded, in time and late", async () => {
    for (const recording of ["complete-upload", "add-replica"] as const) {
      const drives = new TestDrives(3);
      const uploadId = await begin(drives.drive());
      await send(drives.drive(), uploadId, [0, 1, 2, 3, 4]);
      const isLate = recording === "add-replica";
      drives.replicas.onCall = (call) => {
        if (isLate && call.memberId === 3 && call.method === "sealExtent")
          drives.replicas.delayMs.set(3, 4000);
      };
      await send(drives.drive(), uploadId, [5]);
      await drives.clock.advance(isLate ? THIRD_SEAL_WAIT_MS + 4000 : 0);
      await sealedEarly(drives, uploadId);
      drives.tree.onPropose = (body) => {
        if (body.kind === recording) drives.giveUp(3);
      };

      await drives.drive().completeUpload(uploadId, {});
      expect(drives.tree.count(recording)).to.equal(1);
      await expectTwoCopies(drives);
    }
  });

  it("keeps the seals that count: what is sealed twice needs nobody who is away for a moment", async () => {
    const drives = new TestDrives(4);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(), uploadId, [0, 1, 2, 3, 4, 5]);
    await sealedEarly(drives, uploadId);
    const [kept, away, lost] = targetsOf(drives, uploadId);
    drives.giveUp(must(lost, "a third target"));
    drives.kill(must(away, "a second target"));

    await drives.drive(kept).completeUpload(uploadId, {});
    await drives.node(must(kept, "a target")).plane.chores.idle();

    const { verifiedCount } = await drives.drive(kept).durability({ path: "/f" });
    expect(verifiedCount).to.equal(2);
    await expectContent(drives, kept);
  });

  it("puts others in the place of targets that were given up, at any node, and nothing is sent again", async () => {
    for (const via of ["the one that took it", "another"]) {
      const drives = new TestDrives(5);
      const uploadId = await begin(drives.drive());
      await send(drives.drive(), uploadId, [0, 1, 2, 3, 4, 5]);
      await sealedEarly(drives, uploadId);
      const [first = 0, second = 0] = targetsOf(drives, uploadId).filter((memberId) => memberId !== 1);
      drives.giveUp(first);
      drives.giveUp(second);
      const up = [1, 2, 3, 4, 5].filter((memberId) => memberId !== first && memberId !== second);
      const memberId = via === "another" ? must(up[1], "another") : 1;

      await drives.drive(memberId).completeUpload(uploadId, {});
      await drives.node(memberId).plane.chores.idle();

      const { verifiedCount, nodeIds } = await drives.drive().durability({ path: "/f" });
      expect(verifiedCount).to.equal(3);
      expect(nodeIds).to.have.members(up.map((each) => `node-${each}`));
      expect((await drives.drive().cluster()).replicas).to.include({ underReplicatedCount: 0 });
      await expectContent(drives, memberId);
    }
  });

  it("waits for the old targets while none of their copies can be reached, and takes them when they are back", async () => {
    const drives = new TestDrives(6);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(), uploadId, [0, 1, 2, 3, 4, 5]);
    await sealedEarly(drives, uploadId);
    const targets = targetsOf(drives, uploadId);
    const memberId = must(
      [1, 2, 3, 4, 5, 6].find((each) => !targets.includes(each)),
      "a node without a copy",
    );
    const [away, first, second] = targets;
    drives.kill(must(away, "a target"));
    for (const lost of [first, second]) drives.giveUp(must(lost, "a target"));

    await expectReason("QUORUM_NOT_REACHED", () => drives.drive(memberId).completeUpload(uploadId, {}));
    drives.giveUp(must(away, "a target"));
    await expectReason("QUORUM_NOT_REACHED", () => drives.drive(memberId).completeUpload(uploadId, {}));
    expect(targetsOf(drives, uploadId)).to.deep.equal(targets);

    for (const target of targets) {
      drives.revive(target);
      drives.tree.apply({ kind: "return-store", memberId: target, storeIncarnation: `store-${target}` });
    }
    await drives.drive(memberId).completeUpload(uploadId, {});
    await expectContent(drives, memberId);
  });

  it("puts others in the place of targets once, however often completing is tried", async () => {
    const drives = new TestDrives(7);
    const uploadId = await begin(drives.drive(), undefined);
    await send(drives.drive(), uploadId, [0, 1, 2, 3, 4, 5]);
    const [first = 0, second = 0] = targetsOf(drives, uploadId).filter((memberId) => memberId !== 1);
    drives.giveUp(first);
    drives.giveUp(second);
    const assignments = drives.tree.count("assign-extent");
    drives.replicas.onCall = ({ memberId, method }) => {
      if (method === "sealExtent" && memberId !== 1) throw new DriveError("NO_SPACE", "of the test");
    };
    for (const _ of [1, 2]) {
      await expectReason("NO_SPACE", () =>
        drives.drive().completeUpload(uploadId, { sizeBytes: SIZE_BYTES }),
      );
      expect(drives.tree.count("assign-extent")).to.equal(assignments + 1);
    }
    drives.replicas.onCall = undefined;
    await drives.drive().completeUpload(uploadId, { sizeBytes: SIZE_BYTES });
    expect(drives.tree.count("assign-extent")).to.equal(assignments + 1);
    await expectContent(drives);
  });

  it("does not acknowledge a file of which too few copies are left that count", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(), uploadId, [0, 1, 2, 3, 4, 5]);
    await sealedEarly(drives, uploadId);
    for (const memberId of [2, 3]) drives.giveUp(memberId);
    await expectReason("QUORUM_NOT_REACHED", () => drives.drive().completeUpload(uploadId, {}));
    for (const memberId of [2, 3]) drives.revive(memberId);
    const early = await expectReason("QUORUM_NOT_REACHED", () => drives.drive().completeUpload(uploadId, {}));
    expect(early.message, "they are back, and not compared yet").to.include("Only 1 of 2");
    drives.tree.apply({ kind: "return-store", memberId: 3, storeIncarnation: "store-3" });
    await drives.drive().completeUpload(uploadId, {});
    await expectContent(drives);
  });

  it("waits for a node that takes chunks before the tree knows its new store, and not for ever", async () => {
    for (const rejectedCount of [COMMIT_ATTEMPT_COUNT_MAX - 1, COMMIT_ATTEMPT_COUNT_MAX]) {
      const drives = new TestDrives(3);
      const uploadId = await begin(drives.drive());
      await send(drives.drive(), uploadId, [0, 1, 2, 3, 4, 5]);
      let proposals = 0;
      drives.tree.onPropose = (body) => {
        if (body.kind !== "complete-upload") return;
        proposals += 1;
        const node = must(drives.node(3).plane.directory.find(3), "member 3");
        const storeIncarnation = proposals <= rejectedCount ? `other ${proposals}` : "store-3";
        drives.tree.apply({ kind: "register-node", node: { ...node, storeIncarnation } });
      };
      const done = drives
        .drive()
        .completeUpload(uploadId, {}, { requestId: "one" })
        .then(
          () => "done",
          (error: unknown) => (error as DriveError).reason,
        );
      await drives.clock.advance(COMMIT_RETRY_WAIT_MS * 2 ** (COMMIT_ATTEMPT_COUNT_MAX - 2));

      expect(await done).to.equal(rejectedCount < COMMIT_ATTEMPT_COUNT_MAX ? "done" : "SEAL_REJECTED");
      expect(proposals).to.equal(COMMIT_ATTEMPT_COUNT_MAX);
    }
  });

  it("does not wait for a third seal longer than THIRD_SEAL_WAIT_MS, and adds it when it comes", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(), uploadId, [0, 1, 2, 3, 4]);
    drives.replicas.onCall = (call) => {
      if (call.memberId === 3 && call.method === "sealExtent") drives.replicas.delayMs.set(3, 4000);
    };
    await send(drives.drive(), uploadId, [5]);

    const completing = drives.drive().completeUpload(uploadId, {});
    await drives.clock.advance(THIRD_SEAL_WAIT_MS);
    await completing;
    expect((await drives.drive().durability({ path: "/f" })).verifiedCount).to.equal(2);
    await drives.clock.advance(4000);

    expect((await drives.drive().durability({ path: "/f" })).verifiedCount).to.equal(3);
  });

  it("says QUORUM_NOT_REACHED and never hangs when two targets die before completion; later it completes", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(), uploadId, [0, 1, 2, 3, 4]);
    drives.kill(2);
    drives.kill(3);

    await expectReason("QUORUM_NOT_REACHED", () => send(drives.drive(), uploadId, [5]));
    await expectReason("QUORUM_NOT_REACHED", () =>
      drives.drive().initUpload(uploadOf("/g", { sizeBytes: 9 })),
    );
    drives.revive(2);
    drives.revive(3);
    await drives.clock.advance(5000);
    await send(drives.drive(), uploadId, [5]);
    await drives.drive().completeUpload(uploadId, {});

    await expectContent(drives);
  });

  it("ends cleanly at every step at which a target can die", async () => {
    // How many calls a whole upload makes, then one run for each of them with the death just before it.
    const run = async (deathAt: number): Promise<number> => {
      const drives = new TestDrives(4);
      let calls = 0;
      const ticket = await drives.drive().initUpload(uploadOf("/f", { sizeBytes: SIZE_BYTES }));
      const { uploadId } = ticket;
      const victim = Number(must(ticket.targets[1], "a second target").nodeId.slice("node-".length));
      drives.replicas.onCall = (call) => {
        if (call.memberId !== victim) return;
        calls += 1;
        if (calls === deathAt) drives.kill(victim);
      };
      await send(drives.drive(), uploadId, [0, 1, 2, 3, 4, 5]);
      const gateway = victim === 1 ? 2 : 1;
      await drives.drive(gateway).completeUpload(uploadId, {});
      await expectContent(drives, gateway);
      const { verifiedCount } = await drives.drive().durability({ path: "/f" });
      expect(verifiedCount, `death before call ${deathAt}`).to.be.at.least(2);
      return calls;
    };
    const callCount = await run(Infinity);
    expect(callCount).to.be.at.least(7);

    for (let deathAt = 1; deathAt <= callCount; deathAt += 1) await run(deathAt);
  });

  it("checks chunks: digest, index and length", async () => {
    const drives = new TestDrives(3);
    const drive = drives.drive();
    const uploadId = await begin(drive);
    const write = (index: number, bytes: Uint8Array, digest?: Uint8Array) =>
      drive.writeChunk(uploadId, index, bytes, digest);

    await expectReason("DIGEST_MISMATCH", () => write(0, chunk(0), sha256(chunk(1))));
    await expectReason("CHUNK_OUT_OF_RANGE", () => write(6, chunk(0)));
    await expectReason("CHUNK_OUT_OF_RANGE", () => write(-1, chunk(0)));
    await expectReason("PAYLOAD_TRUNCATED", () => write(0, chunk(0).subarray(1)));
    await expectReason("PAYLOAD_TRUNCATED", () => write(5, chunk(5).subarray(1)));
    await expectReason("PAYLOAD_TOO_LARGE", () => write(5, chunk(0)));
    await expectReason("UPLOAD_NOT_FOUND", () => drive.writeChunk(4711, 0, chunk(0), undefined));
    expect((await write(0, chunk(0), sha256(chunk(0)))).replicaCount).to.be.at.least(2);
  });

  it("tells that an upload cannot be completed when its copies differ, and discards it when asked to", async () => {
    const drives = new TestDrives(3);
    const drive = drives.drive();
    const uploadId = await begin(drive);
    const { contentId } = must(getUpload(drives.tree.port(1).reader(), uploadId), "the upload");
    await send(drive, uploadId, [0, 1, 2, 3, 4]);
    await drives.node(1).plane.chores.idle();
    // What clients that send one chunk with different bytes at the same time leave behind.
    for (const memberId of [1, 2, 3]) {
      const other = new Uint8Array(CHUNK_SIZE_BYTES).fill(memberId);
      await drives.replicas
        .store(memberId)
        .writeChunk({ contentId, extentIndex: 0 }, 0, other, sha256(other));
    }
    await send(drive, uploadId, [5]);
    await settle();

    const status = await expectReason("DIGEST_MISMATCH", () => drives.drive(2).uploadStatus(uploadId));
    expect(status.message).to.include("different bytes");
    const error = await expectReason("DIGEST_MISMATCH", () => drive.completeUpload(uploadId, {}));

    expect(error.message).to.include("differ").and.include("The upload was discarded. Begin a new upload.");
    expect(error.spec.remedy).to.include("in a new upload");
    for (const memberId of [1, 2]) {
      const later = drives.drive(memberId);
      await expectReason("UPLOAD_NOT_FOUND", () => later.uploadStatus(uploadId));
      await expectReason("UPLOAD_NOT_FOUND", () => later.completeUpload(uploadId, {}));
      await expectReason("UPLOAD_NOT_FOUND", () => send(later, uploadId, [0]));
    }
    expect((await drive.cluster()).openUploadCount).to.equal(0);
  });

  it("says that an upload is gone, not finished, of a chunk that meets what stores still keep of it", async () => {
    const drives = new TestDrives(3);
    const drive = drives.drive();
    const uploadId = await begin(drive);
    const { contentId } = must(getUpload(drives.tree.port(1).reader(), uploadId), "the upload");
    await send(drive, uploadId, [0]);
    await drives.drive(2).abortUpload(uploadId);
    for (const memberId of [1, 2, 3]) {
      drives.replicas.store(memberId).writeChunk = () =>
        Promise.reject(finished({ contentId, extentIndex: 0 }));
    }

    await expectReason("UPLOAD_NOT_FOUND", () => send(drive, uploadId, [1]));
  });

  it("discards an upload whose sealed bytes are not those stated", async () => {
    const drives = new TestDrives(3);
    const drive = drives.drive();
    const treeHash = new Uint8Array(32);
    const { uploadId } = await drive.initUpload(uploadOf("/f", { sizeBytes: 3, treeHash }));
    await drive.writeChunk(uploadId, 0, Buffer.from("abc"), undefined);

    const error = await expectReason("DIGEST_MISMATCH", () => drive.completeUpload(uploadId, {}));

    expect(error.message).to.match(
      /tree hash than stated\. The upload was discarded\. Begin a new upload\.$/,
    );
    await expectReason("UPLOAD_NOT_FOUND", () => drive.uploadStatus(uploadId));
  });

  it("tells those who watch an upload that is discarded why, and not that it was aborted", async () => {
    const drives = new TestDrives(3);
    const drive = drives.drive();
    const { uploadId } = await drive.initUpload(
      uploadOf("/f", { sizeBytes: 3, treeHash: new Uint8Array(32) }),
    );
    await drive.writeChunk(uploadId, 0, Buffer.from("abc"), undefined);
    const ends: unknown[] = [];
    const watching = (async () => {
      for await (const { phase, errorReason } of drive.watchProgress(String(uploadId)))
        if (phase === "failed") ends.push(errorReason);
    })();
    await drives.clock.advance(10);

    await expectReason("DIGEST_MISMATCH", () => drive.completeUpload(uploadId, {}));
    await drives.clock.advance(1000);
    await watching;

    expect(ends).to.deep.equal(["DIGEST_MISMATCH"]);
  });

  it("keeps what came first when other bytes come for a chunk of an extent that is whole, and can be completed with it", async () => {
    const drives = new TestDrives(3);
    const drive = drives.drive();
    const uploadId = await begin(drive);
    await send(drive, uploadId, [0, 1, 2, 3, 4, 5]);
    await drives.node(1).plane.chores.idle();
    await settle();

    const error = await expectReason("UPLOAD_FINISHED", () =>
      drive.writeChunk(uploadId, 0, chunk(1), undefined),
    );

    expect(error.spec.remedy).to.equal(
      "It takes no other bytes: complete it as it is, or begin a new upload.",
    );
    expect(await drive.uploadStatus(uploadId)).to.deep.include({ state: "open", missing: [] });
    await drive.completeUpload(uploadId, {});
    await expectContent(drives, 2);
  });

  it("checks sizes: whole numbers up to the largest content", async () => {
    const drive = new TestDrives(3).drive();

    await expectReason("ARGUMENT_INVALID", () => begin(drive, -1));
    await expectReason("ARGUMENT_INVALID", () => begin(drive, 1.5));
    await expectReason("PAYLOAD_TOO_LARGE", () => begin(drive, CONTENT_SIZE_BYTES_MAX + 1));
    expect(await begin(drive, CONTENT_SIZE_BYTES_MAX)).to.be.greaterThan(0);
  });

  it("completes an upload of unknown size with the size stated at the end", async () => {
    const drives = new TestDrives(3);
    const drive = drives.drive();
    const { uploadId } = await drive.initUpload(uploadOf("/f"));
    await send(drive, uploadId, [5, 1, 0, 2, 4]);

    expect((await drive.uploadStatus(uploadId)).missing).to.deep.equal([{ first: 3, last: 3 }]);
    await send(drive, uploadId, [3]);
    await expectReason("ARGUMENT_INVALID", () => drive.completeUpload(uploadId, {}));
    const error = await expectReason("UPLOAD_INCOMPLETE", () =>
      drive.completeUpload(uploadId, { sizeBytes: SIZE_BYTES + 1 }),
    );
    expect(error.metadata["missing"]).to.equal("5");
    await drive.completeUpload(uploadId, { sizeBytes: SIZE_BYTES });

    await expectContent(drives);
  });

  it("refuses another size at the end than at the start", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());

    await expectReason("ARGUMENT_INVALID", () =>
      drives.drive().completeUpload(uploadId, { sizeBytes: SIZE_BYTES - 1 }),
    );
  });

  it("aborts: afterwards nobody knows the upload, at any node", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(2), uploadId, [0]);

    await drives.drive(1).abortUpload(uploadId);
    await drives.clock.advance(1000);

    await expectReason("UPLOAD_NOT_FOUND", () => send(drives.drive(2), uploadId, [1]));
    await expectReason("UPLOAD_NOT_FOUND", () => drives.drive(3).completeUpload(uploadId, {}));
    await expectReason("UPLOAD_NOT_FOUND", () => drives.drive(1).uploadStatus(uploadId));
  });

  it("finishes at once when equal bytes are here", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(), uploadId, [0, 1, 2, 3, 4, 5]);
    const { entry } = await drives.drive().completeUpload(uploadId, {});

    const request = uploadOf("/again", { sizeBytes: SIZE_BYTES, treeHash: entry.treeHash });
    const ticket = await drives.drive(2).initUpload(request);

    expect(ticket.instant).to.equal(true);
    expect(ticket.entry?.contentId).to.equal(entry.contentId);
    expect((await drives.drive(2).completeUpload(ticket.uploadId, {})).path).to.equal("/again");
  });

  it("tells its expiry as wall time", async () => {
    const drives = new TestDrives(3);
    const ticket = await drives.drive().initUpload(uploadOf("/f", { sizeBytes: SIZE_BYTES }));
    const status = await drives.drive(2).uploadStatus(ticket.uploadId);
    const expected = drives.clock.wallMs() + UPLOAD_LEASE_MS;
    expect(ticket.expireTimeMs).to.be.closeTo(expected, 60_000);
    expect(status.expireTimeMs).to.be.closeTo(expected, 60_000);
  });

  it("takes another answer to a taken name at completion", async () => {
    const drives = new TestDrives(3);
    const [first, second] = [await begin(drives.drive()), await begin(drives.drive())];
    for (const uploadId of [first, second]) await send(drives.drive(), uploadId, [0, 1, 2, 3, 4, 5]);
    const { path } = await drives.drive().completeUpload(first, {});
    await expectReason("PATH_EXISTS", () => drives.drive().completeUpload(second, {}));

    const renamed = await drives.drive().completeUpload(second, { onConflict: "rename" });
    expect(renamed.path).not.to.equal(path);
  });

  it("says at every node that its folder was deleted meanwhile, and takes no more bytes", async () => {
    const drives = new TestDrives(3);
    const { uploadId } = await drives
      .drive(1)
      .initUpload(uploadOf("/gone/a/f.bin", { sizeBytes: SIZE_BYTES }));
    await send(drives.drive(1), uploadId, [0, 1, 2, 3, 4]);
    expect(await drives.drive(2).uploadStatus(uploadId)).to.include({ path: "/gone/a/f.bin" });

    await drives.drive(2).remove({ path: "/gone" }, { recursive: true });

    expect(await drives.drive(2).uploadStatus(uploadId)).to.include({ path: "", state: "open" });
    for (const memberId of [1, 3]) {
      const error = await expectReason("PATH_NOT_FOUND", () =>
        drives.drive(memberId).completeUpload(uploadId, {}),
      );
      expect(error.message).to.include(`The folder of upload ${uploadId} ("f.bin") was deleted while it ran`);
      expect(error.message).to.include("Upload the file anew");
      expect(error.metadata).to.deep.equal({ upload_id: String(uploadId), name: "f.bin" });
    }
    await drives.clock.advance(RECORD_REFRESH_MS);
    await expectReason("PATH_NOT_FOUND", () => send(drives.drive(1), uploadId, [5]));
    // A folder of the same path is another folder.
    await drives.drive(1).createDirectory("/gone/a", { createParents: true, existOk: false, attributes: {} });
    await expectReason("PATH_NOT_FOUND", () => drives.drive(1).completeUpload(uploadId, {}));
    await drives.drive(1).abortUpload(uploadId);
  });

  it("reports progress through its phases", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(), uploadId, [0, 1, 2, 3, 4, 5]);
    await drives.drive().completeUpload(uploadId, {});

    const seen = [];
    for await (const progress of drives.drive().watchProgress(String(uploadId))) seen.push(progress);

    expect(seen.at(-1)).to.deep.equal({
      id: String(uploadId),
      kind: "upload",
      phase: "done",
      sizeBytes: SIZE_BYTES,
      transferredBytes: SIZE_BYTES,
      copiedBytes: [SIZE_BYTES, SIZE_BYTES, SIZE_BYTES],
      errorReason: undefined,
    });
  });

  it("reports progress at a node through which nothing of the upload goes", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive(1));
    const seen: Progress[] = [];
    const watching = (async () => {
      for await (const progress of drives.drive(3).watchProgress(String(uploadId))) seen.push(progress);
    })();

    await send(drives.drive(1), uploadId, [5, 0]);
    await drives.clock.advance(1000);
    await send(drives.drive(1), uploadId, [1, 2, 3, 4]);
    await drives.drive(1).completeUpload(uploadId, {});
    await drives.clock.advance(1000);
    await watching;

    expect(seen.map((progress) => [progress.phase, progress.copiedBytes[2]])).to.deep.equal([
      ["receiving", 0],
      ["receiving", CHUNK_SIZE_BYTES + 100],
      ["done", SIZE_BYTES],
    ]);
    for (const id of ["4711", "no-such", "download-1-1"]) {
      await expectReason("UPLOAD_NOT_FOUND", async () => {
        for await (const progress of drives.drive(3).watchProgress(id)) expect(progress).to.equal(undefined);
      });
    }
  });

  it("shows a sign of life for an upload that takes chunks, once an hour", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives.drive());
    await send(drives.drive(), uploadId, [0]);
    await drives.clock.advance(RENEW_INTERVAL_MS - 1);
    await send(drives.drive(), uploadId, [1]);
    expect(drives.tree.count("renew-upload")).to.equal(0);

    await drives.clock.advance(1);
    await send(drives.drive(), uploadId, [2, 3]);
    await drives.node(1).plane.chores.idle();

    expect(drives.tree.count("renew-upload")).to.equal(1);
  });
});
