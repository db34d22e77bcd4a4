// Goal: members come, go and are replaced while the group serves, and a crash in the middle of any step loses nothing.
// Method: members in one process under a fake clock; changes proposed at the leader; outcomes only.
import { expect } from "chai";
import type { ConfChangeStep, ConfState } from "../../../src/raft/types.ts";
import { must } from "../../../src/std/assert.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { TestCluster, type TestMember } from "../../support/consensus-cluster.ts";
import { expectReason } from "../../support/expect-reason.ts";

const SHORT_LOG = { logEntryCountMax: 50, logKeepEntryCount: 10, storeFlushIntervalMs: 1000 };

const step = (kind: ConfChangeStep["kind"], memberId: number): ConfChangeStep => ({ kind, memberId });

describe("Membership in consensus", function () {
  this.timeout(60_000);
  let cluster: TestCluster;

  afterEach(async () => {
    for (const member of cluster.members) expect(member.failures, `member ${member.id}`).to.deep.equal([]);
    await cluster.stop();
  });

  async function startCluster(count = 3, tuning = {}): Promise<void> {
    cluster = new TestCluster(count, { tuning });
    await cluster.start();
    await cluster.leader();
  }

  /** Proposes a change at whoever leads. */
  async function change(
    steps: readonly ConfChangeStep[],
    transition: "auto" | "joint-implicit" | "joint-explicit" = "auto",
  ): Promise<ConfState> {
    const leader = await cluster.leader();
    return await cluster.run(leader.live.changeMembership({ transition, steps }));
  }

  async function put(count: number, prefix = "k"): Promise<void> {
    const leader = await cluster.leader();
    const work = Array.from({ length: count }, (_, i) => leader.live.propose(utf8(`${prefix}${i}=${i}`)));
    await cluster.run(Promise.all(work));
  }

  async function until(what: string, condition: () => boolean): Promise<void> {
    await cluster.clock.advanceUntil(what, condition, 10_000, 5);
  }

  const voters = (member: TestMember): readonly number[] => member.live.confState().voters;

  it("takes a member in as a learner, lets it catch up, and counts it once it votes", async () => {
    await startCluster();
    await put(20);
    const added = cluster.addMember();
    await added.start();

    const learning = await change([step("add-learner", 4)]);
    expect(learning).to.deep.include({ voters: [1, 2, 3], learners: [4] });
    await until("it has caught up", () => added.valueOf("k19") === "19");
    expect(voters(added)).to.deep.equal([1, 2, 3]);
    await cluster.run(added.live.linearize());
    await change([step("add-voter", 4)]);
    await put(1, "after");
    await until("it knows that it votes", () => voters(added).includes(4));

    // With four voters three are needed: two alone commit nothing.
    const leader = await cluster.leader();
    for (const other of cluster.followers(leader).slice(0, 2)) cluster.isolate(other.id);
    const alone = leader.live.propose(utf8("two=2"), { timeoutMs: 300 });
    await expectReason("COMMIT_OUTCOME_UNKNOWN", () => cluster.run(alone));
    cluster.heal();
  });

  it("gives a member that joins late a snapshot that carries the configuration", async () => {
    cluster = new TestCluster(3, { tuning: SHORT_LOG });
    for (const member of cluster.members) member.overrides = { logSegmentSizeBytes: 4000 };
    await cluster.start();
    const first = await cluster.leader();
    await change([step("remove", must(cluster.followers(first)[0], "a follower").id)]);
    const left = voters(await cluster.leader());
    for (let round = 0; round < 5; round += 1) {
      await put(60, `r${round}-`);
      await cluster.clock.advance(300);
    }
    expect((await cluster.leader()).live.status().firstIndex, "the log was cut").to.be.above(100);

    const added = cluster.addMember();
    await added.start();
    await change([step("add-learner", 4)]);
    await until("it has caught up", () => added.valueOf("r4-59") === "59");

    expect(cluster.counts.get("snapshot")).to.equal(1);
    expect(voters(added)).to.deep.equal(left);
    added.crash();
    await added.start();
    expect(voters(added), "after a restart").to.deep.equal(left);
    expect(added.live.confState().learners).to.deep.equal([4]);
  });

  it("refuses a second change while one is not applied, and takes it afterwards", async () => {
    await startCluster();
    cluster.addMember();
    cluster.addMember();
    const leader = await cluster.leader();
    const first = leader.live.changeMembership({ transition: "auto", steps: [step("add-learner", 4)] });
    const second = leader.live.changeMembership({ transition: "auto", steps: [step("add-learner", 5)] });

    await expectReason("MEMBERSHIP_CHANGE_IN_PROGRESS", () => second);
    await cluster.run(first);
    expect((await change([step("add-learner", 5)])).learners).to.deep.equal([4, 5]);
  });

  it("refuses a change at a follower, and one that does not fit", async () => {
    await startCluster();
    const leader = await cluster.leader();
    const follower = must(cluster.followers(leader)[0], "a follower");
    const asked = follower.live.changeMembership({ transition: "auto", steps: [step("remove", leader.id)] });
    await expectReason("NOT_LEADER", () => asked);
    const twoAtOnce = leader.live.changeMembership({ transition: "auto", steps: [] });
    await expectReason("MEMBERSHIP_CHANGE_IN_PROGRESS", () => twoAtOnce);
  });

  it("lets a removed leader step down, and the others go on", async () => {
    await startCluster();
    const removed = await cluster.leader();
    await change([step("remove", removed.id)]);
    expect(removed.live.role()).to.equal("follower");

    await until("another leads", () => cluster.followers(removed).some((m) => m.live.role() === "leader"));
    const next = await cluster.leader();
    expect(next).to.not.equal(removed);
    await put(3, "after");
    const { term } = next.live.status();
    await cluster.clock.advance(10_000);
    expect(next.live.status().term, "the removed one starts no elections").to.equal(term);
    expect(next.live.role()).to.equal("leader");
  });

  it("is not disturbed by a removed follower that never heard of it", async () => {
    await startCluster();
    const leader = await cluster.leader();
    const removed = must(cluster.followers(leader)[0], "a follower");
    cluster.isolate(removed.id);
    await change([step("remove", removed.id)]);
    await cluster.clock.advance(5000);
    const { term } = leader.live.status();
    cluster.heal();
    await cluster.clock.advance(10_000);

    expect(leader.live.role()).to.equal("leader");
    expect(leader.live.status().term).to.equal(term);
    expect(voters(removed), "it does not know").to.deep.equal([1, 2, 3]);
  });

  it("replaces a dead member in one joint change that ends by itself", async () => {
    await startCluster();
    const leader = await cluster.leader();
    const dead = must(cluster.followers(leader)[0], "a follower");
    dead.crash();
    const added = cluster.addMember();
    await added.start();
    await change([step("add-learner", 4)]);
    await change([step("add-voter", 4), step("remove", dead.id)], "joint-implicit");
    await until("the joint configuration is left", () => leader.live.confState().votersOutgoing.length === 0);

    expect(voters(leader)).to.deep.equal([1, 2, 3, 4].filter((id) => id !== dead.id));
    await put(5, "after");
    await until("it has everything", () => added.valueOf("after4") === "4");
  });

  it("stays in an explicit joint configuration, over a restart of all, until it is told to leave", async () => {
    await startCluster();
    const added = cluster.addMember();
    await added.start();
    await change([step("add-learner", 4)]);
    const joint = await change([step("add-voter", 4), step("remove", 1)], "joint-explicit");
    expect(joint).to.deep.include({ voters: [2, 3, 4], votersOutgoing: [1, 2, 3], autoLeave: false });
    await put(3, "joint");
    await until("all know", () =>
      cluster.members.every((m) => m.live.confState().votersOutgoing.length === 3),
    );

    for (const member of cluster.members) member.crash();
    for (const member of cluster.members) await member.start();
    expect((await cluster.leader()).live.confState()).to.deep.include({ votersOutgoing: [1, 2, 3] });
    await put(3, "again");
    const left = await change([], "auto");

    expect(left).to.deep.include({ voters: [2, 3, 4], votersOutgoing: [] });
    await put(3, "left");
  });

  it("hands leadership to the voter that is asked for, and not to a learner", async () => {
    await startCluster();
    const added = cluster.addMember();
    await added.start();
    await change([step("add-learner", 4)]);
    const leader = await cluster.leader();
    const heir = must(cluster.followers(leader)[1], "a follower");
    await expectReason("ARGUMENT_INVALID", () => leader.live.transferLeadership(4));
    await cluster.run(leader.live.transferLeadership(heir.id));
    expect(heir.live.role()).to.equal("leader");
    await put(2, "after");
  });

  for (const delayMs of [0, 1, 2, 3, 5, 8, 20, 60]) {
    it(`ends a replacement whose leader crashes ${delayMs} ms after it was proposed, one way or the other`, async () => {
      await startCluster();
      const added = cluster.addMember();
      await added.start();
      await change([step("add-learner", 4)]);
      await put(5);
      const leader = await cluster.leader();
      const former = must(cluster.followers(leader)[0], "a follower").id;
      const steps = [step("add-voter", 4), step("remove", former)];
      void leader.live.changeMembership({ transition: "joint-implicit", steps }).catch(() => undefined);
      await cluster.clock.advance(delayMs);
      leader.crash();

      await until("another leads", () =>
        cluster.members.some((m) => m.consensus?.role() === "leader" && m.live.status().hasCommittedInTerm),
      );
      await leader.start();
      await until("nothing is joint", () =>
        cluster.members.every((m) => m.live.confState().votersOutgoing.length === 0),
      );
      await put(3, "after");
      const after = voters(await cluster.leader());
      expect([[1, 2, 3].join(), [1, 2, 3, 4].filter((id) => id !== former).join()]).to.include(after.join());
    });
  }
});
