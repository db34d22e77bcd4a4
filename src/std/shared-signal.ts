/**
 * Signals that many pieces of work wait on at once.
 *
 * Node takes more than ten listeners for a leak and says so on stderr. Here each piece of work takes its listener away when it
 * ends, so what a signal carries is bounded by the work in flight: whoever lets work run side by side states that bound, and
 * the warning keeps its meaning beyond it.
 */
import { getMaxListeners, setMaxListeners } from "node:events";

/** Lets up to `countMax` listeners wait on `signal` without a warning. Never lowers what was allowed before (0: any number). */
export function allowListeners(signal: AbortSignal, countMax: number): void {
  const allowed = getMaxListeners(signal);
  if (allowed !== 0 && allowed < countMax) setMaxListeners(countMax, signal);
}

/**
 * Listeners on the signal of one request of a client: a one-shot upload has 16 chunks on their way, and one that completes
 * seals four extents on three targets with four holes filled in each, at two steps apiece.
 */
export const CALL_LISTENER_COUNT_MAX = 128;
