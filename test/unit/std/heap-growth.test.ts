/** Goal: buffers that live through young collections do not make the engine mark the whole heap over and over. */
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect } from "chai";

const MODULE = fileURLToPath(new URL("../../../src/std/heap-growth.ts", import.meta.url));

/** Full collections while 4,000 buffers of 1 MiB pass through a queue of 24, beside some 30 MiB of objects. */
function countFullCollections(prepare: string): number {
  const script = `
    ${prepare}
    globalThis.objects = Array.from({ length: 300_000 }, (_, i) => ({ i, text: "entry " + i }));
    const queue = [];
    for (let at = 0; at < 4000; at += 1) {
      queue.push(Buffer.allocUnsafe(1 << 20).fill(at & 255));
      if (queue.length > 24) queue.shift();
      if (at % 4 === 0) await new Promise((resolve) => setImmediate(resolve));
    }`;
  const flags = ["--trace-gc", "--import", "tsx", "--input-type=module", "-e", script];
  return execFileSync(process.execPath, flags).toString().split("Mark-Compact").length - 1;
}

/** The engine's own limit depends on how fast the machine is just now; this is the least that it comes to. */
const LEAST_GROWTH = `(await import("node:v8")).setFlagsFromString("--heap-growing-percent=20");`;

describe("setHeapGrowth()", () => {
  it("lets buffers come and go with a fraction of the full collections of an engine that grows little", function () {
    this.timeout(60_000);

    const withLittle = countFullCollections(LEAST_GROWTH);
    const withIt = countFullCollections(`(await import(${JSON.stringify(MODULE)})).setHeapGrowth();`);

    expect(withLittle).to.be.greaterThan(12);
    expect(withIt).to.be.lessThan(withLittle * 0.8);
  });
});
