/** A gateway over a drive in memory on a free port, for one test suite at a time. */
import { connect } from "node:net";
import { once } from "node:events";
import { Gateway } from "../../../src/gateway/gateway.ts";
import type { GatewayLimits } from "../../../src/gateway/limits.ts";
import type { RequestLimiter } from "../../../src/gateway/request-limiter.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { createLogger } from "../../../src/telemetry/logger.ts";
import { PrometheusMetrics } from "../../../src/telemetry/metrics.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";

/** What a test gets; `drive` is new for each test. */
export interface GatewayFixture {
  drive: MemoryDrive;
  gateway: Gateway;
  url: string;
  /** Lines of the log so far. */
  logLines: string[];
  /** Fetches a path of the gateway. */
  fetch(path: string, init?: RequestInit): Promise<Response>;
  /** Sends a JSON body. */
  send(method: string, path: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
  /** Stores a file and returns its id. */
  put(path: string, bytes: Uint8Array | string, headers?: Record<string, string>): Promise<string>;
  /** Sends `text` on a socket of its own and returns all that comes back until the peer closes. */
  raw(text: string, settings?: { readonly half?: boolean }): Promise<string>;
}

/** The body of an answer that is an error. */
export interface ErrorJson {
  readonly error: {
    readonly code: string;
    readonly message: string;
    readonly remedy: string;
    readonly metadata: Record<string, string>;
    readonly outcomeUnknown?: boolean;
    readonly id?: string;
  };
}

/** The error that a response carries, as "status CODE". */
export async function errorOf(response: Response): Promise<string> {
  const { error } = (await response.json()) as ErrorJson;
  return `${response.status} ${error.code}`;
}

/** Registers hooks that start a gateway before each test and stop it after. */
export function useGateway(
  limits: Partial<GatewayLimits> = {},
  options: { readonly requestLimiter?: RequestLimiter } = {},
): GatewayFixture {
  const fixture = { logLines: [] } as unknown as GatewayFixture;
  beforeEach(async function () {
    // Sockets, curl and hashing on a busy machine take longer than a pure test may.
    this.currentTest?.timeout(15_000);
    const clock = new SystemClock();
    fixture.drive = new MemoryDrive();
    fixture.logLines = [];
    fixture.gateway = new Gateway({
      drive: fixture.drive,
      logger: createLogger({
        node: "n1",
        level: "info",
        clock,
        destination: { write: (line) => fixture.logLines.push(line) },
      }),
      metrics: new PrometheusMetrics({ nodeId: "n1", version: "1.2.3", process: false }),
      clock,
      prng: new SeededPrng(1),
      nodeId: "n1",
      version: "1.2.3",
      host: "127.0.0.1",
      port: 0,
      limits: { stopGraceMs: 50, lingerMs: 200, ...limits },
      ...options,
    });
    fixture.url = (await fixture.gateway.start()).url;
  });
  afterEach(() => fixture.gateway.stop());
  fixture.fetch = (path, init) => fetch(fixture.url + path, { redirect: "manual", ...init });
  fixture.send = (method, path, body, headers = {}) =>
    fixture.fetch(path, {
      method,
      headers: { "Content-Type": "application/json", ...headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
    });
  fixture.put = async (path, bytes, headers = {}) => {
    const response = await fixture.fetch(
      `/api/files/content?onConflict=replace&path=${encodeURIComponent(path)}`,
      {
        method: "PUT",
        body: bytes,
        headers,
      },
    );
    if (response.status !== 200) throw new Error(`put ${path}: ${response.status} ${await response.text()}`);
    return ((await response.json()) as { fileId: string }).fileId;
  };
  fixture.raw = async (text, settings = {}) => {
    const socket = connect({
      port: Number(new URL(fixture.url).port),
      host: "127.0.0.1",
      allowHalfOpen: true,
    });
    let answer = "";
    socket.setEncoding("latin1").on("data", (data) => (answer += String(data)));
    socket.on("error", () => undefined);
    if (settings.half === true) socket.end(text, "latin1");
    else socket.write(text, "latin1");
    await Promise.race([once(socket, "end"), once(socket, "close")]);
    socket.destroy();
    return answer;
  };
  return fixture;
}
