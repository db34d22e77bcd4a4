/**
 * The drive as the clients of the torture run use it: the operations of the files model over gRPC (RemoteDriveApi, which goes on to
 * other nodes by itself) and over HTTP (one node at a time, as curl or a browser does).
 */
import type { DriveApi } from "../../../src/drive/drive-api.ts";
import { DriveError, isErrorReason, REASONS, type ErrorReason } from "../../../src/drive/errors.ts";
import { RemoteDriveApi } from "../../../src/rpc/remote-drive-api.ts";
import { must } from "../../../src/std/assert.ts";
import { toHex } from "../../../src/std/bytes.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import type { Prng } from "../../../src/std/prng.ts";
import type { FileInput, FileOutput } from "../../support/linearizability/models.ts";
import type { Values } from "./values.ts";

/** How long one attempt over HTTP may take. */
const HTTP_TIMEOUT_MS = 6_000;

/** How long RemoteDriveApi tries before it gives up; the workload then decides. */
const GRPC_TIMEOUT_MS = 8_000;

/** An operation that was not answered. */
export class Failed extends Error {
  readonly reason: ErrorReason | "TRANSPORT";
  /** Whether it may have happened nevertheless. */
  readonly isIndefinite: boolean;

  constructor(reason: ErrorReason | "TRANSPORT", isIndefinite: boolean, message: string, cause?: unknown) {
    super(`${reason}: ${message}`, { cause });
    this.reason = reason;
    this.isIndefinite = isIndefinite;
  }
}

/** One client's way to the drive. */
export interface TestDrive {
  readonly name: string;
  /** Runs one operation; a repeat carries the same request id. Throws Failed. */
  perform(input: FileInput, requestId: string): Promise<FileOutput>;
  /** Makes a new file and its folder. Throws Failed; PATH_EXISTS when the path is taken. */
  putFile(path: string, bytes: Uint8Array, requestId: string): Promise<void>;
  makeFolder(path: string): Promise<void>;
  close(): void;
}

/** What clients share: the values, and the versions under which they were seen, for conditions. */
export interface DriveContext {
  readonly values: Values;
  readonly versions: Map<string, number>;
  readonly prng: Prng;
}

/** The answer that a refusal is in terms of the model; undefined when it says nothing about the files. */
function answerOf(input: FileInput, reason: string): FileOutput | undefined {
  if (reason === "PATH_NOT_FOUND") return { kind: "absent" };
  if (reason === "PATH_EXISTS") return { kind: "exists" };
  if (reason === "VERSION_MISMATCH" && "ifValue" in input) return { kind: "mismatch" };
  return undefined;
}

const folderOf = (paths: readonly string[]): string => must(paths[0], "a path").replace(/\/[^/]*$/, "");
const nameOf = (path: string): string => path.slice(path.lastIndexOf("/") + 1);

// --- gRPC -------------------------------------------------------------------------------------------------------------

/** Over gRPC, with fail-over inside. */
export class GrpcDrive implements TestDrive {
  readonly name: string;
  readonly #context: DriveContext;
  readonly #api: RemoteDriveApi;

  /** @param addresses of all nodes, the one to ask first first */
  constructor(name: string, addresses: readonly string[], context: DriveContext) {
    this.name = name;
    this.#context = context;
    const clock = new SystemClock();
    this.#api = new RemoteDriveApi({ addresses, clock, prng: context.prng, timeoutMs: GRPC_TIMEOUT_MS });
  }

  async perform(input: FileInput, requestId: string): Promise<FileOutput> {
    try {
      return await this.#perform(this.#api, input, requestId);
    } catch (error) {
      const answer = error instanceof DriveError ? answerOf(input, error.reason) : undefined;
      if (answer !== undefined) return answer;
      throw asFailed(error);
    }
  }

  async putFile(path: string, bytes: Uint8Array, requestId: string): Promise<void> {
    try {
      await this.#put(this.#api, { path, onConflict: "fail", createParents: true }, bytes, { requestId });
    } catch (error) {
      throw asFailed(error);
    }
  }

  async makeFolder(path: string): Promise<void> {
    try {
      await this.#api.createDirectory(path, { createParents: true, existOk: true, attributes: {} });
    } catch (error) {
      throw asFailed(error);
    }
  }

  close(): void {
    this.#api.close();
  }

  async #perform(api: DriveApi, input: FileInput, requestId: string): Promise<FileOutput> {
    const { values, versions, prng } = this.#context;
    const ifValue = "ifValue" in input ? input.ifValue : undefined;
    const precondition =
      ifValue === undefined ? undefined : { ifVersions: [must(versions.get(ifValue), "a version seen")] };
    const options = { requestId, precondition };
    switch (input.kind) {
      case "create":
      case "replace": {
        const onConflict = input.kind === "create" ? "fail" : "replace";
        const where = { path: input.path, onConflict, createParents: false } as const;
        versions.set(input.value, await this.#put(api, where, values.bytesOf(input.value), options));
        return { kind: "done" };
      }
      case "remove":
        await api.remove({ path: input.path }, { recursive: false }, options);
        return { kind: "done" };
      case "move":
      case "copy":
        await api[input.kind]({ path: input.from }, input.to, input.replace ? "replace" : "fail", {
          requestId,
        });
        return { kind: "done" };
      case "read": {
        if (prng.below(3) === 0) {
          const { entry } = await api.stat({ path: input.path });
          const value = values.byTreeHash(toHex(entry.treeHash));
          versions.set(value, entry.version);
          return { kind: "value", value };
        }
        const download = await api.openDownload({ path: input.path });
        const pieces: Uint8Array[] = [];
        for await (const piece of download.read(0, download.entry.sizeBytes)) pieces.push(piece);
        const value = values.byBytes(Buffer.concat(pieces));
        versions.set(value, download.entry.version);
        return { kind: "value", value };
      }
      case "list": {
        const page = await api.list({ path: folderOf(input.paths) }, { countMax: 100 });
        return listed(
          input.paths,
          page.entries.map(({ name, treeHash }) => ({ name, value: values.byTreeHash(toHex(treeHash)) })),
        );
      }
    }
  }

  async #put(
    api: DriveApi,
    where: {
      readonly path: string;
      readonly onConflict: "fail" | "replace";
      readonly createParents: boolean;
    },
    bytes: Uint8Array,
    options: Parameters<DriveApi["putFile"]>[2],
  ): Promise<number> {
    const request = { ...where, sizeBytes: bytes.length, attributes: {} };
    return (await api.putFile(request, piecesOf(bytes), options)).entry.version;
  }
}

async function* piecesOf(bytes: Uint8Array): AsyncGenerator<Uint8Array, void, undefined> {
  const sizeBytes = 256 * 1024;
  for (let at = 0; at < bytes.length; at += sizeBytes) yield bytes.subarray(at, at + sizeBytes);
}

function listed(
  paths: readonly string[],
  entries: readonly { readonly name: string; readonly value: string }[],
): FileOutput {
  const known = new Map(paths.map((path) => [nameOf(path), path]));
  return {
    kind: "values",
    values: new Map(
      entries.map(({ name, value }) => [must(known.get(name), `a name of the model: ${name}`), value]),
    ),
  };
}

function asFailed(error: unknown): unknown {
  if (!(error instanceof DriveError)) return error;
  return new Failed(error.reason, error.spec.outcome === "indefinite", error.message, error);
}

// --- HTTP -------------------------------------------------------------------------------------------------------------

interface ErrorBody {
  readonly error?: { readonly code: string; readonly message: string; readonly outcomeUnknown?: boolean };
}

interface FileBody {
  readonly name: string;
  readonly version: string;
  readonly treeHash?: string;
}

/** Over HTTP; every attempt goes to one node, another one after a failure. */
export class HttpDrive implements TestDrive {
  readonly name: string;
  readonly #urls: readonly string[];
  readonly #context: DriveContext;
  #at = 0;

  /** @param urls of all nodes, the one to ask first first */
  constructor(name: string, urls: readonly string[], context: DriveContext) {
    this.name = name;
    this.#urls = urls;
    this.#context = context;
  }

  async perform(input: FileInput, requestId: string): Promise<FileOutput> {
    try {
      return await this.#perform(input, requestId);
    } catch (error) {
      const answer = error instanceof Failed ? answerOf(input, error.reason) : undefined;
      if (answer !== undefined) return answer;
      throw error;
    }
  }

  async putFile(path: string, bytes: Uint8Array, requestId: string): Promise<void> {
    await this.#put(path, "fail", bytes, { "idempotency-key": requestId });
  }

  async makeFolder(path: string): Promise<void> {
    await this.#send("POST", "/api/folders", {
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ path, createParents: true, existOk: true }),
    });
  }

  close(): void {
    // Connections belong to fetch, which closes idle ones.
  }

  async #perform(input: FileInput, requestId: string): Promise<FileOutput> {
    const { values, versions, prng } = this.#context;
    const headers: Record<string, string> = { "idempotency-key": requestId };
    if ("ifValue" in input && input.ifValue !== undefined) {
      headers["if-match"] = `"${must(versions.get(input.ifValue), "a version seen")}"`;
    }
    switch (input.kind) {
      case "create":
      case "replace": {
        const onConflict = input.kind === "create" ? "fail" : "replace";
        const file = await this.#put(input.path, onConflict, values.bytesOf(input.value), headers);
        versions.set(input.value, Number(file.version));
        return { kind: "done" };
      }
      case "remove":
        await this.#send("DELETE", `/api/files?path=${encodeURIComponent(input.path)}`, { headers });
        return { kind: "done" };
      case "move":
        await this.#send("PATCH", `/api/files?path=${encodeURIComponent(input.from)}`, {
          headers: { ...headers, "content-type": "application/json" },
          body: JSON.stringify({ path: input.to, onConflict: input.replace ? "replace" : "fail" }),
        });
        return { kind: "done" };
      case "copy":
        throw new Error("a copy over HTTP names its source by id, so it is not one operation on paths");
      case "read": {
        const query = `path=${encodeURIComponent(input.path)}`;
        if (prng.below(3) === 0) {
          const file = (await (await this.#send("GET", `/api/stat?${query}`, {})).json()) as FileBody;
          const value = values.byTreeHash(file.treeHash ?? "");
          versions.set(value, Number(file.version));
          return { kind: "value", value };
        }
        const answer = await this.#send("GET", `/api/download?${query}&redirect=never`, {});
        const value = values.byBytes(await this.#bodyOf(answer));
        versions.set(value, Number(answer.headers.get("etag")?.replaceAll('"', "")));
        return { kind: "value", value };
      }
      case "list": {
        const query = `path=${encodeURIComponent(folderOf(input.paths))}&limit=100`;
        const answer = await this.#send("GET", `/api/files?${query}`, {});
        const { files } = (await answer.json()) as { files: readonly FileBody[] };
        return listed(
          input.paths,
          files.map(({ name, treeHash }) => ({ name, value: values.byTreeHash(treeHash ?? "") })),
        );
      }
    }
  }

  async #put(
    path: string,
    onConflict: "fail" | "replace",
    bytes: Uint8Array,
    headers: Record<string, string>,
  ): Promise<FileBody> {
    const query = `path=${encodeURIComponent(path)}&onConflict=${onConflict}`;
    const body = bytes as Uint8Array<ArrayBuffer>;
    return (await (
      await this.#send("PUT", `/api/files/content?${query}`, { headers, body })
    ).json()) as FileBody;
  }

  async #bodyOf(answer: Response): Promise<Uint8Array> {
    try {
      return new Uint8Array(await answer.arrayBuffer());
    } catch (error) {
      throw this.#lost(error);
    }
  }

  async #send(method: string, path: string, init: RequestInit): Promise<Response> {
    const url = must(this.#urls[this.#at], "a URL");
    let answer: Response;
    try {
      answer = await fetch(`${url}${path}`, {
        ...init,
        method,
        signal: AbortSignal.timeout(HTTP_TIMEOUT_MS),
      });
      if (answer.ok) return answer;
    } catch (error) {
      throw this.#lost(error);
    }
    const text = await answer.text().catch(() => "");
    const { error } = parseError(text);
    if (error === undefined || !isErrorReason(error.code)) {
      throw new Failed("TRANSPORT", method !== "GET", `${answer.status} ${text.slice(0, 200)}`);
    }
    const isAboutFiles = answer.status >= 400 && answer.status < 500 && error.code !== "OVERLOADED";
    if (!isAboutFiles) this.#changeNode();
    const isIndefinite = REASONS[error.code].outcome === "indefinite" && method !== "GET";
    throw new Failed(error.code, isIndefinite, error.message);
  }

  /** A connection that broke, or an answer that did not come in time. */
  #lost(error: unknown): Failed {
    this.#changeNode();
    return new Failed("TRANSPORT", true, String(error), error);
  }

  #changeNode(): void {
    this.#at = (this.#at + 1) % this.#urls.length;
  }
}

function parseError(text: string): ErrorBody {
  try {
    return JSON.parse(text) as ErrorBody;
  } catch {
    // Cut short, or from something that is not the gateway: the caller reports the text.
    return {};
  }
}
