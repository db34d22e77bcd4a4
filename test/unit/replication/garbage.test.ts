/**
 * Goal: the space of everything that users take back returns, all of it and within a bound of time: deleted files, aborted uploads,
 * and bytes that were written under a lease and never became a file. Method: three members with their collection over the real state
 * machine; what each store holds is compared, byte by byte, with the files that are left. How much more than that a store takes on
 * its disk is bounded by compaction (chunks/compaction.test.ts).
 */
import { expect } from "chai";
import { NodeRegistrar } from "../../../src/cluster/node-registrar.ts";
import { LEASE_BLOCK_USE_MS } from "../../../src/cluster/write-lease.ts";
import {
  CHUNK_SIZE_BYTES,
  DROP_GRACE_MS,
  WRITE_LEASE_BLOCK_COUNT_MAX,
  WRITE_LEASE_MS,
} from "../../../src/drive/limits.ts";
import { contentState, dropList } from "../../../src/metadata/view.ts";
import { DropCollector, ORPHAN_SWEEP_INTERVAL_MS } from "../../../src/replication/drop-collector.ts";
import { ExtentLocks } from "../../../src/replication/extent-locks.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { registrationOf } from "../../support/memory-metadata-port.ts";
import { patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

const FILE_COUNT = 40;
const UPLOAD_COUNT = 20;
const ABANDONED_COUNT = 30;
/** Until everything is back, beside the grace: the tree hands out what it dropped, and members remove it. */
const COLLECTION_MS = 60_000;
const MEMBER_IDS = [1, 2, 3];

/** Sizes of small files and of such that have several chunks. */
const sizeOf = (i: number): number => (i % 4 === 0 ? 2 * CHUNK_SIZE_BYTES + i : 1000 + i);

function startCollectors(drives: TestDrives): DropCollector[] {
  return MEMBER_IDS.map((memberId) => {
    const { plane, assignments } = drives.node(memberId);
    const { clock, metadata } = plane;
    const collector = new DropCollector({
      ...{ clock, metadata, assignments, store: drives.replicas.store(memberId), locks: new ExtentLocks() },
      isPinned: (contentId) => plane.pins.isPinned(contentId),
      onError: (error) => {
        throw error;
      },
    });
    collector.start();
    return collector;
  });
}

/** The registration of member 1, which keeps its lease. */
function startRegistrar(drives: TestDrives): NodeRegistrar {
  const { clock, metadata, lease } = drives.node(1).plane;
  const registrar = new NodeRegistrar({ clock, metadata, lease, self: () => registrationOf(1) });
  registrar.start();
  return registrar;
}

/** Time passes for the cluster and on the clock, with what the leader does by itself. */
async function pass(drives: TestDrives, ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= 10_000) {
    drives.tree.apply({ kind: "advance-clock", elapsedMs: 10_000 });
    drives.tree.apply({ kind: "expire" });
    drives.tree.apply({ kind: "reclaim" });
    await drives.clock.advance(10_000);
  }
}

/** Bytes of chunks in each store, sealed or not. */
function heldBytes(drives: TestDrives): readonly number[] {
  return MEMBER_IDS.map((memberId) =>
    [...drives.replicas.store(memberId).extents.values()]
      .flatMap(({ chunks }) => [...chunks.values()])
      .reduce((sum, { bytes }) => sum + bytes.length, 0),
  );
}

describe("Garbage", () => {
  it("of deleted files and aborted uploads is gone after the grace, to the last byte", async () => {
    const drives = new TestDrives(3);
    drives.grantLease(1, 1000);
    for (let i = 0; i < FILE_COUNT; i += 1) {
      await drives.drive().putFile(uploadOf(`/f${i}`), streamOf(patternBytes(sizeOf(i), i)));
    }
    const uploads: number[] = [];
    for (let i = 0; i < UPLOAD_COUNT; i += 1) {
      const sizeBytes = 2 * CHUNK_SIZE_BYTES;
      const { uploadId } = await drives.drive().initUpload(uploadOf(`/u${i}`, { sizeBytes }));
      await drives.drive().writeChunk(uploadId, 0, patternBytes(CHUNK_SIZE_BYTES, 100 + i), undefined);
      uploads.push(uploadId);
    }
    await drives.node(1).plane.chores.idle();
    const before = heldBytes(drives);
    const collectors = startCollectors(drives);

    let keptBytes = 0;
    for (let i = 0; i < FILE_COUNT; i += 1) {
      if (i % 2 === 0) await drives.drive().remove({ path: `/f${i}` }, { recursive: false });
      else keptBytes += sizeOf(i);
    }
    for (const uploadId of uploads) await drives.drive().abortUpload(uploadId);
    await pass(drives, DROP_GRACE_MS + COLLECTION_MS);

    expect(Math.min(...before)).to.be.above(keptBytes + UPLOAD_COUNT * CHUNK_SIZE_BYTES);
    expect(heldBytes(drives)).to.deep.equal(MEMBER_IDS.map(() => keptBytes));
    for (const memberId of MEMBER_IDS) {
      expect(dropList(drives.node(1).plane.metadata.port.reader(), memberId, 1)).to.deep.equal([]);
    }
    for (const collector of collectors) await collector.stop();
  });

  it("that nobody ever registered is gone after its lease and two sweeps", async () => {
    const drives = new TestDrives(3);
    drives.grantLease(1, 1000);
    for (let i = 1; i < FILE_COUNT; i += 1) {
      await drives.drive().putFile(uploadOf(`/f${i}`), streamOf(patternBytes(1000, i)));
    }
    await drives.node(1).plane.chores.idle();
    const before = heldBytes(drives);
    for (let i = 0; i < ABANDONED_COUNT; i += 1) {
      const contentId = drives.node(1).plane.lease.takeContentId() ?? 0;
      const bytes = patternBytes(500, 200 + i);
      const store = drives.replicas.store(1 + (i % 3));
      await store.writeChunk({ contentId, extentIndex: 0 }, 0, bytes, sha256(bytes));
    }
    expect(heldBytes(drives)).to.not.deep.equal(before);
    const collectors = startCollectors(drives);

    await pass(drives, WRITE_LEASE_MS + 2 * ORPHAN_SWEEP_INTERVAL_MS + COLLECTION_MS);

    expect(heldBytes(drives)).to.deep.equal(before);
    for (const collector of collectors) await collector.stop();
  });

  it("of a process that was killed is gone some blocks of ids later, though its lease never lapses", async () => {
    const drives = new TestDrives(3);
    const before = startRegistrar(drives);
    await pass(drives, 10_000);
    const firstId = drives.node(1).plane.lease.takeContentId() ?? 0;
    for (const memberId of MEMBER_IDS) {
      const bytes = patternBytes(500, memberId);
      const extent = { contentId: firstId, extentIndex: 0 };
      await drives.replicas.store(memberId).writeChunk(extent, 0, bytes, sha256(bytes));
    }
    await before.stop();
    drives.restart(1);
    const after = startRegistrar(drives);
    const collectors = startCollectors(drives);
    await pass(drives, WRITE_LEASE_MS);
    expect(contentState(drives.tree.store, firstId)).to.equal("leased");
    await drives.drive().putFile(uploadOf("/f"), streamOf(patternBytes(1000)));

    const blocksMs = WRITE_LEASE_BLOCK_COUNT_MAX * (LEASE_BLOCK_USE_MS + WRITE_LEASE_MS);
    await pass(drives, blocksMs + 2 * ORPHAN_SWEEP_INTERVAL_MS + COLLECTION_MS);

    expect(drives.node(1).plane.lease.usable).to.equal(true);
    expect(heldBytes(drives)).to.deep.equal([1000, 1000, 1000]);
    for (const loop of [...collectors, after]) await loop.stop();
  });
});
