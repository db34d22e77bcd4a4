/** Uploads over real HTTP: chunks, one-shot PUT, and everything that can be wrong with a body. */
import { expect } from "chai";
import { execFile, spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { formatDigestField } from "../../../src/gateway/headers.ts";
import { receiptViewSchema, ticketViewSchema, uploadViewSchema } from "../../../src/gateway/schemas.ts";
import { toHex } from "../../../src/std/bytes.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { foldTreeHash, sha256 } from "../../../src/std/digest.ts";
import { errorOf, useGateway, type ErrorJson } from "./use-gateway.ts";

const run = promisify(execFile);

describe("Uploads over HTTP", () => {
  const at = useGateway();

  async function init(fields: Record<string, unknown>): Promise<string> {
    const response = await at.send("POST", "/api/upload/init", { name: "f", ...fields });
    expect(response.status, await response.clone().text()).to.equal(201);
    return ticketViewSchema.parse(await response.json()).fileId;
  }

  const sendChunk = (query: string, body: Uint8Array | string, headers = {}) =>
    at.fetch(`/api/upload/chunk?${query}`, { method: "POST", body, headers });

  async function contentOf(path: string): Promise<Buffer> {
    const response = await at.fetch(`/api/download?path=${encodeURIComponent(path)}`);
    expect(response.status).to.equal(200);
    return Buffer.from(await response.arrayBuffer());
  }

  describe("in chunks", () => {
    const bytes = new SeededPrng(7).bytes(2 * CHUNK_SIZE_BYTES + 5);
    const chunk = (index: number) => bytes.slice(index * CHUNK_SIZE_BYTES, (index + 1) * CHUNK_SIZE_BYTES);

    it("takes chunks in any order, tells what is missing and completes", async () => {
      const response = await at.send("POST", "/api/upload/init", {
        name: "a.bin",
        path: "/x/",
        size: bytes.length,
        mode: "0640",
        modifyTime: "2026-01-02T03:04:05.006+01:00",
        mediaType: "text/x-a",
      });
      const ticket = ticketViewSchema.parse(await response.json());
      expect(ticket).to.deep.include({
        chunkSize: CHUNK_SIZE_BYTES,
        chunkCount: 3,
        instant: false,
        missing: [{ first: 0, last: 2 }],
      });
      expect(ticket.targets.length).to.equal(3);

      const last = await sendChunk(`fileId=${ticket.fileId}&index=2`, chunk(2), {
        "Content-Digest": formatDigestField(sha256(chunk(2))),
      });
      expect(receiptViewSchema.parse(await last.json())).to.deep.equal({
        index: 2,
        digest: toHex(sha256(chunk(2))),
        replicas: 3,
      });
      await sendChunk(`fileId=${ticket.fileId}&index=0`, chunk(0));

      const early = await at.send("POST", "/api/upload/complete", { fileId: ticket.fileId });
      const { error } = (await early.json()) as ErrorJson;
      expect([early.status, error.code, error.metadata["missing"]]).to.deep.equal([
        409,
        "UPLOAD_INCOMPLETE",
        "1",
      ]);
      const status = await at.fetch(`/api/upload/${ticket.fileId}`);
      expect(uploadViewSchema.parse(await status.json())).to.deep.include({
        path: "/x/a.bin",
        state: "open",
        missing: [{ first: 1, last: 1 }],
        committedSize: CHUNK_SIZE_BYTES,
      });

      await sendChunk(`fileId=${ticket.fileId}&index=1`, chunk(1));
      const done = await at.send("POST", "/api/upload/complete", { fileId: ticket.fileId });
      const file = (await done.json()) as Record<string, unknown>;
      expect([done.status, done.headers.get("etag")]).to.deep.equal([200, file["etag"]]);
      expect(file).to.deep.include({
        fileId: ticket.fileId,
        path: "/x/a.bin",
        size: bytes.length,
        mode: "0640",
        modifyTime: "2026-01-02T02:04:05.006Z",
        mediaType: "text/x-a",
        sha256: toHex(sha256(bytes)),
      });
      expect(Buffer.compare(await contentOf("/x/a.bin"), bytes)).to.equal(0);
    });

    it("takes an upload of unknown size, and an empty one", async () => {
      const unknown = await init({ name: "u" });
      await sendChunk(`fileId=${unknown}&index=0`, "abc");
      const done = await at.send("POST", "/api/upload/complete", { fileId: unknown, size: 3 });
      expect(done.status).to.equal(200);
      const empty = await init({ name: "e", size: 0 });
      expect((await at.send("POST", "/api/upload/complete", { fileId: empty })).status).to.equal(200);
      expect((await contentOf("/e")).length).to.equal(0);
    });

    it("is instant when equal bytes are here already", async () => {
      await at.put("/first", "same bytes");
      const response = await at.send("POST", "/api/upload/init", {
        name: "second",
        size: 10,
        treeHash: toHex(foldTreeHash([sha256(Buffer.from("same bytes"))])),
      });
      const ticket = ticketViewSchema.parse(await response.json());
      expect([ticket.instant, ticket.missing, ticket.file?.name]).to.deep.equal([true, [], "second"]);
    });

    it("can be aborted", async () => {
      const fileId = await init({ size: 1 });
      expect((await at.fetch(`/api/upload/${fileId}`, { method: "DELETE" })).status).to.equal(204);
      expect(await errorOf(await at.fetch(`/api/upload/${fileId}`))).to.equal("404 UPLOAD_NOT_FOUND");
    });

    it("is listed until it is done or aborted", async () => {
      const list = async (query = ""): Promise<Record<string, unknown>> =>
        (await (await at.fetch(`/api/uploads${query}`)).json()) as Record<string, unknown>;
      const before = (await list())["uploads"] as unknown[];
      const fileId = await init({ size: 5 });
      const listed = await list();
      const uploads = listed["uploads"] as Record<string, unknown>[];

      expect(uploads.length).to.equal(before.length + 1);
      expect(uploads.at(-1)).to.include({ fileId, size: 5, idleMs: 1_500_000 });
      expect(uploads.at(-1)).to.include({ expireTime: "2026-11-30T06:30:00.000Z" });
      expect(listed["nextCursor"]).to.equal(null);
      await at.fetch(`/api/upload/${fileId}`, { method: "DELETE" });
      expect((await list())["uploads"]).to.deep.equal(before);
      expect(await errorOf(await at.fetch("/api/uploads?limit=0"))).to.equal("400 ARGUMENT_INVALID");
    });

    it("answers a repeated request id with the first answer", async () => {
      const send = () =>
        at.send("POST", "/api/upload/init", { name: "twice", size: 1 }, { "Idempotency-Key": '"key-1"' });
      const [first, second] = [await send(), await send()];
      expect(first.headers.get("idempotency-key")).to.equal("key-1");
      expect(await second.json()).to.deep.equal(await first.json());
    });

    it("says of a size that it is over the maximum", async () => {
      const refused = await at.send("POST", "/api/upload/init", { name: "big", size: 1e15 });
      expect(refused.status).to.equal(400);
      expect(await refused.text()).to.contain("over the maximum of 8796093022208 bytes");
      const broken = await at.send("POST", "/api/upload/init", { name: "big", size: 1.5 });
      expect(await broken.text()).to.contain("not a whole number");
    });

    it("can be completed under another name when its own was taken meanwhile", async () => {
      const [first, second] = [await init({ name: "same", size: 0 }), await init({ name: "same", size: 0 })];
      const complete = (body: object) => at.send("POST", "/api/upload/complete", body);
      expect((await complete({ fileId: first })).status).to.equal(200);
      expect(await errorOf(await complete({ fileId: second }))).to.equal("409 PATH_EXISTS");
      const renamed = await complete({ fileId: second, onConflict: "rename" });
      expect(await renamed.json()).to.have.property("name", "same (2)");
    });

    it("takes a chunk of the full size and refuses one byte more, announced or not", async () => {
      const fileId = await init({ name: "u" });
      const full = Buffer.alloc(CHUNK_SIZE_BYTES);
      const over = Buffer.alloc(CHUNK_SIZE_BYTES + 1);
      const query = `fileId=${fileId}&index=0`;
      const chunked = (body: Buffer) => async (): Promise<Response> =>
        at.fetch(`/api/upload/chunk?${query}`, {
          method: "POST",
          body: new ReadableStream({
            start(controller) {
              controller.enqueue(body);
              controller.close();
            },
          }),
          duplex: "half",
        } as RequestInit);
      expect((await sendChunk(query, full)).status).to.equal(200);
      expect(await errorOf(await sendChunk(query, over))).to.equal("413 PAYLOAD_TOO_LARGE");
      expect((await chunked(full)()).status).to.equal(200);
      expect(await errorOf(await chunked(over)())).to.equal("413 PAYLOAD_TOO_LARGE");
    });

    it("puts a body in one-byte pieces together", async () => {
      const fileId = await init({ name: "tiny", size: 3000 });
      const pieces = "1\r\nx\r\n".repeat(3000);
      const answer = await at.raw(
        `POST /api/upload/chunk?fileId=${fileId}&index=0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n${pieces}0\r\n\r\n`,
      );
      expect(answer)
        .to.include("200 OK")
        .and.to.include(toHex(sha256(Buffer.from("x".repeat(3000)))));
    });

    const refused: readonly [string, string, string | Uint8Array, Record<string, string>, string][] = [
      ["an index beyond the last", "index=3", "x", {}, "400 CHUNK_OUT_OF_RANGE"],
      ["an index beyond any content", "index=99999999", "x", {}, "400 CHUNK_OUT_OF_RANGE"],
      ["a negative index", "index=-1", "x", {}, "400 ARGUMENT_INVALID"],
      ["no index", "", "x", {}, "400 ARGUMENT_INVALID"],
      ["an unknown parameter", "index=0&indx=1", "x", {}, "400 ARGUMENT_INVALID"],
      ["too few bytes", "index=2", "abcd", {}, "400 PAYLOAD_TRUNCATED"],
      ["no bytes", "index=2", "", {}, "400 PAYLOAD_TRUNCATED"],
      ["too many bytes", "index=2", "abcdef", {}, "413 PAYLOAD_TOO_LARGE"],
      [
        "a wrong digest",
        "index=2",
        "abcde",
        { "Content-Digest": formatDigestField(sha256(Buffer.from("abcdf"))) },
        "400 DIGEST_MISMATCH",
      ],
      ["a malformed digest", "index=2", "abcde", { "Content-Digest": "sha-256=x" }, "400 ARGUMENT_INVALID"],
      ["a compressed body", "index=2", "abcde", { "Content-Encoding": "gzip" }, "415 MEDIA_TYPE_UNSUPPORTED"],
    ];
    for (const [name, query, body, headers, expected] of refused) {
      it(`refuses a chunk with ${name}`, async () => {
        const fileId = await init({ size: bytes.length });
        expect(await errorOf(await sendChunk(`fileId=${fileId}&${query}`, body, headers))).to.equal(expected);
      });
    }

    it("refuses a chunk for an unknown or a finished upload", async () => {
      expect(await errorOf(await sendChunk("fileId=999&index=0", "x"))).to.equal("404 UPLOAD_NOT_FOUND");
      const fileId = await init({ size: 0 });
      await at.send("POST", "/api/upload/complete", { fileId });
      expect(await errorOf(await sendChunk(`fileId=${fileId}&index=0`, "x"))).to.equal("409 UPLOAD_FINISHED");
    });

    it("answers a chunk that is cut off when the client still listens", async () => {
      const fileId = await init({ size: 10 });
      const head = `POST /api/upload/chunk?fileId=${fileId}&index=0 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n`;
      const answer = await at.raw(`${head}12345`, { half: true });
      expect(answer)
        .to.match(/^HTTP\/1.1 400 /)
        .and.to.include('"PAYLOAD_TRUNCATED"');
    });
  });

  describe("as one PUT", () => {
    const put = (query: string, body: Uint8Array | string, headers: Record<string, string> = {}) =>
      at.fetch(`/api/files/content?${query}`, { method: "PUT", body, headers });

    it("stores the bytes with their attributes, and replaces them when told to", async () => {
      const first = await put("path=/d/a.txt&mode=600&modifyTime=2026-01-02T03:04:05Z", "one", {
        "Content-Type": "text/plain; charset=utf-8",
      });
      expect((await first.json()) as object).to.deep.include({
        path: "/d/a.txt",
        mediaType: "text/plain; charset=utf-8",
        mode: "0600",
        modifyTime: "2026-01-02T03:04:05.000Z",
      });
      expect(first.status).to.equal(201);
      const second = await put("path=/d/a.txt&onConflict=replace", "two", {
        "Content-Type": "application/x-www-form-urlencoded",
      });
      expect(second.status).to.equal(200);
      expect((await second.json()) as object).to.deep.include({ mediaType: "", size: 3 });
      expect(String(await contentOf("/d/a.txt"))).to.equal("two");
    });

    it("keeps what onConflict, If-None-Match and If-Match protect", async () => {
      await at.put("/a", "one");
      for (const query of ["path=/a", "path=/a&onConflict=fail"]) {
        const { error } = (await (await put(query, "two")).json()) as ErrorJson;
        expect(error.code).to.equal("PATH_EXISTS");
        expect(error.message).to.include("&onConflict=replace").and.include("If-Match");
      }
      await at.send("POST", "/api/folders", { path: "/folder" });
      for (const path of ["/folder", "/"]) {
        const { error } = (await (await put(`path=${path}`, "two")).json()) as ErrorJson;
        expect([error.code, error.message]).to.deep.equal(["IS_A_DIRECTORY", `"${path}" is a folder.`]);
        expect(error.remedy).to.include("inside the folder");
      }
      const missing = (await (await put("", "two")).json()) as ErrorJson;
      expect(missing.error.message).to.equal("query.path: is missing.");
      expect(await errorOf(await put("path=/a", "two", { "If-None-Match": "*" }))).to.equal(
        "412 VERSION_MISMATCH",
      );
      expect(await errorOf(await put("path=/a", "two", { "If-Match": '"99"' }))).to.equal(
        "412 VERSION_MISMATCH",
      );
      expect(await errorOf(await put("path=/b", "two", { "If-Match": "*" }))).to.equal(
        "412 VERSION_MISMATCH",
      );
      expect(String(await contentOf("/a"))).to.equal("one");
      const renamed = await put("path=/a&onConflict=rename", "two");
      expect([renamed.status, ((await renamed.json()) as { name: string }).name]).to.deep.equal([
        201,
        "a (2)",
      ]);
      const fresh = await put("path=/c", "new", { "If-None-Match": "*" });
      expect(fresh.status).to.equal(201);
      const current = (await (await at.fetch("/api/stat?path=/a")).json()) as { etag: string };
      expect((await put("path=/a", "three", { "If-Match": current.etag })).status).to.equal(200);
      expect(String(await contentOf("/a"))).to.equal("three");
      expect((await put("path=/a", "four", { "If-Match": "*" })).status).to.equal(200);
      const refused = await put("path=/a&onConflict=fail", "five", { "If-Match": "*" });
      expect(await errorOf(refused)).to.equal("409 PATH_EXISTS");
      expect(String(await contentOf("/a"))).to.equal("four");
    });

    it("says where a file goes when curl puts its name behind another URL", async () => {
      for (const url of ["/file.bin", "/api/files/content/file.bin", "/folder/file.bin"]) {
        const response = await at.fetch(url, { method: "PUT", body: "x" });
        const { error } = (await response.json()) as ErrorJson;
        expect([response.status, error.code]).to.deep.equal([404, "ROUTE_NOT_FOUND"]);
        expect(error.message).to.include("/api/files/content?path=/folder/name");
      }
    });

    it("asks for the name of the file when the path ends in a slash", async () => {
      const response = await put("path=/a/b/", "x");
      const { error } = (await response.json()) as ErrorJson;

      expect([response.status, error.code]).to.deep.equal([400, "PATH_INVALID"]);
      expect(error.message).to.include('"/a/b/"').and.include("add the name of the file");
      expect(await errorOf(await at.fetch("/api/stat?path=/a"))).to.equal("404 PATH_NOT_FOUND");
    });

    it("checks a digest of the whole and leaves nothing of a wrong one", async () => {
      const right = formatDigestField(sha256(Buffer.from("abc")));
      expect((await put("path=/right", "abc", { "Repr-Digest": right })).status).to.equal(201);
      expect(await errorOf(await put("path=/wrong", "abd", { "Content-Digest": right }))).to.equal(
        "400 DIGEST_MISMATCH",
      );
      expect(await errorOf(await at.fetch("/api/stat?path=/wrong"))).to.equal("404 PATH_NOT_FOUND");
    });

    it("leaves nothing of a body that is cut off, and the drive is told", async () => {
      const head = "PUT /api/files/content?path=/cut HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n";
      await at.raw(`${head}12345`, { half: true });
      expect(await errorOf(await at.fetch("/api/stat?path=/cut"))).to.equal("404 PATH_NOT_FOUND");
    });

    const refused: readonly [string, string, Record<string, string>, string][] = [
      ["no path", "", {}, "400 ARGUMENT_INVALID"],
      ["a relative path", "path=a", {}, "400 PATH_INVALID"],
      ["a path with ..", "path=/a/../b", {}, "400 PATH_INVALID"],
      ["a path with an encoded ..", "path=%2Fa%2F%2e%2e%2Fb", {}, "400 PATH_INVALID"],
      ["a path with NUL", "path=/a%00", {}, "400 PATH_INVALID"],
      ["a path that is not NFC", "path=/e%CC%81", {}, "400 PATH_INVALID"],
      ["a name that turns the direction of writing", "path=/a%E2%80%AEb", {}, "400 PATH_INVALID"],
      ["a name with a byte order mark", "path=/%EF%BB%BFa", {}, "400 PATH_INVALID"],
      ["a path with an empty name", "path=/a//b", {}, "400 PATH_INVALID"],
      ["a name of 256 bytes", `path=/${"a".repeat(256)}`, {}, "400 NAME_TOO_LONG"],
      ["129 names", `path=${"/a".repeat(129)}`, {}, "400 PATH_TOO_DEEP"],
      ["the root as path", "path=/", {}, "409 IS_A_DIRECTORY"],
      ["a file as parent", "path=/file/x", {}, "409 NOT_A_DIRECTORY"],
      ["a missing parent that may not be made", "path=/no/x&createParents=false", {}, "404 PATH_NOT_FOUND"],
      ["a mode that is none", "path=/x&mode=8", {}, "400 ARGUMENT_INVALID"],
      ["a time that is none", "path=/x&modifyTime=yesterday", {}, "400 ARGUMENT_INVALID"],
      ["an unknown conflict rule", "path=/x&onConflict=merge", {}, "400 ARGUMENT_INVALID"],
      ["a path given twice", "path=/x&path=/y", {}, "400 ARGUMENT_INVALID"],
      ["a part of a file", "path=/x", { "Content-Range": "bytes 0-4/10" }, "400 ARGUMENT_INVALID"],
      ["a compressed body", "path=/x", { "Content-Encoding": "br" }, "415 MEDIA_TYPE_UNSUPPORTED"],
      [
        "a request id of 65 characters",
        "path=/x",
        { "Idempotency-Key": "a".repeat(65) },
        "400 ARGUMENT_INVALID",
      ],
    ];
    for (const [name, query, headers, expected] of refused) {
      it(`refuses ${name}`, async () => {
        await at.put("/file", "x");
        expect(await errorOf(await put(query, "12345", headers))).to.equal(expected);
      });
    }

    it("takes the longest name, the deepest path and the longest request id", async () => {
      expect(
        (await put(`path=/${"a".repeat(255)}`, "x", { "Idempotency-Key": "a".repeat(64) })).status,
      ).to.equal(201);
      expect((await put(`path=${"/a".repeat(128)}`, "x")).status).to.equal(201);
    });

    it("lists every problem at once", async () => {
      const response = await put("mode=9&onConflict=x&nope=1", "x");
      const { error } = (await response.json()) as ErrorJson;
      expect(Object.keys(error.metadata).length).to.equal(4);
      for (const part of ["query.path", "query.mode", "query.onConflict", '"nope"']) {
        expect(error.message).to.include(part);
      }
    });
  });

  describe("with curl", () => {
    let folder = "";
    before(async () => {
      folder = await mkdtemp(join(tmpdir(), "netdisk-gateway-"));
    });
    after(() => rm(folder, { recursive: true }));

    it("-T sends a file, waiting for 100 Continue", async () => {
      const bytes = new SeededPrng(3).bytes(3 * CHUNK_SIZE_BYTES + 17);
      const file = join(folder, "big.bin");
      await writeFile(file, bytes);
      const { stdout, stderr } = await run("curl", [
        "-vfsS",
        "--expect100-timeout",
        "30",
        "-H",
        "Expect: 100-continue",
        "-T",
        file,
        `${at.url}/api/files/content?path=/big.bin`,
      ]);
      expect((JSON.parse(stdout) as { size: number }).size).to.equal(bytes.length);
      expect(stderr).to.include("100 Continue");
      expect(Buffer.compare(await contentOf("/big.bin"), bytes)).to.equal(0);
    });

    it("is refused before it sends the body where the answer is known", async () => {
      const { stdout, stderr } = await run("curl", [
        "-vsS",
        "--expect100-timeout",
        "30",
        "-H",
        "Expect: 100-continue",
        "-T",
        join(folder, "big.bin"),
        `${at.url}/api/files/content?path=/big.bin&mode=9`,
      ]);
      expect(stdout).to.include("ARGUMENT_INVALID");
      expect(stderr).not.to.include("100 Continue");
    });

    it("-T - sends a pipe of unknown length", async () => {
      const curl = spawn("curl", ["-fsS", "-T", "-", `${at.url}/api/files/content?path=/piped`]);
      curl.stdin.write("first ");
      curl.stdin.end("second");
      await new Promise((resolve) => curl.once("close", resolve));
      expect(String(await contentOf("/piped"))).to.equal("first second");
    });

    it("-C - with -T is refused, because a part is not the file", async () => {
      const { stdout } = await run("curl", [
        "-sS",
        "-C",
        "2",
        "-T",
        join(folder, "big.bin"),
        `${at.url}/api/files/content?path=/part`,
      ]);
      expect(stdout).to.include("Content-Range");
    });
  });
});
