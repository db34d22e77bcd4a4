/**
 * The contract of an OrderedStore, run against every implementation.
 *
 * The random part plays the same puts, deletes, flushes, snapshots and failed transactions against a plain map that is sorted
 * for every question, and asks for points and ranges in both directions after each step.
 */
import { expect } from "chai";
import { compareBytes, utf8 } from "../../src/std/bytes.ts";
import type { KeyRange, OrderedReader, OrderedStoreProvider } from "../../src/std/ordered-store.ts";
import { SeededPrng } from "../../src/std/prng.ts";

/** What the contract needs from an implementation. */
export interface OrderedStoreFixture {
  readonly provider: OrderedStoreProvider;
  /** A provider that sees what a restart of the process would see. */
  reopen(): OrderedStoreProvider;
  dispose(): Promise<void>;
}

const text = (bytes: Uint8Array | undefined): string | undefined =>
  bytes === undefined ? undefined : Buffer.from(bytes).toString("latin1");

/** Records of a range as strings. */
export function recordsOf(reader: OrderedReader, range: Partial<KeyRange> = {}): string[] {
  const whole = { from: new Uint8Array([0]), to: new Uint8Array([255, 255]), ...range };
  return [...reader.range(whole)].map(({ key, value }) => `${text(key)}=${text(value)}`);
}

/** Registers the contract's tests. */
export function describeOrderedStore(name: string, create: () => Promise<OrderedStoreFixture>): void {
  describe(`${name} as an OrderedStore`, () => {
    let fixture: OrderedStoreFixture;
    beforeEach(async () => {
      fixture = await create();
    });
    afterEach(() => fixture.dispose());

    it("shows a transaction's writes at once and in key order", async () => {
      const store = await fixture.provider.open("a");

      store.transaction((transaction) => {
        transaction.put(utf8("b"), utf8("2"));
        transaction.put(utf8("a"), utf8("1"));
        transaction.put(utf8("c"), new Uint8Array(0));
        expect(text(transaction.get(utf8("a")))).to.equal("1");
      });

      expect(recordsOf(store)).to.deep.equal(["a=1", "b=2", "c="]);
      expect(store.get(utf8("c"))?.length).to.equal(0);
      expect(store.get(utf8("d"))).to.equal(undefined);
      await store.close();
    });

    it("does nothing of a transaction that throws", async () => {
      const store = await fixture.provider.open("a");
      store.transaction((transaction) => transaction.put(utf8("kept"), utf8("1")));

      const failed = (): void =>
        store.transaction((transaction) => {
          transaction.put(utf8("lost"), utf8("1"));
          transaction.put(utf8("lost"), utf8("2"));
          transaction.put(utf8("kept"), utf8("2"));
          transaction.delete(utf8("kept"));
          throw new RangeError("stop");
        });

      expect(failed).to.throw(RangeError, "stop");
      expect(recordsOf(store)).to.deep.equal(["kept=1"]);
      await store.close();
    });

    it("orders keys as unsigned bytes, shorter first", async () => {
      const store = await fixture.provider.open("a");
      const keys = [[1], [1, 0], [1, 0, 0], [1, 127], [1, 128], [1, 255], [2], [128], [254, 255]];

      store.transaction((transaction) => {
        for (const key of keys.toReversed()) transaction.put(new Uint8Array(key), utf8("x"));
      });
      await store.flush();

      const found = [...store.range({ from: new Uint8Array([0]), to: new Uint8Array([255]) })];
      expect(found.map(({ key }) => [...key])).to.deep.equal(keys);
      await store.close();
    });

    it("bounds a range below inclusively and above exclusively in both directions", async () => {
      const store = await fixture.provider.open("a");
      store.transaction((transaction) => {
        for (const key of "abcde") transaction.put(utf8(key), utf8(key));
      });
      const bounds = { from: utf8("b"), to: utf8("d") };

      for (const flushed of [false, true]) {
        if (flushed) await store.flush();
        expect(recordsOf(store, bounds)).to.deep.equal(["b=b", "c=c"]);
        expect(recordsOf(store, { ...bounds, reverse: true })).to.deep.equal(["c=c", "b=b"]);
        expect(recordsOf(store, { ...bounds, countMax: 1, reverse: true })).to.deep.equal(["c=c"]);
        expect(recordsOf(store, { ...bounds, countMax: 0 })).to.deep.equal([]);
        expect(recordsOf(store, { from: utf8("d"), to: utf8("b") })).to.deep.equal([]);
      }
      await store.close();
    });

    it("takes keys of 1 to 1,024 bytes and values up to 1 MiB", async () => {
      const store = await fixture.provider.open("a");
      const longest = new Uint8Array(1024).fill(7);
      const largest = new Uint8Array(1024 * 1024).fill(9);

      store.transaction((transaction) => transaction.put(longest, largest));
      await store.flush();

      expect(compareBytes(store.get(longest) ?? new Uint8Array(0), largest)).to.equal(0);
      for (const sizeBytes of [0, 1025]) {
        expect(() => store.transaction((t) => t.put(new Uint8Array(sizeBytes), utf8("x")))).to.throw(
          "a key has",
        );
      }
      await store.close();
    });

    it("keeps what was flushed when the process starts again", async () => {
      const store = await fixture.provider.open("a");
      store.transaction((transaction) => transaction.put(utf8("k"), utf8("1")));
      await store.flush();
      await store.close();

      const again = await fixture.reopen().open("a");

      expect(recordsOf(again)).to.deep.equal(["k=1"]);
      await again.close();
    });

    it("shows a snapshot's state whatever is written and flushed after it", async () => {
      const store = await fixture.provider.open("a");
      store.transaction((transaction) => transaction.put(utf8("old"), utf8("1")));
      await store.flush();
      store.transaction((transaction) => transaction.put(utf8("unflushed"), utf8("1")));

      const snapshot = store.snapshot();
      store.transaction((transaction) => {
        transaction.delete(utf8("old"));
        transaction.put(utf8("unflushed"), utf8("2"));
      });
      await store.flush();

      expect(recordsOf(snapshot)).to.deep.equal(["old=1", "unflushed=1"]);
      expect(text(snapshot.get(utf8("old")))).to.equal("1");
      expect(recordsOf(store)).to.deep.equal(["unflushed=2"]);
      snapshot.close();
      await store.close();
    });

    it("lists stores by name and removes one with everything in it", async () => {
      const { provider } = fixture;
      for (const name of ["b", "a-1"]) {
        const store = await provider.open(name);
        store.transaction((transaction) => transaction.put(utf8("k"), utf8(name)));
        await store.flush();
        await store.close();
      }

      expect(await provider.list()).to.deep.equal(["a-1", "b"]);
      await provider.remove("b");
      await provider.remove("b");
      expect(await provider.list()).to.deep.equal(["a-1"]);
      const empty = await provider.open("b");
      expect(recordsOf(empty)).to.deep.equal([]);
      await empty.close();
    });

    it("answers like a sorted map under random use", async function () {
      this.timeout(20_000);
      const seed = 20_240_607;
      const prng = new SeededPrng(seed);
      const store = await fixture.provider.open("random");
      const model = new Map<string, string>();
      const randomKey = (): string =>
        String.fromCharCode(...Array.from({ length: 1 + prng.below(3) }, () => 1 + prng.below(9)));
      for (let step = 0; step < 600; step += 1) {
        const fails = prng.below(10) === 0;
        const writes = Array.from(
          { length: prng.below(40) },
          () => [randomKey(), prng.below(3), String(step)] as const,
        );
        try {
          store.transaction((transaction) => {
            for (const [key, kind, value] of writes) {
              if (kind === 0) transaction.delete(Buffer.from(key, "latin1"));
              else transaction.put(Buffer.from(key, "latin1"), utf8(value));
            }
            if (fails) throw new Error("planned");
          });
          for (const [key, kind, value] of writes) {
            if (kind === 0) model.delete(key);
            else model.set(key, value);
          }
        } catch (error) {
          expect((error as Error).message).to.equal("planned");
        }
        const flushing = prng.below(8) === 0 ? store.flush() : undefined;
        const [from, to] = [randomKey(), randomKey()].sort() as [string, string];
        const countMax = prng.below(2) === 0 ? prng.below(20) : Number.MAX_SAFE_INTEGER;
        const expected = [...model]
          .filter(([key]) => key >= from && key < to)
          .sort(([a], [b]) => (a < b ? -1 : 1));
        for (const reverse of [false, true]) {
          const found = recordsOf(store, {
            from: Buffer.from(from, "latin1"),
            to: Buffer.from(to, "latin1"),
            reverse,
            countMax,
          });
          const wanted = (reverse ? expected.toReversed() : expected)
            .slice(0, countMax)
            .map(([k, v]) => `${k}=${v}`);
          expect(found, `seed=${seed} step=${step}`).to.deep.equal(wanted);
        }
        if (prng.below(2) === 0) await flushing;
      }
      await store.flush();
      await store.close();
    });
  });
}
