/** The drive as people with a terminal use it: curl against every node of a real cluster, and buf curl against gRPC. */
import { expect } from "chai";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { must } from "../../src/std/assert.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { eventually } from "../support/eventually.ts";
import { curl, netdisk, start, type RunResult } from "../support/run-program.ts";
import { useCluster } from "../support/use-cluster.ts";

const MIB = 1024 * 1024;
const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const JSON_BODY = ["-H", "content-type: application/json"];

function bytes(sizeBytes: number, seed: number): Buffer {
  return Buffer.from(new SeededPrng(seed).bytes(sizeBytes));
}

describe("A real cluster and curl", function () {
  this.timeout(60_000);
  const cluster = useCluster({ nodes: 3 });
  let directory: string;
  before(() => {
    directory = mkdtempSync(join(tmpdir(), "netdisk-curl-"));
  });
  after(() => rmSync(directory, { recursive: true, force: true }));

  const url = (node: number, path: string): string => `${cluster().node(node).httpUrl}${path}`;
  const json = async (...parameters: string[]): Promise<Record<string, unknown>> => {
    const { stdout, stderr } = await curl(parameters);
    expect(stderr).to.equal("");
    return JSON.parse(stdout) as Record<string, unknown>;
  };

  it("tells the same of an upload through several nodes at each of them, to its end", async () => {
    const part = join(directory, "mebibyte");
    writeFileSync(part, bytes(MIB, 2));
    const begin = async (name: string): Promise<string> => {
      const body = JSON.stringify({ name, path: "/watched", size: 2 * MIB });
      return String(
        (await json(...["-X", "POST", ...JSON_BODY, "-d", body], url(0, "/api/upload/init")))["fileId"],
      );
    };
    const chunk = (node: number, fileId: string, index: number): Promise<Record<string, unknown>> =>
      json(
        ...["-X", "POST", "--data-binary", `@${part}`],
        url(node, `/api/upload/chunk?fileId=${fileId}&index=${index}`),
      );
    let watchCount = 0;
    // Ends by itself, or by curl's own limit, which is an error.
    const watch = async (
      node: number,
      fileId: string,
    ): Promise<{ readonly states: () => Record<string, unknown>[]; readonly over: Promise<RunResult> }> => {
      watchCount += 1;
      const file = join(directory, `watch-${watchCount}`);
      const over = curl(["-N", "-f", "--max-time", "20", "-o", file, url(node, `/api/progress/${fileId}`)]);
      const states = (): Record<string, unknown>[] => {
        const text = existsSync(file) ? readFileSync(file, "utf8") : "";
        const lines = text.slice(0, text.lastIndexOf("\n") + 1).split("\n");
        const data = lines.filter((line) => line.startsWith("data: "));
        return data.map((line) => JSON.parse(line.slice("data: ".length)) as Record<string, unknown>);
      };
      await eventually("the first figures", () => states().length > 0, { withinMs: 10_000 });
      return { states, over };
    };
    const nodes = [0, 1, 2];

    const fileId = await begin("done.bin");
    await chunk(0, fileId, 0);
    const watches = await Promise.all(nodes.map((node) => watch(node, fileId)));
    await chunk(1, fileId, 1);
    for (const { states } of watches) {
      await eventually("both chunks are seen", () => states().at(-1)?.["transferredBytes"] === 2 * MIB, {
        withinMs: 10_000,
      });
    }
    const complete = ["-X", "POST", ...JSON_BODY, "-d", JSON.stringify({ fileId })];
    await json(...complete, url(1, "/api/upload/complete"));
    const late = await Promise.all(nodes.map((node) => watch(node, fileId)));
    for (const { states, over } of [...watches, ...late]) {
      expect((await over).exitCode).to.equal(0);
      const end = must(states().at(-1), "the end");
      expect(end).to.include({ phase: "done", size: 2 * MIB, transferredBytes: 2 * MIB });
      expect((end["copiedBytes"] as number[]).slice(0, 2)).to.deep.equal([2 * MIB, 2 * MIB]);
    }

    const aborted = await begin("aborted.bin");
    await chunk(0, aborted, 0);
    const broken = await Promise.all(nodes.map((node) => watch(node, aborted)));
    await curl(["-X", "DELETE", url(1, `/api/upload/${aborted}`)]);
    for (const { states, over } of broken) {
      expect((await over).exitCode).to.equal(0);
      expect(states().at(-1)).to.include({ phase: "failed", errorReason: "CANCELED" });
    }
  });

  it("says that the folder of an upload was deleted meanwhile", async () => {
    const body = JSON.stringify({ name: "f.bin", path: "/gone/a", size: 5 });
    const init = await json(...["-X", "POST", ...JSON_BODY, "-d", body], url(0, "/api/upload/init"));
    const fileId = String(init["fileId"]);
    await json(
      ...["-X", "POST", "--data-binary", "bytes"],
      url(1, `/api/upload/chunk?fileId=${fileId}&index=0`),
    );
    const { stderr } = await netdisk(["rm", "-r", "/gone", "--nodes", cluster().node(2).grpcAddress]);
    expect(stderr).to.equal("");

    expect(await json(url(1, `/api/upload/${fileId}`))).to.include({ path: "", state: "open" });
    const complete = ["-X", "POST", ...JSON_BODY, "-d", JSON.stringify({ fileId })];
    const refused = await json(...complete, url(2, "/api/upload/complete"));
    expect(refused).to.have.nested.property("error.code", "PATH_NOT_FOUND");
    expect(refused).to.have.nested.property(
      "error.message",
      `The folder of upload ${fileId} ("f.bin") was deleted while it ran, so it cannot be completed. Upload the file anew, which makes the folder again: the bytes have to be sent once more.`,
    );
  });

  it("uploads in chunks, in any order over different nodes, after saying which are missing", async () => {
    const content = bytes(2 * MIB + 12_345, 1);
    const parts = [0, 1, 2].map((index) => content.subarray(index * MIB, (index + 1) * MIB));
    parts.forEach((part, index) => writeFileSync(join(directory, `part-${index}`), part));
    const init = await json(
      ...[
        "-X",
        "POST",
        ...JSON_BODY,
        "-d",
        JSON.stringify({ name: "parts.bin", path: "/chunks", size: content.length }),
      ],
      url(0, "/api/upload/init"),
    );
    const fileId = String(init["fileId"]);
    expect(init).to.include({ chunkSize: MIB, chunkCount: 3, instant: false });
    const chunk = (node: number, index: number): Promise<Record<string, unknown>> =>
      json(
        ...["-X", "POST", "--data-binary", `@${join(directory, `part-${index}`)}`],
        url(node, `/api/upload/chunk?fileId=${fileId}&index=${index}`),
      );

    const last = await chunk(1, 2);
    expect(last["digest"]).to.equal(
      createHash("sha256")
        .update(content.subarray(2 * MIB))
        .digest("hex"),
    );
    const early = await curl([
      ...["-X", "POST", ...JSON_BODY, "-d", JSON.stringify({ fileId })],
      url(2, "/api/upload/complete"),
    ]);
    expect(JSON.parse(early.stdout)).to.have.nested.property("error.code", "UPLOAD_INCOMPLETE");
    expect(early.stdout).to.include("0-1");
    await Promise.all([chunk(2, 0), chunk(0, 1)]);
    const file = await json(
      ...["-X", "POST", ...JSON_BODY, "-d", JSON.stringify({ fileId })],
      url(2, "/api/upload/complete"),
    );

    expect(file).to.include({ path: "/chunks/parts.bin", size: content.length });
    const { stdout } = await curl([
      "-o",
      join(directory, "parts.out"),
      "-w",
      "%{http_code}",
      url(1, `/api/download/${String(file["fileId"])}`),
    ]);
    expect(stdout).to.equal("200");
    expect(readFileSync(join(directory, "parts.out")).equals(content)).to.equal(true);
  });

  it("takes a file by -T and gives it back by -fLO from every node", async () => {
    const content = bytes(3 * MIB + 1, 2);
    writeFileSync(join(directory, "whole.bin"), content);
    await json("-T", join(directory, "whole.bin"), url(1, "/api/files/content?path=/curl/whole.bin"));

    for (const node of [0, 1, 2]) {
      const target = mkdtempSync(join(directory, "o-"));
      const { exitCode } = await curl([
        "-fLOJ",
        "--output-dir",
        target,
        url(node, "/api/download?path=/curl/whole.bin"),
      ]);
      expect(exitCode).to.equal(0);
      expect(readFileSync(join(target, "whole.bin")).equals(content)).to.equal(true);
    }
  });

  it("leaves no upload open when the client is gone in the middle of a PUT, whenever that is", async () => {
    const openUploads = async (): Promise<number> =>
      Number((await json(url(0, "/api/cluster")))["openUploadCount"]);
    const { port } = new URL(cluster().node(1).httpUrl);
    const before = await openUploads();
    const part = bytes(64 * 1024, 9);
    let cutCount = 0;
    // From before the upload begins until many chunks are on their way.
    for (let sentBytes = MIB / 2; sentBytes <= 4 * MIB; sentBytes += MIB / 8) {
      const socket = connect(Number(port), "127.0.0.1").on("error", () => undefined);
      const head = `PUT /api/files/content?path=/cut/${cutCount} HTTP/1.1\r\nHost: x\r\nContent-Length: ${8 * MIB}\r\n\r\n`;
      socket.write(head);
      for (let at = 0; at < sentBytes; at += part.length)
        await new Promise((written) => socket.write(part, written));
      socket.destroy();
      cutCount += 1;
    }

    await eventually("no upload is open", async () => (await openUploads()) === before, { withinMs: 20_000 });

    expect(cutCount).to.equal(29);
    const listed = await curl(["-o", "/dev/null", "-w", "%{http_code}", url(2, "/api/stat?path=/cut/3")]);
    expect(listed.stdout).to.equal("404");
  });

  it("keeps a file that is there unless the request says to replace it", async () => {
    writeFileSync(join(directory, "v1"), "one");
    writeFileSync(join(directory, "v2"), "two");
    const put = (file: string, query: string): Promise<{ readonly stdout: string }> =>
      curl([
        ...["-T", join(directory, file), "-w", " %{http_code}"],
        url(0, `/api/files/content?path=/curl/kept.txt${query}`),
      ]);

    expect((await put("v1", "")).stdout).to.match(/ 201$/);
    const refused = (await put("v2", "")).stdout;
    expect(refused).to.match(/ 409$/).and.include("onConflict=replace");
    expect((await curl([url(1, "/api/download?path=/curl/kept.txt")])).stdout).to.equal("one");
    expect((await put("v2", "&onConflict=replace")).stdout).to.match(/ 200$/);
    expect((await curl([url(1, "/api/download?path=/curl/kept.txt")])).stdout).to.equal("two");
  });

  it("takes a stream of unknown length from a pipe, an empty file too", async () => {
    const content = bytes(MIB + 77, 3);
    const put = await curl(["-T", "-", url(2, "/api/files/content?path=/curl/piped.bin")], content);
    const empty = await curl(["-T", "-", url(0, "/api/files/content?path=/curl/empty.bin")], "");

    expect(JSON.parse(put.stdout)).to.include({ size: content.length });
    expect(JSON.parse(empty.stdout)).to.include({ size: 0 });
    const { stdout } = await curl([
      url(1, "/api/download?path=/curl/empty.bin"),
      "-w",
      "%{http_code} %{size_download}",
    ]);
    expect(stdout).to.equal("200 0");
  });

  it("resumes a download by -C - and answers ranges", async () => {
    const content = bytes(2 * MIB + 5, 4);
    writeFileSync(join(directory, "resume.src"), content);
    await json("-T", join(directory, "resume.src"), url(0, "/api/files/content?path=/curl/resume.bin"));
    const target = join(directory, "resume.bin");
    writeFileSync(target, content.subarray(0, MIB + 100));

    const resumed = await curl([
      "-C",
      "-",
      "-o",
      target,
      "-w",
      "%{http_code} %{size_download}",
      url(2, "/api/download?path=/curl/resume.bin"),
    ]);
    expect(resumed.stdout).to.equal(`206 ${content.length - MIB - 100}`);
    expect(readFileSync(target).equals(content)).to.equal(true);

    await curl([
      "-r",
      "1048570-1048585",
      "-o",
      join(directory, "range"),
      url(1, "/api/download?path=/curl/resume.bin"),
    ]);
    expect(readFileSync(join(directory, "range")).equals(content.subarray(1_048_570, 1_048_586))).to.equal(
      true,
    );
    const beyond = await curl([
      "-r",
      "99999999-",
      "-o",
      "/dev/null",
      "-w",
      "%{http_code}",
      url(1, "/api/download?path=/curl/resume.bin"),
    ]);
    expect(beyond.stdout).to.equal("416");
  });

  it("gives a file the media type of its name, however it comes, where the client states none", async () => {
    const local = join(directory, "photo.png");
    writeFileSync(local, bytes(1000, 7));
    const nodes = `${cluster().node(1).grpcAddress}`;
    const put = await json("-T", local, url(0, "/api/files/content?path=/typed/put.png"));
    const init = await json(
      ...["-X", "POST", ...JSON_BODY, "-d", JSON.stringify({ name: "steps.png", path: "/typed", size: 0 })],
      url(0, "/api/upload/init"),
    );
    const steps = await json(
      ...["-X", "POST", ...JSON_BODY, "-d", JSON.stringify({ fileId: init["fileId"] })],
      url(1, "/api/upload/complete"),
    );
    const command = await netdisk(["put", "--nodes", nodes, local, "/typed/"]);
    expect(command.exitCode, command.stderr).to.equal(0);
    writeFileSync(join(directory, "large.png"), bytes(3 * MIB, 8));
    const large = await netdisk(["put", "--nodes", nodes, join(directory, "large.png"), "/typed/"]);
    expect(large.exitCode, large.stderr).to.equal(0);

    expect(put["mediaType"]).to.equal("image/png");
    expect(steps["mediaType"]).to.equal("image/png");
    for (const name of ["put.png", "steps.png", "photo.png", "large.png"]) {
      const download = url(2, `/api/download?path=/typed/${name}&redirect=never`);
      const { stdout } = await curl(["-o", "/dev/null", "-w", "%{content_type}", download]);
      expect(stdout, name).to.equal("image/png");
    }
  });

  it("lists and calls every service by buf curl, through reflection", async () => {
    const buf = join(ROOT, "node_modules/.bin/buf");
    const call = async (...parameters: string[]): Promise<string> => {
      const { exitCode, stdout, stderr } = await start(buf, [
        "curl",
        "--protocol",
        "grpc",
        "--http2-prior-knowledge",
        ...parameters,
      ]).result;
      expect(exitCode, stderr).to.equal(0);
      return stdout;
    };
    const base = `http://${cluster().node(0).grpcAddress}`;

    const services = await call("--list-services", base);
    for (const name of [
      "v1.ChunkService",
      "v1.MetadataService",
      "v1.ProgressService",
      "peer.v1.RaftService",
    ]) {
      expect(services).to.include(`netdisk.${name}`);
    }
    expect(services).to.include("grpc.health.v1.Health");
    const health = await call("-d", "{}", `${base}/grpc.health.v1.Health/Check`);
    expect(JSON.parse(health)).to.deep.equal({ status: "SERVING" });
    const raft = JSON.parse(
      await call("-d", "{}", `${base}/netdisk.peer.v1.RaftService/GetStatus`),
    ) as Record<string, unknown>;
    expect(raft).to.include.keys("term", "commitIndex");
    const made = await call(
      "-d",
      '{"path": "/by buf curl"}',
      `${base}/netdisk.v1.MetadataService/CreateDirectory`,
    );
    expect(made).to.include("/by buf curl");
  });
});
