/**
 * Goal: snapshots of the tree are kept when they should be, as contents that can be found and read without the tree. Method: the
 * data plane of three members in memory; the dump is bytes that the test makes.
 */
import { expect } from "chai";
import { PAUSE_FACTOR, TreeBackups, TREE_SNAPSHOT_LOOK_MS } from "../../../src/backup/tree-backup.ts";
import type { TreeBackup } from "../../../src/drive/cluster-admin.ts";
import { TREE_SNAPSHOT_COUNT } from "../../../src/drive/limits.ts";
import { checkInvariants } from "../../../src/metadata/invariants.ts";
import { lastEventIndex, snapshotAge, treeSnapshots } from "../../../src/metadata/tree-snapshots.ts";
import { must } from "../../../src/std/assert.ts";
import { deferred } from "../../../src/std/deferred.ts";
import { bytesOf, freePace, patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";

const INTERVAL_MS = 600_000;
const DUMP = patternBytes(2_500_000, 9);

class Fixture {
  readonly drives = new TestDrives(3);
  readonly disk = new MemoryDisk();
  readonly made: TreeBackup[] = [];
  readonly errors: string[] = [];
  isLeading = true;
  dumpCount = 0;
  onDump: () => Promise<void> = () => Promise.resolve();
  readonly backups: TreeBackups;

  constructor() {
    const { clock } = this.drives;
    const { plane } = this.drives.node(1);
    this.drives.grantLease();
    this.backups = new TreeBackups({
      ...{ plane, disk: this.disk, directory: "data/backup", intervalMs: INTERVAL_MS },
      pace: freePace(clock).pace,
      isLeading: () => this.isLeading,
      dump: async (path, look) => {
        this.dumpCount += 1;
        const seen = look(plane.metadata.port.reader());
        const index = plane.metadata.port.appliedIndex();
        await this.onDump();
        const file = await this.disk.open(path, "create");
        await file.write(0, [DUMP]);
        await file.close();
        const confState = {
          voters: [],
          votersOutgoing: [],
          learners: [],
          learnersNext: [],
          autoLeave: false,
        };
        return { metadata: { index, term: 1, confState }, seen };
      },
      onMade: (made) => this.made.push(made),
      onError: (error) => this.errors.push(error.reason),
    });
  }

  get reader() {
    return this.drives.node(1).plane.metadata.port.reader();
  }

  async put(path: string): Promise<void> {
    await this.drives.drive(1).putFile(uploadOf(path), streamOf(Buffer.from(path)));
  }

  /** Moves cluster time and the clock, in the steps that commands allow. */
  async pass(ms: number): Promise<void> {
    for (let left = ms; left > 0; left -= 10_000) {
      this.drives.tree.apply({ kind: "advance-clock", elapsedMs: Math.min(10_000, left) });
      this.drives.grantLease(1, 0);
      await this.drives.clock.advance(Math.min(10_000, left));
    }
  }
}

describe("snapshots of the tree", () => {
  let fixture: Fixture;

  beforeEach(() => {
    fixture = new Fixture();
  });

  afterEach(() => fixture.backups.stop());

  it("are contents with whole copies on three members, which say what they are", async () => {
    await fixture.put("/a");
    const made = await fixture.backups.backUp();
    expect(made).to.include({ isNew: true, sizeBytes: DUMP.length });
    const [snapshot] = treeSnapshots(fixture.reader);
    const { contentId, index } = must(snapshot, "a snapshot was recorded");
    expect(index).to.equal(made.index);
    for (const memberId of [1, 2, 3]) {
      const port = fixture.drives.replicas.forMember(memberId);
      const extent = { contentId, extentIndex: 0 };
      const { origin } = await must(port, "a member").manifest(extent);
      expect(origin).to.include({ entryId: 0, commitIndex: index });
      expect(origin.hint).to.include({ purpose: "tree-snapshot", contentSizeBytes: DUMP.length });
      const bytes = await bytesOf(must(port, "a member").read(extent, 0, DUMP.length));
      expect(bytes.equals(DUMP)).to.equal(true);
    }
    expect(await fixture.disk.exists("data/backup/tree.dump")).to.equal(false);
    checkInvariants(fixture.reader);
  });

  it("are not made twice of the same tree", async () => {
    await fixture.put("/a");
    const first = await fixture.backups.backUp();
    await fixture.pass(30_000);
    expect(await fixture.backups.backUp()).to.include({ isNew: false, index: first.index });
    await fixture.put("/b");
    expect(await fixture.backups.backUp()).to.include({ isNew: true });
    expect(fixture.dumpCount).to.equal(2);
  });

  it("are made by the leader once something changed and the newest is old; the newest ones stay", async () => {
    fixture.backups.start();
    await fixture.pass(INTERVAL_MS);
    expect(fixture.dumpCount, "nothing has changed").to.equal(0);
    fixture.isLeading = false;
    await fixture.put("/a");
    await fixture.pass(2 * TREE_SNAPSHOT_LOOK_MS);
    expect(fixture.dumpCount, "it does not lead").to.equal(0);
    fixture.isLeading = true;
    for (let round = 1; round <= TREE_SNAPSHOT_COUNT + 1; round += 1) {
      await fixture.pass(INTERVAL_MS + TREE_SNAPSHOT_LOOK_MS);
      expect(fixture.made, fixture.errors.join()).to.have.length(round);
      expect(snapshotAge(fixture.reader)).to.include({ isBehind: false, ageMs: 0 });
      await fixture.put(`/${round}`);
      expect(snapshotAge(fixture.reader).isBehind).to.equal(true);
    }
    const kept = treeSnapshots(fixture.reader).map(({ index }) => index);
    expect(kept).to.deep.equal(fixture.made.slice(1).map(({ index }) => index));
    checkInvariants(fixture.reader);
  });

  it("come every ten minutes while the tree changes, though each takes two", async () => {
    fixture.backups.start();
    for (let round = 1; round <= 4; round += 1) {
      await fixture.put(`/${round}`);
      const dumped = deferred<void>();
      fixture.onDump = () => dumped.promise;
      await fixture.pass(INTERVAL_MS - 120_000 + TREE_SNAPSHOT_LOOK_MS);
      // The first one is due as soon as the tree is ten minutes old; the others were begun ten minutes before.
      if (round === 1) await fixture.pass(120_000);
      expect(fixture.dumpCount).to.equal(round);
      await fixture.pass(120_000 - TREE_SNAPSHOT_LOOK_MS);
      dumped.resolve();
      await fixture.pass(10_000);
      expect(fixture.made, fixture.errors.join()).to.have.length(round);
    }
  });

  it("take no more than a fifth of the time, however long one takes", async () => {
    const dumped = deferred<void>();
    fixture.onDump = () => dumped.promise;
    await fixture.put("/a");
    fixture.backups.start();
    await fixture.pass(INTERVAL_MS + TREE_SNAPSHOT_LOOK_MS);
    expect(fixture.dumpCount).to.equal(1);
    const tookMs = 600_000;
    await fixture.pass(tookMs);
    dumped.resolve();
    await fixture.pass(10_000);
    expect(fixture.made).to.have.length(1);
    await fixture.put("/b");
    await fixture.pass((PAUSE_FACTOR - 1) * tookMs);
    expect(snapshotAge(fixture.reader).ageMs).to.be.above(INTERVAL_MS);
    expect(fixture.dumpCount, "it rests").to.equal(1);
    await fixture.pass(tookMs + 6 * TREE_SNAPSHOT_LOOK_MS);
    expect(fixture.made).to.have.length(2);
  });

  it("leave nothing behind when they fail, and say why", async () => {
    await fixture.put("/a");
    const before = lastEventIndex(fixture.reader);
    fixture.drives.kill(2);
    fixture.drives.kill(3);
    await expectReason("QUORUM_NOT_REACHED", () => fixture.backups.backUp());
    fixture.drives.revive(2);
    fixture.drives.revive(3);
    fixture.drives.node(1).plane.lease.distrust();
    await expectReason("OVERLOADED", () => fixture.backups.backUp());
    expect(await fixture.disk.exists("data/backup/tree.dump")).to.equal(false);
    expect(treeSnapshots(fixture.reader)).to.deep.equal([]);
    expect(lastEventIndex(fixture.reader)).to.equal(before);
    fixture.drives.grantLease();
    expect(await fixture.backups.backUp()).to.include({ isNew: true });
  });
});
