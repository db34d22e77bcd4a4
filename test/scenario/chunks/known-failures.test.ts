/**
 * What other chunk stores are known to have done wrong, as situations that this one meets: the cases that no other test shows, and
 * the list of all cases in test/README.md held against the tests that it names.
 *
 * Method: the chunk store on a disk in memory, the pure state machine, or whole data planes over it under the test's clock.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import type { DiskChunkStore } from "../../../src/chunks/disk-chunk-store.ts";
import { SpaceGuard } from "../../../src/chunks/space-guard.ts";
import type { Entry } from "../../../src/drive/entry.ts";
import { hasReason } from "../../../src/drive/errors.ts";
import { DROP_GRACE_MS, UPLOAD_LEASE_MS } from "../../../src/drive/limits.ts";
import type { CommandBody } from "../../../src/metadata/commands.ts";
import { dropList, extentsOf } from "../../../src/metadata/view.ts";
import { CopyMaker } from "../../../src/replication/copy-maker.ts";
import { DropCollector } from "../../../src/replication/drop-collector.ts";
import { ExtentLocks } from "../../../src/replication/extent-locks.ts";
import { InventoryAudit } from "../../../src/replication/inventory-audit.ts";
import { Repair, REPAIR_IDLE_MS } from "../../../src/replication/repair.ts";
import { ReplicaCopier } from "../../../src/replication/replica-copier.ts";
import { must } from "../../../src/std/assert.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { deferred } from "../../../src/std/deferred.ts";
import { inlineDigester, sha256 } from "../../../src/std/digest.ts";
import type { Disk } from "../../../src/std/disk.ts";
import { extentKey, TEST_ORIGIN, testBytes } from "../../contract/chunk-store.contract.ts";
import { changedDisk } from "../../support/changed-disk.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";
import { bytesOf, freePace, patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";
import { StoreFixture } from "../../unit/chunks/store-fixture.ts";
import { at, Harness, MEMBER_IDS, sealOf } from "../../unit/metadata/harness.ts";

const SIZE_BYTES = 10_000;

async function putSmall(store: DiskChunkStore, contentId: number): Promise<void> {
  const bytes = testBytes(contentId, SIZE_BYTES);
  await store.putSmall({ extent: extentKey(contentId), bytes, digest: sha256(bytes), origin: TEST_ORIGIN });
}

/** A disk that, while it is told to, writes a wrong byte into everything that is large enough to hold a chunk. */
class SpoilingDisk {
  isSpoiling = false;
  spoiledCount = 0;

  over(disk: Disk): Disk {
    return changedDisk(disk, (file) => ({
      write: (offset, parts) => file.write(offset, this.#spoil(parts)),
    }));
  }

  #spoil(parts: readonly Uint8Array[]): readonly Uint8Array[] {
    if (!this.isSpoiling) return parts;
    return parts.map((part) => {
      if (part.length < SIZE_BYTES) return part;
      const spoiled = Uint8Array.from(part);
      const middle = Math.floor(part.length / 2);
      spoiled[middle] = must(part[middle], "a byte") ^ 1;
      this.spoiledCount += 1;
      return spoiled;
    });
  }
}

function collectorOf(drives: TestDrives, memberId: number): DropCollector {
  const { plane, assignments } = drives.node(memberId);
  const { clock, metadata } = plane;
  const store = drives.replicas.store(memberId);
  const isPinned = (contentId: number): boolean => plane.pins.isPinned(contentId);
  return new DropCollector({ clock, metadata, assignments, store, isPinned, locks: new ExtentLocks() });
}

function repairOf(drives: TestDrives, memberId: number): Repair {
  const { plane, assignments } = drives.node(memberId);
  const { clock, metadata, detector, placement, budget } = plane;
  const copier = new ReplicaCopier({
    ...freePace(clock),
    ...{ ports: drives.replicas, detector, digester: inlineDigester, budget, memberId },
    onBadReplica: (extent, bad, finding) => plane.reports.reportBad(extent, bad, finding),
  });
  const copies = new CopyMaker({ clock, metadata, assignments, placement, copier, locks: new ExtentLocks() });
  return new Repair({ clock, metadata, detector, placement, copies });
}

const TESTS = join(import.meta.dirname, "../..");

/** The rows of the list in test/README.md: case, file, title. */
function listedCases(): readonly { readonly id: string; readonly file: string; readonly title: string }[] {
  const lines = readFileSync(join(TESTS, "README.md"), "utf8").split("\n");
  return lines.flatMap((line) => {
    const [, id, , file, title] = line.split("|").map((cell) => cell.trim());
    if (id === undefined || !/^G-\d\d$/u.test(id)) return [];
    return [{ id, file: file?.replaceAll("`", "") ?? "", title: title ?? "" }];
  });
}

describe("known failures of chunk stores", () => {
  it("are all listed, each with a test that is there", () => {
    const cases = listedCases();

    const ids = Array.from({ length: 16 }, (_, index) => `G-${String(index + 1).padStart(2, "0")}`);
    expect(cases.map(({ id }) => id)).to.deep.equal(ids);
    for (const { id, file, title } of cases) {
      expect(title, id).to.have.length.above(20);
      expect(readFileSync(join(TESTS, file), "utf8"), id).to.include(title);
    }
  });

  it("G-04: bytes that compaction wrote wrong are found by a check, and no reader ever gets them", async () => {
    const spoiling = new SpoilingDisk();
    const disk = spoiling.over(new MemoryDisk());
    const fixture = new StoreFixture({ disk, segmentSizeBytesMax: 200_000 });
    const store = await fixture.open();
    for (let id = 1; id <= 45; id += 1) await putSmall(store, id);
    for (let id = 1; id <= 45; id += 1) if (id % 3 !== 0) await store.removeExtent(extentKey(id));

    spoiling.isSpoiling = true;
    for (let run = 0; run < 50; run += 1) await store.compact(() => Promise.resolve());
    spoiling.isSpoiling = false;

    let foundCount = 0;
    for (const extent of await store.listExtents(undefined, 100)) {
      const { contentId } = extent;
      try {
        await store.verifyExtent(extent);
        const read = await store.readChunk(extent, 0, 0, SIZE_BYTES);
        expect(Buffer.from(read).equals(testBytes(contentId, SIZE_BYTES)), `${contentId}`).to.equal(true);
      } catch (error) {
        if (!hasReason(error, "CHUNK_CORRUPT")) throw error;
        foundCount += 1;
        await expectReason("CHUNK_CORRUPT", () => store.readChunk(extent, 0, 0, SIZE_BYTES));
        // Repair brings them back from another copy.
        await store.removeExtent(extent);
        await putSmall(store, contentId);
        await store.verifyExtent(extent);
      }
    }
    expect(spoiling.spoiledCount).to.be.greaterThan(0);
    expect(foundCount).to.be.greaterThan(0);
  });

  it("G-06: a node that was away while a file was deleted brings back neither the file nor its bytes", async () => {
    const drives = new TestDrives(3);
    const { entry } = await drives.drive().putFile(uploadOf("/f"), streamOf(patternBytes(SIZE_BYTES)));
    await drives.node(1).plane.chores.idle();
    const extent = { contentId: entry.contentId, extentIndex: 0 };
    drives.kill(3);
    await drives.drive().remove({ path: "/f" }, { recursive: false });
    for (let passed = 0; passed < DROP_GRACE_MS; passed += 10_000) {
      drives.tree.apply({ kind: "advance-clock", elapsedMs: 10_000 });
    }
    drives.tree.apply({ kind: "expire" });
    const others = [1, 2].map((id) => collectorOf(drives, id));
    for (const collector of others) collector.start();
    await drives.clock.advance(20_000);
    expect(drives.replicas.store(1).extents.size).to.equal(0);

    drives.revive(3);
    expect(drives.replicas.store(3).extents.size).to.equal(1);
    const { plane, assignments } = drives.node(3);
    const { clock, metadata } = plane;
    const audit = new InventoryAudit({ clock, metadata, assignments, store: drives.replicas.store(3) });
    const repair = repairOf(drives, 3);
    const late = collectorOf(drives, 3);
    for (const loop of [audit, repair, late]) loop.start();
    await drives.clock.advance(3 * REPAIR_IDLE_MS);
    for (const loop of [audit, repair, late, ...others]) await loop.stop();

    await expectReason("PATH_NOT_FOUND", () => drives.drive().stat({ path: "/f" }));
    for (const id of [1, 2, 3]) {
      expect((await drives.replicas.store(id).extentState(extent)).kind, `member ${id}`).to.equal("absent");
      expect(dropList(drives.tree.store, id, 10)).to.deep.equal([]);
    }
  });

  it("G-10: nobody reads at a member that is to hold a copy before the copy is there", async () => {
    const drives = new TestDrives(4);
    const content = patternBytes(SIZE_BYTES);
    const { entry } = await drives.drive().putFile(uploadOf("/f"), streamOf(content));
    await drives.node(1).plane.chores.idle();
    const extent = { contentId: entry.contentId, extentIndex: 0 };
    const ids = [1, 2, 3, 4];
    const states = await Promise.all(ids.map((id) => drives.replicas.store(id).extentState(extent)));
    const next = must(ids[states.findIndex(({ kind }) => kind === "absent")], "one member holds no copy");
    const holders = ids.filter((id) => id !== next);
    const maker = repairOf(drives, next);
    const readAt: number[] = [];
    for (const id of ids) {
      const store = drives.replicas.store(id);
      const read = store.readChunk.bind(store);
      store.readChunk = (...parameters) => {
        readAt.push(id);
        return read(...parameters);
      };
    }
    const readEverywhere = async (): Promise<void> => {
      for (const id of ids) {
        const download = await drives.drive(id).openDownload({ path: "/f" });
        expect((await bytesOf(download.read(0, content.length))).equals(content), `at ${id}`).to.equal(true);
      }
    };

    // One copy is gone, and the tree says who is to make another, which is not made yet.
    const replacesMemberId = must(holders[0], "a holder");
    drives.tree.apply({ kind: "report-replica", ...extent, memberId: replacesMemberId, finding: "lost" });
    await drives.replicas.store(replacesMemberId).removeExtent(extent);
    drives.tree.apply({ kind: "assign-replica", ...extent, memberId: next, replacesMemberId });
    await readEverywhere();
    expect(readAt).to.not.include(next);
    expect(readAt).to.not.include(replacesMemberId);

    maker.start();
    await drives.clock.advance(3 * REPAIR_IDLE_MS);
    await readEverywhere();
    await maker.stop();

    expect((await drives.drive(next).durability({ path: "/f" })).verifiedCount).to.equal(3);
    expect(readAt).to.include(next);
  });

  it("G-13: a check reads the disk again, whatever was read from there before", async () => {
    const fixture = new StoreFixture();
    const store = await fixture.open();
    await putSmall(store, 1);
    const extent = extentKey(1);
    await store.verifyExtent(extent);
    await store.readChunk(extent, 0, 0, SIZE_BYTES);
    const path = must(
      fixture.disk.filesBelow("/chunks").find((each) => each.endsWith(".seg")),
      "a segment",
    );
    const place = Buffer.from(fixture.disk.contentOf(path)).indexOf(testBytes(1, SIZE_BYTES));
    fixture.disk.flipBit(path, place + SIZE_BYTES / 2);

    await expectReason("CHUNK_CORRUPT", () => store.verifyExtent(extent));

    expect(fixture.damage).to.have.length(1);
  });

  it("G-15: of two files with equal bytes one keeps them, whenever the other is deleted", () => {
    const steps = ["remove", "init", "complete", "expire"] as const;
    const orders = permutations(steps).filter((order) => order.indexOf("init") < order.indexOf("complete"));
    expect(orders).to.have.length(12);
    for (const order of orders) {
      const h = new Harness().bootstrap();
      const bytes = utf8("twelve bytes");
      h.put("/f", { text: "twelve bytes" });
      let made: Entry | undefined;
      let upload: { readonly uploadId: number; readonly contentId: number } | undefined;
      const run = {
        remove: (): unknown => h.remove("/f"),
        init: () => {
          const value = h.ok(initBody("/g", bytes));
          if (value.kind === "upload") upload = value;
        },
        complete: () => {
          made = h.entry(completeBody(must(upload, "begun"), bytes));
        },
        expire: () => {
          h.advance(DROP_GRACE_MS);
          h.drain("expire");
        },
      };

      for (const step of order) run[step]();
      h.advance(DROP_GRACE_MS);
      h.drain("expire");

      const where = order.join(", ");
      const entry = must(made, "completed");
      expect(extentsOf(h.store, entry.contentId), where).to.have.length(1);
      for (const memberId of MEMBER_IDS) {
        const dropped = dropList(h.store, memberId, 10).map(({ contentId }) => contentId);
        expect(dropped, where).to.not.include(entry.contentId);
      }
    }
    expect(DROP_GRACE_MS).to.be.lessThan(UPLOAD_LEASE_MS);
  });

  it("G-16: of writers that come at once only those whose bytes fit beside the reserve are let in", async () => {
    const disk = new MemoryDisk({ capacityBytes: 4_500 });
    const guard = await SpaceGuard.open(disk, "/", 1_000);
    let underWayCount = 0;
    const end = deferred<void>();
    const write = async (): Promise<void> => {
      underWayCount += 1;
      await end.promise;
    };

    // The file system knows of none of them while it is asked, again and again.
    const first = Array.from({ length: 10 }, () => guard.hold(1_000, write));
    const outcomes = Promise.allSettled(first);
    await guard.refresh();
    await expectReason("NO_SPACE", () => guard.hold(1_000, write));
    expect(underWayCount).to.equal(3);
    end.resolve();

    expect((await outcomes).filter(({ status }) => status === "fulfilled")).to.have.length(3);
  });
});

function initBody(path: string, bytes: Uint8Array): CommandBody & { readonly kind: "init-upload" } {
  return {
    ...{ kind: "init-upload", at: at(path), createParents: false, sizeBytes: bytes.length },
    ...{ treeHash: sha256(bytes), onConflict: "fail", attributes: {}, precondition: {} },
    extents: [{ extentIndex: 0, memberIds: MEMBER_IDS }],
  };
}

function completeBody(
  upload: { readonly uploadId: number; readonly contentId: number },
  bytes: Uint8Array,
): CommandBody & { readonly kind: "complete-upload" } {
  const seals = MEMBER_IDS.map((memberId) => sealOf(upload.contentId, memberId, bytes));
  return {
    ...{ kind: "complete-upload", uploadId: upload.uploadId, sizeBytes: bytes.length },
    ...{ treeHash: sha256(bytes), sha256: new Uint8Array(0), seals, precondition: {} },
    ...{ onConflict: undefined, put: undefined },
  };
}

function permutations<T>(items: readonly T[]): readonly (readonly T[])[] {
  if (items.length === 0) return [[]];
  return items.flatMap((item, index) =>
    permutations(items.filter((_, other) => other !== index)).map((rest) => [item, ...rest]),
  );
}
