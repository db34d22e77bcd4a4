/**
 * Goal: copies reach three again by themselves, from good sources only, and what was dropped goes away, nothing else. Method:
 * whole data planes over the real state machine; the loops run under the test's clock.
 */
import { expect } from "chai";
import {
  DropCollector,
  ORPHAN_BRAKE_COUNT_MIN,
  ORPHAN_SWEEP_INTERVAL_MS,
} from "../../../src/replication/drop-collector.ts";
import { PENDING_GRACE_MS } from "../../../src/replication/assigning.ts";
import {
  CopyMaker,
  REPAIR_RETRY_MS,
  REPAIR_SMALL_PARALLEL_COUNT,
} from "../../../src/replication/copy-maker.ts";
import { ExtentLocks } from "../../../src/replication/extent-locks.ts";
import { InventoryAudit } from "../../../src/replication/inventory-audit.ts";
import {
  LOST_AFTER_MS_DEFAULT,
  Repair,
  REPAIR_IDLE_MS,
  REPAIR_OWN_COUNT_MAX,
} from "../../../src/replication/repair.ts";
import type { CollectionBrake } from "../../../src/drive/collection-brake.ts";
import type { PlantedChunkFault } from "../../../src/replication/planted-faults.ts";
import { ReplicaCopier } from "../../../src/replication/replica-copier.ts";
import { CHUNK_SIZE_BYTES, DROP_GRACE_MS, WRITE_LEASE_MS } from "../../../src/drive/limits.ts";
import { dropList, extentsOf, pendingWork } from "../../../src/metadata/view.ts";
import type { ReplicaPort } from "../../../src/replication/replica-port.ts";
import { must } from "../../../src/std/assert.ts";
import { bytesEqual } from "../../../src/std/bytes.ts";
import { DigestMemory, inlineDigester, sha256 } from "../../../src/std/digest.ts";
import { freePace, bytesOf, patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

const CONTENT = patternBytes(9 * CHUNK_SIZE_BYTES + 1);

interface Loops {
  readonly repair: Repair;
  readonly collector: DropCollector;
}

function loopsOf(
  drives: TestDrives,
  memberId: number,
  errors: string[] = [],
  plantedFault?: PlantedChunkFault,
): Loops {
  const { plane, assignments } = drives.node(memberId);
  const { clock, metadata, detector, placement, budget } = plane;
  const locks = new ExtentLocks();
  const copier = new ReplicaCopier({
    ...freePace(clock),
    ports: drives.replicas,
    detector,
    digester: inlineDigester,
    budget,
    memberId,
    onBadReplica: (extent, bad, finding) => plane.reports.reportBad(extent, bad, finding),
    plantedFault,
  });
  const onError = (error: Error): void => {
    errors.push(error.message);
  };
  const copies = new CopyMaker({ clock, metadata, assignments, placement, copier, locks, onError });
  const repair = new Repair({ clock, metadata, detector, placement, copies, onError });
  const store = drives.replicas.store(memberId);
  const isPinned = (contentId: number): boolean => plane.pins.isPinned(contentId);
  const collector = new DropCollector({ clock, metadata, assignments, store, locks, isPinned, onError });
  return { repair, collector };
}

function startRepair(drives: TestDrives, members: readonly number[]): Repair[] {
  const repairs = members.map((member) => loopsOf(drives, member).repair);
  for (const repair of repairs) repair.start();
  return repairs;
}

async function passClusterTime(drives: TestDrives, ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 10_000) {
    drives.tree.apply({ kind: "advance-clock", elapsedMs: 10_000 });
  }
  drives.tree.apply({ kind: "expire" });
  await Promise.resolve();
}

/** An id that was leased and is known to nobody any more, the first of `idCount`. */
async function orphanId(drives: TestDrives, idCount = 10): Promise<number> {
  drives.grantLease(3, idCount);
  const id = drives.node(3).plane.lease.takeContentId() ?? 0;
  await passClusterTime(drives, WRITE_LEASE_MS);
  return id;
}

async function stopAll(loops: readonly { stop(): Promise<void> }[]): Promise<void> {
  for (const loop of loops) await loop.stop();
}

async function verifiedCount(drives: TestDrives, path = "/f"): Promise<number> {
  return (await drives.drive().durability({ path })).verifiedCount;
}

async function put(drives: TestDrives, path = "/f", bytes = CONTENT): Promise<number> {
  const { entry } = await drives.drive().putFile(uploadOf(path), streamOf(bytes));
  await drives.node(1).plane.chores.idle();
  return entry.contentId;
}

describe("Repair", () => {
  it("makes the third copy when the node that was down during the upload has come back", async () => {
    const drives = new TestDrives(3);
    drives.kill(3);
    const contentId = await put(drives);
    const repairs = startRepair(drives, [1, 2, 3]);
    await drives.clock.advance(5 * REPAIR_IDLE_MS);
    expect(await verifiedCount(drives)).to.equal(2);

    drives.revive(3);
    await drives.clock.advance(5 * REPAIR_IDLE_MS);
    await stopAll(repairs);

    expect(await verifiedCount(drives)).to.equal(3);
    const seal = await drives.replicas.store(3).verifyExtent({ contentId, extentIndex: 0 });
    expect(seal.sizeBytes).to.equal(CONTENT.length);
    expect((await drives.drive().cluster()).replicas.underReplicatedCount).to.equal(0);
  });

  it("finishes the copy of a target that died in the middle and came back, without sending what it has", async () => {
    const drives = new TestDrives(3);
    let writes = 0;
    drives.replicas.onCall = (call) => {
      if (call.memberId !== 3 || call.method !== "writeChunk") return;
      writes += 1;
      if (writes === 4) drives.kill(3);
    };
    const contentId = await put(drives);
    const had = drives.replicas.store(3).chunkIndexes({ contentId, extentIndex: 0 }).length;
    expect(had).to.be.within(1, 9);
    drives.revive(3);
    let copied = 0;
    drives.replicas.onCall = (call) => {
      if (call.memberId === 3 && call.method === "writeChunk") copied += 1;
    };

    const repairs = startRepair(drives, [1, 2, 3]);
    await drives.clock.advance(3 * REPAIR_IDLE_MS);
    await stopAll(repairs);

    expect(await verifiedCount(drives)).to.equal(3);
    expect(copied).to.equal(10 - had);
  });

  it("asks another member for the copy of one that stays down, after a grace", async () => {
    const drives = new TestDrives(4);
    const contentId = await put(drives);
    const holders = await drives.drive().durability({ path: "/f" });
    const lost = Number(holders.nodeIds.at(-1)?.slice("node-".length));
    const extent = { contentId, extentIndex: 0 };
    drives.tree.apply({ kind: "report-replica", ...extent, memberId: lost, finding: "corrupt" });
    drives.kill(lost);
    const up = [1, 2, 3, 4].filter((member) => member !== lost);
    const repairs = startRepair(drives, up);
    await drives.clock.advance(5 * REPAIR_IDLE_MS);
    expect(await verifiedCount(drives)).to.equal(2);

    drives.detector.sinceMs.set(lost, PENDING_GRACE_MS);
    await drives.clock.advance(5 * REPAIR_IDLE_MS);
    await stopAll(repairs);

    expect(await verifiedCount(drives)).to.equal(3);
    expect((await drives.drive().durability({ path: "/f" })).nodeIds).not.to.include(`node-${lost}`);
  });

  it("gives up a member that is down for longer than the grace, and makes its copies elsewhere", async () => {
    const drives = new TestDrives(4);
    const contentId = await put(drives);
    const holders = await drives.drive().durability({ path: "/f" });
    const away = Number(holders.nodeIds.find((id) => id !== "node-1")?.slice("node-".length));
    drives.kill(away);
    drives.detector.sinceMs.set(away, LOST_AFTER_MS_DEFAULT - 1);
    const up = [1, 2, 3, 4].filter((member) => member !== away);
    const repairs = startRepair(drives, up);
    await drives.clock.advance(5 * REPAIR_IDLE_MS);
    expect(drives.tree.count("declare-lost")).to.equal(0);
    expect(drives.tree.count("assign-replica")).to.equal(0);

    drives.detector.sinceMs.set(away, LOST_AFTER_MS_DEFAULT);
    await drives.clock.advance(2 * REPAIR_IDLE_MS);
    expect((await drives.drive().durability({ path: "/f" })).verifiedCount).to.equal(2);
    while (drives.tree.apply({ kind: "recount" }).outcome === "applied") {
      if (!pendingWork(drives.tree.store).recountable) break;
    }
    await drives.clock.advance(5 * REPAIR_IDLE_MS);
    await stopAll(repairs);

    expect(drives.tree.count("declare-lost")).to.equal(1);
    expect(await verifiedCount(drives)).to.equal(3);
    expect(dropList(drives.tree.store, away, 10)).to.deep.equal([{ contentId, extentIndex: 0 }]);
  });

  it("waits for nothing once a member was given up, however short a time it has been away", async () => {
    const drives = new TestDrives(4);
    await put(drives);
    const holders = await drives.drive().durability({ path: "/f" });
    const away = Number(holders.nodeIds.find((id) => id !== "node-1")?.slice("node-".length));
    drives.kill(away);
    drives.detector.sinceMs.set(away, 1);
    drives.tree.apply({ kind: "declare-lost", memberId: away, storeIncarnation: `store-${away}` });
    drives.tree.apply({ kind: "recount" });
    expect(await verifiedCount(drives)).to.equal(2);
    const repairs = startRepair(
      drives,
      [1, 2, 3, 4].filter((member) => member !== away),
    );
    await drives.clock.advance(3 * REPAIR_IDLE_MS);
    await stopAll(repairs);
    expect(await verifiedCount(drives)).to.equal(3);
  });

  it("takes a returned member's copy back as good once it was read whole, before another copy was made", async () => {
    const drives = new TestDrives(3);
    const contentId = await put(drives);
    drives.kill(3);
    drives.detector.sinceMs.set(3, LOST_AFTER_MS_DEFAULT);
    const repairs = startRepair(drives, [1, 2, 3]);
    await drives.clock.advance(2 * REPAIR_IDLE_MS);
    drives.tree.apply({ kind: "recount" });
    expect(await verifiedCount(drives)).to.equal(2);

    drives.revive(3);
    drives.detector.sinceMs.delete(3);
    const { plane, assignments } = drives.node(3);
    const { clock, metadata } = plane;
    const audit = new InventoryAudit({ clock, metadata, assignments, store: drives.replicas.store(3) });
    audit.start();
    let writes = 0;
    drives.replicas.onCall = (call) => {
      if (call.method === "writeChunk") writes += 1;
    };
    await drives.clock.advance(20_000);
    await stopAll([...repairs, audit]);

    expect(await verifiedCount(drives)).to.equal(3);
    expect(writes).to.equal(0);
    expect(await drives.replicas.store(3).extentState({ contentId, extentIndex: 0 })).to.include({
      kind: "sealed",
    });
  });

  it("leaves a returned member's copies alone until it has compared what it holds: no seal of it would count", async () => {
    const drives = new TestDrives(3);
    await put(drives);
    drives.giveUp(3);
    drives.revive(3);
    drives.detector.sinceMs.delete(3);
    const errors: string[] = [];
    let calls = 0;
    drives.replicas.onCall = ({ memberId }) => {
      if (memberId === 3) calls += 1;
    };
    const { repair } = loopsOf(drives, 3, errors);
    repair.start();
    await drives.clock.advance(3 * REPAIR_RETRY_MS);
    expect([calls, errors]).to.deep.equal([0, []]);

    drives.tree.apply({ kind: "return-store", memberId: 3, storeIncarnation: "store-3" });
    await drives.clock.advance(3 * REPAIR_IDLE_MS);
    await repair.stop();

    expect(await verifiedCount(drives)).to.equal(3);
  });

  it("works on the extents with the fewest copies first, even those that became so meanwhile", async () => {
    const drives = new TestDrives(3);
    const many = await Promise.all(
      Array.from({ length: REPAIR_OWN_COUNT_MAX + 80 }, (_, i) =>
        put(drives, `/f${i}`, patternBytes(100, i)),
      ),
    );
    for (const contentId of many) {
      const at = { contentId, extentIndex: 0, memberId: 3, finding: "lost" } as const;
      await drives.replicas.store(3).removeExtent(at);
      drives.tree.apply({ kind: "report-replica", ...at });
    }
    const [urgent = 0] = many.slice(-1);
    const repairs = startRepair(drives, [3]);
    const order: number[] = [];
    drives.tree.onPropose = (body) => {
      const seals =
        body.kind === "add-replica" ? [body.seal] : body.kind === "add-replicas" ? body.seals : [];
      const isFirst = order.length === 0;
      order.push(...seals.map(({ extent }) => extent.contentId));
      if (isFirst && seals.length > 0) {
        drives.tree.apply({
          kind: "report-replica",
          contentId: urgent,
          extentIndex: 0,
          memberId: 2,
          finding: "suspect",
        });
      }
    };
    await drives.clock.advance(4 * REPAIR_IDLE_MS);
    await stopAll(repairs);
    expect(order).to.have.length(many.length);
    // The first ones were in hand already; it heads the next, which are made together.
    expect(order.indexOf(urgent)).to.be.at.most(REPAIR_OWN_COUNT_MAX + REPAIR_SMALL_PARALLEL_COUNT);
    // Many are told to the tree with one command.
    expect(drives.tree.count("add-replica") + drives.tree.count("add-replicas")).to.be.below(many.length / 4);
  }).timeout(10_000);

  it("replaces a damaged copy from a good one, and keeps it when the damage was a false alarm", async () => {
    const drives = new TestDrives(3);
    const contentId = await put(drives);
    const extent = { contentId, extentIndex: 0 };
    drives.replicas.store(2).damage(extent, 3);
    drives.tree.apply({ kind: "report-replica", ...extent, memberId: 2, finding: "corrupt" });
    drives.tree.apply({ kind: "report-replica", ...extent, memberId: 3, finding: "corrupt" });
    let writes = 0;
    drives.replicas.onCall = (call) => {
      if (call.method === "writeChunk") writes += call.memberId === 3 ? 1000 : 1;
    };

    const repairs = startRepair(drives, [1, 2, 3]);
    await drives.clock.advance(3 * REPAIR_IDLE_MS);
    await stopAll(repairs);

    expect(await verifiedCount(drives)).to.equal(3);
    expect(writes).to.equal(10);
    const read = drives.replicas.forMember(2)?.read(extent, 0, CONTENT.length);
    if (read !== undefined) expect((await bytesOf(read)).equals(CONTENT)).to.equal(true);
  });

  it("hashes what it copies once: its store finds the digest of every chunk that was checked on the way", async () => {
    const drives = new TestDrives(3);
    drives.kill(3);
    const contentId = await put(drives);
    drives.revive(3);
    const extent = { contentId, extentIndex: 0 };
    const { clock, detector, budget } = drives.node(3).plane;
    const hashed = new DigestMemory();
    const own = must(drives.replicas.forMember(3), "the receiver");
    const written: boolean[] = [];
    const spy: ReplicaPort = {
      ...own,
      writeChunk: async (key, chunkIndex, bytes, digest, signal) => {
        const isRight = bytesEqual(sha256(bytes), digest);
        written.push(isRight && hashed.knows(bytes, digest) && !hashed.knows(bytes.slice(), digest));
        await own.writeChunk(key, chunkIndex, bytes, digest, signal);
      },
    };
    const copier = new ReplicaCopier({
      ...freePace(clock),
      ...{ detector, digester: inlineDigester, hashed, budget, memberId: 3 },
      ports: { forMember: (id) => (id === 3 ? spy : drives.replicas.forMember(id)) },
      onBadReplica: () => undefined,
    });
    const root = must(extentsOf(drives.tree.store, contentId)[0], "its extent").root;
    const { signal } = new AbortController();

    await copier.copy({ extent, sizeBytes: CONTENT.length, root, sources: [1, 2], signal });

    expect(written).to.deep.equal(Array.from({ length: 10 }, () => true));
  });

  it("puts a good copy together from sources that are damaged at different places", async () => {
    const drives = new TestDrives(3);
    const contentId = await put(drives);
    const extent = { contentId, extentIndex: 0 };
    for (const member of [1, 2, 3]) drives.replicas.store(member).damage(extent, member);
    drives.tree.apply({ kind: "report-replica", ...extent, memberId: 2, finding: "corrupt" });

    const repairs = startRepair(drives, [1, 2, 3]);
    await drives.clock.advance(5 * REPAIR_IDLE_MS);
    await stopAll(repairs);

    expect(await verifiedCount(drives)).to.equal(3);
    for (const member of [1, 2, 3]) await drives.replicas.store(member).verifyExtent(extent);
  });

  for (const plantedFault of [undefined, "repair-unverified"] as const) {
    const what = plantedFault === undefined ? "keeps" : "loses, with G-14 planted,";
    it(`${what} the last good bytes of a chunk, which are in a copy that is damaged elsewhere`, async () => {
      const drives = new TestDrives(3);
      const extent = { contentId: await put(drives), extentIndex: 0 };
      for (const member of [1, 3]) drives.replicas.store(member).damage(extent, 3);
      drives.replicas.store(2).damage(extent, 5);
      drives.tree.apply({ kind: "report-replica", ...extent, memberId: 2, finding: "corrupt" });
      const { repair } = loopsOf(drives, 2, [], plantedFault);

      repair.start();
      await drives.clock.advance(3 * REPAIR_IDLE_MS);
      await stopAll([repair]);

      const isThere = drives.replicas.store(2).chunkIndexes(extent).includes(3);
      expect(isThere).to.equal(plantedFault === undefined);
    });
  }

  it("removes no copy, however damaged, while some chunk is good nowhere else", async () => {
    const drives = new TestDrives(3);
    const contentId = await put(drives);
    const extent = { contentId, extentIndex: 0 };
    for (const member of [1, 3]) drives.replicas.store(member).damage(extent, 3);
    drives.replicas.store(2).damage(extent, 5);
    drives.kill(3);
    drives.tree.apply({ kind: "report-replica", ...extent, memberId: 2, finding: "corrupt" });
    const errors: string[] = [];
    const { repair } = loopsOf(drives, 2, errors);

    repair.start();
    await drives.clock.advance(5 * REPAIR_IDLE_MS);
    await repair.stop();

    expect(drives.replicas.store(2).chunkIndexes(extent).length).to.equal(10);
    expect(errors.length).to.be.greaterThan(0);
  });

  it("takes the only copy back that was found damaged, once its bytes read well again, and makes the others from it", async () => {
    const drives = new TestDrives(3);
    const extent = { contentId: await put(drives), extentIndex: 0 };
    for (const member of [1, 2, 3]) {
      drives.replicas.store(member).damage(extent, 3);
      drives.tree.apply({ kind: "report-replica", ...extent, memberId: member, finding: "corrupt" });
    }
    const repairs = startRepair(drives, [1, 2, 3]);
    await drives.clock.advance(3 * REPAIR_IDLE_MS);
    expect(await verifiedCount(drives), "nobody has the chunk").to.equal(0);
    const before = drives.replicas.store(2).chunkIndexes(extent);

    drives.replicas.store(2).restore(extent, 3);
    await drives.clock.advance(REPAIR_RETRY_MS + 3 * REPAIR_IDLE_MS);
    await drives.clock.advance(REPAIR_RETRY_MS + 3 * REPAIR_IDLE_MS);
    await stopAll(repairs);

    expect(before).to.have.length(10);
    expect(await verifiedCount(drives)).to.equal(3);
    const download = await drives.drive().openDownload({ path: "/f" });
    expect((await bytesOf(download.read(0, CONTENT.length))).equals(CONTENT)).to.equal(true);
  });

  it("takes no copy back whose bytes have another root than the tree's", async () => {
    const drives = new TestDrives(3);
    const extent = { contentId: await put(drives), extentIndex: 0 };
    for (const member of [1, 2, 3]) {
      drives.replicas.store(member).damage(extent, 3);
      drives.tree.apply({ kind: "report-replica", ...extent, memberId: member, finding: "corrupt" });
    }
    const store = drives.replicas.store(2);
    const verify = store.verifyExtent.bind(store);
    store.verifyExtent = async (key) => ({ ...(await verify(key)), root: sha256(Buffer.from("another")) });
    store.restore(extent, 3);

    const repairs = startRepair(drives, [2]);
    await drives.clock.advance(3 * REPAIR_IDLE_MS);
    await stopAll(repairs);

    expect(await verifiedCount(drives)).to.equal(0);
    expect(drives.tree.count("add-replica")).to.equal(0);
  });

  it("makes a damaged copy anew from a good one, without looking at it again", async () => {
    const drives = new TestDrives(3);
    const extent = { contentId: await put(drives), extentIndex: 0 };
    drives.replicas.store(2).damage(extent, 3);
    drives.replicas.store(2).restore(extent, 3);
    drives.tree.apply({ kind: "report-replica", ...extent, memberId: 2, finding: "corrupt" });
    let writes = 0;
    drives.replicas.onCall = (call) => {
      if (call.method === "writeChunk" && call.memberId === 2) writes += 1;
    };

    const repairs = startRepair(drives, [1, 2, 3]);
    await drives.clock.advance(3 * REPAIR_IDLE_MS);
    await stopAll(repairs);

    expect(writes).to.equal(10);
    expect(await verifiedCount(drives)).to.equal(3);
  });

  it("does nothing that is not expected of it: other members' copies, and the leader's part on followers", async () => {
    const drives = new TestDrives(4);
    drives.kill(4);
    drives.kill(3);
    await put(drives);
    drives.revive(3);

    const repairs = startRepair(drives, [2]);
    await drives.clock.advance(3 * REPAIR_IDLE_MS);
    await stopAll(repairs);

    expect(drives.tree.count("assign-replica")).to.equal(0);
    expect(await verifiedCount(drives)).to.equal(2);
  });
});

describe("DropCollector", () => {
  it("removes the copies of a deleted file after the grace, confirms, and leaves the others", async () => {
    const drives = new TestDrives(3);
    const gone = await put(drives, "/gone");
    const kept = await put(drives, "/kept", patternBytes(100));
    await drives.drive().remove({ path: "/gone" }, { recursive: false });
    const { collector } = loopsOf(drives, 2);
    collector.start();
    await drives.clock.advance(10_000);
    expect(drives.replicas.store(2).chunkIndexes({ contentId: gone, extentIndex: 0 }).length).to.equal(10);

    await passClusterTime(drives, DROP_GRACE_MS);
    await drives.clock.advance(10_000);
    await collector.stop();

    expect([...drives.replicas.store(2).extents.keys()]).to.deep.equal([`${kept}/0`]);
    expect([...drives.replicas.store(3).extents.keys()]).to.include(`${gone}/0`);
    expect(drives.tree.count("confirm-dropped")).to.equal(1);
  });

  it("leaves a content alone while it is read from here", async () => {
    const drives = new TestDrives(3);
    const gone = await put(drives, "/gone");
    const unpin = drives.node(2).plane.pins.pin(gone);
    await drives.drive().remove({ path: "/gone" }, { recursive: false });
    await passClusterTime(drives, DROP_GRACE_MS);
    const { collector } = loopsOf(drives, 2);

    collector.start();
    await drives.clock.advance(20_000);
    expect(drives.replicas.store(2).extents.size).to.equal(1);
    unpin();
    await drives.clock.advance(20_000);
    await collector.stop();

    expect(drives.replicas.store(2).extents.size).to.equal(0);
  });

  it("removes what the tree never knew, but nothing of an upload, a live lease or a file", async () => {
    const drives = new TestDrives(3);
    const orphan = await orphanId(drives);
    drives.grantLease(1, 100);
    const file = await put(drives, "/f", patternBytes(2 * CHUNK_SIZE_BYTES));
    const { uploadId } = await drives.drive().initUpload(uploadOf("/u", { sizeBytes: 10 }));
    await drives.drive().writeChunk(uploadId, 0, patternBytes(10), undefined);
    const leased = drives.node(1).plane.lease.takeContentId() ?? 0;
    const store = drives.replicas.store(2);
    const bytes = patternBytes(10);
    await store.writeChunk({ contentId: leased, extentIndex: 0 }, 0, bytes, sha256(bytes));
    await store.writeChunk({ contentId: orphan, extentIndex: 0 }, 0, bytes, sha256(bytes));
    const before = [...store.extents.keys()];
    const { collector } = loopsOf(drives, 2);

    collector.start();
    await drives.clock.advance(ORPHAN_SWEEP_INTERVAL_MS + 10_000);
    // Once may be a mistake.
    expect([...store.extents.keys()]).to.deep.equal(before);
    await drives.clock.advance(ORPHAN_SWEEP_INTERVAL_MS + 10_000);
    expect([...store.extents.keys()]).to.deep.equal(before.filter((key) => key !== `${orphan}/0`));
    await passClusterTime(drives, WRITE_LEASE_MS);
    await drives.clock.advance(2 * ORPHAN_SWEEP_INTERVAL_MS + 10_000);
    await collector.stop();

    expect([...store.extents.keys()]).to.deep.equal(
      before.filter((key) => key !== `${orphan}/0` && key !== `${leased}/0`),
    );
    expect([...store.extents.keys()]).to.include(`${file}/0`);
  });

  it("brakes when too much of the store is unknown, until an operator raises the share", async () => {
    const drives = new TestDrives(3);
    const orphan = await orphanId(drives, ORPHAN_BRAKE_COUNT_MIN + 1);
    const store = drives.replicas.store(2);
    const bytes = patternBytes(10);
    for (let i = 0; i <= ORPHAN_BRAKE_COUNT_MIN; i += 1) {
      await store.writeChunk({ contentId: orphan + i, extentIndex: 0 }, 0, bytes, sha256(bytes));
    }
    const { plane, assignments } = drives.node(2);
    const { clock, metadata } = plane;
    const found: CollectionBrake[] = [];
    const options = {
      ...{ clock, metadata, assignments, store, locks: new ExtentLocks(), isPinned: () => false },
      onBrake: (sweep: CollectionBrake) => found.push(sweep),
    };
    const braked = new DropCollector(options);
    braked.start();
    await drives.clock.advance(3 * ORPHAN_SWEEP_INTERVAL_MS);
    const count = ORPHAN_BRAKE_COUNT_MIN + 1;
    expect(braked.brake).to.deep.equal({ extentCount: count, orphanCount: count, futureCount: 0 });
    await braked.stop();
    expect(found[0]).to.deep.equal({ extentCount: count, orphanCount: count, futureCount: 0 });
    expect(store.extents.size).to.equal(count);

    // One fewer is below the bound.
    await store.removeExtent({ contentId: orphan, extentIndex: 0 });
    const free = new DropCollector(options);
    free.start();
    await drives.clock.advance(3 * ORPHAN_SWEEP_INTERVAL_MS);
    await free.stop();
    expect(store.extents.size).to.equal(0);
    expect(free.brake).to.equal(undefined);
  });

  it("removes nothing when the tree is older than the bytes: it lost something itself", async () => {
    const drives = new TestDrives(3);
    const orphan = await orphanId(drives);
    const store = drives.replicas.store(2);
    const bytes = patternBytes(10);
    for (const contentId of [orphan, 900_000]) {
      await store.writeChunk({ contentId, extentIndex: 0 }, 0, bytes, sha256(bytes));
    }
    const { collector } = loopsOf(drives, 2);
    collector.start();
    await drives.clock.advance(4 * ORPHAN_SWEEP_INTERVAL_MS);
    await collector.stop();
    expect(collector.brake).to.include({ futureCount: 1 });
    expect(store.extents.size).to.equal(2);
  });

  it("removes nothing while the tree cannot be read linearizably", async () => {
    const drives = new TestDrives(3);
    const bytes = patternBytes(10);
    const store = drives.replicas.store(2);
    await store.writeChunk({ contentId: 900_000, extentIndex: 0 }, 0, bytes, sha256(bytes));
    drives.tree.unavailable = true;
    const errors: string[] = [];
    const { collector } = loopsOf(drives, 2, errors);

    collector.start();
    await drives.clock.advance(ORPHAN_SWEEP_INTERVAL_MS + 10_000);
    await collector.stop();

    expect(store.extents.size).to.equal(1);
    expect(errors.length).to.be.greaterThan(0);
  });
});

describe("ExtentLocks", () => {
  it("lets one work at a time touch an extent, in order, and goes on after a failure", async () => {
    const locks = new ExtentLocks();
    const extent = { contentId: 1, extentIndex: 0 };
    const order: string[] = [];
    const work = (name: string, fails = false) =>
      locks
        .withLock(extent, async () => {
          order.push(`${name} begins`);
          await Promise.resolve();
          order.push(`${name} ends`);
          if (fails) throw new Error("failed");
        })
        .catch(() => undefined);

    await Promise.all([work("a"), work("b", true), work("c")]);

    expect(order).to.deep.equal(["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]);
  });
});
