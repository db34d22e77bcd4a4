/** Search and reports over HTTP and Connect. */
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { expect } from "chai";
import { CatalogService } from "../../../gen/netdisk/v1/catalog_service_pb.ts";
import { CatalogSource, UsageGroup } from "../../../gen/netdisk/v1/catalog_pb.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { FakeCatalog, foundFile } from "../../support/fake-catalog.ts";
import { errorOf, useGateway } from "./use-gateway.ts";

describe("The catalog over HTTP", () => {
  const at = useGateway();
  let catalog: FakeCatalog;

  beforeEach(() => {
    catalog = new FakeCatalog();
    at.drive.catalog = catalog;
  });

  const get = async (path: string): Promise<unknown> => (await at.fetch(path)).json();

  it("finds by text, filters and order", async () => {
    catalog.pages = [{ entries: [foundFile("/docs/报告.txt")], nextCursor: "next" }];

    const body = await get(
      `/api/search?q=${encodeURIComponent("报告")}&path=/docs/&kind=file&type=text/&minSize=1&maxSize=9` +
        `&modifiedFrom=2023-01-01T00:00:00Z&underReplicated&sort=size&order=asc&limit=7&cursor=c`,
    );

    expect(catalog.queries).to.deep.equal([
      {
        text: "报告",
        under: "/docs",
        kind: "file",
        mediaType: "text/",
        sizeBytesMin: 1,
        sizeBytesMax: 9,
        modifiedFromMs: Date.parse("2023-01-01T00:00:00Z"),
        modifiedToMs: undefined,
        underReplicated: true,
        sort: "size",
        descending: false,
        countMax: 7,
        cursor: "c",
      },
    ]);
    expect(body).to.deep.equal({
      source: "postgres",
      asOfIndex: 42,
      entries: [
        {
          fileId: "7",
          path: "/docs/报告.txt",
          name: "报告.txt",
          kind: "file",
          size: 5,
          treeHash: "ab".repeat(32),
          mediaType: "text/plain",
          modifyTime: "2023-11-14T22:13:20.000Z",
          createTime: "2023-11-14T22:13:21.000Z",
          copies: 3,
        },
      ],
      nextCursor: "next",
    });
  });

  it("gives the newest first when nothing else is asked for", async () => {
    expect(await get("/api/search?q=a")).to.include({ nextCursor: null });
    expect(catalog.queries[0]).to.include({ sort: "created", descending: true, countMax: 100 });
  });

  it("tells what is used, and which files are equal", async () => {
    expect(await get("/api/usage?by=type&path=/a")).to.deep.equal({
      source: "postgres",
      asOfIndex: 42,
      rows: [{ key: "/a", fileCount: 2, size: 2048 }],
      truncated: false,
      fileCount: 2,
      directoryCount: 1,
      size: 2048,
    });
    expect(catalog.usages).to.deep.equal([{ by: "type", under: "/a" }]);
    expect(await get("/api/duplicates")).to.deep.include({
      groups: [{ treeHash: "01".repeat(32), size: 10, fileCount: 3, paths: ["/a", "/b"] }],
    });
  });

  it("refuses what it does not know, all at once", async () => {
    const answers = await Promise.all(
      [
        "limit=0",
        "limit=1001",
        "sort=colour",
        "order=up",
        "kind=x",
        "minSize=-1",
        "colour=red",
        "path=a",
      ].map(async (query) => errorOf(await at.fetch(`/api/search?${query}`))),
    );

    expect(new Set(answers)).to.deep.equal(new Set(["400 ARGUMENT_INVALID", "400 PATH_INVALID"]));
    expect(await errorOf(await at.fetch("/api/usage?by=owner"))).to.equal("400 ARGUMENT_INVALID");
    expect(catalog.queries).to.deep.equal([]);
  });

  it("says when it cannot answer, and when to ask again", async () => {
    catalog.failure = new DriveError("CATALOG_UNAVAILABLE", "It is being built.");

    for (const path of ["/api/search?q=a", "/api/usage", "/api/duplicates"]) {
      const response = await at.fetch(path);
      expect(response.headers.get("Retry-After")).to.equal("5");
      expect(await errorOf(response)).to.equal("503 CATALOG_UNAVAILABLE");
    }
    expect((await at.fetch("/readyz")).status).to.equal(200);
  });

  it("answers the same over Connect", async () => {
    const transport = createConnectTransport({ baseUrl: at.url, httpVersion: "1.1" });
    const client = createClient(CatalogService, transport);
    catalog.pages = [{ entries: [foundFile("/a")], nextCursor: undefined }];

    const page = await client.search({ text: "a" });
    const report = await client.getUsage({ by: UsageGroup.NODE });
    const equal = await client.listDuplicates({});
    await client.rebuildCatalog({});

    expect(page.entries.map((entry) => entry.path)).to.deep.equal(["/a"]);
    expect(page.origin).to.deep.include({ source: CatalogSource.POSTGRES, asOfIndex: 42n });
    expect(catalog.queries[0]).to.include({ sort: "created", descending: true, countMax: 100, text: "a" });
    expect(report.rows[0]).to.include({ key: "/a", fileCount: 2n });
    expect(catalog.usages).to.deep.equal([{ by: "node", under: "/" }]);
    expect(equal.groups[0]?.paths).to.deep.equal(["/a", "/b"]);
    expect(catalog.rebuildCount).to.equal(1);
  });

  it("shows services outside of the node where details are asked for", async () => {
    const services = [
      { name: "postgres", state: "degraded", sinceTimeMs: 1_700_000_000_000, detail: "connection refused" },
    ] as const;
    at.drive.readiness = () => ({ ready: true, problems: [], services });

    const answer = await at.fetch("/readyz?verbose");

    expect(answer.status).to.equal(200);
    expect(((await answer.json()) as { services: unknown }).services).to.deep.equal([
      {
        name: "postgres",
        state: "degraded",
        since: "2023-11-14T22:13:20.000Z",
        detail: "connection refused",
      },
    ]);
  });
});
