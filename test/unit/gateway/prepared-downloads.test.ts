/** Prepared downloads over HTTP: what is asked for, what is told, ranges and conditions, and refusals. */
import { expect } from "chai";
import { DriveError, type ErrorReason } from "../../../src/drive/errors.ts";
import { downloadStatus, FakePreparedDownloads } from "../../support/fake-prepared-downloads.ts";
import { errorOf, useGateway } from "./use-gateway.ts";

const BYTES = Buffer.from(Array.from({ length: 5000 }, (_, i) => i % 251));

describe("Prepared downloads over HTTP", () => {
  const at = useGateway();
  let downloads: FakePreparedDownloads;

  beforeEach(() => {
    downloads = new FakePreparedDownloads(BYTES);
    at.drive.preparedDownloads = downloads;
  });

  const range = (value: string, more: Record<string, string> = {}): Promise<Response> =>
    at.fetch("/api/downloads/12/content", { headers: { Range: value, ...more } });

  it("are asked for by path, paths and ids, and say where to look", async () => {
    const answer = await at.send(
      "POST",
      "/api/downloads",
      { path: "/照片/", paths: ["/b"], fileIds: ["7"], name: "n" },
      { "Idempotency-Key": "k-1" },
    );

    expect(answer.status).to.equal(202);
    expect(answer.headers.get("location")).to.equal("/api/downloads/12");
    expect(await answer.json()).to.deep.equal({
      ...{ downloadId: "12", taskId: "12", state: "waiting", name: "照片.zip", readBytes: 0, totalBytes: 0 },
      contentUrl: "/api/downloads/12/content",
    });
    expect(downloads.asked).to.deep.equal([
      { sources: [{ path: "/照片" }, { path: "/b" }, { entryId: 7 }], name: "n" },
    ]);
    expect(downloads.requestIds).to.deep.equal(["k-1"]);
  });

  it("are refused when nothing is named, or too much", async () => {
    const paths = Array.from({ length: 1001 }, (_, i) => `/${i}`);
    for (const body of [{}, { path: "not absolute" }, { paths: [] }, { paths }, { path: "/a", zip: true }]) {
      const answer = await at.send("POST", "/api/downloads", body);
      expect(answer.status, JSON.stringify(body).slice(0, 60)).to.equal(400);
    }
    expect((await at.send("POST", "/api/downloads", { paths: paths.slice(1) })).status).to.equal(202);
  });

  it("are released", async () => {
    const answer = await at.fetch("/api/downloads/12", { method: "DELETE" });
    expect([answer.status, downloads.released]).to.deep.equal([204, [12]]);

    downloads.failure = new DriveError("TASK_NOT_FOUND", "There is no task 12.");
    expect(await errorOf(await at.fetch("/api/downloads/12", { method: "DELETE" }))).to.equal(
      "404 TASK_NOT_FOUND",
    );
  });

  it("break the connection when they are released while they are read, and call nobody", async () => {
    const error = new DriveError("DOWNLOAD_EXPIRED", "It was released while it was read.");
    downloads.breakAfter = { sizeBytes: 100, error };
    const answer = await at.fetch("/api/downloads/12/content");
    const outcome = await answer.arrayBuffer().then(
      () => "complete",
      () => "broken",
    );
    expect(outcome).to.equal("broken");
    expect(at.logLines.filter((line) => line.includes("download_broken"))).to.deep.equal([]);
  });

  it("tell how far they are, and why they failed", async () => {
    const error = { reason: "DOWNLOAD_TOO_LARGE", message: "Too many." };
    downloads.states = [
      downloadStatus({ state: "running", readBytes: 5, totalBytes: 9 }),
      downloadStatus({ state: "failed", error }),
      ...downloads.states,
    ];
    const ask = async (): Promise<unknown> => (await at.fetch("/api/downloads/12")).json();

    expect(await ask()).to.include({ state: "running", readBytes: 5, totalBytes: 9 });
    expect(await ask()).to.deep.include({ error: { code: "DOWNLOAD_TOO_LARGE", message: "Too many." } });
    expect(await ask()).to.include({
      ...{ state: "done", size: BYTES.length, entryCount: 3, etag: '"abc"' },
      expireTime: "2026-11-23T00:00:00.000Z",
    });
  });

  it("are sent whole with length, tag and name; HEAD tells the same", async () => {
    const head = await at.fetch("/api/downloads/12/content", { method: "HEAD" });
    const whole = await at.fetch("/api/downloads/12/content");

    expect(Buffer.from(await whole.arrayBuffer()).equals(BYTES)).to.equal(true);
    for (const { status, headers } of [head, whole]) {
      expect(status).to.equal(200);
      expect(headers.get("content-length")).to.equal("5000");
      expect(headers.get("content-type")).to.equal("application/zip");
      expect(headers.get("etag")).to.equal('"abc"');
      expect(headers.get("accept-ranges")).to.equal("bytes");
      expect(headers.get("content-disposition")).to.equal(
        "attachment; filename=\"__.zip\"; filename*=UTF-8''%E7%85%A7%E7%89%87.zip",
      );
    }
    expect(downloads.ranges).to.deep.equal([[0, 5000]]);
  });

  it("are sent from any byte on, if they are still the same", async () => {
    const rest = await range("bytes=4321-");
    expect(rest.status).to.equal(206);
    expect(rest.headers.get("content-range")).to.equal("bytes 4321-4999/5000");
    expect(Buffer.from(await rest.arrayBuffer()).equals(BYTES.subarray(4321))).to.equal(true);

    expect((await range("bytes=1-2", { "If-Range": '"abc"' })).status).to.equal(206);
    expect((await range("bytes=1-2", { "If-Range": '"other"' })).status).to.equal(200);
    const beyond = await range("bytes=5000-");
    expect(beyond.headers.get("content-range")).to.equal("bytes */5000");
    expect(await errorOf(beyond)).to.equal("416 RANGE_NOT_SATISFIABLE");
    expect((await range("bytes=1-2", { "If-None-Match": '"abc"' })).status).to.equal(304);
    expect(await errorOf(await range("bytes=1-2", { "If-Match": '"other"' }))).to.equal(
      "412 VERSION_MISMATCH",
    );
  });

  for (const [reason, status, retryAfter] of [
    ["TASK_NOT_FOUND", 404, null],
    ["DOWNLOAD_NOT_READY", 409, "2"],
    ["DOWNLOAD_FAILED", 409, null],
    ["DOWNLOAD_EXPIRED", 410, null],
  ] as readonly (readonly [ErrorReason, number, string | null])[]) {
    it(`answer ${status} for ${reason}`, async () => {
      downloads.failure = new DriveError(reason, "Because.");

      const answer = await at.fetch("/api/downloads/12/content");

      expect(answer.headers.get("retry-after")).to.equal(retryAfter);
      expect(await errorOf(answer)).to.equal(`${status} ${reason}`);
    });
  }

  it("break the connection when bytes are lost in the middle", async () => {
    downloads.breakAfter = { sizeBytes: 2000, error: new DriveError("CHUNK_LOST", "Lost.") };

    const answer = await at.fetch("/api/downloads/12/content");

    expect(answer.status).to.equal(200);
    let failure: unknown;
    await answer.arrayBuffer().catch((error: unknown) => {
      failure = error;
    });
    expect(failure).to.be.instanceOf(Error);
  });
});
