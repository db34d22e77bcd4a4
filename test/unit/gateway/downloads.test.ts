/** Downloads over real HTTP: ranges, conditions, names, redirects, failures in mid-stream, and curl. */
import { expect } from "chai";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { formatDigestField } from "../../../src/gateway/headers.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { errorOf, useGateway } from "./use-gateway.ts";

const run = promisify(execFile);

describe("Downloads over HTTP", () => {
  const at = useGateway();
  const bytes = new SeededPrng(5).bytes(2 * CHUNK_SIZE_BYTES + 100);
  const size = bytes.length;
  let fileId = "";
  let path = "";
  beforeEach(async () => {
    fileId = await at.put("/d/naïve.bin", bytes, { "Content-Type": "text/html" });
    path = `/api/download/${fileId}`;
  });

  it("gives the whole file with what a client needs to know", async () => {
    const response = await at.fetch(path);
    expect(Buffer.compare(Buffer.from(await response.arrayBuffer()), bytes)).to.equal(0);
    const { headers } = response;
    expect(response.status).to.equal(200);
    expect(Object.fromEntries(headers)).to.deep.include({
      "content-length": String(size),
      "accept-ranges": "bytes",
      "content-type": "text/html",
      "content-disposition": "attachment; filename=\"na_ve.bin\"; filename*=UTF-8''na%C3%AFve.bin",
      "x-content-type-options": "nosniff",
      "content-security-policy": "sandbox; default-src 'none'",
      "repr-digest": formatDigestField(sha256(bytes)),
      "last-modified": new Date(at.drive.wallMs).toUTCString(),
    });
    expect(headers.get("etag")).to.match(/^"\d+"$/);
  });

  it("gives it by path too, and an empty file", async () => {
    await at.put("/empty", "");
    const byPath = await at.fetch(`/api/download?path=${encodeURIComponent("/d/naïve.bin")}`);
    expect((await byPath.arrayBuffer()).byteLength).to.equal(size);
    const empty = await at.fetch("/api/download?path=/empty");
    expect([empty.status, empty.headers.get("content-length"), await empty.text()]).to.deep.equal([
      200,
      "0",
      "",
    ]);
  });

  it("HEAD tells all but gives no bytes and reads none", async () => {
    const response = await at.fetch(path, { method: "HEAD", headers: { Range: "bytes=0-0" } });
    expect([response.status, response.headers.get("content-length"), await response.text()]).to.deep.equal([
      200,
      String(size),
      "",
    ]);
    expect(at.drive.piecesRead).to.equal(0);
  });

  const ranges: readonly [string, number, number, number][] = [
    ["bytes=0-0", 206, 0, 1],
    [`bytes=${size - 1}-`, 206, size - 1, 1],
    ["bytes=-7", 206, size - 7, 7],
    [`bytes=${CHUNK_SIZE_BYTES - 1}-${CHUNK_SIZE_BYTES}`, 206, CHUNK_SIZE_BYTES - 1, 2],
    [`bytes=5-${size + 5}`, 206, 5, size - 5],
    ["bytes=0-1,5-6", 200, 0, size],
    ["bytes=x", 200, 0, size],
  ];
  for (const [range, status, offset, length] of ranges) {
    it(`answers Range: ${range} with ${status}`, async () => {
      const response = await at.fetch(path, { headers: { Range: range } });
      expect(response.status).to.equal(status);
      expect(
        Buffer.compare(Buffer.from(await response.arrayBuffer()), bytes.subarray(offset, offset + length)),
      ).to.equal(0);
      const contentRange = status === 206 ? `bytes ${offset}-${offset + length - 1}/${size}` : null;
      expect(response.headers.get("content-range")).to.equal(contentRange);
    });
  }

  it("answers a range beyond the end with 416 and the size", async () => {
    const response = await at.fetch(path, { headers: { Range: `bytes=${size}-` } });
    expect(response.headers.get("content-range")).to.equal(`bytes */${size}`);
    expect(await errorOf(response)).to.equal("416 RANGE_NOT_SATISFIABLE");
  });

  it("keeps a range only while If-Range holds", async () => {
    const etag = (await at.fetch(path, { method: "HEAD" })).headers.get("etag") ?? "";
    const get = (ifRange: string) => at.fetch(path, { headers: { Range: "bytes=0-0", "If-Range": ifRange } });
    expect((await get(etag)).status).to.equal(206);
    expect((await get('"1"')).status).to.equal(200);
    expect((await get(new Date(at.drive.wallMs).toUTCString())).status).to.equal(200);
  });

  it("answers conditions with 304 and 412", async () => {
    const etag = (await at.fetch(path, { method: "HEAD" })).headers.get("etag") ?? "";
    const fresh = await at.fetch(path, { headers: { "If-None-Match": etag } });
    expect([fresh.status, fresh.headers.get("etag"), await fresh.text()]).to.deep.equal([304, etag, ""]);
    const since = new Date(at.drive.wallMs).toUTCString();
    expect((await at.fetch(path, { headers: { "If-Modified-Since": since } })).status).to.equal(304);
    expect(await errorOf(await at.fetch(path, { headers: { "If-Match": '"1"' } }))).to.equal(
      "412 VERSION_MISMATCH",
    );
  });

  it("refuses folders, unknown files, ids that are none and unknown parameters", async () => {
    const folder = await at.fetch("/api/download?path=/d");
    expect(await folder.clone().text())
      .to.include("POST /api/downloads")
      .and.include("netdisk get --zip");
    expect(await errorOf(folder)).to.equal("409 IS_A_DIRECTORY");
    expect(await errorOf(await at.fetch("/api/download/999"))).to.equal("404 PATH_NOT_FOUND");
    for (const id of ["abc", "0", "-1", "01", "9007199254740992", "1e3"]) {
      expect(await errorOf(await at.fetch(`/api/download/${id}`)), id).to.equal("400 ARGUMENT_INVALID");
    }
    expect(await (await at.fetch("/api/download/abc")).text()).to.not.include("too large");
    expect(await errorOf(await at.fetch(`${path}?redirct=never`))).to.equal("400 ARGUMENT_INVALID");
  });

  it("redirects when it has no copy and another node has a public URL", async () => {
    at.drive.redirectUrl = "http://other.example:8080/";
    const to = (query: string) => `http://other.example:8080/api/download/${fileId}?redirect=never${query}`;
    const get = async (query: string) => {
      const response = await at.fetch(path + query);
      await response.arrayBuffer();
      return [response.status, response.headers.get("location")];
    };

    expect(await get("")).to.deep.equal([200, null]);
    expect(await get("?redirect=always")).to.deep.equal([307, to("")]);
    at.drive.local = false;
    expect(await get("")).to.deep.equal([307, to("")]);
    expect(await get("?consistency=stale")).to.deep.equal([307, to("&consistency=stale")]);
    expect(await get("?redirect=never")).to.deep.equal([200, null]);
    at.drive.redirectUrl = undefined;
    expect(await get("?redirect=always")).to.deep.equal([200, null]);
  });

  it("passes consistency=stale on", async () => {
    await (await at.fetch(`${path}?consistency=stale`)).arrayBuffer();
    expect(at.drive.lastRead?.consistency).to.equal("stale");
    expect(await errorOf(await at.fetch(`${path}?consistency=eventual`))).to.equal("400 ARGUMENT_INVALID");
  });

  it("answers lost bytes with an error when nothing was sent, and breaks the connection later", async () => {
    at.drive.readFailsAfterBytes = 0;
    expect(await errorOf(await at.fetch(path))).to.equal("500 CHUNK_LOST");
    at.drive.readFailsAfterBytes = CHUNK_SIZE_BYTES + 5;
    const response = await at.fetch(path);
    expect(response.status).to.equal(200);
    const failure = await response.arrayBuffer().then(
      () => "complete",
      () => "broken",
    );
    expect(failure).to.equal("broken");
    expect(at.logLines.filter((line) => line.includes("download_broken")).length).to.equal(1);
  });

  it("reads no further than a client that stops reading allows", async () => {
    let pieceCount = 0;
    const opened = await at.drive.openDownload({ path: "/d/naïve.bin" });
    const entry = { ...opened.entry, sizeBytes: 1024 * CHUNK_SIZE_BYTES };
    async function* read(): AsyncGenerator<Uint8Array> {
      for (; pieceCount < 1024; pieceCount += 1) yield Promise.resolve(new Uint8Array(CHUNK_SIZE_BYTES));
    }
    at.drive.openDownload = () => Promise.resolve({ ...opened, entry, read });

    const aborter = new AbortController();
    await at.fetch(path, { signal: aborter.signal });
    const stable = async (before: number): Promise<number> => {
      await new Promise((resolve) => {
        setTimeout(resolve, 50);
      });
      return pieceCount === before ? before : stable(pieceCount);
    };
    // The kernel's socket buffers, fetch's own queue and the gateway's window: far less than the file.
    expect(await stable(-1)).to.be.lessThan(64);
    aborter.abort();
  });

  describe("with curl", () => {
    let folder = "";
    before(async () => {
      folder = await mkdtemp(join(tmpdir(), "netdisk-gateway-"));
    });
    after(() => rm(folder, { recursive: true }));

    it("-fLO saves the file under its id, -J under its name", async () => {
      await run("curl", ["-fsSLO", at.url + path], { cwd: folder });
      expect(Buffer.compare(await readFile(join(folder, fileId)), bytes)).to.equal(0);
      const plain = await at.put("/d/plain.bin", "abc");
      await run("curl", ["-fsSLOJ", `${at.url}/api/download/${plain}`], { cwd: folder });
      expect(String(await readFile(join(folder, "plain.bin")))).to.equal("abc");
    });

    it("-C - resumes where a broken download ended", async () => {
      const file = join(folder, "resumed");
      await writeFile(file, bytes.subarray(0, CHUNK_SIZE_BYTES + 3));
      const { stderr } = await run("curl", ["-vfsS", "-C", "-", "-o", file, at.url + path]);
      expect(stderr).to.include("206 Partial Content");
      expect(Buffer.compare(await readFile(file), bytes)).to.equal(0);
    });

    it("-L follows a redirect to another node", async () => {
      at.drive.local = false;
      at.drive.redirectUrl = at.url;
      const { stdout } = await run("curl", [
        "-fsSL",
        "-w",
        "%{num_redirects} %{size_download}",
        "-o",
        "/dev/null",
        at.url + path,
      ]);
      expect(stdout).to.equal(`1 ${size}`);
    });

    it("sees an error of the network when bytes are lost in mid-stream", async () => {
      at.drive.readFailsAfterBytes = CHUNK_SIZE_BYTES;
      const code = await run("curl", ["-fsS", "-o", "/dev/null", at.url + path]).then(
        () => 0,
        (error: { code: number }) => error.code,
      );
      // 18: fewer bytes than announced; 56: reset.
      expect([18, 56]).to.include(code);
    });
  });
});
