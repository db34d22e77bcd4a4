/**
 * Goal: nodes talk to each other's chunk stores, Raft and heartbeats over gRPC, and refuse strangers.
 * Method: servers on loopback over in-memory stores and a recording PeerHandler; clients as a node has them.
 */
import { expect } from "chai";
import { RaftService } from "../../../gen/netdisk/peer/v1/raft_service_pb.ts";
import type { StateHash } from "../../../src/consensus/codec.ts";
import type { ForwardedResult, PeerHandler } from "../../../src/consensus/transport.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { makeMessage } from "../../../src/raft/message.ts";
import type { Message, Snapshot } from "../../../src/raft/types.ts";
import { LocalReplica } from "../../../src/replication/local-replica.ts";
import { VERIFY_EXTENTS_COUNT_MAX } from "../../../src/replication/replica-port.ts";
import { createGrpcClient } from "../../../src/rpc/client-adapter.ts";
import { describeNode, GrpcHeartbeat } from "../../../src/rpc/node-client.ts";
import type { BootstrapReport } from "../../../src/cluster/bootstrap-rule.ts";
import { nodeService } from "../../../src/rpc/node-service.ts";
import { PeerClients } from "../../../src/rpc/peer-clients.ts";
import { GrpcProposalForwarder } from "../../../src/rpc/proposal-forwarder.ts";
import { raftService, type RaftStatus } from "../../../src/rpc/raft-service.ts";
import { GrpcRaftTransport } from "../../../src/rpc/raft-transport.ts";
import { ReplicaClient } from "../../../src/rpc/replica-client.ts";
import { replicaService } from "../../../src/rpc/replica-service.ts";
import { foldTreeHash, sha256 } from "../../../src/std/digest.ts";
import { createLogger } from "../../../src/telemetry/logger.ts";
import { eventually } from "../../support/eventually.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { MemoryChunkStore } from "../../support/memory-replicas.ts";
import { startRpc, type RpcFixture } from "../../support/rpc-fixture.ts";

const CLUSTER = "cluster-a";
const SERVER = 11;
const CLIENT = 22;

/** Keeps what it was handed. */
class RecordingHandler implements PeerHandler {
  readonly messages: Message[] = [];
  readonly hashes: StateHash[] = [];
  readonly unreachable: number[] = [];
  readonly disconnected: number[] = [];
  snapshot: { message: Message; bytes: number } | undefined;
  forward: (data: Uint8Array) => Promise<ForwardedResult> = (data) =>
    Promise.resolve({ index: 7, result: data });

  step(message: Message, clusterId: string): void {
    if (clusterId !== CLUSTER) throw new DriveError("WRONG_CLUSTER", "foreign");
    this.messages.push(message);
  }
  receiveStateHash(stateHash: StateHash): void {
    this.hashes.push(stateHash);
  }
  async receiveSnapshot(message: Message, _: string, pieces: AsyncIterable<Uint8Array>): Promise<void> {
    let bytes = 0;
    for await (const piece of pieces) bytes += piece.length;
    this.snapshot = { message, bytes };
  }
  handleForwarded(data: Uint8Array): Promise<ForwardedResult> {
    return this.forward(data);
  }
  peerUnreachable(memberId: number): void {
    this.unreachable.push(memberId);
  }
  peerDisconnected(memberId: number): void {
    this.disconnected.push(memberId);
  }
}

const status: RaftStatus = {
  role: "leader",
  term: 3,
  leaderId: SERVER,
  commitIndex: 40,
  appliedIndex: 39,
  firstIndex: 1,
  lastIndex: 41,
  voterIds: [SERVER, CLIENT],
  learnerIds: [],
  progress: [{ memberId: CLIENT, matchIndex: 40, nextIndex: 41, state: "replicate", recentlyActive: true }],
  stateHashAt: (index) => (index >= 38 && index <= 39 ? { term: 3, hash: Uint8Array.of(index) } : undefined),
};

const description: BootstrapReport = {
  empty: false,
  formed: false,
  memberId: SERVER,
  nodeId: "n1",
  address: "n1:29001",
  addresses: ["n1:29001", "n2:29001"],
  cluster: { clusterId: CLUSTER, members: [{ address: "n1:29001", memberId: SERVER }], featureLevel: 3 },
  featureLevels: { min: 2, max: 5 },
};

function digestOf(bytes: Uint8Array): Uint8Array {
  return sha256(bytes);
}

describe("peers over gRPC", () => {
  let fixture: RpcFixture;
  let store: MemoryChunkStore;
  let handler: RecordingHandler;
  let down: DriveError | undefined;
  const stoppers: (() => void)[] = [];

  beforeEach(async () => {
    store = new MemoryChunkStore(SERVER);
    handler = new RecordingHandler();
    down = undefined;
    const identity = () => {
      if (down !== undefined) throw down;
      return { clusterId: CLUSTER, memberId: SERVER };
    };
    const load = {
      freeBytes: 5,
      totalBytes: 10,
      liveBytes: 1,
      writesRefused: true,
      inflightBytes: 2,
      appliedIndex: 39,
      repairBytesPerSecond: 41,
      quarantinedCount: 43,
      scrubProgress: 0.25,
      collectionBrake: { extentCount: 44, orphanCount: 45, futureCount: 46 },
      featureLevels: { min: 1, max: 4 },
    };
    const join = (): Promise<never> => Promise.reject(new Error("this test admits nobody"));
    fixture = await startRpc([
      replicaService({ identity, replica: () => new LocalReplica(store) }),
      raftService({ identity, handler: () => handler, status: () => status }),
      nodeService({ identity, load: () => load, describe: () => description, join }),
    ]);
  });

  afterEach(async () => {
    for (const stop of stoppers.splice(0)) stop();
    await fixture.stop();
  });

  function clients(self = { clusterId: CLUSTER, memberId: CLIENT }, memberId = SERVER): PeerClients {
    const directory = { addressOf: (id: number) => (id === memberId ? fixture.address : undefined) };
    return new PeerClients({ pool: fixture.pool, directory, clock: fixture.clock, identity: () => self });
  }

  function replica(from = clients(), memberId = SERVER): ReplicaClient {
    const client = new ReplicaClient(memberId, { clients: from, clock: fixture.clock });
    stoppers.push(() => client.stop());
    return client;
  }

  describe("ReplicaClient", () => {
    const extent = { contentId: 5, extentIndex: 1 };
    const origin = { clusterId: CLUSTER, entryId: 9, commitIndex: 8 };

    it("writes chunks in parallel, seals, reads, verifies and removes", async () => {
      const peer = replica();
      const chunks = [0, 1, 2].map((i) => new Uint8Array(i < 2 ? CHUNK_SIZE_BYTES : 100).fill(i + 1));
      const sizeBytes = 2 * CHUNK_SIZE_BYTES + 100;

      await peer.openExtent(extent, sizeBytes);
      await Promise.all(chunks.map((bytes, i) => peer.writeChunk(extent, i, bytes, digestOf(bytes))));
      expect(await peer.extentState(extent)).to.deep.equal({ kind: "open", chunkIndexes: [0, 1, 2] });
      const seal = await peer.sealExtent({ extent, sizeBytes, origin });

      expect(Buffer.from(seal.root)).to.deep.equal(Buffer.from(foldTreeHash(chunks.map(digestOf))));
      expect({ ...seal, root: 0 }).to.deep.equal({
        extent,
        sizeBytes,
        root: 0,
        memberId: SERVER,
        storeIncarnation: store.storeIncarnation,
      });
      const read: Uint8Array[] = [];
      for await (const piece of peer.read(extent, CHUNK_SIZE_BYTES - 3, 10)) read.push(piece);
      expect([...Buffer.concat(read)]).to.deep.equal([1, 1, 1, 2, 2, 2, 2, 2, 2, 2]);
      expect((await peer.manifest(extent)).chunkDigests.length).to.equal(3);
      expect((await peer.manifest(extent)).origin).to.deep.equal(origin);
      expect((await peer.chunkInfo(extent, 2)).sizeBytes).to.equal(100);
      expect((await peer.extentState(extent)).kind).to.equal("sealed");
      expect((await peer.verifyExtent(extent)).sizeBytes).to.equal(sizeBytes);
      await peer.removeExtent(extent);
      expect(await peer.extentState(extent)).to.deep.equal({ kind: "absent" });
    });

    it("has many extents verified with one call, each with its own verdict, up to the bound", async () => {
      const peer = replica();
      const key = (contentId: number) => ({ contentId, extentIndex: 0 });
      const bytes = Buffer.from("small");
      await peer.putSmall({ extent: key(901), bytes, digest: sha256(bytes), origin });
      const verdicts = await peer.verifyExtents([key(902), key(901)]);
      expect(verdicts[0]).to.be.instanceOf(DriveError).and.include({ reason: "CHUNK_NOT_FOUND" });
      expect(verdicts[1]).to.include({ sizeBytes: 5, memberId: peer.memberId });

      const many = Array.from({ length: VERIFY_EXTENTS_COUNT_MAX }, () => key(901));
      expect(await peer.verifyExtents(many)).to.have.length(VERIFY_EXTENTS_COUNT_MAX);
      await expectReason("ARGUMENT_INVALID", () => peer.verifyExtents([...many, key(901)]));
      await expectReason("ARGUMENT_INVALID", () => peer.verifyExtents([]));
    });

    it("keeps many more small extents in work than fit one window", async function () {
      this.timeout(15_000);
      const peer = replica();
      const put = (contentId: number) => {
        const bytes = Uint8Array.of(contentId % 256, contentId >> 8);
        return peer.putSmall({
          extent: { contentId, extentIndex: 0 },
          bytes,
          digest: digestOf(bytes),
          origin,
        });
      };

      const seals = await Promise.all(Array.from({ length: 2100 }, (_, i) => put(i + 1)));

      expect(seals.map((seal) => seal.extent.contentId)).to.deep.equal(seals.map((_, i) => i + 1));
    });

    it("tells the caller of each chunk its own error", async () => {
      const peer = replica();
      const bytes = new Uint8Array(10);
      const good = peer.writeChunk(extent, 0, bytes, digestOf(bytes));

      const bad = peer.writeChunk(extent, 1, bytes, new Uint8Array(31));

      await expectReason("ARGUMENT_INVALID", () => bad);
      await good;
    });

    for (const length of [0, CHUNK_SIZE_BYTES + 1]) {
      it(`refuses a chunk of ${length} bytes`, async () => {
        const bytes = new Uint8Array(length);

        await expectReason("ARGUMENT_INVALID", () => replica().writeChunk(extent, 0, bytes, digestOf(bytes)));
      });
    }

    it("has the errors of the store", async () => {
      const peer = replica();

      await expectReason("CHUNK_NOT_FOUND", () => peer.manifest(extent));
      await expectReason("UPLOAD_INCOMPLETE", () => peer.sealExtent({ extent, sizeBytes: 10, origin }));
      await expectReason("CHUNK_NOT_FOUND", async () => {
        for await (const _ of peer.read(extent, 0, 10)) continue;
      });
    });

    it("is refused by a node of another cluster", async () => {
      const peer = replica(clients({ clusterId: "cluster-b", memberId: CLIENT }));
      const bytes = new Uint8Array(10);

      const error = await expectReason("WRONG_CLUSTER", () =>
        peer.writeChunk(extent, 0, bytes, digestOf(bytes)),
      );

      expect(error.metadata).to.deep.equal({ cluster_id: CLUSTER, member_id: String(SERVER) });
      await expectReason("WRONG_CLUSTER", () => peer.extentState(extent));
      expect(await new LocalReplica(store).extentState(extent)).to.deep.equal({ kind: "absent" });
    });

    it("is refused when another member is meant", async () => {
      const peer = replica(clients(undefined, 33), 33);

      await expectReason("WRONG_CLUSTER", () => peer.extentState(extent));
    });

    it("is told that the node is starting", async () => {
      down = new DriveError("NODE_STARTING", "not yet");

      await expectReason("NODE_STARTING", () => replica().extentState(extent));
    });

    it("cannot reach a member whose address is not known, nor one that is gone", async () => {
      await expectReason("PEER_UNREACHABLE", () => replica(clients(), 99).extentState(extent));
      const peer = replica();
      const bytes = new Uint8Array(10);
      await peer.writeChunk(extent, 0, bytes, digestOf(bytes));

      await fixture.server.stop();

      await expectReason("PEER_UNREACHABLE", () => peer.writeChunk(extent, 1, bytes, digestOf(bytes)));
    });
  });

  describe("Raft transport", () => {
    function transport(own: PeerHandler, self?: { clusterId: string; memberId: number }): GrpcRaftTransport {
      const logger = createLogger({ node: "n2", level: "silent", clock: fixture.clock });
      const made = new GrpcRaftTransport({ clients: clients(self), clock: fixture.clock, logger });
      made.attach(own);
      stoppers.push(() => made.stop());
      return made;
    }

    const message = (index: number, more: Partial<Message> = {}): Message =>
      makeMessage({ kind: "append", from: CLIENT, to: SERVER, term: 2, index, ...more });

    it("delivers messages in order", async () => {
      const sender = transport(new RecordingHandler());

      for (let index = 1; index <= 500; index += 1) sender.send([message(index)]);

      await eventually("all arrived", () => handler.messages.length === 500, { withinMs: 1500, everyMs: 5 });
      expect(handler.messages.map(({ index }) => index)).to.deep.equal(
        Array.from({ length: 500 }, (_, i) => i + 1),
      );
    });

    it("delivers votes and state hashes", async () => {
      const sender = transport(new RecordingHandler());
      const hash = new Uint8Array(8).fill(3);
      const stateHash: StateHash = { from: CLIENT, index: 5, term: 2, hash, request: true };

      sender.send([message(9, { kind: "vote" })]);
      sender.sendStateHash(SERVER, stateHash);

      await eventually("both arrived", () => handler.messages.length === 1 && handler.hashes.length === 1, {
        withinMs: 1500,
        everyMs: 5,
      });
      expect(handler.messages[0]?.kind).to.equal("vote");
    });

    it("tells of a broken connection", async () => {
      const own = new RecordingHandler();
      const sender = transport(own);
      sender.send([message(1)]);
      await eventually("it arrived", () => handler.messages.length === 1, { withinMs: 1500, everyMs: 5 });

      await fixture.server.stop();

      await eventually("the break was noticed", () => own.disconnected.length > 0, {
        withinMs: 1500,
        everyMs: 5,
      });
      expect(own.disconnected[0]).to.equal(SERVER);
      expect(own.unreachable).to.include(SERVER);
    });

    it("does not deliver to another cluster, nor in another member's name", async () => {
      const own = new RecordingHandler();
      transport(own, { clusterId: "cluster-b", memberId: CLIENT }).send([message(1)]);
      const liar = new RecordingHandler();
      transport(liar, { clusterId: CLUSTER, memberId: 44 }).send([message(1)]);

      await eventually(
        "both were refused",
        () => own.disconnected.length > 0 && liar.disconnected.length > 0,
        {
          withinMs: 1500,
          everyMs: 5,
        },
      );
      expect(handler.messages).to.deep.equal([]);
    });

    const confState = {
      voters: [SERVER],
      votersOutgoing: [],
      learners: [],
      learnersNext: [],
      autoLeave: false,
    };
    const snapshot: Snapshot = { metadata: { index: 5, term: 2, confState }, data: new Uint8Array(0) };

    it("streams a snapshot", async () => {
      const sender = transport(new RecordingHandler());
      const pieces = async function* (): AsyncIterable<Uint8Array> {
        for (let i = 0; i < 5; i += 1) yield new Uint8Array(1024 * 1024);
      };

      await sender.sendSnapshot(
        message(0, { kind: "snapshot", snapshot }),
        pieces(),
        new AbortController().signal,
      );

      expect(handler.snapshot?.bytes).to.equal(5 * 1024 * 1024);
      expect(handler.snapshot?.message.snapshot?.metadata.index).to.equal(5);
    });

    it("never takes a snapshot that was cut off for a whole one", async () => {
      const sender = transport(new RecordingHandler());
      const pieces = async function* (): AsyncIterable<Uint8Array> {
        yield new Uint8Array(10);
        throw new DriveError("DATA_CORRUPT", "the file is damaged");
      };

      await expectReason("DATA_CORRUPT", () =>
        sender.sendSnapshot(
          message(0, { kind: "snapshot", snapshot }),
          pieces(),
          new AbortController().signal,
        ),
      );

      expect(handler.snapshot).to.equal(undefined);
    });
  });

  describe("ProposalForwarder", () => {
    function forwarder(from = clients()): GrpcProposalForwarder {
      const made = new GrpcProposalForwarder({ clients: from, clock: fixture.clock });
      stoppers.push(() => made.stop());
      return made;
    }

    it("matches many answers to their proposals", async () => {
      const made = forwarder();
      handler.forward = async (data) => {
        if (data[0] === 1) await Promise.resolve();
        return { index: 100 + (data[0] ?? 0), result: data };
      };

      const answers = await Promise.all(
        Array.from({ length: 200 }, (_, i) => made.propose(SERVER, Uint8Array.of(i), { timeoutMs: 1000 })),
      );

      expect(answers.map(({ index }) => index)).to.deep.equal(answers.map((_, i) => 100 + i));
    });

    it("passes on the leader's errors with their metadata", async () => {
      handler.forward = () => Promise.reject(new DriveError("NOT_LEADER", "ask 5", { leader_id: "5" }));

      const error = await expectReason("NOT_LEADER", () =>
        forwarder().propose(SERVER, Uint8Array.of(1), { timeoutMs: 1000 }),
      );

      expect(error.metadata).to.deep.equal({ leader_id: "5" });
    });

    it("says that the outcome is unknown when the connection breaks after sending", async () => {
      let taken = 0;
      handler.forward = () => {
        taken += 1;
        return new Promise(() => undefined);
      };
      const answer = expectReason("COMMIT_OUTCOME_UNKNOWN", () =>
        forwarder().propose(SERVER, Uint8Array.of(1), { timeoutMs: 5000 }),
      );
      await eventually("it was taken", () => taken === 1, { withinMs: 1500, everyMs: 5 });

      await fixture.server.stop();

      await answer;
    });

    it("says that nothing was sent when there is no connection", async () => {
      await fixture.server.stop();

      await expectReason("PEER_UNREACHABLE", () =>
        forwarder().propose(SERVER, Uint8Array.of(1), { timeoutMs: 1000 }),
      );
    });
  });

  it("answers heartbeats and tells who it is", async () => {
    const load = await new GrpcHeartbeat(clients()).ping(SERVER, new AbortController().signal);
    const described = await describeNode(fixture.address, { pool: fixture.pool, clock: fixture.clock });

    expect(load.writesRefused).to.equal(true);
    expect(load.appliedIndex).to.equal(39);
    expect(load.featureLevels).to.deep.equal({ min: 1, max: 4 });
    expect(described).to.deep.equal(description);
  });

  it("shows operators the state of Raft without identity headers", async () => {
    const channel = fixture.pool.channel(fixture.address, "control");
    const client = createGrpcClient(RaftService, { channel, clock: fixture.clock, address: fixture.address });

    const shown = await client.getStatus({});

    expect(shown.clusterId).to.equal(CLUSTER);
    expect(shown.progress[0]?.matchIndex).to.equal(40n);
  });

  it("shows the hash of the state after an index that it remembers", async () => {
    const channel = fixture.pool.channel(fixture.address, "control");
    const client = createGrpcClient(RaftService, { channel, clock: fixture.clock, address: fixture.address });
    const ask = async (index: bigint): Promise<unknown> => {
      const { hashIndex, hashTerm, stateHash } = await client.getStatus({ hashIndex: index });
      return { hashIndex, hashTerm, stateHash: [...stateHash] };
    };

    expect(await ask(38n)).to.deep.equal({ hashIndex: 38n, hashTerm: 3n, stateHash: [38] });
    expect(await ask(0n), "the highest applied").to.deep.equal({
      hashIndex: 39n,
      hashTerm: 3n,
      stateHash: [39],
    });
    expect(await ask(37n)).to.deep.equal({ hashIndex: 37n, hashTerm: 0n, stateHash: [] });
  });
});
