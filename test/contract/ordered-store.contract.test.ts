/** Runs the contract of ordered stores against memory and LMDB, and what each promises beyond it. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { utf8 } from "../../src/std/bytes.ts";
import { SystemClock, type Clock } from "../../src/std/clock.ts";
import { deferred } from "../../src/std/deferred.ts";
import { LmdbOrderedStoreProvider, LmdbOrderedStore } from "../../src/std/lmdb-ordered-store.ts";
import { MemoryOrderedStoreProvider } from "../../src/std/memory-ordered-store.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { describeOrderedStore, recordsOf } from "./ordered-store.contract.ts";

describeOrderedStore("MemoryOrderedStore", () => {
  const provider = new MemoryOrderedStoreProvider();
  return Promise.resolve({ provider, reopen: () => provider, dispose: () => Promise.resolve() });
});

describeOrderedStore("LmdbOrderedStore", async () => {
  const directory = await mkdtemp(join(tmpdir(), "ordered-store-"));
  const make = (): LmdbOrderedStoreProvider =>
    new LmdbOrderedStoreProvider({ directory, clock: new SystemClock() });
  return { provider: make(), reopen: make, dispose: () => rm(directory, { recursive: true, force: true }) };
});

describe("MemoryOrderedStore after a crash", () => {
  const put = (name: string) => (transaction: { put(key: Uint8Array, value: Uint8Array): void }) => {
    transaction.put(utf8(name), utf8("1"));
    transaction.put(utf8(`${name}-twin`), utf8("1"));
  };

  it("falls back to a transaction boundary at or after the last flush, and to each of them under some seed", async () => {
    const outcomes = new Set<string>();
    for (let seed = 0; seed < 40; seed += 1) {
      const provider = new MemoryOrderedStoreProvider();
      const store = await provider.open("s");
      store.transaction(put("a"));
      await store.flush();
      store.transaction(put("b"));
      store.transaction(put("c"));

      provider.crash(new SeededPrng(seed));

      expect(() => store.get(utf8("a"))).to.throw("crashed");
      outcomes.add(recordsOf(await provider.open("s")).join(" "));
    }

    expect([...outcomes].sort()).to.deep.equal([
      "a=1 a-twin=1",
      "a=1 a-twin=1 b=1 b-twin=1",
      "a=1 a-twin=1 b=1 b-twin=1 c=1 c-twin=1",
    ]);
  });

  it("does not count a flush that was still under way, and never settles it", async () => {
    const gate = deferred<void>();
    const provider = new MemoryOrderedStoreProvider({ beforeFlush: () => gate.promise });
    const store = await provider.open("s");
    store.transaction(put("a"));
    let settled = false;
    void store.flush().finally(() => {
      settled = true;
    });
    const alwaysZero = Object.assign(new SeededPrng(1), { below: () => 0 });

    provider.crash(alwaysZero);
    gate.resolve();
    await Promise.resolve();

    expect(settled).to.equal(false);
    expect(recordsOf(await provider.open("s"))).to.deep.equal([]);
  });

  it("stays bounded when it is never flushed, and keeps its newest state", async () => {
    const provider = new MemoryOrderedStoreProvider();
    const store = await provider.open("s");
    for (let i = 0; i < 5000; i += 1) store.transaction((t) => t.put(utf8(String(i)), utf8("1")));
    await store.close();

    expect(recordsOf(await provider.open("s")).length).to.equal(5000);
  });
});

describe("LmdbOrderedStore when the disk does not answer", () => {
  it("rejects the flush after the watchdog's time and refuses every later call", async () => {
    let expire: (() => void) | undefined;
    const clock: Clock = {
      monotonicMs: () => 0,
      wallMs: () => 0,
      setTimer: (_, callback) => {
        expire = callback;
        return { cancel: () => undefined };
      },
    };
    const stuck = { batch: () => new Promise<boolean>(() => undefined), get: () => undefined };
    const store = new LmdbOrderedStore(stuck as never, "none", { clock, flushTimeoutMs: 10_000 });
    store.transaction((transaction) => transaction.put(utf8("a"), utf8("1")));

    const flushed = store.flush();
    expire?.();

    const error = await flushed.then(
      () => undefined,
      (reason: Error) => reason,
    );
    expect(error?.message).to.contain("must end");
    expect(() => store.get(utf8("a"))).to.throw("must end");
    await store.close();
  });
});
