/** How a body is read: what it costs, who is waited for, and for how long. A PassThrough stands in for the request. */
import { expect } from "chai";
import type { IncomingMessage } from "node:http";
import { PassThrough } from "node:stream";
import { BodyReader, READ_AHEAD_SIZE_BYTES, verified } from "../../../src/gateway/body-reader.ts";
import { HttpError } from "../../../src/gateway/http-error.ts";
import { Slots } from "../../../src/gateway/slots.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { deferred } from "../../../src/std/deferred.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";

const limits = { bodyWindowMs: 1000, bodyWindowBytesMin: 100 };

function body(headers: Record<string, string> = { "transfer-encoding": "chunked" }) {
  const stream = Object.assign(new PassThrough({ highWaterMark: 64 * 1024 }), { headers });
  const clock = new FakeClock();
  const reader = new BodyReader(stream as unknown as IncomingMessage, { clock, limits });
  return { stream, clock, reader };
}

describe("BodyReader", () => {
  it("hands large arrays on as they are and puts small ones together", async () => {
    const { stream, reader } = body();
    const large = Buffer.alloc(32 * 1024, 1);
    for (let sent = 0; sent < 1000; sent += 1) stream.write("x");
    stream.write(large);
    stream.end("end");
    const pieces: Uint8Array[] = [];
    for await (const piece of reader.pieces()) pieces.push(piece);
    expect(pieces.map((piece) => piece.length)).to.deep.equal([1000, 32 * 1024, 3]);
    expect(pieces[1]).to.equal(large);
  });

  it("stops reading while the consumer is busy, and its time is not the client's", async () => {
    const { stream, clock, reader } = body();
    const pieces = reader.pieces();
    const chunk = Buffer.alloc(64 * 1024);
    stream.write(chunk);
    await pieces.next();
    for (let sent = 0; sent < 4 * READ_AHEAD_SIZE_BYTES; sent += chunk.length) stream.write(chunk);
    await settle();
    expect(stream.isPaused()).to.equal(true);
    expect(stream.readableLength + stream.writableLength).to.be.greaterThan(2 * READ_AHEAD_SIZE_BYTES);
    await clock.advance(100 * limits.bodyWindowMs);
    stream.end();
    let sizeBytes = chunk.length;
    for await (const piece of pieces) sizeBytes += piece.length;
    expect(sizeBytes).to.equal(chunk.length + 4 * READ_AHEAD_SIZE_BYTES);
  });

  it("gives a client up whose window brings one byte too few, not one that brings enough", async () => {
    for (const [perWindow, outcome] of [
      [limits.bodyWindowBytesMin, "ended"],
      [limits.bodyWindowBytesMin - 1, "REQUEST_TIMEOUT"],
    ] as const) {
      const { stream, clock, reader } = body();
      const whole = reader.whole(10_000, "A body").then(
        () => "ended",
        (error: unknown) => (error instanceof HttpError ? error.reason : "other"),
      );
      for (let window = 0; window < 5; window += 1) {
        await clock.advance(limits.bodyWindowMs / 2);
        stream.write("x".repeat(perWindow));
        await clock.advance(limits.bodyWindowMs / 2);
      }
      stream.end();
      expect(await whole).to.equal(outcome);
    }
  });

  it("fails with PAYLOAD_TRUNCATED when the client goes away, and says how much came", async () => {
    const { stream, reader } = body({ "content-length": "10" });
    stream.write("12345");
    const whole = reader.whole(100, "A body");
    await settle();
    stream.destroy();
    const error = await expectReason("PAYLOAD_TRUNCATED", () => whole);
    expect(error.metadata).to.deep.equal({ size_bytes: "5", size_bytes_announced: "10" });
  });

  it("refuses a body that announces too much before it reads any", async () => {
    const { stream, reader } = body({ "content-length": "101" });
    await expectReason("PAYLOAD_TOO_LARGE", () => reader.whole(100, "A body"));
    expect(stream.listenerCount("data")).to.equal(0);
  });

  it("leaves the connection usable when the consumer stops early", async () => {
    const { stream, reader } = body();
    stream.write(Buffer.alloc(20_000));
    for await (const piece of reader.pieces()) {
      expect(piece.length).to.equal(20_000);
      break;
    }
    expect(stream.destroyed).to.equal(false);
    expect(stream.readableFlowing).to.equal(true);
  });

  it("leaves no timer behind", async () => {
    const { stream, clock, reader } = body();
    const whole = reader.whole(100, "A body");
    await settle();
    stream.end("x");
    await whole;
    expect(clock.timerCount).to.equal(0);
  });
});

describe("verified()", () => {
  it("fails at the end of a body with another digest, and only then", async () => {
    const source = async function* (): AsyncGenerator<Uint8Array> {
      yield Promise.resolve(Buffer.from("ab"));
      yield Promise.resolve(Buffer.from("c"));
    };
    const seen: string[] = [];
    const read = async (digest: Uint8Array) => {
      for await (const piece of verified(source(), digest)) seen.push(Buffer.from(piece).toString());
    };
    await read(sha256(Buffer.from("abc")));
    await expectReason("DIGEST_MISMATCH", () => read(sha256(Buffer.from("abd"))));
    expect(seen).to.deep.equal(["ab", "c", "ab", "c"]);
  });
});

describe("Slots", () => {
  it("has as many places as it says, refuses one more, and takes again what was given back", async () => {
    const counts: number[] = [];
    const slots = new Slots("things", 2, (count) => counts.push(count));
    const first = deferred<void>();
    const second = deferred<void>();
    const running = [slots.use(() => first.promise), slots.use(() => second.promise)];
    await expectReason("OVERLOADED", () => slots.use(() => Promise.resolve()));
    first.resolve();
    await running[0];
    await slots.use(() => Promise.resolve());
    second.reject(new Error("failed"));
    await running[1]?.catch(() => undefined);
    expect(counts).to.deep.equal([1, 2, 1, 2, 1, 0]);
  });
});
