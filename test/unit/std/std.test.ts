/** The small tools everything else stands on: queues and permits refuse when full, digests equal published values. */
import { expect } from "chai";
import { createHash } from "node:crypto";
import { AssertionError, assert, must } from "../../../src/std/assert.ts";
import { BoundedQueue } from "../../../src/std/bounded-queue.ts";
import { bytesEqual, compareBytes, copyOfStart, fromHex, toHex, utf8 } from "../../../src/std/bytes.ts";
import { crc32 } from "../../../src/std/crc32.ts";
import {
  DigestMemory,
  foldTreeHash,
  inlineDigester,
  sha256,
  threadPoolDigester,
} from "../../../src/std/digest.ts";
import { SeededPrng, SystemPrng } from "../../../src/std/prng.ts";
import { Semaphore } from "../../../src/std/semaphore.ts";
import { SortedMap } from "../../../src/std/sorted-map.ts";

describe("assert()", () => {
  it("throws an AssertionError with the message when the condition is false", () => {
    expect(() => assert(false, "1 is 2")).to.throw(AssertionError, "1 is 2");
    expect(() => must(undefined, "it was set")).to.throw(AssertionError, "it was set");
  });

  it("returns what must() was given when it is there, zero and empty included", () => {
    expect(must(0, "a number")).to.equal(0);
    expect(must("", "a text")).to.equal("");
  });
});

describe("BoundedQueue", () => {
  it("takes as many values as it may hold and refuses the next", () => {
    const queue = new BoundedQueue<number>(2);

    expect([queue.offer(1), queue.offer(2), queue.offer(3)]).to.deep.equal([true, true, false]);
    expect(queue.count).to.equal(2);
  });

  it("delivers what waited, in order, before it ends", async () => {
    const queue = new BoundedQueue<number>(4);
    for (const value of [1, 2, 3]) queue.offer(value);
    queue.end();

    const seen: number[] = [];
    for await (const value of queue) seen.push(value);
    expect(seen).to.deep.equal([1, 2, 3]);
    expect(queue.offer(4)).to.equal(false);
  });

  it("makes a producer wait for space", async () => {
    const queue = new BoundedQueue<number>(1);
    queue.offer(1);
    let pushed = false;
    const push = queue.push(2).then((accepted) => {
      pushed = accepted;
    });

    await Promise.resolve();
    expect(pushed).to.equal(false);
    const iterator = queue[Symbol.asyncIterator]();
    expect((await iterator.next()).value).to.equal(1);
    await push;
    expect(pushed).to.equal(true);
  });

  it("hands the error it ended with to the consumer", async () => {
    const queue = new BoundedQueue<number>(1);
    queue.end(new Error("broken pipe"));

    const iterator = queue[Symbol.asyncIterator]();
    const error = await iterator.next().then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).to.have.property("message", "broken pipe");
  });
});

describe("Semaphore", () => {
  it("grants up to its capacity and makes the next one wait", async () => {
    const semaphore = new Semaphore(3);
    await semaphore.acquire(3);
    let granted = false;
    const waiting = semaphore.acquire(1).then(() => {
      granted = true;
    });

    await Promise.resolve();
    expect(granted).to.equal(false);
    semaphore.release(1);
    await waiting;
    expect(granted).to.equal(true);
  });

  it("serves a large request before small ones that came later", async () => {
    const semaphore = new Semaphore(4);
    await semaphore.acquire(2);
    const order: string[] = [];
    const large = semaphore.acquire(4).then(() => {
      order.push("large");
      semaphore.release(4);
    });
    const small = semaphore.acquire(1).then(() => order.push("small"));

    semaphore.release(2);
    await Promise.all([large, small]);
    expect(order).to.deep.equal(["large", "small"]);
  });

  it("forgets a waiter that gave up and grants those behind it", async () => {
    const semaphore = new Semaphore(1);
    await semaphore.acquire(1);
    const abort = new AbortController();
    const given = semaphore.acquire(1, abort.signal).catch((error: unknown) => (error as Error).message);
    const behind = semaphore.acquire(1);

    abort.abort(new Error("gave up"));
    expect(await given).to.equal("gave up");
    semaphore.release(1);
    await behind;
    expect(semaphore.available).to.equal(0);
  });

  it("refuses a request beyond its capacity and a release of what was not taken", async () => {
    const semaphore = new Semaphore(2);

    const error = await semaphore.acquire(3).catch((reason: unknown) => reason);
    expect(error).to.be.instanceOf(AssertionError);
    expect(() => semaphore.release(1)).to.throw(AssertionError);
  });
});

describe("Prng", () => {
  it("gives the same sequence for the same seed and another for another", () => {
    const draw = (seed: number): number[] => {
      const prng = new SeededPrng(seed);
      return Array.from({ length: 5 }, () => prng.uint32());
    };

    expect(draw(7)).to.deep.equal(draw(7));
    expect(draw(7)).to.not.deep.equal(draw(8));
  });

  it("stays within its bounds, evenly", () => {
    const prng = new SeededPrng(1);
    const counts = [0, 0, 0, 0];
    for (let i = 0; i < 40_000; i += 1) {
      const at = prng.below(4);
      counts[at] = (counts[at] ?? 0) + 1;
    }
    for (const count of counts) expect(count).to.be.within(9_500, 10_500);
  });

  it("draws different bytes from the system each time", () => {
    const prng = new SystemPrng();

    expect(bytesEqual(prng.bytes(16), prng.bytes(16))).to.equal(false);
  });

  it("never gives a byte of the system's pool twice, whatever sizes are asked for", () => {
    const prng = new SystemPrng();
    const drawn = Array.from({ length: 2000 }, (_, i) => prng.bytes([16, 64, 65, 7][i % 4] ?? 0));

    expect(drawn.map((bytes) => bytes.length).slice(0, 4)).to.deep.equal([16, 64, 65, 7]);
    const long = drawn.filter((bytes) => bytes.length >= 16).map(toHex);
    expect(new Set(long).size).to.equal(long.length);
  });
});

describe("digests", () => {
  it("are remembered for the array itself, not for a copy and not for another digest", () => {
    const memory = new DigestMemory();
    const bytes = utf8("abc");
    memory.remember(bytes, sha256(bytes));

    expect(memory.knows(bytes, sha256(bytes))).to.equal(true);
    expect(memory.knows(Uint8Array.from(bytes), sha256(bytes))).to.equal(false);
    expect(memory.knows(bytes, sha256(utf8("abd")))).to.equal(false);
  });

  it("equals the published SHA-256 of no bytes and of 'abc'", async () => {
    expect(toHex(sha256(new Uint8Array()))).to.equal(
      "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    );
    for (const digester of [inlineDigester, threadPoolDigester]) {
      expect(toHex(await digester.sha256(utf8("abc")))).to.equal(
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
      );
    }
  });

  it("computes the same on the thread pool as on the calling thread", async () => {
    const bytes = new SeededPrng(3).bytes(100_000);

    expect(toHex(await threadPoolDigester.sha256(bytes))).to.equal(toHex(sha256(bytes)));
  });

  it("folds a tree whose odd node moves up unchanged", () => {
    const leaves = ["a", "b", "c"].map((text) => sha256(utf8(text)));
    const pair = createHash("sha256")
      .update(leaves[0] ?? "")
      .update(leaves[1] ?? "")
      .digest();
    const root = createHash("sha256")
      .update(pair)
      .update(leaves[2] ?? "")
      .digest();

    expect(toHex(foldTreeHash(leaves))).to.equal(root.toString("hex"));
    expect(toHex(foldTreeHash(leaves.slice(0, 1)))).to.equal(toHex(leaves[0] ?? new Uint8Array()));
  });

  it("gives the same root for a whole tree as for its aligned subtrees", () => {
    const leaves = Array.from({ length: 11 }, (_, i) => sha256(utf8(String(i))));
    const subtrees = [leaves.slice(0, 4), leaves.slice(4, 8), leaves.slice(8)].map((run) =>
      foldTreeHash(run),
    );

    expect(toHex(foldTreeHash(subtrees))).to.equal(toHex(foldTreeHash(leaves)));
  });

  it("equals the published CRC-32 of '123456789', in one run or in pieces", () => {
    expect(crc32(utf8("123456789"))).to.equal(0xcbf43926);
    expect(crc32(utf8("456789"), crc32(utf8("123")))).to.equal(0xcbf43926);
  });
});

describe("bytes", () => {
  it("turns hexadecimal into bytes and back, and refuses what is none", () => {
    expect(toHex(fromHex("00ff10") ?? new Uint8Array())).to.equal("00ff10");
    expect([fromHex("0"), fromHex("zz")]).to.deep.equal([undefined, undefined]);
  });

  it("orders bytes as unsigned, shorter first on a tie", () => {
    expect(compareBytes(Uint8Array.of(0x7f), Uint8Array.of(0x80))).to.be.lessThan(0);
    expect(compareBytes(Uint8Array.of(1), Uint8Array.of(1, 0))).to.be.lessThan(0);
  });
});

describe("copyOfStart()", () => {
  const sources = {
    "a Uint8Array": new Uint8Array(2000),
    "a Buffer, whose slice() is a view": Buffer.alloc(2000),
  };
  for (const [what, source] of Object.entries(sources))
    it(`gives copies that later writes to the source, and later copies, do not touch: ${what}`, () => {
      for (let at = 0; at < source.length; at += 1) source[at] = at % 251;
      const lengths = [0, 1, 64, 1023, 1024, 1025, 2000, ...Array.from({ length: 100 }, (_, i) => 7 * i)];
      const copies = lengths.map((length) => copyOfStart(source, length));
      const expected = lengths.map((length) => Array.from(source.subarray(0, length)));
      source.fill(255);

      expect(copies.map((copy) => Array.from(copy))).to.deep.equal(expected);
    });
});

describe("SortedMap", () => {
  it("says what a value took the place of, also after a view was taken and when nodes split", () => {
    const map = new SortedMap<number>();
    const key = (i: number): Uint8Array => Uint8Array.of(i >> 8, i & 255);
    for (let i = 0; i < 500; i += 1) expect(map.set(key((i * 7) % 500), i)).to.equal(undefined);
    const view = map.view();

    for (let i = 0; i < 500; i += 1) expect(map.set(key((i * 7) % 500), -i)).to.equal(i);
    expect(view.get(key(7))).to.equal(1);
    expect(map.get(key(7))).to.equal(-1);
    expect(map.size).to.equal(500);
  });
});
