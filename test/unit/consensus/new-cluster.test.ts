// Goal: the cluster that one survivor founds has everything in its log, refuses the old one, and leaves the old data alone.
// Method: members in one process under a fake clock; the data of one, whose state was not flushed, made into a new cluster.
import { expect } from "chai";
import { makeNewCluster, surveySurvivor, type SurvivorOptions } from "../../../src/consensus/new-cluster.ts";
import { must } from "../../../src/std/assert.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { MemoryOrderedStoreProvider } from "../../../src/std/memory-ordered-store.ts";
import { TestCluster, type TestMember } from "../../support/consensus-cluster.ts";
import { expectReason } from "../../support/expect-reason.ts";

describe("A new cluster from one survivor", function () {
  this.timeout(20_000);
  let cluster: TestCluster;

  afterEach(async () => {
    await cluster.stop();
  });

  function optionsOf(member: TestMember): SurvivorOptions<string> {
    return {
      disk: member.disk,
      clock: cluster.clock,
      memberId: member.id,
      initialVoters: cluster.ids,
      stateMachine: member.stateMachine,
      from: { directory: "/raft", stores: member.stores, clusterId: "cluster-a" },
    };
  }

  /** A follower that crashed with entries that its state does not hold yet. */
  async function survivor(): Promise<TestMember> {
    cluster = new TestCluster(3, { tuning: { storeFlushIntervalMs: 60_000 } });
    await cluster.start();
    const leader = await cluster.leader();
    const names = Array.from({ length: 30 }, (_, at) => `k${at}`);
    await cluster.run(Promise.all(names.map((name) => leader.live.propose(utf8(`${name}=${name}`)))));
    await cluster.clock.advance(2000);
    const member = must(cluster.followers(leader)[0], "a follower");
    member.crash();
    for (const other of cluster.members) await other.stop();
    return member;
  }

  it("has everything that was in the log, alone, in a later term, and takes changes", async () => {
    const member = await survivor();
    const before = member.disk.filesBelow("/raft");
    const survey = await surveySurvivor(optionsOf(member), () => "seen");
    expect(survey.seen).to.equal("seen");
    expect(survey.last.index).to.be.at.least(31);
    const stores = new MemoryOrderedStoreProvider();
    const to = { directory: "/new", stores, clusterId: "cluster-b" };

    await makeNewCluster({ ...optionsOf(member), to }, (transaction) => {
      transaction.put(Buffer.concat([Uint8Array.of(1), utf8("edited")]), utf8("yes"));
    });

    expect(member.disk.filesBelow("/raft")).to.deep.equal(before);
    member.overrides = { directory: "/new", stores, clusterId: "cluster-b" };
    await member.start();
    await cluster.clock.advanceUntil("it leads", () => member.live.role() === "leader", 5000, 5);
    expect(member.live.status().term).to.be.above(survey.term);
    expect(member.live.status().config.voters).to.deep.equal([member.id]);
    await cluster.run(member.live.propose(utf8("more=1")));
    for (let at = 0; at < 30; at += 1) expect(member.valueOf(`k${at}`)).to.equal(`k${at}`);
    expect(member.valueOf("edited")).to.equal("yes");
    await expectReason("WRONG_CLUSTER", () => {
      member.live.step({ from: 2, to: member.id } as never, "cluster-a");
    });
    await member.stop();
    await member.start();
    expect(member.live.isRebuilding()).to.equal(false);
    expect(member.valueOf("more")).to.equal("1");
  });

  it("is not made from a member whose log is damaged, or may lack what it acknowledged", async () => {
    const member = await survivor();
    const bytes = member.disk.contentOf("/raft/log/0000000001.seg");
    member.disk.flipBit("/raft/log/0000000001.seg", 500);
    await expectReason("DATA_CORRUPT", () => surveySurvivor(optionsOf(member), () => undefined));
    member.disk.overwrite("/raft/log/0000000001.seg", bytes);
    member.disk.flipBit("/raft/PROMISES", 20);
    const error = await expectReason("DATA_CORRUPT", () =>
      surveySurvivor(optionsOf(member), () => undefined),
    );
    expect(String(error)).to.include("another surviving member");
  });
});
