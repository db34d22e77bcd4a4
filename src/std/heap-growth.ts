/**
 * How far the heap may grow between two collections of all of it.
 *
 * A node that moves files allocates buffers by the hundred megabytes a second beside a small heap of objects. V8 counts the
 * buffers that survived two young collections against the limit of the old generation, which it sets to less than twice the
 * little that was alive after the last collection: so it marks the whole heap again for every 10 MiB of an upload, up to a
 * quarter of all CPU time (measured with Node 20, V8 11.3). With a fixed factor the next collection comes when the old
 * generation, buffers included, is 2.25 times what was alive; young buffers are freed by young collections as before. Three times
 * was tried: three uploads of 1 GiB took 58.8 s of processor of three nodes, and 58.4 s with 2.5 times, so it wins nothing; but it
 * lets garbage take as much memory again as what is alive, and a node that took small files went beyond 300 MB.
 */
import { setFlagsFromString } from "node:v8";

/** Growth in per cent of what was alive: 40 MiB alive makes a limit of 90 MiB. */
export const HEAP_GROWTH_PERCENT = 125;

/** Sets the factor for this process. An engine that does not know the flag says so on stderr and keeps its own limit. */
export function setHeapGrowth(): void {
  setFlagsFromString(`--heap-growing-percent=${HEAP_GROWTH_PERCENT}`);
}
