/**
 * Goal: a storage-only node finds the voters though all that it knew were replaced, writes down who votes, and says so when it cannot.
 * Method: a StorageNode over a disk in memory, voters that answer from the real state machine, time by a fake clock.
 */
import { expect } from "chai";
import type { FoundingMember } from "../../../src/cluster/bootstrap-identity.ts";
import type { ClusterAdmin } from "../../../src/drive/cluster-admin.ts";
import type { DriveApi } from "../../../src/drive/drive-api.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { decodeCommand, encodeResult } from "../../../src/metadata/codec.ts";
import { findMember } from "../../../src/metadata/members.ts";
import { StorageNode } from "../../../src/node/storage-node.ts";
import { inlineDigester } from "../../../src/std/digest.ts";
import { MemoryOrderedStoreProvider } from "../../../src/std/memory-ordered-store.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { silentLogger } from "../../../src/telemetry/logger.ts";
import { noMetrics } from "../../../src/telemetry/metrics.ts";
import { TreeFeed, type VoterFeed } from "../../../src/transfer/voter-feed.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";
import { MemoryTree, registrationOf } from "../../support/memory-metadata-port.ts";

const OWN_ID = 9;
const OTHER_STORAGE_ID = 8;
const SETTLE_MS = 15_000;

describe("A storage-only node whose voters may all be replaced", () => {
  let clock: FakeClock;
  let tree: MemoryTree;
  let node: StorageNode;
  let voterIds: readonly number[];
  let foundIds: readonly number[];
  let saved: (readonly FoundingMember[])[];
  let saveError: Error | undefined;
  let handedTo: readonly string[];
  let refusals: DriveError[];

  const at = (memberId: number): FoundingMember => ({ memberId, address: registrationOf(memberId).address });

  /** Whoever does not vote is gone, or keeps no tree. */
  function feedOf(memberId: number): VoterFeed {
    if (!voterIds.includes(memberId)) {
      const reason = memberId === OTHER_STORAGE_ID ? "NOT_LEADER" : "PEER_UNREACHABLE";
      return new Proxy({} as VoterFeed, {
        get: () => () => Promise.reject(new DriveError(reason, "refused by the test")),
      });
    }
    const port = tree.port(memberId);
    return new TreeFeed(
      {
        port,
        consensus: { voterIds: () => voterIds, term: () => 1 },
        openFile: () => Promise.reject(new DriveError("PATH_NOT_FOUND", "there are no files")),
        propose: async (data) => encodeResult(await port.propose(decodeCommand(data).body)),
      },
      OWN_ID,
    );
  }

  beforeEach(async () => {
    clock = new FakeClock();
    tree = new MemoryTree(clock);
    for (const memberId of [1, 2, 3]) tree.apply({ kind: "register-node", node: registrationOf(memberId) });
    voterIds = [1, 2, 3];
    foundIds = [];
    saved = [];
    saveError = undefined;
    handedTo = [];
    refusals = [];
    const disk = new MemoryDisk();
    await disk.makeDirectory("/data");
    node = new StorageNode({
      ...{ memberId: OWN_ID, disk, directory: "/data", indexes: new MemoryOrderedStoreProvider() },
      ...{ clock, prng: new SeededPrng(3), digester: inlineDigester },
      ...{ logger: silentLogger, metrics: noMetrics },
      registration: registrationOf(OWN_ID, { isStorageOnly: true }),
      heartbeats: { ping: () => Promise.reject(new DriveError("PEER_UNREACHABLE", "no heartbeats")) },
      peerReplica: () => undefined,
      contacts: [at(1), at(2), at(3)],
      saveContacts: (voters) => {
        if (saveError !== undefined) return Promise.reject(saveError);
        saved.push(voters);
        return Promise.resolve();
      },
      foundIds: () => foundIds,
      voterFeed: feedOf,
      voterClients: {
        drive: {} as DriveApi,
        admin: {} as ClusterAdmin,
        setAddresses: (addresses) => (handedTo = addresses),
        close: () => undefined,
      },
      featureLevels: { min: 1, max: 1 },
      onRefused: (error) => refusals.push(error),
      onFatal: (error) => {
        throw error;
      },
    });
  });

  afterEach(() => node.stop());

  function replaceAll(): void {
    for (const memberId of [4, 5, 6]) tree.apply({ kind: "register-node", node: registrationOf(memberId) });
    voterIds = [4, 5, 6];
  }

  it("names the nodes that are down in what an operator should look at", async () => {
    await node.start();
    await clock.advance(SETTLE_MS);

    const nodeId = registrationOf(2).nodeId;
    expect(node.warnings().join("\n")).to.match(
      new RegExp(
        `^${nodeId} is down, last heard of [0-9.]+ s ago: the copies there cannot be read now\\.$`,
        "m",
      ),
    );
    expect(node.warnings().filter((warning) => warning.includes("is down"))).to.have.length(3);
  });

  it("says of a node that was given up that its copies are made elsewhere, and what to do", async () => {
    const { nodeId, storeIncarnation } = registrationOf(2);
    tree.apply({ kind: "declare-lost", memberId: 2, storeIncarnation });
    await node.start();
    await clock.advance(SETTLE_MS);

    const warnings = node.warnings().filter((warning) => warning.includes("is down"));
    expect(warnings).to.have.length(3);
    expect(warnings.filter((warning) => warning.includes("given up"))).to.have.length(1);
    expect(warnings.find((warning) => warning.startsWith(nodeId))).to.include(
      `it was given up, and its copies are made elsewhere. Start it again, or remove it with "netdisk cluster remove ${nodeId}".`,
    );
  });

  it("asks members that it only heard of while nobody it knew answers, and passes over those that keep no tree", async () => {
    replaceAll();
    await node.start();
    await clock.advance(SETTLE_MS);
    expect(node.problems().join(" ")).to.include("No voter of the cluster has answered");
    expect(node.missingMembers()).to.deep.equal([1, 2, 3]);
    foundIds = [OWN_ID, OTHER_STORAGE_ID, 5];
    await clock.advance(SETTLE_MS);
    expect(node.problems()).to.deep.equal([]);
    expect(handedTo).to.deep.equal([4, 5, 6].map((id) => at(id).address));
  });

  it("ends, and says why, once the cluster has a feature level that it does not support", async () => {
    await node.start();
    await clock.advance(SETTLE_MS);
    expect(refusals).to.deep.equal([]);

    tree.apply({ kind: "raise-feature-level", level: 2 });
    await clock.advance(SETTLE_MS);

    expect(refusals.map(({ reason }) => reason)).to.deep.equal(["VERSION_UNSUPPORTED"]);
    expect(refusals[0]?.message).to.include("supports level 1 alone: start it with the newer version");
  });

  it("begins nothing when the first answer says that it does not support the level", async () => {
    tree.apply({ kind: "raise-feature-level", level: 2 });

    await node.start();
    await clock.advance(SETTLE_MS);

    expect(refusals.map(({ reason }) => reason)).to.deep.equal(["VERSION_UNSUPPORTED"]);
    expect([saved, handedTo]).to.deep.equal([[], []]);
    expect(findMember(tree.store, OWN_ID), "it does not register").to.equal(undefined);
  });

  it("writes down who votes whenever that changes, and only then", async () => {
    await node.start();
    await clock.advance(SETTLE_MS);
    expect(saved).to.deep.equal([[at(1), at(2), at(3)]]);
    tree.apply({ kind: "register-node", node: registrationOf(4) });
    voterIds = [1, 2, 4];
    await clock.advance(SETTLE_MS);
    const moved = { memberId: 4, address: "moved:1" };
    tree.apply({ kind: "register-node", node: registrationOf(4, { address: "moved:1" }) });
    await clock.advance(SETTLE_MS);
    expect(saved.slice(1)).to.deep.equal([
      [at(1), at(2), at(4)],
      [at(1), at(2), moved],
    ]);
  });

  it("warns while it cannot write them down, and tries again", async () => {
    saveError = new Error("ENOSPC by the test");
    await node.start();
    await clock.advance(SETTLE_MS);
    expect(node.warnings().join(" ")).to.include("ENOSPC by the test");
    saveError = undefined;
    await clock.advance(SETTLE_MS);
    expect(saved).to.deep.equal([[at(1), at(2), at(3)]]);
    expect(node.warnings().join(" ")).not.to.include("could not be saved");
  });
});
