/**
 * Watches an upload, whichever nodes its chunks go through: what this node counted, what other nodes tell where there is a
 * relay, and what the tree and the upload's targets say, which are asked once a second.
 *
 * Each source knows at least what it says, so the most of them is shown: never more than was received, never less than before.
 * What 1, 2 and 3 nodes hold is exact at each survey of the targets. They are asked less often while one source moves that knows
 * of all that the survey found. Whether the upload has ended is the tree's to say, read at this node every second, also while a
 * survey is on its way: a message of the end only has it asked at once. The node that ended it knows without asking. The upload's
 * own path does nothing for its watchers.
 */
import { canceledError, throwIfCanceled } from "../cluster/deadline.ts";
import type { Progress } from "../drive/drive-api.ts";
import { DriveError, hasReason } from "../drive/errors.ts";
import { findUpload } from "../metadata/uploads.ts";
import { extentsOf, type UploadInfo } from "../metadata/view.ts";
import type { OrderedReader } from "../std/ordered-store.ts";
import { sleep } from "../std/clock.ts";
import { deferred } from "../std/deferred.ts";
import type { DataPlane } from "./data-plane.ts";
import { PROGRESS_INTERVAL_MS, type TransferProgress } from "./progress.ts";
import type { ProgressRelay } from "./progress-relay.ts";
import { combine, differs, finished, furthestPhase, verifiedBytes } from "./progress-sum.ts";
import { getUpload } from "./upload-record.ts";
import { heldBytes } from "./upload-survey.ts";

/** Pause between two surveys of the targets, each of which asks every target of every extent; and between looks at the tree. */
export const SURVEY_INTERVAL_MS = 1000;

/** The same while one source moves that knows of all that the last survey found. */
export const SURVEY_INTERVAL_HEARD_MS = 5000;

/** A survey that takes long is followed by a pause of that many times as long, but no longer than SURVEY_INTERVAL_HEARD_MS. */
const SURVEY_PAUSE_FACTOR = 4;

interface Complete {
  readonly kind: "complete";
  readonly sizeBytes: number;
  readonly copiedBytes: Progress["copiedBytes"];
}

/** What tree and targets say. */
type Answer =
  | { readonly kind: "open"; readonly progress: Progress }
  | Complete
  /** The tree knows no such upload, or it has expired. */
  | { readonly kind: "gone"; readonly error: unknown }
  /** Nobody could be asked. */
  | { readonly kind: "silent"; readonly error: unknown };

/**
 * The figures now and when they changed, at most ten times a second, until the upload is "done" (with its whole size and the
 * copies that are there) or "failed" (also when it was aborted or expired while it was watched, at whichever node).
 * @throws DriveError UPLOAD_NOT_FOUND, UPLOAD_EXPIRED, OVERLOADED, CANCELED; NO_LEADER and its like when this node cannot ask
 */
export async function* watchUpload(
  plane: DataPlane,
  id: string,
  signal?: AbortSignal,
  relay?: ProgressRelay,
): AsyncGenerator<Progress, void, undefined> {
  const uploadId = /^[1-9]\d{0,15}$/.test(id) ? Number(id) : NaN;
  if (!Number.isSafeInteger(uploadId)) {
    throw new DriveError("UPLOAD_NOT_FOUND", `No transfer ${JSON.stringify(id)} is known.`, { id });
  }
  throwIfCanceled(signal);
  const leave = plane.progress.admitWatcher();
  const watch = new UploadWatch(plane, uploadId);
  const stopListening = relay?.listen(id, (progress) => watch.tell(progress));
  const onAbort = (): void => watch.stop();
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    for (;;) {
      const progress = watch.next();
      if (progress !== undefined) yield progress;
      if (watch.ended) return;
      await watch.changed();
      if (signal?.aborted === true) throw canceledError(signal);
    }
  } finally {
    signal?.removeEventListener("abort", onAbort);
    stopListening?.();
    watch.stop();
    leave();
  }
}

/**
 * Notes the end of an upload that ended at another node in what this node counted of it.
 * @param own the figures that this node counted
 */
export function settleUpload(plane: DataPlane, own: TransferProgress): void {
  if (own.ended) return;
  const reader = plane.metadata.port.reader();
  const upload = findUpload(reader, Number(own.id));
  if (upload?.state === "open") return;
  if (upload?.entry === undefined) plane.progress.forget(own.id);
  else {
    const { sizeBytes } = upload.entry;
    own.finish(sizeBytes, verifiedBytes(extentsOf(reader, upload.contentId), sizeBytes));
  }
}

/** One watcher of one upload. */
class UploadWatch {
  readonly #plane: DataPlane;
  readonly #uploadId: number;
  readonly #id: string;
  readonly #beginMs: number;
  readonly #stopping = new AbortController();
  #ended = false;
  #woken = deferred<void>();
  /** Whether figures changed since they were looked at, and when they may be looked at again. */
  #isMoving = false;
  #pacedUntilMs = 0;
  /** The change of this node's figures that wakes; asked for once, however often the watcher wakes before it. */
  #awaited: Promise<void> | undefined;
  /** All that is known; what of it was shown; what other nodes told. */
  #known: Progress | undefined;
  #shown: Progress | undefined;
  #told: Progress | undefined;
  /** What the surveys found, the newest answer until it is taken in, and whether one is on its way. */
  #surveyed: Progress | undefined;
  #answer: Answer | undefined;
  #isAsking = false;
  /** The survey of the targets on its way, what the tree said of an end meanwhile, and whether it is being asked for that. */
  #survey: AbortController | undefined;
  #foundEnd: Answer | undefined;
  #isLooking = false;
  /** Whether the tree said that the upload is open, and whether something says since that it has ended: the tree is asked at once. */
  #wasOpen = false;
  #isEndHeard = false;
  /** When the last answer came, the shortest pause after it, and when the next survey is due as things stand. */
  #answerMs = -Infinity;
  #pauseMs = 0;
  #dueMs = 0;
  /** Whether this node knew then of all that the survey found, and when figures moved last. */
  #countedAllAtAnswer = false;
  #movedMs = -Infinity;
  #lookMs = 0;

  constructor(plane: DataPlane, uploadId: number) {
    this.#plane = plane;
    this.#uploadId = uploadId;
    this.#id = String(uploadId);
    this.#beginMs = plane.clock.monotonicMs();
  }

  /** Whether what next() returned was the end. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Takes in what a node tells of the upload. */
  tell(progress: Progress): void {
    const isEnd = progress.phase === "done" || progress.phase === "failed";
    if (isEnd) this.#isEndHeard = true;
    this.#told = combine(this.#told, progress, isEnd ? (this.#told?.phase ?? "receiving") : progress.phase);
    this.#wake();
  }

  /** Gives up what is under way. */
  stop(): void {
    this.#stopping.abort(new DriveError("CANCELED", "Nobody watches any more."));
    this.#survey?.abort();
    this.#woken.resolve();
  }

  /** What is to be shown now; undefined when that is nothing new. @throws DriveError as watchUpload() */
  next(): Progress | undefined {
    const own = this.#plane.progress.find(this.#id);
    this.#wakeWith(own);
    // However often figures change, they are looked at ten times a second.
    if (this.#isMoving) {
      this.#isMoving = false;
      this.#movedMs = this.#plane.clock.monotonicMs();
      this.#pacedUntilMs = this.#movedMs + PROGRESS_INTERVAL_MS;
    }
    const counted = own?.snapshot();
    if (counted?.phase === "failed") return this.#end(combine(this.#known, counted));
    if (counted?.phase === "done") return this.#end(this.#doneHere(counted));
    const answer = this.#answer;
    this.#answer = undefined;
    const end = answer === undefined ? undefined : this.#take(answer, own);
    if (end !== undefined) return this.#end(end);
    this.#askWhenDue();
    // Before the first answer nothing is shown, unless that takes long and this node has counted something.
    const isLate = this.#plane.clock.monotonicMs() >= this.#beginMs + SURVEY_INTERVAL_MS;
    if (this.#surveyed === undefined && (counted === undefined || !isLate)) return undefined;
    const phase = furthestPhase([counted?.phase, this.#told?.phase]);
    for (const source of [this.#surveyed, this.#told, counted]) {
      if (source !== undefined)
        this.#known = combine(this.#known, { ...source, errorReason: undefined }, phase);
    }
    const known = this.#known;
    if (known === undefined || (this.#shown !== undefined && !differs(known, this.#shown))) return undefined;
    this.#shown = known;
    this.#pacedUntilMs = this.#plane.clock.monotonicMs() + PROGRESS_INTERVAL_MS;
    return known;
  }

  /** Waits for something new, and until PROGRESS_INTERVAL_MS have passed since the figures changed last. */
  async changed(): Promise<void> {
    const { clock } = this.#plane;
    const { signal } = this.#stopping;
    const pauseMs = this.#pacedUntilMs - clock.monotonicMs();
    // Only the watcher's leaving ends the pause early, and that is seen to by the caller.
    if (pauseMs > 0 && !signal.aborted) await sleep(clock, pauseMs, signal).catch(() => undefined);
    const timer = clock.setTimer(this.#untilDueMs(), () => this.#woken.resolve());
    await this.#woken.promise;
    timer.cancel();
    this.#woken = deferred<void>();
  }

  #untilDueMs(): number {
    if (this.#isAsking) return SURVEY_INTERVAL_MS;
    return Math.max(0, Math.min(SURVEY_INTERVAL_MS, this.#dueMs - this.#plane.clock.monotonicMs()));
  }

  #wake(): void {
    this.#isMoving = true;
    this.#woken.resolve();
  }

  #wakeWith(own: TransferProgress | undefined): void {
    const changed = own?.ended === false ? own.changed() : undefined;
    if (changed === undefined || changed === this.#awaited) return;
    this.#awaited = changed;
    void changed.then(() => this.#wake());
  }

  /** Takes in an answer. Returns the last figures when the upload has ended. */
  #take(answer: Answer, own: TransferProgress | undefined): Progress | undefined {
    switch (answer.kind) {
      case "open":
        this.#surveyed = combine(this.#surveyed, answer.progress);
        return undefined;
      case "complete":
        own?.finish(answer.sizeBytes, answer.copiedBytes);
        return finished(this.#known, this.#id, answer.sizeBytes, answer.copiedBytes);
      case "gone": {
        // The tree forgets a complete upload after a while; the node that completed it remembers for longer.
        if (own?.ended === true) return combine(this.#known, own.snapshot());
        if (this.#shown === undefined) {
          if (own !== undefined) this.#plane.progress.forget(this.#id);
          throw answer.error;
        }
        const reason =
          this.#told?.errorReason ??
          (hasReason(answer.error, "UPLOAD_EXPIRED") ? "UPLOAD_EXPIRED" : "CANCELED");
        own?.fail(reason);
        return { ...this.#shown, phase: "failed", errorReason: reason };
      }
      case "silent":
        if (own === undefined || !(answer.error instanceof DriveError)) throw answer.error;
        return own.ended ? combine(this.#known, own.snapshot()) : undefined;
    }
  }

  #end(progress: Progress): Progress {
    this.#ended = true;
    return progress;
  }

  /** The last figures of an upload that this node knows to be done; of copies made since, its own tree may know. */
  #doneHere(counted: Progress): Progress {
    const reader = this.#plane.metadata.port.reader();
    const upload = findUpload(reader, this.#uploadId);
    const complete = upload && completeAt(reader, upload);
    const own = combine(this.#known, counted);
    if (complete === undefined) return own;
    return finished(own, this.#id, complete.sizeBytes, complete.copiedBytes);
  }

  #askWhenDue(): void {
    const now = this.#plane.clock.monotonicMs();
    const isEndLikely = this.#isEndHeard || this.#hasEnded(now);
    if (this.#isAsking) {
      this.#isEndHeard = isEndLikely;
      if (isEndLikely && this.#survey !== undefined && !this.#isLooking) void this.#lookForEnd(this.#survey);
      return;
    }
    if (!isEndLikely) {
      this.#dueMs = this.#answerMs + this.#pauseMs;
      if (this.#isHeard()) {
        const silentMs = Math.max(this.#dueMs, this.#movedMs + SURVEY_INTERVAL_MS);
        this.#dueMs = Math.min(this.#answerMs + SURVEY_INTERVAL_HEARD_MS, silentMs);
      }
      if (now < this.#dueMs) return;
    }
    this.#isEndHeard = false;
    this.#isAsking = true;
    void this.#ask().then((answer) => {
      const { clock, progress } = this.#plane;
      this.#answer = answer;
      this.#isAsking = false;
      this.#answerMs = clock.monotonicMs();
      const tookMs = this.#answerMs - now;
      const pauseMs = Math.max(SURVEY_INTERVAL_MS, tookMs * SURVEY_PAUSE_FACTOR);
      this.#pauseMs = Math.min(pauseMs, SURVEY_INTERVAL_HEARD_MS);
      const counted = progress.find(this.#id)?.snapshot();
      this.#countedAllAtAnswer =
        counted !== undefined &&
        answer.kind === "open" &&
        counted.transferredBytes >= answer.progress.transferredBytes;
      this.#woken.resolve();
    });
  }

  /** Whether one source moved since the last survey that knows, as it seems, of all that the survey found. */
  #isHeard(): boolean {
    if (this.#surveyed === undefined || this.#movedMs <= this.#answerMs) return false;
    return (
      this.#countedAllAtAnswer || (this.#told?.transferredBytes ?? -1) >= this.#surveyed.transferredBytes
    );
  }

  /** Whether an upload that was open is so no more, as far as this node's own tree has come; looked up once a second. */
  #hasEnded(nowMs: number): boolean {
    if (!this.#wasOpen || nowMs < this.#lookMs) return false;
    this.#lookMs = nowMs + SURVEY_INTERVAL_MS;
    return findUpload(this.#plane.metadata.port.reader(), this.#uploadId)?.state !== "open";
  }

  /** Asks the tree whether the upload has ended, while `survey` is on its way; ends that when it has. */
  async #lookForEnd(survey: AbortController): Promise<void> {
    this.#isLooking = true;
    this.#isEndHeard = false;
    const found = await this.#askTree();
    this.#isLooking = false;
    if (!("kind" in found)) return;
    // Where the tree cannot be asked it is asked again at the next wake.
    if (found.kind === "silent") this.#isEndHeard = true;
    else {
      this.#foundEnd = found;
      survey.abort();
    }
  }

  async #ask(): Promise<Answer> {
    const found = await this.#askTree();
    if ("kind" in found) return found;
    this.#wasOpen = true;
    const survey = new AbortController();
    this.#survey = survey;
    if (this.#stopping.signal.aborted) survey.abort();
    const { ports, detector } = this.#plane;
    try {
      const copiedBytes = await heldBytes(ports, found, {
        // A target that is down says nothing, and waiting for it would hold up what the others say.
        isDown: (memberId) => detector.state(memberId).health === "down",
        signal: survey.signal,
      });
      const { sizeBytes } = found;
      const figures = { sizeBytes, transferredBytes: copiedBytes[0], copiedBytes, errorReason: undefined };
      const progress = { id: this.#id, kind: "upload", phase: "receiving", ...figures } as const;
      return this.#foundEnd ?? { kind: "open", progress };
    } catch (error) {
      return this.#foundEnd ?? { kind: "silent", error };
    } finally {
      this.#survey = undefined;
    }
  }

  /** What the tree says: that the upload has ended, that it cannot be asked, or the open upload. */
  async #askTree(): Promise<Answer | UploadInfo> {
    const { port } = this.#plane.metadata;
    try {
      await port.linearize({ signal: this.#stopping.signal });
      const reader = port.reader();
      const upload = getUpload(reader, this.#uploadId);
      return completeAt(reader, upload) ?? upload;
    } catch (error) {
      const isGone = hasReason(error, "UPLOAD_NOT_FOUND", "UPLOAD_EXPIRED");
      return { kind: isGone ? "gone" : "silent", error };
    }
  }
}

/** The end of an upload that is complete, with the copies that are verified by now; undefined while it is not. */
function completeAt(
  reader: OrderedReader,
  { entry, contentId }: Pick<UploadInfo, "entry" | "contentId">,
): Complete | undefined {
  if (entry === undefined) return undefined;
  const { sizeBytes } = entry;
  return { kind: "complete", sizeBytes, copiedBytes: verifiedBytes(extentsOf(reader, contentId), sizeBytes) };
}
