/**
 * Goal: searching the newest ages of rows first gives what reading all rows gives. Method: rows whose ids spread over more ages
 * than the statements of one search ask for, texts that are frequent, rare, and only at one end, and every page of each.
 */
import { expect } from "chai";
import { PostgresCatalog } from "../../../src/catalog/postgres-catalog.ts";
import { PostgresClient } from "../../../src/catalog/postgres-client.ts";
import { upsertFiles, type FileRow } from "../../../src/catalog/postgres-rows.ts";
import { AGE_ID_COUNT, migrate } from "../../../src/catalog/postgres-schema.ts";
import type { CatalogQuery } from "../../../src/drive/catalog.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { pathsOf } from "../../contract/catalog.contract.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { createDatabase } from "../../support/services/postgres-kind.ts";
import { useService } from "../../support/services/services.ts";

const ROW_COUNT = 24_000;
const AGE_COUNT = 300;
/** Ids begin and end in the middle of an age. */
const ID_STEP = Math.floor((AGE_COUNT * AGE_ID_COUNT) / ROW_COUNT);
const idOf = (i: number): number => 5000 + i * ID_STEP;

function nameOf(i: number): string {
  const marks = [
    i % 3 === 0 ? "常" : "",
    i % 150 === 0 ? "少" : "",
    i % 1999 === 0 ? "稀" : "",
    i < 60 ? "古" : "",
    i >= ROW_COUNT - 60 ? "新" : "",
    i === 12_000 ? "一个" : "",
  ];
  return `${marks.join("")}${i}.txt`;
}

function rowOf(i: number): FileRow {
  const name = nameOf(i);
  const entry = {
    ...{ entryId: idOf(i), parentId: 1, version: 1, name, kind: "file" as const, sizeBytes: 0, contentId: 0 },
    ...{
      treeHash: new Uint8Array(0),
      sha256: new Uint8Array(0),
      mediaType: i % 2 === 0 ? "text/plain" : "",
      mode: undefined,
    },
    ...{ modifyTimeMs: i, createTimeMs: i },
  };
  return { entry, path: `/${name}`, copyCount: undefined };
}

describe("A search in PostgreSQL over many ages of rows", function () {
  this.timeout(120_000);
  this.slow(10_000);
  const postgres = useService("postgres");
  let client: PostgresClient;
  let drop: () => Promise<void>;

  before(async () => {
    const database = await createDatabase(postgres.url);
    client = new PostgresClient({ clock: new SystemClock(), url: database.url });
    drop = () => database.drop();
    await client.migrate(migrate);
    for (let from = 0; from < ROW_COUNT; from += 4000) {
      const rows = Array.from({ length: 4000 }, (_, i) => rowOf(from + i));
      await client.project((connection) => upsertFiles(connection, rows));
    }
    await client.project((connection) =>
      connection.query(
        "INSERT INTO catalog_checkpoint (cluster_id, epoch, applied_index, scan_end_index, updated_at) VALUES ('c', 1, 1, 0, now())",
      ),
    );
  });

  after(async () => {
    await client.stop();
    await drop();
  });

  const wanted = (text: string, query: Pick<CatalogQuery, "descending" | "mediaType">): readonly string[] => {
    const found = Array.from({ length: ROW_COUNT }, (_, i) => i).filter(
      (i) => nameOf(i).includes(text) && (query.mediaType === undefined || i % 2 === 0),
    );
    return (query.descending ? found.reverse() : found).map((i) => `/${nameOf(i)}`);
  };

  for (const [text, what] of [
    ["少", "a hundred and sixty rows everywhere"],
    ["稀", "a dozen rows everywhere"],
    ["古", "the oldest rows"],
    ["新", "the newest rows"],
    ["一个", "one row in the middle"],
    ["无", "no row"],
    ["999", "a few dozen rows by three digits"],
  ] as const) {
    it(`finds ${what} in both orders, page by page, with and without a filter`, async () => {
      const catalog = new PostgresCatalog(client);
      for (const descending of [true, false]) {
        for (const mediaType of [undefined, "text/plain"]) {
          for (const countMax of [7, 50]) {
            const query = { sort: "created", descending, countMax, mediaType } as const;
            const paths = await pathsOf(catalog, { ...query, text });
            expect(paths, JSON.stringify(query)).to.deep.equal(wanted(text, { descending, mediaType }));
          }
        }
      }
    });
  }

  it("finds what a third of all rows hold", async () => {
    const catalog = new PostgresCatalog(client);
    const query = { sort: "created", descending: true, countMax: 1000, text: "常" } as const;
    expect(await pathsOf(catalog, query)).to.deep.equal(wanted("常", { descending: true }));
  });

  it("stays up when it is asked what its tables cannot hold", async () => {
    const catalog = new PostgresCatalog(client);
    const query = { sort: "created", descending: true, countMax: 10 } as const;
    await expectReason("ARGUMENT_INVALID", () => catalog.find({ ...query, text: "a\u0000b" }));
    await expectReason("ARGUMENT_INVALID", () => catalog.find({ ...query, mediaType: "a\u0000b" }));
    expect(client.health).to.include({ isUp: true });
  });
});
