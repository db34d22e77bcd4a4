/**
 * Tells the tree of copies that were made: what is sealed while one command is on its way goes with the next one, all together.
 * A copy that stands alone has a command of its own, so that its refusal has a name; so has each of a batch of which the tree left
 * something out.
 */
import type { MetadataClient } from "../cluster/metadata-client.ts";
import type { Seal } from "../drive/content.ts";
import { deferred, type Deferred } from "../std/deferred.ts";

/** Seals in one command at most. */
export const SEAL_BATCH_COUNT_MAX = 256;

interface Waiting {
  readonly seal: Seal;
  readonly signal: AbortSignal;
  readonly told: Deferred<void>;
}

/** Records seals in the tree. */
export class SealRecorder {
  readonly #metadata: MetadataClient;
  #waiting: Waiting[] = [];
  #isTelling = false;

  constructor(metadata: MetadataClient) {
    this.#metadata = metadata;
  }

  /**
   * Resolves when the tree has the copy.
   * @throws DriveError SEAL_REJECTED, CHUNK_NOT_FOUND (the extent is gone), those of a proposal
   */
  record(seal: Seal, signal: AbortSignal): Promise<void> {
    const told = deferred<void>();
    this.#waiting.push({ seal, signal, told });
    if (!this.#isTelling) void this.#tellAll();
    return told.promise;
  }

  async #tellAll(): Promise<void> {
    this.#isTelling = true;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, SEAL_BATCH_COUNT_MAX);
      if (!(await this.#tellTogether(batch))) await Promise.all(batch.map((item) => this.#tell(item)));
    }
    this.#isTelling = false;
  }

  /** Tells them with one command; false when each has to be told by itself. */
  async #tellTogether(batch: readonly Waiting[]): Promise<boolean> {
    const [first] = batch;
    if (first === undefined || batch.length === 1) return false;
    const seals = batch.map(({ seal }) => seal);
    const body = { kind: "add-replicas", seals } as const;
    try {
      // One loop makes all copies of a node: who stops one stops them all.
      const { value } = await this.#metadata.applyIdempotent(body, { signal: first.signal });
      if (value.kind !== "batch" || value.itemCount < seals.length) return false;
      for (const { told } of batch) told.resolve();
    } catch (error) {
      for (const { told } of batch) told.reject(asError(error));
    }
    return true;
  }

  async #tell({ seal, signal, told }: Waiting): Promise<void> {
    try {
      await this.#metadata.applyIdempotent({ kind: "add-replica", seal }, { signal });
      told.resolve();
    } catch (error) {
      told.reject(asError(error));
    }
  }
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
