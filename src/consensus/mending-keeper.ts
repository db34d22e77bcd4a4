/**
 * Carries what PROMISES says about a damaged log to the core at the start, and the end of the mending back to the file.
 */
import { hasReason } from "../drive/errors.ts";
import { comparePositions } from "../segments/record.ts";
import type { Clock } from "../std/clock.ts";
import type { SegmentRaftLog } from "./segment-raft-log.ts";
import type { MendingOptions } from "../raft/mending.ts";
import type { BasicStatus } from "../raft/raft-node.ts";
import type { Prng } from "../std/prng.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { PromiseFile } from "./promises.ts";

/** Bytes of the number that names one life of a member that mends its log. */
const NONCE_SIZE_BYTES = 16;

/** How often it is noted how far the log is durable, while it grows. */
const NOTE_INTERVAL_MS = 1000;

/** How the core starts; undefined when nothing can be missing from the log. */
export function mendingOf(promises: PromiseFile, prng: Prng): MendingOptions | undefined {
  if (promises.content?.isMending !== true) return undefined;
  return { lastKnown: promises.content.lastKnown, nonce: prng.bytes(NONCE_SIZE_BYTES) };
}

/** Dependencies of a MendingKeeper. */
export interface MendingKeeperOptions {
  readonly promises: PromiseFile;
  readonly log: SegmentRaftLog;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly onFatal: (error: Error) => void;
}

/**
 * Keeps PROMISES in step: how far the log is durable, about once a second, and that it is whole again. That this comes late is
 * harmless: less is known to be lost, or the mending begins again.
 */
export class MendingKeeper {
  readonly #options: MendingKeeperOptions;
  #writing: Promise<void> | undefined;
  #notedMs: number;

  constructor(options: MendingKeeperOptions) {
    this.#options = options;
    this.#notedMs = options.clock.monotonicMs();
  }

  /** Called now and then. */
  tick({ isMending, lastIndex }: BasicStatus): void {
    const { promises, clock, logger } = this.#options;
    if (this.#writing !== undefined) return;
    if (!isMending && promises.content?.isMending === true) {
      this.#write(promises.endMending().then(() => logger.info("log_mended", { last_index: lastIndex })));
    } else if (clock.monotonicMs() - this.#notedMs >= NOTE_INTERVAL_MS) {
      this.#notedMs = clock.monotonicMs();
      if (this.#isBehind()) this.#write(promises.noteDurable(this.#options.log.durable));
    }
  }

  /** Waits for what is being written, and notes how far the log is durable. After its last write. */
  async stop(): Promise<void> {
    await this.#writing;
    if (this.#isBehind()) await this.#options.promises.noteDurable(this.#options.log.durable);
  }

  #isBehind(): boolean {
    const { promises, log } = this.#options;
    return promises.content === undefined || comparePositions(log.durable, promises.content.durable) > 0;
  }

  #write(work: Promise<void>): void {
    this.#writing = work.then(
      () => {
        this.#writing = undefined;
      },
      (error: unknown) => {
        this.#writing = undefined;
        // Without space it is tried again.
        if (!hasReason(error, "NO_SPACE")) this.#options.onFatal(error as Error);
      },
    );
  }
}
