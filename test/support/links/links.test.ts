import { expect } from "chai";
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { must } from "../../../src/std/assert.ts";
import { eventually } from "../eventually.ts";
import { freePorts } from "../use-cluster.ts";
import { CLIENT } from "./link-rules.ts";
import { Links } from "./links.ts";

/** A client of an echo server behind the proxy. */
class EchoClient {
  readonly socket: Socket;
  received = "";
  isReset = false;

  constructor(port: number) {
    this.socket = connect({ port, host: "127.0.0.1" });
    this.socket.on("data", (bytes: Buffer) => (this.received += bytes.toString()));
    this.socket.on("error", () => (this.isReset = true));
  }

  async got(text: string): Promise<void> {
    await eventually(`"${text}" came back`, () => this.received === text, { withinMs: 10_000, everyMs: 5 });
  }

  async wasReset(): Promise<void> {
    await eventually("the connection is reset", () => this.isReset, { withinMs: 10_000, everyMs: 5 });
  }
}

describe("The links of a test", function () {
  this.timeout(30_000);
  let echo: Server;
  let links: Links;
  let port = 0;
  const clients: EchoClient[] = [];
  /** What reached the server. */
  let arrived = "";

  const open = (): EchoClient => {
    const client = new EchoClient(port);
    clients.push(client);
    return client;
  };

  before(async () => {
    echo = createServer((socket) => {
      socket.on("error", () => undefined);
      socket.on("data", (bytes: Buffer) => {
        arrived += bytes.toString();
        socket.write(bytes);
      });
    });
    const [peerPort, clientPort, httpPort, nodeGrpcPort, nodeHttpPort] = await freePorts(5);
    echo.listen(nodeGrpcPort, "127.0.0.1");
    await once(echo, "listening");
    port = must(clientPort, "a port");
    links = await Links.start([
      {
        place: "node1",
        clientPort: port,
        peerPort: must(peerPort, "a port"),
        httpPort: must(httpPort, "a port"),
        nodeGrpcPort: must(nodeGrpcPort, "a port"),
        nodeHttpPort: must(nodeHttpPort, "a port"),
      },
    ]);
  });
  afterEach(async () => {
    await links.heal();
    for (const { socket } of clients.splice(0)) socket.destroy();
    arrived = "";
  });
  after(async () => {
    await links.dispose();
    await new Promise((closed) => echo.close(closed));
  });

  it("pass bytes on when nothing is wrong", async () => {
    const client = open();
    client.socket.write("hello");
    await client.got("hello");
  });

  it("hold one direction while it is cut, and deliver everything in order once it is mended", async () => {
    const client = open();
    client.socket.write("1");
    await client.got("1");
    await links.set(["node1"], [CLIENT], { hold: true });
    client.socket.write("2");
    await eventually("the request arrived", () => arrived === "12", { withinMs: 10_000, everyMs: 5 });
    client.socket.write("3");
    await eventually("both answers are held", async () => (await links.counts()).heldPieces >= 2, {
      withinMs: 10_000,
      everyMs: 5,
    });
    expect(client.received).to.equal("1");
    await links.heal();
    await client.got("123");
  });

  it("accept and never answer while a node is frozen", async () => {
    await links.setBoth(["node1"], links.everyone, { hold: true });
    const client = open();
    await once(client.socket, "connect");
    client.socket.write("late");
    await eventually("the bytes are held", async () => (await links.counts()).heldPieces > 2, {
      withinMs: 10_000,
      everyMs: 5,
    });
    expect(arrived).to.equal("");
    await links.heal();
    await client.got("late");
  });

  it("lose bytes, and reset what lost some once they are mended", async () => {
    const client = open();
    client.socket.write("1");
    await client.got("1");
    await links.set([CLIENT], ["node1"], { lose: true });
    client.socket.write("2");
    await eventually("bytes are lost", async () => (await links.counts()).lostPieces > 0, {
      withinMs: 10_000,
      everyMs: 5,
    });
    await links.heal();
    await client.wasReset();
    expect(arrived).to.equal("1");
  });

  it("delay bytes without changing their order", async () => {
    const client = open();
    await links.set([CLIENT], ["node1"], { delayMs: 30, jitterMs: 30 });
    const begun = performance.now();
    for (const digit of "0123456789") client.socket.write(digit);
    await client.got("0123456789");
    expect(performance.now() - begun).to.be.at.least(30);
    expect((await links.counts()).delayedPieces).to.be.greaterThan(0);
  });

  it("reset connections, and refuse new ones", async () => {
    const client = open();
    client.socket.write("1");
    await client.got("1");
    await links.reset([CLIENT], ["node1"]);
    await client.wasReset();
    await links.set([CLIENT], ["node1"], { refuse: true });
    await open().wasReset();
    const { refused, resets } = await links.counts();
    expect(refused).to.equal(1);
    expect(resets).to.be.at.least(1);
  });
});
