/**
 * A client of the simulated cluster: random operations on a small set of paths, each recorded with what it was told.
 *
 * A client talks to one node at a time, over a network of its own that loses nothing by partitions (those are between nodes),
 * but its calls can be lost and its node can die. After an unknown outcome it asks again with the same request id, at any node,
 * most of the time until it knows. Every file it writes is unlike every other, and every byte it reads is compared.
 */
import type { Download, DriveApi, PathEntry, UploadRequest } from "../../src/drive/drive-api.ts";
import type { Entry, OnConflict } from "../../src/drive/entry.ts";
import { DriveError, hasReason, type ErrorReason } from "../../src/drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../../src/drive/limits.ts";
import type { ServingNode } from "../../src/node/serving-node.ts";
import { must } from "../../src/std/assert.ts";
import { toHex } from "../../src/std/bytes.ts";
import { sha256 } from "../../src/std/digest.ts";
import type { Prng } from "../../src/std/prng.ts";
import type { HistoryEvent } from "./sim-history.ts";
import type { ModelRequest, ModelResult } from "./sim-model.ts";
import { memberOfUrl } from "./sim-machine.ts";
import type { SimNetwork } from "./sim-network.ts";
import type { SimProcess } from "./sim-scheduler.ts";

/** Groups of paths, between which nothing moves. */
export const GROUP_COUNT = 2;

/** Paths within a group that operations choose from. */
export const PATHS: readonly string[] = ["a", "b", "c", "d", "d/x", "d/y", "e", "e/x"];

const CALL_DEADLINE_MS = 20_000;
const RETRY_DELAY_MS = 150;
const ATTEMPT_COUNT_MAX = 60;

/** Reasons that the model knows: an answer about the state, not about the cluster. */
const MODEL_REASONS: ReadonlySet<ErrorReason> = new Set([
  "PATH_NOT_FOUND",
  "PATH_EXISTS",
  "NOT_A_DIRECTORY",
  "IS_A_DIRECTORY",
  "DIRECTORY_NOT_EMPTY",
  "MOVE_INTO_SELF",
  "VERSION_MISMATCH",
]);

/** Reasons that must never be seen, whatever the faults. */
const NEVER_REASONS: ReadonlySet<ErrorReason> = new Set([
  "INTERNAL",
  "DATA_CORRUPT",
  "WRONG_CLUSTER",
  "DIGEST_MISMATCH",
]);

/** What was ever written, by digest: a value read must be one of them. */
export class SimValues {
  readonly #byDigest = new Map<string, number>();
  #next = 1;

  /** New bytes unlike all others, unless they are fewer than 8. */
  make(sizeBytes: number): { readonly value: number; readonly bytes: Uint8Array } {
    const value = this.#next;
    this.#next += 1;
    const bytes = Buffer.alloc(sizeBytes, (value * 31) & 0xff);
    for (let at = 0; at + 8 <= sizeBytes; at += 4096) bytes.writeDoubleLE(value + at / 2 ** 32, at);
    const digest = toHex(sha256(bytes));
    const same = this.#byDigest.get(digest);
    if (same === undefined) this.#byDigest.set(digest, value);
    return { value: same ?? value, bytes };
  }

  /** The value that these bytes are; undefined when nobody ever wrote them. */
  find(bytes: Uint8Array): number | undefined {
    return this.#byDigest.get(toHex(sha256(bytes)));
  }
}

/** What clients share with the run. */
export interface SimWorld {
  readonly network: SimNetwork;
  readonly values: SimValues;
  /** The present incarnation of a member; undefined while it is dead or starting. */
  readonly nodeOf: (memberId: number) => ServingNode | undefined;
  /** Told as soon as a node has opened a download for a client. */
  readonly onServed: (memberId: number) => void;
  readonly nowMs: () => number;
  /** A number that grows with every call and return. */
  readonly tick: () => number;
  readonly record: (event: HistoryEvent) => void;
  readonly counts: SimClientCounts;
}

/** What clients did. */
export interface SimClientCounts {
  done: number;
  refused: number;
  unknown: number;
  notDone: number;
  retried: number;
  largeDone: number;
  bytesRead: number;
  /** Downloads that a node opened for the ticket of a voter. */
  ticketed: number;
}

/** Settings of a SimClient. */
export interface SimClientOptions {
  readonly name: string;
  /** Its address on the network. */
  readonly address: number;
  readonly process: SimProcess;
  readonly prng: Prng;
  readonly world: SimWorld;
  /** Whom it may ask. */
  readonly memberIds: () => readonly number[];
  readonly largeFiles: boolean;
  readonly thinkMeanMs: number;
  /** Begins at a node that its address chooses, so that clients see each other's writes by way of the cluster. */
  readonly startsApart: boolean;
  /** Reads what a node happens to know: a planted fault. */
  readonly staleReads: boolean;
}

interface ReadFile {
  readonly entry: Entry;
  readonly bytes: Uint8Array;
}

class Refused extends Error {}

/** One client. */
export class SimClient {
  readonly #options: SimClientOptions;
  #requestCount = 0;
  #memberId: number;
  /** Versions it was told, for If-Match. */
  readonly #versions = new Map<string, number>();

  constructor(options: SimClientOptions) {
    this.#options = options;
    const { startsApart, address } = options;
    const memberIds = options.memberIds();
    this.#memberId = must(memberIds[startsApart ? address % memberIds.length : 0], "a member");
  }

  /** Does `count` random operations, one after the other. */
  async run(count: number): Promise<void> {
    const { prng, process, thinkMeanMs } = this.#options;
    for (let i = 0; i < count; i += 1) {
      await process.delay(-Math.log(1 - prng.float()) * thinkMeanMs);
      const group = prng.below(GROUP_COUNT);
      await this.#operate(group, this.#drawRequest(group));
    }
  }

  /** Makes the folders of the groups; each exists from the start of the history on. */
  async prepare(): Promise<void> {
    for (let group = 0; group < GROUP_COUNT; group += 1) {
      const settings = { createParents: true, existOk: true, attributes: {} };
      for (let isDone = false; !isDone;) {
        try {
          for (const path of [`/g${group}`, `/g${group}/d`]) {
            await this.#call("mkdir", (drive) => drive.createDirectory(path, settings));
          }
          isDone = true;
        } catch (error) {
          if (!(error instanceof DriveError)) throw error;
          await this.#options.process.delay(RETRY_DELAY_MS);
          this.#changeNode();
        }
      }
    }
  }

  /** Reads every path of every group at one node; all of it must succeed. */
  async readAll(memberId: number): Promise<void> {
    for (let group = 0; group < GROUP_COUNT; group += 1) {
      for (const path of ["", ...PATHS]) {
        this.#memberId = memberId;
        const isFolder = path === "" || path === "d" || path === "e";
        const result = await this.#operate(group, { kind: isFolder ? "list" : "read", path }, true);
        if (result.kind !== "unknown") continue;
        throw new Error(`C6: /g${group}/${path} cannot be read at member ${memberId} after the healing`);
      }
    }
  }

  #drawRequest(group: number): ModelRequest {
    const { prng, world } = this.#options;
    const path = this.#drawPath();
    const onConflict: OnConflict = prng.below(3) === 0 ? "fail" : "replace";
    const kind = prng.below(100);
    if (kind < 34) {
      const known = this.#versions.get(`${group}/${path}`);
      const ifVersion = known !== undefined && prng.below(4) === 0 ? known : undefined;
      const { value } = this.#pending(world.values.make(this.#drawSize(path)));
      return { kind: "put", path, value, onConflict, ifVersion };
    }
    if (kind < 60) return { kind: "read", path };
    if (kind < 65) return { kind: "stat", path };
    if (kind < 70) return { kind: "list", path: prng.below(2) === 0 ? "" : path };
    if (kind < 78) return { kind: "mkdir", path: prng.below(3) === 0 ? "e" : "d" };
    if (kind < 85) return { kind: "move", from: path, to: this.#drawPath(), onConflict };
    if (kind < 92) return { kind: "copy", from: path, to: this.#drawPath(), onConflict };
    return { kind: "delete", path, recursive: prng.below(3) === 0 };
  }

  #drawPath(): string {
    return must(PATHS[this.#options.prng.below(PATHS.length)], "a path");
  }

  #drawSize(path: string): number {
    const { prng, largeFiles } = this.#options;
    // An upload in steps is bound to the folder that it began in, so large files stay where no folder moves.
    if (largeFiles && !path.includes("/") && prng.below(6) === 0) {
      return CHUNK_SIZE_BYTES - 1 + prng.below(3) + prng.below(2) * prng.below(CHUNK_SIZE_BYTES + 2);
    }
    const kind = prng.below(10);
    if (kind === 0) return 0;
    if (kind < 7) return 8 + prng.below(2000);
    return 8 + prng.below(100_000);
  }

  #bytes: Uint8Array = new Uint8Array(0);

  #pending(made: { readonly value: number; readonly bytes: Uint8Array }): { readonly value: number } {
    this.#bytes = made.bytes;
    return made;
  }

  async #operate(group: number, request: ModelRequest, isFinal = false): Promise<ModelResult> {
    const { world, name, prng } = this.#options;
    const { counts } = world;
    const calledAt = world.tick();
    const calledMs = world.nowMs();
    this.#requestCount += 1;
    const requestId = `${name}-${this.#requestCount}`;
    const way = { upload: this.#bytes.length > 8 && prng.below(2) === 0 };
    let mayHaveHappened = false;
    let result: ModelResult | undefined;
    for (let attempt = 1; result === undefined && attempt <= ATTEMPT_COUNT_MAX; attempt += 1) {
      try {
        result = await this.#attempt(group, request, requestId, way);
      } catch (error) {
        if (!(error instanceof DriveError) || NEVER_REASONS.has(error.reason)) throw asError(error, request);
        if (MODEL_REASONS.has(error.reason)) {
          result = { kind: "refused", reason: error.reason };
          break;
        }
        mayHaveHappened ||= error.spec.outcome === "indefinite";
        const givesUp = !isFinal && prng.below(mayHaveHappened ? 20 : 3) === 0;
        if (givesUp) break;
        counts.retried += 1;
        await this.#options.process.delay(RETRY_DELAY_MS * (1 + prng.below(3)));
        if (!isFinal) this.#changeNode();
      }
    }
    if (result === undefined) {
      if (mayHaveHappened) counts.unknown += 1;
      else counts.notDone += 1;
      const isNothing = !mayHaveHappened;
      result = { kind: "unknown" };
      // Every attempt said that nothing happened: if something did, some read will have no explanation (C7).
      if (isNothing) return result;
    } else if (result.kind === "refused") counts.refused += 1;
    else counts.done += 1;
    const returned = { returnedAt: world.tick(), returnedMs: world.nowMs() };
    world.record({ client: name, group, request, result, calledAt, calledMs, ...returned });
    return result;
  }

  async #attempt(
    group: number,
    request: ModelRequest,
    requestId: string,
    way: { readonly upload: boolean },
  ): Promise<ModelResult> {
    const at = (path: string): string => (path === "" ? `/g${group}` : `/g${group}/${path}`);
    const done = ({ path, entry }: PathEntry): ModelResult => {
      const relative = path.slice(`/g${group}/`.length);
      this.#versions.set(`${group}/${relative}`, entry.version);
      return { kind: "done", path: relative, version: entry.version };
    };
    switch (request.kind) {
      case "put":
        return done(await this.#put(at(request.path), request, requestId, way));
      case "read":
        return this.#read(at(request.path));
      case "stat": {
        const { entry } = await this.#call("stat", (drive) => drive.stat({ path: at(request.path) }));
        return { kind: "entry", isDirectory: entry.kind === "directory", version: entry.version };
      }
      case "list": {
        const ref = { path: at(request.path) };
        const page = await this.#call("list", (drive) => drive.list(ref, { countMax: 100 }));
        return { kind: "names", names: page.entries.map((entry) => entry.name) };
      }
      case "mkdir": {
        const settings = { createParents: false, existOk: false, attributes: {} };
        await this.#call("mkdir", (drive) =>
          drive.createDirectory(at(request.path), settings, { requestId }),
        );
        return { kind: "done" };
      }
      case "move":
      case "copy": {
        const { kind, from, to, onConflict } = request;
        return done(
          await this.#call(kind, (drive) =>
            drive[kind]({ path: at(from) }, at(to), onConflict, { requestId }),
          ),
        );
      }
      case "delete": {
        const { path, recursive } = request;
        await this.#call("delete", (drive) => drive.remove({ path: at(path) }, { recursive }, { requestId }));
        return { kind: "done" };
      }
    }
  }

  async #put(
    path: string,
    request: ModelRequest & { kind: "put" },
    requestId: string,
    way: { readonly upload: boolean },
  ): Promise<PathEntry> {
    const bytes = this.#bytes;
    const { ifVersion, onConflict } = request;
    const precondition = ifVersion === undefined ? undefined : { ifVersions: [ifVersion] };
    const upload: UploadRequest = {
      path,
      sizeBytes: bytes.length,
      onConflict,
      attributes: {},
      createParents: false,
    };
    const { counts } = this.#options.world;
    const isLarge = bytes.length > CHUNK_SIZE_BYTES;
    if (!isLarge || !way.upload) {
      const entry = await this.#call("put", (drive, signal) =>
        drive.putFile(upload, stream(bytes), { requestId, precondition, signal }),
      );
      if (isLarge) counts.largeDone += 1;
      return entry;
    }
    const options = { requestId: `${requestId}-init`, precondition };
    const { uploadId } = await this.#begun(() =>
      this.#call("init", (drive) => drive.initUpload(upload, options)),
    );
    for (let index = 0; index * CHUNK_SIZE_BYTES < bytes.length; index += 1) {
      const chunk = bytes.subarray(index * CHUNK_SIZE_BYTES, (index + 1) * CHUNK_SIZE_BYTES);
      const write = (): Promise<unknown> =>
        this.#call("chunk", (drive, signal) =>
          drive.writeChunk(uploadId, index, chunk, sha256(chunk), signal),
        );
      try {
        await this.#begun(write);
      } catch (error) {
        // A repeat of a request whose completion came through is told so, and completes again for the answer.
        if (!hasReason(error, "UPLOAD_FINISHED")) throw error;
      }
    }
    const entry = await this.#call("complete", (drive) =>
      drive.completeUpload(uploadId, {}, { requestId, precondition }),
    );
    counts.largeDone += 1;
    return entry;
  }

  /** A step that shows nothing in the tree: when its outcome is unknown, the file certainly was not made by it. */
  async #begun<T>(step: () => Promise<T>): Promise<T> {
    try {
      return await step();
    } catch (error) {
      if (!(error instanceof DriveError) || error.spec.outcome === "definite") throw error;
      throw new DriveError("QUORUM_NOT_REACHED", `A step of an upload was lost: ${error.message}`, {}, error);
    }
  }

  async #read(path: string): Promise<ModelResult> {
    const { world, staleReads, prng } = this.#options;
    const consistency = staleReads ? "stale" : "linearizable";
    const read = async (download: Download, memberId: number, signal: AbortSignal): Promise<ReadFile> => {
      world.onServed(memberId);
      const pieces: Uint8Array[] = [];
      for await (const piece of download.read(0, download.entry.sizeBytes, signal)) pieces.push(piece);
      return { entry: download.entry, bytes: Buffer.concat(pieces) };
    };
    const askedId = this.#memberId;
    let found = await this.#call("read", async (drive, signal) => {
      const download = await drive.openDownload({ path }, { signal, consistency });
      const { redirectUrl, redirectTicket: ticket } = download;
      // A client that is sent on reads there; one that does not follow gets the bytes from whom it asked.
      if (redirectUrl !== undefined && ticket !== undefined && prng.below(4) > 0) {
        return { to: memberOfUrl(redirectUrl), entryId: download.entry.entryId, ticket };
      }
      return read(download, askedId, signal);
    });
    if ("ticket" in found) {
      const { to, entryId, ticket } = found;
      found = await this.#callAt(to, "read with ticket", async (drive, signal) =>
        read(await drive.openDownload({ entryId }, { signal, ticket }), to, signal),
      );
      world.counts.ticketed += 1;
    }
    const { entry, bytes } = found;
    world.counts.bytesRead += bytes.length;
    const value = world.values.find(bytes);
    if (value === undefined || bytes.length !== entry.sizeBytes) {
      throw new Refused(
        `K2: ${path} of version ${entry.version} was read as bytes that nobody wrote (${bytes.length})`,
      );
    }
    return { kind: "value", value, version: entry.version };
  }

  #call<T>(label: string, work: (drive: DriveApi, signal: AbortSignal) => Promise<T>): Promise<T> {
    return this.#callAt(this.#memberId, label, work);
  }

  #callAt<T>(
    memberId: number,
    label: string,
    work: (drive: DriveApi, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const { world, address, process, name } = this.#options;
    return world.network.call<T>({
      from: address,
      caller: process,
      to: memberId,
      label: `${name}>${memberId} ${label}`,
      deadlineMs: CALL_DEADLINE_MS,
      serve: async (signal) => {
        const node = world.nodeOf(memberId);
        if (node === undefined) throw new DriveError("NODE_STARTING", "The node is starting.");
        return work(node.drive, signal);
      },
      refused: () => new DriveError("PEER_UNREACHABLE", `Member ${memberId} refuses connections.`),
      lost: () => new DriveError("COMMIT_OUTCOME_UNKNOWN", `The connection to member ${memberId} broke.`),
    });
  }

  #changeNode(): void {
    const { prng } = this.#options;
    const memberIds = this.#options.memberIds();
    this.#memberId = must(memberIds[prng.below(memberIds.length)], "a member");
  }
}

function asError(error: unknown, request: ModelRequest): Error {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return new Error(`${JSON.stringify(request)} failed with what must never happen: ${text}`, {
    cause: error,
  });
}

async function* stream(bytes: Uint8Array): AsyncGenerator<Uint8Array, void, undefined> {
  const half = Math.ceil(bytes.length / 2);
  if (half > 0) yield bytes.subarray(0, half);
  if (half < bytes.length) yield bytes.subarray(half);
}
