/** Work done once by a process of its own: it neither holds up this one nor leaves memory behind, and may end as it likes. */
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";

/**
 * Starts a module as a process, sends it one message and resolves to the one that it sends back; to a text that says how it ended
 * when it sent none. An abort ends it, and rejects with the signal's reason.
 * @param url of the module, as the compiled program and the sources name it: with the extension of the caller's own file
 */
export async function askChild<Answer>(
  url: URL,
  message: object,
  signal?: AbortSignal,
): Promise<Answer | string> {
  signal?.throwIfAborted();
  const child = fork(fileURLToPath(url), {
    stdio: ["ignore", "ignore", "ignore", "ipc"],
    serialization: "advanced",
  });
  const onAbort = (): void => void child.kill("SIGKILL");
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    return await new Promise<Answer | string>((resolve, reject) => {
      let answer: Answer | undefined;
      child.once("message", (received) => {
        answer = received as unknown as Answer;
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

/** The module `name` (without extension) beside the module of `importMetaUrl`. */
export function siblingModule(importMetaUrl: string, name: string): URL {
  return new URL(`./${name}.${importMetaUrl.endsWith(".ts") ? "ts" : "js"}`, importMetaUrl);
}
