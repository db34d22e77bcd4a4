/**
 * Goal: an extent that lacks a copy gets it wherever there is room, and moves leave the last tenth of a disk to users. Method: whole
 * data planes over the real state machine, with all loops that make copies under the test's clock and the figures of disks set by
 * the test.
 */
import { expect } from "chai";
import type { NodeLoad } from "../../../src/cluster/failure-detector-port.ts";
import { HIGH_WATER_SHARE } from "../../../src/drive/limits.ts";
import { CopyLoops } from "../../support/copy-loops.ts";
import { idleLoad } from "../../support/fake-detector.ts";
import { copiesAt, putMany, TestDrives } from "../../support/use-drives.ts";

const TOTAL_BYTES = 1e12;
/** What a disk at its high-water mark has left. */
const MARK_BYTES = Math.ceil(TOTAL_BYTES * (1 - HIGH_WATER_SHARE));
const FILE_COUNT = 4;
/** Longer than repair waits before it makes a task, and than a task takes. */
const REPAIR_MS = 20_000;

const loadOf = (freeBytes: number, writesRefused = false): NodeLoad =>
  idleLoad({ freeBytes, totalBytes: TOTAL_BYTES, writesRefused });

/** Files of which member 3 has no copy, because it had no room. */
async function putWithoutThird(memberCount: number): Promise<TestDrives> {
  const drives = new TestDrives(memberCount);
  for (let memberId = 1; memberId <= memberCount; memberId += 1) {
    drives.detector.loads.set(memberId, loadOf(MARK_BYTES - 1, memberId > 2));
  }
  await putMany(drives, FILE_COUNT);
  for (const memberId of [1, 2]) {
    expect(await copiesAt(drives, memberId, FILE_COUNT), `member ${memberId}`).to.equal(FILE_COUNT);
  }
  return drives;
}

async function repairFor(drives: TestDrives, memberCount: number): Promise<void> {
  const loops = new CopyLoops(
    drives,
    Array.from({ length: memberCount }, (_, at) => at + 1),
  );
  await loops.pass(REPAIR_MS);
  await loops.stop();
}

describe("Full disks", () => {
  it("have the copies that are missing made as soon as one takes users' files again, however full it is", async () => {
    const drives = await putWithoutThird(3);
    await repairFor(drives, 3);
    expect(await copiesAt(drives, 3, FILE_COUNT), "while it refuses").to.equal(0);

    drives.detector.loads.set(3, loadOf(MARK_BYTES - 1));
    await repairFor(drives, 3);

    expect(await copiesAt(drives, 3, FILE_COUNT)).to.equal(FILE_COUNT);
  });

  for (const { freeBytes, count } of [
    { freeBytes: MARK_BYTES, count: FILE_COUNT },
    { freeBytes: MARK_BYTES - 1, count: 0 },
  ]) {
    const where = freeBytes === MARK_BYTES ? "at" : "one byte above";
    it(`get ${count} of ${FILE_COUNT} missing copies when ${where} the high-water mark while a fuller one has room too`, async () => {
      const drives = await putWithoutThird(4);
      // The one with more free bytes is the one that is chosen, unless the mark speaks against it.
      const other = { ...loadOf(MARK_BYTES - 1), totalBytes: TOTAL_BYTES / 2 };
      drives.detector.loads.set(3, loadOf(freeBytes));
      drives.detector.loads.set(4, freeBytes === MARK_BYTES ? loadOf(MARK_BYTES - 1) : other);
      await repairFor(drives, 4);

      expect(await copiesAt(drives, 3, FILE_COUNT)).to.equal(count);
      expect(await copiesAt(drives, 4, FILE_COUNT)).to.equal(FILE_COUNT - count);
    });
  }

  for (const freeBytes of [MARK_BYTES, MARK_BYTES - 1]) {
    const isTaken = freeBytes === MARK_BYTES;
    it(`${isTaken ? "get" : "never get"} moved copies ${isTaken ? "at" : "one byte above"} the high-water mark`, () => {
      const drives = new TestDrives(3);
      drives.detector.loads.set(3, loadOf(freeBytes));
      const { placement } = drives.node(1).plane;

      expect(placement.chooseSpare([1, 2], "moved")).to.equal(isTaken ? 3 : undefined);
      expect(placement.chooseSpare([1, 2], "missing")).to.equal(3);
    });
  }

  it("are not waited for: a copy that is yet to be made on one without room is asked of a member that has some", async () => {
    const drives = await putWithoutThird(4);
    // Repair asks member 3, which is full before it has made any.
    drives.detector.loads.set(3, loadOf(MARK_BYTES));
    drives.replicas.down.add(3);
    await repairFor(drives, 4);
    drives.detector.loads.set(3, loadOf(0, true));
    await repairFor(drives, 4);
    expect(await copiesAt(drives, 4, FILE_COUNT), "while nobody has room").to.equal(0);

    drives.detector.loads.set(4, loadOf(MARK_BYTES));
    await repairFor(drives, 4);

    expect(await copiesAt(drives, 4, FILE_COUNT)).to.equal(FILE_COUNT);
  });
});
