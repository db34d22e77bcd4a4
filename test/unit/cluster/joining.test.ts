// Goal: a node joins with a token from an empty directory and only so; removed members and second processes are not talked to;
// members that moved are found.
// Method: the real classes over a disk in memory, a fake clock and answers made up by the test.
import { expect } from "chai";
import { findIdentity } from "../../../src/cluster/bootstrap-identity.ts";
import type { BootstrapReport } from "../../../src/cluster/bootstrap-rule.ts";
import { Bootstrap, type ClusterMembership } from "../../../src/cluster/bootstrap.ts";
import { formatToken } from "../../../src/cluster/join-token.ts";
import type { JoinAnswer } from "../../../src/cluster/join.ts";
import type { JoinRequest } from "../../../src/cluster/membership.ts";
import { PEER_FIND_INTERVAL_MS, PeerFinder } from "../../../src/cluster/peer-finder.ts";
import { PeerGuard } from "../../../src/cluster/peer-guard.ts";
import { DUPLICATE_FORGIVE_MS, DUPLICATE_STOP_MS, Refusals } from "../../../src/cluster/refusals.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { FEATURE_LEVELS } from "../../../src/drive/feature-levels.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { silentLogger } from "../../../src/telemetry/logger.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";

const TOKEN = formatToken({
  clusterId: "cluster-a",
  secret: "0123456789abcdef0123456789abcdef",
  isStorageOnly: false,
});
const FOUNDERS = [
  { memberId: 1, address: "a:1" },
  { memberId: 2, address: "b:1" },
];
const ANSWER: JoinAnswer = {
  cluster: { clusterId: "cluster-a", members: FOUNDERS },
  members: [
    { memberId: 2, address: "b:2" },
    { memberId: 3, address: "c:1" },
  ],
};

describe("A node that joins with a token", () => {
  let clock: FakeClock;
  let disk: MemoryDisk;
  let starts = 0;

  beforeEach(() => {
    clock = new FakeClock();
    disk = new MemoryDisk();
  });

  async function open(
    ask: (address: string, request: JoinRequest) => Promise<JoinAnswer>,
    options: { readonly token?: string; readonly addresses?: readonly string[] } = {},
  ): Promise<Bootstrap> {
    const { token = TOKEN, addresses = ["a:1", "b:1"] } = options;
    const bootstrap = new Bootstrap({
      ...{ disk, directory: "/data", dataNames: ["raft"], nodeId: "node4", address: "d:1", peers: addresses },
      exchange: { ask: () => Promise.reject(new DriveError("PEER_UNREACHABLE", "nobody is asked")) },
      join: { token, ask, addresses: () => Promise.resolve(addresses) },
      ...{ clock, prng: new SeededPrng((starts += 1)), logger: silentLogger },
    });
    await bootstrap.open();
    return bootstrap;
  }

  const refuse = (reason: "JOIN_TOKEN_INVALID" | "MEMBERSHIP_CHANGE_IN_PROGRESS") => (): Promise<never> =>
    Promise.reject(new DriveError(reason, "refused by the test"));

  it("belongs to the cluster of its founders, and knows where the members are", async () => {
    const asked: [string, JoinRequest][] = [];
    const bootstrap = await open((address, request) => {
      asked.push([address, request]);
      return Promise.resolve(ANSWER);
    });
    const membership = await bootstrap.run();
    expect(membership).to.deep.include({ clusterId: "cluster-a", founders: FOUNDERS, isStarted: false });
    expect(membership.contacts.findLast(({ memberId }) => memberId === 2)?.address).to.equal("b:2");
    expect(asked).to.deep.equal([
      [
        "a:1",
        {
          ...{ token: TOKEN, memberId: membership.memberId, nodeId: "node4", address: "d:1" },
          featureLevels: FEATURE_LEVELS,
        },
      ],
    ]);
    expect((await findIdentity(disk, "/data"))?.contacts).to.deep.equal(ANSWER.members);
  });

  it("asks the next node, and again, while the cluster is busy or cannot be reached", async () => {
    const asked: string[] = [];
    const bootstrap = await open((address) => {
      asked.push(address);
      return asked.length < 5 ? refuse("MEMBERSHIP_CHANGE_IN_PROGRESS")() : Promise.resolve(ANSWER);
    });
    let membership: ClusterMembership | undefined;
    void bootstrap.run().then((value) => (membership = value));
    await clock.advance(100);
    expect(bootstrap.waitingReason).to.include("refused by the test");
    await clock.advanceUntil("it has joined", () => membership !== undefined, 5000);
    expect(asked).to.deep.equal(["a:1", "b:1", "a:1", "b:1", "a:1"]);
  });

  it("asks under the same member id after a crash, and not at all once it belongs", async () => {
    const ids: number[] = [];
    const first = await open((_, { memberId }) => {
      ids.push(memberId);
      return new Promise<never>(() => undefined);
    });
    void first.run();
    await clock.advance(1);
    const answer = (_: string, { memberId }: JoinRequest): Promise<JoinAnswer> => {
      ids.push(memberId);
      return Promise.resolve(ANSWER);
    };
    await (await open(answer)).run();
    await (await open(answer)).run();
    expect(ids).to.have.length(2);
    expect(ids[0]).to.equal(ids[1]);
  });

  it("gives up when the token is no good, is for another cluster, or nobody is named to ask", async () => {
    const bootstrap = await open(refuse("JOIN_TOKEN_INVALID"));
    await expectReason("JOIN_TOKEN_INVALID", () => bootstrap.run());
    const garbled = await open(() => Promise.resolve(ANSWER), { token: "garbled" });
    await expectReason("JOIN_TOKEN_INVALID", () => garbled.run());
    const alone = await open(() => Promise.resolve(ANSWER), { addresses: [] });
    await expectReason("CONFIGURATION_INVALID", () => alone.run());
    const other = { ...ANSWER, cluster: { ...ANSWER.cluster, clusterId: "cluster-b" } };
    const misled = await open(() => Promise.resolve(other));
    await expectReason("WRONG_CLUSTER", () => misled.run());

    await (await open(() => Promise.resolve(ANSWER))).run();
    const foreign = formatToken({
      clusterId: "cluster-b",
      secret: "0123456789abcdef0123456789abcdef",
      isStorageOnly: false,
    });
    const member = await open(() => Promise.resolve(ANSWER), { token: foreign });
    await expectReason("WRONG_CLUSTER", () => member.run());
  });

  it("knows at its next start who votes by then, and the founders, whatever the token says", async () => {
    const bootstrap = await open(() => Promise.resolve(ANSWER));
    await bootstrap.run();
    await bootstrap.saveContacts([
      { memberId: 6, address: "f:1" },
      { memberId: 5, address: "e:1" },
    ]);
    await bootstrap.saveContacts([]);
    const { contacts } = await (await open(refuse("JOIN_TOKEN_INVALID"))).run();
    const found = contacts.map(({ memberId, address }) => `${memberId} at ${address}`);
    expect(found).to.deep.equal(["1 at a:1", "2 at b:1", "5 at e:1", "6 at f:1"]);
  });

  it("writes down who votes only when that changed, and tells when it could not", async () => {
    const voters = [{ memberId: 5, address: "e:1" }];
    const bootstrap = await open(() => Promise.resolve(ANSWER));
    await bootstrap.run();
    disk.failNext("write", /identity/, "ENOSPC");
    const failure = await bootstrap.saveContacts(voters).then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(String(failure)).to.include("ENOSPC");
    await bootstrap.saveContacts(voters);
    expect((await findIdentity(disk, "/data"))?.contacts).to.deep.equal(voters);
    disk.failNext("write", /identity/, "ENOSPC");
    await bootstrap.saveContacts(voters);
    expect(disk.clearFailures(), "nothing was written").to.equal(1);
  });

  it("stays removed though it hears of new voters at that moment", async () => {
    const bootstrap = await open(() => Promise.resolve(ANSWER));
    await bootstrap.run();
    await Promise.all([
      bootstrap.saveContacts([{ memberId: 5, address: "e:1" }]),
      bootstrap.markRemoved(),
      bootstrap.saveContacts([{ memberId: 6, address: "f:1" }]),
    ]);
    const identity = await findIdentity(disk, "/data");
    expect(identity).to.deep.include({ phase: "removed", contacts: [{ memberId: 5, address: "e:1" }] });
  });

  it("never starts again once the cluster has removed it", async () => {
    const bootstrap = await open(() => Promise.resolve(ANSWER));
    await bootstrap.run();
    await bootstrap.markRemoved();
    await bootstrap.markRemoved();
    await expectReason("MEMBER_REMOVED", () => open(() => Promise.resolve(ANSWER)));
  });
});

describe("PeerGuard", () => {
  const WINDOW_MS = 1500;

  function setUp(): { readonly clock: FakeClock; readonly guard: PeerGuard; readonly removed: Set<number> } {
    const clock = new FakeClock();
    const removed = new Set<number>();
    const guard = new PeerGuard({ clock, windowMs: WINDOW_MS, isRemoved: (id) => removed.has(id) });
    return { clock, guard, removed };
  }

  it("refuses a second process of a member while the first is heard, and takes it when that is silent", async () => {
    const { clock, guard } = setUp();
    guard.check(1, "first");
    await clock.advance(WINDOW_MS - 1);
    const refused = await expectReason("MEMBER_DUPLICATED", () => guard.check(1, "second"));
    expect(refused.metadata["member_id"]).to.equal("1");
    guard.check(1, "first");
    guard.check(2, "second");
    await clock.advance(WINDOW_MS);
    guard.check(1, "second");
    await expectReason("MEMBER_DUPLICATED", () => guard.check(1, "first"));
  });

  it("refuses members that were removed, whatever their process", async () => {
    const { guard, removed } = setUp();
    guard.check(1, "p");
    removed.add(1);
    await expectReason("MEMBER_REMOVED", () => guard.check(1, "p"));
    await expectReason("MEMBER_REMOVED", () => guard.check(1, ""));
  });
});

describe("Refusals", () => {
  const said = (reason: "MEMBER_REMOVED" | "MEMBER_DUPLICATED", memberId = 4): DriveError =>
    new DriveError(reason, "said by a peer", { member_id: String(memberId) });

  it("ends the process at once when its member was removed, once, and not for what is said of others", () => {
    const refused: string[] = [];
    const refusals = new Refusals({
      ...{ clock: new FakeClock(), memberId: 4 },
      onRefused: ({ reason }) => refused.push(reason),
    });
    refusals.note(said("MEMBER_REMOVED", 5));
    refusals.note(new DriveError("NO_LEADER", "said by a peer", { member_id: "4" }));
    expect(refused).to.deep.equal([]);
    refusals.note(said("MEMBER_REMOVED"));
    refusals.note(said("MEMBER_REMOVED"));
    expect(refused).to.deep.equal(["MEMBER_REMOVED"]);
  });

  it("ends the second of two processes after a while, and not one that was just restarted", async () => {
    const clock = new FakeClock();
    const refused: string[] = [];
    const refusals = new Refusals({
      ...{ clock, memberId: 4 },
      onRefused: ({ reason }) => refused.push(reason),
    });
    refusals.note(said("MEMBER_DUPLICATED"));
    await clock.advance(DUPLICATE_FORGIVE_MS + 1);
    for (let ms = 0; ms < DUPLICATE_STOP_MS; ms += 500) {
      refusals.note(said("MEMBER_DUPLICATED"));
      await clock.advance(500);
    }
    expect(refused, "just below the time").to.deep.equal([]);
    refusals.note(said("MEMBER_DUPLICATED"));
    expect(refused).to.deep.equal(["MEMBER_DUPLICATED"]);
  });
});

describe("PeerFinder", () => {
  const report = (memberId: number, clusterId = "cluster-a"): BootstrapReport => ({
    ...{ empty: false, formed: true, nodeId: `node${memberId}`, memberId, address: "?", addresses: [] },
    cluster: { clusterId, members: [] },
  });

  it("finds missing members where the configured peers answer, until the tree says something newer", async () => {
    const clock = new FakeClock();
    const tree = new Map([[2, "old:1"]]);
    const answers = new Map([
      ["new:1", report(2)],
      ["foreign:1", report(3, "cluster-b")],
    ]);
    let missing = [2, 3];
    const finder = new PeerFinder({
      ...{ clock, logger: silentLogger, clusterId: "cluster-a", memberId: 9 },
      exchange: {
        ask: (address) => {
          const answer = answers.get(address);
          if (answer === undefined) return Promise.reject(new DriveError("PEER_UNREACHABLE", address));
          return Promise.resolve(answer);
        },
      },
      addresses: () => Promise.resolve(["gone:1", "new:1", "foreign:1"]),
      missing: () => missing,
      knownAddress: (memberId) => tree.get(memberId),
    });
    expect(finder.addressOf(2)).to.equal("old:1");
    finder.start();
    await clock.advance(1);
    expect(finder.addressOf(2)).to.equal("new:1");
    expect(finder.addressOf(3), "another cluster's node").to.equal(undefined);

    tree.set(2, "newer:1");
    expect(finder.addressOf(2)).to.equal("newer:1");
    missing = [];
    answers.set("new:1", report(4));
    await clock.advance(2 * PEER_FIND_INTERVAL_MS);
    expect(finder.addressOf(4), "nobody is asked while nobody is missing").to.equal(undefined);
    finder.heard(4, "said:1");
    expect(finder.addressOf(4)).to.equal("said:1");
    await finder.stop();
  });

  it("finds members of its cluster that nobody told of while others are missing, and leaves known ones where they are", async () => {
    const clock = new FakeClock();
    const answers = new Map([
      ["five:1", report(5)],
      ["foreign:1", report(6, "cluster-b")],
      ["self:1", report(9)],
      ["three-by-ip:1", report(3)],
    ]);
    const finder = new PeerFinder({
      ...{ clock, logger: silentLogger, clusterId: "cluster-a", memberId: 9 },
      exchange: { ask: (address) => Promise.resolve(answers.get(address) ?? report(9)) },
      addresses: () => Promise.resolve([...answers.keys()]),
      missing: () => [2],
      knownAddress: (memberId) => (memberId === 3 ? "three:1" : undefined),
    });
    finder.start();
    await clock.advance(1);
    expect(finder.foundIds()).to.deep.equal([5]);
    expect(finder.addressOf(5)).to.equal("five:1");
    expect(finder.addressOf(3)).to.equal("three:1");
    finder.heard(7, "seven:1");
    expect(finder.foundIds()).to.deep.equal([5, 7]);
    await finder.stop();
  });
});
