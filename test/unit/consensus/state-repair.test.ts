// Goal: a state that is damaged is never served: it is made again from the log, or comes from the others.
// Method: members in one process under a fake clock; records of their stores in memory changed between two starts.
import { expect } from "chai";
import { must } from "../../../src/std/assert.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { TestCluster, type TestMember } from "../../support/consensus-cluster.ts";
import { expectReason } from "../../support/expect-reason.ts";

const SHORT_LOG = { logEntryCountMax: 50, logKeepEntryCount: 10, storeFlushIntervalMs: 500 };

async function write(cluster: TestCluster, from: number, count: number): Promise<void> {
  const leader = await cluster.leader();
  const names = Array.from({ length: count }, (_, at) => `k${from + at}`);
  await cluster.run(Promise.all(names.map((name) => leader.live.propose(utf8(`${name}=${name}`)))));
}

/** Changes a record of the state behind everybody's back. */
async function changeRecord(member: TestMember): Promise<void> {
  const [name] = await member.stores.list();
  const store = await member.stores.open(must(name, "a store"));
  store.transaction((transaction) => transaction.put(Buffer.from("\x01k3"), utf8("wrong")));
  await store.flush();
  await store.close();
}

/** How a state is lost. */
const DAMAGES: Readonly<Record<string, (member: TestMember) => Promise<void>>> = {
  "a record is not what was written": changeRecord,
  "its store is gone": async (member) => {
    for (const name of await member.stores.list()) await member.stores.remove(name);
  },
  "CURRENT is damaged": async (member) => {
    member.disk.flipBit("/raft/CURRENT", 18);
    return Promise.resolve();
  },
  "CURRENT is gone": (member) => member.disk.remove("/raft/CURRENT"),
};

describe("A damaged state", function () {
  this.timeout(20_000);
  let cluster: TestCluster;

  afterEach(async () => {
    await cluster.stop();
  });

  async function expectWhole(member: TestMember, count: number): Promise<void> {
    await cluster.clock.advanceUntil("the whole state", () => !member.live.isRebuilding(), 20_000, 5);
    await cluster.clock.advance(500);
    for (let at = 0; at < count; at += 1) expect(member.valueOf(`k${at}`), `k${at}`).to.equal(`k${at}`);
    await write(cluster, count, 5);
    await cluster.clock.advance(500);
    expect(member.valueOf(`k${count + 4}`)).to.equal(`k${count + 4}`);
    for (const each of cluster.members) expect(each.failures).to.deep.equal([]);
  }

  for (const [name, spoil] of Object.entries(DAMAGES)) {
    it(`is made again from a log that is whole when ${name}, with no help of others`, async () => {
      cluster = new TestCluster(3);
      await cluster.start();
      await write(cluster, 0, 10);
      const victim = must(cluster.followers(await cluster.leader())[0], "a follower");
      await cluster.clock.advance(500);
      await victim.stop();
      await spoil(victim);
      cluster.isolate(victim.id);

      await victim.start();

      expect(victim.live.status().isMending).to.equal(false);
      await cluster.clock.advanceUntil("the whole state", () => !victim.live.isRebuilding(), 5000, 5);
      expect(victim.valueOf("k9")).to.equal("k9");
      cluster.heal();
      await expectWhole(victim, 10);
      await victim.stop();
      await victim.start();
      expect(victim.live.isRebuilding()).to.equal(false);
    });

    it(`comes from the leader when ${name} and the log was cut`, async () => {
      cluster = new TestCluster(3, { tuning: SHORT_LOG });
      for (const member of cluster.members) member.overrides = { logSegmentSizeBytes: 2000 };
      await cluster.start();
      for (let from = 0; from < 120; from += 30) {
        await write(cluster, from, 30);
        await cluster.clock.advance(1000);
      }
      const victim = must(cluster.followers(await cluster.leader())[0], "a follower");
      expect(victim.live.status().firstIndex).to.be.above(10);
      await victim.stop();
      await spoil(victim);

      await victim.start();

      expect(victim.live.status().isMending).to.equal(true);
      expect(victim.live.isRebuilding()).to.equal(true);
      await expectWhole(victim, 120);
    });
  }

  it("comes from the leader when an old copy of its store is in its place and the log was cut", async () => {
    cluster = new TestCluster(3, { tuning: SHORT_LOG });
    for (const member of cluster.members) member.overrides = { logSegmentSizeBytes: 2000 };
    await cluster.start();
    for (let from = 0; from < 120; from += 30) {
      await write(cluster, from, 30);
      await cluster.clock.advance(1000);
    }
    const victim = must(cluster.followers(await cluster.leader())[0], "a follower");
    const [name] = await victim.stores.list();
    await victim.stop();
    expect(victim.stores.spoil(must(name, "a store"), "older", new SeededPrng(1))).to.equal(true);

    await victim.start();

    expect(victim.live.status().isMending).to.equal(true);
    await expectWhole(victim, 120);
  });

  it("comes from the leader over a crash at any operation of the disk", async function () {
    this.timeout(60_000);
    let crashes = 0;
    for (let operation = 1; ; operation += 1) {
      cluster = new TestCluster(3, { tuning: SHORT_LOG });
      for (const member of cluster.members) member.overrides = { logSegmentSizeBytes: 2000 };
      await cluster.start();
      for (let from = 0; from < 90; from += 30) {
        await write(cluster, from, 30);
        await cluster.clock.advance(1000);
      }
      const victim = must(cluster.followers(await cluster.leader())[0], "a follower");
      await victim.stop();
      await changeRecord(victim);
      let count = 0;
      victim.disk.onOperation = () => {
        count += 1;
        if (count === operation) victim.crash();
        return undefined;
      };
      void victim.start().catch(() => undefined);
      await cluster.clock.advance(2000);
      victim.disk.onOperation = undefined;
      const isCrashed = count >= operation;
      if (isCrashed) {
        crashes += 1;
        await victim.start();
      }
      await expectWhole(victim, 90);
      await cluster.stop();
      if (!isCrashed || crashes > 70) break;
    }
    expect(crashes).to.be.above(30);
  });

  it("is refused when there is nobody else", async () => {
    cluster = new TestCluster(1);
    await cluster.start();
    await write(cluster, 0, 10);
    const alone = must(cluster.members[0], "a member");
    await alone.stop();
    await changeRecord(alone);

    await expectReason("DATA_CORRUPT", () => alone.start());
    alone.consensus = undefined;
  });

  it("that a majority found wrong is made anew at the next start", async () => {
    cluster = new TestCluster(3, { tuning: { stateHashIntervalMs: 1000 } });
    await cluster.start();
    await write(cluster, 0, 10);
    const wrong = must(cluster.followers(await cluster.leader())[0], "a follower");
    wrong.stateMachine.corruptPrefix = "k10";
    await write(cluster, 10, 1);
    await cluster.clock.advance(3000);
    expect(wrong.failures.length).to.equal(1);
    await wrong.stop();
    wrong.failures.length = 0;
    wrong.stateMachine.corruptPrefix = undefined;

    await wrong.start();

    await expectWhole(wrong, 11);
  });
});
