/** Goal: the whole port works at one node, for trees, status and feeds, and for clusters of one and two. Method: drives in memory. */
import { expect } from "chai";
import type { Change } from "../../../src/drive/change.ts";
import { CHUNK_SIZE_BYTES, PAGE_SIZE_MAX } from "../../../src/drive/limits.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { settle } from "../../support/fake-clock.ts";
import { registrationOf } from "../../support/memory-metadata-port.ts";
import { bytesOf, patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

const FOLDER = { createParents: true, existOk: false, attributes: {} };

describe("LocalDrive", () => {
  it("makes, moves, copies, changes and removes entries", async () => {
    const drives = new TestDrives(3);
    const drive = drives.drive();
    await drive.createDirectory("/a/b", FOLDER);
    await drive.putFile(uploadOf("/a/b/f"), streamOf(patternBytes(10)));

    expect((await drive.move({ path: "/a/b" }, "/c", "fail")).path).to.equal("/c");
    await drive.copy({ path: "/c" }, "/d", "fail");
    const changed = await drive.update({ path: "/d/f" }, { mode: 0o640, mediaType: "text/plain" });
    await drive.remove({ path: "/c" }, { recursive: true });

    expect([changed.entry.mode, changed.entry.mediaType]).to.deep.equal([0o640, "text/plain"]);
    expect((await drive.stat({ path: "/d/f" })).entry.sizeBytes).to.equal(10);
    await expectReason("PATH_NOT_FOUND", () => drive.stat({ path: "/c/f" }));
    await expectReason("MOVE_INTO_SELF", () => drive.move({ path: "/d" }, "/d/e", "fail"));
    await expectReason("PATH_INVALID", () => drive.stat({ path: "/a/../b" }));
    await expectReason("ARGUMENT_INVALID", () => drive.stat({ entryId: 0 }));
  });

  it("lists by pages through an unfinished copy, at every node", async () => {
    const drives = new TestDrives(3);
    const drive = drives.drive();
    for (let i = 10; i < 35; i += 1) await drive.createDirectory(`/s/n${i}`, FOLDER);
    await drive.copy({ path: "/s" }, "/t", "fail");

    const names: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await drives.drive(2).list({ path: "/t" }, { cursor, countMax: 10 });
      names.push(...page.entries.map((entry) => entry.name));
      cursor = page.nextCursor;
    } while (cursor !== undefined);

    expect(names).to.deep.equal(Array.from({ length: 25 }, (_, i) => `n${i + 10}`));
    expect((await drive.stat({ path: "/t/n12" })).path).to.equal("/t/n12");
  });

  it("checks pages and cursors", async () => {
    const drive = new TestDrives(3).drive();
    const list = (countMax: number, cursor?: string) => drive.list({ path: "/" }, { countMax, cursor });

    await list(1);
    await list(PAGE_SIZE_MAX);
    await expectReason("ARGUMENT_INVALID", () => list(0));
    await expectReason("ARGUMENT_INVALID", () => list(PAGE_SIZE_MAX + 1));
    await expectReason("ARGUMENT_INVALID", () => list(1, "?!"));
  });

  it("reads stale without a leader, and linearizably not", async () => {
    const drives = new TestDrives(3);
    await drives.drive().createDirectory("/a", FOLDER);
    drives.tree.unavailable = true;

    expect((await drives.drive().stat({ path: "/a" }, { consistency: "stale" })).path).to.equal("/a");
    await expectReason("NO_LEADER", () => drives.drive().stat({ path: "/a" }));
    await expectReason("NO_LEADER", () => drives.drive().createDirectory("/b", FOLDER));
  });

  it("applies a repeated request once", async () => {
    const drives = new TestDrives(3);
    const make = (memberId: number) =>
      drives.drive(memberId).createDirectory("/a", FOLDER, { requestId: "same" });

    const first = await make(1);

    expect(await make(2)).to.deep.equal(first);
  });

  it("follows the change feed in order, from the start and as it grows", async () => {
    const drives = new TestDrives(3);
    const drive = drives.drive();
    await drive.createDirectory("/a", FOLDER);
    const caller = new AbortController();
    const seen: Change[] = [];
    const watching = expectReason("CANCELED", async () => {
      for await (const batch of drive.watchChanges(0, caller.signal)) seen.push(...batch);
    });
    await settle();
    await drive.createDirectory("/b", FOLDER);
    await settle();
    caller.abort();
    await watching;

    expect(seen.map((change) => [change.kind, change.entry.name])).to.deep.equal([
      ["created", "a"],
      ["created", "b"],
    ]);
  });

  it("tells the status of the cluster", async () => {
    const drives = new TestDrives(3);
    drives.detector.health.set(3, "suspect");

    const status = await drives.drive(2).cluster();

    expect([status.nodeId, status.leaderId, status.clusterId]).to.deep.equal([
      "node-2",
      "node-1",
      "test-cluster",
    ]);
    expect(status.nodes.map((node) => [node.nodeId, node.role, node.health])).to.deep.equal([
      ["node-1", "leader", "up"],
      ["node-2", "voter", "up"],
      ["node-3", "voter", "suspect"],
    ]);
    expect(drives.drive().readiness()).to.deep.equal({ ready: true, problems: [], services: undefined });
  });

  it("drains the node of a name or a member id, and asks for the id where a name has several", async () => {
    const drives = new TestDrives(3);
    drives.tree.apply({ kind: "register-node", node: { ...registrationOf(3), nodeId: "node-2" } });
    const drive = drives.drive();
    const draining = async (): Promise<readonly number[]> =>
      (await drive.cluster()).nodes.filter((node) => node.draining).map(({ memberId }) => Number(memberId));

    const error = await expectReason("ARGUMENT_INVALID", () => drive.setDraining("node-2", true));
    expect(error.message).to.include("2, 3");
    expect(await draining()).to.deep.equal([]);
    await drive.setDraining("3", true);
    await drive.setDraining("node-1", true);
    expect(await draining()).to.deep.equal([1, 3]);
    await expectReason("MEMBER_NOT_FOUND", () => drive.setDraining("node-9", true));
  });

  for (const sizeBytes of [0, 100, 2 * CHUNK_SIZE_BYTES]) {
    for (const memberCount of [1, 2]) {
      it(`keeps ${sizeBytes} bytes in a cluster of ${memberCount}`, async () => {
        const drives = new TestDrives(memberCount);
        if (sizeBytes === 100) drives.grantLease();
        const bytes = patternBytes(sizeBytes);

        await drives.drive().putFile(uploadOf("/f"), streamOf(bytes));

        const download = await drives.drive().openDownload({ path: "/f" });
        expect((await bytesOf(download.read(0, sizeBytes))).equals(bytes)).to.equal(true);
        const { verifiedCount } = await drives.drive().durability({ path: "/f" });
        expect(verifiedCount).to.equal(sizeBytes === 0 ? 3 : memberCount);
      });
    }
  }

  it("does not take a cluster that is being formed for a cluster of one", async () => {
    const drives = new TestDrives(1, 3);
    drives.grantLease();

    await expectReason("QUORUM_NOT_REACHED", () =>
      drives.drive().putFile(uploadOf("/f"), streamOf(patternBytes(100))),
    );
  });

  it("stops without leaving timers behind", async () => {
    const drives = new TestDrives(3);
    const { uploadId } = await drives.drive().initUpload(uploadOf("/f", { sizeBytes: 10 }));
    await drives.drive().writeChunk(uploadId, 0, patternBytes(10), undefined);

    await drives.drive().stop();
    await settle();

    expect(drives.clock.timerCount).to.equal(0);
  });
});
