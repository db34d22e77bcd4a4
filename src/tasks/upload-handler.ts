/**
 * Checks a run of files after they were committed: every copy is read whole by its node and compared with the tree, and the
 * plain SHA-256 of a file whose bytes came in any order is computed by reading it once.
 *
 * Everything may be done twice: a check changes nothing, a bad copy is reported by what was found, and findings go through the claim.
 * Bytes are read at a pace that yields to users; a file counts as some bytes more than it has, because small ones cost calls and
 * not bytes.
 */
import { throwIfCanceled } from "../cluster/deadline.ts";
import { extentSizeBytes, type Extent, type ExtentKey, type ReplicaFinding } from "../drive/content.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import type { Entry } from "../drive/entry.ts";
import type { Task } from "../drive/task.ts";
import { extentsOf, getEntry } from "../metadata/view.ts";
import type { Sha256Finding } from "../metadata/task-records.ts";
import type { BackgroundPace } from "../replication/background-pace.ts";
import type { ReplicaPorts } from "../replication/replica-port.ts";
import { bytesEqual, utf8 } from "../std/bytes.ts";
import { sha256Stream } from "../std/digest.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import type { TaskHandler, TaskWork } from "./task-handler.ts";
import { parseUploadRun, type UploadReport } from "./upload-run.ts";

/** What a file costs beside its bytes, in bytes of the pace: three calls and a few reads. */
export const FILE_COST_BYTES = 64 * 1024;
/** Bytes a second while users move bytes: 64 small files. */
export const UPLOAD_CHECK_BUSY_BYTES_PER_SECOND = 4 * 1024 * 1024;
/** Files that one task checks at once. */
const FILES_AT_ONCE = 4;
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
    await Promise.all(Array.from({ length: FILES_AT_ONCE }, () => check.checkAll()));
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

  /** Takes one file after the other until none is left. */
  async checkAll(): Promise<void> {
    for (let at = this.#next++; at < this.#entryIds.length; at = this.#next++) {
      throwIfCanceled(this.#work.signal);
      await this.#check(getEntry(this.#options.reader(), this.#entryIds[at] ?? 0));
      this.#doneCount += 1;
      this.#work.progress(this.#doneCount, this.#entryIds.length);
      if (this.#sha256s.length >= RECORD_COUNT) await this.#record();
    }
  }

  async end(): Promise<UploadReport> {
    await this.#record();
    return this.#tally;
  }

  async #check(entry: Entry | undefined): Promise<void> {
    if (entry?.kind !== "file") {
      this.#tally.goneCount += 1;
      return;
    }
    const { contentId } = entry;
    const { pace, reader } = this.#options;
    await pace.take(FILE_COST_BYTES, this.#work.signal);
    for (const extent of extentsOf(reader(), contentId)) await this.#checkCopies(contentId, extent);
    if (entry.sha256.length === 0) {
      const sha256 = await this.#hash(entry);
      if (sha256 !== undefined) this.#sha256s.push({ contentId, sha256 });
    }
    this.#tally.fileCount += 1;
  }

  async #checkCopies(contentId: number, extent: Extent): Promise<void> {
    const key = { contentId, extentIndex: extent.extentIndex };
    const { pace, ports } = this.#options;
    const { signal } = this.#work;
    for (const { memberId, state } of extent.replicas) {
      const port = state === "verified" ? ports.forMember(memberId) : undefined;
      if (port === undefined) continue;
      await pace.take(extent.sizeBytes, signal);
      try {
        const seal = await port.verifyExtent(key, signal);
        if (bytesEqual(seal.root, extent.root)) this.#tally.verifiedCopyCount += 1;
        else this.#bad(key, memberId, "corrupt");
      } catch (error) {
        throwIfCanceled(signal);
        if (hasReason(error, "CHUNK_CORRUPT")) this.#bad(key, memberId, "corrupt");
        else if (hasReason(error, "CHUNK_NOT_FOUND")) this.#bad(key, memberId, "lost");
        else if (error instanceof DriveError) this.#tally.unansweredCopyCount += 1;
        else throw error;
      }
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
