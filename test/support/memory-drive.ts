/**
 * The whole drive in memory: a DriveApi for tests of the edges (HTTP, gRPC, command line).
 *
 * It keeps the rules of the port (names, conflicts, preconditions, repeated request ids, chunk sizes, digests) over plain maps.
 * One node, always ready, every copy counts as three. Listings are in name order. Fields that a test may set to see what an
 * edge does with them are public.
 */
import type { CollectionBrake } from "../../src/drive/collection-brake.ts";
import { noCatalog, type CatalogApi } from "../../src/drive/catalog.ts";
import { noTasks, type TaskApi } from "../../src/drive/task.ts";
import { noPreparedDownloads, type PreparedDownloadApi } from "../../src/drive/prepared-download.ts";
import { DriveError, type ErrorReason } from "../../src/drive/errors.ts";
import { ROOT_ENTRY_ID, type Entry, type EntryAttributes, type OnConflict } from "../../src/drive/entry.ts";
import { formatPath, parseNewFilePath, parseNewPath, parsePath } from "../../src/drive/path.ts";
import { chunkCount, chunkSizeBytes } from "../../src/drive/content.ts";
import { CHUNK_SIZE_BYTES, PAGE_SIZE_MAX, UPLOAD_LEASE_MS } from "../../src/drive/limits.ts";
import { bytesEqual } from "../../src/std/bytes.ts";
import { foldTreeHash, sha256 } from "../../src/std/digest.ts";
import { must } from "../../src/std/assert.ts";
import type { Change } from "../../src/drive/change.ts";
import { NO_REPLICAS } from "../../src/drive/drive-api.ts";
import type {
  ChunkRange,
  ChunkReceipt,
  ClusterStatus,
  CompleteOptions,
  Download,
  DriveApi,
  NodeReport,
  Durability,
  EntryPage,
  EntryRef,
  OpenUploadPage,
  PathEntry,
  PreparedDownloadsStatus,
  Progress,
  Readiness,
  ReadOptions,
  UploadRequest,
  UploadStatus,
  UploadTicket,
  WriteOptions,
} from "../../src/drive/drive-api.ts";

interface Node {
  entry: Entry;
  /** Chunks of a file. */
  chunks: readonly Uint8Array[];
}

interface Upload {
  readonly uploadId: number;
  readonly request: UploadRequest;
  readonly chunks: Map<number, Uint8Array>;
  entry: Entry | undefined;
}

/** Tree hash of the bytes in `chunks`. */
function treeHashOf(chunks: readonly Uint8Array[]): Uint8Array {
  return foldTreeHash(chunks.length === 0 ? [sha256(new Uint8Array(0))] : chunks.map(sha256));
}

/** A drive in memory. */
export class MemoryDrive implements DriveApi {
  /** How often a scrub was asked for. */
  scrubCount = 0;
  /** Nodes that were told to give their copies away. */
  readonly draining = new Set<string>();
  /** Wall time given to new entries. */
  wallMs = Date.UTC(2026, 0, 2, 3, 4, 5);
  /** What is asked for searches and reports. */
  catalog: CatalogApi = noCatalog;
  /** Work in the background. */
  tasks: TaskApi = noTasks;
  /** What is asked for prepared downloads. */
  preparedDownloads: PreparedDownloadApi = noPreparedDownloads;
  /** What readiness() reports. */
  problems: string[] = [];
  warnings: string[] = [];
  /** Why the one node of the cluster collects nothing. */
  collectionBrake: CollectionBrake | undefined = undefined;
  /** Feature level of the cluster, one below what the node supports; undefined as of a version before there were levels. */
  featureLevel: number | undefined = undefined;
  /** What the status says of prepared downloads. */
  prepared: PreparedDownloadsStatus | undefined = undefined;
  /** What the node told of itself. */
  report: NodeReport | undefined = undefined;
  /** Whether downloads say that the node has local copies, and where they point otherwise. */
  local = true;
  redirectUrl: string | undefined = undefined;
  /** What the next call fails with; used up by it. */
  failure: Error | undefined = undefined;
  /** Reads deliver this many bytes, then fail with CHUNK_LOST. */
  readFailsAfterBytes: number | undefined = undefined;
  /** Options of the latest read and the latest change, as they arrived. */
  lastRead: ReadOptions | undefined = undefined;
  lastWrite: WriteOptions | undefined = undefined;
  /** Sends this to watchProgress() of any id, one after another. */
  progress: Progress[] = [];
  /** How many chunks read() has handed out. */
  piecesRead = 0;

  readonly #nodes = new Map<number, Node>();
  readonly #uploads = new Map<number, Upload>();
  readonly #answers = new Map<string, Promise<unknown>>();
  readonly #changes: Change[] = [];
  #nextId = ROOT_ENTRY_ID + 1;
  #index = 1;

  constructor() {
    const root = this.#entryOf({ entryId: ROOT_ENTRY_ID, parentId: 0, name: "", kind: "directory" });
    // The root was there before the first command, and its wall time.
    const entry = { ...root, modifyTimeMs: 0, createTimeMs: 0 };
    this.#nodes.set(ROOT_ENTRY_ID, { entry, chunks: [] });
  }

  stat(ref: EntryRef, options?: ReadOptions): Promise<PathEntry> {
    return this.#read(options, () => this.#pathEntry(this.#find(ref).entry));
  }

  durability(ref: EntryRef, options?: ReadOptions): Promise<Durability> {
    return this.#read(options, () => {
      this.#file(ref);
      return { verifiedCount: 3, nodeIds: ["n1", "n2", "n3"], oldestCheckAgeMs: 2 * 86_400_000 };
    });
  }

  list(
    ref: EntryRef,
    page: { cursor?: string | undefined; countMax: number },
    options?: ReadOptions,
  ): Promise<EntryPage> {
    return this.#read(options, () => {
      if (page.countMax < 1 || page.countMax > PAGE_SIZE_MAX) throw fail("ARGUMENT_INVALID", "page size");
      const { entry } = this.#directory(this.#find(ref));
      if (page.cursor !== undefined && !page.cursor.startsWith("after:")) {
        throw fail("ARGUMENT_INVALID", "The cursor is not one of ours.");
      }
      const after = page.cursor?.slice("after:".length) ?? "";
      const rest = this.#children(entry.entryId).filter((child) => after === "" || child.entry.name > after);
      const entries = rest.slice(0, page.countMax).map((child) => child.entry);
      const last = entries.at(-1);
      return {
        entries,
        path: this.#pathOf(entry),
        nextCursor: rest.length > entries.length && last !== undefined ? `after:${last.name}` : undefined,
      };
    });
  }

  createDirectory(
    path: string,
    settings: { createParents: boolean; existOk: boolean; attributes: EntryAttributes },
    options?: WriteOptions,
  ): Promise<PathEntry> {
    return this.#write("createDirectory", options, () => {
      const names = parseNewPath(path);
      const existing = this.#walk(names);
      if (existing?.entry.kind === "directory" && settings.existOk) return this.#pathEntry(existing.entry);
      const { parent, name } = this.#place(names, settings.createParents, "fail", options);
      return this.#pathEntry(this.#create(parent, name, "directory", settings.attributes, []));
    });
  }

  move(ref: EntryRef, to: string, onConflict: OnConflict, options?: WriteOptions): Promise<PathEntry> {
    return this.#write("move", options, () => {
      const node = this.#find(ref);
      this.#check(node.entry, options);
      if (`${parsePath(to).join("/")}/`.startsWith(`${parsePath(this.#pathOf(node.entry)).join("/")}/`)) {
        throw fail("MOVE_INTO_SELF", "A folder cannot be moved into itself.");
      }
      const { parent, name } = this.#place(parseNewPath(to), false, onConflict, undefined);
      const previous = { parentId: node.entry.parentId, name: node.entry.name };
      node.entry = { ...node.entry, parentId: parent.entry.entryId, name, version: this.#index };
      this.#note({ kind: "moved", entry: node.entry, previous });
      return this.#pathEntry(node.entry);
    });
  }

  copy(ref: EntryRef, to: string, onConflict: OnConflict, options?: WriteOptions): Promise<PathEntry> {
    return this.#write("copy", options, () => {
      const node = this.#find(ref);
      const { parent, name } = this.#place(parseNewPath(to), false, onConflict, options);
      return this.#pathEntry(this.#copyTree(node, parent, name));
    });
  }

  remove(ref: EntryRef, settings: { recursive: boolean }, options?: WriteOptions): Promise<void> {
    return this.#write("remove", options, () => {
      const { entry } = this.#find(ref);
      this.#check(entry, options);
      if (this.#children(entry.entryId).length > 0 && !settings.recursive) {
        throw fail("DIRECTORY_NOT_EMPTY", "The folder is not empty.");
      }
      this.#nodes.delete(entry.entryId);
      this.#note({ kind: "deleted", entry });
    });
  }

  update(ref: EntryRef, attributes: EntryAttributes, options?: WriteOptions): Promise<PathEntry> {
    return this.#write("update", options, () => {
      const node = this.#find(ref);
      this.#check(node.entry, options);
      const given = Object.fromEntries(Object.entries(attributes).filter(([, value]) => value !== undefined));
      node.entry = { ...node.entry, ...given, version: this.#index };
      this.#note({ kind: "updated", entry: node.entry });
      return this.#pathEntry(node.entry);
    });
  }

  async initUpload(request: UploadRequest, options?: WriteOptions): Promise<UploadTicket> {
    const attempt = this.#answers.get(`putFile ${request.attemptOf?.requestId}`);
    const made = (await attempt) as PathEntry | undefined;
    if (made !== undefined) {
      const none = { uploadId: made.entry.entryId, chunkSizeBytes: CHUNK_SIZE_BYTES, chunkCount: undefined };
      return { ...none, targets: [], instant: true, entry: made.entry, expireTimeMs: this.wallMs, made };
    }
    return this.#write("initUpload", options, () => {
      this.#place(parseNewFilePath(request.path), request.createParents, request.onConflict, options, true);
      const uploadId = this.#nextId++;
      const upload: Upload = { uploadId, request, chunks: new Map(), entry: undefined };
      this.#uploads.set(uploadId, upload);
      const twin = [...this.#nodes.values()].find(
        ({ entry }) =>
          entry.kind === "file" &&
          request.treeHash !== undefined &&
          entry.sizeBytes === request.sizeBytes &&
          bytesEqual(entry.treeHash, request.treeHash),
      );
      if (twin !== undefined) upload.entry = this.#putAt(request, twin.chunks, uploadId, options);
      return {
        uploadId,
        chunkSizeBytes: CHUNK_SIZE_BYTES,
        chunkCount: request.sizeBytes === undefined ? undefined : chunkCount(request.sizeBytes),
        targets: ["n1", "n2", "n3"].map((nodeId) => ({ nodeId, address: `${nodeId}:29001` })),
        instant: twin !== undefined,
        entry: upload.entry,
        expireTimeMs: this.wallMs + UPLOAD_LEASE_MS,
      };
    });
  }

  writeChunk(
    uploadId: number,
    chunkIndex: number,
    bytes: Uint8Array,
    digest: Uint8Array | undefined,
    signal?: AbortSignal,
  ): Promise<ChunkReceipt> {
    return this.#read({ signal }, () => {
      const upload = this.#upload(uploadId);
      if (upload.entry !== undefined) throw fail("UPLOAD_FINISHED", "The upload is complete.");
      const { sizeBytes } = upload.request;
      if (sizeBytes !== undefined && chunkIndex >= chunkCount(sizeBytes)) {
        throw fail("CHUNK_OUT_OF_RANGE", `There is no chunk ${chunkIndex}.`);
      }
      const expected = sizeBytes === undefined ? CHUNK_SIZE_BYTES : chunkSizeBytes(sizeBytes, chunkIndex);
      if (bytes.length > expected)
        throw fail("PAYLOAD_TOO_LARGE", `The chunk has more than ${expected} bytes.`);
      if (bytes.length === 0 || (sizeBytes !== undefined && bytes.length < expected)) {
        throw fail("PAYLOAD_TRUNCATED", `The chunk has ${bytes.length} of ${expected} bytes.`);
      }
      const actual = sha256(bytes);
      if (digest !== undefined && !bytesEqual(digest, actual)) throw fail("DIGEST_MISMATCH", "Other bytes.");
      upload.chunks.set(chunkIndex, bytes);
      return { chunkIndex, digest: actual, replicaCount: 3 };
    });
  }

  completeUpload(uploadId: number, settings: CompleteOptions, options?: WriteOptions): Promise<PathEntry> {
    // Whichever attempt of a one-shot upload comes first makes its file.
    return this.#write(settings.put === undefined ? "completeUpload" : "putFile", options, () => {
      const upload = this.#upload(uploadId);
      if (upload.entry !== undefined) return this.#pathEntry(upload.entry);
      const missing = missingOf(upload);
      const received = [...upload.chunks.values()].reduce((sum, chunk) => sum + chunk.length, 0);
      const size = upload.request.sizeBytes ?? settings.sizeBytes ?? received;
      if (missing.length > 0 || received !== size) {
        const shown = missing
          .map(({ first, last }) => (first === last ? `${first}` : `${first}-${last}`))
          .join(",");
        throw new DriveError("UPLOAD_INCOMPLETE", `Chunks are missing: ${shown}.`, { missing: shown });
      }
      const chunks = [...upload.chunks].sort(([a], [b]) => a - b).map(([, bytes]) => bytes);
      const { onConflict = upload.request.onConflict } = settings;
      upload.entry = this.#putAt({ ...upload.request, onConflict }, chunks, uploadId, options);
      return this.#pathEntry(upload.entry);
    });
  }

  uploadStatus(uploadId: number, options?: ReadOptions): Promise<UploadStatus> {
    return this.#read(options, () => {
      const upload = this.#upload(uploadId);
      const { sizeBytes, path } = upload.request;
      const missing = upload.entry === undefined ? missingOf(upload) : [];
      const size = upload.entry?.sizeBytes ?? sizeBytes;
      return {
        uploadId,
        path,
        state: upload.entry === undefined ? "open" : "complete",
        sizeBytes: size,
        chunkSizeBytes: CHUNK_SIZE_BYTES,
        chunkCount: size === undefined ? undefined : chunkCount(size),
        missing,
        committedSizeBytes: committedOf(upload),
        entry: upload.entry,
        expireTimeMs: this.wallMs + UPLOAD_LEASE_MS,
      };
    });
  }

  openUploads(
    page: { readonly cursor?: string | undefined; readonly countMax: number },
    options?: ReadOptions,
  ): Promise<OpenUploadPage> {
    return this.#read(options, () => {
      const open = [...this.#uploads.values()].filter(({ entry }) => entry === undefined);
      const from = Number(page.cursor ?? 0);
      const uploads = open.slice(from, from + page.countMax).map(({ uploadId, request }) => ({
        ...{ uploadId, path: request.path, sizeBytes: request.sizeBytes },
        ...{ idleMs: 1_500_000, expireTimeMs: Date.UTC(2026, 10, 30, 6, 30) },
      }));
      const next = from + page.countMax;
      return { uploads, nextCursor: next < open.length ? String(next) : undefined };
    });
  }

  abortUpload(uploadId: number, options?: WriteOptions): Promise<void> {
    return this.#write("abortUpload", options, () => {
      if (this.#upload(uploadId).entry !== undefined)
        throw fail("UPLOAD_FINISHED", "The upload is complete.");
      this.#uploads.delete(uploadId);
    });
  }

  async putFile(
    request: UploadRequest,
    body: AsyncIterable<Uint8Array>,
    options?: WriteOptions,
  ): Promise<PathEntry> {
    this.#fail();
    this.#place(parseNewFilePath(request.path), request.createParents, request.onConflict, options, true);
    const parts: Uint8Array[] = [];
    for await (const piece of body) parts.push(piece);
    const whole = Buffer.concat(parts);
    if (request.sizeBytes !== undefined && whole.length !== request.sizeBytes) {
      throw fail("PAYLOAD_TRUNCATED", `${whole.length} of ${request.sizeBytes} bytes arrived.`);
    }
    const chunks = Array.from({ length: chunkCount(whole.length) }, (_, index) =>
      whole.subarray(index * CHUNK_SIZE_BYTES, (index + 1) * CHUNK_SIZE_BYTES),
    );
    if (request.treeHash !== undefined && !bytesEqual(request.treeHash, treeHashOf(chunks))) {
      throw fail("DIGEST_MISMATCH", "The tree hash is another.");
    }
    return this.#write("putFile", options, () =>
      this.#pathEntry(this.#putAt(request, chunks, this.#nextId++, options)),
    );
  }

  openDownload(ref: EntryRef, options?: ReadOptions): Promise<Download> {
    return this.#read(options, () => {
      const { entry, chunks } = this.#file(ref);
      const read = (offset: number, length: number, signal?: AbortSignal): AsyncIterable<Uint8Array> =>
        this.#pieces(chunks, offset, length, signal);
      return { entry, path: this.#pathOf(entry), read, local: this.local, redirectUrl: this.redirectUrl };
    });
  }

  async *watchProgress(id: string, signal?: AbortSignal): AsyncIterable<Progress> {
    this.#fail();
    if (this.progress.length === 0)
      throw fail("UPLOAD_NOT_FOUND", `There is no transfer ${JSON.stringify(id)}.`);
    for (const progress of this.progress) {
      signal?.throwIfAborted();
      yield { ...progress, id };
      if (progress.phase === "done" || progress.phase === "failed") return;
    }
    await aborted(signal);
  }

  async *watchChanges(afterIndex: number, signal?: AbortSignal): AsyncIterable<readonly Change[]> {
    yield this.#changes.filter((change) => change.index > afterIndex);
    await aborted(signal);
  }

  startScrub(): Promise<void> {
    this.scrubCount += 1;
    return Promise.resolve();
  }

  setDraining(nodeId: string, draining: boolean): Promise<void> {
    if (nodeId !== "n1") {
      return Promise.reject(new DriveError("MEMBER_NOT_FOUND", `There is no node ${nodeId}.`));
    }
    if (draining) this.draining.add(nodeId);
    else this.draining.delete(nodeId);
    return Promise.resolve();
  }

  cluster(options?: ReadOptions): Promise<ClusterStatus> {
    return this.#read(options, () => {
      const entries = [...this.#nodes.values()].map((node) => node.entry);
      return {
        clusterId: "c1",
        nodeId: "n1",
        leaderId: "n1",
        term: 3,
        commitIndex: this.#index,
        appliedIndex: this.#index,
        clusterTimeMs: 1000,
        nodes: [
          {
            nodeId: "n1",
            memberId: 11,
            role: "leader",
            health: "up",
            sinceMs: 5,
            address: "127.0.0.1:29001",
            httpUrl: "http://127.0.0.1:9081",
            publicUrl: "",
            zone: "",
            freeBytes: 1000,
            totalBytes: 2000,
            appliedIndex: this.#index,
            liveBytes: 7,
            full: false,
            lost: false,
            draining: this.draining.has("n1"),
            scrub: {
              pass: 2,
              beganAgoMs: 7_200_000,
              endedAgoMs: 3_600_000,
              extentCount: 1,
              bytes: 7,
              damagedCount: 0,
            },
            scrubProgress: this.scrubCount > 0 ? 0.5 : undefined,
            quarantinedCount: 0,
            collectionBrake: this.collectionBrake,
            ...(this.report !== undefined && { report: this.report }),
            ...(this.featureLevel !== undefined && { featureLevelMax: this.featureLevel + 1 }),
          },
        ],
        ...(this.featureLevel !== undefined && { featureLevel: this.featureLevel }),
        ...(this.prepared !== undefined && { preparedDownloads: this.prepared }),
        replicas: { ...NO_REPLICAS, extentCount: 1, fullyReplicatedCount: 1 },
        fileCount: entries.filter((entry) => entry.kind === "file").length,
        directoryCount: entries.filter((entry) => entry.kind === "directory").length,
        openUploadCount: this.#uploads.size,
        contentBytes: entries.reduce((sum, entry) => sum + entry.sizeBytes, 0),
      };
    });
  }

  readiness(): Readiness {
    const { problems, warnings } = this;
    return { ready: problems.length === 0, problems, warnings };
  }

  #fail(): void {
    const { failure } = this;
    this.failure = undefined;
    if (failure !== undefined) throw failure;
  }

  async #read<T>(options: ReadOptions | undefined, work: () => T): Promise<T> {
    this.#fail();
    this.lastRead = options;
    options?.signal?.throwIfAborted();
    return Promise.resolve(work());
  }

  async #write<T>(method: string, options: WriteOptions | undefined, work: () => T): Promise<T> {
    this.#fail();
    this.lastWrite = options;
    options?.signal?.throwIfAborted();
    const key = options?.requestId === undefined ? undefined : `${method} ${options.requestId}`;
    const before = key === undefined ? undefined : this.#answers.get(key);
    if (before !== undefined) return before as Promise<T>;
    this.#index += 1;
    const answer = Promise.resolve(work());
    if (key !== undefined) this.#answers.set(key, answer);
    return answer;
  }

  #find(ref: EntryRef): Node {
    const node = "path" in ref ? this.#walk(parsePath(ref.path)) : this.#nodes.get(ref.entryId);
    if (node !== undefined) return node;
    const shown = "path" in ref ? JSON.stringify(ref.path) : `id ${ref.entryId}`;
    throw new DriveError("PATH_NOT_FOUND", `There is no entry at ${shown}.`, { ref: shown });
  }

  #file(ref: EntryRef): Node {
    const node = this.#find(ref);
    if (node.entry.kind === "directory") throw fail("IS_A_DIRECTORY", "It is a folder.");
    return node;
  }

  #directory(node: Node): Node {
    if (node.entry.kind !== "directory") throw fail("NOT_A_DIRECTORY", "It is a file.");
    return node;
  }

  #children(parentId: number): Node[] {
    return [...this.#nodes.values()]
      .filter(({ entry }) => entry.parentId === parentId)
      .sort((a, b) => (a.entry.name < b.entry.name ? -1 : 1));
  }

  #child(parentId: number, name: string): Node | undefined {
    return this.#children(parentId).find(({ entry }) => entry.name === name);
  }

  #walk(names: readonly string[]): Node | undefined {
    let node = this.#nodes.get(ROOT_ENTRY_ID);
    for (const name of names) node = node && this.#child(this.#directory(node).entry.entryId, name);
    return node;
  }

  #pathOf(entry: Entry): string {
    const names: string[] = [];
    for (let at: Entry | undefined = entry; at !== undefined && at.parentId !== 0;) {
      names.unshift(at.name);
      at = this.#nodes.get(at.parentId)?.entry;
    }
    return formatPath(names);
  }

  #pathEntry(entry: Entry): PathEntry {
    return { entry, path: this.#pathOf(entry) };
  }

  #check(existing: Entry | undefined, options: WriteOptions | undefined): void {
    const wanted = options?.precondition;
    const holds =
      (wanted?.ifVersions === undefined ||
        (existing !== undefined && wanted.ifVersions.includes(existing.version))) &&
      (wanted?.ifExists !== true || existing !== undefined) &&
      (wanted?.ifAbsent !== true || existing === undefined);
    if (holds) return;
    const version = existing === undefined ? "none" : String(existing.version);
    throw new DriveError("VERSION_MISMATCH", "The precondition does not hold.", { version });
  }

  /** Where a new entry at `names` goes; frees the place when the conflict rule says so, unless it is only a `check`. */
  #place(
    names: readonly string[],
    createParents: boolean,
    onConflict: OnConflict,
    options: WriteOptions | undefined,
    check = false,
  ): { parent: Node; name: string } {
    const name = names.at(-1);
    if (name === undefined) throw fail("PATH_EXISTS", "The root is always there.");
    let parent = must(this.#nodes.get(ROOT_ENTRY_ID), "the root");
    for (const part of names.slice(0, -1)) {
      let next = this.#child(this.#directory(parent).entry.entryId, part);
      if (next === undefined) {
        if (!createParents) throw fail("PATH_NOT_FOUND", `There is no folder ${JSON.stringify(part)}.`);
        const made = this.#create(parent, part, "directory", {}, []);
        next = must(this.#nodes.get(made.entryId), "just made");
      }
      parent = next;
    }
    const parentId = this.#directory(parent).entry.entryId;
    const existing = this.#child(parentId, name);
    this.#check(existing?.entry, options);
    if (existing === undefined) return { parent, name };
    if (onConflict === "fail") throw fail("PATH_EXISTS", `The name ${JSON.stringify(name)} is taken.`);
    if (existing.entry.kind === "directory" && onConflict === "replace")
      throw fail("IS_A_DIRECTORY", "A folder.");
    if (onConflict === "replace") {
      if (!check) this.#nodes.delete(existing.entry.entryId);
      return { parent, name };
    }
    for (let number = 2; ; number += 1) {
      const free = `${name} (${number})`;
      if (this.#child(parentId, free) === undefined) return { parent, name: free };
    }
  }

  #putAt(
    request: UploadRequest,
    chunks: readonly Uint8Array[],
    entryId: number,
    options: WriteOptions | undefined,
  ): Entry {
    const names = parsePath(request.path);
    // A replaced file keeps its id.
    const replaced = request.onConflict === "replace" ? this.#walk(names) : undefined;
    const { parent, name } = this.#place(names, request.createParents, request.onConflict, options);
    const keptId = replaced?.entry.entryId ?? entryId;
    return this.#create(parent, name, "file", request.attributes, chunks, keptId);
  }

  #create(
    parent: Node,
    name: string,
    kind: Entry["kind"],
    attributes: EntryAttributes,
    chunks: readonly Uint8Array[],
    entryId = this.#nextId++,
  ): Entry {
    const entry = this.#entryOf({
      entryId,
      parentId: parent.entry.entryId,
      name,
      kind,
      ...(kind === "directory"
        ? {}
        : {
            sizeBytes: chunks.reduce((sum, chunk) => sum + chunk.length, 0),
            contentId: entryId,
            treeHash: treeHashOf(chunks),
            sha256: sha256(Buffer.concat(chunks)),
          }),
      mediaType: attributes.mediaType ?? "",
      mode: attributes.mode,
      modifyTimeMs: attributes.modifyTimeMs ?? this.wallMs,
    });
    this.#nodes.set(entry.entryId, { entry, chunks });
    this.#note({ kind: "created", entry });
    return entry;
  }

  #entryOf(fields: Partial<Entry> & Pick<Entry, "entryId" | "parentId" | "name" | "kind">): Entry {
    return {
      version: this.#index,
      sizeBytes: 0,
      contentId: 0,
      treeHash: new Uint8Array(0),
      sha256: new Uint8Array(0),
      mediaType: "",
      mode: undefined,
      modifyTimeMs: this.wallMs,
      createTimeMs: this.wallMs,
      ...fields,
    };
  }

  #copyTree(node: Node, parent: Node, name: string): Entry {
    const children = this.#children(node.entry.entryId);
    const copy = this.#create(parent, name, node.entry.kind, node.entry, node.chunks);
    const target = must(this.#nodes.get(copy.entryId), "just made");
    for (const child of children) this.#copyTree(child, target, child.entry.name);
    return copy;
  }

  #note(change: Omit<Change, "index" | "position">): void {
    const position = this.#changes.filter(({ index }) => index === this.#index).length;
    this.#changes.push({ ...change, index: this.#index, position });
  }

  #upload(uploadId: number): Upload {
    const upload = this.#uploads.get(uploadId);
    if (upload === undefined) throw fail("UPLOAD_NOT_FOUND", `There is no upload ${uploadId}.`);
    return upload;
  }

  async *#pieces(
    chunks: readonly Uint8Array[],
    offset: number,
    length: number,
    signal: AbortSignal | undefined,
  ): AsyncIterable<Uint8Array> {
    const end = offset + length;
    let left = this.readFailsAfterBytes ?? Infinity;
    for (let index = Math.floor(offset / CHUNK_SIZE_BYTES); index * CHUNK_SIZE_BYTES < end; index += 1) {
      signal?.throwIfAborted();
      await Promise.resolve();
      const start = index * CHUNK_SIZE_BYTES;
      const piece = must(chunks[index], "in range").subarray(Math.max(0, offset - start), end - start);
      if (piece.length > left) {
        if (left > 0) yield piece.subarray(0, left);
        throw fail("CHUNK_LOST", "No good copy is left.");
      }
      left -= piece.length;
      this.piecesRead += 1;
      yield piece;
    }
  }
}

function fail(reason: ErrorReason, message: string): DriveError {
  return new DriveError(reason, message);
}

/** Never resolves; rejects when the signal aborts. */
function aborted(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
  });
}

function missingOf(upload: Upload): ChunkRange[] {
  const { sizeBytes } = upload.request;
  const count = sizeBytes === undefined ? Math.max(-1, ...upload.chunks.keys()) + 1 : chunkCount(sizeBytes);
  const missing: { first: number; last: number }[] = [];
  for (let index = 0; index < count; index += 1) {
    if (upload.chunks.has(index)) continue;
    const previous = missing.at(-1);
    if (previous?.last === index - 1) previous.last = index;
    else missing.push({ first: index, last: index });
  }
  return missing;
}

function committedOf(upload: Upload): number {
  let sizeBytes = 0;
  for (let index = 0; ; index += 1) {
    const chunk = upload.chunks.get(index);
    if (chunk === undefined) return sizeBytes;
    sizeBytes += chunk.length;
  }
}
