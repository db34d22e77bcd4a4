// Goal: an empty log never votes under a member id that was used: whatever part of a member's data is lost, it does not start.
// Method: members in one process; parts of their data removed between two starts; crashes while the data is made.
import { expect } from "chai";
import { utf8 } from "../../../src/std/bytes.ts";
import { deferred } from "../../../src/std/deferred.ts";
import { must } from "../../../src/std/assert.ts";
import { TestCluster, type TestMember } from "../../support/consensus-cluster.ts";
import { expectReason } from "../../support/expect-reason.ts";

async function write(cluster: TestCluster, name: string): Promise<void> {
  const leader = await cluster.leader();
  await cluster.run(leader.live.propose(utf8(`${name}=1`)));
}

/** A mark that is never made. */
function never(): Promise<void> {
  return deferred<undefined>().promise;
}

/** Parts of the data of a member, and how each is lost. */
const PARTS: Readonly<Record<string, (member: TestMember) => Promise<void>>> = {
  log: async (member) => {
    for (const name of await member.disk.list("/raft/log")) await member.disk.remove(`/raft/log/${name}`);
    await member.disk.remove("/raft/log");
  },
  CURRENT: (member) => member.disk.remove("/raft/CURRENT"),
  stores: async (member) => {
    for (const name of await member.stores.list()) await member.stores.remove(name);
  },
};

describe("openStorage", function () {
  this.timeout(10_000);
  let cluster: TestCluster;

  afterEach(async () => {
    await cluster.stop();
  });

  /** A member that took part and was stopped. */
  async function stopped(): Promise<TestMember> {
    cluster = new TestCluster(1);
    await cluster.start();
    const member = await cluster.leader();
    await write(cluster, "kept");
    await member.stop();
    return member;
  }

  async function lose(member: TestMember, parts: readonly string[]): Promise<void> {
    for (const part of parts) await must(PARTS[part], part)(member);
  }

  async function expectRefused(member: TestMember, text = ""): Promise<void> {
    const error = await expectReason("DATA_CORRUPT", () => member.start());
    expect(String(error)).to.include(text);
    member.consensus = undefined;
  }

  const combinations = [
    ["log"],
    ["CURRENT"],
    ["stores"],
    ["log", "CURRENT"],
    ["log", "stores"],
    ["CURRENT", "stores"],
    ["log", "CURRENT", "stores"],
  ];
  for (const parts of combinations) {
    it(`refuses a member that has started and lost ${parts.join(" and ")}, at every start`, async () => {
      const member = await stopped();
      await lose(member, parts);

      await expectRefused(member);
      await expectRefused(member);
    });
  }

  for (const parts of combinations.filter((each) => each.length < 3)) {
    it(`refuses the loss of ${parts.join(" and ")} without the mark too, at every start`, async () => {
      const member = await stopped();
      await lose(member, parts);
      member.isStarted = false;

      await expectRefused(member);
      await expectRefused(member);
    });
  }

  it("says what is missing, makes nothing and removes no store", async () => {
    const member = await stopped();
    await lose(member, ["log", "CURRENT"]);
    const missing = "/raft/log and /raft/CURRENT are gone";

    await expectRefused(member, `${missing}, and it has taken part`);
    member.isStarted = false;
    await expectRefused(member, `${missing}, but there is the store state-1`);

    expect(await member.stores.list()).to.deep.equal(["state-1"]);
    expect(await member.disk.exists("/raft/log")).to.equal(false);
    expect(await member.disk.exists("/raft/CURRENT")).to.equal(false);
  });

  it("refuses a store of a later generation beside a log that is still empty", async () => {
    cluster = new TestCluster(1);
    const member = must(cluster.members[0], "a member");
    member.overrides = { onCreated: never };
    void member.start();
    await cluster.clock.advance(100);
    member.crash();
    await member.disk.remove("/raft/CURRENT");
    await (await member.stores.open("state-2")).close();

    member.overrides = {};
    await expectRefused(member, "/raft/CURRENT is gone, but there is the store state-2");
    expect(await member.stores.list()).to.include("state-2");
  });

  it("takes no part until the mark is durable, and begins again after a crash before it", async () => {
    cluster = new TestCluster(1);
    const member = must(cluster.members[0], "a member");
    member.overrides = { onCreated: never };
    void member.start();
    await cluster.clock.advance(60_000);
    expect(member.live.leaderId()).to.equal(undefined);
    expect(await member.disk.exists("/raft/CURRENT")).to.equal(true);
    member.crash();

    member.overrides = {};
    await member.start();
    expect(member.isStarted).to.equal(true);
    await write(cluster, "a");
    expect(member.valueOf("a")).to.equal("1");
  });

  it("does not start when the mark cannot be made, and starts once it can", async () => {
    cluster = new TestCluster(1);
    const member = must(cluster.members[0], "a member");
    const failure = new Error("the disk is full");
    member.overrides = { onCreated: () => Promise.reject(failure) };
    const error = await member.start().catch((reason: unknown) => reason);
    expect(error).to.equal(failure);
    await member.stop();

    member.overrides = {};
    await member.start();
    await write(cluster, "a");
  });

  it("begins after a crash at any operation of the disk while the data is made", async () => {
    let crashes = 0;
    for (let operation = 1; ; operation += 1) {
      cluster = new TestCluster(1);
      const member = must(cluster.members[0], "a member");
      let count = 0;
      member.disk.onOperation = () => {
        count += 1;
        if (count === operation) member.crash();
        return undefined;
      };
      void member.start();
      await cluster.clock.advance(0);
      member.disk.onOperation = undefined;
      if (member.isStarted) break;
      crashes += 1;
      await member.start();
      await write(cluster, "a");
      expect(member.valueOf("a"), `operation ${operation}`).to.equal("1");
      await cluster.stop();
    }
    expect(crashes).to.be.above(10);
  });

  it("keeps what was acknowledged when a member lost its data while another one is away", async () => {
    cluster = new TestCluster(3);
    await cluster.start();
    const leader = await cluster.leader();
    const [away, wiped] = cluster.followers(leader);
    const late = must(away, "a follower");
    const lost = must(wiped, "another follower");
    await late.stop();
    await write(cluster, "acknowledged");
    await leader.stop();
    await lost.stop();
    await lose(lost, ["log", "CURRENT", "stores"]);

    await late.start();
    await expectRefused(lost);
    await cluster.clock.advance(20_000);
    expect(late.live.role()).to.not.equal("leader");

    await leader.start();
    await cluster.clock.advance(5_000);
    expect((await cluster.leader()).valueOf("acknowledged")).to.equal("1");
  });
});
