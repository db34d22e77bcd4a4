/** Files whose bytes follow from a number, written and read back through whichever node answers, every request counted. */
import { createCipheriv, createHash } from "node:crypto";
import { inspect } from "node:util";
import { must } from "../../../src/std/assert.ts";
import { sleep, type Clock } from "../../../src/std/clock.ts";
import type { Prng } from "../../../src/std/prng.ts";
import type { ClusterNode } from "../../support/use-cluster.ts";

const PIECE_SIZE_BYTES = 1024 * 1024;
const RETRY_DELAY_MS = 100;
/** A request that no node answers for so long has failed. */
const REQUEST_WITHIN_MS = 120_000;
const ZEROS = Buffer.alloc(PIECE_SIZE_BYTES);

/** A file that was acknowledged. */
export interface StoredFile {
  readonly path: string;
  readonly serial: number;
  readonly sizeBytes: number;
  readonly sha256: string;
}

/** Requests of one kind so far. */
export interface RequestCounts {
  count: number;
  /** Attempts that another node had to take over, because one was killed, left, or said "again later". */
  retried: number;
  /** Requests that were not answered within two minutes, or wrongly; must stay empty. */
  readonly failures: string[];
  bytes: number;
}

/** Where and how the files are kept. */
export interface StoredFilesOptions {
  readonly clock: Clock;
  /** Nodes that take requests now; asked before every attempt. */
  readonly nodes: () => readonly ClusterNode[];
}

/** The bytes of file `serial`, piece by piece. */
export function* piecesOf(serial: number, sizeBytes: number): Generator<Buffer> {
  const counter = Buffer.alloc(16);
  counter.writeUInt32LE(serial, 0);
  const cipher = createCipheriv("aes-128-ctr", Buffer.alloc(16, 7), counter);
  for (let left = sizeBytes; left > 0; left -= PIECE_SIZE_BYTES) {
    yield cipher.update(ZEROS.subarray(0, Math.min(left, PIECE_SIZE_BYTES)));
  }
}

/** The drive as its clients see it. */
export class StoredFiles {
  readonly files: StoredFile[] = [];
  readonly uploads: RequestCounts = { count: 0, retried: 0, failures: [], bytes: 0 };
  readonly downloads: RequestCounts = { count: 0, retried: 0, failures: [], bytes: 0 };
  readonly #options: StoredFilesOptions;
  #serial = 0;

  constructor(options: StoredFilesOptions) {
    this.#options = options;
  }

  /** Writes one new file, retried under one request id. */
  async put(prng: Prng, sizeBytes: number): Promise<void> {
    const serial = (this.#serial += 1);
    const path = `/heal/d${serial % 100}/file-${serial}.bin`;
    const hash = createHash("sha256");
    const query = `path=${path}`;
    let isHashed = false;
    const done = await this.#attempt(prng, this.uploads, `put ${path}`, async (node, signal) => {
      const body = (function* () {
        for (const piece of piecesOf(serial, sizeBytes)) {
          if (!isHashed) hash.update(piece);
          yield piece;
        }
        isHashed = true;
      })();
      const response = await fetch(`${node.httpUrl}/api/files/content?${query}`, {
        method: "PUT",
        headers: { "content-length": String(sizeBytes), "idempotency-key": `heal-${serial}` },
        body: sizeBytes === 0 ? new Uint8Array() : ReadableStream.from(body),
        duplex: "half",
        signal,
      } as RequestInit);
      const text = await response.text();
      if (!response.ok) throw new Error(`${response.status} ${text.slice(0, 300)}`);
    });
    if (!done) return;
    this.uploads.bytes += sizeBytes;
    if (!isHashed) for (const piece of piecesOf(serial, sizeBytes)) hash.update(piece);
    this.files.push({ path, serial, sizeBytes, sha256: hash.digest("hex") });
  }

  /** Reads a file whole and compares it; through `at` when given. */
  async read(prng: Prng, file: StoredFile, at?: ClusterNode): Promise<void> {
    const done = await this.#attempt(
      prng,
      this.downloads,
      `get ${file.path}`,
      async (node, signal) => {
        const url = `${node.httpUrl}/api/download?path=${file.path}&redirect=never`;
        const response = await fetch(url, { signal });
        if (!response.ok) throw new Error(`${response.status} ${(await response.text()).slice(0, 300)}`);
        const hash = createHash("sha256");
        for await (const piece of must(response.body, "a body")) hash.update(piece as Uint8Array);
        if (hash.digest("hex") !== file.sha256) this.downloads.failures.push(`${file.path} has other bytes`);
      },
      at,
    );
    if (done) this.downloads.bytes += file.sizeBytes;
  }

  /** Tries at one node after the other until it works; false when it failed for good. */
  async #attempt(
    prng: Prng,
    counts: RequestCounts,
    what: string,
    work: (node: ClusterNode, signal: AbortSignal) => Promise<void>,
    at?: ClusterNode,
  ): Promise<boolean> {
    const { clock, nodes } = this.#options;
    const untilMs = clock.monotonicMs() + REQUEST_WITHIN_MS;
    counts.count += 1;
    let reason = "";
    while (clock.monotonicMs() < untilMs) {
      const candidates = nodes();
      const node = at ?? must(candidates[prng.below(candidates.length)], "a node");
      try {
        await work(node, AbortSignal.timeout(REQUEST_WITHIN_MS));
        return true;
      } catch (error) {
        reason = `${node.nodeId}: ${inspect(error, { depth: 2, breakLength: Infinity })}`;
        counts.retried += 1;
      }
      await sleep(clock, RETRY_DELAY_MS);
    }
    counts.failures.push(`${what}: ${reason}`);
    return false;
  }
}
