/** MetadataService and ProgressService over Connect, with the client of @connectrpc/connect-node. */
import { expect } from "chai";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { errorFromJson } from "@connectrpc/connect/protocol-connect";
import type { JsonValue } from "@bufbuild/protobuf";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { MetadataService } from "../../../gen/netdisk/v1/metadata_service_pb.ts";
import { ProgressService } from "../../../gen/netdisk/v1/progress_service_pb.ts";
import { ErrorDetailSchema } from "../../../gen/netdisk/v1/error_pb.ts";
import { decodePathEntry } from "../../../src/contract/codec.ts";
import { decodeProgress } from "../../../src/contract/progress-codec.ts";
import { decodeErrorDetail } from "../../../src/contract/error-detail.ts";
import { DriveError, REASONS, type ErrorReason } from "../../../src/drive/errors.ts";
import { CONNECT_MESSAGE_SIZE_BYTES_MAX } from "../../../src/gateway/limits.ts";
import { useGateway } from "./use-gateway.ts";

describe("Connect", () => {
  const at = useGateway();
  const transport = () => createConnectTransport({ baseUrl: at.url, httpVersion: "1.1" });
  const metadata = () => createClient(MetadataService, transport());
  const byPath = (path: string) => ({ ref: { case: "path" as const, value: path } });

  async function failure(work: Promise<unknown>): Promise<ConnectError> {
    try {
      await work;
    } catch (error) {
      return ConnectError.from(error);
    }
    throw new Error("expected a failure");
  }

  function reasonOf(error: ConnectError): DriveError {
    const [detail] = error.findDetails(ErrorDetailSchema);
    if (detail === undefined) throw new Error(`no detail in ${error.message}`);
    return decodeErrorDetail(detail, error.rawMessage);
  }

  it("changes and reads the tree", async () => {
    const client = metadata();
    await client.createDirectory({ path: "/d", requestId: "r1" });
    expect(at.drive.lastWrite?.requestId).to.equal("r1");
    const fileId = await at.put("/a", "abc");
    const moved = await client.move({ ref: { ref: byPath("/a").ref }, toPath: "/d/b" });
    expect(decodePathEntry(moved.pathEntry).path).to.equal("/d/b");
    const { entry, path } = decodePathEntry((await client.stat({ ref: byPath("/d/b") })).pathEntry);
    expect([entry.entryId, entry.sizeBytes, path]).to.deep.equal([Number(fileId), 3, "/d/b"]);
    await client.copy({ ref: byPath("/d/b"), toPath: "/d/c" });
    await client.update({ ref: byPath("/d/c"), attributes: { mode: 0o600 } });
    const page = await client.list({ ref: byPath("/d"), pageSize: 1 });
    const rest = await client.list({ ref: byPath("/d"), pageToken: page.nextPageToken });
    expect([page, rest].flatMap((each) => each.entries.map((one) => [one.name, one.mode]))).to.deep.equal([
      ["b", undefined],
      ["c", 0o600],
    ]);
    expect((await client.getDurability({ ref: byPath("/d/b") })).verifiedCount).to.equal(3);
    await client.delete({ ref: byPath("/d"), recursive: true });
    expect(reasonOf(await failure(client.stat({ ref: byPath("/d") }))).reason).to.equal("PATH_NOT_FOUND");
  });

  it("carries code, reason and metadata of every reason of the catalogue", async () => {
    const codes = new Map(Object.entries(Code).map(([name, code]) => [name.toLowerCase(), code]));
    for (const reason of Object.keys(REASONS) as ErrorReason[]) {
      if (reason === "INTERNAL") continue;
      at.drive.failure = new DriveError(reason, "It failed.", { some_value: "x" });
      const error = await failure(metadata().stat({ ref: byPath("/") }));
      expect(error.code, reason).to.equal(codes.get(REASONS[reason].code.replaceAll("_", "")));
      expect([reasonOf(error).reason, reasonOf(error).metadata, error.rawMessage]).to.deep.equal([
        reason,
        { some_value: "x" },
        "It failed.",
      ]);
    }
  });

  it("shows an id alone of an internal error", async () => {
    at.drive.failure = new TypeError("secret detail");
    const error = await failure(metadata().stat({ ref: byPath("/") }));
    expect([error.code, error.rawMessage]).to.deep.equal([Code.Internal, "Internal error."]);
    const id = reasonOf(error).metadata["error_id"] ?? "no id";
    expect(at.logLines.filter((line) => line.includes(id) && line.includes("secret detail")).length).to.equal(
      1,
    );
  });

  it("refuses requests that name nothing, and pages that are too large", async () => {
    expect(reasonOf(await failure(metadata().stat({}))).reason).to.equal("ARGUMENT_INVALID");
    const list = (pageSize: number) => metadata().list({ ref: byPath("/"), pageSize });
    expect((await list(10_000)).path).to.equal("/");
    expect(reasonOf(await failure(list(10_001))).reason).to.equal("ARGUMENT_INVALID");
  });

  it("streams progress and changes, also over gRPC-Web", async () => {
    at.drive.progress = (["receiving", "done"] as const).map((phase) => ({
      id: "",
      kind: "upload",
      phase,
      sizeBytes: undefined,
      transferredBytes: 5,
      copiedBytes: [5, 4, 3],
      errorReason: undefined,
    }));
    for (const web of [transport(), createGrpcWebTransport({ baseUrl: at.url, httpVersion: "1.1" })]) {
      const states = [];
      for await (const each of createClient(ProgressService, web).watch({ id: "42" })) {
        states.push(decodeProgress(each.progress));
      }
      expect(states.map((state) => [state.id, state.phase, state.copiedBytes])).to.deep.equal([
        ["42", "receiving", [5, 4, 3]],
        ["42", "done", [5, 4, 3]],
      ]);
    }
    await at.put("/a", "abc");
    const aborter = new AbortController();
    for await (const { changes } of metadata().watchChanges({ afterIndex: 0n }, { signal: aborter.signal })) {
      expect(changes.map((change) => change.entry?.name)).to.deep.equal(["a"]);
      break;
    }
    aborter.abort();
  });

  it("tells the reason of a stream that failed", async () => {
    const watch = async (id: string) => {
      for await (const each of createClient(ProgressService, transport()).watch({ id })) void each;
    };
    expect(reasonOf(await failure(watch("42"))).reason).to.equal("UPLOAD_NOT_FOUND");
    expect(reasonOf(await failure(watch(""))).reason).to.equal("ARGUMENT_INVALID");
  });

  for (const [what, type, body] of [
    ["bytes that are no message", "application/proto", "["],
    ["text that is no JSON", "application/json", "["],
    ["JSON of another shape", "application/json", '{"ref": 7}'],
    ["JSON with a long wrong value", "application/json", `{"ref": "${"x".repeat(10_000)}"}`],
  ] as const) {
    it(`refuses ${what} as an invalid argument`, async () => {
      const answer = await at.fetch("/netdisk.v1.MetadataService/Stat", {
        method: "POST",
        headers: { "Content-Type": type, "Connect-Protocol-Version": "1" },
        body,
      });
      const error = errorFromJson(
        (await answer.json()) as JsonValue,
        undefined,
        new ConnectError("No error came."),
      );

      expect([answer.status, error.code]).to.deep.equal([400, Code.InvalidArgument]);
      expect(reasonOf(error).reason).to.equal("ARGUMENT_INVALID");
      expect(reasonOf(error).metadata).to.deep.equal({ message_type: "netdisk.v1.StatRequest" });
      expect(error.rawMessage.length).to.be.at.most(250);
      expect(error.rawMessage).to.match(/^The request is no netdisk\.v1\.StatRequest: ./);
    });
  }

  it("refuses a malformed message in the query of a GET", async () => {
    const get = (query: string) => at.fetch(`/netdisk.v1.MetadataService/Stat?connect=v1&${query}`);
    expect(
      (await get(`encoding=json&message=${encodeURIComponent('{"ref":{"path":"/"}}')}`)).status,
    ).to.equal(200);
    for (const query of [
      "encoding=proto&message=%5B",
      "encoding=json&message=%5B",
      "encoding=proto&base64=1&message=%25",
    ]) {
      const answer = await get(query);
      const error = errorFromJson(
        (await answer.json()) as JsonValue,
        undefined,
        new ConnectError("No error came."),
      );
      expect([answer.status, reasonOf(error).reason], query).to.deep.equal([400, "ARGUMENT_INVALID"]);
    }
  });

  for (const [method, type] of [
    ["MetadataService/Stat", "application/grpc-web+proto"],
    ["ProgressService/Watch", "application/grpc-web+proto"],
    ["ProgressService/Watch", "application/connect+proto"],
    ["ProgressService/Watch", "application/connect+json"],
  ] as const) {
    it(`refuses a malformed message in an envelope of ${type} to ${method}`, async () => {
      const answer = await at.fetch(`/netdisk.v1.${method}`, {
        method: "POST",
        headers: { "Content-Type": type },
        body: Buffer.from([0, 0, 0, 0, 1, 0x5b]),
      });
      const text = await answer.text();

      expect(text).to.match(/grpc-status: 3\b|"code":"invalid_argument"/i);
      expect(text).to.match(/grpc-status-details-bin: .|"type":"netdisk\.v1\.ErrorDetail"/i);
    });
  }

  for (const body of [[0x5b], [0, 0, 0, 0, 9, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]) {
    it(`refuses [${body.join(" ")}] as a broken envelope of gRPC-Web, with its detail`, async () => {
      const answer = await at.fetch("/netdisk.v1.MetadataService/Stat", {
        method: "POST",
        headers: { "Content-Type": "application/grpc-web+proto" },
        body: Buffer.from(body),
      });
      const text = await answer.text();

      expect(text)
        .to.match(/grpc-status: 3\b/i)
        .and.match(/grpc-status-details-bin: ./i);
    });
  }

  it("answers a media type that it does not take with a code and what to do", async () => {
    const answer = await at.fetch("/netdisk.v1.MetadataService/Stat", {
      method: "POST",
      headers: { "Content-Type": "text/plain" },
      body: "x",
    });
    expect(answer.status).to.equal(415);
    const { error } = (await answer.json()) as { error: { code: string; remedy: string } };
    expect([error.code, error.remedy.length > 0]).to.deep.equal(["MEDIA_TYPE_UNSUPPORTED", true]);
  });

  it("answers curl's JSON, and refuses messages beyond the limit", async () => {
    const call = (body: string) =>
      at.fetch("/netdisk.v1.MetadataService/Stat", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body,
      });
    const answer = (await (await call('{"ref": {"path": "/"}}')).json()) as { pathEntry: { path: string } };
    expect(answer.pathEntry.path).to.equal("/");
    const padded = (sizeBytes: number) => `{"ref": {"path": "/"}}${" ".repeat(sizeBytes - 22)}`;
    expect((await call(padded(CONNECT_MESSAGE_SIZE_BYTES_MAX))).status).to.equal(200);
    const tooLong = await call(padded(CONNECT_MESSAGE_SIZE_BYTES_MAX + 1));
    expect([tooLong.status, ((await tooLong.json()) as { code: string }).code]).to.deep.equal([
      429,
      "resource_exhausted",
    ]);
  });
});
