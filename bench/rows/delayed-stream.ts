/** One ChunkService stream, each direction, through a proxy that delays by 10 ms each way (20 ms round trip). */
import * as grpc from "@grpc/grpc-js";
import { create, fromBinary, toBinary, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  DownloadRequestSchema,
  DownloadResponseSchema,
  PutFileRequestSchema,
  PutFileResponseSchema,
} from "../../gen/netdisk/v1/chunk_service_pb.ts";
import { must } from "../../src/std/assert.ts";
import { freePorts, type TestCluster } from "../../test/support/use-cluster.ts";
import { judgeAtLeast, spread, summary, type Row } from "../table.ts";

const MIB = 1024 * 1024;
const COUNT = 256;

function serializer<D extends DescMessage>(schema: D): (value: MessageShape<D>) => Buffer {
  return (value) => {
    const bytes = toBinary(schema, value);
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  };
}

async function push(client: grpc.Client, path: string): Promise<number> {
  const begun = performance.now();
  const done = new Promise<void>((resolve, reject) => {
    const call = client.makeClientStreamRequest(
      "/netdisk.v1.ChunkService/PutFile",
      serializer(PutFileRequestSchema),
      (bytes: Buffer) => fromBinary(PutFileResponseSchema, bytes),
      new grpc.Metadata(),
      {},
      (error) => (error === null ? resolve() : reject(error)),
    );
    call.on("error", reject);
    const send = async (): Promise<void> => {
      call.write(
        create(PutFileRequestSchema, {
          header: { path, sizeBytes: BigInt(COUNT * MIB), createParents: true },
        }),
      );
      for (let index = 0; index < COUNT; index += 1) {
        const data = Buffer.alloc(MIB, index);
        if (!call.write(create(PutFileRequestSchema, { data }))) await once(call, "drain");
      }
      call.end();
    };
    send().catch(reject);
  });
  await done;
  return COUNT / ((performance.now() - begun) / 1000);
}

async function pull(client: grpc.Client, path: string): Promise<number> {
  const begun = performance.now();
  const call = client.makeBidiStreamRequest(
    "/netdisk.v1.ChunkService/Download",
    serializer(DownloadRequestSchema),
    (bytes: Buffer) => fromBinary(DownloadResponseSchema, bytes),
  );
  call.write(create(DownloadRequestSchema, { ref: { ref: { case: "path", value: path } }, offset: 0n }));
  call.end();
  let sizeBytes = 0;
  for await (const message of call) sizeBytes += (message as { data: Uint8Array }).data.length;
  if (sizeBytes !== COUNT * MIB) throw new Error(`downloaded ${sizeBytes} bytes`);
  return COUNT / ((performance.now() - begun) / 1000);
}

/** Both directions at 20 ms round trip. */
export async function streamWithDelay(cluster: TestCluster, runs: number): Promise<Row[]> {
  const [port] = await freePorts(1);
  const target = must(cluster.node(0).grpcAddress.split(":")[1], "a port");
  const script = join(dirname(fileURLToPath(import.meta.url)), "../delay-proxy.ts");
  const proxy = spawn(process.execPath, ["--import", "tsx", script, String(port), target, "10"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(proxy.stdout, "data");
  const client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), {
    "grpc-node.flow_control_window": 16 * MIB,
    "grpc.max_receive_message_length": 8 * MIB,
  });
  const pushes: number[] = [];
  const pulls: number[] = [];
  try {
    for (let run = 0; run < runs; run += 1) {
      pushes.push(await push(client, `/stream/run-${run}.bin`));
      pulls.push(await pull(client, `/stream/run-${run}.bin`));
    }
  } finally {
    client.close();
    proxy.kill();
  }
  const row = (direction: string, rates: readonly number[]): Row => ({
    work: `one ChunkService stream at 20 ms round trip, ${direction}`,
    measured: `${spread(rates)} MiB/s`,
    compared: "-",
    ratio: "-",
    reach: ">= 100 MiB/s",
    verdict: judgeAtLeast(summary(rates).median, 100),
  });
  return [row("upload", pushes), row("download", pulls)];
}
