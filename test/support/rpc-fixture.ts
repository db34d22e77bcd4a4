/** A gRPC server with given services on a free port of loopback, and channels to it, for tests. */
import { RpcServer } from "../../src/rpc/grpc-server.ts";
import { ChannelPool } from "../../src/rpc/channel-pool.ts";
import type { ServedService } from "../../src/rpc/server-adapter.ts";
import { SystemClock } from "../../src/std/clock.ts";
import { SystemPrng } from "../../src/std/prng.ts";
import { createLogger } from "../../src/telemetry/logger.ts";

/** A running server. */
export interface RpcFixture {
  readonly server: RpcServer;
  readonly address: string;
  readonly port: number;
  readonly pool: ChannelPool;
  readonly clock: SystemClock;
  /** Lines that the server logged. */
  readonly log: readonly string[];
  /** Ends the server and the channels. */
  stop(): Promise<void>;
}

/** Starts a server; stop() it at the end. */
export async function startRpc(
  services: readonly ServedService[],
  settings: { readonly port?: number; readonly stopGraceMs?: number } = {},
): Promise<RpcFixture> {
  const clock = new SystemClock();
  const log: string[] = [];
  const destination = { write: (line: string) => void log.push(line) };
  const logger = createLogger({ node: "test", level: "debug", clock, destination });
  const server = new RpcServer({
    clock,
    prng: new SystemPrng(),
    logger,
    services,
    host: "127.0.0.1",
    port: settings.port ?? 0,
    stopGraceMs: settings.stopGraceMs ?? 200,
  });
  const port = await server.start();
  server.setServing(true);
  const pool = new ChannelPool({ clock });
  const stop = async (): Promise<void> => {
    pool.close();
    await server.stop();
  };
  return { server, address: `127.0.0.1:${port}`, port, pool, clock, log, stop };
}
