/**
 * Goal: whatever the nodes do, every call ends in bounded time, every acknowledged file reads back with its bytes, and copies are
 * three again once all is well. Method: seeded random uploads through random nodes while members die, hang, slow down, fill up
 * and lose answers; the clock is moved until everything has ended. Every failure prints its seed.
 */
import { expect } from "chai";
import { DropCollector } from "../../../src/replication/drop-collector.ts";
import { CopyMaker } from "../../../src/replication/copy-maker.ts";
import { ExtentLocks } from "../../../src/replication/extent-locks.ts";
import { Repair } from "../../../src/replication/repair.ts";
import { ReplicaCopier } from "../../../src/replication/replica-copier.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { inlineDigester } from "../../../src/std/digest.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { freePace, bytesOf, patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

const MEMBERS = [1, 2, 3, 4];
const SEEDS = Array.from({ length: 12 }, (_, index) => 100 + index);

function disturb(drives: TestDrives, prng: SeededPrng): void {
  const member = 2 + prng.below(3);
  const { replicas, detector } = drives;
  // At most one member is badly off at a time, so that a quorum exists; the node that serves the clients is never it.
  for (const other of MEMBERS) {
    drives.revive(other);
    replicas.hanging.delete(other);
    replicas.full.delete(other);
    replicas.delayMs.delete(other);
  }
  const how = prng.below(5);
  if (how === 0) drives.kill(member);
  if (how === 1) replicas.down.add(member);
  if (how === 2) replicas.delayMs.set(member, 1 + prng.below(3000));
  if (how === 3) replicas.full.add(member);
  if (how === 4) detector.health.set(member, "suspect");
}

function startLoops(drives: TestDrives): { stop(): Promise<void> }[] {
  return MEMBERS.flatMap((memberId) => {
    const { plane, assignments } = drives.node(memberId);
    const { clock, metadata, detector, placement, budget } = plane;
    const locks = new ExtentLocks();
    const onBadReplica = plane.reports.reportBad.bind(plane.reports);
    const digester = inlineDigester;
    const copier = new ReplicaCopier({
      ...freePace(clock),
      ports: drives.replicas,
      detector,
      digester,
      budget,
      memberId,
      onBadReplica,
    });
    const copies = new CopyMaker({ clock, metadata, assignments, placement, copier, locks });
    const repair = new Repair({ clock, metadata, detector, placement, copies });
    const store = drives.replicas.store(memberId);
    const isPinned = (contentId: number): boolean => plane.pins.isPinned(contentId);
    const collector = new DropCollector({ clock, metadata, assignments, store, locks, isPinned });
    repair.start();
    collector.start();
    return [repair, collector];
  });
}

async function run(seed: number): Promise<number> {
  const prng = new SeededPrng(seed);
  const drives = new TestDrives(MEMBERS.length);
  for (const member of MEMBERS) drives.grantLease(member);
  const loops = startLoops(drives);
  const acknowledged = new Map<string, Buffer>();
  for (let step = 0; step < 14; step += 1) {
    disturb(drives, prng);
    const small = prng.below(2) === 0;
    const size = small ? prng.below(CHUNK_SIZE_BYTES) : prng.below(6 * CHUNK_SIZE_BYTES);
    const bytes = patternBytes(size, seed + step);
    const path = `/f${prng.below(6)}`;
    if (prng.below(4) === 0) drives.tree.lostAnswers.set(small ? "put-small" : "complete-upload", 1);
    const requestId = `step-${step}`;
    let ended = false;
    const put = (async () => {
      for (let attempt = 0; attempt < 4; attempt += 1) {
        const gateway = drives.drive(1 + prng.below(MEMBERS.length));
        try {
          await gateway.putFile(uploadOf(path, { onConflict: "replace" }), streamOf(bytes), { requestId });
          acknowledged.set(path, bytes);
          return;
        } catch (error) {
          if (!(error instanceof DriveError)) throw error;
          // Not acknowledged: the file may be the old or the new one until a later attempt says so.
          if (error.spec.outcome === "indefinite") acknowledged.delete(path);
        }
      }
    })().finally(() => {
      ended = true;
    });
    await drives.clock.advanceUntil(`put of step ${step}, seed=${seed}`, () => ended, 300_000, 500);
    await put;
  }

  for (const member of MEMBERS) {
    drives.revive(member);
    drives.replicas.full.delete(member);
    drives.replicas.delayMs.delete(member);
  }
  await drives.clock.advance(60_000);
  for (const loop of loops) await loop.stop();
  for (const [path, bytes] of acknowledged) {
    const download = await drives.drive(1 + prng.below(MEMBERS.length)).openDownload({ path });
    const found = await bytesOf(download.read(0, bytes.length));
    expect(found.equals(bytes), `${path} seed=${seed}`).to.equal(true);
    const { verifiedCount } = await drives.drive().durability({ path });
    expect(verifiedCount, `${path} seed=${seed}`).to.be.at.least(3);
  }
  for (const member of MEMBERS)
    expect(drives.node(member).plane.budget.heldBytes, `seed=${seed}`).to.equal(0);
  return acknowledged.size;
}

describe("Uploads under random faults", () => {
  for (const seed of SEEDS) {
    it(`keep every acknowledged file (seed=${seed})`, async function () {
      this.timeout(20_000);

      expect(await run(seed)).to.be.at.least(1);
    });
  }
});
