/**
 * Goal: the adapters carry all four kinds of calls, with deadlines, cancellation, back-pressure and errors, over real sockets.
 * Method: a fake ChunkService, ProgressService and ClusterService whose handlers do what each test needs.
 */
import { expect } from "chai";
import { ChunkService, type DownloadRequest } from "../../../gen/netdisk/v1/chunk_service_pb.ts";
import { ClusterService } from "../../../gen/netdisk/v1/cluster_service_pb.ts";
import { ProgressService } from "../../../gen/netdisk/v1/progress_service_pb.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { createGrpcClient, type GrpcClient } from "../../../src/rpc/client-adapter.ts";
import { MESSAGE_SIZE_BYTES_MAX } from "../../../src/rpc/limits.ts";
import { service, type ServerCall, type ServiceHandlers } from "../../../src/rpc/server-adapter.ts";
import { deferred } from "../../../src/std/deferred.ts";
import { eventually } from "../../support/eventually.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { startRpc, type RpcFixture } from "../../support/rpc-fixture.ts";

type ChunkHandlers = ServiceHandlers<typeof ChunkService>;

const unused = (): never => {
  throw new DriveError("INTERNAL", "not used here");
};

/** Never settles until the call is over; then throws its reason. */
function untilAborted(call: ServerCall): Promise<never> {
  return new Promise((_, reject) => {
    call.signal.addEventListener("abort", () => reject(call.signal.reason as Error), { once: true });
  });
}

describe("gRPC adapter", () => {
  let fixture: RpcFixture;
  let chunks: GrpcClient<typeof ChunkService>;
  let progress: GrpcClient<typeof ProgressService>;
  let cluster: GrpcClient<typeof ClusterService>;
  let handlers: { -readonly [K in keyof ChunkHandlers]: ChunkHandlers[K] };
  let watch: ServiceHandlers<typeof ProgressService>["watch"];
  let getStatus: ServiceHandlers<typeof ClusterService>["getStatus"];

  before(async () => {
    const forward = service(ChunkService, {
      initUpload: (request, call) => handlers.initUpload(request, call),
      upload: (requests, call) => handlers.upload(requests, call),
      putFile: (requests, call) => handlers.putFile(requests, call),
      completeUpload: unused,
      queryUpload: unused,
      abortUpload: unused,
      listUploads: unused,
      download: (requests, call) => handlers.download(requests, call),
    });
    const watching = service(ProgressService, { watch: (request, call) => watch(request, call) });
    const status = service(ClusterService, {
      getStatus: (request, call) => getStatus(request, call),
      getReadiness: unused,
      startScrub: unused,
      setDraining: unused,
      getMembership: unused,
      createJoinToken: unused,
      removeNode: unused,
      transferLeadership: unused,
      backUpTree: unused,
    });
    fixture = await startRpc([forward, watching, status]);
    const { address, clock, pool } = fixture;
    const adapter = { address, clock, channel: pool.channel(address, "bulk"), headers: { "x-test": "yes" } };
    chunks = createGrpcClient(ChunkService, adapter);
    progress = createGrpcClient(ProgressService, adapter);
    cluster = createGrpcClient(ClusterService, adapter);
  });

  after(() => fixture.stop());

  beforeEach(() => {
    handlers = {
      initUpload: unused,
      upload: unused,
      putFile: unused,
      completeUpload: unused,
      queryUpload: unused,
      abortUpload: unused,
      listUploads: unused,
      download: unused,
    };
    watch = unused;
    getStatus = unused;
  });

  describe("unary", () => {
    it("answers, and shows the handler the caller's headers", async () => {
      handlers.initUpload = (request, call) => ({
        uploadId: BigInt(request.path.length),
        targets: [{ nodeId: call.header("x-test") ?? "none", address: call.peer }],
      });

      const answer = await chunks.initUpload({ path: "/abc" });

      expect(answer.uploadId).to.equal(4n);
      expect(answer.targets[0]?.nodeId).to.equal("yes");
    });

    it("gives a handler's error its reason", async () => {
      handlers.initUpload = () => {
        throw new DriveError("PATH_EXISTS", "There is /abc.", { path: "/abc" });
      };

      const error = await expectReason("PATH_EXISTS", () => chunks.initUpload({ path: "/abc" }));

      expect(error.metadata).to.deep.equal({ path: "/abc" });
    });

    it("hides and logs an error that is no DriveError", async () => {
      handlers.initUpload = () => Promise.reject(new TypeError("secret"));

      const error = await expectReason("INTERNAL", () => chunks.initUpload({}));

      const id = error.metadata["error_id"] ?? "none";
      expect(error.message).to.not.include("secret");
      expect(fixture.log.filter((line) => line.includes(id) && line.includes("secret")).length).to.equal(1);
    });

    it("gives up after the deadline, on both sides; a change may have happened", async () => {
      const aborted = deferred<void>();
      handlers.initUpload = async (_, call) => {
        call.signal.addEventListener("abort", () => aborted.resolve());
        return untilAborted(call);
      };

      await expectReason("COMMIT_OUTCOME_UNKNOWN", () => chunks.initUpload({}, { timeoutMs: 50 }));

      await aborted.promise;
    });

    it("says of a late read that the peer cannot be reached", async () => {
      getStatus = (_, call) => untilAborted(call);

      await expectReason("PEER_UNREACHABLE", () => cluster.getStatus({}, { timeoutMs: 50 }));
    });

    it("is cancelled by the caller's signal, on both sides", async () => {
      const started = deferred<void>();
      const aborted = deferred<void>();
      handlers.initUpload = async (_, call) => {
        call.signal.addEventListener("abort", () => aborted.resolve());
        started.resolve();
        return untilAborted(call);
      };
      const abort = new AbortController();
      const answer = expectReason("CANCELED", () => chunks.initUpload({}, { signal: abort.signal }));
      await started.promise;

      abort.abort();

      await answer;
      await aborted.promise;
    });
  });

  describe("server streaming", () => {
    it("delivers all answers in order, then ends", async () => {
      watch = async function* ({ id }) {
        for (const transferredBytes of [1n, 2n, 3n]) yield { progress: { id, transferredBytes } };
      };

      const seen: bigint[] = [];
      for await (const answer of progress.watch({ id: "u" }))
        seen.push(answer.progress?.transferredBytes ?? 0n);

      expect(seen).to.deep.equal([1n, 2n, 3n]);
    });

    it("ends with the handler's error after the answers before it", async () => {
      const seen: string[] = [];
      watch = async function* ({ id }) {
        yield { progress: { id } };
        await eventually("the first answer was seen", () => seen.length === 1, { withinMs: 1000 });
        throw new DriveError("UPLOAD_NOT_FOUND", "gone");
      };

      await expectReason("UPLOAD_NOT_FOUND", async () => {
        for await (const answer of progress.watch({ id: "u" })) seen.push(answer.progress?.id ?? "");
      });

      expect(seen).to.deep.equal(["u"]);
    });

    it("stops the handler when the caller leaves early", async () => {
      const stopped = deferred<void>();
      watch = async function* ({ id }, call) {
        try {
          yield { progress: { id } };
          await untilAborted(call);
        } finally {
          stopped.resolve();
        }
      };

      for await (const _ of progress.watch({ id: "u" })) break;

      await stopped.promise;
    });
  });

  describe("client streaming", () => {
    it("takes all requests and answers once", async () => {
      handlers.putFile = async (requests) => {
        let sizeBytes = 0n;
        for await (const { data } of requests) sizeBytes += BigInt(data.length);
        return { pathEntry: { entry: { sizeBytes } } };
      };
      const pieces = async function* (): AsyncIterable<{ data: Uint8Array }> {
        for (let i = 1; i <= 40; i += 1) yield { data: new Uint8Array(i) };
      };

      const { pathEntry } = await chunks.putFile(pieces());

      expect(pathEntry?.entry?.sizeBytes).to.equal(820n);
    });

    it("fails with the error of the source and cancels the call", async () => {
      const aborted = deferred<void>();
      handlers.putFile = async (_, call) => {
        call.signal.addEventListener("abort", () => aborted.resolve());
        return untilAborted(call);
      };
      const broken = async function* (): AsyncIterable<{ data: Uint8Array }> {
        yield { data: new Uint8Array(1) };
        throw new DriveError("PAYLOAD_TRUNCATED", "the disk was pulled");
      };

      await expectReason("PAYLOAD_TRUNCATED", () => chunks.putFile(broken()));

      await aborted.promise;
    });

    it("answers before the requests have ended", async () => {
      handlers.putFile = () => Promise.reject(new DriveError("NO_SPACE", "full"));
      const endless = async function* (): AsyncIterable<{ data: Uint8Array }> {
        for (;;) yield { data: new Uint8Array(1000) };
      };

      await expectReason("NO_SPACE", () => chunks.putFile(endless()));
    });
  });

  describe("bidirectional streaming", () => {
    it("answers each request as it comes", async () => {
      handlers.upload = async function* (requests) {
        for await (const { offset } of requests) yield { committedSizeBytes: offset };
      };
      const answered: bigint[] = [];
      const pingPong = async function* (): AsyncIterable<{ offset: bigint }> {
        for (let offset = 0n; offset < 5n; offset += 1n) {
          yield { offset };
          await eventually("it was answered", () => answered.length > Number(offset), {
            withinMs: 1000,
            everyMs: 1,
          });
        }
      };

      for await (const answer of chunks.upload(pingPong())) answered.push(answer.committedSizeBytes);

      expect(answered).to.deep.equal([0n, 1n, 2n, 3n, 4n]);
    });

    it("holds the sender back when the handler does not read", async () => {
      const release = deferred<void>();
      handlers.upload = async function* (requests) {
        await release.promise;
        for await (const _ of requests) continue;
        yield { committedSizeBytes: 1n };
      };
      let sent = 0;
      const many = async function* (): AsyncIterable<{ data: Uint8Array }> {
        for (; sent < 100; sent += 1) yield { data: new Uint8Array(1024 * 1024) };
      };
      const done = (async () => {
        for await (const _ of chunks.upload(many())) continue;
      })();

      let before = -1;
      await eventually(
        "the sender is held back",
        () => {
          const held = sent === before && sent > 0;
          before = sent;
          return held;
        },
        { withinMs: 1500, everyMs: 100 },
      );

      // An 8 MiB window, and a few messages in each buffer.
      expect(sent).to.be.lessThan(30);
      release.resolve();
      await done;
      expect(sent).to.equal(100);
    }).timeout(5000);

    it("holds the handler back when the receiver does not read", async () => {
      let written = 0;
      handlers.download = async function* (requests: AsyncIterable<DownloadRequest>) {
        for await (const _ of requests) break;
        for (; written < 100; written += 1) yield { data: new Uint8Array(1024 * 1024) };
      };
      const once = async function* (): AsyncIterable<{ offset: bigint }> {
        yield { offset: 0n };
      };
      const answers = chunks.download(once())[Symbol.asyncIterator]();
      await answers.next();

      let before = -1;
      await eventually(
        "the handler is held back",
        () => {
          const held = written === before;
          before = written;
          return held;
        },
        { withinMs: 1500, everyMs: 100 },
      );

      expect(written).to.be.lessThan(30);
      await answers.return?.();
    }).timeout(5000);
  });

  describe("message size", () => {
    const fieldBytes = 5;

    it("takes a message at the limit", async () => {
      handlers.upload = async function* (requests) {
        for await (const { data } of requests) yield { committedSizeBytes: BigInt(data.length) };
      };
      const data = new Uint8Array(MESSAGE_SIZE_BYTES_MAX - fieldBytes);
      const one = async function* (): AsyncIterable<{ data: Uint8Array }> {
        yield { data };
      };

      const seen: bigint[] = [];
      for await (const answer of chunks.upload(one())) seen.push(answer.committedSizeBytes);

      expect(seen).to.deep.equal([BigInt(data.length)]);
    });

    it("refuses one byte more with PAYLOAD_TOO_LARGE", async () => {
      handlers.upload = async function* (requests) {
        for await (const { data } of requests) yield { committedSizeBytes: BigInt(data.length) };
      };
      const one = async function* (): AsyncIterable<{ data: Uint8Array }> {
        yield { data: new Uint8Array(MESSAGE_SIZE_BYTES_MAX - fieldBytes + 1) };
      };

      await expectReason("PAYLOAD_TOO_LARGE", async () => {
        for await (const _ of chunks.upload(one())) continue;
      });
    });
  });
});
