/** HTTP requests for the benchmarks: plain node:http with kept connections, so that the client costs little. */
import { Agent, request, type IncomingMessage } from "node:http";

const agent = new Agent({ keepAlive: true, maxSockets: 256 });

/** An answer read to its end. */
export interface Answer {
  readonly status: number;
  readonly body: Buffer;
}

async function readAll(response: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of response) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

/** One request with a body at hand. Rejects when the connection fails. */
export function send(
  method: string,
  url: string,
  body?: Uint8Array,
  headers: Record<string, string> = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const call = request(
      url,
      { method, agent, headers: { "content-length": String(body?.length ?? 0), ...headers } },
      (response) => {
        readAll(response).then((bytes) => resolve({ status: response.statusCode ?? 0, body: bytes }), reject);
      },
    );
    call.on("error", reject);
    call.end(body);
  });
}

/** Sends `sizeBytes` made of `piece` over and over as one body; returns the answer. */
export function sendStream(
  method: string,
  url: string,
  sizeBytes: number,
  piece: Uint8Array,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const call = request(
      url,
      { method, agent, headers: { "content-length": String(sizeBytes) } },
      (response) => {
        readAll(response).then((bytes) => resolve({ status: response.statusCode ?? 0, body: bytes }), reject);
      },
    );
    call.on("error", reject);
    let left = sizeBytes;
    let sequence = 0;
    const pump = (): void => {
      while (left > 0) {
        // Every piece differs in its first bytes, so that nothing along the way can profit from equal chunks.
        const part = Buffer.from(piece.subarray(0, Math.min(piece.length, left)));
        if (part.length >= 8) part.writeDoubleLE((sequence += 1), 0);
        left -= part.length;
        if (!call.write(part)) {
          call.once("drain", pump);
          return;
        }
      }
      call.end();
    };
    pump();
  });
}

/** Reads a body to its end and counts it. */
export function drain(url: string): Promise<{ status: number; sizeBytes: number }> {
  return new Promise((resolve, reject) => {
    const call = request(url, { agent }, (response) => {
      let sizeBytes = 0;
      response.on("data", (part: Buffer) => {
        sizeBytes += part.length;
      });
      response.on("end", () => resolve({ status: response.statusCode ?? 0, sizeBytes }));
      response.on("error", reject);
    });
    call.on("error", reject);
    call.end();
  });
}

/** Runs `work` with `clients` at once until `durationMs` passed; returns how many finished a second, and latencies in ms. */
export async function closedLoop(
  clients: number,
  durationMs: number,
  work: (client: number, sequence: number) => Promise<void>,
): Promise<{ perSecond: number; latenciesMs: number[] }> {
  const begun = performance.now();
  const latenciesMs: number[] = [];
  await Promise.all(
    Array.from({ length: clients }, async (_, client) => {
      for (let sequence = 0; performance.now() - begun < durationMs; sequence += 1) {
        const at = performance.now();
        await work(client, sequence);
        latenciesMs.push(performance.now() - at);
      }
    }),
  );
  return { perSecond: (latenciesMs.length / (performance.now() - begun)) * 1000, latenciesMs };
}
