/**
 * The services that tests bring: each kind answers as a shared server, and as an own one that is killed, frozen, stopped and
 * started again. What these tests rely on is checked here once, so that a fault test elsewhere can trust its faults.
 */
import { expect } from "chai";
import { createServer } from "node:net";
import { once } from "node:events";
import { eventually } from "../../support/eventually.ts";
import { createDatabase, postgresKind, runSql } from "../../support/services/postgres-kind.ts";
import { rabbitmqKind } from "../../support/services/rabbitmq-kind.ts";
import { redisKind } from "../../support/services/redis-kind.ts";
import { sharedService, useOwnService, useService } from "../../support/services/services.ts";

const KINDS = [postgresKind, redisKind, rabbitmqKind];

async function isRefused(probe: () => Promise<void>): Promise<boolean> {
  return probe().then(
    () => false,
    () => true,
  );
}

describe("Services for tests", function () {
  this.timeout(180_000);
  this.slow(30_000);

  for (const kind of KINDS) {
    describe(kind.name, () => {
      const shared = useService(kind.name);
      const own = useOwnService(kind.name);

      it("answers as a shared server", async () => {
        await kind.probe(shared.url);
      });

      it("answers as an own one on another address", async () => {
        await kind.probe(own.url);

        expect(own.url).not.to.equal(shared.url);
      });

      it("answers again after it was killed", async () => {
        await own.kill();
        const refused = await isRefused(() => kind.probe(own.url));
        await own.start();

        expect(refused).to.equal(true);
        await kind.probe(own.url);
      });

      it("answers nothing while it is frozen, and goes on after", async () => {
        await own.pause();
        let answered = false;
        const waiting = kind.probe(own.url).then(
          () => (answered = true),
          () => undefined,
        );
        const silent = await Promise.race([
          waiting.then(() => !answered),
          eventually("a second has passed", elapsed(1000), { withinMs: 5000 }),
        ]);
        await own.resume();

        expect(silent).to.equal(true);
        await waiting;
        await eventually("it answers", async () => kind.probe(own.url).then(() => true), {
          withinMs: 20_000,
        });
      });

      it("answers again after an orderly stop", async () => {
        await own.stop();
        const refused = await isRefused(() => kind.probe(own.url));
        await own.start();

        expect(refused).to.equal(true);
        await kind.probe(own.url);
      });
    });
  }

  it("give each test a database of its own, and drop it with what is connected to it", async () => {
    const shared = await sharedService("postgres");
    const database = await createDatabase(shared.url);
    const connected = runSql(database.url, "SELECT pg_sleep(60)").then(
      () => "slept",
      () => "cut",
    );
    await eventually(
      "the connection is there",
      async () => {
        const found = await runSql(
          shared.url,
          `SELECT 1 FROM pg_stat_activity WHERE datname = '${database.name}'`,
        );
        return found.rows.length > 0;
      },
      { withinMs: 10_000 },
    );

    await database.drop();

    expect(await connected).to.equal("cut");
    expect(await isRefused(async () => void (await runSql(database.url, "SELECT 1")))).to.equal(true);
  });

  it("fail when the environment names a server that is not there", async () => {
    const listener = createServer().listen(0, "127.0.0.1");
    await once(listener, "listening");
    const address = listener.address();
    if (address === null || typeof address === "string") throw new Error("no port");
    await new Promise((closed) => listener.close(closed));

    for (const kind of KINDS) {
      expect(await isRefused(() => kind.probe(kind.url(address.port)))).to.equal(true);
    }
  });
});

/** A condition that becomes true `ms` milliseconds after it was first asked. */
function elapsed(ms: number): () => boolean {
  const beganMs = performance.now();
  return () => performance.now() - beganMs > ms;
}
