/**
 * What the environment of a node's process holds beside its settings: it is read before the program runs, by libuv and by the C
 * library, so the program can only say it to whoever starts it.
 */

/** Threads for the files and databases of a node: fsync blocks a thread, and Node's four would be a queue. */
export const THREAD_POOL_SIZE = 16;

/** What a node's environment should hold beside its settings. */
export const NODE_ENVIRONMENT = { UV_THREADPOOL_SIZE: String(THREAD_POOL_SIZE) } as const;

/**
 * What keeps glibc from holding on to memory that a node gave back; other C libraries know none of it. One arena for all threads
 * instead of one for each of them, and blocks of 128 KiB and more apart, given back at once, where glibc by itself comes to put
 * blocks of up to 32 MiB among the small ones (mallopt(3); measured: bench/RESULTS.md, "Very many small files").
 */
export const ALLOCATOR_ENVIRONMENT = {
  MALLOC_ARENA_MAX: "1",
  MALLOC_MMAP_THRESHOLD_: "131072",
  MALLOC_TRIM_THRESHOLD_: "131072",
} as const;

/** `command`, which starts a node, as it is typed into a shell: with the node's environment in front. Windows has no word for that. */
export function shellCommand(command: string, platform: string = process.platform): string {
  if (platform === "win32") return command;
  const names = Object.entries(NODE_ENVIRONMENT).map(([name, value]) => `${name}=${value}`);
  return [...names, command].join(" ");
}
