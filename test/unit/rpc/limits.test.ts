/**
 * Goal: every bound of the gRPC layer holds: what is at the bound passes, one more waits or is refused.
 * Method: handlers that never finish count what reaches them; a raw HTTP/2 client looks at the windows of the server.
 */
import { connect } from "node:http2";
import { Readable } from "node:stream";
import { expect } from "chai";
import { ChunkService } from "../../../gen/netdisk/v1/chunk_service_pb.ts";
import { ProgressService } from "../../../gen/netdisk/v1/progress_service_pb.ts";
import { PROGRESS_ID_LENGTH_MAX } from "../../../src/contract/service-handlers.ts";
import type { ChunkReceipt, UploadRequest } from "../../../src/drive/drive-api.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { makeMessage } from "../../../src/raft/message.ts";
import { ChannelPool } from "../../../src/rpc/channel-pool.ts";
import { chunkService } from "../../../src/rpc/chunk-service.ts";
import { createGrpcClient } from "../../../src/rpc/client-adapter.ts";
import {
  BATCH_COUNT_MAX,
  BULK_MESSAGES_AHEAD_MAX,
  FLOW_CONTROL_WINDOW_BYTES,
  RAFT_QUEUE_BYTES_MAX,
  RAFT_QUEUE_COUNT_MAX,
  UPLOAD_CHUNKS_INFLIGHT_MAX,
} from "../../../src/rpc/limits.ts";
import { PeerClients } from "../../../src/rpc/peer-clients.ts";
import { Pipeline } from "../../../src/rpc/pipeline.ts";
import { progressService } from "../../../src/rpc/progress-service.ts";
import { GrpcRaftTransport } from "../../../src/rpc/raft-transport.ts";
import { boundMessagesAhead } from "../../../src/rpc/read-ahead.ts";
import { deferred } from "../../../src/std/deferred.ts";
import { createLogger } from "../../../src/telemetry/logger.ts";
import { eventually } from "../../support/eventually.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { startRpc, type RpcFixture } from "../../support/rpc-fixture.ts";

const soon = { withinMs: 1500, everyMs: 5 } as const;

/** Takes chunks and answers them when told. */
class StallingDrive extends MemoryDrive {
  started = 0;
  readonly release = deferred<void>();

  override async writeChunk(...chunk: Parameters<MemoryDrive["writeChunk"]>): Promise<ChunkReceipt> {
    this.started += 1;
    await this.release.promise;
    return super.writeChunk(...chunk);
  }
}

describe("bounds of the gRPC layer", () => {
  let fixture: RpcFixture;

  afterEach(() => fixture.stop());

  it(`works on ${UPLOAD_CHUNKS_INFLIGHT_MAX} chunks of an upload stream at once, and the next waits`, async function () {
    this.timeout(5000);
    const drive = new StallingDrive();
    fixture = await startRpc([chunkService(() => drive)]);
    const { address, clock, pool } = fixture;
    const client = createGrpcClient(ChunkService, { address, clock, channel: pool.channel(address, "bulk") });
    const count = UPLOAD_CHUNKS_INFLIGHT_MAX + 1;
    const request: UploadRequest = {
      path: "/f",
      sizeBytes: count * CHUNK_SIZE_BYTES,
      onConflict: "fail",
      attributes: {},
      createParents: false,
    };
    const { uploadId } = await drive.initUpload(request);
    const frames = async function* (): AsyncIterable<{ uploadId: bigint; offset: bigint; data: Uint8Array }> {
      const data = new Uint8Array(CHUNK_SIZE_BYTES);
      for (let index = 0; index < count; index += 1) {
        yield { uploadId: BigInt(uploadId), offset: BigInt(index * CHUNK_SIZE_BYTES), data };
      }
    };
    const committed: bigint[] = [];
    const done = (async () => {
      for await (const answer of client.upload(frames())) committed.push(answer.committedSizeBytes);
    })();

    await eventually("the slots are full", () => drive.started === UPLOAD_CHUNKS_INFLIGHT_MAX, soon);
    // A call that goes all the way to the server and back has passed everything that was sent before it.
    await client.queryUpload({ uploadId: BigInt(uploadId) });
    expect(drive.started).to.equal(UPLOAD_CHUNKS_INFLIGHT_MAX);
    drive.release.resolve();
    await done;

    expect(drive.started).to.equal(count);
    expect(committed.at(-1)).to.equal(BigInt(request.sizeBytes ?? 0));
  });

  for (const [excess, what] of [
    [0, "takes"],
    [1, "refuses"],
  ] as const) {
    it(`${what} a frame of ${CHUNK_SIZE_BYTES + excess} bytes`, async () => {
      const drive = new MemoryDrive();
      fixture = await startRpc([chunkService(() => drive)]);
      const { address, clock, pool } = fixture;
      const client = createGrpcClient(ChunkService, {
        address,
        clock,
        channel: pool.channel(address, "bulk"),
      });
      const header = { path: "/f", sizeBytes: BigInt(CHUNK_SIZE_BYTES + excess) };
      const frames = async function* (): AsyncIterable<{ header: typeof header; data: Uint8Array }> {
        yield { header, data: new Uint8Array(CHUNK_SIZE_BYTES + excess) };
      };

      const put = client.putFile(frames());

      if (excess === 0) expect((await put).pathEntry?.path).to.equal("/f");
      else await expectReason("PAYLOAD_TOO_LARGE", () => put);
    });

    it(`${what} the id of a transfer with ${PROGRESS_ID_LENGTH_MAX + excess} characters`, async () => {
      const drive = new MemoryDrive();
      fixture = await startRpc([progressService(() => drive)]);
      const { address, clock, pool } = fixture;
      const client = createGrpcClient(ProgressService, {
        address,
        clock,
        channel: pool.channel(address, "bulk"),
      });
      const watch = async (): Promise<void> => {
        for await (const _ of client.watch({ id: "x".repeat(PROGRESS_ID_LENGTH_MAX + excess) })) continue;
      };

      // At the bound the drive itself is asked, which knows no such transfer.
      await expectReason(excess === 0 ? "UPLOAD_NOT_FOUND" : "ARGUMENT_INVALID", watch);
    });
  }

  it("refuses an upload of unknown size that ends without saying so", async () => {
    const drive = new MemoryDrive();
    fixture = await startRpc([chunkService(() => drive)]);
    const { address, clock, pool } = fixture;
    const client = createGrpcClient(ChunkService, { address, clock, channel: pool.channel(address, "bulk") });
    const cut = async function* (): AsyncIterable<{ header?: { path: string }; data: Uint8Array }> {
      yield { header: { path: "/f" }, data: new Uint8Array(5) };
      yield { data: new Uint8Array(5) };
    };

    await expectReason("PAYLOAD_TRUNCATED", () => client.putFile(cut()));

    await expectReason("PATH_NOT_FOUND", () => drive.stat({ path: "/f" }));
  });

  it("gives every stream and connection a large window", async () => {
    fixture = await startRpc([]);
    const session = connect(`http://${fixture.address}`);
    let streamWindow: number | undefined;
    session.on("remoteSettings", (settings) => {
      streamWindow = settings.initialWindowSize;
    });

    await eventually(
      "the windows are large",
      () =>
        streamWindow === FLOW_CONTROL_WINDOW_BYTES &&
        session.state.remoteWindowSize === FLOW_CONTROL_WINDOW_BYTES,
      soon,
    );

    session.destroy();
  });
});

describe("boundMessagesAhead()", () => {
  it("bounds what a stream of this version of Node reads ahead", () => {
    const stream = new Readable({ objectMode: true, read: () => undefined });

    expect(boundMessagesAhead(stream)).to.equal(true);
    expect(stream.readableHighWaterMark).to.equal(BULK_MESSAGES_AHEAD_MAX);
  });

  it("leaves alone what it does not know", () => {
    expect(boundMessagesAhead({ _readableState: { highWaterMark: "16" } })).to.equal(false);
  });
});

describe("the queue of the Raft transport", () => {
  const peer = 5;

  /** Sends `count` messages of `size` bytes within one turn to a peer that cannot be reached; how many were refused at once. */
  function refusals(count: number, size: number): number {
    const clock = new FakeClock();
    const refused: number[] = [];
    const unused = (): never => {
      throw new DriveError("INTERNAL", "not used here");
    };
    const identity = () => ({ clusterId: "c", memberId: 1 });
    const pool = new ChannelPool({ clock });
    const clients = new PeerClients({ pool, clock, identity, directory: { addressOf: () => undefined } });
    const logger = createLogger({ node: "n1", level: "silent", clock });
    const transport = new GrpcRaftTransport({ clients, clock, logger });
    transport.attach({
      step: unused,
      receiveStateHash: unused,
      receiveSnapshot: unused,
      handleForwarded: unused,
      peerUnreachable: (memberId) => void refused.push(memberId),
      peerDisconnected: () => undefined,
    });
    const context = new Uint8Array(size);
    const message = makeMessage({ kind: "heartbeat", from: 1, to: peer, term: 1, context });

    transport.send(Array.from({ length: count }, () => message));

    const atOnce = refused.length;
    transport.stop();
    pool.close();
    return atOnce;
  }

  it(`holds ${RAFT_QUEUE_COUNT_MAX} messages, drops the next and says so`, () => {
    expect(refusals(RAFT_QUEUE_COUNT_MAX, 0)).to.equal(0);
    expect(refusals(RAFT_QUEUE_COUNT_MAX + 1, 0)).to.equal(1);
  });

  it("holds messages up to its bytes and drops the next", () => {
    // A few bytes of each message are its other fields.
    const half = RAFT_QUEUE_BYTES_MAX / 2;

    expect(refusals(2, half - 64)).to.equal(0);
    expect(refusals(2, half)).to.equal(1);
  });

  it("takes a single message whatever its size", () => {
    expect(refusals(1, RAFT_QUEUE_BYTES_MAX + 1)).to.equal(0);
  });
});

describe("Pipeline", () => {
  interface Ping {
    readonly correlationId: bigint;
  }

  function pipeline(clock: FakeClock, inflightMax: number) {
    const seen: bigint[] = [];
    const batchSizes: number[] = [];
    const gate = deferred<void>();
    const made = new Pipeline<Ping, Ping, readonly Ping[]>({
      clock,
      open: async function* (batches, signal) {
        signal.addEventListener("abort", () => gate.reject(signal.reason as Error));
        for await (const batch of batches) {
          batchSizes.push(batch.length);
          seen.push(...batch.map(({ correlationId }) => correlationId));
          if (seen.length >= inflightMax) await gate.promise;
          yield batch;
        }
      },
      answersOf: (batch) => batch,
      batchCountMax: BATCH_COUNT_MAX,
      inflightMax,
      inflightBytesMax: 2 * BATCH_COUNT_MAX,
      lostReason: "PEER_UNREACHABLE",
      peer: "n1",
    });
    return { made, seen, gate, batchSizes };
  }

  const ping = (correlationId: bigint): Ping => ({ correlationId });

  it("has at most its bound in work; the next waits", async () => {
    const { made, seen } = pipeline(new FakeClock(), 2);
    const answers = [1, 2, 3].map(() => made.request(ping, { sizeBytes: 1, timeoutMs: 1000 }));

    await eventually("two were sent", () => seen.length === 2, soon);

    expect(seen).to.deep.equal([1n, 2n]);
    made.stop();
    for (const answer of answers) await expectReason("NODE_STOPPING", () => answer);
  });

  for (const [count, batchSizes] of [
    [BATCH_COUNT_MAX, [BATCH_COUNT_MAX]],
    [BATCH_COUNT_MAX + 1, [BATCH_COUNT_MAX, 1]],
  ] as const) {
    it(`sends ${count} requests of one turn in ${batchSizes.length} messages`, async () => {
      const running = pipeline(new FakeClock(), count);
      const call = { sizeBytes: 1, timeoutMs: 1000 };
      running.gate.resolve();

      await Promise.all(Array.from({ length: count }, () => running.made.request(ping, call)));

      expect(running.batchSizes).to.deep.equal(batchSizes);
      running.made.stop();
    });
  }

  it("gives up a stream that does not answer in time", async () => {
    const clock = new FakeClock();
    const { made, seen } = pipeline(clock, 1);
    const answer = expectReason("PEER_UNREACHABLE", () =>
      made.request(ping, { sizeBytes: 1, timeoutMs: 1000 }),
    );
    await eventually("it was sent", () => seen.length === 1, soon);

    await clock.advance(1001);

    await answer;
  });

  it("lets a caller give up without harm to the others", async () => {
    const { made, seen, gate } = pipeline(new FakeClock(), 2);
    const abort = new AbortController();
    const given = made.request(ping, { sizeBytes: 1, timeoutMs: 1000, signal: abort.signal });
    const kept = made.request(ping, { sizeBytes: 1, timeoutMs: 1000 });
    await eventually("both were sent", () => seen.length === 2, soon);

    abort.abort(new DriveError("CANCELED", "enough"));
    await expectReason("CANCELED", () => given);
    gate.resolve();

    expect((await kept).correlationId).to.equal(2n);
    made.stop();
  });
});
