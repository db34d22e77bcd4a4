/**
 * Micro benchmark of the bulk path between two processes on loopback: chunks of 1 MiB pushed to and pulled from a ReplicaService,
 * with enlarged HTTP/2 windows and with the library's own.
 *
 *   node --import tsx bench/rpc.ts
 *
 * The store behind the service keeps nothing and hashes nothing, so that only gRPC is measured.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { ChunkStore } from "../src/chunks/chunk-store.ts";
import { CHUNK_SIZE_BYTES } from "../src/drive/limits.ts";
import { LocalReplica } from "../src/replication/local-replica.ts";
import { ChannelPool } from "../src/rpc/channel-pool.ts";
import { RpcServer } from "../src/rpc/grpc-server.ts";
import { FLOW_CONTROL_WINDOW_BYTES } from "../src/rpc/limits.ts";
import { PeerClients } from "../src/rpc/peer-clients.ts";
import { ReplicaClient } from "../src/rpc/replica-client.ts";
import { replicaService } from "../src/rpc/replica-service.ts";
import { SystemClock } from "../src/std/clock.ts";
import { SystemPrng } from "../src/std/prng.ts";
import { createLogger } from "../src/telemetry/logger.ts";

const SERVER_ID = 1;
const CHUNK_COUNT = 1024;
const INFLIGHT = 8;
const SMALL_COUNT = 20_000;
const SMALL_INFLIGHT = 64;
const clock = new SystemClock();
const identity = () => ({ clusterId: "bench", memberId: SERVER_ID });

/** Takes and gives chunks without keeping any. */
function emptyStore(): ChunkStore {
  const chunk = new Uint8Array(CHUNK_SIZE_BYTES);
  const seal = {
    extent: { contentId: 1, extentIndex: 0 },
    sizeBytes: 1,
    root: new Uint8Array(32),
    memberId: SERVER_ID,
    storeIncarnation: "bench",
  };
  const sealed = { kind: "sealed", sizeBytes: CHUNK_COUNT * CHUNK_SIZE_BYTES, root: seal.root } as const;
  const store: Partial<ChunkStore> = {
    memberId: SERVER_ID,
    storeIncarnation: "bench",
    writeChunk: () => Promise.resolve(),
    putSmall: () => Promise.resolve(seal),
    readChunk: (_extent, _index, offset, length) => Promise.resolve(chunk.subarray(offset, offset + length)),
    extentState: () => Promise.resolve(sealed),
  };
  return store as ChunkStore;
}

async function serve(windowBytes: number): Promise<void> {
  const logger = createLogger({ node: "bench", level: "warn", clock });
  const services = [replicaService({ identity, replica: () => new LocalReplica(emptyStore()) })];
  const server = new RpcServer({
    clock,
    prng: new SystemPrng(),
    logger,
    services,
    host: "127.0.0.1",
    port: 0,
    windowBytes,
  });
  process.send?.(await server.start());
}

async function repeat(
  count: number,
  inflight: number,
  work: (index: number) => Promise<unknown>,
): Promise<number> {
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let index = next++; index < count; index = next++) await work(index);
  };
  const startMs = clock.monotonicMs();
  await Promise.all(Array.from({ length: inflight }, worker));
  return (clock.monotonicMs() - startMs) / 1000;
}

async function measure(windowBytes: number): Promise<void> {
  const child = fork(fileURLToPath(import.meta.url), ["serve", String(windowBytes)], {
    execArgv: ["--import", "tsx"],
  });
  const [port] = (await once(child, "message")) as [number];
  const pool = new ChannelPool({ clock, windowBytes });
  const directory = { addressOf: () => `127.0.0.1:${port}` };
  const clients = new PeerClients({ pool, clock, identity, directory });
  const replica = new ReplicaClient(SERVER_ID, { clients, clock });
  const extent = { contentId: 1, extentIndex: 0 };
  const chunk = new Uint8Array(CHUNK_SIZE_BYTES).fill(7);
  const digest = new Uint8Array(32);
  const origin = { clusterId: "bench", entryId: 1, commitIndex: 1 };
  const small = { extent, bytes: chunk.subarray(0, 4096), digest, origin };

  await repeat(64, INFLIGHT, (index) => replica.writeChunk(extent, index, chunk, digest));
  const push = await repeat(CHUNK_COUNT, INFLIGHT, (index) =>
    replica.writeChunk(extent, index, chunk, digest),
  );
  const pullStartMs = clock.monotonicMs();
  for await (const piece of replica.read(extent, 0, CHUNK_COUNT * CHUNK_SIZE_BYTES)) void piece;
  const pull = (clock.monotonicMs() - pullStartMs) / 1000;
  const smalls = await repeat(SMALL_COUNT, SMALL_INFLIGHT, () => replica.putSmall(small));

  const row = [
    windowBytes === 0 ? "library's 64 KiB" : `${windowBytes / 1024 / 1024} MiB`,
    `${Math.round(CHUNK_COUNT / push)} MiB/s`,
    `${Math.round(CHUNK_COUNT / pull)} MiB/s`,
    `${Math.round(SMALL_COUNT / smalls)}/s`,
  ];
  console.log(`| ${row.join(" | ")} |`);
  replica.stop();
  pool.close();
  child.kill();
}

if (process.argv[2] === "serve") {
  await serve(Number(process.argv[3]));
} else {
  console.log("| windows | push of 1 MiB chunks | pull | 4 KiB puts, 64 in flight |");
  console.log("|---|---|---|---|");
  await measure(FLOW_CONTROL_WINDOW_BYTES);
  await measure(0);
}
