// Goal: what Consensus promises to its callers holds over restarts, crashes, partitions and slow disks.
// Method: members in one process under a fake clock (test/support/consensus-cluster.ts); outcomes only.
import { expect } from "chai";
import { utf8 } from "../../../src/std/bytes.ts";
import { TestCluster } from "../../support/consensus-cluster.ts";
import { expectReason } from "../../support/expect-reason.ts";

describe("Consensus", function () {
  this.timeout(10_000);
  let cluster: TestCluster;

  afterEach(async () => {
    await cluster.stop();
  });

  describe("with one member", () => {
    it("applies a proposal and answers what the state machine says", async () => {
      cluster = new TestCluster(1);
      await cluster.start();
      const leader = await cluster.leader();

      const first = await cluster.run(leader.live.propose(utf8("a=1")));
      const second = await cluster.run(leader.live.propose(utf8("a=2")));

      expect([first.result, second.result]).to.deep.equal(["", "1"]);
      expect(leader.valueOf("a")).to.equal("2");
      expect(second.index).to.equal(leader.live.appliedIndex());
    });

    it("has its state again after a restart", async () => {
      cluster = new TestCluster(1);
      await cluster.start();
      const leader = await cluster.leader();
      await cluster.run(leader.live.propose(utf8("a=1")));

      await leader.stop();
      await leader.start();
      await cluster.leader();

      expect(leader.valueOf("a")).to.equal("1");
    });

    it("has everything it acknowledged after a crash that loses what was not synced", async () => {
      cluster = new TestCluster(1);
      await cluster.start();
      const leader = await cluster.leader();
      for (let i = 0; i < 20; i += 1) await cluster.run(leader.live.propose(utf8(`k${i}=${i}`)));

      leader.crash();
      await leader.start();
      await cluster.leader();

      for (let i = 0; i < 20; i += 1) expect(leader.valueOf(`k${i}`)).to.equal(String(i));
    });
  });

  describe("with three members", () => {
    beforeEach(async () => {
      cluster = new TestCluster(3);
      await cluster.start();
    });

    it("applies a proposal of any member everywhere", async () => {
      const leader = await cluster.leader();
      const [follower] = cluster.followers(leader);

      await cluster.run(leader.live.propose(utf8("a=1")));
      const { result } = await cluster.run(must(follower).live.propose(utf8("a=2")));
      await cluster.clock.advance(300);

      expect(result).to.equal("1");
      for (const member of cluster.members) expect(member.valueOf("a")).to.equal("2");
      expect(cluster.counts.get("forwarded")).to.equal(1);
    });

    it("lets a follower read what was acknowledged elsewhere", async () => {
      const leader = await cluster.leader();
      const follower = must(cluster.followers(leader)[0]);
      await cluster.run(leader.live.propose(utf8("a=1")));

      await cluster.run(follower.live.linearize());

      expect(follower.valueOf("a")).to.equal("1");
    });

    it("serves many reads with few rounds", async () => {
      const leader = await cluster.leader();
      const follower = must(cluster.followers(leader)[0]);
      cluster.counts.clear();

      await cluster.run(Promise.all(Array.from({ length: 200 }, () => follower.live.linearize())));

      expect(cluster.counts.get("read-index") ?? 0).to.be.at.most(2);
    });

    it("takes thousands of proposals at once in few syncs", async () => {
      const leader = await cluster.leader();
      const before = leader.disk.countOf("sync");

      const work = Array.from({ length: 3000 }, (_, i) => leader.live.propose(utf8(`k${i}=${i}`)));
      await cluster.run(Promise.all(work));

      expect(leader.disk.countOf("sync") - before).to.be.at.most(20);
    });

    it("elects another leader soon after the leader's process died, and loses nothing", async () => {
      const leader = await cluster.leader();
      await cluster.run(leader.live.propose(utf8("a=1")));
      const startMs = cluster.clock.monotonicMs();

      leader.crash();
      const next = await cluster.leader();
      await cluster.run(next.live.propose(utf8("b=2")));

      expect(cluster.clock.monotonicMs() - startMs).to.be.below(300);
      expect([next.valueOf("a"), next.valueOf("b")]).to.deep.equal(["1", "2"]);
      await leader.start();
      await cluster.clock.advance(1000);
      expect(leader.valueOf("b")).to.equal("2");
    });

    it("elects another leader when the leader falls silent", async () => {
      const leader = await cluster.leader();
      cluster.isolate(leader.id);

      await cluster.clock.advanceUntil("another leader", () =>
        cluster.members.some((member) => member !== leader && member.live.role() === "leader"),
      );
      await cluster.clock.advance(1500);

      expect(leader.live.role()).not.to.equal("leader");
    });

    it("does not depose a healthy leader when one follower's connection to it breaks", async () => {
      const leader = await cluster.leader();
      const follower = must(cluster.followers(leader)[0]);
      const { term } = leader.live.status();

      follower.live.peerDisconnected(leader.id);
      await cluster.clock.advance(2000);

      expect(leader.live.status().term).to.equal(term);
      expect(follower.live.leaderId()).to.equal(leader.id);
    });

    it("says that the outcome is unknown when the leader is cut off after it appended", async () => {
      const leader = await cluster.leader();
      cluster.isolate(leader.id);

      await expectReason("COMMIT_OUTCOME_UNKNOWN", () =>
        cluster.run(leader.live.propose(utf8("a=lost"), { timeoutMs: 400 })),
      );
    });

    it("proposes again what was certainly lost with its leader", async () => {
      const leader = await cluster.leader();
      cluster.isolate(leader.id);
      const work = leader.live.propose(utf8("a=1"), { timeoutMs: 20_000 });
      await cluster.clock.advanceUntil("another leader", () =>
        cluster.members.some((member) => member !== leader && member.live.role() === "leader"),
      );
      await cluster.clock.advance(500);

      cluster.heal();
      const { result } = await cluster.run(work, 20_000);

      expect(result).to.equal("");
      expect(leader.valueOf("a")).to.equal("1");
    });

    it("answers NO_LEADER, certainly not done, when there is none", async () => {
      const leader = await cluster.leader();
      const [first, second] = cluster.followers(leader);
      must(first).crash();
      must(second).crash();
      await cluster.clock.advance(2000);

      await expectReason("NO_LEADER", () =>
        cluster.run(leader.live.propose(utf8("a=1"), { timeoutMs: 500 })),
      );
      await expectReason("NO_LEADER", () => cluster.run(leader.live.linearize({ timeoutMs: 500 })));
    });

    it("does not let a cut-off leader answer a read", async () => {
      const leader = await cluster.leader();
      cluster.isolate(leader.id);

      await expectReason("NO_LEADER", () => cluster.run(leader.live.linearize({ timeoutMs: 400 })));
    });

    it("hands leadership over when asked", async () => {
      const leader = await cluster.leader();
      const follower = must(cluster.followers(leader)[0]);

      await cluster.run(leader.live.transferLeadership(follower.id));

      expect((await cluster.leader()).id).to.equal(follower.id);
    });

    it("refuses messages of another cluster", async () => {
      const leader = await cluster.leader();
      await expectReason("WRONG_CLUSTER", () =>
        Promise.resolve().then(() =>
          leader.live.receiveStateHash(
            { from: 2, index: 1, term: 1, hash: new Uint8Array(8), request: false },
            "cluster-b",
          ),
        ),
      );
    });
  });
});

function must<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("missing");
  return value;
}
