/**
 * Concurrent clients: random operations on few paths, so that they meet, and new files of up to some MiB that must last.
 *
 * What outcome was unknown is asked again with the same request id, most of the time until it is known. Paths change every epoch:
 * the history of each stays short enough to be checked.
 */
import { sleep, type Clock } from "../../../src/std/clock.ts";
import { must } from "../../../src/std/assert.ts";
import { toHex } from "../../../src/std/bytes.ts";
import { sha256 } from "../../../src/std/digest.ts";
import type { SeededPrng } from "../../../src/std/prng.ts";
import type { ErrorReason } from "../../../src/drive/errors.ts";
import { HistoryRecorder } from "../../support/linearizability/history.ts";
import type { FileInput, FileOutput } from "../../support/linearizability/models.ts";
import { Failed, HttpDrive, type TestDrive } from "./test-drives.ts";
import type { Values } from "./values.ts";

/** Paths by themselves, and folders whose files are moved, copied and listed together. */
const SINGLE_PATH_COUNT = 6;
const FOLDER_COUNT = 3;
const FOLDER_NAMES = ["a", "b", "c"];

/** How long the same paths are used. */
const EPOCH_MS = 60_000;

/** How long an operation is tried before its client goes on without knowing. */
const OPERATION_TIMEOUT_MS = 20_000;

const RETRY_DELAY_MS = 100;

/** One in this many operations of unknown outcome is not asked again. */
const GIVE_UP_ONE_IN = 12;

/** Reasons that no fault of this run excuses. */
const NEVER_REASONS: ReadonlySet<string> = new Set<ErrorReason>([
  "INTERNAL",
  "DATA_CORRUPT",
  "WRONG_CLUSTER",
  "DIGEST_MISMATCH",
  "REQUEST_ID_REUSED",
  "ARGUMENT_INVALID",
  "CHUNK_CORRUPT",
]);

/** A write that was acknowledged. Times in milliseconds of the clock. */
export interface Acknowledgement {
  readonly calledMs: number;
  readonly returnedMs: number;
}

/** A file that was acknowledged, or may be there. */
export interface WrittenFile {
  readonly path: string;
  readonly sha256: string;
  readonly isCertain: boolean;
}

/** Settings of a Workload. */
export interface WorkloadOptions {
  readonly clock: Clock;
  readonly prng: SeededPrng;
  readonly values: Values;
  readonly versions: Map<string, number>;
  readonly drives: readonly TestDrive[];
  readonly fileDrives: readonly TestDrive[];
  /** Mean pause of a client between operations. */
  readonly thinkMs: number;
  /** Bytes of files after which no more are written. */
  readonly fileBytesMax: number;
}

/** The clients at work. */
export class Workload {
  readonly recorder: HistoryRecorder<FileInput, FileOutput>;
  readonly writes: Acknowledgement[] = [];
  readonly readMs: number[] = [];
  readonly files: WrittenFile[] = [];
  /** Operations by kind, and failed attempts by reason. */
  readonly counts = new Map<string, number>();
  readonly failures = new Map<string, number>();
  /** Attempts of which nobody knew at first whether they had happened; most are asked again until that is known. */
  indefiniteCount = 0;
  /** What must never be seen. */
  readonly impossible: string[] = [];
  /** Paths that were ever used. */
  readonly paths = new Set<string>();
  readonly #options: WorkloadOptions;
  readonly #epochs = new Map<number, Promise<void>>();
  readonly #beganMs: number;
  #isStopping = false;
  #requestCount = 0;
  #fileBytes = 0;
  #running: Promise<void>[] = [];

  constructor(options: WorkloadOptions) {
    this.#options = options;
    this.#beganMs = options.clock.monotonicMs();
    this.recorder = new HistoryRecorder(() => options.clock.monotonicMs());
  }

  /** Lets the clients begin; returns when the folders of the first epoch are there. */
  async start(): Promise<void> {
    const { drives, fileDrives, prng } = this.#options;
    await this.#prepare(0);
    this.#running = [
      ...drives.map((drive) => this.#operateFor(drive, prng.fork())),
      ...fileDrives.map((drive) => this.#writeFiles(drive, prng.fork())),
    ];
  }

  /** Ends the clients; returns when the last operation is over. Throws what a client died of. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    await Promise.all(this.#running);
  }

  /** Reads a path as part of the history; undefined when it could not be read. */
  async read(drive: TestDrive, path: string): Promise<FileOutput | undefined> {
    return this.#operate(drive, { kind: "read", path }, this.#options.prng);
  }

  async #operateFor(drive: TestDrive, prng: SeededPrng): Promise<void> {
    const { clock, thinkMs } = this.#options;
    while (!this.#isStopping) {
      const epoch = Math.floor((clock.monotonicMs() - this.#beganMs) / EPOCH_MS);
      await this.#prepare(epoch);
      const input = this.#drawInput(epoch, prng, drive instanceof HttpDrive);
      if (input !== undefined) await this.#operate(drive, input, prng);
      await sleep(clock, -Math.log(1 - prng.float()) * thinkMs);
    }
  }

  /** Makes the folders of an epoch, once. */
  #prepare(epoch: number): Promise<void> {
    const known = this.#epochs.get(epoch);
    if (known !== undefined) return known;
    const folders = [`/t${epoch}`, ...Array.from({ length: FOLDER_COUNT }, (_, at) => `/t${epoch}/d${at}`)];
    const drive = must(this.#options.drives[0], "a drive");
    const made = (async (): Promise<void> => {
      for (const folder of folders) await this.#persist(() => drive.makeFolder(folder));
    })();
    this.#epochs.set(epoch, made);
    return made;
  }

  /** Repeats `work` for as long as it takes. */
  async #persist(work: () => Promise<void>): Promise<void> {
    for (;;) {
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof Failed)) throw error;
        this.#noteFailure(error, "a folder");
        await sleep(this.#options.clock, RETRY_DELAY_MS);
      }
    }
  }

  #drawInput(epoch: number, prng: SeededPrng, isHttp: boolean): FileInput | undefined {
    const { values } = this.#options;
    const kind = prng.below(100);
    if (prng.below(2) === 0) {
      const path = `/t${epoch}/p${prng.below(SINGLE_PATH_COUNT)}`;
      this.paths.add(path);
      if (kind < 20) return { kind: "create", path, value: values.make() };
      if (kind < 45) return { kind: "replace", path, value: values.make() };
      if (kind < 55) return { kind: "replace", path, value: values.make(), ifValue: this.#drawSeen(path) };
      if (kind < 65) return { kind: "remove", path };
      return { kind: "read", path };
    }
    const folder = `/t${epoch}/d${prng.below(FOLDER_COUNT)}`;
    const paths = FOLDER_NAMES.map((name) => `${folder}/${name}`);
    for (const each of paths) this.paths.add(each);
    const path = must(paths[prng.below(paths.length)], "a path");
    const others = paths.filter((each) => each !== path);
    const to = must(others[prng.below(others.length)], "another path");
    if (kind < 15) return { kind: "create", path, value: values.make() };
    if (kind < 30) return { kind: "replace", path, value: values.make() };
    if (kind < 45) return { kind: "move", from: path, to, replace: prng.below(2) === 0 };
    if (kind < 55) return isHttp ? undefined : { kind: "copy", from: path, to, replace: prng.below(2) === 0 };
    if (kind < 65) return { kind: "remove", path };
    if (kind < 75) return { kind: "list", paths };
    return { kind: "read", path };
  }

  /** The value that was last seen at a single path, for a condition; undefined when none was. */
  #drawSeen(path: string): string | undefined {
    return this.#lastSeen.get(path);
  }

  readonly #lastSeen = new Map<string, string>();

  async #operate(drive: TestDrive, input: FileInput, prng: SeededPrng): Promise<FileOutput | undefined> {
    const { clock } = this.#options;
    const isRead = input.kind === "read" || input.kind === "list";
    this.#requestCount += 1;
    const requestId = `${drive.name}-${this.#requestCount}`;
    const open = this.recorder.call(drive.name, input);
    const calledMs = clock.monotonicMs();
    let mayHaveHappened = false;
    for (;;) {
      try {
        const output = await drive.perform(input, requestId);
        open.answered(output);
        const returnedMs = clock.monotonicMs();
        this.#count(input.kind);
        if (isRead) this.readMs.push(returnedMs - calledMs);
        else if (output.kind === "done") this.writes.push({ calledMs, returnedMs });
        this.#remember(input, output);
        return output;
      } catch (error) {
        if (!(error instanceof Failed)) throw error;
        this.#noteFailure(error, JSON.stringify(input));
        mayHaveHappened ||= error.isIndefinite;
        const isLate = clock.monotonicMs() - calledMs > OPERATION_TIMEOUT_MS;
        const givesUp = this.#isStopping || isLate || prng.below(GIVE_UP_ONE_IN) === 0;
        if (givesUp) {
          if (mayHaveHappened && !isRead) open.unknown();
          else open.refused();
          return undefined;
        }
        await sleep(clock, RETRY_DELAY_MS * (0.5 + prng.float()));
      }
    }
  }

  #remember(input: FileInput, output: FileOutput): void {
    if (input.kind === "read" && output.kind === "value") this.#lastSeen.set(input.path, output.value);
    if ((input.kind === "create" || input.kind === "replace") && output.kind === "done") {
      this.#lastSeen.set(input.path, input.value);
    }
  }

  /** New files, one after the other; each is written until it is there for certain or the client gives up. */
  async #writeFiles(drive: TestDrive, prng: SeededPrng): Promise<void> {
    const { clock, thinkMs, fileBytesMax } = this.#options;
    for (let serial = 1; !this.#isStopping && this.#fileBytes < fileBytesMax; serial += 1) {
      const path = `/files/${drive.name}/${serial % 50}/${serial}.bin`;
      const bytes = prng.bytes(prng.below(4) === 0 ? prng.below(3_500_000) : prng.below(200_000));
      this.#fileBytes += bytes.length;
      const digest = toHex(sha256(bytes));
      const calledMs = clock.monotonicMs();
      let mayHaveHappened = false;
      for (;;) {
        try {
          await drive.putFile(path, bytes, `${drive.name}-file-${serial}`);
          this.files.push({ path, sha256: digest, isCertain: true });
          this.#count("file");
          this.writes.push({ calledMs, returnedMs: clock.monotonicMs() });
          break;
        } catch (error) {
          if (!(error instanceof Failed)) throw error;
          this.#noteFailure(error, path);
          mayHaveHappened ||= error.isIndefinite;
          if (this.#isStopping || clock.monotonicMs() - calledMs > 2 * OPERATION_TIMEOUT_MS) {
            if (mayHaveHappened) this.files.push({ path, sha256: digest, isCertain: false });
            break;
          }
          await sleep(clock, RETRY_DELAY_MS * (0.5 + prng.float()));
        }
      }
      await sleep(clock, thinkMs * 5 * prng.float());
    }
  }

  #noteFailure(error: Failed, what: string): void {
    if (error.isIndefinite) this.indefiniteCount += 1;
    this.failures.set(error.reason, (this.failures.get(error.reason) ?? 0) + 1);
    if (NEVER_REASONS.has(error.reason)) this.impossible.push(`${what}: ${error.message}`);
    if (error.reason === "PATH_EXISTS")
      this.impossible.push(`${what}: a file of one writer was there before`);
  }

  #count(kind: string): void {
    this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
  }
}
