/**
 * Goal: a copy that the tree believes in and the store does not have becomes suspect, and only such a copy. Method: whole data
 * planes over the real state machine; the loop runs under the test's clock.
 */
import { expect } from "chai";
import { AUDIT_INTERVAL_MS, InventoryAudit } from "../../../src/replication/inventory-audit.ts";
import { patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

function auditOf(drives: TestDrives, memberId: number): InventoryAudit {
  const { plane, assignments } = drives.node(memberId);
  const { clock, metadata } = plane;
  return new InventoryAudit({ clock, metadata, assignments, store: drives.replicas.store(memberId) });
}

async function put(drives: TestDrives): Promise<number> {
  const { entry } = await drives.drive().putFile(uploadOf("/f"), streamOf(patternBytes(1000)));
  await drives.node(1).plane.chores.idle();
  return entry.contentId;
}

async function verifiedCount(drives: TestDrives): Promise<number> {
  return (await drives.drive().durability({ path: "/f" })).verifiedCount;
}

describe("InventoryAudit", () => {
  it("reports a copy that the store lost, in the first pass after the start", async () => {
    const drives = new TestDrives(3);
    const contentId = await put(drives);
    await drives.replicas.store(2).removeExtent({ contentId, extentIndex: 0 });
    const audit = auditOf(drives, 2);

    audit.start();
    await drives.clock.advance(100);
    await audit.stop();

    expect(await verifiedCount(drives)).to.equal(2);
  });

  it("reports a copy that is quarantined", async () => {
    const drives = new TestDrives(3);
    const contentId = await put(drives);
    drives.replicas.store(2).damage({ contentId, extentIndex: 0 }, 0);
    const audit = auditOf(drives, 2);

    audit.start();
    await drives.clock.advance(100);
    await audit.stop();

    expect(await verifiedCount(drives)).to.equal(2);
  });

  it("reports nothing when all is there, and looks again only after its interval", async () => {
    const drives = new TestDrives(3);
    const contentId = await put(drives);
    const audit = auditOf(drives, 2);

    audit.start();
    await drives.clock.advance(100);
    await drives.replicas.store(2).removeExtent({ contentId, extentIndex: 0 });
    await drives.clock.advance(AUDIT_INTERVAL_MS / 2);
    const before = await verifiedCount(drives);
    await drives.clock.advance(AUDIT_INTERVAL_MS);
    await audit.stop();

    expect(before).to.equal(3);
    expect(await verifiedCount(drives)).to.equal(2);
  });
});
