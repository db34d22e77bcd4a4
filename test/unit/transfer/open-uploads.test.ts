/**
 * The list of unfinished uploads. Goal: whoever looks for what takes space finds each of them, and only those, at any node.
 * Method: whole drives in memory over the real state machine.
 */
import { expect } from "chai";
import {
  CHUNK_SIZE_BYTES,
  CLOCK_ADVANCE_MS_MAX,
  PAGE_SIZE_MAX,
  UPLOAD_LEASE_MS,
} from "../../../src/drive/limits.ts";
import { must } from "../../../src/std/assert.ts";
import { openUploads, UPLOAD_PAGE_PATHS_SIZE_BYTES_MAX } from "../../../src/transfer/open-uploads.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { patternBytes, TestDrives, uploadOf } from "../../support/use-drives.ts";

const ALL = { countMax: 100 };

function advance(drives: TestDrives, ms: number): void {
  for (let left = ms; left > 0; left -= CLOCK_ADVANCE_MS_MAX) {
    drives.tree.apply({ kind: "advance-clock", elapsedMs: Math.min(left, CLOCK_ADVANCE_MS_MAX) });
  }
}

async function begin(drives: TestDrives, path: string, sizeBytes?: number): Promise<number> {
  return (await drives.drive().initUpload(uploadOf(path, { sizeBytes }))).uploadId;
}

async function idsAt(drives: TestDrives, memberId = 1): Promise<readonly number[]> {
  return (await drives.drive(memberId).openUploads(ALL)).uploads.map(({ uploadId }) => uploadId);
}

describe("openUploads", () => {
  it("tells what each is to be, since when nothing is heard of it, and until when it is kept", async () => {
    const drives = new TestDrives(3);
    const first = await begin(drives, "/夏天/大.bin", 5 * CHUNK_SIZE_BYTES);
    advance(drives, 25 * 60_000);
    const second = await begin(drives, "/b");

    const { uploads, nextCursor } = await drives.drive(3).openUploads(ALL);

    expect(nextCursor).to.equal(undefined);
    const nowMs = drives.clock.wallMs();
    expect(uploads).to.deep.equal([
      {
        ...{ uploadId: first, path: "/夏天/大.bin", sizeBytes: 5 * CHUNK_SIZE_BYTES },
        ...{ idleMs: 25 * 60_000, expireTimeMs: nowMs + UPLOAD_LEASE_MS - 25 * 60_000 },
      },
      {
        ...{ uploadId: second, path: "/b", sizeBytes: undefined },
        ...{ idleMs: 0, expireTimeMs: nowMs + UPLOAD_LEASE_MS },
      },
    ]);
  });

  it("leaves out what was completed, discarded, or has expired", async () => {
    const drives = new TestDrives(3);
    const late = await begin(drives, "/late", 1);
    advance(drives, UPLOAD_LEASE_MS / 2);
    const [done, discarded, open] = [
      await begin(drives, "/done", 3),
      await begin(drives, "/gone", 3),
      await begin(drives, "/open", 3),
    ];
    await drives.drive().writeChunk(done, 0, patternBytes(3), undefined);
    await drives.drive().completeUpload(done, {});
    expect(await idsAt(drives)).to.deep.equal([late, discarded, open]);

    await drives.drive(2).abortUpload(discarded);
    advance(drives, UPLOAD_LEASE_MS / 2);
    drives.tree.apply({ kind: "expire" });

    expect(await idsAt(drives, 3)).to.deep.equal([open]);
    expect((await drives.drive().cluster()).openUploadCount).to.equal(1);
  });

  it("shows one whose folder is gone without a path, and hides the system's own", async () => {
    const drives = new TestDrives(3);
    const lost = await begin(drives, "/folder/f", 1);
    await drives.drive().remove({ path: "/folder" }, { recursive: true });
    const own = drives.tree.apply({
      ...{ kind: "init-upload", at: { baseId: Number.MAX_SAFE_INTEGER, path: ["downloads", "layout"] } },
      ...{ createParents: true, sizeBytes: undefined, treeHash: new Uint8Array(0), onConflict: "fail" },
      ...{ attributes: {}, precondition: {}, extents: [{ extentIndex: 0, memberIds: [1, 2, 3] }] },
    } as const);
    expect(own.outcome).to.equal("applied");

    const { uploads } = await drives.drive().openUploads(ALL);

    expect(uploads.map(({ uploadId, path }) => ({ uploadId, path }))).to.deep.equal([
      { uploadId: lost, path: "" },
    ]);
  });

  it("gives all of them by pages, and refuses what is no page", async () => {
    const drives = new TestDrives(3);
    const ids: number[] = [];
    for (let i = 0; i < 7; i += 1) ids.push(await begin(drives, `/f${i}`, 1));
    const { plane } = drives.node(2);

    const found: number[] = [];
    let cursor: string | undefined;
    do {
      const page = await openUploads(plane, { cursor, countMax: 3 });
      expect(page.uploads.length).to.be.at.most(3);
      found.push(...page.uploads.map(({ uploadId }) => uploadId));
      cursor = page.nextCursor;
    } while (cursor !== undefined);

    expect(found).to.deep.equal(ids);
    expect(must(found[0], "an upload")).to.be.greaterThan(0);
    for (const page of [
      { countMax: 0 },
      { countMax: PAGE_SIZE_MAX + 1 },
      { countMax: 3, cursor: "elsewhere" },
    ]) {
      await expectReason("ARGUMENT_INVALID", () => openUploads(plane, page));
    }
  });

  it("ends a page before its paths make it too large for a message", async () => {
    const drives = new TestDrives(3);
    const { plane } = drives.node(1);
    const folder = Array.from({ length: 62 }, () => "x".repeat(255)).join("/");
    const ids: number[] = [];
    for (let i = 0; i < 100; i += 1) ids.push(await begin(drives, `/${folder}/${i}`, 1));

    const first = await openUploads(plane, { countMax: PAGE_SIZE_MAX });
    const second = await openUploads(plane, { countMax: PAGE_SIZE_MAX, cursor: first.nextCursor });

    const pathsBytes = first.uploads.reduce((sum, { path }) => sum + path.length, 0);
    expect(pathsBytes).to.be.within(UPLOAD_PAGE_PATHS_SIZE_BYTES_MAX, 2 * UPLOAD_PAGE_PATHS_SIZE_BYTES_MAX);
    expect([...first.uploads, ...second.uploads].map(({ uploadId }) => uploadId)).to.deep.equal(ids);
    expect(second.nextCursor).to.equal(undefined);
  });
});
