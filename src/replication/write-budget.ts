/**
 * The bound on bytes that this node holds for writing: in all, and towards each target.
 *
 * A chunk's bytes count against the node from before the first copy is sent until the last copy was taken or given up, and
 * against a target while that copy is under way. A caller waits for its turn, first come, first served; a newcomer that asks
 * when too many wait is told OVERLOADED. Invariant: the bytes admitted never exceed nodeBytesMax.
 */
import { canceledError } from "../cluster/deadline.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { assert } from "../std/assert.ts";
import { Semaphore } from "../std/semaphore.ts";

/** Bytes of chunks held for writing at this node. A quarter of the memory a node may take; 64 whole chunks. */
export const NODE_WRITE_BYTES_MAX = 64 * CHUNK_SIZE_BYTES;
/** Bytes on their way to one target, over all uploads: covers 400 MiB/s at 40 ms. */
export const TARGET_WRITE_BYTES_MAX = 16 * CHUNK_SIZE_BYTES;
/** Chunks that may wait for admission, each held by its caller; more are refused with OVERLOADED. */
export const NODE_WRITE_WAITING_MAX = 64;

/** Settings of WriteBudget; the named constants by default. */
export interface WriteBudgetOptions {
  readonly nodeBytesMax?: number;
  readonly targetBytesMax?: number;
  readonly waitingMax?: number;
}

/** Permits for bytes held for writing. */
export class WriteBudget {
  readonly #node: Semaphore;
  readonly #targetBytesMax: number;
  readonly #waitingMax: number;
  readonly #targets = new Map<number, Semaphore>();

  constructor(options: WriteBudgetOptions = {}) {
    this.#node = new Semaphore(options.nodeBytesMax ?? NODE_WRITE_BYTES_MAX);
    this.#targetBytesMax = options.targetBytesMax ?? TARGET_WRITE_BYTES_MAX;
    this.#waitingMax = options.waitingMax ?? NODE_WRITE_WAITING_MAX;
    assert(this.#targetBytesMax >= CHUNK_SIZE_BYTES, "a target takes at least one chunk at a time");
  }

  /** Bytes admitted and not released. */
  get heldBytes(): number {
    return this.#node.capacity - this.#node.available;
  }

  /** Callers that wait for admission. */
  get waitingCount(): number {
    return this.#node.waitingCount;
  }

  /**
   * Refuses a newcomer that would have to wait behind too many. Work that has begun (a stream, a repair) does not ask.
   * @throws DriveError OVERLOADED
   */
  checkLine(): void {
    if (this.#node.waitingCount < this.#waitingMax) return;
    throw new DriveError(
      "OVERLOADED",
      `${this.#waitingMax} chunks wait to be written at this node already.`,
      {
        waiting_max: String(this.#waitingMax),
      },
    );
  }

  /** Waits until `sizeBytes` may be held; release() gives them back. @throws DriveError CANCELED */
  async admit(sizeBytes: number, signal?: AbortSignal): Promise<void> {
    await acquire(this.#node, sizeBytes, signal);
  }

  /** Gives back what admit() took. */
  release(sizeBytes: number): void {
    this.#node.release(sizeBytes);
  }

  /** Runs `send` holding `sizeBytes` of the way to one target. */
  async toTarget<T>(
    memberId: number,
    sizeBytes: number,
    signal: AbortSignal | undefined,
    send: () => Promise<T>,
  ): Promise<T> {
    let target = this.#targets.get(memberId);
    if (target === undefined) {
      target = new Semaphore(this.#targetBytesMax);
      this.#targets.set(memberId, target);
    }
    await acquire(target, sizeBytes, signal);
    try {
      return await send();
    } finally {
      target.release(sizeBytes);
      if (target.available === target.capacity && target.waitingCount === 0) this.#targets.delete(memberId);
    }
  }
}

async function acquire(
  semaphore: Semaphore,
  permits: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  try {
    await semaphore.acquire(permits, signal);
  } catch (error) {
    if (signal?.aborted === true) throw canceledError(signal);
    throw error;
  }
}
