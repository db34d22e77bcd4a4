/** PostgreSQL as it is configured: what lies in files is read here, the server itself is only asked later and may be down. */
import type { ConnectionOptions } from "node:tls";
import { parsePostgresAddress, type PostgresTls } from "../catalog/postgres-address.ts";
import { PostgresClient } from "../catalog/postgres-client.ts";
import { loadMigrations } from "../catalog/postgres-schema.ts";
import type { Config } from "../config/config.ts";
import type { Clock } from "../std/clock.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import { readSecret } from "./secret-file.ts";

/** The options of TLS for a server. @throws DriveError CONFIGURATION_INVALID when a file cannot be read */
async function tlsOptions(tls: PostgresTls): Promise<ConnectionOptions> {
  const { check, caFile, certificateFile, keyFile } = tls;
  return {
    ...(caFile !== undefined && { ca: await readSecret(caFile) }),
    ...(certificateFile !== undefined && { cert: await readSecret(certificateFile) }),
    ...(keyFile !== undefined && { key: await readSecret(keyFile) }),
    rejectUnauthorized: check !== "none",
    ...(check === "issuer" && { checkServerIdentity: () => undefined }),
  };
}

/** The client of PostgreSQL; undefined where none is configured. @throws DriveError CONFIGURATION_INVALID */
export async function connectPostgres(
  services: Config["services"],
  clock: Clock,
  metrics?: Metrics,
): Promise<PostgresClient | undefined> {
  const { postgresUrl, postgresPasswordFile, postgresCaFile } = services;
  if (postgresUrl === undefined) return undefined;
  // Now, while nothing is served yet and no election waits for this node.
  await loadMigrations();
  const { url, tls } = parsePostgresAddress(postgresUrl, postgresCaFile);
  return new PostgresClient({
    clock,
    url,
    password: postgresPasswordFile === undefined ? undefined : await readSecret(postgresPasswordFile),
    tls: tls === undefined ? undefined : await tlsOptions(tls),
    onCall: (call, durationMs, failed) => metrics?.postgresCall(call, durationMs, failed),
  });
}
