/** Goal: a download gives the bytes of the version it opened, from whatever copies are good. Method: whole drives in memory. */
import { expect } from "chai";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { registrationOf } from "../../support/memory-metadata-port.ts";
import { bytesOf, patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

const CONTENT = patternBytes(6 * CHUNK_SIZE_BYTES + 5);

async function withFile(memberCount = 3): Promise<{ drives: TestDrives; contentId: number }> {
  const drives = new TestDrives(memberCount);
  const { entry } = await drives.drive().putFile(uploadOf("/f"), streamOf(CONTENT));
  await drives.node(1).plane.chores.idle();
  return { drives, contentId: entry.contentId };
}

describe("openDownload()", () => {
  it("reads ranges at every node", async () => {
    const { drives } = await withFile();

    for (const member of [1, 2, 3]) {
      const download = await drives.drive(member).openDownload({ path: "/f" });
      const range = await bytesOf(download.read(CHUNK_SIZE_BYTES - 1, CHUNK_SIZE_BYTES + 2));
      expect(range.equals(CONTENT.subarray(CHUNK_SIZE_BYTES - 1, 2 * CHUNK_SIZE_BYTES + 1))).to.equal(true);
      expect(download.local).to.equal(true);
    }
  });

  it("goes on from another copy when its own is damaged, and has the copy marked corrupt", async () => {
    const { drives, contentId } = await withFile();
    drives.replicas.store(1).damage({ contentId, extentIndex: 0 }, 3);
    const download = await drives.drive(1).openDownload({ path: "/f" });

    const bytes = await bytesOf(download.read(0, CONTENT.length));
    await drives.node(1).plane.chores.idle();

    expect(bytes.equals(CONTENT)).to.equal(true);
    expect(drives.tree.count("report-replica")).to.equal(1);
    expect((await drives.drive().durability({ path: "/f" })).nodeIds).to.deep.equal(["node-2", "node-3"]);
    expect((await drives.drive().cluster()).replicas.corruptCount).to.equal(1);
  });

  it("reads a version to its end although the file was replaced and deleted meanwhile", async () => {
    const { drives, contentId } = await withFile();
    const download = await drives.drive(2).openDownload({ path: "/f" });
    const pieces = download.read(0, CONTENT.length)[Symbol.asyncIterator]();
    const first = await pieces.next();
    await drives.drive().putFile(uploadOf("/f", { onConflict: "replace" }), streamOf(patternBytes(10)));
    await drives.drive().remove({ path: "/f" }, { recursive: false });
    expect(drives.node(2).plane.pins.isPinned(contentId)).to.equal(true);

    const parts = [first.value as Uint8Array];
    for (let next = await pieces.next(); next.done !== true; next = await pieces.next())
      parts.push(next.value);

    expect(Buffer.concat(parts).equals(CONTENT)).to.equal(true);
    expect(drives.node(2).plane.pins.isPinned(contentId)).to.equal(false);
  });

  it("names a node with a public URL and all copies for a redirect, never itself or one that is not well", async () => {
    const { drives } = await withFile();
    for (const member of [1, 3]) {
      const node = registrationOf(member, { publicUrl: `https://n${member}.example` });
      drives.tree.apply({ kind: "register-node", node });
    }
    const urlFrom = async (member: number) =>
      (await drives.drive(member).openDownload({ path: "/f" })).redirectUrl;

    expect(await urlFrom(2)).to.equal("https://n1.example");
    expect(await urlFrom(1)).to.equal("https://n3.example");
    drives.detector.health.set(3, "suspect");
    expect(await urlFrom(1)).to.equal(undefined);
  });

  it("serves an empty file, refuses a folder, an absent path and ranges beyond the end", async () => {
    const { drives } = await withFile();
    const drive = drives.drive();
    await drive.putFile(uploadOf("/dir/empty"), streamOf());
    const empty = await drive.openDownload({ path: "/dir/empty" });

    expect((await bytesOf(empty.read(0, 0))).length).to.equal(0);
    await expectReason("RANGE_NOT_SATISFIABLE", () => bytesOf(empty.read(0, 1)));
    await expectReason("IS_A_DIRECTORY", () => drive.openDownload({ path: "/dir" }));
    await expectReason("PATH_NOT_FOUND", () => drive.openDownload({ path: "/none" }));
  });

  it("tells its progress and how it ended", async () => {
    const { drives } = await withFile();
    const drive = drives.drive();
    const download = await drive.openDownload({ path: "/f" });
    await bytesOf(download.read(0, CONTENT.length));

    const seen = [];
    for await (const progress of drive.watchProgress(`download-${download.entry.entryId}-1`))
      seen.push(progress);

    expect(seen.at(-1)?.phase).to.equal("done");
    expect(seen.at(-1)?.transferredBytes).to.equal(CONTENT.length);
  });
});
