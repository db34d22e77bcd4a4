/** PostgreSQL for tests, and databases of their own in it. */
import { execFile } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { randomBytes } from "node:crypto";
import { promisify } from "node:util";
import pg from "pg";
import type { ServiceKind } from "./service-kind.ts";
import { asAccount, giveTo } from "./service-process.ts";

const run = promisify(execFile);

/** One statement over a connection of its own. @throws the error of pg */
export async function runSql(url: string, sql: string): Promise<pg.QueryResult> {
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: 3000,
    query_timeout: 30_000,
  });
  // A server that is killed while the connection closes says so here; the statement's own failure is thrown below.
  client.on("error", () => undefined);
  await client.connect();
  try {
    return await client.query(sql);
  } finally {
    await client.end();
  }
}

/** A database of a test's own. */
export interface TestDatabase {
  readonly url: string;
  readonly name: string;
  /** Drops it, with the connections that are still open to it. */
  drop(): Promise<void>;
}

/** Makes an empty database with a random name in the server at `serverUrl`. */
export async function createDatabase(serverUrl: string, extra = ""): Promise<TestDatabase> {
  const name = `netdisk_test_${randomBytes(6).toString("hex")}`;
  await runSql(serverUrl, `CREATE DATABASE ${name} ${extra}`);
  const url = new URL(serverUrl);
  url.pathname = `/${name}`;
  return {
    name,
    url: url.href,
    drop: async () => {
      await runSql(serverUrl, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
    },
  };
}

/** See `ServiceKind`. */
export const postgresKind: ServiceKind = {
  name: "postgres",
  variable: "POSTGRES_URL",
  usualUrls: ["postgresql://postgres@127.0.0.1:5432/postgres", "postgresql://root@127.0.0.1:5432/postgres"],
  image: "postgres:17",
  containerPort: 5432,
  containerEnvironment: { POSTGRES_HOST_AUTH_METHOD: "trust" },
  containerCommand: (settings) =>
    Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]),
  program: "postgres",
  programFolders: ["/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin"],
  packages: ["postgresql"],
  url: (port) => `postgresql://postgres@127.0.0.1:${port}/postgres`,
  probe: async (url) => {
    await runSql(url, "SELECT 1");
  },
  prepare: async (programPath, options) => {
    const account = "postgres";
    const data = join(options.directory, "data");
    if (!existsSync(join(data, "PG_VERSION"))) {
      mkdirSync(data, { recursive: true });
      await giveTo(account, options.directory);
      const initdb = asAccount(account, join(dirname(programPath), "initdb"), [
        ...["--pgdata", data, "--username", "postgres", "--auth", "trust"],
        // Names sort and match by their bytes, as in the drive; not syncing the new cluster saves seconds.
        ...["--encoding", "UTF8", "--locale", "C", "--no-sync"],
      ]);
      await run(initdb.command, initdb.parameters);
    }
    const settings = {
      listen_addresses: "127.0.0.1",
      port: String(options.port),
      unix_socket_directories: "",
      shared_buffers: "32MB",
      max_connections: "40",
      ...options.settings,
    };
    return {
      command: programPath,
      parameters: [
        "-D",
        data,
        ...Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]),
      ],
      environment: {},
      account,
      stopSignal: "SIGINT",
    };
  },
};
