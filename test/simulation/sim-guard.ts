/**
 * Makes a simulated run fail when it touches the real world: clocks and chance throw, and any real asynchronous resource (a
 * timer, a file, a socket, the thread pool) is recorded by async_hooks and fails the run at its end.
 */
import { createHook, type AsyncHook } from "node:async_hooks";

/** Resources that a pure promise program may make. */
const HARMLESS = new Set([
  "PROMISE",
  "Immediate",
  "TickObject",
  "Microtask",
  "SIGNALWRAP",
  "FINALIZATIONREGISTRY",
]);

/** The loader of TypeScript files tidies its cache beside the run. */
const LOADER = "/node_modules/tsx/";

/** Watches the process during one simulated run. */
export class SimGuard {
  readonly #hook: AsyncHook;
  readonly #found = new Map<string, string>();
  readonly #originals = {
    dateNow: Date.now,
    random: Math.random,
    performanceNow: performance.now.bind(performance),
  };

  constructor() {
    this.#hook = createHook({
      init: (_id, type) => {
        if (HARMLESS.has(type) || this.#found.has(type)) return;
        const stack = new Error(type).stack ?? type;
        if (!stack.includes(LOADER)) this.#found.set(type, stack);
      },
    });
  }

  /** Starts to watch. */
  enable(): void {
    const refuse = (what: string) => (): never => {
      throw new Error(`the simulated node read the real ${what}`);
    };
    Date.now = refuse("clock (Date.now)");
    Math.random = refuse("chance (Math.random)");
    performance.now = refuse("clock (performance.now)");
    this.#hook.enable();
  }

  /** Stops to watch; throws when something real was touched. */
  disable(): void {
    this.#hook.disable();
    Date.now = this.#originals.dateNow;
    Math.random = this.#originals.random;
    performance.now = this.#originals.performanceNow;
    if (this.#found.size > 0) {
      throw new Error(
        `the simulation touched the real world: ${[...this.#found.entries()].map(([type, stack]) => `${type}\n${stack}`).join("\n")}`,
      );
    }
  }
}
