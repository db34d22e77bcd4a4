/**
 * Follows the change feed: what is kept after an index, then what comes, in order and without gaps (reliability: C8).
 *
 * Reads the local store after each applied batch; a slow watcher holds no memory here, it reads on from its own index. One
 * that lags beyond what the feed keeps is told RANGE_NOT_SATISFIABLE and starts over.
 */
import { canceledError, throwIfCanceled } from "../cluster/deadline.ts";
import type { MetadataPort } from "../cluster/metadata-port.ts";
import type { Change } from "../drive/change.ts";
import { changesAfter } from "../metadata/view.ts";
import { deferred } from "../std/deferred.ts";

/** Changes handed out at once. */
export const CHANGE_BATCH_COUNT = 1000;

/** Batches of changes after the command at `afterIndex`, for ever. @throws DriveError RANGE_NOT_SATISFIABLE, CANCELED */
export async function* watchChanges(
  port: MetadataPort,
  afterIndex: number,
  signal?: AbortSignal,
): AsyncGenerator<readonly Change[], void, undefined> {
  let next = afterIndex;
  let applied = deferred<void>();
  const end = port.onApplied(() => applied.resolve());
  const onAbort = (): void => {
    if (signal !== undefined) applied.reject(canceledError(signal));
  };
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    for (;;) {
      throwIfCanceled(signal);
      applied = deferred<void>();
      const changes = changesAfter(port.reader(), next, CHANGE_BATCH_COUNT);
      const last = changes.at(-1);
      if (last === undefined) {
        await applied.promise;
        continue;
      }
      next = last.index;
      yield changes;
    }
  } finally {
    signal?.removeEventListener("abort", onAbort);
    end();
  }
}
