/**
 * Checks a run of files after they were committed: every copy is read whole by its node and compared with the tree, and the
 * plain SHA-256 of a file whose bytes came in any order is computed by reading it once.
 *
 * Everything may be done twice: a check changes nothing, a bad copy is reported by what was found, and findings go through the claim.
 * Bytes are read at a pace that yields to users; a file counts as some bytes more than it has, because small ones cost reads of the
 * tree and not bytes. Many small files share one call to each node: with a call for each copy, checking took 18 % of the rate at
 * which small files are written.
 */
import { throwIfCanceled } from "../cluster/deadline.ts";
import { extentSizeBytes, type ExtentKey, type ReplicaFinding, type Seal } from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import type { Entry } from "../drive/entry.ts";
import type { Task } from "../drive/task.ts";
import { extentsOf, getEntry } from "../metadata/view.ts";
import type { Sha256Finding } from "../metadata/task-records.ts";
import type { BackgroundPace } from "../replication/background-pace.ts";
import {
  VERIFY_EXTENTS_COUNT_MAX,
  type ReplicaPort,
  type ReplicaPorts,
} from "../replication/replica-port.ts";
import { must } from "../std/assert.ts";
import { bytesEqual, utf8 } from "../std/bytes.ts";
import { sha256Stream } from "../std/digest.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { TaskHandler, TaskWork } from "./task-handler.ts";
import { parseUploadRun, type UploadReport } from "./upload-run.ts";

/** What a file costs beside its bytes, in bytes of the pace: a few reads of the tree and of three stores. */
export const FILE_COST_BYTES = 64 * 1024;
/** Bytes a second while users move bytes: 64 small files. */
export const UPLOAD_CHECK_BUSY_BYTES_PER_SECOND = 4 * 1024 * 1024;
/** Files that are checked with one call to each node, and their bytes unless a single one is larger. */
export const CHECK_FILE_COUNT_MAX = 64;
export const CHECK_BYTES_MAX = 4 * 1024 * 1024;
/** Such batches that one task has in work. */
const BATCHES_AT_ONCE = 2;
/** Findings that are put into the tree together. */
const RECORD_COUNT = 500;

/** What an UploadHandler needs. */
export interface UploadHandlerOptions {
  readonly reader: () => OrderedReader;
  readonly ports: ReplicaPorts;
  /** The bytes of an extent, from the best copy. */
  readonly read: (extent: ExtentKey, sizeBytes: number, signal: AbortSignal) => AsyncIterable<Uint8Array>;
  readonly pace: BackgroundPace;
  readonly onBadCopy: (extent: ExtentKey, memberId: number, finding: ReplicaFinding) => void;
}

/** A copy that is to be whole, and what it has to hold. */
interface Copy {
  readonly extent: ExtentKey;
  readonly root: Uint8Array;
  readonly sizeBytes: number;
}

type Tally = { -readonly [Name in keyof UploadReport]: UploadReport[Name] };

/** The handler. */
export class UploadHandler implements TaskHandler {
  readonly #options: UploadHandlerOptions;

  constructor(options: UploadHandlerOptions) {
    this.#options = options;
  }

  async run(task: Task, work: TaskWork): Promise<Uint8Array> {
    const { entryIds } = parseUploadRun(task.parameters);
    const check = new RunCheck(this.#options, work, entryIds);
    await Promise.all(Array.from({ length: BATCHES_AT_ONCE }, () => check.checkAll()));
    return utf8(JSON.stringify(await check.end()));
  }
}

class RunCheck {
  readonly #options: UploadHandlerOptions;
  readonly #work: TaskWork;
  readonly #entryIds: readonly number[];
  readonly #tally: Tally = {
    ...{ fileCount: 0, goneCount: 0, verifiedCopyCount: 0, badCopyCount: 0, unansweredCopyCount: 0 },
    sha256Count: 0,
  };
  #sha256s: Sha256Finding[] = [];
  #next = 0;
  #doneCount = 0;

  constructor(options: UploadHandlerOptions, work: TaskWork, entryIds: readonly number[]) {
    this.#options = options;
    this.#work = work;
    this.#entryIds = entryIds;
    work.progress(0, entryIds.length);
  }

  /** Takes one batch of files after the other until none is left. */
  async checkAll(): Promise<void> {
    for (;;) {
      const batch = this.#nextBatch();
      if (batch === undefined) return;
      throwIfCanceled(this.#work.signal);
      await this.#check(batch);
      this.#doneCount += batch.length;
      this.#work.progress(this.#doneCount, this.#entryIds.length);
      if (this.#sha256s.length >= RECORD_COUNT) await this.#record();
    }
  }

  async end(): Promise<UploadReport> {
    await this.#record();
    return this.#tally;
  }

  /** The next files, some of them gone; undefined after the last. */
  #nextBatch(): readonly (Entry | undefined)[] | undefined {
    const batch: (Entry | undefined)[] = [];
    let sizeBytes = 0;
    while (this.#next < this.#entryIds.length && batch.length < CHECK_FILE_COUNT_MAX) {
      const entry = getEntry(this.#options.reader(), this.#entryIds[this.#next] ?? 0);
      sizeBytes += entry?.sizeBytes ?? 0;
      if (batch.length > 0 && sizeBytes > CHECK_BYTES_MAX) break;
      batch.push(entry);
      this.#next += 1;
    }
    return batch.length === 0 ? undefined : batch;
  }

  async #check(batch: readonly (Entry | undefined)[]): Promise<void> {
    const files = batch.filter((entry): entry is Entry => entry?.kind === "file");
    this.#tally.goneCount += batch.length - files.length;
    await this.#options.pace.take(files.length * FILE_COST_BYTES, this.#work.signal);
    await this.#checkCopies(files.map(({ contentId }) => contentId));
    for (const file of files) {
      if (file.sha256.length > 0) continue;
      const sha256 = await this.#hash(file);
      if (sha256 !== undefined) this.#sha256s.push({ contentId: file.contentId, sha256 });
    }
    this.#tally.fileCount += files.length;
  }

  async #checkCopies(contentIds: readonly number[]): Promise<void> {
    const copiesOf = new Map<number, Copy[]>();
    for (const contentId of contentIds) {
      for (const { extentIndex, replicas, root, sizeBytes } of extentsOf(this.#options.reader(), contentId)) {
        for (const { memberId, state } of replicas) {
          if (state !== "verified") continue;
          const copies = copiesOf.get(memberId) ?? [];
          if (copies.length === 0) copiesOf.set(memberId, copies);
          copies.push({ extent: { contentId, extentIndex }, root, sizeBytes });
        }
      }
    }
    await Promise.all([...copiesOf].map(([memberId, copies]) => this.#checkMember(memberId, copies)));
  }

  /** Has a member read its copies: so many small ones with a call, a large one alone. */
  async #checkMember(memberId: number, copies: readonly Copy[]): Promise<void> {
    const port = this.#options.ports.forMember(memberId);
    if (port === undefined) return;
    for (let at = 0; at < copies.length;) {
      let sizeBytes = 0;
      let end = at;
      do {
        sizeBytes += copies[end]?.sizeBytes ?? 0;
        end += 1;
      } while (
        end < copies.length &&
        end - at < VERIFY_EXTENTS_COUNT_MAX &&
        sizeBytes + (copies[end]?.sizeBytes ?? 0) <= CHECK_BYTES_MAX
      );
      await this.#options.pace.take(sizeBytes, this.#work.signal);
      await this.#verify(port, copies.slice(at, end));
      at = end;
    }
  }

  async #verify(port: ReplicaPort, copies: readonly Copy[]): Promise<void> {
    const { signal } = this.#work;
    let verdicts: readonly (Seal | DriveError)[];
    try {
      verdicts = await port.verifyExtents(
        copies.map(({ extent }) => extent),
        signal,
      );
    } catch (error) {
      throwIfCanceled(signal);
      if (!(error instanceof DriveError)) throw error;
      this.#tally.unansweredCopyCount += copies.length;
      return;
    }
    for (const [at, { extent, root }] of copies.entries()) {
      const verdict = must(verdicts[at], "a verdict on each copy");
      if (hasReason(verdict, "CHUNK_NOT_FOUND")) this.#bad(extent, port.memberId, "lost");
      else if (hasReason(verdict, "CHUNK_CORRUPT")) this.#bad(extent, port.memberId, "corrupt");
      else if (verdict instanceof DriveError) this.#tally.unansweredCopyCount += 1;
      else if (!bytesEqual(verdict.root, root)) this.#bad(extent, port.memberId, "corrupt");
      else this.#tally.verifiedCopyCount += 1;
    }
  }

  /** Says so, unless the copy went as it should: the file was removed or its copies moved meanwhile. */
  #bad(key: ExtentKey, memberId: number, finding: ReplicaFinding): void {
    const now = extentsOf(this.#options.reader(), key.contentId).find(
      ({ extentIndex }) => extentIndex === key.extentIndex,
    );
    const isStillSaid = now?.replicas.some((copy) => copy.memberId === memberId && copy.state === "verified");
    if (isStillSaid !== true) return;
    this.#tally.badCopyCount += 1;
    this.#options.onBadCopy(key, memberId, finding);
  }

  /** Undefined when the bytes went meanwhile. */
  async #hash({ contentId, sizeBytes }: Entry): Promise<Uint8Array | undefined> {
    const { pace, read, reader } = this.#options;
    const hash = sha256Stream();
    try {
      for (const { extentIndex } of extentsOf(reader(), contentId)) {
        const length = extentSizeBytes(sizeBytes, extentIndex);
        for await (const piece of read({ contentId, extentIndex }, length, this.#work.signal)) {
          await pace.take(piece.length, this.#work.signal);
          hash.update(piece);
        }
      }
    } catch (error) {
      if (extentsOf(reader(), contentId).length === 0) return undefined;
      throw error;
    }
    return new Uint8Array(hash.digest());
  }

  async #record(): Promise<void> {
    const sha256s = this.#sha256s;
    if (sha256s.length === 0) return;
    this.#sha256s = [];
    await this.#work.record({ sha256s });
    this.#tally.sha256Count += sha256s.length;
  }
}
