// Goal: consensus survives what goes wrong around it: followers far behind, crashes in the middle of installing, disks that
// are stuck or full, state that differs.
// Method: members in one process under a fake clock; faults of the disk in memory; outcomes only.
import { expect } from "chai";
import { FLUSH_FREE_BYTES_MIN } from "../../../src/consensus/log-maintenance.ts";
import { deferred } from "../../../src/std/deferred.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { StoreFullError } from "../../../src/std/ordered-store.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { must } from "../../../src/std/assert.ts";
import { TestCluster, type TestMember } from "../../support/consensus-cluster.ts";
import { expectReason } from "../../support/expect-reason.ts";

/** A log that is cut soon. */
const SHORT_LOG = { logEntryCountMax: 50, logKeepEntryCount: 10, storeFlushIntervalMs: 1000 };

async function proposeMany(cluster: TestCluster, count: number, prefix = "k"): Promise<void> {
  const leader = await cluster.leader();
  const work = Array.from({ length: count }, (_, at) => leader.live.propose(utf8(`${prefix}${at}=${at}`)));
  await cluster.run(Promise.all(work));
}

function hashOf(member: TestMember): string {
  return Buffer.from(member.live.reader().get(Uint8Array.of(0, 1)) ?? []).toString("hex");
}

describe("Consensus under faults", function () {
  this.timeout(20_000);
  let cluster: TestCluster;

  afterEach(async () => {
    await cluster.stop();
  });

  /** A leader whose log was cut, and a follower that was away all the while. */
  async function leaveBehind(): Promise<TestMember> {
    cluster = new TestCluster(3, { tuning: SHORT_LOG });
    for (const member of cluster.members) member.overrides = { logSegmentSizeBytes: 4000 };
    await cluster.start();
    const leader = await cluster.leader();
    const away = must(cluster.followers(leader)[0], "a follower");
    await proposeMany(cluster, 5, "early");
    await away.stop();
    for (let round = 0; round < 5; round += 1) {
      await proposeMany(cluster, 60, `r${round}-`);
      await cluster.clock.advance(200);
    }
    expect(
      must(
        cluster.followers(away).find((member) => member.live.role() === "leader"),
        "a leader",
      ).live.status().firstIndex,
    ).to.be.above(100);
    return away;
  }

  describe("a follower far behind", () => {
    it("is given a snapshot, and then the log again", async () => {
      const away = await leaveBehind();

      await away.start();
      await cluster.clock.advance(3000);
      await proposeMany(cluster, 3, "late");
      await cluster.clock.advance(500);

      expect(away.valueOf("r4-59")).to.equal("59");
      expect(away.valueOf("late2")).to.equal("2");
      expect(cluster.counts.get("snapshot")).to.equal(1);
      expect(hashOf(away)).to.equal(hashOf(await cluster.leader()));
      expect(await away.stores.list()).to.deep.equal(["state-2"]);
      for (const member of cluster.members) expect(member.failures).to.deep.equal([]);
    });

    it("has the installed state again after a restart", async () => {
      const away = await leaveBehind();
      await away.start();
      await cluster.clock.advance(3000);

      away.crash();
      await away.start();
      await cluster.clock.advance(1000);

      expect(away.valueOf("r4-59")).to.equal("59");
      expect(away.live.leaderId()).to.equal((await cluster.leader()).id);
    });

    it("catches up after a crash at any operation of its disk while it installs", async function () {
      this.timeout(60_000);
      let crashes = 0;
      for (let operation = 1; ; operation += 3) {
        const away = await leaveBehind();
        let count = 0;
        let isDead = false;
        away.disk.onOperation = () => {
          count += 1;
          if (count === operation && !isDead) {
            isDead = true;
            away.crash();
          }
          return undefined;
        };
        void away.start();
        await cluster.clock.advance(3000);
        away.disk.onOperation = undefined;
        if (!isDead) {
          expect(away.valueOf("r4-59")).to.equal("59");
          break;
        }
        crashes += 1;
        await away.start();
        await cluster.clock.advance(3000);
        expect(away.valueOf("r4-59"), `operation ${operation}`).to.equal("59");
        expect((await away.stores.list()).length).to.equal(1);
        expect(away.failures).to.deep.equal([]);
        await cluster.stop();
      }
      expect(crashes).to.be.above(10);
    });

    it("takes the snapshot again when the first one broke off", async () => {
      const away = await leaveBehind();
      let left = 1;
      cluster.allows = (message) => message.kind !== "snapshot" || left-- <= 0;

      await away.start();
      await cluster.clock.advance(5000);

      expect(away.valueOf("r4-59")).to.equal("59");
      expect(cluster.counts.get("snapshot")).to.be.above(1);
    });

    it("takes a snapshot although the file that it came in cannot be removed", async () => {
      const away = await leaveBehind();
      let removalCount = 0;
      away.disk.onOperation = (operation, path) => {
        if (operation !== "remove" || !path.endsWith("receiving.tmp")) return undefined;
        removalCount += 1;
        const error = Object.assign(new Error(`EROFS: ${path}`), { code: "EROFS" });
        // The first one makes room for the file.
        return removalCount === 2 ? Promise.reject(error) : undefined;
      };

      await away.start();
      await cluster.clock.advance(10_000);

      expect(removalCount).to.equal(2);
      expect(cluster.counts.get("snapshot")).to.equal(1);
      expect(away.valueOf("r4-59")).to.equal("59");
      expect(away.failures).to.deep.equal([]);
    });

    it("refuses a snapshot whose bytes were damaged on the way, and takes the next one", async () => {
      const away = await leaveBehind();
      const leader = await cluster.leader();
      let isDamaged = false;
      leader.disk.onOperation = async (operation, path) => {
        if (operation !== "read" || !path.endsWith(".dump") || isDamaged) return;
        isDamaged = true;
        leader.disk.flipBit(path, 200);
        await Promise.resolve();
        cluster.clock.setTimer(50, () => leader.disk.flipBit(path, 200));
      };

      await away.start();
      await cluster.clock.advance(5000);

      expect(isDamaged).to.equal(true);
      expect(away.valueOf("r4-59")).to.equal("59");
      expect(away.failures).to.deep.equal([]);
    });
  });

  describe("the disk", () => {
    it("may be stuck for a second without costing the leader its role", async () => {
      cluster = new TestCluster(3);
      await cluster.start();
      const leader = await cluster.leader();
      const release = stick(leader);
      const work = leader.live.propose(utf8("a=1"));
      await cluster.clock.advance(1000);

      expect(leader.live.role()).to.equal("leader");
      release();
      await cluster.run(work);
    });

    it("makes the leader hand over when it is stuck for five seconds", async () => {
      cluster = new TestCluster(3);
      await cluster.start();
      const leader = await cluster.leader();
      const release = stick(leader);
      leader.live.propose(utf8("a=1"), { timeoutMs: 60_000 }).catch(() => undefined);
      await cluster.clock.advance(7500);

      const next = must(
        cluster.followers(leader).find((member) => member.live.role() === "leader"),
        "another leads",
      );
      expect(leader.live.role()).not.to.equal("leader");
      await cluster.run(next.live.propose(utf8("b=2")));
      release();
      await cluster.clock.advance(2000);
      expect(leader.valueOf("b")).to.equal("2");
      expect(leader.failures).to.deep.equal([]);
    });

    it("makes a leader that cannot reach its successor fall silent and step down", async () => {
      cluster = new TestCluster(3);
      await cluster.start();
      const leader = await cluster.leader();
      cluster.allows = (message) => message.kind !== "timeout-now";
      const release = stick(leader);
      leader.live.propose(utf8("a=1"), { timeoutMs: 60_000 }).catch(() => undefined);
      await cluster.clock.advance(9000);

      expect(leader.live.role()).not.to.equal("leader");
      expect(cluster.followers(leader).some((member) => member.live.role() === "leader")).to.equal(true);
      release();
    });

    it("ends the node when a sync fails", async () => {
      cluster = new TestCluster(3);
      await cluster.start();
      const leader = await cluster.leader();
      leader.disk.failNext("sync", /log/, "EIO");

      await expectReason("COMMIT_OUTCOME_UNKNOWN", () => cluster.run(leader.live.propose(utf8("a=1"))));

      expect(leader.failures.length).to.equal(1);
      await expectReason("NODE_STOPPING", () => leader.live.linearize());
    });

    it("may be full for a while: nothing is lost, and it goes on when there is space", async () => {
      cluster = new TestCluster(1);
      await cluster.start();
      const leader = await cluster.leader();
      await proposeMany(cluster, 3);
      leader.disk.capacityBytes = leader.disk.usedBytes + 10;
      const work = leader.live.propose(utf8("a=1"), { timeoutMs: 20_000 });
      await cluster.clock.advance(3000);
      expect(leader.failures).to.deep.equal([]);

      leader.disk.capacityBytes = 1e9;
      await cluster.run(work);

      expect(leader.valueOf("a")).to.equal("1");
    });

    it("is refused when the state is there and the log is gone, and the other way round", async () => {
      cluster = new TestCluster(1);
      await cluster.start();
      const member = await cluster.leader();
      await proposeMany(cluster, 3);
      await member.stop();
      await member.disk.rename("/raft/CURRENT", "/raft/moved");
      await expectReason("DATA_CORRUPT", () => member.start());
      await member.disk.rename("/raft/moved", "/raft/CURRENT");
      await member.disk.remove("/raft/log");
      await expectReason("DATA_CORRUPT", () => member.start());
      member.consensus = undefined;
    });

    it("makes the leader hand over at once when it is full, and take part again when there is space", async () => {
      cluster = new TestCluster(3);
      await cluster.start();
      const leader = await cluster.leader();
      await proposeMany(cluster, 3);
      expect(leader.live.problems()).to.deep.equal([]);
      leader.disk.capacityBytes = leader.disk.usedBytes + 10;
      const others = cluster.followers(leader);
      others[0]?.live.propose(utf8("a=1")).catch(() => undefined);

      await cluster.clock.advanceUntil(
        "another leader",
        () => others.some((member) => member.live.role() === "leader"),
        2000,
        5,
      );

      expect(leader.live.problems().join(" ")).to.include("disk is full");
      await cluster.run(must(others[1], "a follower").live.propose(utf8("b=2")));
      // It neither leads nor tries to, and what it has can be read.
      await cluster.clock.advance(10_000);
      expect(leader.live.role()).to.equal("follower");
      expect(leader.valueOf("k2")).to.equal("2");
      const { term } = must(others[0], "a follower").live.status();
      leader.disk.capacityBytes = 1e9;
      await cluster.clock.advance(3000);
      expect(leader.live.problems()).to.deep.equal([]);
      expect(leader.valueOf("b")).to.equal("2");
      expect(must(others[0], "a follower").live.status().term).to.equal(term);
      for (const member of cluster.members) expect(member.failures).to.deep.equal([]);
    });

    it("does not have the state flushed while there is hardly any space, one byte below the bound and not at it", async () => {
      cluster = new TestCluster(1, { tuning: { storeFlushIntervalMs: 500 } });
      await cluster.start();
      const member = await cluster.leader();
      // The log grows, and its notes; the bound is compared with what is free then.
      const leave = (freeBytes: number): void => {
        member.disk.capacityBytes = member.disk.usedBytes + freeBytes;
      };
      await proposeMany(cluster, 5);
      await cluster.clock.advance(3000);
      const flushed = member.live.status().flushedIndex;
      expect(flushed).to.equal(member.live.appliedIndex());

      leave(FLUSH_FREE_BYTES_MIN - 1);
      await proposeMany(cluster, 5, "b");
      await cluster.clock.advance(3000);
      expect(member.live.status().flushedIndex).to.equal(flushed);
      expect(member.failures).to.deep.equal([]);

      leave(FLUSH_FREE_BYTES_MIN);
      await cluster.clock.advance(3000);
      expect(member.live.status().flushedIndex).to.equal(member.live.appliedIndex());
    });

    it("that is full in the middle of a flush ends nobody: the state is flushed once there is space", async () => {
      cluster = new TestCluster(1, { tuning: SHORT_LOG });
      await cluster.start();
      const member = await cluster.leader();
      await proposeMany(cluster, 5);
      await cluster.clock.advance(3000);
      const { flushedIndex, firstIndex } = member.live.status();

      member.flushError = new StoreFullError("/stores/state");
      await proposeMany(cluster, 200, "b");
      await cluster.clock.advance(5000);
      expect(member.live.status()).to.include({ flushedIndex, firstIndex });
      expect(member.failures).to.deep.equal([]);
      await member.stop();
      member.flushError = undefined;
      await member.start();
      await cluster.leader();
      await proposeMany(cluster, 1, "c");
      await cluster.clock.advance(5000);

      expect(member.live.status().flushedIndex).to.equal(member.live.appliedIndex());
      expect(member.valueOf("b199")).to.equal("199");
    });

    it("leaves nothing half written when it is full, and keeps the log that a snapshot was to replace", async () => {
      const away = await leaveBehind();
      const leader = await cluster.leader();
      const first = leader.live.status().firstIndex;
      leader.disk.capacityBytes = leader.disk.usedBytes + 200;
      await away.start();
      await cluster.clock.advance(1000);

      expect(leader.disk.filesBelow("/raft").filter((path) => /dump|tmp/.test(path))).to.deep.equal([]);
      expect(leader.live.status().firstIndex).to.equal(first);

      leader.disk.capacityBytes = 1e9;
      await cluster.clock.advance(10_000);
      expect(away.valueOf("r4-59")).to.equal("59");
    });

    it("is refused when it belongs to another cluster", async () => {
      cluster = new TestCluster(1);
      await cluster.start();
      const member = await cluster.leader();
      await member.stop();
      member.overrides = { clusterId: "cluster-b" };
      await expectReason("DATA_CORRUPT", () => member.start());
      member.consensus = undefined;
    });
  });

  describe("the state", () => {
    it("that differs from the majority's stops the member that is wrong, loudly", async () => {
      cluster = new TestCluster(3, { tuning: { stateHashIntervalMs: 1000 } });
      await cluster.start();
      const leader = await cluster.leader();
      const wrong = must(cluster.followers(leader)[1], "a follower");
      wrong.stateMachine.corruptPrefix = "bad";
      await proposeMany(cluster, 3, "good");
      await cluster.clock.advance(3000);
      expect(wrong.failures).to.deep.equal([]);

      await proposeMany(cluster, 1, "bad");
      await cluster.clock.advance(3000);

      expect(wrong.failures.length).to.equal(1);
      await expectReason("DATA_CORRUPT", () => {
        throw must(wrong.failures[0], "a failure");
      });
      for (const member of cluster.followers(wrong)) expect(member.failures).to.deep.equal([]);
    });

    it("that differs stops a wrong leader too", async () => {
      cluster = new TestCluster(3, { tuning: { stateHashIntervalMs: 1000 } });
      await cluster.start();
      const leader = await cluster.leader();
      leader.stateMachine.corruptPrefix = "bad";

      await proposeMany(cluster, 1, "bad");
      await cluster.clock.advance(3000);

      expect(leader.failures.length).to.equal(1);
      const next = cluster.followers(leader).filter((member) => member.failures.length === 0);
      expect(next.length).to.equal(2);
    });

    it("is replayed from the log when the store lost what was not flushed", async () => {
      cluster = new TestCluster(3, { tuning: SHORT_LOG });
      await cluster.start();
      await proposeMany(cluster, 120);
      for (const member of cluster.members) member.crash();
      await cluster.start();
      await cluster.leader();
      await cluster.clock.advance(500);

      for (const member of cluster.members) expect(member.valueOf("k119")).to.equal("119");
      expect(new Set(cluster.members.map(hashOf)).size).to.equal(1);
    });
  });

  describe("bounds", () => {
    it("refuse a proposal above the count, and take it below", async () => {
      cluster = new TestCluster(3, { tuning: { proposalCountMax: 3, readCountMax: 2 } });
      await cluster.start();
      const leader = await cluster.leader();
      cluster.isolate(leader.id);
      for (let at = 0; at < 3; at += 1)
        leader.live.propose(utf8("a=1"), { timeoutMs: 300 }).catch(() => undefined);
      for (let at = 0; at < 2; at += 1) leader.live.linearize({ timeoutMs: 300 }).catch(() => undefined);

      await expectReason("OVERLOADED", () => leader.live.propose(utf8("a=1")));
      await expectReason("OVERLOADED", () => leader.live.linearize());
      await cluster.clock.advance(400);
      cluster.heal();
      await cluster.clock.advance(2000);
      await cluster.run((await cluster.leader()).live.propose(utf8("a=1")));
    });

    it("refuse a command above the size, and take one of it", async () => {
      cluster = new TestCluster(1);
      await cluster.start();
      const leader = await cluster.leader();
      const command = new Uint8Array(1024 * 1024).fill(0x3d);
      await cluster.run(leader.live.propose(command));
      await expectReason("PAYLOAD_TOO_LARGE", () => leader.live.propose(new Uint8Array(1024 * 1024 + 1)));
    });
  });

  it("keeps every acknowledged write and one order of them through random crashes and cuts", async function () {
    this.timeout(60_000);
    for (const seed of [1, 2, 3, 4]) {
      cluster = new TestCluster(3, { seed, tuning: SHORT_LOG });
      for (const member of cluster.members) {
        member.overrides = { logSegmentSizeBytes: 4000, logCacheSizeBytesMax: 3000 };
      }
      await cluster.start();
      await runRandomFaults(cluster, seed);
      await cluster.stop();
    }
  });
});

/** Makes the syncs of a member's log wait; returns what lets them go on. */
function stick(member: TestMember): () => void {
  const gate = deferred<void>();
  member.disk.onOperation = (operation, path) =>
    operation === "sync" && path.includes("log") ? gate.promise : undefined;
  return () => {
    member.disk.onOperation = undefined;
    gate.resolve();
  };
}

/** Crashes the member at a later operation of its disk. */
function crashSoon(member: TestMember, operations: number): void {
  let left = operations;
  member.disk.onOperation = () => {
    left -= 1;
    if (left === 0) member.crash();
    return undefined;
  };
}

async function runRandomFaults(cluster: TestCluster, seed: number): Promise<void> {
  const prng = new SeededPrng(seed);
  const lossPercent = prng.below(20);
  cluster.allows = () => prng.below(100) >= lossPercent;
  cluster.announcesBreaks = prng.below(2) === 0;
  const acknowledged = new Map<string, string>();
  let count = 0;
  for (let round = 0; round < 25; round += 1) {
    const live = cluster.members.filter((member) => member.consensus !== undefined);
    for (let at = 0; at < 10; at += 1) {
      count += 1;
      const name = `n${count}`;
      const value = String(count);
      must(live[prng.below(live.length)], "one lives")
        .live.propose(utf8(`${name}=${value}`), { timeoutMs: 1500 })
        .then(
          () => acknowledged.set(name, value),
          () => undefined,
        );
    }
    await cluster.clock.advance(prng.below(400));
    const victim = cluster.member(1 + prng.below(3));
    const action = prng.below(6);
    if (action === 0) victim.crash();
    else if (action === 1) cluster.isolate(victim.id);
    else if (action === 2) cluster.heal();
    else if (action === 3) crashSoon(victim, 1 + prng.below(40));
    await cluster.clock.advance(prng.below(800));
    for (const member of cluster.members) {
      member.disk.onOperation = undefined;
      if (member.consensus === undefined) await member.start();
    }
  }
  cluster.heal();
  cluster.allows = () => true;
  await cluster.leader(20_000);
  await cluster.clock.advance(5000);
  const leader = await cluster.leader();
  await cluster.run(leader.live.linearize());
  for (const [name, value] of acknowledged)
    expect(leader.valueOf(name), `seed=${seed} ${name}`).to.equal(value);
  expect(acknowledged.size, `seed=${seed}`).to.be.above(40);
  expect(new Set(cluster.members.map(hashOf)).size, `seed=${seed}`).to.equal(1);
  for (const member of cluster.members) expect(member.failures, `seed=${seed}`).to.deep.equal([]);
}
