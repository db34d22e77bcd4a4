// Goal: the membership travels whole over gRPC, both to operators and to a node that joins.
// Method: real servers and clients on loopback over a membership and an admission made up by the test.
import { expect } from "chai";
import type { JoinRequest } from "../../../src/cluster/membership.ts";
import type { ClusterAdmin, MembershipStatus } from "../../../src/drive/cluster-admin.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { clusterService } from "../../../src/rpc/cluster-service.ts";
import { joinCluster, GrpcHeartbeat } from "../../../src/rpc/node-client.ts";
import { nodeService } from "../../../src/rpc/node-service.ts";
import { PeerClients } from "../../../src/rpc/peer-clients.ts";
import type { PeerIdentity } from "../../../src/rpc/peer-identity.ts";
import { RemoteClusterAdmin } from "../../../src/rpc/remote-cluster-admin.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { startRpc, type RpcFixture } from "../../support/rpc-fixture.ts";

const STATUS: MembershipStatus = {
  members: [
    { memberId: 1, nodeId: "node1", part: "voter" },
    { memberId: 2, nodeId: "node2", part: "learner" },
    { memberId: 3, nodeId: "node3", part: "incoming" },
    { memberId: 4, nodeId: "node4", part: "outgoing" },
    { memberId: 5, nodeId: "node5", part: "none" },
  ],
  isJoint: true,
  change: {
    ...{ changeId: 9, kind: "replace", phase: "catching-up", memberId: 3, nodeId: "node3" },
    ...{ formerMemberId: 4, formerNodeId: "node4", appliedIndex: 10, targetIndex: 20, reason: "r" },
  },
};

describe("the membership over gRPC", function () {
  this.timeout(10_000);
  const calls: unknown[] = [];
  const joins: JoinRequest[] = [];
  const callers: PeerIdentity[] = [];
  let fixture: RpcFixture;
  let remote: RemoteClusterAdmin;

  const admin: ClusterAdmin = {
    createJoinToken: (request, options) => {
      calls.push({ request, requestId: options?.requestId });
      return Promise.resolve({ token: "t", lifetimeMs: 5 });
    },
    removeNode: (node, settings, options) => {
      calls.push({ node, ...settings, requestId: options?.requestId });
      if (node === "busy")
        return Promise.reject(new DriveError("MEMBERSHIP_CHANGE_IN_PROGRESS", "busy", { change_id: "3" }));
      return Promise.resolve({ changeId: 11 });
    },
    transferLeadership: (node) => {
      calls.push({ transferTo: node });
      return Promise.resolve({ changeId: 12 });
    },
    backUpTree: () => Promise.resolve({ index: 5, sizeBytes: 6, wallTimeMs: 7, isNew: true }),
    membership: (options) => {
      calls.push({ consistency: options?.consistency });
      return Promise.resolve(STATUS);
    },
  };

  before(async () => {
    const checkCaller = (caller: PeerIdentity): void => {
      callers.push(caller);
      if (caller.memberId === 66) throw new DriveError("MEMBER_REMOVED", "removed", { member_id: "66" });
    };
    fixture = await startRpc([
      clusterService(
        () => new MemoryDrive(),
        () => admin,
      ),
      nodeService({
        identity: () => ({ clusterId: "c", memberId: 1, checkCaller }),
        load: () => ({
          ...{ freeBytes: 1, totalBytes: 1, liveBytes: 1, writesRefused: false },
          ...{
            inflightBytes: 1,
            appliedIndex: 1,
            repairBytesPerSecond: 0,
            quarantinedCount: 0,
            scrubProgress: 0,
            collectionBrake: undefined,
          },
        }),
        describe: () => {
          throw new Error("nobody asks");
        },
        join: (request) => {
          joins.push(request);
          const founders = [{ memberId: 1, address: "a:1" }];
          const members = [...founders, { memberId: 2, address: "b:1" }];
          return Promise.resolve({ cluster: { clusterId: "c", members: founders }, members });
        },
      }),
    ]);
    const { address, clock } = fixture;
    remote = new RemoteClusterAdmin({ addresses: [address], clock, prng: new SeededPrng(1) });
  });

  after(async () => {
    remote.close();
    await fixture.stop();
  });

  beforeEach(() => {
    calls.length = 0;
  });

  it("shows every part, kind and phase as it is", async () => {
    expect(await remote.membership()).to.deep.equal(STATUS);
    await remote.membership({ consistency: "stale" });
    expect(calls).to.deep.equal([{ consistency: "linearizable" }, { consistency: "stale" }]);
  });

  it("carries requests with their id, one made when there is none", async () => {
    const secret = "0".repeat(32);
    const whole = { secret, replacesNode: "n", lifetimeMs: 5, storageOnly: true };
    await remote.createJoinToken(whole, { requestId: "r" });
    await remote.createJoinToken({ secret });
    expect(calls[0]).to.deep.equal({ request: whole, requestId: "r" });
    expect(calls[1]).to.deep.include({ request: { secret, storageOnly: false } });
    expect((calls[1] as { requestId: string }).requestId).to.have.length(32);
    expect(await remote.removeNode("n", { force: true }, { requestId: "q" })).to.deep.equal({ changeId: 11 });
    expect(calls[2]).to.deep.equal({ node: "n", force: true, requestId: "q" });
    expect(await remote.transferLeadership(undefined)).to.deep.equal({ changeId: 12 });
    expect(calls[3]).to.deep.equal({ transferTo: undefined });
  });

  it("tells at once that another change is under way", async () => {
    const refused = await expectReason("MEMBERSHIP_CHANGE_IN_PROGRESS", () =>
      remote.removeNode("busy", { force: false }),
    );
    expect(refused.metadata["change_id"]).to.equal("3");
    expect(calls).to.have.length(1);
  });

  it("admits a node that joins", async () => {
    const { address, clock, pool } = fixture;
    const request = { token: "t", memberId: Number.MAX_SAFE_INTEGER, nodeId: "n", address: "d:1" };
    const featureLevels = { min: 1, max: 7 };
    expect(await joinCluster(address, { ...request, featureLevels }, { clock, pool })).to.deep.equal({
      cluster: { clusterId: "c", members: [{ memberId: 1, address: "a:1" }] },
      members: [
        { memberId: 1, address: "a:1" },
        { memberId: 2, address: "b:1" },
      ],
    });
    expect(joins).to.deep.equal([{ ...request, featureLevels }]);
  });

  it("says with every call which process calls from where, and hears that it was removed", async () => {
    const { address, clock, pool } = fixture;
    const heartbeatOf = (memberId: number): GrpcHeartbeat =>
      new GrpcHeartbeat(
        new PeerClients({
          ...{ pool, clock, directory: { addressOf: () => address } },
          identity: () => ({ clusterId: "c", memberId, processId: "p", address: "me:1" }),
        }),
      );
    const { signal } = new AbortController();
    await heartbeatOf(2).ping(1, signal);
    expect(callers.at(-1)).to.deep.equal({ clusterId: "c", memberId: 2, processId: "p", address: "me:1" });
    const refused = await expectReason("MEMBER_REMOVED", () => heartbeatOf(66).ping(1, signal));
    expect(refused.metadata["member_id"]).to.equal("66");
  });
});
