/** Goal: what a command wants to write is found by key whether the records are few or many, and goes on as it was written. */
import { expect } from "chai";
import { LINEAR_COUNT_MAX, Overlay } from "../../../src/metadata/overlay.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { REMOVED } from "../../../src/std/layers.ts";
import type { OrderedTransaction } from "../../../src/std/ordered-store.ts";

const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString("utf8");

function written(overlay: Overlay): string[] {
  const calls: string[] = [];
  const transaction: OrderedTransaction = {
    get: () => undefined,
    range: () => [],
    put: (key, value) => calls.push(`put ${text(key)}=${text(value)}`),
    insert: (key, value) => calls.push(`insert ${text(key)}=${text(value)}`),
    delete: (key) => calls.push(`delete ${text(key)}`),
  };
  overlay.writeTo(transaction);
  return calls;
}

describe("Overlay", () => {
  it("keeps the last value of a key, removals included, in the order of first writes", () => {
    const overlay = new Overlay();
    overlay.set(utf8("b"), utf8("1"), false);
    overlay.set(utf8("a"), utf8("1"), true);
    overlay.set(utf8("c"), utf8("1"), false);
    overlay.set(utf8("b"), utf8("2"), false);
    overlay.set(utf8("a"), utf8("2"), false);
    overlay.set(utf8("c"), REMOVED, false);

    expect(written(overlay)).to.deep.equal(["put b=2", "insert a=2", "delete c"]);
    expect(overlay.get(utf8("c"))).to.equal(REMOVED);
    expect(overlay.get(utf8("d"))).to.equal(undefined);
    expect(overlay.size).to.equal(3);
  });

  for (const count of [LINEAR_COUNT_MAX, LINEAR_COUNT_MAX + 1, 10 * LINEAR_COUNT_MAX]) {
    it(`finds, replaces and scans ${count} records`, () => {
      const overlay = new Overlay();
      const key = (i: number): Uint8Array => utf8(`k${String((i * 7) % count).padStart(4, "0")}`);
      for (let i = 0; i < count; i += 1) overlay.set(key(i), utf8(`${i}`), i % 2 === 0);
      overlay.set(key(3), utf8("new"), false);

      expect(overlay.size).to.equal(count);
      expect(text(overlay.get(key(3)) as Uint8Array)).to.equal("new");
      expect(text(overlay.get(key(count - 1)) as Uint8Array)).to.equal(`${count - 1}`);
      const forward = [...overlay.range(utf8("k0002"), utf8("k0005"), false)].map(([found]) => text(found));
      expect(forward).to.deep.equal(["k0002", "k0003", "k0004"]);
      const backward = [...overlay.range(utf8("k0002"), utf8("k0005"), true)].map(([found]) => text(found));
      expect(backward).to.deep.equal(forward.toReversed());
      expect(written(overlay)).to.have.length(count);
    });
  }
});
