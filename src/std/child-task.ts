/** Work done once by a process of its own: it neither holds up this one nor leaves memory behind, and may end as it likes. */
import { fork } from "node:child_process";
import { setPriority } from "node:os";
import { fileURLToPath } from "node:url";
import { errnoOf } from "./disk.ts";

/** The message that says that work goes on, and nothing else. */
const PROGRESS = "progress";

/** How a child is run. */
export interface ChildOptions {
  /** An abort ends it, and rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** Hears each tellProgress() of the child. */
  readonly onProgress?: (() => void) | undefined;
  /** How much it leaves the machine to others, from 0 (as its parent) to 19. */
  readonly niceness?: number | undefined;
}

/** In the child: says that work goes on. */
export function tellProgress(): void {
  process.send?.(PROGRESS);
}

/**
 * Starts a module as a process, sends it one message and resolves to the one that it sends back; to a text that says how it ended
 * when it sent none.
 * @param url of the module, as the compiled program and the sources name it: with the extension of the caller's own file
 */
export async function askChild<Answer>(
  url: URL,
  message: object,
  { signal, onProgress, niceness }: ChildOptions = {},
): Promise<Answer | string> {
  signal?.throwIfAborted();
  const child = fork(fileURLToPath(url), {
    stdio: ["ignore", "ignore", "ignore", "ipc"],
    serialization: "advanced",
  });
  if (niceness !== undefined && child.pid !== undefined) beNice(child.pid, niceness);
  const onAbort = (): void => void child.kill("SIGKILL");
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    return await new Promise<Answer | string>((resolve, reject) => {
      let answer: Answer | undefined;
      child.on("message", (received) => {
        if (received === PROGRESS) onProgress?.();
        else answer = received as unknown as Answer;
      });
      child.once("error", reject);
      child.once("exit", (code, killer) => {
        if (signal?.aborted === true) reject(signal.reason as Error);
        else resolve(answer ?? `the process ended without an answer (${killer ?? `code ${String(code)}`})`);
      });
      child.send(message);
    });
  } finally {
    signal?.removeEventListener("abort", onAbort);
  }
}

function beNice(pid: number, niceness: number): void {
  try {
    setPriority(pid, niceness);
  } catch (error) {
    // It has ended already, which its end tells; or this machine does not let us, and then it is not done.
    if (errnoOf(error) === undefined) throw error;
  }
}

/** The module `name` (without extension) beside the module of `importMetaUrl`. */
export function siblingModule(importMetaUrl: string, name: string): URL {
  return new URL(`./${name}.${importMetaUrl.endsWith(".ts") ? "ts" : "js"}`, importMetaUrl);
}
