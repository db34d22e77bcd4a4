/**
 * PostgreSQL killed, cut, locked, frozen and full while files come in. What must hold each time: changes of the tree never wait
 * for it, searches are answered all the while, and afterwards the tables equal the tree and the manifests by themselves.
 */
import { expect } from "chai";
import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { CatalogRouter } from "../../../src/catalog/catalog-router.ts";
import { EmbeddedCatalog } from "../../../src/catalog/embedded-catalog.ts";
import { NameFollower } from "../../../src/catalog/name-follower.ts";
import { PostgresCatalog } from "../../../src/catalog/postgres-catalog.ts";
import {
  PostgresClient,
  QUERY_CONNECTION_COUNT_MAX,
  REPORT_COUNT_MAX,
} from "../../../src/catalog/postgres-client.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { MemoryOrderedStoreProvider } from "../../../src/std/memory-ordered-store.ts";
import { CatalogDrive } from "../../contract/catalog.contract.ts";
import { Cutter } from "../../support/cutter.ts";
import { eventually } from "../../support/eventually.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { expectProjectionEquals, projectorOf, type TestProjector } from "../../support/projection.ts";
import { createDatabase, runSql, type TestDatabase } from "../../support/services/postgres-kind.ts";
import { startOwnService, useOwnService, type OwnService } from "../../support/services/services.ts";

const QUERY = { sort: "created", descending: true, countMax: 10 } as const;

/** A drive with both catalogs running by themselves, as a node has them. */
class Running {
  readonly drive = new CatalogDrive();
  readonly tested: TestProjector;
  readonly router: CatalogRouter;
  fallbackCount = 0;
  readonly #names: NameFollower;
  #next = 0;

  constructor(url: string) {
    const clock = new SystemClock();
    const port = this.drive.drives.tree.port(1);
    this.tested = projectorOf(this.drive, url);
    const { projector, client } = this.tested;
    this.#names = new NameFollower({ clock, port, stores: new MemoryOrderedStoreProvider() });
    this.router = new CatalogRouter({
      embedded: new EmbeddedCatalog({ clock, port, names: this.#names }),
      rebuildEmbedded: () => this.#names.rebuild(),
      external: {
        catalog: new PostgresCatalog(client),
        isFit: () => projector.isFit(),
        rebuild: () => projector.rebuild(),
      },
      onFallback: () => (this.fallbackCount += 1),
    });
    projector.start();
    this.#names.start();
  }

  /** A few changes of every kind. */
  async change(count = 20): Promise<void> {
    for (let i = 0; i < count; i += 1) {
      const n = (this.#next += 1);
      await this.drive.put(`/load/d${n % 5}/file ${n}`, "x".repeat(n % 4));
      if (n % 10 === 0) await this.drive.move(`/load/d${n % 5}/file ${n}`, `/load/moved ${n}`);
      if (n % 25 === 0) await this.drive.remove(`/load/d${n % 5}`);
      if (n % 40 === 0) await this.drive.move("/load/d1", `/kept ${n}`);
    }
  }

  /** Which catalog answers, with the newest file. */
  async search(): Promise<{ readonly source: string; readonly name: string | undefined }> {
    const { source, entries } = await this.router.find({ ...QUERY, text: "file", kind: "file" });
    return { source, name: entries[0]?.name };
  }

  isUp(): boolean {
    return this.tested.projector.status().state === "up";
  }

  async caughtUp(withinMs = 60_000): Promise<void> {
    await eventually(
      "PostgreSQL has everything",
      () => {
        const { lagCount, folderCount, chunkCount } = this.tested.projector.stats();
        return this.isUp() && (lagCount ?? 1) === 0 && folderCount === 0 && chunkCount === 0;
      },
      { withinMs },
    );
  }

  async stop(): Promise<void> {
    await this.#names.stop();
    await this.tested.stop();
  }
}

describe("PostgreSQL with faults", function () {
  this.timeout(180_000);
  this.slow(30_000);
  const postgres = useOwnService("postgres");
  let database: TestDatabase;
  let running: Running;

  beforeEach(async () => {
    database = await createDatabase(postgres.url);
    running = new Running(database.url);
    await running.change();
    await running.caughtUp();
  });

  afterEach(async () => {
    await running.stop();
    await database.drop();
  });

  const expectAllThere = async (): Promise<void> => {
    await running.caughtUp();
    await running.tested.projector.stop();
    await running.tested.caughtUp();
    await expectProjectionEquals(running.drive, database.url);
  };

  it("killed and started again, three times under load", async () => {
    for (let i = 0; i < 3; i += 1) {
      await running.change();
      await postgres.kill();
      await running.change();
      const during = await running.search();
      expect(during.source).to.equal("embedded");
      await postgres.start();
      await running.change();
    }

    await expectAllThere();
    expect(running.tested.rebuilds).to.deep.equal(["there is none yet"]);
  });

  it("says so while it is down, since when, and when it is up again", async () => {
    expect((await running.search()).source).to.equal("postgres");

    await postgres.stop();
    await running.change();
    await eventually("it is noticed", () => !running.isUp(), { withinMs: 10_000 });
    const down = running.tested.projector.status();
    const fallbacksBefore = running.fallbackCount;
    await running.search();
    await postgres.start();
    await running.caughtUp();
    const up = running.tested.projector.status();

    expect(down.state).to.equal("degraded");
    expect(down.detail).to.match(/ECONNREFUSED|terminat|57P0[13]/);
    expect(up).to.include({ state: "up", detail: "" });
    expect(up.sinceMs).to.be.greaterThan(down.sinceMs);
    expect(running.fallbackCount).to.be.greaterThan(fallbacksBefore);
    await expectAllThere();
  });

  it("with its connections cut in the middle of transactions", async () => {
    const cutting = new pg.Client({ connectionString: postgres.url });
    await cutting.connect();
    try {
      let cutCount = 0;
      // How soon it connects again, and so how often it can be cut, is up to the machine.
      const cut = async (): Promise<boolean> => {
        await running.change(5);
        const { rowCount } = await cutting.query(
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND application_name = 'netdisk'",
          [database.name],
        );
        cutCount += rowCount ?? 0;
        return cutCount > 10;
      };
      await eventually("eleven connections are cut", cut, { withinMs: 60_000, everyMs: 10 });
    } finally {
      await cutting.end();
    }

    await expectAllThere();
  });

  it("with its tables locked by somebody else", async () => {
    const holder = new pg.Client({ connectionString: database.url });
    await holder.connect();
    try {
      await holder.query("BEGIN; LOCK TABLE files IN ACCESS EXCLUSIVE MODE");
      await running.change();
      const during = await running.search();
      await eventually("the projector gave up waiting", () => !running.isUp(), { withinMs: 15_000 });
      await running.change();
      const later = await running.search();

      expect(during.source).to.equal("embedded");
      expect(later.source).to.equal("embedded");
    } finally {
      await holder.end();
    }

    await expectAllThere();
  });

  it("with connections cut between a commit and its answer", async () => {
    const cutter = await Cutter.open(postgres.port);
    const url = new URL(database.url);
    url.host = `127.0.0.1:${cutter.port}`;
    await running.stop();
    running = new Running(url.href);
    try {
      // Whoever asked cannot know whether it happened; it did.
      const answer = { side: "server", pattern: Buffer.from("COMMIT\0") } as const;
      for (let i = 0; i < 8; i += 1) {
        await running.caughtUp();
        const cut = cutter.cutAt(answer);
        await running.change(5);
        await cut;
      }
      await expectAllThere();
      expect(cutter.cutCount).to.be.at.least(16);
    } finally {
      await cutter.close();
    }
  });

  it("slow, so that a search takes longer than anybody waits", async () => {
    const cutter = await Cutter.open(postgres.port);
    const url = new URL(database.url);
    url.host = `127.0.0.1:${cutter.port}`;
    await running.stop();
    running = new Running(url.href);
    try {
      await running.caughtUp();
      // A question is five of the server's answers, each on the way this long twice.
      cutter.delayMs = 400;
      const beganMs = performance.now();
      const during = await running.search();
      const tookMs = performance.now() - beganMs;
      const changeBeganMs = performance.now();
      await running.change();
      const changeTookMs = performance.now() - changeBeganMs;

      expect(during.source).to.equal("embedded");
      // Its timeout is 2 s and a second more for the client; the changes never waited.
      expect(tookMs).to.be.lessThan(8000);
      expect(changeTookMs).to.be.lessThan(4000);
      // However slow, the projection goes on.
      await expectAllThere();
    } finally {
      await cutter.close();
    }
  });

  it("asked for more reports than it may answer at once, none of which ends", async () => {
    const client = new PostgresClient({ clock: new SystemClock(), url: database.url });
    const holder = new pg.Client({ connectionString: database.url });
    await holder.connect();
    try {
      await holder.query("BEGIN; LOCK TABLE files IN ACCESS EXCLUSIVE MODE");
      const ask = (): Promise<unknown> =>
        client.report((connection) => connection.query("SELECT count(*) FROM files"));
      const hanging = Array.from({ length: REPORT_COUNT_MAX }, ask);
      await expectReason("OVERLOADED", ask);
      // Questions have connections of their own, and the projection has others.
      const asked = Array.from({ length: QUERY_CONNECTION_COUNT_MAX - REPORT_COUNT_MAX }, () =>
        client.query((connection) => connection.query("SELECT count(*) FROM files")),
      );
      await eventually(
        "all connections for questions are busy",
        () => client.pool.busy === QUERY_CONNECTION_COUNT_MAX,
        { withinMs: 5000 },
      );
      const projected = await client.project((connection) => connection.query("SELECT 1 AS one"));
      expect(projected.rows).to.deep.equal([{ one: 1 }]);
      await holder.query("ROLLBACK");
      await Promise.allSettled([...hanging, ...asked]);
      await ask();
    } finally {
      await holder.end();
      await client.stop();
    }
  });

  it("frozen, so that nothing answers and nothing fails", async () => {
    await postgres.pause();
    const beganMs = performance.now();
    const during = await running.search();
    const tookMs = performance.now() - beganMs;
    const changeBeganMs = performance.now();
    await running.change();
    const changeTookMs = performance.now() - changeBeganMs;
    const again = await running.search();
    await postgres.resume();

    expect(during.source).to.equal("embedded");
    expect(again.source).to.equal("embedded");
    // Its timeout is 2 s and a second more for the client; the changes never waited.
    expect(tookMs).to.be.lessThan(8000);
    expect(changeTookMs).to.be.lessThan(4000);
    await expectAllThere();
  });
});

describe("PostgreSQL with a full disk", function () {
  this.timeout(180_000);
  this.slow(60_000);
  const directory = mkdtempSync(join(tmpdir(), "netdisk-full-postgres-"));
  const volume = join(directory, "volume");
  let postgres: OwnService | undefined;

  before(async () => {
    mkdirSync(volume);
    // The account that PostgreSQL runs as must get in.
    chmodSync(directory, 0o755);
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=160m", "tmpfs", volume]);
    postgres = await startOwnService("postgres", { directory: volume, settings: { max_wal_size: "48MB" } });
  });

  after(async () => {
    await postgres?.dispose();
    execFileSync("umount", ["--lazy", volume]);
    rmSync(directory, { recursive: true, force: true });
  });

  it("says so, and catches up when there is room again", async () => {
    if (postgres === undefined) throw new Error("not started");
    const database = await createDatabase(postgres.url);
    const running = new Running(database.url);
    try {
      await running.change();
      await running.caughtUp();
      await runSql(
        database.url,
        "CREATE TABLE filler (bytes text); ALTER TABLE filler ALTER bytes SET STORAGE PLAIN",
      );
      const fill = "INSERT INTO filler SELECT repeat(md5(i::text), 200) FROM generate_series(1, 200) i";
      let full = false;
      while (!full) {
        full = await runSql(database.url, fill).then(
          () => false,
          () => true,
        );
      }
      // Files until a transaction of the projector fails for want of room.
      await eventually(
        "the disk is full for the projector too",
        async () => {
          await running.change(50);
          return !running.isUp();
        },
        { withinMs: 60_000, everyMs: 1 },
      );
      const during = await running.search();
      execFileSync("mount", ["-o", "remount,size=400m", volume]);
      // Without room for its log it panics, and may end for good when it cannot recover: it is started by hand either way.
      await postgres.kill();
      await postgres.start();
      await running.caughtUp();

      expect(during.source).to.equal("embedded");
      await running.tested.projector.stop();
      await running.tested.caughtUp();
      await expectProjectionEquals(running.drive, database.url);
    } finally {
      await running.stop();
    }
  });
});
