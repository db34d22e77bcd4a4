/**
 * Goal: the leader finds, by asking, every copy that the tree believes in and its member disowns, accuses nobody who is silent,
 * and never a member whose copy went in good order. Method: whole data planes over the real state machine.
 */
import { expect } from "chai";
import { COPY_AUDIT_PAUSE_MS_MAX, CopyAudit } from "../../../src/replication/copy-audit.ts";
import { isRecounting } from "../../../src/metadata/stores.ts";
import { patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

function auditOf(drives: TestDrives, memberId = 1): CopyAudit {
  const { clock, metadata } = drives.node(memberId).plane;
  return new CopyAudit({ clock, metadata, ports: drives.replicas });
}

async function put(drives: TestDrives, path = "/f"): Promise<number> {
  const { entry } = await drives.drive().putFile(uploadOf(path), streamOf(patternBytes(1000)));
  await drives.node(1).plane.chores.idle();
  return entry.contentId;
}

async function pass(drives: TestDrives, audit: CopyAudit): Promise<void> {
  audit.start();
  await drives.clock.advance(COPY_AUDIT_PAUSE_MS_MAX / 2);
  await audit.stop();
}

const replicasOf = async (drives: TestDrives) => (await drives.drive().cluster()).replicas;

describe("CopyAudit", () => {
  it("finds copies that their members do not have, or have damaged", async () => {
    const drives = new TestDrives(3);
    const [gone, bad] = [await put(drives, "/gone"), await put(drives, "/bad")];
    await drives.replicas.store(2).removeExtent({ contentId: gone, extentIndex: 0 });
    drives.replicas.store(3).damage({ contentId: bad, extentIndex: 0 }, 0);
    const audit = auditOf(drives);

    await pass(drives, audit);

    expect(await replicasOf(drives)).to.include({ lostCount: 1, corruptCount: 1 });
    expect(audit.stats()).to.deep.equal({
      passCount: 1,
      askedCount: 6,
      disownedCount: 2,
      unansweredCount: 0,
    });
  });

  it("finds copies that were recorded as good after their member had been given up, and leaves a recount its work", async () => {
    const drives = new TestDrives(3);
    const contentId = await put(drives);
    drives.tree.apply({ kind: "declare-lost", memberId: 3, storeIncarnation: "store-3" });
    await pass(drives, auditOf(drives));
    expect(drives.tree.count("report-replica")).to.equal(0);
    while (isRecounting(drives.tree.store)) drives.tree.apply({ kind: "recount" });
    expect(await replicasOf(drives)).to.include({ underReplicatedCount: 1 });

    const seal = await drives.replicas.store(3).verifyExtent({ contentId, extentIndex: 0 });
    drives.tree.apply({ kind: "add-replica", seal });
    expect(await replicasOf(drives), "counted by its record").to.include({ underReplicatedCount: 0 });
    await pass(drives, auditOf(drives));
    expect(await replicasOf(drives)).to.include({ fullyReplicatedCount: 0, underReplicatedCount: 1 });
  });

  it("does not take back what a member that returned meanwhile was believed again", async () => {
    const drives = new TestDrives(3);
    const contentId = await put(drives);
    const extent = { contentId, extentIndex: 0 };
    drives.giveUp(3);
    drives.revive(3);
    const seal = await drives.replicas.store(3).verifyExtent(extent);
    drives.replicas.onCall = ({ method }) => {
      if (method !== "extentState") return;
      drives.replicas.onCall = undefined;
      drives.tree.apply({ kind: "return-store", memberId: 3, storeIncarnation: "store-3" });
      drives.tree.apply({ kind: "add-replica", seal });
    };
    await pass(drives, auditOf(drives, 1));
    expect(drives.tree.count("report-replica")).to.equal(0);
    expect(await replicasOf(drives)).to.include({ fullyReplicatedCount: 1, underReplicatedCount: 0 });
  });

  it("accuses nobody who does not answer", async () => {
    const drives = new TestDrives(3);
    await put(drives);
    drives.kill(2);
    const audit = auditOf(drives);

    await pass(drives, audit);

    expect(await replicasOf(drives)).to.include({ lostCount: 0, fullyReplicatedCount: 1 });
    expect(audit.stats()).to.include({ unansweredCount: 1, disownedCount: 0 });
  });

  it("asks only where it leads", async () => {
    const drives = new TestDrives(3);
    await put(drives);
    const audit = auditOf(drives, 2);
    await pass(drives, audit);
    expect(audit.stats().askedCount).to.equal(0);
  });

  it("does not hold against a member what was changed while it was asked", async () => {
    const drives = new TestDrives(4);
    const contentId = await put(drives);
    const holders = (await drives.drive().durability({ path: "/f" })).nodeIds;
    const mover = Number(holders[2]?.slice("node-".length));
    drives.replicas.onCall = (call) => {
      if (call.method !== "extentState" || call.memberId !== mover) return;
      drives.replicas.onCall = undefined;
      void drives.replicas.store(mover).removeExtent({ contentId, extentIndex: 0 });
      drives.tree.apply({
        kind: "report-replica",
        contentId,
        extentIndex: 0,
        memberId: mover,
        finding: "suspect",
      });
    };
    const audit = auditOf(drives);
    await pass(drives, audit);
    expect(audit.stats().disownedCount).to.equal(0);
  });
});
