// Goal: a member whose log is damaged is repaired from the others, and until then nothing that it promised counts as absent.
// Method: members in one process under a fake clock; bits of their disks in memory flipped between two starts.
import { expect } from "chai";
import { readAtomicFile } from "../../../src/std/atomic-file.ts";
import { decodePromises } from "../../../src/consensus/codec.ts";
import { must } from "../../../src/std/assert.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { TestCluster, type TestMember } from "../../support/consensus-cluster.ts";
import { expectReason } from "../../support/expect-reason.ts";

const LOG = "/raft/log/0000000001.seg";
const TABLE = "/raft/log/segments.table";
const PROMISES = "/raft/PROMISES";

async function write(cluster: TestCluster, from: number, count: number): Promise<void> {
  const leader = await cluster.leader();
  const names = Array.from({ length: count }, (_, at) => `k${from + at}`);
  await cluster.run(Promise.all(names.map((name) => leader.live.propose(utf8(`${name}=${name}`)))));
}

/** Places of the records of a segment, in order. */
function recordsOf(member: TestMember, path = LOG): number[] {
  const bytes = Buffer.from(member.disk.contentOf(path));
  const places: number[] = [];
  for (let at = bytes.indexOf("NDR1"); at >= 0; at = bytes.indexOf("NDR1", at + 1)) places.push(at);
  return places;
}

function damage(member: TestMember, place: number, path = LOG): void {
  member.disk.flipBit(path, place + 45, 3);
}

async function promisesOf(member: TestMember): Promise<ReturnType<typeof decodePromises>> {
  const name = { directory: "/raft", name: "PROMISES", magic: "NDPROM01" };
  const found = await readAtomicFile(member.disk, name);
  return decodePromises(must(found.kind === "intact" ? found.content : undefined, "the file is intact"));
}

describe("A damaged log", function () {
  this.timeout(20_000);
  let cluster: TestCluster;

  afterEach(async () => {
    await cluster.stop();
  });

  /** A cluster with some writes, all of them known to all, and a follower that crashed before its state was flushed. */
  async function crashed(count = 3): Promise<{ leader: TestMember; victim: TestMember }> {
    cluster = new TestCluster(count, { tuning: { storeFlushIntervalMs: 60_000 } });
    await cluster.start();
    await write(cluster, 0, 10);
    await write(cluster, 10, 10);
    // Long enough for a mark behind the last record.
    await cluster.clock.advance(2000);
    const leader = await cluster.leader();
    const victim = must(cluster.followers(leader)[0], "a follower");
    victim.crash();
    return { leader, victim };
  }

  async function expectHealed(member: TestMember): Promise<void> {
    await cluster.clock.advanceUntil("a whole log", () => !member.live.status().isMending, 10_000, 5);
    await write(cluster, 20, 5);
    await cluster.clock.advance(500);
    for (let at = 0; at < 25; at += 1) expect(member.valueOf(`k${at}`), `k${at}`).to.equal(`k${at}`);
    expect((await promisesOf(member)).isMending).to.equal(false);
    for (const each of cluster.members) expect(each.failures).to.deep.equal([]);
  }

  it("is repaired by the leader, whichever record a bit flips in", async () => {
    let mended = 0;
    for (let at = 0; ; at += 1) {
      const { victim } = await crashed();
      const place = recordsOf(victim)[at];
      if (place === undefined) break;
      damage(victim, place);
      await victim.start();
      if (victim.live.status().isMending) mended += 1;
      await expectHealed(victim);
      await cluster.stop();
    }
    expect(mended).to.be.above(10);
  });

  it("takes no votes away from what it acknowledged: it neither campaigns nor votes while it does not know its end", async () => {
    const { leader, victim } = await crashed();
    const late = must(
      cluster.followers(leader).find((member) => member !== victim),
      "the other follower",
    );
    await victim.start();
    await cluster.clock.advance(500);
    await late.stop();
    await write(cluster, 100, 3);
    await cluster.clock.advance(2000);
    await leader.stop();
    victim.crash();
    // The end of its log is gone: only the leader, which is away, has what both of them acknowledged.
    const bytes = victim.disk.contentOf(LOG);
    victim.disk.overwrite(LOG, bytes.subarray(0, must(recordsOf(victim).at(-3), "a record") + 10));
    await victim.start();
    await late.start();
    expect(victim.live.status().isMending).to.equal(true);

    await cluster.clock.advance(20_000);
    for (const member of [victim, late]) expect(member.live.role()).to.not.equal("leader");

    await leader.start();
    await cluster.clock.advance(5000);
    for (let at = 100; at < 103; at += 1) {
      expect((await cluster.leader()).valueOf(`k${at}`)).to.equal(`k${at}`);
      expect(late.valueOf(`k${at}`)).to.equal(`k${at}`);
    }
    await expectHealed(victim);
  });

  it("still votes for a member that has what it acknowledged, when the end of its log is intact", async () => {
    const { leader, victim } = await crashed();
    const other = must(
      cluster.followers(leader).find((member) => member !== victim),
      "the other follower",
    );
    damage(victim, must(recordsOf(victim)[6], "a record"));
    await leader.stop();

    await victim.start();
    expect(victim.live.status().isMending).to.equal(true);

    await cluster.clock.advanceUntil("a leader", () => other.live.role() === "leader", 10_000, 5);
    await leader.start();
    await expectHealed(victim);
  });

  it("that is damaged only where the flushed state goes on is cut off there, without any other member", async () => {
    const { leader, victim } = await crashed();
    await victim.start();
    await cluster.clock.advance(500);
    await victim.stop();
    damage(victim, must(recordsOf(victim)[6], "a record"));
    cluster.isolate(victim.id);

    await victim.start();

    expect(victim.live.status().isMending).to.equal(false);
    expect(victim.live.status().firstIndex).to.be.above(20);
    expect(victim.valueOf("k19")).to.equal("k19");
    cluster.heal();
    expect(leader.failures).to.deep.equal([]);
    await victim.stop();
    await victim.start();
    await expectHealed(victim);
  });

  it("counts as acknowledged by nobody: the leader learns what is missing and sends it, in the same term", async () => {
    const { leader, victim } = await crashed();
    const { term } = leader.live.status();
    damage(victim, must(recordsOf(victim)[3], "a record"));

    await victim.start();
    await cluster.clock.advance(300);

    const progress = must(leader.live.status().progress.get(victim.id), "the progress of the victim");
    expect(progress.lossCount).to.equal(1);
    expect(leader.live.status().term).to.equal(term);
    await expectHealed(victim);
  });

  it("is mended by a snapshot when the leader's log no longer reaches back", async () => {
    cluster = new TestCluster(3, {
      tuning: { logEntryCountMax: 50, logKeepEntryCount: 10, storeFlushIntervalMs: 60_000 },
    });
    for (const member of cluster.members) member.overrides = { logSegmentSizeBytes: 2000 };
    await cluster.start();
    await write(cluster, 0, 20);
    const leader = await cluster.leader();
    const victim = must(cluster.followers(leader)[0], "a follower");
    await cluster.clock.advance(2000);
    victim.crash();
    for (let from = 1000; from < 1300; from += 50) await write(cluster, from, 50);
    await cluster.clock.advance(1000);
    damage(victim, must(recordsOf(victim)[1], "a record"));

    await victim.start();

    expect(victim.live.status().isMending).to.equal(true);
    await expectHealed(victim);
    expect(victim.valueOf("k1299")).to.equal("k1299");
  });

  for (const [name, spoil] of Object.entries<(member: TestMember) => Promise<void> | void>({
    "its table is damaged": (member) => member.disk.flipBit(TABLE, 20),
    "its only segment is gone": (member) => member.disk.remove(LOG),
    "the end of its file is gone": (member) =>
      member.disk.overwrite(LOG, member.disk.contentOf(LOG).subarray(0, 300)),
    "the disk cannot read it": (member) => member.disk.failNext("read", /0000000001\.seg/, "EIO", 1000),
    "the record of its vote is damaged and the log is whole": (member) => member.disk.flipBit(PROMISES, 20),
    "the record of its vote is gone and the log is whole": (member) => member.disk.remove(PROMISES),
  })) {
    it(`is mended when ${name}`, async () => {
      const { victim } = await crashed();
      await spoil(victim);
      await victim.start();
      victim.disk.clearFailures();
      expect(victim.live.status().isMending).to.equal(true);
      await expectHealed(victim);
      await victim.stop();
      await victim.start();
      expect(victim.live.status().isMending).to.equal(false);
    });
  }

  it("is whole all the same when only the header of its segment is damaged", async () => {
    const { victim } = await crashed();
    victim.disk.flipBit(LOG, 10);
    await victim.start();
    expect(victim.live.status().isMending).to.equal(false);
    await expectHealed(victim);
  });

  it("is refused, with the remedy, when both copies of the vote are damaged", async () => {
    const { victim } = await crashed();
    victim.disk.flipBit(PROMISES, 20);
    for (const place of recordsOf(victim).slice(-3)) damage(victim, place);

    const error = await expectReason("DATA_CORRUPT", () => victim.start());

    expect(String(error)).to.include("join as a new member");
    victim.consensus = undefined;
  });

  it("is refused when there is nobody else, however little is damaged", async () => {
    cluster = new TestCluster(1);
    await cluster.start();
    await write(cluster, 0, 10);
    const [member] = cluster.members;
    const alone = must(member, "a member");
    await alone.stop();
    damage(alone, must(recordsOf(alone)[4], "a record"));

    const error = await expectReason("DATA_CORRUPT", () => alone.start());

    expect(String(error)).to.include("no other member");
    alone.consensus = undefined;
  });

  it("is mended over a crash at any operation of the disk, and stays silent over each of them", async function () {
    this.timeout(60_000);
    let crashes = 0;
    for (let operation = 1; ; operation += 1) {
      const { victim } = await crashed();
      victim.disk.overwrite(LOG, victim.disk.contentOf(LOG).subarray(0, 400));
      let count = 0;
      victim.disk.onOperation = () => {
        count += 1;
        if (count === operation) victim.crash();
        return undefined;
      };
      void victim.start().catch(() => undefined);
      await cluster.clock.advance(1000);
      victim.disk.onOperation = undefined;
      const isCrashed = count >= operation;
      if (isCrashed) {
        crashes += 1;
        await victim.start();
      }
      await expectHealed(victim);
      await cluster.stop();
      if (!isCrashed || crashes > 60) break;
    }
    expect(crashes).to.be.above(20);
  });

  it("does not stop a leader that finds an old entry unreadable: who needs it is given a snapshot", async () => {
    cluster = new TestCluster(3, { tuning: { storeFlushIntervalMs: 500 } });
    for (const member of cluster.members) {
      member.overrides = { logCacheSizeBytesMax: 1000, logSegmentSizeBytes: 4000 };
    }
    await cluster.start();
    const leader = await cluster.leader();
    const late = must(cluster.followers(leader)[0], "a follower");
    await late.stop();
    for (let from = 0; from < 20; from += 5) await write(cluster, from, 5);
    await cluster.clock.advance(2000);
    const places = recordsOf(leader);
    for (const place of places.slice(4, 12)) damage(leader, place);

    await late.start();
    await expectHealed(late);

    expect(leader.live.role()).to.equal("leader");
    expect(leader.live.status().firstIndex).to.be.above(1);
    expect(cluster.counts.get("snapshot")).to.be.above(0);
  });

  it("loses nothing that was acknowledged, whatever is damaged on one member after another", async function () {
    this.timeout(120_000);
    for (const seed of [1, 2, 3, 4, 5, 6]) {
      cluster = new TestCluster(3, {
        seed,
        tuning: { logEntryCountMax: 60, logKeepEntryCount: 20, storeFlushIntervalMs: 700 },
      });
      for (const member of cluster.members) {
        member.overrides = { logSegmentSizeBytes: 4000, logCacheSizeBytesMax: 3000 };
      }
      await cluster.start();
      await damageAtRandom(cluster, seed);
      await cluster.stop();
    }
  });
});

/** One damaged member at a time; the next is damaged once it is whole again. */
async function damageAtRandom(cluster: TestCluster, seed: number): Promise<void> {
  const prng = new SeededPrng(seed);
  const acknowledged = new Set<string>();
  let mended = 0;
  let count = 0;
  for (let round = 0; round < 12; round += 1) {
    for (let at = 0; at < 15; at += 1) {
      count += 1;
      const name = `n${count}`;
      cluster
        .member(1 + prng.below(3))
        .live.propose(utf8(`${name}=${name}`), { timeoutMs: 2000 })
        .then(
          () => acknowledged.add(name),
          () => undefined,
        );
    }
    await cluster.clock.advance(prng.below(1500));
    const victim = cluster.member(1 + prng.below(3));
    const isOrderly = prng.below(2) === 0;
    const isCutShort = prng.below(3) === 0;
    if (isOrderly) await victim.stop();
    else {
      // A mark: where the file is cut since then, it looks like a torn tail, see segments/FORMAT.md.
      if (isCutShort) await cluster.clock.advance(1500);
      victim.crash();
    }
    const files = victim.disk.filesBelow("/raft/log");
    const path = must(files[prng.below(files.length)], "a file");
    const sizeBytes = victim.disk.contentOf(path).length;
    if (isCutShort) {
      victim.disk.overwrite(path, victim.disk.contentOf(path).subarray(0, prng.below(sizeBytes)));
    } else {
      for (let at = 1 + prng.below(4); at > 0; at -= 1)
        victim.disk.flipBit(path, prng.below(sizeBytes), prng.below(8));
    }
    // The others go on, or change places, meanwhile.
    if (prng.below(3) === 0) {
      const other = cluster.member(1 + (victim.id % 3));
      await other.stop();
      await other.start();
    }
    await victim.start();
    if (victim.live.status().isMending) mended += 1;
    await cluster.leader(20_000);
    await cluster.clock.advanceUntil(
      `a whole log, seed=${seed}`,
      () => !victim.live.status().isMending,
      20_000,
      5,
    );
  }
  const leader = await cluster.leader(20_000);
  await cluster.clock.advance(2000);
  await cluster.run(leader.live.linearize());
  for (const name of acknowledged) {
    for (const member of cluster.members) {
      expect(member.valueOf(name), `seed=${seed} ${name} at ${member.id}`).to.equal(name);
    }
  }
  expect(acknowledged.size, `seed=${seed}`).to.be.above(60);
  expect(mended, `seed=${seed}`).to.be.above(0);
  for (const member of cluster.members) expect(member.failures, `seed=${seed}`).to.deep.equal([]);
}
