/**
 * People at work while services fail: they write, read at another node, move, remove, search and prepare downloads. Every request
 * is made once: a service that is away must not cost anybody even a second try. What was written is compared on reading.
 */
import { createHash } from "node:crypto";
import { must } from "../../../src/std/assert.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import type { Prng, SeededPrng } from "../../../src/std/prng.ts";
import { eventually } from "../../support/eventually.ts";
import type { TestCluster } from "../../support/use-cluster.ts";

const KIB = 1024;
/** One file in so many has several chunks, so that the projection needs its manifest. */
const LARGE_FILE_EVERY = 12;
const LARGE_SIZE_BYTES = 3 * 1024 * KIB;
const SMALL_SIZE_BYTES_MAX = 32 * KIB;

/** A request that takes longer has failed its user. */
export const REQUEST_MS_MAX = 10_000;

/** While services are away half of all requests take at most so many times what they took before, and this much more. */
export const MEDIAN_FACTOR_MAX = 3;
export const MEDIAN_SLACK_MS = 100;

/** What is asked. */
export const REQUEST_KINDS = ["upload", "read", "stat", "search"] as const;
/** What is asked. */
export type RequestKind = (typeof REQUEST_KINDS)[number];

/** Times of requests, by what was asked. */
export type Latencies = Readonly<Record<RequestKind, number[]>>;

/** No times yet. */
export function noLatencies(): Latencies {
  return { upload: [], read: [], stat: [], search: [] };
}

/** The load. It begins at once; stop() it. */
export class ServiceLoad {
  /** What went wrong; must stay empty. */
  readonly failures: string[] = [];
  /** Ids of all files ever written. */
  readonly fileIds: string[] = [];
  /** Ids of those that were removed later. */
  readonly removedIds = new Set<string>();
  /** Ids of prepared downloads. */
  readonly downloadIds: string[] = [];
  /** Times in milliseconds since the last takeLatencies(). */
  #latencies = noLatencies();
  readonly #cluster: TestCluster;
  readonly #clock = new SystemClock();
  readonly #running: readonly Promise<void>[];
  #isOver = false;
  #roundCount = 0;
  #serial = 0;

  constructor(cluster: TestCluster, prng: SeededPrng, workerCount: number) {
    this.#cluster = cluster;
    this.#running = Array.from({ length: workerCount }, (_, at) => this.#work(at, prng.fork()));
  }

  /** Resolves after so many more rounds of the workers. */
  async go(rounds: number): Promise<void> {
    const before = this.#roundCount;
    await eventually(
      `${rounds} more rounds of the load`,
      () => this.#roundCount >= before + rounds || this.failures.length > 0,
      { withinMs: 120_000 },
    );
  }

  /** The times of requests that ended since the last call. */
  takeLatencies(): Latencies {
    const taken = this.#latencies;
    this.#latencies = noLatencies();
    return taken;
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#running);
  }

  /** Asks for archives of so many folders, each with one file: a download task each. */
  async prepareDownloads(count: number): Promise<void> {
    const serials = Array.from({ length: count }, () => (this.#serial += 1));
    await Promise.all(
      serials.map(async (serial) => {
        const path = `/zip/${serial}`;
        await this.#put(serial % 3, `${path}/file.bin`, Buffer.from(`archive me ${serial}`));
        const prepared = await this.#send(serial % 3, "POST", "/api/downloads", JSON.stringify({ path }));
        if (prepared === undefined) return;
        const { downloadId } = JSON.parse(prepared.toString()) as { downloadId: string };
        this.downloadIds.push(downloadId);
      }),
    );
  }

  async #work(worker: number, prng: Prng): Promise<void> {
    for (let round = 1; !this.#isOver; round += 1) {
      const [writer, reader] = [round % 3, (round + 1) % 3];
      const serial = (this.#serial += 1);
      const path = `/load/${worker}/文件-${serial}.bin`;
      const isLarge = round % LARGE_FILE_EVERY === 0;
      const body = Buffer.from(prng.bytes(isLarge ? LARGE_SIZE_BYTES : prng.below(SMALL_SIZE_BYTES_MAX)));
      const fileId = await this.#put(writer, path, body);
      const stat = await this.#timed("stat", () => this.#send(reader, "GET", `/api/stat?path=${path}`));
      const size = stat === undefined ? undefined : (JSON.parse(stat.toString()) as { size: number }).size;
      if (stat !== undefined && size !== body.length)
        this.failures.push(`${path}: ${String(size)} instead of ${body.length}`);
      const got = await this.#timed("read", () =>
        this.#send(reader, "GET", `/api/download?path=${path}&redirect=never`),
      );
      if (got !== undefined && sha256(got) !== sha256(body)) this.failures.push(`${path}: other bytes`);
      if (round % 4 === 0) {
        const query = `/api/search?q=${encodeURIComponent("文件")}&limit=10`;
        await this.#timed("search", () => this.#send(reader, "GET", query));
      }
      if (round % 10 === 0) {
        await this.#send(writer, "DELETE", `/api/files?path=${path}`);
        if (fileId !== undefined) this.removedIds.add(fileId);
      } else if (round % 5 === 0)
        await this.#send(
          writer,
          "PATCH",
          `/api/files?path=${path}`,
          JSON.stringify({ path: `${path}.moved` }),
        );
      this.#roundCount += 1;
    }
  }

  async #put(node: number, path: string, body: Buffer): Promise<string | undefined> {
    const answer = await this.#timed("upload", () =>
      this.#send(node, "PUT", `/api/files/content?path=${path}`, body),
    );
    if (answer === undefined) return undefined;
    const { fileId } = JSON.parse(answer.toString()) as { fileId: string };
    this.fileIds.push(fileId);
    return fileId;
  }

  async #timed<T>(kind: RequestKind, work: () => Promise<T>): Promise<T> {
    const beganMs = this.#clock.monotonicMs();
    const answer = await work();
    this.#latencies[kind].push(this.#clock.monotonicMs() - beganMs);
    return answer;
  }

  /** The body of the answer; undefined, and a failure noted, when the request failed. */
  async #send(
    node: number,
    method: string,
    path: string,
    body?: Buffer | string,
  ): Promise<Buffer | undefined> {
    const { nodeId, httpUrl } = must(this.#cluster.nodes[node], "a node");
    const what = `${method} ${path} at ${nodeId}`;
    try {
      const response = await fetch(`${httpUrl}${path}`, {
        method,
        signal: AbortSignal.timeout(REQUEST_MS_MAX),
        ...(body !== undefined && { body: typeof body === "string" ? body : new Uint8Array(body) }),
        ...(typeof body === "string" && { headers: { "content-type": "application/json" } }),
      });
      const bytes = Buffer.from(await response.arrayBuffer());
      if (response.ok) return bytes;
      this.failures.push(`${what}: ${response.status} ${bytes.toString().slice(0, 300)}`);
    } catch (error) {
      this.failures.push(`${what}: ${String(error)}`);
    }
    return undefined;
  }
}

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
