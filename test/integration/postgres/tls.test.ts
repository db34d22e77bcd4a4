/**
 * PostgreSQL over TLS, with a server and an authority of the test's own: what each sslmode checks, that a server which is not
 * the one meant is refused and said why, passwords from files, and that no secret comes out.
 */
import { expect } from "chai";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { PostgresClient } from "../../../src/catalog/postgres-client.ts";
import { defaultConfig, type Config } from "../../../src/config/config.ts";
import { connectPostgres } from "../../../src/node/postgres.ts";
import { must } from "../../../src/std/assert.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { CertificateAuthority, type Certificate } from "../../support/certificates.ts";
import { eventually } from "../../support/eventually.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { runSql } from "../../support/services/postgres-kind.ts";
import { startOwnService, type OwnService } from "../../support/services/services.ts";
import { startCluster } from "../../support/use-cluster.ts";

/** With everything that a URL would take for something else. */
const PASSWORD = "corr%41ct:horse@/?#battery";
const RULES = [
  "local all all trust",
  // What the tests of this machine's own use: without encryption, and only for the account that sets things up.
  "host all postgres 127.0.0.1/32 trust",
  "hostssl all reader 127.0.0.1/32 scram-sha-256",
  "hostssl all bearer 127.0.0.1/32 cert",
];

/** What an operator sees of it: whether it is up, its connections, how long it takes, how far it is behind. */
const FIGURES = [
  /^netdisk_postgres_up\{.*\} 1$/m,
  /^netdisk_postgres_connections\{.*state="idle".*\} [1-9]/m,
  /^netdisk_postgres_transaction_duration_seconds_count\{.*call="project",outcome="done"\} /m,
  /^netdisk_catalog_lag_commands\{.*catalog="postgres".*\} /m,
];

describe("PostgreSQL over TLS", function () {
  this.timeout(120_000);
  this.slow(10_000);
  const directory = mkdtempSync(join(tmpdir(), "netdisk-tls-postgres-"));
  const volume = join(directory, "server");
  let authority: CertificateAuthority;
  let stranger: CertificateAuthority;
  let own: OwnService | undefined;

  const passwordFile = join(directory, "password");
  const clients: PostgresClient[] = [];

  const server = (): OwnService => must(own, "the server was started");
  const connect = async (services: Partial<Config["services"]>): Promise<PostgresClient> => {
    const client = await connectPostgres({ ...defaultConfig().services, ...services }, new SystemClock());
    if (client === undefined) throw new Error("nothing is configured");
    clients.push(client);
    return client;
  };
  const url = (query = "", user = "reader", host = "localhost"): string =>
    `postgresql://${user}@${host}:${server().port}/postgres${query}`;
  /** Whether the connection is encrypted, as the server sees it. */
  const isEncrypted = (client: PostgresClient): Promise<unknown> =>
    client.query(async (connection) => {
      const { rows } = await connection.query<{ ssl: boolean }>(
        "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
      );
      return rows[0]?.ssl;
    });
  /** Why a question was refused, as the status says it. */
  const refusal = async (client: PostgresClient): Promise<string> => {
    await expectReason("CATALOG_UNAVAILABLE", () => isEncrypted(client));
    expect(client.health.isUp).to.equal(false);
    return client.health.detail;
  };

  before(async function () {
    this.timeout(600_000);
    // The account that PostgreSQL runs as must get in.
    chmodSync(directory, 0o755);
    for (const path of ["server", "server/tls"]) mkdirSync(join(directory, path), { mode: 0o755 });
    authority = await CertificateAuthority.make(directory);
    stranger = await CertificateAuthority.make(directory, "stranger");
    const issued = await authority.issue({ name: "server", hosts: ["localhost"] });
    // In the folder that the server's account gets, so that it may read its key.
    const placed = join(volume, "tls");
    writeFileSync(join(placed, "server.crt"), readFileSync(issued.certificatePath));
    writeFileSync(join(placed, "server.key"), readFileSync(issued.keyPath), { mode: 0o600 });
    writeFileSync(join(placed, "authority.crt"), readFileSync(authority.certificatePath));
    writeFileSync(join(placed, "pg_hba.conf"), `${RULES.join("\n")}\n`);
    own = await startOwnService("postgres", {
      directory: volume,
      settings: {
        ssl: "on",
        ssl_cert_file: join(placed, "server.crt"),
        ssl_key_file: join(placed, "server.key"),
        ssl_ca_file: join(placed, "authority.crt"),
        hba_file: join(placed, "pg_hba.conf"),
      },
    });
    await runSql(server().url, `CREATE ROLE reader LOGIN PASSWORD '${PASSWORD}'`);
    await runSql(server().url, "CREATE ROLE bearer LOGIN");
    await runSql(server().url, "GRANT ALL ON SCHEMA public TO reader");
    writeFileSync(passwordFile, `${PASSWORD}\n`, { mode: 0o600 });
  });

  afterEach(async () => {
    for (const client of clients.splice(0)) await client.stop();
  });

  after(async () => {
    await own?.dispose();
    rmSync(directory, { recursive: true, force: true });
  });

  it("is encrypted with sslmode=require, verify-ca and verify-full, with a password from a file", async () => {
    const ca = encodeURIComponent(authority.certificatePath);
    const modes = [
      "?sslmode=require",
      `?sslmode=verify-ca&sslrootcert=${ca}`,
      `?sslmode=verify-full&sslrootcert=${ca}`,
    ];
    for (const mode of modes) {
      const client = await connect({ postgresUrl: url(mode), postgresPasswordFile: passwordFile });
      expect(await isEncrypted(client), mode).to.equal(true);
    }
    const postgresCaFile = authority.certificatePath;
    const byFile = await connect({ postgresUrl: url(), postgresPasswordFile: passwordFile, postgresCaFile });

    expect(await isEncrypted(byFile)).to.equal(true);
  });

  it("is not used in the clear where the server wants encryption", async () => {
    const client = await connect({ postgresUrl: url(), postgresPasswordFile: passwordFile });

    expect(await refusal(client)).to.match(/no pg_hba.conf entry .* no encryption/);
  });

  it("is refused when its certificate is from another authority", async () => {
    const postgresCaFile = stranger.certificatePath;
    const services = { postgresPasswordFile: passwordFile, postgresCaFile };
    for (const mode of ["verify-ca", "verify-full"]) {
      const client = await connect({ ...services, postgresUrl: url(`?sslmode=${mode}`) });
      expect(await refusal(client), mode).to.match(/^The server's certificate was issued by somebody who/);
    }
    const trusting = await connect({
      postgresUrl: url("?sslmode=verify-full"),
      postgresPasswordFile: passwordFile,
    });

    expect(await refusal(trusting)).to.match(/^The server's certificate was issued by somebody who/);
  });

  it("is refused when its certificate is for another host, unless only the issuer matters", async () => {
    const services = { postgresPasswordFile: passwordFile, postgresCaFile: authority.certificatePath };
    const full = await connect({
      ...services,
      postgresUrl: url("?sslmode=verify-full", "reader", "127.0.0.1"),
    });
    const issuer = await connect({
      ...services,
      postgresUrl: url("?sslmode=verify-ca", "reader", "127.0.0.1"),
    });

    expect(await refusal(full)).to.match(/^The server's certificate is for another host: .*127\.0\.0\.1/);
    expect(await isEncrypted(issuer)).to.equal(true);
  });

  it("takes a node's own certificate in place of a password", async () => {
    const shown: Certificate = await authority.issue({ name: "bearer", hosts: [] });
    const [cert, key] = [shown.certificatePath, shown.keyPath].map(encodeURIComponent);
    const postgresCaFile = authority.certificatePath;
    const client = await connect({
      postgresUrl: url(`?sslcert=${cert}&sslkey=${key}`, "bearer"),
      postgresCaFile,
    });

    expect(await isEncrypted(client)).to.equal(true);
  });

  it("keeps a node from starting when a file is missing, and says which", async () => {
    const missing = join(directory, "nowhere.pem");
    const { metadata } = await expectReason("CONFIGURATION_INVALID", () =>
      connect({ postgresUrl: url(), postgresCaFile: missing }),
    );

    expect(metadata).to.deep.equal({ path: missing });
  });

  it("is seen in the status of a node, and its password nowhere", async () => {
    const wrong = "wrong-horse-battery";
    writeFileSync(passwordFile, `${wrong}\n`);
    const secret = url(`?sslmode=verify-full`).replace("reader@", `reader:${encodeURIComponent(PASSWORD)}@`);
    const cluster = await startCluster({
      nodes: 1,
      environment: {
        POSTGRES_URL: secret,
        POSTGRES_CA_FILE: authority.certificatePath,
        NETDISK_LOG_LEVEL: "debug",
      },
    });
    const node = cluster.node(0);
    const detail = async (state: string): Promise<string> =>
      eventually(
        `PostgreSQL is ${state}`,
        async () => {
          const text = await (await fetch(`${node.httpUrl}/readyz?verbose`)).text();
          return text.split("\n").find((line) => line.includes("postgres") && line.includes(state));
        },
        { withinMs: 30_000, everyMs: 200 },
      );
    try {
      const up = await detail("up");
      const figures = await eventually(
        "the figures are taken",
        async () => {
          const text = await (await fetch(`${node.httpUrl}/metrics`)).text();
          return FIGURES.every((figure) => figure.test(text)) && text;
        },
        { withinMs: 15_000, everyMs: 200 },
      );
      await node.signal("SIGTERM");
      node.start({ POSTGRES_CA_FILE: stranger.certificatePath });
      const refused = await detail("issued by somebody");
      await node.signal("SIGTERM");
      node.start({ POSTGRES_PASSWORD_FILE: passwordFile });
      const wrongPassword = await detail("password authentication failed");
      const shown = [up, refused, wrongPassword, figures, readFileSync(node.logPath, "utf8")].join("\n");

      expect(refused).to.include("degraded");
      expect(shown).to.include("round_failed");
      expect(shown).not.to.include(PASSWORD);
      expect(shown).not.to.include(encodeURIComponent(PASSWORD));
      expect(shown).not.to.include(wrong);
    } finally {
      await cluster.dispose();
      writeFileSync(passwordFile, `${PASSWORD}\n`);
    }
  });
});
