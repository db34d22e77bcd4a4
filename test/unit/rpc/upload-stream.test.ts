/**
 * Goal: everyone who sends a chunk gets the answer to it, however many send the same at once and however late another's is.
 * Method: one stream to a node that answers when the test says so, under a clock that the test moves.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { expect } from "chai";
import { UploadResponseSchema, type UploadRequestSchema } from "../../../gen/netdisk/v1/chunk_service_pb.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import type { Failover } from "../../../src/rpc/failover.ts";
import { RemoteUploads } from "../../../src/rpc/remote-upload.ts";
import {
  CHUNK_TIMEOUT_MS,
  IDLE_TIMEOUT_MS,
  UploadStream,
  WAITING_MAX,
  type OutgoingChunk,
} from "../../../src/rpc/upload-stream.ts";
import { must } from "../../../src/std/assert.ts";
import { BoundedQueue } from "../../../src/std/bounded-queue.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";

type Frame = MessageInitShape<typeof UploadRequestSchema>;
type Answer = ReturnType<typeof answerTo>;

function chunk(chunkIndex: number, text = "bytes", digest?: Uint8Array): OutgoingChunk {
  return { chunkIndex, bytes: Buffer.from(text), digest };
}

function answerTo(chunkIndex: number, replicaCount = 3) {
  return create(UploadResponseSchema, { chunkIndex: BigInt(chunkIndex), replicaCount });
}

/** A node that takes frames, and answers what it is told to. */
class Node {
  readonly address = "node:1";
  readonly frames: Frame[] = [];
  readonly answers = new BoundedQueue<Answer>(1000);
  signal: AbortSignal | undefined;
  takes = true;

  readonly chunks = {
    upload: (frames: AsyncIterable<Frame>, options: { signal?: AbortSignal | undefined }) => {
      this.signal = options.signal;
      const signal = options.signal;
      signal?.addEventListener("abort", () => this.answers.end(signal.reason as Error));
      if (this.takes) void this.#take(frames);
      return this.answers;
    },
  };

  async #take(frames: AsyncIterable<Frame>): Promise<void> {
    for await (const frame of frames) this.frames.push(frame);
  }
}

describe("UploadStream", () => {
  let clock: FakeClock;
  let node: Node;
  let stream: UploadStream;

  beforeEach(() => {
    clock = new FakeClock();
    node = new Node();
    stream = new UploadStream(node as unknown as ConstructorParameters<typeof UploadStream>[0], 7, clock);
  });

  it("sends a chunk once that comes several times at once, and answers everyone", async () => {
    const all = [stream.send(chunk(0)), stream.send(chunk(0)), stream.send(chunk(1)), stream.send(chunk(0))];
    await settle();
    expect(node.frames.map(({ offset }) => Number(offset))).to.deep.equal([0, 1_048_576]);
    node.answers.offer(answerTo(1));
    node.answers.offer(answerTo(0, 2));

    expect((await Promise.all(all)).map(({ replicaCount }) => replicaCount)).to.deep.equal([2, 2, 3, 2]);

    const again = stream.send(chunk(0));
    await settle();
    expect(node.frames.length, "what was answered is sent anew").to.equal(3);
    node.answers.offer(answerTo(0));
    await again;
  });

  it("does not take other bytes, or another digest, for an index under way", async () => {
    const sent = stream.send(chunk(0, "bytes", new Uint8Array(32)));

    expect(stream.takes(chunk(0, "bytes", new Uint8Array(32)))).to.equal(true);
    expect(stream.takes(chunk(0, "other", new Uint8Array(32)))).to.equal(false);
    expect(stream.takes(chunk(0, "bytes", new Uint8Array(32).fill(1)))).to.equal(false);
    expect(stream.takes(chunk(0))).to.equal(false);
    expect(stream.takes(chunk(1, "other"))).to.equal(true);
    node.answers.offer(answerTo(0));
    await sent;
    expect(stream.takes(chunk(0, "other"))).to.equal(true);
  });

  it("gives up one chunk alone while the node acknowledges others", async () => {
    const stuck = expectReason("PEER_UNREACHABLE", () => stream.send(chunk(0)));
    await clock.advance(CHUNK_TIMEOUT_MS / 2);
    const other = stream.send(chunk(1));
    const later = stream.send(chunk(2));
    await settle();
    node.answers.offer(answerTo(1));
    await other;

    await clock.advance(CHUNK_TIMEOUT_MS / 2);

    await stuck;
    expect([stream.open, node.signal?.aborted]).to.deep.equal([true, false]);
    node.answers.offer(answerTo(2));
    expect((await later).replicaCount).to.equal(3);
  });

  it("does not take the late answer to a chunk that was given up for that to other bytes", async () => {
    const stuck = expectReason("PEER_UNREACHABLE", () => stream.send(chunk(0)));
    await clock.advance(1);
    const other = stream.send(chunk(1));
    await settle();
    node.answers.offer(answerTo(1));
    await other;
    await clock.advance(CHUNK_TIMEOUT_MS);
    await stuck;

    expect(stream.takes(chunk(0, "other"))).to.equal(false);
  });

  it("ends for all when the node has acknowledged nothing for the whole time, and not a moment before", async () => {
    const first = stream.send(chunk(0)).catch((error: unknown) => error);
    await clock.advance(CHUNK_TIMEOUT_MS - 1);
    const second = stream.send(chunk(1)).catch((error: unknown) => error);
    expect(stream.open).to.equal(true);

    await clock.advance(1);

    for (const error of [await first, await second]) {
      expect(error instanceof DriveError && error.reason).to.equal("PEER_UNREACHABLE");
    }
    expect([stream.open, node.signal?.aborted, clock.timerCount]).to.deep.equal([false, true, 0]);
  });

  it("ends for all after its time though the timer fires a moment early", async () => {
    const fires: (() => void)[] = [];
    const early = {
      monotonicMs: () => clock.monotonicMs(),
      wallMs: () => clock.wallMs(),
      setTimer: (_delayMs: number, fire: () => void) => {
        fires.push(fire);
        return { cancel: () => undefined };
      },
    };
    stream = new UploadStream(node as unknown as ConstructorParameters<typeof UploadStream>[0], 7, early);
    const stuck = expectReason("PEER_UNREACHABLE", () => stream.send(chunk(0)));
    await clock.advance(CHUNK_TIMEOUT_MS - 1);

    must(fires[0], "a timer")();

    await stuck;
    expect([stream.open, node.signal?.aborted]).to.deep.equal([false, true]);
  });

  it("counts the time of a stream at rest from the next chunk", async () => {
    const first = stream.send(chunk(0));
    await settle();
    node.answers.offer(answerTo(0));
    await first;
    await clock.advance(IDLE_TIMEOUT_MS - 1);
    const second = stream.send(chunk(1));
    await clock.advance(CHUNK_TIMEOUT_MS - 1);
    expect(stream.open).to.equal(true);
    node.answers.offer(answerTo(1));
    await second;
  });

  it("closes when nobody has waited for a while, and does not stay for an answer that nobody wants", async () => {
    const stuck = expectReason("PEER_UNREACHABLE", () => stream.send(chunk(0)));
    await clock.advance(1);
    const other = stream.send(chunk(1));
    await settle();
    node.answers.offer(answerTo(1));
    await other;
    await clock.advance(CHUNK_TIMEOUT_MS - 1);
    await stuck;
    await clock.advance(IDLE_TIMEOUT_MS - 1);
    expect(stream.open).to.equal(true);

    await clock.advance(1);

    expect([stream.open, node.signal?.aborted, clock.timerCount]).to.deep.equal([false, true, 0]);
  });

  it(`holds ${WAITING_MAX} chunks for a node that takes none, and refuses one more`, async () => {
    node = new Node();
    node.takes = false;
    stream = new UploadStream(node as unknown as ConstructorParameters<typeof UploadStream>[0], 7, clock);
    const held = Array.from({ length: WAITING_MAX }, (_, index) =>
      stream.send(chunk(index)).catch((error: unknown) => error),
    );

    await expectReason("OVERLOADED", () => stream.send(chunk(WAITING_MAX)));

    expect(stream.takes(chunk(WAITING_MAX, "other")), "nothing of it is kept").to.equal(true);
    node.answers.end(new DriveError("NODE_STOPPING", "The node stops."));
    for (const error of await Promise.all(held)) {
      expect(error instanceof DriveError && error.reason).to.equal("NODE_STOPPING");
    }
  });
});

describe("RemoteUploads", () => {
  it("keeps no stream that closed by itself, was broken or was forgotten, and opens another for the next chunk", async () => {
    const clock = new FakeClock();
    const nodes: Node[] = [];
    const run = (_signal: unknown, work: (node: Node) => Promise<unknown>): Promise<unknown> => {
      const node = new Node();
      nodes.push(node);
      return work(node);
    };
    const uploads = new RemoteUploads({ clock, run } as unknown as Failover);
    const sendAndAnswer = async (uploadId: number): Promise<void> => {
      const sent = uploads.send(uploadId, chunk(0), undefined);
      await settle();
      must(
        nodes.find(({ frames }) => Number(frames.at(-1)?.uploadId) === uploadId),
        "the node",
      ).answers.offer(answerTo(0));
      await sent;
    };
    for (const uploadId of [1, 2, 3]) await sendAndAnswer(uploadId);
    expect(uploads.streamCount).to.equal(3);

    uploads.forget(1);
    expect(uploads.streamCount).to.equal(2);
    must(nodes[1], "the second node").answers.end(
      new DriveError("PEER_UNREACHABLE", "The connection broke."),
    );
    await settle();
    expect(uploads.streamCount).to.equal(1);
    await clock.advance(IDLE_TIMEOUT_MS - 1);
    expect(uploads.streamCount).to.equal(1);
    await clock.advance(1);
    expect(uploads.streamCount).to.equal(0);

    nodes.length = 0;
    await sendAndAnswer(3);
    expect(uploads.streamCount).to.equal(1);
    uploads.close();
    expect([uploads.streamCount, clock.timerCount]).to.deep.equal([0, 0]);
  });

  it("keeps the new stream when the one before it ends late", async () => {
    const clock = new FakeClock();
    const [first, second] = [new Node(), new Node()];
    Object.assign(second, { address: "node:2" });
    let node = first;
    const run = (_signal: unknown, work: (node: Node) => Promise<unknown>): Promise<unknown> => work(node);
    const uploads = new RemoteUploads({ clock, run } as unknown as Failover);
    const early = uploads.send(1, chunk(0), undefined);
    node = second;
    const late = uploads.send(1, chunk(1), undefined);
    await settle();

    first.answers.offer(answerTo(0));
    await early;

    expect([uploads.streamCount, second.signal?.aborted]).to.deep.equal([1, false]);
    second.answers.offer(answerTo(1));
    await late;
    uploads.close();
  });
});
