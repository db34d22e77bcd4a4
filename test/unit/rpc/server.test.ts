/**
 * Goal: a node's gRPC port can be explored and called by tools that know nothing of our protos, and comes up and goes down well.
 * Method: buf's own client as a child process, with server reflection, against a server on loopback.
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { expect } from "chai";
import {
  Health,
  HealthCheckResponse_ServingStatus as Serving,
} from "../../../gen/grpc/health/v1/health_pb.ts";
import { ServerReflection as V1Alpha } from "../../../gen/grpc/reflection/v1alpha/reflection_pb.ts";
import { ProgressService } from "../../../gen/netdisk/v1/progress_service_pb.ts";
import { createGrpcClient } from "../../../src/rpc/client-adapter.ts";
import { chunkService } from "../../../src/rpc/chunk-service.ts";
import { clusterService } from "../../../src/rpc/cluster-service.ts";
import { metadataService } from "../../../src/rpc/metadata-service.ts";
import { progressService } from "../../../src/rpc/progress-service.ts";
import { service } from "../../../src/rpc/server-adapter.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { deferred } from "../../../src/std/deferred.ts";
import { noAdmin } from "../../support/no-admin.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { startRpc, type RpcFixture } from "../../support/rpc-fixture.ts";

const run = promisify(execFile);
const BUF = "node_modules/.bin/buf";

async function bufCurl(args: readonly string[]): Promise<string> {
  const { stdout } = await run(BUF, ["curl", "--protocol", "grpc", "--http2-prior-knowledge", ...args]);
  return stdout;
}

describe("RpcServer", () => {
  describe("with buf curl", function () {
    this.timeout(15_000);
    let fixture: RpcFixture;
    const drive = new MemoryDrive();

    before(async () => {
      const source = (): MemoryDrive => drive;
      fixture = await startRpc([
        metadataService(source),
        chunkService(source),
        progressService(source),
        clusterService(source, noAdmin),
      ]);
      await drive.createDirectory("/docs", { createParents: false, existOk: false, attributes: {} });
    });

    after(() => fixture.stop());

    it("lists every service", async () => {
      const listed = await bufCurl(["--list-services", `http://${fixture.address}`]);

      expect(listed.trim().split("\n")).to.deep.equal([
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "netdisk.v1.ChunkService",
        "netdisk.v1.ClusterService",
        "netdisk.v1.MetadataService",
        "netdisk.v1.ProgressService",
      ]);
    });

    it("calls a method by reflection", async () => {
      const url = `http://${fixture.address}/netdisk.v1.MetadataService/Stat`;

      const answer: unknown = JSON.parse(await bufCurl(["-d", '{"ref": {"path": "/docs"}}', url]));

      expect(answer).to.have.nested.property("pathEntry.path", "/docs");
      expect(answer).to.have.nested.property("pathEntry.entry.kind", "ENTRY_KIND_DIRECTORY");
    });

    it("shows code, message and detail of an error", async () => {
      const url = `http://${fixture.address}/netdisk.v1.MetadataService/Stat`;

      const failure = (await bufCurl(["-d", '{"ref": {"path": "/nothing"}}', url]).catch(
        (error: unknown) => error,
      )) as { readonly stderr: string };

      expect(failure.stderr).to.include('"code": "not_found"');
      expect(failure.stderr).to.include('"type": "netdisk.v1.ErrorDetail"');
      expect(failure.stderr).to.include("There is no entry");
    });

    it("tells its health", async () => {
      const url = `http://${fixture.address}/grpc.health.v1.Health/Check`;

      const node: unknown = JSON.parse(await bufCurl(["-d", "{}", url]));
      const one: unknown = JSON.parse(await bufCurl(["-d", '{"service": "netdisk.v1.ChunkService"}', url]));

      expect(node).to.deep.equal({ status: "SERVING" });
      expect(one).to.deep.equal({ status: "SERVING" });
    });
  });

  it("answers reflection in its older version too", async () => {
    const fixture = await startRpc([progressService(() => new MemoryDrive())]);
    const { address, clock, pool } = fixture;
    const client = createGrpcClient(V1Alpha, { address, clock, channel: pool.channel(address, "bulk") });
    const questions = (async function* () {
      yield {
        messageRequest: { case: "fileContainingSymbol", value: "netdisk.v1.ProgressService.Watch" },
      } as const;
      yield { messageRequest: { case: "fileByFilename", value: "nothing.proto" } } as const;
      yield { messageRequest: { case: "listServices", value: "" } } as const;
    })();

    const cases: (string | undefined)[] = [];
    for await (const answer of client.serverReflectionInfo(questions))
      cases.push(answer.messageResponse.case);

    expect(cases).to.deep.equal(["fileDescriptorResponse", "errorResponse", "listServicesResponse"]);
    await fixture.stop();
  });

  it("tells watchers of its health when it changes", async () => {
    const fixture = await startRpc([progressService(() => new MemoryDrive())]);
    const { address, clock, pool, server } = fixture;
    const client = createGrpcClient(Health, { address, clock, channel: pool.channel(address, "bulk") });

    const seen: number[] = [];
    for await (const { status } of client.watch({ service: "" })) {
      seen.push(status);
      if (seen.length === 1) server.setServing(false);
      if (seen.length === 2) server.setServing(true);
      if (seen.length === 3) break;
    }

    expect(seen).to.deep.equal([Serving.SERVING, Serving.NOT_SERVING, Serving.SERVING]);
    await expectReason("PATH_NOT_FOUND", () => client.check({ service: "no.such.Service" }));
    await fixture.stop();
  });

  it("refuses to start on a port that is taken", async () => {
    const first = await startRpc([]);

    const error = await expectReason("ADDRESS_IN_USE", () => startRpc([], { port: first.port }));

    expect(error.metadata["address"]).to.equal(first.address);
    await first.stop();
  });

  it("lets calls in work finish when it stops", async () => {
    const started = deferred<void>();
    const finish = deferred<void>();
    const slow = service(ProgressService, {
      async *watch({ id }) {
        started.resolve();
        await finish.promise;
        yield { progress: { id } };
      },
    });
    const fixture = await startRpc([slow], { stopGraceMs: 1500 });
    const { address, clock, pool } = fixture;
    const client = createGrpcClient(ProgressService, {
      address,
      clock,
      channel: pool.channel(address, "bulk"),
    });
    const answers: string[] = [];
    const call = (async () => {
      for await (const { progress } of client.watch({ id: "u" })) answers.push(progress?.id ?? "");
    })();
    await started.promise;

    const stopped = fixture.server.stop();
    finish.resolve();

    await call;
    await stopped;
    expect(answers).to.deep.equal(["u"]);
    await fixture.stop();
  });

  it("ends calls that outlast the grace", async () => {
    const endless = service(ProgressService, {
      async *watch({ id }, call) {
        yield { progress: { id } };
        await new Promise((_, reject) =>
          call.signal.addEventListener("abort", () => reject(new DriveError("CANCELED", "x"))),
        );
      },
    });
    const fixture = await startRpc([endless], { stopGraceMs: 50 });
    const { address, clock, pool } = fixture;
    const client = createGrpcClient(ProgressService, {
      address,
      clock,
      channel: pool.channel(address, "bulk"),
    });

    await expectReason("PEER_UNREACHABLE", async () => {
      for await (const _ of client.watch({ id: "u" })) void fixture.server.stop();
    });

    await fixture.stop();
  });
});
