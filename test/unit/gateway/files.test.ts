/** The tree, the node and errors over real HTTP. */
import { expect } from "chai";
import { judgeCopies } from "../../../src/drive/cluster-judgement.ts";
import { CHUNK_SIZE_BYTES, PAGE_SIZE_MAX } from "../../../src/drive/limits.ts";
import { DriveError, REASONS, type ErrorReason } from "../../../src/drive/errors.ts";
import { AssertionError } from "../../../src/std/assert.ts";
import { JSON_BODY_SIZE_BYTES_MAX } from "../../../src/gateway/limits.ts";
import {
  clusterViewSchema,
  durabilityViewSchema,
  errorViewSchema,
  fileViewSchema,
  pageViewSchema,
} from "../../../src/gateway/schemas.ts";
import { errorOf, useGateway, type ErrorJson } from "./use-gateway.ts";

describe("The tree over HTTP", () => {
  const at = useGateway();
  const stat = async (path: string) =>
    fileViewSchema.parse(await (await at.fetch(`/api/stat?path=${encodeURIComponent(path)}`)).json());
  const exists = async (path: string) =>
    (await at.fetch(`/api/stat?path=${encodeURIComponent(path)}`)).status === 200;

  it("makes folders, with parents on request", async () => {
    const missing = await at.send("POST", "/api/folders", { path: "/a/b" });
    const { error } = (await missing.json()) as ErrorJson;
    expect([missing.status, error.code]).to.deep.equal([404, "PATH_NOT_FOUND"]);
    expect(error.message).to.include('With "createParents": true the folders above are made too.');
    const made = await at.send("POST", "/api/folders", { path: "/a/b", createParents: true, mode: "0755" });
    expect(made.status).to.equal(201);
    const folder = fileViewSchema.parse(await made.json());
    expect(folder).to.deep.include({ path: "/a/b", kind: "directory", mode: "0755", size: 0 });
    expect(made.headers.get("etag")).to.equal(folder.etag);
    expect(await errorOf(await at.send("POST", "/api/folders", { path: "/a/b" }))).to.equal(
      "409 PATH_EXISTS",
    );
    expect((await at.send("POST", "/api/folders", { path: "/a/b", existOk: true })).status).to.equal(201);
  });

  it("lists a folder page by page", async () => {
    for (const name of ["c", "a", "b"]) await at.put(`/${name}`, name);
    const page = async (query: string) =>
      pageViewSchema.parse(await (await at.fetch(`/api/files${query}`)).json());
    const first = await page("?path=/&limit=2");
    expect([first.path, first.files.map((file) => file.name)]).to.deep.equal(["/", ["a", "b"]]);
    const second = await page(`?limit=2&cursor=${encodeURIComponent(first.nextCursor ?? "")}`);
    expect([second.files.map((file) => file.name), second.nextCursor]).to.deep.equal([["c"], null]);
    expect(await errorOf(await at.fetch("/api/files?cursor=x"))).to.equal("400 ARGUMENT_INVALID");
    expect(await errorOf(await at.fetch("/api/files?path=/a"))).to.equal("409 NOT_A_DIRECTORY");
  });

  it("takes page sizes from one to the largest and refuses one less and one more", async () => {
    const status = async (limit: number) => (await at.fetch(`/api/files?limit=${limit}`)).status;
    expect([await status(1), await status(PAGE_SIZE_MAX)]).to.deep.equal([200, 200]);
    expect([await status(0), await status(PAGE_SIZE_MAX + 1)]).to.deep.equal([400, 400]);
  });

  it("stats by id and by path, and answers 304 to a current ETag", async () => {
    const fileId = await at.put("/a b+c.txt", "abc");
    const file = await stat("/a b+c.txt");
    expect(file).to.deep.include({ fileId, kind: "file", size: 3, path: "/a b+c.txt" });
    const byId = await at.fetch(`/api/files/${fileId}`, { headers: { "If-None-Match": file.etag } });
    expect(byId.status).to.equal(304);
    expect((await at.fetch(`/api/files/${fileId}?consistency=stale`)).status).to.equal(200);
    expect(at.drive.lastRead?.consistency).to.equal("stale");
  });

  it("tells where the copies of a file are", async () => {
    const fileId = await at.put("/a", "abc");
    const answer = await at.fetch(`/api/files/${fileId}/durability`);
    expect(durabilityViewSchema.parse(await answer.json())).to.deep.equal({
      verifiedCount: 3,
      nodeIds: ["n1", "n2", "n3"],
      oldestCheckAgeMs: 2 * 86_400_000,
      text: "3/3 verified, oldest check 2 d ago",
    });
    expect((await stat("/a")).durability?.text).to.equal("3/3 verified, oldest check 2 d ago");
    const byId = fileViewSchema.parse(await (await at.fetch(`/api/files/${fileId}`)).json());
    expect(byId.durability?.verifiedCount).to.equal(3);
    const folder = fileViewSchema.parse(await (await at.fetch("/api/stat?path=/")).json());
    expect(folder.durability).to.equal(undefined);
  });

  it("renames, moves, and does both at once", async () => {
    await at.send("POST", "/api/folders", { path: "/d" });
    const fileId = await at.put("/a", "abc");
    const patch = async (body: object) =>
      fileViewSchema.parse(await (await at.send("PATCH", `/api/files/${fileId}`, body)).json()).path;
    expect(await patch({ name: "b" })).to.equal("/b");
    expect(await patch({ parentPath: "/d" })).to.equal("/d/b");
    expect(await patch({ parentPath: "/", name: "c" })).to.equal("/c");
    expect(await patch({ path: "/d/e" })).to.equal("/d/e");
    const byPath = await at.send("PATCH", "/api/files?path=/d/e", { name: "f" });
    expect(fileViewSchema.parse(await byPath.json()).path).to.equal("/d/f");
  });

  it("refuses a move into itself, onto a taken name, or of the root", async () => {
    await at.send("POST", "/api/folders", { path: "/d" });
    await at.put("/a", "abc");
    const patch = async (path: string, body: object) =>
      errorOf(await at.send("PATCH", `/api/files?path=${path}`, body));
    expect(await patch("/d", { path: "/d/x" })).to.equal("409 MOVE_INTO_SELF");
    expect(await patch("/a", { name: "d" })).to.equal("409 PATH_EXISTS");
    expect(await patch("/", { name: "x" })).to.equal("400 ARGUMENT_INVALID");
    expect(await patch("/a", { name: "x/y" })).to.equal("400 PATH_INVALID");
    expect(await patch("/a", { name: ".." })).to.equal("400 PATH_INVALID");
  });

  it("changes attributes, guarded by If-Match", async () => {
    await at.put("/a", "abc");
    const { etag } = await stat("/a");
    const patch = (body: object, headers = {}) => at.send("PATCH", "/api/files?path=/a", body, headers);
    const changed = await patch({ mode: "0600", mediaType: "text/plain" }, { "If-Match": etag });
    expect(fileViewSchema.parse(await changed.json())).to.deep.include({
      mode: "0600",
      mediaType: "text/plain",
    });
    expect(await errorOf(await patch({ mode: "0644" }, { "If-Match": etag }))).to.equal(
      "412 VERSION_MISMATCH",
    );
    expect(await errorOf(await patch({ mediaType: "x\r\ny" }))).to.equal("400 ARGUMENT_INVALID");
  });

  it("tells of a weak or foreign tag in If-Match what the tag is, and of no version that nobody sent", async () => {
    await at.put("/a", "abc");
    const { etag } = await stat("/a");
    for (const tag of [`W/${etag}`, '"of-another-server"']) {
      const answer = await at.send("PATCH", "/api/files?path=/a", { mode: "0600" }, { "If-Match": tag });
      expect(answer.status).to.equal(412);
      const { error } = (await answer.json()) as { error: { code: string; message: string } };
      expect(error.code).to.equal("VERSION_MISMATCH");
      expect(error.message).to.equal(
        `No tag in If-Match is the strong tag of what is there; the tag is now ${etag}.`,
      );
    }
  });

  it("refuses JSON in another character encoding than UTF-8", async () => {
    const send = (charset: string) =>
      at.send(
        "POST",
        "/api/folders",
        { path: "/e" },
        { "Content-Type": `application/json; charset=${charset}` },
      );
    expect(await errorOf(await send("utf-16"))).to.equal("415 MEDIA_TYPE_UNSUPPORTED");
    expect((await send("UTF-8")).status).to.equal(201);
  });

  it("refuses a PATCH that says nothing, two things, or one thing twice", async () => {
    await at.put("/a", "abc");
    for (const body of [
      {},
      { name: "b", mode: "0600" },
      { path: "/b", name: "b" },
      { onConflict: "fail", mode: "1" },
    ]) {
      expect(await errorOf(await at.send("PATCH", "/api/files?path=/a", body))).to.equal(
        "400 ARGUMENT_INVALID",
      );
    }
  });

  it("copies", async () => {
    const fileId = await at.put("/a", "abc");
    const copy = await at.send("POST", `/api/files/${fileId}/copy`, { path: "/b" });
    expect([copy.status, fileViewSchema.parse(await copy.json()).path]).to.deep.equal([201, "/b"]);
    const again = await at.send("POST", `/api/files/${fileId}/copy`, { path: "/b", onConflict: "rename" });
    expect(fileViewSchema.parse(await again.json()).path).to.equal("/b (2)");
  });

  it("never replaces a folder by a file", async () => {
    await at.put("/folder/a", "abc");
    const url = "/api/files/content?path=/folder&onConflict=replace";

    const refused = await at.fetch(url, { method: "PUT", body: "x" });

    expect(await errorOf(refused)).to.equal("409 IS_A_DIRECTORY");
    expect(await (await at.fetch("/api/download?path=/folder/a&redirect=never")).text()).to.equal("abc");
  });

  it("refuses a file at an empty path, which is not the root here", async () => {
    const refused = await at.fetch("/api/files/content?path=", { method: "PUT", body: "x" });

    expect(await refused.clone().text()).to.include("The path is empty");
    expect(await errorOf(refused)).to.equal("400 PATH_INVALID");
  });

  it("deletes, a folder with content only on request", async () => {
    const fileId = await at.put("/d/a", "abc");
    const remove = (path: string) => at.fetch(path, { method: "DELETE" });
    const refused = await remove("/api/files?path=/d");
    expect(await refused.clone().text()).to.include("recursive=true");
    expect(await errorOf(refused)).to.equal("409 DIRECTORY_NOT_EMPTY");
    expect(await errorOf(await remove("/api/files?path=/d&recursive=yes"))).to.equal("400 ARGUMENT_INVALID");
    expect((await remove(`/api/files/${fileId}`)).status).to.equal(204);
    await at.put("/d/a", "abc");
    expect((await remove("/api/files?path=/d&recursive=true")).status).to.equal(204);
    expect(await exists("/d")).to.equal(false);
    expect(await errorOf(await remove("/api/files?path=/d"))).to.equal("404 PATH_NOT_FOUND");
  });

  it("gives every change an identity that the answer names", async () => {
    const own = await at.send("POST", "/api/folders", { path: "/a", requestId: "mine" });
    expect([own.headers.get("idempotency-key"), at.drive.lastWrite?.requestId]).to.deep.equal([
      "mine",
      "mine",
    ]);
    const made = await at.send("POST", "/api/folders", { path: "/b" });
    expect(made.headers.get("idempotency-key")).to.match(/^[0-9a-f]{32}$/);
    const both = await at.send(
      "POST",
      "/api/folders",
      { path: "/c", requestId: "x" },
      { "Idempotency-Key": "y" },
    );
    expect(await errorOf(both)).to.equal("400 ARGUMENT_INVALID");
  });

  it("echoes X-Request-Id, which names no change", async () => {
    const traced = await at.send("POST", "/api/folders", { path: "/t" }, { "X-Request-Id": "trace" });
    expect(traced.headers.get("x-request-id")).to.equal("trace");
    expect(at.drive.lastWrite?.requestId).to.match(/^[0-9a-f]{32}$/);
    const read = await at.fetch("/api/files", { headers: { "X-Request-Id": "trace" } });
    expect(read.headers.get("x-request-id")).to.equal("trace");
    const spaced = await at.fetch("/api/files", { headers: { "X-Request-Id": "a b" } });
    expect(spaced.headers.get("x-request-id")).to.equal(null);
  });
});

describe("JSON bodies", () => {
  const at = useGateway();
  const send = (body: string, headers = {}) => at.send("POST", "/api/folders", body, headers);

  it("are refused with every problem named", async () => {
    const response = await send('{"path": 5, "createParents": "yes", "nope": 1}');
    const { error } = (await response.json()) as ErrorJson;
    expect(error.code).to.equal("ARGUMENT_INVALID");
    for (const part of ["body.path", "body.createParents", '"nope"']) expect(error.message).to.include(part);
  });

  const cases: readonly [string, string][] = [
    ["that are no JSON", "{path"],
    ["that are empty", ""],
    ["that are no object", "[]"],
    ["that are null", "null"],
    ["with an unknown field", '{"path":"/a","__proto__":{"x":1}}'],
    ["with an unknown field named constructor", '{"path":"/a","constructor":1}'],
  ];
  for (const [name, body] of cases) {
    it(`${name} are refused`, async () => {
      expect(await errorOf(await send(body))).to.equal("400 ARGUMENT_INVALID");
    });
  }

  it("that are not UTF-8 are refused", async () => {
    const answer = await at.raw(
      'POST /api/folders HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{"path":"/\xff\xfe"}',
    );
    expect(answer).to.include("not JSON in UTF-8");
  });

  it("need their media type, so that no foreign page's form is taken", async () => {
    for (const type of ["text/plain", "application/x-www-form-urlencoded"]) {
      expect(await errorOf(await send('{"path":"/a"}', { "Content-Type": type }))).to.equal(
        "415 MEDIA_TYPE_UNSUPPORTED",
      );
    }
    expect(
      (await send('{"path":"/a"}', { "Content-Type": "Application/JSON; charset=utf-8" })).status,
    ).to.equal(201);
  });

  it("may have the largest size and not a byte more", async () => {
    const body = (sizeBytes: number) => `{"path":"/a"${" ".repeat(sizeBytes - 13)}}`;
    expect((await send(body(JSON_BODY_SIZE_BYTES_MAX))).status).to.equal(201);
    expect(await errorOf(await send(body(JSON_BODY_SIZE_BYTES_MAX + 1)))).to.equal("413 PAYLOAD_TOO_LARGE");
  });
});

describe("Errors over HTTP", () => {
  const at = useGateway();

  it("have status, remedy and retry advice of the catalogue for every reason", async () => {
    for (const reason of Object.keys(REASONS) as ErrorReason[]) {
      const spec: { httpStatus: number; remedy: string; outcome: string; retryAfterSeconds?: number } =
        REASONS[reason];
      at.drive.failure = new DriveError(reason, `It is ${reason}.`, { some_value: "x" });
      const response = await at.send("POST", "/api/folders", { path: "/a" });
      const { error } = errorViewSchema.parse(await response.json());
      expect([response.status, error.code], reason).to.deep.equal([spec.httpStatus, reason]);
      expect(error.remedy).to.equal(spec.remedy);
      expect(error.outcomeUnknown === true, reason).to.equal(spec.outcome === "indefinite");
      expect(response.headers.get("retry-after")).to.equal(spec.retryAfterSeconds?.toString() ?? null);
      if (reason !== "INTERNAL") expect(error.metadata).to.deep.equal({ some_value: "x" });
    }
  });

  it("say nothing of an outcome where nothing was to change", async () => {
    at.drive.failure = new DriveError("COMMIT_OUTCOME_UNKNOWN", "Late.");
    const response = await at.fetch("/api/files");
    expect(((await response.json()) as ErrorJson).error.outcomeUnknown).to.equal(undefined);
  });

  it("name the request id to repeat a change of unknown outcome with", async () => {
    at.drive.failure = new DriveError("COMMIT_OUTCOME_UNKNOWN", "Late.");
    const response = await at.send("POST", "/api/folders", { path: "/a" });
    expect(response.status).to.equal(504);
    expect(response.headers.get("x-request-id")).to.match(/^[0-9a-f]{32}$/);
  });

  it("show an id alone when they are internal, and the log has the rest", async () => {
    for (const failure of [
      new TypeError("secret detail"),
      new DriveError("INTERNAL", "secret detail"),
      new AssertionError("secret detail"),
    ]) {
      at.logLines.length = 0;
      at.drive.failure = failure;
      const response = await at.fetch("/api/files");
      const text = await response.text();
      const { error } = errorViewSchema.parse(JSON.parse(text));
      expect([response.status, error.code]).to.deep.equal([500, "INTERNAL"]);
      expect(text).not.to.include("secret");
      const lines = at.logLines.filter((line) => line.includes(error.id ?? "no id"));
      expect(lines.length).to.equal(1);
      expect(lines[0]).to.include("secret detail").and.to.include("request_failed");
    }
  });

  it("answer unknown routes and methods in the same shape", async () => {
    expect(await errorOf(await at.fetch("/api/nothing"))).to.equal("404 ROUTE_NOT_FOUND");
    const response = await at.fetch("/api/folders", { method: "PUT", body: "x" });
    expect(response.headers.get("allow")).to.equal("POST");
    expect(await errorOf(response)).to.equal("405 METHOD_NOT_ALLOWED");
    const other = await at.fetch("/api/files/7", { method: "POST" });
    expect(other.headers.get("allow")).to.equal("GET, HEAD, PATCH, DELETE");
    expect(await errorOf(await at.fetch("/api/files/%zz"))).to.equal("400 ARGUMENT_INVALID");
  });
});

describe("The node over HTTP", () => {
  const at = useGateway();

  it("shows the cluster", async () => {
    const cluster = clusterViewSchema.parse(await (await at.fetch("/api/cluster")).json());
    expect([cluster.nodeId, cluster.nodes[0]?.health]).to.deep.equal(["n1", "up"]);
    expect(cluster.nodes[0]?.collectionBrake).to.equal(null);
    const brake = { extentCount: 9, orphanCount: 8, futureCount: 7 };
    at.drive.collectionBrake = brake;
    const braked = clusterViewSchema.parse(await (await at.fetch("/api/cluster")).json());
    expect(braked.nodes[0]?.collectionBrake).to.deep.equal(brake);
    expect([braked.featureLevel, braked.nodes[0]?.featureLevelMax]).to.deep.equal([null, null]);
    at.drive.featureLevel = 3;
    const leveled = clusterViewSchema.parse(await (await at.fetch("/api/cluster")).json());
    expect([leveled.featureLevel, leveled.nodes[0]?.featureLevelMax]).to.deep.equal([3, 4]);
  });

  it("shows what prepared downloads keep apart from the files of users, also on the page", async () => {
    const ask = async () => clusterViewSchema.parse(await (await at.fetch("/api/cluster")).json());
    expect((await ask()).preparedDownloads).to.equal(null);

    const kept = { downloadCount: 5, fileCount: 1082, sizeBytes: 3 * 1024 * 1024 };
    at.drive.prepared = { ...kept, expireTimeMs: Date.UTC(2026, 10, 24, 6, 30) };

    const expireTime = "2026-11-24T06:30:00.000Z";
    expect((await ask()).preparedDownloads).to.deep.equal({ ...kept, expireTime });
    const page = await (await at.fetch("/", { headers: { Accept: "text/html" } })).text();
    expect(page).to.include("Beside them 3.0 MiB held by 5 prepared downloads until 2026-11-24 06:30:00 UTC");
  });

  it("shows what a node told of itself: transfers and tasks under way", async () => {
    const progress = { doneCount: 40, totalCount: 500 };
    at.drive.report = {
      ...{ seenTimeMs: 5, isReady: true, inflightBytes: 4, appliedIndex: 5, freeBytes: 6, totalBytes: 7 },
      transfers: [{ id: "8", kind: "upload", sizeBytes: undefined, transferredBytes: 9 }],
      tasks: [{ taskId: 12, kind: "replication", fence: 3, sinceTimeMs: 4000, progress }],
    };

    const { nodes } = clusterViewSchema.parse(await (await at.fetch("/api/cluster")).json());

    expect(nodes[0]?.report?.transfers).to.deep.equal([{ id: "8", kind: "upload", transferredBytes: 9 }]);
    expect(nodes[0]?.report?.tasks).to.deep.equal([
      { taskId: "12", kind: "replication", since: "1970-01-01T00:00:04.000Z", ...progress },
    ]);
  });

  it("is live always and ready when the drive is", async () => {
    expect(await (await at.fetch("/readyz")).json()).to.deep.equal({ status: "ok", problems: [] });
    at.drive.problems = ["no leader"];
    const unready = await at.fetch("/readyz?verbose");
    expect(unready.status).to.equal(503);
    expect((await unready.json()) as object).to.deep.include({
      status: "unready",
      problems: ["no leader"],
      nodeId: "n1",
      version: "1.2.3",
    });
    at.drive.problems = [];
    at.drive.warnings = ["n1 collects no unknown chunks"];
    const warned = await at.fetch("/readyz?verbose");
    expect(warned.status, "a warning keeps nobody from serving").to.equal(200);
    expect((await warned.json()) as object).to.deep.include({
      status: "ok",
      warnings: ["n1 collects no unknown chunks"],
    });
    at.drive.problems = ["no leader"];
    expect((await at.fetch("/healthz")).status).to.equal(503);
    expect((await at.fetch("/livez")).status).to.equal(200);
    expect((await at.fetch("/readyz", { method: "HEAD" })).status).to.equal(503);
    expect(await (await at.fetch("/version")).json()).to.deep.equal({ nodeId: "n1", version: "1.2.3" });
  });

  it("counts requests and bytes", async () => {
    const fileId = await at.put("/a", new Uint8Array(CHUNK_SIZE_BYTES + 1));
    await (await at.fetch(`/api/download/${fileId}`)).arrayBuffer();
    await at.fetch("/api/none");
    const metrics = await at.fetch("/metrics");
    const text = await metrics.text();
    expect(metrics.headers.get("content-type")).to.include("version=0.0.4");
    for (const part of [
      `netdisk_upload_bytes_total{node="n1"} ${CHUNK_SIZE_BYTES + 1}`,
      `netdisk_download_bytes_total{node="n1"} ${CHUNK_SIZE_BYTES + 1}`,
      'route="/api/files/content",status="200"',
      'route="/api/download/:fileId",status="200"',
      'route="unmatched",status="404"',
      'netdisk_http_requests_in_flight{kind="upload",node="n1"} 0',
    ]) {
      expect(text).to.include(part);
    }
  });

  it("has a page for people that escapes what it shows and runs no script", async () => {
    const page = await at.fetch("/");
    expect(page.headers.get("content-type")).to.equal("text/html; charset=utf-8");
    expect(page.headers.get("content-security-policy")).to.include("default-src 'none'");
    expect(await page.text())
      .to.include("netdisk, node n1")
      .and.to.include("/openapi.json");
    at.drive.failure = new Error("<script>alert(1)</script>");
    const broken = await (await at.fetch("/")).text();
    expect(broken).to.include("&lt;script&gt;").and.not.to.include("<script>");
  });

  it("has a page that says of nodes and services that are away what `cluster status` says", async () => {
    const status = await at.drive.cluster();
    const [own] = status.nodes;
    if (own === undefined) throw new Error("the drive has a node");
    const away = { ...own, nodeId: "n2", health: "down", sinceMs: 18_000 } as const;
    const services = [
      { name: "postgres", state: "off", sinceTimeMs: 0, detail: "" },
      { name: "redis", state: "degraded", sinceTimeMs: 0, detail: "connect ECONNREFUSED" },
      { name: "rabbitmq", state: "up", sinceTimeMs: 0, detail: "" },
    ] as const;
    const seen = { ...status, contentBytes: 7, nodes: [own, away], services };
    at.drive.cluster = () => Promise.resolve(seen);

    const page = await (await at.fetch("/")).text();

    const { sentence } = judgeCopies(seen);
    expect(sentence).to.include("n2 is down: the copies there cannot be read now");
    expect(page).to.include(`<p class="bad">${sentence}</p>`);
    expect(page).to.include('<span class="bad">down 18 s</span>');
    expect(page).to.include(
      '<p class="bad">redis: degraded since 1970-01-01 00:00:00 UTC: connect ECONNREFUSED</p>',
    );
    expect(page).to.include("<p>rabbitmq: up since 1970-01-01 00:00:00 UTC</p>");
    expect(page, "one that is not configured is not missing").not.to.include("postgres");

    at.drive.cluster = () => Promise.resolve({ ...seen, nodes: [own, { ...away, lost: true }] });
    expect(await (await at.fetch("/")).text()).to.include('<span class="bad">down 18 s, given up</span>');
  });
});
