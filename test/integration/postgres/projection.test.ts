/**
 * The projection into PostgreSQL: exactly once whoever leads, rebuilt by itself, folders of any size in batches, chunks from
 * manifests. Each test ends with the tables equal to the tree and the manifests, row by row.
 */
import { expect } from "chai";
import type { CommandBody } from "../../../src/metadata/commands.ts";
import { PATH_BATCH_COUNT } from "../../../src/catalog/postgres-jobs.ts";
import { SCAN_COUNT } from "../../../src/catalog/postgres-projector.ts";
import { CHUNK_SIZE_BYTES, EXTENT_CHUNK_COUNT_MAX } from "../../../src/drive/limits.ts";
import { CatalogDrive } from "../../contract/catalog.contract.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { eventually } from "../../support/eventually.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { registrationOf } from "../../support/memory-metadata-port.ts";
import { expectProjectionEquals, projectorOf, type TestProjector } from "../../support/projection.ts";
import { createDatabase, runSql, type TestDatabase } from "../../support/services/postgres-kind.ts";
import { useService } from "../../support/services/services.ts";
import { streamOf, uploadOf } from "../../support/use-drives.ts";

/** Makes folders quickly, without a drive's ceremony. */
function makeFolders(drive: CatalogDrive, parent: string, count: number): void {
  const attributes = {};
  for (let i = 0; i < count; i += 1) {
    const path = [...parent.split("/").filter(Boolean), `n${String(i).padStart(5, "0")}`];
    const body: CommandBody = {
      kind: "create-directory",
      at: { baseId: 1, path },
      createParents: true,
      existOk: true,
      attributes,
      precondition: {},
    };
    drive.drives.tree.apply(body);
  }
}

describe("The projection into PostgreSQL", function () {
  this.timeout(120_000);
  this.slow(10_000);
  const postgres = useService("postgres");
  let drive: CatalogDrive;
  let database: TestDatabase;
  let projectors: TestProjector[];

  const projector = (overrides?: Parameters<typeof projectorOf>[2]): TestProjector => {
    const made = projectorOf(drive, database.url, overrides);
    projectors.push(made);
    return made;
  };
  const count = async (sql: string): Promise<number> =>
    Number((await runSql(database.url, `SELECT count(*) AS count FROM ${sql}`)).rows[0]?.count);

  beforeEach(async () => {
    drive = new CatalogDrive();
    projectors = [];
    database = await createDatabase(postgres.url);
  });

  afterEach(async () => {
    for (const each of projectors) await each.stop();
    await database.drop();
  });

  it("changes nothing for a leader that was deposed, and goes on with the next one", async () => {
    const old = projector();
    await drive.put("/a/one", "1");
    await old.caughtUp();
    const next = projector();
    next.term = 2;
    await drive.put("/a/two", "2");
    await next.caughtUp();

    // The old one does not know yet that it was deposed: it still holds what it claimed with term 1.
    await drive.put("/a/three", "3");
    const answer = await old.projector.round();
    const isThere = await count("files WHERE name = 'three'");
    await next.caughtUp();

    expect(answer).to.equal("idle");
    expect(isThere).to.equal(0);
    await expectProjectionEquals(drive, database.url);
  });

  it("gives the same tables when two leaders take turns at random", async () => {
    const seed = Number(process.env["SEED"] ?? Date.now() % 1_000_000);
    const prng = new SeededPrng(seed);
    const leaders = [projector(), projector()];
    let term = 1;
    for (let step = 0; step < 40; step += 1) {
      const leader = leaders[prng.below(2)];
      if (leader === undefined) throw new Error("no leader");
      if (prng.below(10) < 3) leader.term = term += 1;
      await drive.put(`/d${step % 3}/f${step % 7}`, String(step));
      if (step % 5 === 4) await drive.remove(`/d${step % 3}`).catch(() => undefined);
      await leader.projector.round();
    }
    const last = projector();
    last.term = term + 1;
    await last.caughtUp();

    await expectProjectionEquals(drive, database.url, `seed=${seed} (SEED=${seed} to run it again)`);
  });

  it("is built anew when the changes it needs are not kept any more", async () => {
    drive = new CatalogDrive({ changeCountMax: 10 });
    const tested = projector();
    await drive.put("/first", "1");
    await tested.caughtUp();
    await drive.remove("/first");
    for (let i = 0; i < 40; i += 1) await drive.folder(`/later ${i}`);
    await tested.caughtUp();

    expect(tested.rebuilds).to.deep.equal(["there is none yet", "changes it needs are not kept any more"]);
    await expectProjectionEquals(drive, database.url);
  });

  it("is right when everything moves while it is being built", async () => {
    makeFolders(drive, "/a", SCAN_COUNT);
    makeFolders(drive, "/b/inner", SCAN_COUNT);
    await drive.put("/a/n00001/file", "x");
    const tested = projector();
    await tested.projector.round();
    // From what was scanned into what was not, the other way round, whole folders, and away.
    await drive.move("/a/n00001", "/b/moved");
    await drive.move("/b/inner/n01999", "/a/early");
    await drive.move("/b", "/c");
    await drive.put("/c/moved/file", "y");
    await tested.projector.round();
    await drive.move("/c/inner", "/a/n00002/deep");
    await drive.remove("/a/n00003");
    await drive.move("/a", "/z");
    await tested.projector.round();
    await drive.remove("/z/n00002");
    await drive.move("/z", "/a");
    await tested.caughtUp();

    await expectProjectionEquals(drive, database.url);
    expect(tested.rebuilds).to.have.length(1);
  });

  it("goes on with a scan where another leader left it", async () => {
    makeFolders(drive, "/a", SCAN_COUNT * 2);
    const first = projector();
    await first.projector.round();
    const scanned = await count("files");
    const second = projector();
    second.term = 2;
    await second.caughtUp();

    expect(scanned).to.be.within(1, SCAN_COUNT);
    expect(second.rebuilds).to.deep.equal([]);
    await expectProjectionEquals(drive, database.url);
  });

  it("rewrites the paths below a moved folder in batches, over a change of the leader and a second move", async () => {
    makeFolders(drive, "/big", PATH_BATCH_COUNT + 500);
    await drive.put("/big/n00007/deep/file", "x");
    const first = projector();
    await first.caughtUp();
    await drive.move("/big", "/huge");
    // The row of the folder, then one batch of what is below it.
    await first.projector.round();
    const left = await count("files WHERE path LIKE '/big/%'");
    await drive.move("/huge", "/vast");
    const second = projector();
    second.term = 2;
    await second.caughtUp();

    expect(left).to.be.within(1, 600);
    await expectProjectionEquals(drive, database.url);
  });

  it("takes out what lies below a deleted folder, and keeps what was moved out of it before", async () => {
    makeFolders(drive, "/big", 5000);
    const tested = projector();
    await tested.caughtUp();
    await drive.move("/big/n00001", "/kept");
    await drive.move("/big/n00002", "/big/n00003/inside");
    await drive.remove("/big");
    await tested.caughtUp();

    expect(await count("files")).to.equal(1);
    await expectProjectionEquals(drive, database.url);
  });

  it("takes chunks from manifests, also beyond an extent, and tries again when no copy answers", async () => {
    const chunk = Buffer.alloc(CHUNK_SIZE_BYTES, 7);
    const big = Array.from({ length: EXTENT_CHUNK_COUNT_MAX + 2 }, () => chunk);
    await drive.drives.drive().putFile(uploadOf("/big"), streamOf(...big, Buffer.from("end")));
    for (const memberId of [1, 2, 3]) drive.drives.replicas.down.add(memberId);
    const tested = projector();
    await tested.caughtUp();
    const { chunkCount, missingManifestCount } = await eventually(
      "what is missing is counted",
      async () => {
        await tested.projector.round();
        const stats = tested.projector.stats();
        return stats.missingManifestCount > 0 && stats;
      },
      { withinMs: 10_000 },
    );
    const before = await count("chunks");
    drive.drives.replicas.down.clear();
    await runSql(database.url, "UPDATE catalog_chunk_jobs SET due_at = now()");
    await tested.caughtUp();

    expect({ chunkCount, missingManifestCount, before }).to.deep.equal({
      chunkCount: 1,
      missingManifestCount: 1,
      before: 0,
    });
    expect(await count("chunks")).to.equal(EXTENT_CHUNK_COUNT_MAX + 3);
    await expectProjectionEquals(drive, database.url);
  });

  it("drops the chunks of bytes that were replaced while they were fetched", async () => {
    const bytes = (fill: number): Buffer => Buffer.alloc(CHUNK_SIZE_BYTES * 2 + 5, fill);
    const put = (fill: number): Promise<unknown> =>
      drive.drives.drive().putFile(uploadOf("/f", { onConflict: "replace" }), streamOf(bytes(fill)));
    await put(1);
    const tested = projector();
    await tested.projector.round();
    while ((await tested.projector.round()) === "busy") continue;
    const fetching = tested.projector.chunkRound();
    await put(2);
    await tested.projector.round();
    await fetching;
    await tested.caughtUp();

    await expectProjectionEquals(drive, database.url);
  });

  it("takes over new names and addresses of nodes", async () => {
    await drive.put("/a", "1");
    const tested = projector();
    await tested.caughtUp();
    drive.drives.tree.apply({
      kind: "register-node",
      node: registrationOf(2, { address: `[${"f".repeat(230)}]:65535`, nodeId: "n".repeat(64) }),
    });
    await tested.caughtUp();

    await expectProjectionEquals(drive, database.url);
  });

  it("says since when it is being built, and since when it is up again", async () => {
    for (let i = 0; i < 5; i += 1) await drive.put(`/a ${i}`, "1");
    const tested = projector();
    await tested.caughtUp();
    const first = tested.projector.status();

    await tested.projector.rebuild();
    tested.term = 2;
    makeFolders(drive, "/more", SCAN_COUNT);
    await eventually(
      "it is being built",
      async () => {
        await tested.projector.round();
        return tested.projector.status().state === "degraded";
      },
      { withinMs: 10_000 },
    );
    const building = tested.projector.status();
    await tested.caughtUp();
    const again = tested.projector.status();

    expect(first).to.include({ state: "up", detail: "" });
    expect(building.detail).to.equal("The catalog is being built.");
    expect(building.sinceMs).to.be.greaterThan(first.sinceMs);
    expect(again).to.include({ state: "up", detail: "" });
    expect(again.sinceMs).to.be.greaterThan(building.sinceMs);
  });

  it("is built anew by a command, and taken over from another cluster only by that", async () => {
    await drive.put("/a", "1");
    const tested = projector();
    await tested.caughtUp();
    await runSql(
      database.url,
      "UPDATE files SET size = 99; UPDATE catalog_checkpoint SET cluster_id = 'another'",
    );
    await expectReason("CATALOG_UNAVAILABLE", async () => {
      for (let i = 0; i < 3; i += 1) {
        await drive.put("/b", String(i));
        await tested.projector.round();
      }
    });
    expect(tested.projector.isFit()).to.equal(false);
    expect(tested.projector.status().state).to.equal("degraded");

    await tested.projector.rebuild();
    await tested.caughtUp();

    expect(tested.projector.isFit()).to.equal(true);
    await expectProjectionEquals(drive, database.url);
  });
});
