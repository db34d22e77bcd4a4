/**
 * What this member has promised to others, in one small file beside the log: term, vote, and whether entries that it
 * acknowledged may be missing from the log.
 *
 * The log holds term and vote too, so that one of the two may be damaged. The file is replaced before the log is written, and
 * so before any promise of that term leaves the node. It also notes, about once a second, how far the log is durable: a file
 * that was cut short there looks like one whose end was never written. A vote that no good copy is left of ends the member: it must come back
 * under another id, because voting twice in a term may elect two leaders.
 */
import { DriveError } from "../drive/errors.ts";
import type { HardState } from "../raft/types.ts";
import { readAtomicFile, writeAtomicFile, type AtomicFileName } from "../std/atomic-file.ts";
import { errnoOf, type Disk } from "../std/disk.ts";
import type { Position } from "../segments/record.ts";
import { isNoSpace } from "../std/disk.ts";
import { decodePromises, encodePromises, type LogPosition, type PromiseRecord } from "./codec.ts";
import { WireFormatError } from "./wire-format.ts";

const NOTHING_PROMISED: PromiseRecord = {
  term: 0,
  votedFor: 0,
  isMending: false,
  lastKnown: undefined,
  durable: { segmentId: 0, offset: 0 },
};

/** The file of one member. */
export class PromiseFile {
  readonly #disk: Disk;
  readonly #directory: string;
  #content: PromiseRecord | undefined;
  /** Whether a file was there and could not be read: what it said is lost. */
  readonly isDamaged: boolean;
  #writing: Promise<void> = Promise.resolve();

  private constructor(disk: Disk, directory: string, content: PromiseRecord | undefined, isDamaged: boolean) {
    this.#disk = disk;
    this.#directory = directory;
    this.#content = content;
    this.isDamaged = isDamaged;
  }

  /** Reads the file in `directory`. Errors: those of the disk, but a file that cannot be read (EIO) counts as damaged. */
  static async open(disk: Disk, directory: string): Promise<PromiseFile> {
    try {
      const found = await readAtomicFile(disk, fileIn(directory));
      if (found.kind === "absent") return new PromiseFile(disk, directory, undefined, false);
      if (found.kind === "damaged") return new PromiseFile(disk, directory, undefined, true);
      return new PromiseFile(disk, directory, decodePromises(found.content), false);
    } catch (error) {
      if (!(error instanceof WireFormatError) && errnoOf(error) !== "EIO") throw error;
      return new PromiseFile(disk, directory, undefined, true);
    }
  }

  /** What the file says; undefined when it is absent or damaged. */
  get content(): PromiseRecord | undefined {
    return this.#content;
  }

  /** Makes a term and a vote durable. Errors: NO_SPACE, then it may be tried again; anything else is final. */
  async promise({ term, votedFor }: Pick<HardState, "term" | "votedFor">): Promise<void> {
    if (this.#content?.term === term && this.#content.votedFor === votedFor) return;
    await this.#replace((content) => ({ ...content, term, votedFor }));
  }

  /** Makes a term and a vote durable, and that entries may be missing behind them. Errors: as promise(). */
  async beginMending(
    { term, votedFor }: Pick<HardState, "term" | "votedFor">,
    lastKnown: LogPosition | undefined,
  ): Promise<void> {
    await this.#replace(({ durable }) => ({ term, votedFor, isMending: true, lastKnown, durable }));
  }

  /** Makes it durable that the log is whole. Errors: as promise(). */
  async endMending(): Promise<void> {
    await this.#replace((content) => ({ ...content, isMending: false, lastKnown: undefined }));
  }

  /** Notes how far the log is durable: what is missing before that place later was lost, not torn. Errors: as promise(). */
  async noteDurable(durable: Position): Promise<void> {
    await this.#replace((content) => ({ ...content, durable }));
  }

  /** One change at a time: each starts from what the one before made durable. */
  #replace(change: (content: PromiseRecord) => PromiseRecord): Promise<void> {
    const turn = this.#writing.then(async () => {
      const content = change(this.#content ?? NOTHING_PROMISED);
      try {
        await writeAtomicFile(this.#disk, fileIn(this.#directory), encodePromises(content));
      } catch (error) {
        if (!isNoSpace(error)) throw error;
        throw new DriveError("NO_SPACE", "The disk is full: the vote cannot be kept.", {}, error);
      }
      this.#content = content;
    });
    this.#writing = turn.catch(() => undefined);
    return turn;
  }
}

/**
 * Term and vote of this member by both copies: the later term counts, and within a term the vote that was cast.
 * @param fromFile undefined when the file is absent or damaged
 * @param fromLog the newest of the log
 * @throws DriveError DATA_CORRUPT when they name two votes of one term
 */
export function mergePromises(fromFile: PromiseRecord | undefined, fromLog: HardState): HardState {
  if (fromFile === undefined || fromFile.term < fromLog.term) return fromLog;
  const { term, votedFor } = fromFile;
  const { commitIndex } = fromLog;
  if (term > fromLog.term || fromLog.votedFor === 0) return { term, votedFor, commitIndex };
  if (votedFor !== 0 && votedFor !== fromLog.votedFor) {
    throw voteLost(`in term ${term} it voted for ${votedFor} and for ${fromLog.votedFor}`);
  }
  return fromLog;
}

/** DATA_CORRUPT for a vote that is not known any more, with the remedy. */
export function voteLost(what: string): DriveError {
  return new DriveError(
    "DATA_CORRUPT",
    `The record of this member's vote is damaged: ${what}. It must not vote again under its id: empty its data directory ` +
      `and let it join as a new member.`,
    { what },
  );
}

/** The more up to date of two ends of a log; undefined when either is not known. */
export function laterOf(a: LogPosition | undefined, b: LogPosition | undefined): LogPosition | undefined {
  if (a === undefined || b === undefined) return undefined;
  return a.term > b.term || (a.term === b.term && a.index >= b.index) ? a : b;
}

function fileIn(directory: string): AtomicFileName {
  return { directory, name: "PROMISES", magic: "NDPROM01" };
}
