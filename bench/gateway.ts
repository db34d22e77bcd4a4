/**
 * How fast the gateway moves bytes by itself: PUT into a drive that drops them, GET from one that makes them up.
 *
 * The second figure, bytes per second of the gateway's own processor time, holds on a busy machine too.
 * A client written on a plain socket runs in a process of its own, so that the figures are the gateway's and not the client's.
 * Run: node --import tsx bench/gateway.ts [MiB]
 */
import { connect } from "node:net";
import { fork } from "node:child_process";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import { Gateway } from "../src/gateway/gateway.ts";
import type { Download } from "../src/drive/drive-api.ts";
import { SystemClock } from "../src/std/clock.ts";
import { SystemPrng } from "../src/std/prng.ts";
import { noMetrics } from "../src/telemetry/metrics.ts";
import { silentLogger } from "../src/telemetry/logger.ts";
import { MemoryDrive } from "../test/support/memory-drive.ts";

const MIB = 1024 * 1024;

interface Job {
  readonly port: number;
  readonly head: string;
  /** Bytes sent after the header. */
  readonly sendBytes: number;
}

/** Drops what is put and serves zeros of the size asked for. */
class NullDrive extends MemoryDrive {
  readonly #sizeBytes: number;

  constructor(sizeBytes: number) {
    super();
    this.#sizeBytes = sizeBytes;
  }

  override async putFile(
    ...[, body]: Parameters<MemoryDrive["putFile"]>
  ): ReturnType<MemoryDrive["putFile"]> {
    for await (const piece of body) void piece;
    return this.stat({ entryId: 1 });
  }

  override async openDownload(): Promise<Download> {
    const root = await this.stat({ entryId: 1 });
    const piece = new Uint8Array(MIB);
    async function* read(_offset: number, length: number): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < length; at += MIB) yield Promise.resolve(piece.subarray(0, length - at));
    }
    const entry = { ...root.entry, kind: "file" as const, name: "zeros", sizeBytes: this.#sizeBytes };
    return { entry, path: "/zeros", read, local: true, redirectUrl: undefined };
  }
}

/** Sends one request and reads the answer to the end of the connection; reports the seconds it took. */
function runClient(job: Job): void {
  const buffer = Buffer.alloc(MIB);
  const start = performance.now();
  const socket = connect({
    port: job.port,
    host: "127.0.0.1",
    onread: { buffer: Buffer.allocUnsafe(MIB), callback: () => true },
  });
  socket.on("connect", () => {
    socket.write(job.head);
    let left = job.sendBytes;
    const pump = (): void => {
      while (left > 0) {
        left -= MIB;
        if (!socket.write(buffer)) {
          socket.once("drain", pump);
          return;
        }
      }
    };
    pump();
  });
  socket.on("close", () => process.send?.((performance.now() - start) / 1000));
}

async function measure(title: string, sizeBytes: number, job: Job): Promise<void> {
  for (let round = 1; round <= 3; round += 1) {
    const before = process.cpuUsage();
    const client = fork(fileURLToPath(import.meta.url), ["client", JSON.stringify(job)]);
    const secondsTaken = await new Promise<number>((resolve, reject) => {
      client.once("message", (message) => resolve(Number(message)));
      client.once("error", reject);
    });
    client.disconnect();
    const used = process.cpuUsage(before);
    const perSecond = (secondsOf: number): string => (sizeBytes / MIB / secondsOf).toFixed(0).padStart(6);
    console.log(
      `${title}  round ${round}  ${perSecond(secondsTaken)} MiB/s  ${perSecond((used.user + used.system) / 1e6)} MiB per CPU second`,
    );
  }
}

async function main(): Promise<void> {
  const sizeBytes = Number(process.argv[2] ?? "1024") * MIB;
  const gateway = new Gateway({
    drive: new NullDrive(sizeBytes),
    logger: silentLogger,
    metrics: noMetrics,
    clock: new SystemClock(),
    prng: new SystemPrng(),
    nodeId: "bench",
    version: "bench",
    host: "127.0.0.1",
    port: 0,
  });
  const { url } = await gateway.start();
  const port = Number(new URL(url).port);
  console.log(
    `gateway alone, ${sizeBytes / MIB} MiB, ${cpus().length} x ${cpus()[0]?.model}, Node ${process.version}`,
  );
  const common = `Host: x\r\nConnection: close\r\n`;
  const put = "PUT /api/files/content?path=/zeros HTTP/1.1\r\n";
  await measure("PUT, length known ", sizeBytes, {
    port,
    head: `${put}${common}Content-Length: ${sizeBytes}\r\n\r\n`,
    sendBytes: sizeBytes,
  });
  await measure("GET, whole        ", sizeBytes, {
    port,
    head: `GET /api/download/7 HTTP/1.1\r\n${common}\r\n`,
    sendBytes: 0,
  });
  await gateway.stop();
}

if (process.argv[2] === "client") runClient(JSON.parse(process.argv[3] ?? "") as Job);
else await main();
