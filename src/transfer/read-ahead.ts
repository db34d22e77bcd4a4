/** Work on many things side by side whose results are wanted in order. */
import { sharedAbortController } from "../cluster/deadline.ts";
import { DriveError } from "../drive/errors.ts";

/**
 * The results of `start` for each item, in the order of the items; at most `countMax` run at a time. Ending the iteration early,
 * or a failure, aborts those under way and waits for them.
 */
export async function* readAhead<Item, Result>(
  items: AsyncIterable<Item>,
  settings: { readonly countMax: number; readonly signal?: AbortSignal | undefined },
  start: (item: Item, signal: AbortSignal) => Promise<Result>,
): AsyncGenerator<Result, void, undefined> {
  const { countMax, signal } = settings;
  const ended = sharedAbortController();
  const onAbort = (): void => ended.abort(signal?.reason);
  if (signal?.aborted === true) onAbort();
  signal?.addEventListener("abort", onAbort, { once: true });
  const underWay: Promise<Result>[] = [];
  try {
    for await (const item of items) {
      const result = start(item, ended.signal);
      // Whoever awaits it hears of its failure; until then nobody may take it for an unhandled one.
      result.catch(() => undefined);
      underWay.push(result);
      const first = underWay.length < countMax ? undefined : underWay.shift();
      if (first !== undefined) yield await first;
    }
    for (let first = underWay.shift(); first !== undefined; first = underWay.shift()) yield await first;
  } finally {
    signal?.removeEventListener("abort", onAbort);
    ended.abort(new DriveError("CANCELED", "The reader has gone."));
    await Promise.allSettled(underWay);
  }
}
