/** Goal: a signal that bounded work shares is no leak to Node, and one listener more still is. */
import { expect } from "chai";
import { allowListeners } from "../../../src/std/shared-signal.ts";

/** The warnings that `listenerCount` listeners on a signal bring, for which `countsMax` were allowed one after the other. */
async function warningsOf(listenerCount: number, countsMax: readonly number[]): Promise<readonly string[]> {
  const { signal } = new AbortController();
  const warnings: string[] = [];
  const onWarning = ({ name }: Error): void => void warnings.push(name);
  const printers = process.listeners("warning");
  process.removeAllListeners("warning");
  process.on("warning", onWarning);
  try {
    for (const countMax of countsMax) allowListeners(signal, countMax);
    for (let i = 0; i < listenerCount; i += 1) signal.addEventListener("abort", () => undefined);
    // Warnings are emitted on the next tick.
    await new Promise((resolve) => setImmediate(resolve));
  } finally {
    process.off("warning", onWarning);
    for (const printer of printers) process.on("warning", printer);
  }
  return warnings;
}

describe("allowListeners()", () => {
  it("lets as many wait as are allowed without a warning", async () => {
    expect(await warningsOf(40, [40])).to.deep.equal([]);
  });

  it("leaves the warning of one more", async () => {
    expect(await warningsOf(41, [40])).to.deep.equal(["MaxListenersExceededWarning"]);
  });

  it("never lowers what was allowed", async () => {
    expect(await warningsOf(40, [40, 20])).to.deep.equal([]);
  });
});
