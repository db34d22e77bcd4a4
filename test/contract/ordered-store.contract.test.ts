/** Runs the contract of ordered stores against memory and LMDB, and what each promises beyond it. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { expect } from "chai";
import { open } from "lmdb";
import { must } from "../../src/std/assert.ts";
import { utf8 } from "../../src/std/bytes.ts";
import { SystemClock, type Clock } from "../../src/std/clock.ts";
import { deferred } from "../../src/std/deferred.ts";
import { isNoSpace } from "../../src/std/disk.ts";
import { LMDB_OPEN_OPTIONS } from "../../src/std/lmdb-options.ts";
import { LmdbOrderedStoreProvider, LmdbOrderedStore } from "../../src/std/lmdb-ordered-store.ts";
import { MemoryOrderedStoreProvider } from "../../src/std/memory-ordered-store.ts";
import { StoreFullError, type OrderedStore } from "../../src/std/ordered-store.ts";
import {
  LAYER_COUNT_MAX,
  LAYER_RECORD_COUNT,
  PENDING_RECORD_COUNT_MAX,
} from "../../src/std/pending-layers.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { eventually } from "../support/eventually.ts";
import { limitFileSize } from "../support/file-size-limit.ts";
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

const roomy = { ensure: () => Promise.resolve(), close: () => Promise.resolve() };

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
    const store = new LmdbOrderedStore(stuck as never, "none", roomy, { clock, flushTimeoutMs: 10_000 });
    store.transaction((transaction) => transaction.put(utf8("a"), utf8("1")));

    const flushed = store.flush();
    for (let microtasks = 0; expire === undefined && microtasks < 20; microtasks += 1)
      await Promise.resolve();
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

describe("LmdbOrderedStore.flush()", () => {
  /** Watchdogs of a flush that finds room: two reads, a size, a write, and LMDB's commit. */
  const STEPS = 5;

  it("makes durable what was put before it, also when it is called while another flush is ending", async () => {
    const directory = await mkdtemp(join(tmpdir(), "flush-end-"));
    let atEnd: (() => void) | undefined;
    let cancelsBefore = 0;
    const system = new SystemClock();
    const clock: Clock = {
      monotonicMs: () => system.monotonicMs(),
      wallMs: () => system.wallMs(),
      // The watchdog of a flush is cancelled after each step, the last one a few microtasks before the flush has ended.
      setTimer: (delayMs, callback) => {
        const timer = system.setTimer(delayMs, callback);
        return {
          cancel: () => {
            timer.cancel();
            if (cancelsBefore === 0) atEnd?.();
            else cancelsBefore -= 1;
          },
        };
      },
    };
    const provider = new LmdbOrderedStoreProvider({ directory, clock });
    const put = (store: OrderedStore, key: string): void =>
      store.transaction((transaction) => transaction.put(utf8(key), utf8("1")));
    const isDurable: boolean[] = [];

    for (let round = 0; round < STEPS * 8; round += 1) {
      const microtasks = round % 8;
      const store = await provider.open("s");
      const second = deferred<void>();
      const putAndFlush = async (): Promise<void> => {
        for (let at = 0; at < microtasks; at += 1) await Promise.resolve();
        put(store, `second ${round}`);
        await store.flush();
      };
      atEnd = () => {
        atEnd = undefined;
        putAndFlush().then(
          () => second.resolve(),
          (error: Error) => second.reject(error),
        );
      };
      cancelsBefore = Math.floor(round / 8);
      put(store, `first ${round}`);
      await store.flush();
      await second.promise;
      // The file has what was flushed, and closing adds nothing to it.
      await store.close();
      const reopened = await provider.open("s");
      isDurable.push(reopened.get(utf8(`second ${round}`)) !== undefined);
      await reopened.close();
    }
    await rm(directory, { recursive: true, force: true });

    expect(isDurable).to.deep.equal(Array.from({ length: STEPS * 8 }, () => true));
  });

  it("is over before the store closes, also one that began while close() waited; what comes later is refused", async () => {
    const directory = await mkdtemp(join(tmpdir(), "flush-close-"));
    const provider = new LmdbOrderedStoreProvider({ directory, clock: new SystemClock() });
    const store = await provider.open("s");
    const put = (key: string): void =>
      store.transaction((transaction) => transaction.put(utf8(key), utf8("1")));
    put("a");
    const first = store.flush();
    put("b");
    const second = store.flush();
    const third = second.then(() => {
      put("c");
      return store.flush();
    });
    const told = Promise.allSettled([first, second, third]);

    await Promise.all([store.close(), store.close()]);
    const kinds = (await told).map(({ status }) => status);
    const reopened = await provider.open("s");
    const held = ["a", "b", "c"].filter((key) => reopened.get(utf8(key)) !== undefined);
    await reopened.close();
    await rm(directory, { recursive: true, force: true });

    expect(kinds.slice(0, 2)).to.deep.equal(["fulfilled", "fulfilled"]);
    expect(held).to.deep.equal(kinds[2] === "fulfilled" ? ["a", "b", "c"] : ["a", "b"]);
  });
});

describe("LmdbOrderedStore with more than one layer to write", function () {
  this.timeout(60_000);

  /** Stands in for LMDB: batches end when the test says so. */
  function slowDatabase(): {
    readonly database: unknown;
    readonly batches: number[];
    readonly endBatch: () => void;
  } {
    const batches: number[] = [];
    let end: (() => void) | undefined;
    const database = {
      batch: (work: () => void) => {
        batches.push(0);
        work();
        return new Promise<boolean>((resolve) => {
          end = () => resolve(true);
        });
      },
      put: () => {
        batches[batches.length - 1] = must(batches.at(-1), "a batch") + 1;
        return Promise.resolve(true);
      },
      get: () => undefined,
      resetReadTxn: () => undefined,
      close: () => Promise.resolve(),
    };
    return { database, batches, endBatch: () => end?.() };
  }

  /** Puts records, 16 a transaction. */
  function put(store: OrderedStore, from: number, to: number): void {
    for (let at = from; at < to; at += 16) {
      store.transaction((transaction) => {
        for (let key = at; key < Math.min(at + 16, to); key += 1)
          transaction.put(utf8(`key ${String(key).padStart(7, "0")}`), utf8("1"));
      });
    }
  }

  it("hands LMDB one layer at a time, none larger than a transaction above its bound, until the disk falls behind", async () => {
    const { database, batches, endBatch } = slowDatabase();
    const store = new LmdbOrderedStore(database as never, "none", roomy, { clock: new SystemClock() });
    const counts = async (count: number): Promise<void> => {
      await eventually(`${count} batches`, () => Promise.resolve(batches.length === count), {
        withinMs: 10_000,
      });
    };
    put(store, 0, LAYER_RECORD_COUNT - 1);
    await new Promise((resolve) => setImmediate(resolve));
    expect(batches).to.deep.equal([]);
    put(store, LAYER_RECORD_COUNT - 1, LAYER_COUNT_MAX * LAYER_RECORD_COUNT + 48);
    await counts(1);
    const flushed = store.flush();
    for (let count = 1; count <= LAYER_COUNT_MAX; count += 1) {
      await counts(count);
      endBatch();
    }
    await counts(LAYER_COUNT_MAX + 1);
    // The disk was behind by as many layers as may wait, so the last one is what gathered since.
    put(store, 10 * LAYER_RECORD_COUNT, 11 * LAYER_RECORD_COUNT);
    endBatch();
    await flushed;
    await counts(LAYER_COUNT_MAX + 2);
    endBatch();
    await store.flush();

    const full = Array.from({ length: LAYER_COUNT_MAX }, () => LAYER_RECORD_COUNT);
    expect(batches).to.deep.equal([
      ...full.map((count, at) => count + (at === 0 ? 15 : 0)),
      33,
      LAYER_RECORD_COUNT,
    ]);
  });

  it("reads, flushes and reopens as a sorted map when thousands of records are written at once", async () => {
    const seed = 7;
    const prng = new SeededPrng(seed);
    const directory = await mkdtemp(join(tmpdir(), "layers-"));
    const provider = new LmdbOrderedStoreProvider({ directory, clock: new SystemClock() });
    let store = await provider.open("s");
    const model = new Map<string, string>();
    const everything = (): string[] =>
      [...model].sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, value]) => `${key}=${value}`);
    try {
      for (let round = 0; round < 12; round += 1) {
        const flushing: Promise<void>[] = [];
        for (let step = 0; step < 600; step += 1) {
          store.transaction((transaction) => {
            for (let count = prng.below(64); count > 0; count -= 1) {
              const key = `key ${String(prng.below(30_000)).padStart(5, "0")}`;
              if (prng.below(3) === 0) {
                transaction.delete(utf8(key));
                model.delete(key);
              } else {
                transaction.put(utf8(key), utf8(`${round}.${step}`));
                model.set(key, `${round}.${step}`);
              }
            }
          });
          if (prng.below(100) === 0) flushing.push(store.flush());
          if (prng.below(50) === 0) await new Promise((resolve) => setImmediate(resolve));
        }
        const expected = everything();
        const snapshot = store.snapshot();
        expect(recordsOf(store), `seed=${seed} round=${round}`).to.deep.equal(expected);
        await Promise.all(flushing);
        expect(recordsOf(store), `seed=${seed} round=${round}`).to.deep.equal(expected);
        expect(recordsOf(snapshot), `seed=${seed} round=${round}`).to.deep.equal(expected);
        snapshot.close();
        if (round % 4 !== 3) continue;
        await store.flush();
        await store.close();
        store = await provider.open("s");
        expect(recordsOf(store), `seed=${seed} round=${round}`).to.deep.equal(expected);
      }
    } finally {
      await store.close();
      await rm(directory, { recursive: true, force: true });
    }
  });
});

describe("LmdbOrderedStore on a full disk", function () {
  this.timeout(60_000);
  const MIB = 1024 * 1024;
  // Far more than what else this process writes into one file.
  const LIMIT_BYTES = 32 * MIB;
  let directory: string;
  let store: OrderedStore;

  // The limit is no matter of the file system, so its figure is a test's: by it a write that was cut short is known.
  const provider = (): LmdbOrderedStoreProvider =>
    new LmdbOrderedStoreProvider({
      directory,
      clock: new SystemClock(),
      freeBytes: () => Promise.resolve(0),
    });

  function putMebibytes(from: number, to: number): void {
    for (let at = from; at < to; at += 1) {
      const value = new Uint8Array(MIB).fill(at);
      store.transaction((transaction) => transaction.put(utf8(`key ${String(at).padStart(4, "0")}`), value));
    }
  }

  /** What is stored, a digit a record: each value is of one byte that its key names. */
  function readBack(): number[] {
    return [...store.range({ from: utf8("a"), to: utf8("z") })].map(({ value }) => {
      expect(value.every((byte) => byte === value[0])).to.equal(true);
      return value[0] ?? -1;
    });
  }

  async function flushError(): Promise<unknown> {
    return store.flush().then(
      () => undefined,
      (error: unknown) => error,
    );
  }

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "full-store-"));
    store = await provider().open("s");
    putMebibytes(0, 4);
    await store.flush();
    limitFileSize(process.pid, LIMIT_BYTES);
  });

  afterEach(async () => {
    limitFileSize(process.pid, undefined);
    await store.close();
    await rm(directory, { recursive: true, force: true });
  });

  it("rejects the flush, serves everything, and makes all of it durable once there is space", async () => {
    putMebibytes(4, 40);
    const first = await flushError();
    putMebibytes(40, 42);
    const second = await flushError();
    const served = readBack();

    limitFileSize(process.pid, undefined);
    putMebibytes(42, 43);
    await store.flush();
    await store.close();
    store = await provider().open("s");

    expect(first).to.be.instanceOf(StoreFullError);
    expect(isNoSpace(second), String(second)).to.equal(true);
    expect(served).to.deep.equal(Array.from({ length: 42 }, (_, at) => at));
    expect(readBack()).to.deep.equal(Array.from({ length: 43 }, (_, at) => at));
  });

  it("holds the last flush and nothing of what failed when it is opened again", async () => {
    putMebibytes(4, 40);
    expect(await flushError()).to.be.instanceOf(StoreFullError);
    const frozen = must(store.frozenFile?.(), "a store in a file");
    const inFile = [...frozen.reader.range({ from: utf8("a"), to: utf8("z") })].length;
    frozen.close();
    await store.close();
    limitFileSize(process.pid, undefined);
    const condition = await provider().check("s");
    store = await provider().open("s");

    expect(["verified", "readable"]).to.include(condition.kind);
    // A flush that began by itself while there was still space may have taken some of it, always from the front.
    const held = readBack();
    expect(held.length).to.equal(inFile);
    expect(held.length).to.be.within(4, 31);
    expect(held).to.deep.equal(held.map((_, at) => at));
  });

  it("refuses more once far too much waits in memory, and takes it by itself when there is space", async () => {
    putMebibytes(4, 40);
    expect(await flushError()).to.be.instanceOf(StoreFullError);
    const refused = (): unknown => {
      try {
        putMebibytes(100, 101);
      } catch (error) {
        return error;
      }
      return undefined;
    };
    let waiting = 0;
    while (refused() === undefined) waiting += 1;
    expect(waiting).to.be.within(64, 256);
    expect(refused()).to.be.instanceOf(StoreFullError);

    limitFileSize(process.pid, undefined);
    await eventually("the store takes transactions again", () => Promise.resolve(refused() === undefined), {
      withinMs: 20_000,
    });
    await store.flush();

    expect(readBack()).to.deep.equal([...Array.from({ length: 40 }, (_, at) => at), 100]);
  });

  it("goes on by itself when all that waits is in layers and nobody asks for a flush", async () => {
    const system = new SystemClock();
    let laterMs = 0;
    const clock: Clock = {
      monotonicMs: () => system.monotonicMs() + laterMs,
      wallMs: () => system.wallMs(),
      setTimer: (delayMs, callback) => system.setTimer(delayMs, callback),
    };
    let isFull = true;
    let refusals = 0;
    const headroom = {
      ensure: () => {
        if (!isFull) return Promise.resolve();
        refusals += 1;
        return Promise.reject(Object.assign(new Error("no space"), { code: "ENOSPC" }));
      },
      close: () => Promise.resolve(),
    };
    const path = join(directory, "waiting");
    const filled = new LmdbOrderedStore(open({ ...LMDB_OPEN_OPTIONS, path }), path, headroom, { clock });
    const put = (from: number, count: number): boolean => {
      try {
        filled.transaction((transaction) => {
          for (let at = from; at < from + count; at += 1) transaction.put(utf8(`key ${at}`), utf8("1"));
        });
        return true;
      } catch {
        return false;
      }
    };
    const refused = async (count: number): Promise<void> => {
      await eventually(`${count} writes were refused`, () => refusals === count, { withinMs: 10_000 });
    };
    expect(put(0, LAYER_RECORD_COUNT)).to.equal(true);
    await refused(1);
    laterMs += 1100;
    expect(put(LAYER_RECORD_COUNT, PENDING_RECORD_COUNT_MAX)).to.equal(true);
    await refused(2);
    expect(put(-1, 1)).to.equal(false);

    isFull = false;
    laterMs += 1100;
    await eventually("it takes records again", () => put(-1, 1), { withinMs: 20_000 });
    await filled.close();
  });

  it("never lets LMDB find out, whose report of a failed write overruns its own buffer", async () => {
    const program = join(import.meta.dirname, "../support/full-store-program.ts");
    const child = spawn(process.execPath, ["--import", "tsx", program, directory], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    const [output, complaints] = [text(child.stdout), text(child.stderr)];
    const [code] = (await once(child, "close")) as [number | null];

    // LMDB writes "Write error" to the standard error of the process.
    expect(await complaints).to.equal("");
    expect(code).to.equal(0);
    expect(JSON.parse(await output)).to.deep.equal({ refusals: 60, held: 60 });
  });

  it("takes an I/O error for the end of the disk, and the process, where there is space", async () => {
    const failing = Object.assign(new Error("Commit failed"), {
      commitError: Promise.reject(Object.assign(new Error("Input/output error"), { code: 5 })),
    });
    const dying = new LmdbOrderedStore({ batch: () => Promise.reject(failing) } as never, "none", roomy, {
      clock: new SystemClock(),
      freeBytes: () => Promise.resolve(1e12),
    });
    dying.transaction((transaction) => transaction.put(utf8("a"), utf8("1")));

    const error = await dying.flush().then(
      () => undefined,
      (reason: Error) => reason,
    );

    expect(error?.message).to.contain("must end");
    expect(isNoSpace(error)).to.equal(false);
  });
});
