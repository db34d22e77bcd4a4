// Goal: a change of the membership is begun at any node, carried out step by step at the leader, and refused where it would harm.
// Method: the real tree in memory; consensus by its pure configuration rules; time by a fake clock; outcomes only.
import { expect } from "chai";
import type { Seal } from "../../../src/drive/content.ts";
import type {
  ConsensusMembership,
  MemberProgress,
  MembershipView,
  MemberStep,
} from "../../../src/cluster/consensus-membership.ts";
import { findToken, formatToken, isSecret } from "../../../src/cluster/join-token.ts";
import {
  CATCH_UP_ENTRY_COUNT_MAX,
  JOIN_TIMEOUT_MS,
  MEMBERSHIP_IDLE_MS,
  MembershipDriver,
  TRANSFER_ATTEMPT_COUNT_MAX,
} from "../../../src/cluster/membership-driver.ts";
import {
  findLastCopies,
  LAST_COPIES_IDLE_MS,
  LAST_COPY_LOOK_COUNT_MAX,
} from "../../../src/cluster/membership-safety.ts";
import { Membership, type JoinRequest } from "../../../src/cluster/membership.ts";
import { MetadataClient } from "../../../src/cluster/metadata-client.ts";
import { PacedLoop } from "../../../src/cluster/paced-loop.ts";
import { NodeDirectory } from "../../../src/cluster/node-directory.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { VOTER_COUNT_MAX } from "../../../src/drive/limits.ts";
import { TABLE } from "../../../src/metadata/keys.ts";
import { findMember, isRemoved } from "../../../src/metadata/members.ts";
import { isRecounting } from "../../../src/metadata/stores.ts";
import { listExtents } from "../../../src/metadata/view.ts";
import { changeConfig } from "../../../src/raft/conf-change.ts";
import type { ConfState } from "../../../src/raft/types.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { sha256 } from "../../../src/std/digest.ts";
import type { FeatureLevels } from "../../../src/drive/feature-levels.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { silentLogger } from "../../../src/telemetry/logger.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { FakeDetector, idleLoad } from "../../support/fake-detector.ts";
import { MemoryTree, registrationOf } from "../../support/memory-metadata-port.ts";

const SECRET = "0123456789abcdef0123456789abcdef";

/** Consensus by its pure rules: changes apply at once, leadership is where it is handed to. */
class FakeConsensus {
  config: ConfState;
  leaderId = 1;
  lastIndex = 5000;
  readonly matches = new Map<number, number>();
  readonly inactive = new Set<number>();
  readonly changes: (readonly MemberStep[])[] = [];
  /** Members that do not take leadership. */
  readonly unwilling = new Set<number>();
  /** Called after a change was applied; may throw, as when the leader dies in between. */
  afterChange: () => void = () => undefined;
  readonly #tree: MemoryTree;

  constructor(tree: MemoryTree, count: number) {
    this.#tree = tree;
    const voters = Array.from({ length: count }, (_, at) => at + 1);
    this.config = { voters, votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
  }

  at(memberId: number): ConsensusMembership {
    return {
      view: () => this.#view(memberId),
      change: async (steps) => {
        if (this.leaderId !== memberId) throw new DriveError("NOT_LEADER", "not the leader");
        this.changes.push(steps);
        const transition = steps.length > 1 ? "joint-implicit" : "auto";
        const result = changeConfig(this.config, { transition, steps, context: new Uint8Array(0) });
        if (!result.ok) throw new Error(result.reason);
        this.config = result.config;
        if (!this.config.voters.includes(this.leaderId)) this.lead(this.config.voters[0] ?? 0);
        this.afterChange();
      },
      transferLeadership: async (to) => {
        if (this.unwilling.has(to))
          throw new DriveError("PEER_UNREACHABLE", `member ${to} did not take over`);
        this.lead(to);
      },
    };
  }

  lead(memberId: number): void {
    this.leaderId = memberId;
    this.#tree.leaderId = memberId;
  }

  /** What the core does by itself. */
  leaveJoint(): void {
    const result = changeConfig(this.config, { transition: "auto", steps: [], context: new Uint8Array(0) });
    if (!result.ok) throw new Error(result.reason);
    this.config = result.config;
  }

  #view(memberId: number): MembershipView {
    const progress = new Map<number, MemberProgress>();
    for (const id of [...this.config.voters, ...this.config.learners]) {
      const matchIndex = this.matches.get(id) ?? this.lastIndex;
      progress.set(id, { matchIndex, isActive: !this.inactive.has(id), isStreaming: true });
    }
    const { config, lastIndex } = this;
    return { isLeading: this.leaderId === memberId, config, lastIndex, progress };
  }
}

// Each caller draws request ids of its own.
let seed = 0;

describe("Membership", () => {
  let clock: FakeClock;
  let tree: MemoryTree;
  let detector: FakeDetector;
  let consensus: FakeConsensus;
  let drivers: { stop(): Promise<unknown> }[];

  function setUp(count = 3): void {
    clock = new FakeClock();
    tree = new MemoryTree(clock);
    detector = new FakeDetector([]);
    consensus = new FakeConsensus(tree, count);
    drivers = [];
    for (let id = 1; id <= count; id += 1) register(id);
  }

  beforeEach(() => setUp());
  afterEach(async () => {
    for (const driver of drivers) await driver.stop();
  });

  function register(memberId: number): void {
    tree.apply({ kind: "register-node", node: registrationOf(memberId) });
  }

  function membershipAt(memberId: number): Membership {
    const port = tree.port(memberId);
    return new Membership({
      ...{ clusterId: "test-cluster", clock, detector, consensus: consensus.at(memberId) },
      metadata: new MetadataClient(port, new SeededPrng((seed += 1))),
      directory: new NodeDirectory(port, clock),
    });
  }

  /** Runs the loops of these members. */
  function drive(...memberIds: readonly number[]): void {
    for (const memberId of memberIds) {
      const driver = new MembershipDriver({
        ...{ clock, logger: silentLogger, detector, consensus: consensus.at(memberId) },
        metadata: new MetadataClient(tree.port(memberId), new SeededPrng(100 + memberId)),
      });
      const looks = new PacedLoop({
        ...{ clock, idleMs: MEMBERSHIP_IDLE_MS, busyMs: MEMBERSHIP_IDLE_MS },
        work: () => Promise.resolve(driver.look()).then(() => "idle" as const),
      });
      drivers.push({ stop: () => Promise.all([looks.stop(), driver.stop()]) });
      looks.start();
    }
  }

  const rounds = (count = 1): Promise<void> => clock.advance(count * MEMBERSHIP_IDLE_MS + 1);
  const change = async () => (await membershipAt(1).membership()).change;

  async function join(memberId: number, replacesNode?: string): Promise<void> {
    const secret = Buffer.from(sha256(utf8(`token of ${memberId}`))).toString("hex");
    const { token } = await membershipAt(2).createJoinToken({ secret, replacesNode });
    await membershipAt(3).admit({ token, memberId, nodeId: `node-${memberId}`, address: `h${memberId}:1` });
  }

  describe("adding a node", () => {
    it("makes it a learner, waits until it runs and has caught up, and lets it vote", async () => {
      drive(1, 2, 3);
      consensus.matches.set(4, consensus.lastIndex - CATCH_UP_ENTRY_COUNT_MAX - 1);
      await join(4);
      expect(await change()).to.include({ kind: "add", phase: "joining", nodeId: "node-4" });
      await rounds(2);
      expect(consensus.config.learners).to.deep.equal([4]);

      register(4);
      await rounds(3);
      expect(consensus.config.learners, "one entry too many behind").to.deep.equal([4]);
      consensus.matches.set(4, consensus.lastIndex - CATCH_UP_ENTRY_COUNT_MAX);
      await rounds(3);

      expect(consensus.config).to.deep.include({ voters: [1, 2, 3, 4], learners: [] });
      expect(await change()).to.include({ phase: "done", reason: "" });
    });

    it("tells who is a learner and how far it is", async () => {
      drive(1);
      await join(4);
      register(4);
      consensus.matches.set(4, 0);
      detector.loads.set(4, idleLoad({ appliedIndex: 3 }));
      await rounds(2);
      const status = await membershipAt(2).membership();
      expect(status.members.map(({ part }) => part)).to.deep.equal(["voter", "voter", "voter", "learner"]);
      expect(status.change).to.include({ appliedIndex: 3, targetIndex: tree.port(1).appliedIndex() });
    });

    it("gives up a node that is not heard of in time, and takes it out again", async () => {
      drive(1);
      await join(4);
      consensus.inactive.add(4);
      await rounds(2);
      for (let ms = 0; ms < JOIN_TIMEOUT_MS - 10_000; ms += 10_000) {
        tree.apply({ kind: "advance-clock", elapsedMs: 10_000 });
      }
      await rounds(2);
      expect((await change())?.phase).to.not.equal("failed");
      tree.apply({ kind: "advance-clock", elapsedMs: 10_000 });
      await rounds(3);

      expect(await change()).to.include({ phase: "failed" });
      expect(consensus.config.learners).to.deep.equal([]);
      expect(isRemoved(tree.store, 4)).to.equal(true);
    });

    it("goes on where the leader stopped, whichever step was done", async () => {
      for (const stopAfter of [1, 2]) {
        setUp();
        await join(4);
        register(4);
        let count = 0;
        consensus.afterChange = () => {
          count += 1;
          if (count !== stopAfter) return;
          consensus.lead(2);
          throw new DriveError("COMMIT_OUTCOME_UNKNOWN", "the leader died");
        };
        drive(1, 2, 3);
        await rounds(6);
        expect(consensus.config.voters, `stopped after ${stopAfter}`).to.deep.equal([1, 2, 3, 4]);
        expect(await change()).to.include({ phase: "done" });
        expect(consensus.changes, "no step twice").to.have.length(2);
      }
    });

    it("is refused when there are as many voters as there may be", async () => {
      setUp(VOTER_COUNT_MAX);
      await expectReason("MEMBERSHIP_CHANGE_UNSAFE", () =>
        membershipAt(1).createJoinToken({ secret: SECRET }),
      );
      setUp(VOTER_COUNT_MAX - 1);
      await membershipAt(1).createJoinToken({ secret: SECRET });
    });
  });

  describe("replacing a node", () => {
    it("lets the new one vote and the old one go in one joint change", async () => {
      drive(1, 2, 3);
      detector.health.set(3, "down");
      consensus.inactive.add(3);
      await join(4, "node-3");
      register(4);
      await rounds(2);
      expect(consensus.changes.at(-1)).to.deep.equal([
        { kind: "add-voter", memberId: 4 },
        { kind: "remove", memberId: 3 },
      ]);
      const status = await membershipAt(1).membership();
      expect(status.isJoint).to.equal(true);
      expect(status.members.map(({ part }) => part)).to.deep.equal([
        "voter",
        "voter",
        "outgoing",
        "incoming",
      ]);
      consensus.leaveJoint();
      await rounds(2);

      expect(consensus.config.voters).to.deep.equal([1, 2, 4]);
      expect(findMember(tree.store, 3)).to.equal(undefined);
      expect(isRemoved(tree.store, 3)).to.equal(true);
      expect(await change()).to.include({ kind: "replace", phase: "done", formerNodeId: "node-3" });
    });

    it("hands leadership over first when the leader is replaced", async () => {
      drive(1, 2, 3);
      await join(4, "node-1");
      register(4);
      await rounds(2);
      expect(consensus.leaderId).to.not.equal(1);
      consensus.leaveJoint();
      await rounds(2);
      expect(consensus.config.voters).to.deep.equal([2, 3, 4]);
    });
  });

  const BYTES = utf8("once");

  function sealOf(contentId: number, memberId: number): Seal {
    return {
      ...{ extent: { contentId, extentIndex: 0 }, sizeBytes: BYTES.length, root: sha256(BYTES), memberId },
      storeIncarnation: `store-${memberId}`,
    };
  }

  /** A file of which these members have good copies; answers its content. */
  function put(...memberIds: readonly number[]): number {
    return putAs("f", ...memberIds);
  }

  function putAs(name: string, ...memberIds: readonly number[]): number {
    const lease = tree.apply({
      ...{ kind: "renew-write-lease", memberId: 1, storeIncarnation: "store-1", idCount: 5 },
    });
    const contentId =
      lease.outcome === "applied" && lease.value.kind === "write-lease" ? lease.value.firstContentId : 0;
    const seals = memberIds.map((memberId) => sealOf(contentId, memberId));
    const done = tree.apply({
      ...{ kind: "put-small", at: { baseId: 1, path: [name] }, createParents: false, onConflict: "fail" },
      ...{ attributes: {}, precondition: {}, memberId: 1, contentId, sizeBytes: BYTES.length },
      ...{ treeHash: sha256(BYTES), seals },
    });
    expect(done.outcome).to.equal("applied");
    return contentId;
  }

  /** Counts from now on how often somebody begins to look for extents that lack copies. */
  function countLooks(): () => number {
    const { store } = tree;
    const range = store.range.bind(store);
    let count = 0;
    store.range = (wanted) => {
      if (wanted.from[0] === TABLE.underReplicated) count += 1;
      return range(wanted);
    };
    return () => count;
  }

  describe("replacing a node that has the only good copy of something", () => {
    for (const isStorageOnly of [false, true]) {
      it(`waits until there is another (${isStorageOnly ? "storage-only" : "voter"})`, async () => {
        drive(1, 2, 3);
        if (isStorageOnly) {
          tree.apply({ kind: "register-node", node: registrationOf(5, { isStorageOnly: true }) });
        }
        const former = isStorageOnly ? 5 : 3;
        const contentId = put(1, former);
        tree.apply({ kind: "report-replica", contentId, extentIndex: 0, memberId: 1, finding: "corrupt" });
        await join(4, `node-${former}`);
        tree.apply({ kind: "register-node", node: registrationOf(4, { isStorageOnly }) });
        const looks = countLooks();
        await rounds(LAST_COPIES_IDLE_MS / MEMBERSHIP_IDLE_MS);
        expect(looks(), "a look costs the leader too much to have one in each round").to.be.within(1, 2);
        expect(consensus.config.voters).to.deep.equal([1, 2, 3]);
        const waiting = await change();
        expect(waiting?.phase).to.not.equal("done");
        expect(waiting?.reason, "whoever asks is told why").to.include("only good copy of 1 extents");
        expect(findMember(tree.store, former)?.nodeId).to.equal(`node-${former}`);

        tree.apply({ kind: "add-replica", seal: sealOf(contentId, 2) });
        await rounds(LAST_COPIES_IDLE_MS / MEMBERSHIP_IDLE_MS);
        if (!isStorageOnly) consensus.leaveJoint();
        await rounds(3);
        expect(await change()).to.include({ kind: "replace", phase: "done", memberId: 4 });
      });
    }
  });

  describe("removing a node", () => {
    it("is refused while the only other good copy of a file is at one that was removed a moment ago", async () => {
      setUp(4);
      drive(1, 2, 3, 4);
      put(3, 4);
      await membershipAt(1).removeNode("node-4", { force: false });
      await rounds(3);
      expect(isRemoved(tree.store, 4)).to.equal(true);
      const refused = await expectReason("MEMBERSHIP_CHANGE_UNSAFE", () =>
        membershipAt(1).removeNode("node-3", { force: false }),
      );
      expect(refused.message).to.include("only good copy of 1 extents");
      await membershipAt(1).removeNode("node-2", { force: false });
      await rounds(3);
      await expectReason("MEMBERSHIP_CHANGE_UNSAFE", () =>
        membershipAt(1).removeNode("node-1", { force: false }),
      );
    });

    it("takes it out and forgets it", async () => {
      drive(1, 2, 3);
      const { changeId } = await membershipAt(2).removeNode("node-3", { force: false });
      await rounds(2);
      expect(consensus.config.voters).to.deep.equal([1, 2]);
      expect(await change()).to.include({ changeId, phase: "done", formerNodeId: "node-3" });
    });

    it("answers the repeat of a request that has removed it as before, and knows no such node otherwise", async () => {
      drive(1, 2, 3);
      const begun = await membershipAt(2).removeNode("node-3", { force: false }, { requestId: "first" });
      await rounds(2);
      expect(isRemoved(tree.store, 3)).to.equal(true);
      for (const node of ["node-3", "3"]) {
        const repeat = await membershipAt(1).removeNode(node, { force: false }, { requestId: "first" });
        expect(repeat).to.deep.equal(begun);
        await expectReason("MEMBER_NOT_FOUND", () =>
          membershipAt(1).removeNode(node, { force: false }, { requestId: "second" }),
        );
        await expectReason("MEMBER_NOT_FOUND", () => membershipAt(1).removeNode(node, { force: false }));
      }
      expect(consensus.config.voters).to.deep.equal([1, 2]);
    });

    it("hands over before the leader goes, and removes it also when nobody takes over", async () => {
      drive(1, 2, 3);
      await membershipAt(2).removeNode("node-1", { force: false });
      await rounds(3);
      expect(consensus.leaderId).to.not.equal(1);
      expect(consensus.config.voters).to.deep.equal([2, 3]);

      setUp();
      consensus.unwilling.add(2).add(3);
      drive(1, 2, 3);
      await membershipAt(2).removeNode("node-1", { force: false });
      await rounds(TRANSFER_ATTEMPT_COUNT_MAX + 3);
      expect(consensus.config.voters).to.deep.equal([2, 3]);
      expect(await change()).to.include({ phase: "done" });
    });

    it("is refused when the rest would have no live quorum, unless it is forced", async () => {
      drive(1, 2, 3);
      detector.health.set(3, "down");
      consensus.inactive.add(3);
      const refused = await expectReason("MEMBERSHIP_CHANGE_UNSAFE", () =>
        membershipAt(1).removeNode("node-2", { force: false }),
      );
      expect(refused.message).to.include("only 1 are up, and 2 are needed");
      expect(refused.metadata["harm"]).to.equal("no-quorum");
      await membershipAt(1).removeNode("node-3", { force: false });
      await rounds(2);
      expect(consensus.config.voters).to.deep.equal([1, 2]);
      detector.health.set(2, "down");
      await membershipAt(1).removeNode("node-2", { force: true });
      await rounds(2);
      expect(consensus.config.voters).to.deep.equal([1]);
      for (const force of [true, false]) {
        const last = () => membershipAt(1).removeNode("node-1", { force });
        const { metadata } = await expectReason("MEMBERSHIP_CHANGE_UNSAFE", last);
        expect(metadata["harm"], "no force helps").to.equal("no-voter");
      }
    });

    it("fails, and keeps the member, when it has become unsafe since it was asked for", async () => {
      await membershipAt(1).removeNode("node-2", { force: false });
      detector.health.set(3, "down");
      consensus.inactive.add(3);
      drive(1, 2, 3);
      await rounds(2);
      expect(consensus.config.voters).to.deep.equal([1, 2, 3]);
      expect(await change()).to.include({ phase: "failed" });
      expect(findMember(tree.store, 2)?.nodeId).to.equal("node-2");
    });

    it("is refused while a file has its only good copy there", async () => {
      const contentId = put(1, 3);
      tree.apply({ kind: "report-replica", contentId, extentIndex: 0, memberId: 1, finding: "corrupt" });

      const refused = await expectReason("MEMBERSHIP_CHANGE_UNSAFE", () =>
        membershipAt(1).removeNode("node-3", { force: false }),
      );
      expect(refused.message).to.include("only good copy of 1 extents");
      await membershipAt(1).removeNode("node-2", { force: false });
    });

    it("is refused while the other good copy of a file is at one that was given up, and while that is counted", async () => {
      setUp(4);
      drive(1, 2, 3, 4);
      const contentId = put(1, 2, 3);
      tree.apply({ kind: "report-replica", contentId, extentIndex: 0, memberId: 2, finding: "corrupt" });
      detector.health.set(3, "down");
      tree.apply({ kind: "declare-lost", memberId: 3, storeIncarnation: "store-3" });
      const remove = (nodeId: string) => () => membershipAt(1).removeNode(nodeId, { force: false });
      const counting = await expectReason("MEMBERSHIP_CHANGE_UNSAFE", remove("node-1"));
      expect(counting.message).to.include("still being counted");
      while (isRecounting(tree.store)) tree.apply({ kind: "recount" });
      const here = await expectReason("MEMBERSHIP_CHANGE_UNSAFE", remove("node-1"));
      expect(here.message).to.include("only good copy of 1 extents");

      // Recorded as good afterwards, as a seal of before may be.
      tree.apply({ kind: "add-replica", seal: sealOf(contentId, 3) });
      const after = await expectReason("MEMBERSHIP_CHANGE_UNSAFE", remove("node-1"));
      expect(after.message).to.include("only good copy of 1 extents");
      await remove("node-3")();
    });

    it("is refused while more extents have hardly a copy than are looked at, unless it is by what a lost node had", async () => {
      setUp(4);
      drive(1, 2, 3, 4);
      const remove = () => membershipAt(1).removeNode("node-2", { force: false });
      for (let index = 0; index <= LAST_COPY_LOOK_COUNT_MAX; index += 1) putAs(`f${index}`, 1, 3);
      detector.health.set(4, "down");
      tree.apply({ kind: "declare-lost", memberId: 4, storeIncarnation: "store-4" });
      while (isRecounting(tree.store)) tree.apply({ kind: "recount" });
      expect(findLastCopies(tree.store, 2), "two copies each").to.equal(undefined);

      const worsen = (contentId: number): void => {
        const bad = { extentIndex: 0, memberId: 3, finding: "corrupt" } as const;
        tree.apply({ kind: "report-replica", contentId, ...bad });
      };
      const contentIds = listExtents(tree.store, undefined, LAST_COPY_LOOK_COUNT_MAX + 1);
      for (const { contentId } of contentIds.slice(1)) worsen(contentId);
      expect(findLastCopies(tree.store, 2), "as many with one copy as are looked at").to.equal(undefined);
      for (const { contentId } of contentIds.slice(0, 1)) worsen(contentId);
      const refused = await expectReason("MEMBERSHIP_CHANGE_UNSAFE", remove);
      expect(refused.message).to.include("hardly a copy");
    }).timeout(60_000);

    it("is asked for by name or member id, and refused when nobody has it, or several have", async () => {
      await expectReason("MEMBER_NOT_FOUND", () => membershipAt(1).removeNode("nobody", { force: false }));
      await expectReason("MEMBER_NOT_FOUND", () => membershipAt(1).removeNode("77", { force: false }));
      tree.apply({ kind: "register-node", node: registrationOf(3, { nodeId: "node-2" }) });
      clock = new FakeClock();
      const twice = await expectReason("ARGUMENT_INVALID", () =>
        membershipAt(1).removeNode("node-2", { force: false }),
      );
      expect(twice.metadata["member_ids"]).to.equal("2, 3");
      await membershipAt(1).removeNode("3", { force: false });
    });

    it("is one change at a time, and safe to repeat with its request id", async () => {
      const options = { requestId: "r1" };
      const first = await membershipAt(1).removeNode("node-3", { force: false }, options);
      expect(await membershipAt(2).removeNode("node-3", { force: false }, options)).to.deep.equal(first);
      await expectReason("MEMBERSHIP_CHANGE_IN_PROGRESS", () =>
        membershipAt(2).removeNode("node-2", { force: false }),
      );
    });
  });

  it("replaces nobody that was let in and never came, and says what to do instead", async () => {
    drive(1, 2, 3);
    await join(4);
    const secret = "ab".repeat(32);
    const replace = () => membershipAt(2).createJoinToken({ secret, replacesNode: "node-4" });
    expect((await expectReason("MEMBER_NOT_FOUND", replace)).message).to.include("cluster remove node-4");

    await membershipAt(1).removeNode("node-4", { force: false });
    await rounds(3);
    await join(5);

    expect(await change()).to.include({ kind: "add", phase: "joining", nodeId: "node-5" });
  });

  describe("a node that wants a place of another", () => {
    let count = 0;
    const admit = async (overrides: Partial<JoinRequest>, replacesNode?: string) => {
      const secret = Buffer.from(sha256(utf8(`token ${(count += 1)}`))).toString("hex");
      const { token } = await membershipAt(2).createJoinToken({ secret, replacesNode });
      const request = { token, memberId: 4, nodeId: "node-4", address: "h4:1", ...overrides };
      return () => membershipAt(3).admit(request);
    };
    const taken = registrationOf(2);

    it("is refused for good when a member has its name, up or not", async () => {
      detector.health.set(2, "down");
      const ask = await admit({ nodeId: taken.nodeId });
      const refused = await expectReason("ARGUMENT_INVALID", ask);
      expect(refused.message).to.include(`netdisk cluster replace ${taken.nodeId}`);
      expect(await change()).to.equal(undefined);
    });

    it("is refused while a member is up at its address, and admitted once that is down", async () => {
      const ask = await admit({ address: taken.address });
      const refused = await expectReason("ADDRESS_IN_USE", ask);
      expect(refused.message).to.include(`${taken.nodeId} is at ${taken.address}`);
      await expectReason("ADDRESS_IN_USE", await admit({ address: taken.address.toUpperCase() }));
      detector.health.set(2, "suspect");
      await expectReason("ADDRESS_IN_USE", ask);
      expect(await change()).to.equal(undefined);
      detector.health.set(2, "down");
      await ask();
      expect(await change()).to.include({ kind: "add", nodeId: "node-4" });
    });

    it("is told that it belongs already when it comes again with another token", async () => {
      const again = await admit({ memberId: 2, nodeId: taken.nodeId, address: taken.address });
      expect((await expectReason("ARGUMENT_INVALID", again)).message).to.include(
        "belongs to the cluster already",
      );
    });

    it("is refused by the very node whose address it wants", async () => {
      const { token } = await membershipAt(2).createJoinToken({ secret: SECRET });
      await expectReason("ADDRESS_IN_USE", () =>
        membershipAt(2).admit({ token, memberId: 4, nodeId: "node-4", address: taken.address }),
      );
    });

    it("may have name and address of the member that it replaces, and of one that was removed", async () => {
      const replace = await admit({ nodeId: taken.nodeId, address: taken.address }, taken.nodeId);
      await replace();
      expect(await change()).to.include({ kind: "replace", nodeId: taken.nodeId });
      setUp();
      drive(1, 2, 3);
      await membershipAt(1).removeNode(taken.nodeId, { force: false });
      await rounds(2);
      await (
        await admit({ nodeId: taken.nodeId, address: taken.address })
      )();
      expect(await change()).to.include({ kind: "add", nodeId: taken.nodeId });
    });

    it("is answered as before when it asks again, whoever has come since", async () => {
      const ask = await admit({});
      const first = await ask();
      tree.apply({ kind: "register-node", node: registrationOf(5, { nodeId: "node-4", address: "h4:1" }) });
      expect(await ask()).to.deep.equal(first);
    });
  });

  describe("handing leadership over", () => {
    it("goes to who is asked for, or to the one that is furthest along", async () => {
      drive(1, 2, 3);
      await membershipAt(3).transferLeadership("node-3");
      await rounds(2);
      expect(consensus.leaderId).to.equal(3);
      expect(await change()).to.include({ kind: "transfer", phase: "done" });
      consensus.matches.set(1, 10);
      await membershipAt(1).transferLeadership(undefined);
      await rounds(2);
      expect(consensus.leaderId).to.equal(2);
    });

    it("is answered as before when it is asked for again under its request id, whoever leads by then", async () => {
      const options = { requestId: "r1" };
      drive(1, 2, 3);
      const first = await membershipAt(3).transferLeadership("node-3", options);
      await rounds(2);
      expect(consensus.leaderId).to.equal(3);
      expect(await membershipAt(2).transferLeadership("node-3", options)).to.deep.equal(first);
      await expectReason("REQUEST_ID_REUSED", () => membershipAt(2).transferLeadership("node-2", options));
      await membershipAt(2).removeNode("node-1", { force: false });
      await rounds(2);
      expect(await membershipAt(2).transferLeadership("node-3", options), "who led is gone").to.deep.equal(
        first,
      );
    });

    it("fails with a reason when nobody takes over, and the leader goes on", async () => {
      consensus.unwilling.add(2);
      drive(1, 2, 3);
      await membershipAt(1).transferLeadership("node-2");
      await rounds(TRANSFER_ATTEMPT_COUNT_MAX + 3);
      expect(consensus.leaderId).to.equal(1);
      expect(await change()).to.include({ phase: "failed" });
    });
  });

  describe("a storage-only node", () => {
    async function joinStorage(memberId: number, replacesNode?: string): Promise<string> {
      const { token } = await membershipAt(2).createJoinToken({
        secret: Buffer.from(sha256(utf8(`token of ${memberId}`))).toString("hex"),
        ...(replacesNode === undefined ? { storageOnly: true } : { replacesNode }),
      });
      await membershipAt(3).admit({ token, memberId, nodeId: `node-${memberId}`, address: `h${memberId}:1` });
      return token;
    }

    const registerStorage = (memberId: number): void =>
      void tree.apply({ kind: "register-node", node: registrationOf(memberId, { isStorageOnly: true }) });

    it("belongs once it has registered, and consensus never hears of it", async () => {
      drive(1, 2, 3);
      await joinStorage(4);
      await rounds(3);
      expect(await change()).to.include({ kind: "add", phase: "joining", memberId: 4 });

      registerStorage(4);
      await rounds(2);
      expect(await change()).to.include({ kind: "add", phase: "done", nodeId: "node-4" });
      expect(consensus.changes).to.deep.equal([]);
      const { members } = await membershipAt(1).membership();
      expect(members.find(({ memberId }) => memberId === 4)).to.include({ part: "none" });
    });

    it("may join also when there are as many voters as there may be", async () => {
      setUp(VOTER_COUNT_MAX);
      await joinStorage(VOTER_COUNT_MAX + 1);
      expect(await change()).to.include({ kind: "add", phase: "joining" });
    });

    it("is replaced by one that is storage-only too, whatever is asked for, and is gone then", async () => {
      drive(1, 2, 3);
      registerStorage(4);
      const token = await joinStorage(5, "node-4");
      expect(findToken(token)).to.include({ isStorageOnly: true });
      registerStorage(5);
      await rounds(2);
      expect(await change()).to.include({ kind: "replace", phase: "done" });
      expect(isRemoved(tree.port(1).reader(), 4)).to.equal(true);
      expect(consensus.changes).to.deep.equal([]);
    });

    it("is given up when it is not heard of in time", async () => {
      drive(1, 2, 3);
      await joinStorage(4);
      for (let waitedMs = 0; waitedMs < JOIN_TIMEOUT_MS; waitedMs += 10_000) {
        tree.apply({ kind: "advance-clock", elapsedMs: 10_000 });
      }
      await rounds(3);
      expect(await change()).to.include({ kind: "add", phase: "failed" });
      expect(isRemoved(tree.port(1).reader(), 4)).to.equal(true);
    });

    it("is removed without a step of consensus", async () => {
      drive(1, 2, 3);
      registerStorage(4);
      await membershipAt(1).removeNode("node-4", { force: false });
      await rounds(2);
      expect(await change()).to.include({ kind: "remove", phase: "done", formerNodeId: "node-4" });
      expect(isRemoved(tree.port(1).reader(), 4)).to.equal(true);
    });
  });

  describe("a node of another version", () => {
    it("is refused when it does not support the cluster's feature level, and admitted when it does", async () => {
      tree.apply({ kind: "raise-feature-level", level: 2 });
      const { token } = await membershipAt(2).createJoinToken({ secret: SECRET });
      const request = { token, memberId: 4, nodeId: "n", address: "a:1" };
      const admit = (levels?: FeatureLevels): Promise<unknown> =>
        membershipAt(1).admit({ ...request, featureLevels: levels });

      // One from before there were levels says nothing.
      await expectReason("VERSION_UNSUPPORTED", () => admit());
      await expectReason("VERSION_UNSUPPORTED", () => admit({ min: 1, max: 1 }));
      await expectReason("VERSION_UNSUPPORTED", () => admit({ min: 3, max: 4 }));
      await admit({ min: 1, max: 2 });
    });
  });

  describe("a token", () => {
    it("names its cluster, and is taken by no other", async () => {
      expect(findToken(formatToken({ clusterId: "c", secret: SECRET, isStorageOnly: true }))).to.deep.equal({
        clusterId: "c",
        secret: SECRET,
        isStorageOnly: true,
      });
      const request = { memberId: 4, nodeId: "n", address: "a:1" };
      const foreign = formatToken({ clusterId: "another", secret: SECRET, isStorageOnly: false });
      await expectReason("WRONG_CLUSTER", () => membershipAt(1).admit({ ...request, token: foreign }));
      await expectReason("JOIN_TOKEN_INVALID", () =>
        membershipAt(1).admit({ ...request, token: "nonsense" }),
      );
    });

    it("has a secret of 32 to 64 hexadecimal digits", async () => {
      expect(
        ["a".repeat(31), "a".repeat(32), "a".repeat(64), "a".repeat(65), "G".repeat(32)].map(isSecret),
      ).to.deep.equal([...[false, true, true, false, false]]);
      await expectReason("ARGUMENT_INVALID", () => membershipAt(1).createJoinToken({ secret: "short" }));
    });
  });
});
