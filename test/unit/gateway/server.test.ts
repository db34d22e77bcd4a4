/** The server itself: what its parser refuses, slow clients, full houses, and how it stops. */
import { expect } from "chai";
import { connect, type Socket } from "node:net";
import { once } from "node:events";
import { Gateway } from "../../../src/gateway/gateway.ts";
import { HEADERS_SIZE_BYTES_MAX } from "../../../src/gateway/limits.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { noMetrics } from "../../../src/telemetry/metrics.ts";
import { silentLogger } from "../../../src/telemetry/logger.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { errorOf, useGateway, type GatewayFixture } from "./use-gateway.ts";

/** Polls until `condition` holds. */
async function eventually(what: string, condition: () => boolean, withinMs = 1500): Promise<void> {
  const endMs = performance.now() + withinMs;
  while (!condition()) {
    if (performance.now() > endMs) throw new Error(`not within ${withinMs} ms: ${what}`);
    await new Promise((resolve) => {
      setTimeout(resolve, 5);
    });
  }
}

/** An open connection that has sent `text`; `answer()` is what came back so far. */
async function open(
  at: GatewayFixture,
  text: string,
): Promise<{ readonly socket: Socket; readonly answer: () => string; readonly closed: () => boolean }> {
  const socket = connect(Number(new URL(at.url).port), "127.0.0.1");
  let answer = "";
  let closed = false;
  socket.setEncoding("latin1").on("data", (data) => (answer += String(data)));
  socket.on("error", () => undefined).on("close", () => (closed = true));
  await once(socket, "connect");
  socket.write(text, "latin1");
  return { socket, answer: () => answer, closed: () => closed };
}

const PUT = (path: string, more: string) =>
  `PUT /api/files/content?path=${path} HTTP/1.1\r\nHost: x\r\n${more}\r\n`;

describe("The parser of requests", () => {
  const at = useGateway();
  const framing: readonly [string, string][] = [
    [
      "Transfer-Encoding and Content-Length",
      PUT("/s", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n",
    ],
    [
      "Content-Length and Transfer-Encoding",
      PUT("/s", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n") + "0\r\n\r\n",
    ],
    ["two lengths", PUT("/s", "Content-Length: 1\r\nContent-Length: 2\r\n") + "xx"],
    ["the same length twice", PUT("/s", "Content-Length: 1\r\nContent-Length: 1\r\n") + "x"],
    ["a list of lengths", PUT("/s", "Content-Length: 1, 1\r\n") + "x"],
    ["a signed length", PUT("/s", "Content-Length: +1\r\n") + "x"],
    ["an unknown transfer coding last", PUT("/s", "Transfer-Encoding: chunked, identity\r\n") + "0\r\n\r\n"],
    ["an obfuscated transfer coding", PUT("/s", "Transfer-Encoding: xchunked\r\n") + "0\r\n\r\n"],
    ["a space before the colon", PUT("/s", "Content-Length : 1\r\n") + "x"],
    ["a folded header", PUT("/s", "X-A: b\r\n c: d\r\nContent-Length: 1\r\n") + "x"],
    ["a bad chunk size", PUT("/s", "Transfer-Encoding: chunked\r\n") + "zz\r\nx\r\n0\r\n\r\n"],
    ["a chunk size beyond 64 bits", PUT("/s", "Transfer-Encoding: chunked\r\n") + "fffffffffffffffff\r\nx"],
    ["no Host", "GET /livez HTTP/1.1\r\n\r\n"],
    ["no HTTP at all", "\x16\x03\x01\x02\r\n\r\n"],
    ["NUL in a header", "GET /livez HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n"],
  ];
  for (const [name, text] of framing) {
    it(`refuses ${name} and closes`, async () => {
      const answer = await at.raw(text);
      expect(answer).to.match(/^HTTP\/1\.1 400 /);
      expect(answer.split("HTTP/1.1 ").length).to.equal(2);
      expect((await at.fetch("/api/stat?path=/s")).status).to.equal(404);
    });
  }

  for (const text of ["BAD\r\n\r\n", "GET /livez HTTP/1.1\r\n\r\n"]) {
    it(`answers ${JSON.stringify(text)} in the usual shape`, async () => {
      const answer = await at.raw(text);
      expect(JSON.parse(answer.slice(answer.indexOf("\r\n\r\n") + 4)) as object).to.have.nested.property(
        "error.code",
        "ARGUMENT_INVALID",
      );
    });
  }

  it("refuses a body that is compressed for the way, and stores nothing", async () => {
    const answer = await at.raw(
      PUT("/s", "Connection: close\r\nTransfer-Encoding: gzip, chunked\r\n") + "1\r\nx\r\n0\r\n\r\n",
    );
    expect(answer)
      .to.match(/^HTTP\/1\.1 415 /)
      .and.include("MEDIA_TYPE_UNSUPPORTED");
    expect((await at.fetch("/api/stat?path=/s")).status).to.equal(404);
  });

  it("answers a client that takes it for a proxy", async () => {
    const answer = await at.raw("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n");
    expect(answer)
      .to.match(/^HTTP\/1\.1 405 /)
      .and.include("METHOD_NOT_ALLOWED");
  });

  it("says that a name as it is typed must be percent-encoded", async () => {
    const answer = await at.raw(
      PUT(Buffer.from("/新.txt").toString("latin1"), "Content-Length: 1\r\n") + "x",
    );
    expect(answer).to.match(/^HTTP\/1\.1 400 /);
    expect(answer).to.include("must be percent-encoded");
  });

  it("needs no Host from a client of HTTP/1.0", async () => {
    expect(await at.raw("GET /livez HTTP/1.0\r\n\r\n")).to.include("200 OK");
  });

  it("takes headers up to the limit and refuses longer ones", async () => {
    const request = (sizeBytes: number) => {
      const rest = "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Fill: \r\n\r\n";
      return rest.replace("X-Fill: ", `X-Fill: ${"a".repeat(sizeBytes - rest.length)}`);
    };
    expect(await at.raw(request(HEADERS_SIZE_BYTES_MAX - 512))).to.include("200 OK");
    expect(await at.raw(request(HEADERS_SIZE_BYTES_MAX + 512)))
      .to.include("431 ")
      .and.include("HEADERS_TOO_LARGE");
  });
});

describe("Slow clients", () => {
  const at = useGateway({
    headersTimeoutMs: 200,
    bodyWindowMs: 150,
    bodyWindowBytesMin: 100,
    sendTimeoutMs: 200,
    lingerMs: 100,
  });

  it("that do not finish their header are cut off", async () => {
    const silent = await open(at, "");
    const dripping = await open(at, "GET /livez HTTP/1.1\r\nHost: x\r\n");
    await eventually("both are closed", () => silent.closed() && dripping.closed());
    expect(dripping.answer()).to.include("REQUEST_TIMEOUT");
  });

  it("that send their body below the minimum rate are cut off, byte by byte too", async () => {
    const { socket, answer, closed } = await open(at, PUT("/slow", "Content-Length: 100000\r\n"));
    const drip = setInterval(() => socket.write("x"), 20);
    await eventually("an answer", () => answer().includes("REQUEST_TIMEOUT"));
    await eventually("closed", closed);
    clearInterval(drip);
    expect((await at.fetch("/api/stat?path=/slow")).status).to.equal(404);
  });

  it("that send just above the minimum rate are served", async () => {
    const { socket, answer } = await open(at, PUT("/steady", "Content-Length: 2000\r\n"));
    for (let sent = 0; sent < 2000; sent += 100) {
      socket.write("x".repeat(100));
      await new Promise((resolve) => {
        setTimeout(resolve, 20);
      });
    }
    await eventually("an answer", () => answer().includes("201 Created"));
    socket.destroy();
  });

  it("that send a JSON body too slowly are cut off too, and on Connect routes", async () => {
    for (const path of ["/api/folders", "/netdisk.v1.MetadataService/Stat"]) {
      const head = `POST ${path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{`;
      const { closed } = await open(at, head);
      await eventually(`${path} is closed`, closed);
    }
  });

  it("that take nothing of a download are cut off, and its place is free again", async () => {
    const fileId = await at.put("/big", "x");
    const opened = await at.drive.openDownload({ path: "/big" });
    async function* read(): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < 64; at += 1) yield Promise.resolve(new Uint8Array(CHUNK_SIZE_BYTES));
    }
    const entry = { ...opened.entry, sizeBytes: 64 * CHUNK_SIZE_BYTES };
    at.drive.openDownload = () => Promise.resolve({ ...opened, entry, read });
    const { socket, closed } = await open(at, "");
    socket.pause();
    socket.write(`GET /api/download/${fileId} HTTP/1.1\r\nHost: x\r\n\r\n`);
    const text = async () => (await at.fetch("/metrics")).text();
    let metrics = "";
    const poll = setInterval(() => void text().then((now) => (metrics = now)), 20);
    await eventually("it is served", () => metrics.includes('in_flight{kind="download",node="n1"} 1'));
    await eventually("it is cut off", () => metrics.includes('in_flight{kind="download",node="n1"} 0'));
    clearInterval(poll);
    socket.resume();
    await eventually("closed", closed);
  }).timeout(5000);

  it("whose body is refused may finish it for a moment, then the connection ends", async () => {
    const { socket, answer, closed } = await open(at, PUT("/x&mode=9", "Content-Length: 100000\r\n"));
    await eventually("the answer came at once", () => answer().includes("ARGUMENT_INVALID"));
    await eventually("closed", closed);
    socket.destroy();
  });
});

describe("A request that expects what HTTP does not define", () => {
  const at = useGateway();

  it("gets 417 with a code and what to do", async () => {
    const { socket, answer } = await open(at, "GET /api/files HTTP/1.1\r\nHost: x\r\nExpect: foo\r\n\r\n");
    await eventually("an answer", () => answer().includes("remedy"));
    expect(answer()).to.match(/^HTTP\/1.1 417 /);
    expect(answer()).to.include("EXPECTATION_FAILED");
    socket.destroy();
  });
});

describe("A full house", () => {
  const at = useGateway({ uploadCountMax: 1, downloadCountMax: 1, watchCountMax: 1, connectionCountMax: 20 });

  it("refuses one upload more with OVERLOADED and takes it when there is room", async () => {
    const first = await open(at, PUT("/a", "Content-Length: 3\r\n"));
    await eventually("100 uploads", () => first.socket.bytesWritten > 0);
    const put = () => at.fetch("/api/files/content?path=/b", { method: "PUT", body: "x" });
    let response = await put();
    while (response.status === 200) response = await put();
    expect(response.headers.get("retry-after")).to.equal("1");
    expect(await errorOf(response)).to.equal("429 OVERLOADED");
    first.socket.write("abc");
    await eventually("the first is done", () => first.answer().includes("201 Created"));
    expect((await put()).status).to.equal(201);
    first.socket.destroy();
  });

  it("forgets an upload whose client went away", async () => {
    const first = await open(at, PUT("/a", "Content-Length: 3\r\n"));
    await once(first.socket.end(), "close");
    expect((await at.fetch("/api/files/content?path=/b", { method: "PUT", body: "x" })).status).to.equal(201);
  });

  it("closes the longest idle connection for a new one", async () => {
    const sockets: Awaited<ReturnType<typeof open>>[] = [];
    for (let count = 0; count < 20; count += 1)
      sockets.push(await open(at, count % 2 === 0 ? "" : "GET /livez HT"));
    const late = await open(at, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
    await eventually("an answer", () => late.answer().startsWith("HTTP/1.1 200"));
    await eventually("the first is closed", () => sockets[0]?.closed() === true);
    expect(sockets.filter((each) => each.closed()).length).to.equal(1);
    for (const each of [...sockets, late]) each.socket.destroy();
  });

  it("answers everybody beside ten times as many idle connections as there is room for", async () => {
    const sockets: Awaited<ReturnType<typeof open>>[] = [];
    for (let count = 0; count < 200; count += 1) {
      sockets.push(await open(at, ""));
      if (count % 20 !== 19) continue;
      const one = await open(at, "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
      await eventually("an answer", () => one.answer().startsWith("HTTP/1.1 200"));
    }
    for (const each of sockets) each.socket.destroy();
  });

  it("refuses a connection with OVERLOADED when all others have a request in hand", async () => {
    const { drive } = at;
    let listCount = 0;
    drive.list = () => {
      listCount += 1;
      return new Promise(() => undefined);
    };
    const list = "GET /api/files HTTP/1.1\r\nHost: x\r\n\r\n";
    const sockets = await Promise.all(Array.from({ length: 20 }, () => open(at, list)));
    await eventually("all are at work", () => listCount === 20);
    const late = await open(at, "");
    await eventually("an answer", () => late.answer().includes("OVERLOADED"));
    expect(late.answer())
      .to.match(/^HTTP\/1.1 429 /)
      .and.match(/Retry-After: 1/);
    expect(sockets.some((each) => each.closed())).to.equal(false);
    for (const each of sockets) each.socket.destroy();
  });
});

describe("A client that goes away", () => {
  const at = useGateway();

  it("aborts the work done for it", async () => {
    const reasons: unknown[] = [];
    at.drive.list = (_ref, _page, options) =>
      new Promise((_, reject) => {
        options?.signal?.addEventListener("abort", () => {
          reasons.push(options.signal?.reason);
          reject(options.signal?.reason as Error);
        });
      });
    const { socket } = await open(at, "GET /api/files HTTP/1.1\r\nHost: x\r\n\r\n");
    setTimeout(() => socket.destroy(), 20);
    await eventually("aborted", () => reasons.length === 1);
    expect(reasons[0]).to.have.property("reason", "CANCELED");
  });
});

describe("A client that sent several requests and goes away", () => {
  const at = useGateway({ stopGraceMs: 20_000, sendTimeoutMs: 20_000 });

  it("is forgotten with all of them", async () => {
    let listCount = 0;
    const reasons: unknown[] = [];
    at.drive.list = (_ref, _page, options) => {
      listCount += 1;
      return new Promise((_, reject) => {
        options?.signal?.addEventListener("abort", () => {
          reasons.push(options.signal?.reason);
          reject(options.signal?.reason as Error);
        });
      });
    };
    const list = "GET /api/files HTTP/1.1\r\nHost: x\r\n\r\n";
    const { socket } = await open(at, list.repeat(3));
    await eventually("all are at work", () => listCount === 3);
    socket.destroy();
    await eventually("all are aborted", () => reasons.length === 3);
    const sinceMs = performance.now();
    await at.gateway.stop();
    expect(performance.now() - sinceMs).to.be.lessThan(5000);
  });
});

describe("Gateway", () => {
  const options = (port: number, host = "127.0.0.1") => ({
    drive: new MemoryDrive(),
    logger: silentLogger,
    metrics: noMetrics,
    clock: new SystemClock(),
    prng: new SeededPrng(1),
    nodeId: "n1",
    version: "1",
    host,
    port,
  });

  describe("start()", () => {
    const at = useGateway();

    it("fails with ADDRESS_IN_USE when another listens", async () => {
      const second = new Gateway(options(Number(new URL(at.url).port)));
      await expectReason("ADDRESS_IN_USE", () => second.start());
      await second.stop();
    });

    it("fails with CONFIGURATION_INVALID for an address of another machine", async () => {
      const elsewhere = new Gateway(options(0, "192.0.2.1"));
      await expectReason("CONFIGURATION_INVALID", () => elsewhere.start());
      await elsewhere.stop();
    });
  });

  describe("stop()", () => {
    const at = useGateway({ stopGraceMs: 300 });

    it("lets a request in hand finish, refuses others, and closes", async () => {
      const put = await open(at, PUT("/a", "Content-Length: 3\r\n"));
      const idle = await open(at, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
      await eventually("idle connection is open", () => idle.answer().includes("200 OK"));
      const other = await open(at, PUT("/b", "Content-Length: 3\r\n") + "x");
      await eventually("both uploads run", () => other.socket.bytesWritten > 0);
      const stopped = at.gateway.stop();
      put.socket.write("abc");
      other.socket.write("yz");
      await stopped;
      await eventually("closed", () => put.closed() && idle.closed() && other.closed());
      expect(put.answer()).to.include("201 Created");
      expect(at.logLines.at(-1)).to.include("http_stopped");
      await at.gateway.stop();
    });

    it("cuts off what outlives the grace", async () => {
      const put = await open(at, PUT("/a", "Content-Length: 3\r\n"));
      const sent = await open(at, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
      await eventually("requests run", () => sent.answer().includes("200 OK"));
      await at.gateway.stop();
      await eventually("closed", put.closed);
    });

    it("may be called before start() and twice", async () => {
      const never = new Gateway(options(0));
      await never.stop();
      await never.stop();
    });
  });
});
