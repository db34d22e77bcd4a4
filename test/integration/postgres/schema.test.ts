/** The schema in PostgreSQL: brought up to date once, from wherever a database stands, or left as it is. */
import { expect } from "chai";
import { PostgresClient } from "../../../src/catalog/postgres-client.ts";
import { migrate } from "../../../src/catalog/postgres-schema.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { deferred } from "../../../src/std/deferred.ts";
import { eventually } from "../../support/eventually.ts";
import { MemoryTree } from "../../support/memory-metadata-port.ts";
import { projectorOver } from "../../support/projection.ts";
import { createDatabase, runSql, type TestDatabase } from "../../support/services/postgres-kind.ts";
import { useService } from "../../support/services/services.ts";

/** The steps there are: one more, and the tests below that begin in the middle are to be looked at. */
const STEP_COUNT = 3;

/** What the first steps leave, as far as step 3 needs it; the column says that nobody made it anew. */
const AFTER_TWO_STEPS = `
  CREATE TABLE catalog_migrations (step int PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
  INSERT INTO catalog_migrations (step) VALUES (1), (2);
  CREATE TABLE files (entry_id bigint NOT NULL, grams text[] NOT NULL, left_from_before int);
  CREATE INDEX files_grams ON files USING gin (grams);
  INSERT INTO files VALUES (7, '{a}', 42);
`;

describe("The schema of the catalog in PostgreSQL", function () {
  this.timeout(120_000);
  this.slow(10_000);
  const postgres = useService("postgres");
  let database: TestDatabase;
  let clients: PostgresClient[];

  const node = (): PostgresClient => {
    const client = new PostgresClient({ clock: new SystemClock(), url: database.url });
    clients.push(client);
    return client;
  };
  const rows = async (sql: string): Promise<unknown[]> => (await runSql(database.url, sql)).rows;
  const takenSteps = (): Promise<unknown[]> => rows("SELECT step FROM catalog_migrations ORDER BY step");
  const tables = (): Promise<unknown[]> =>
    rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename");
  const gramsIndex = (): Promise<unknown[]> =>
    rows("SELECT indexdef LIKE '%>> 14%' AS holds_ages FROM pg_indexes WHERE indexname = 'files_grams'");

  beforeEach(async () => {
    clients = [];
    database = await createDatabase(postgres.url);
  });

  afterEach(async () => {
    await Promise.all(clients.map((client) => client.stop()));
    await database.drop();
  });

  it("brings a new database up to date once, however many nodes start", async () => {
    const steps = await Promise.all([node(), node(), node()].map((client) => client.migrate(migrate)));

    expect(steps.toSorted((a, b) => a - b)).to.deep.equal([0, 0, STEP_COUNT]);
    expect(await takenSteps()).to.deep.equal([{ step: 1 }, { step: 2 }, { step: 3 }]);
  });

  it("takes over a database at which all steps were taken before, and changes nothing", async () => {
    await runSql(database.url, `${AFTER_TWO_STEPS}; INSERT INTO catalog_migrations (step) VALUES (3)`);
    const before = await rows("SELECT * FROM catalog_migrations ORDER BY step");

    expect(await node().migrate(migrate)).to.equal(0);

    expect(await rows("SELECT * FROM catalog_migrations ORDER BY step")).to.deep.equal(before);
    expect(await rows("SELECT left_from_before FROM files")).to.deep.equal([{ left_from_before: 42 }]);
    expect(await gramsIndex()).to.deep.equal([{ holds_ages: false }]);
    expect(await tables()).to.deep.equal([{ tablename: "catalog_migrations" }, { tablename: "files" }]);
  });

  it("takes the one step that a database lacks, and none of those before it", async () => {
    await runSql(database.url, AFTER_TWO_STEPS);

    expect(await node().migrate(migrate)).to.equal(1);

    expect(await takenSteps()).to.deep.equal([{ step: 1 }, { step: 2 }, { step: 3 }]);
    expect(await rows("SELECT left_from_before FROM files")).to.deep.equal([{ left_from_before: 42 }]);
    expect(await gramsIndex()).to.deep.equal([{ holds_ages: true }]);
  });

  it("lets searches of other nodes go on while it makes an index anew", async () => {
    await runSql(database.url, AFTER_TWO_STEPS);
    const [writer, migrating] = [node(), node()];
    const search = (): Promise<unknown> =>
      node().query((connection) => connection.query("SELECT entry_id FROM files WHERE grams @> '{a}'"));
    let migrated: Promise<number> | undefined;

    // A change that has not ended holds the new index up, at whatever lock the step takes first.
    await writer.project(async (connection) => {
      await connection.query("INSERT INTO files VALUES (8, '{b}', 43)");
      migrated = migrating.migrate(migrate);
      const waiting =
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
      await eventually("the step waits for the change", async () => (await rows(waiting)).length === 1, {
        ...{ withinMs: 4000, everyMs: 20 },
      });
      await search();
    });

    expect(await migrated).to.equal(1);
    expect(await gramsIndex()).to.deep.equal([{ holds_ages: true }]);
    expect(await rows("SELECT 1 FROM pg_indexes WHERE indexname = 'files_grams_by_age'")).to.deep.equal([]);
  });

  it("gives up at once when the node stops, however long a step takes, and leaves the database as it was", async () => {
    // A step that does not end: whatever is made in this database takes longer than any test.
    await runSql(
      database.url,
      `CREATE FUNCTION hold_up() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(3600); END';
       CREATE EVENT TRIGGER hold_up ON ddl_command_start EXECUTE FUNCTION hold_up()`,
    );
    const drives = new MemoryTree(new SystemClock());
    const tested = projectorOver(
      { port: drives.port(1), replicas: { forMember: () => undefined } },
      database.url,
    );
    const sleeping = async (): Promise<boolean> =>
      (
        await rows(
          "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()",
        )
      ).length > 0;
    tested.projector.start();
    await eventually("the step is under way", sleeping, { withinMs: 10_000, everyMs: 20 });

    const clock = new SystemClock();
    const startMs = clock.monotonicMs();
    await tested.stop();

    expect(clock.monotonicMs() - startMs).to.be.below(1000);
    await eventually("the server ends the step", async () => !(await sleeping()), { withinMs: 10_000 });
    expect(await tables()).to.deep.equal([]);
  });

  it("closes the connection of what does not end when it is aborted, and begins nothing afterwards", async () => {
    const client = node();
    const stopping = new AbortController();
    const reason = new DriveError("NODE_STOPPING", "The node stops.");
    const begun = deferred<void>();
    const endless = client.migrate(() => {
      begun.resolve();
      return new Promise(() => undefined);
    }, stopping.signal);
    await begun.promise;

    stopping.abort(reason);

    expect(await expectReason("NODE_STOPPING", () => endless)).to.equal(reason);
    expect(client.pool).to.deep.equal({ busy: 0, idle: 0, waiting: 0 });
    const late = (): Promise<never> =>
      client.migrate(() => Promise.reject(new Error("begun")), stopping.signal);
    expect(await expectReason("NODE_STOPPING", late)).to.equal(reason);
  });

  it("leaves the database as it was when a step fails, says what PostgreSQL said, and goes on once it can", async () => {
    // A table of somebody else's: step 1 has made files and replicas when it comes upon it.
    await runSql(database.url, "CREATE TABLE chunks (id int)");
    const client = node();

    const refusal = await expectReason("CATALOG_UNAVAILABLE", () => client.migrate(migrate));

    expect(refusal.metadata["detail"]).to.equal('relation "chunks" already exists (42P07)');
    expect(await tables()).to.deep.equal([{ tablename: "chunks" }]);
    await runSql(database.url, "DROP TABLE chunks");
    expect(await client.migrate(migrate)).to.equal(STEP_COUNT);
  });

  it("refuses a database with one step more than it knows, says so, and changes nothing", async () => {
    const client = node();
    await client.migrate(migrate);
    await runSql(database.url, "INSERT INTO catalog_migrations (step) VALUES (4)");

    const refusal = await expectReason("CATALOG_UNAVAILABLE", () => client.migrate(migrate));

    expect(refusal.message).to.equal("The database of the catalog was made by a later version.");
    expect(refusal.metadata).to.include({ step: "4", known_step: String(STEP_COUNT) });
    expect(await takenSteps()).to.have.length(4);
    await runSql(database.url, "DELETE FROM catalog_migrations WHERE step = 4");
    expect(await client.migrate(migrate)).to.equal(0);
  });
});
