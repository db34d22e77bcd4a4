/**
 * A way to a server that the test can cut: at any moment, or in the middle of what a message of the server's protocol begins with.
 * Nothing is lost or changed: bytes pass, late where the test wants that, and then the connection is gone.
 */
import { once } from "node:events";
import { connect as connectTcp, createServer, type Server, type Socket } from "node:net";

/** Who sends what a cut waits for. */
export type CutSide = "client" | "server";

interface Trap {
  readonly side: CutSide;
  readonly pattern: Buffer;
  readonly spring: () => void;
}

/** The method frames of AMQP 0-9-1 in whose middle a cut says something: class and method, as they stand in the frame. */
export const AMQP_METHODS = {
  /** A message leaves the publisher; its content never follows. */
  "a publish": { side: "client", pattern: Buffer.from([0, 60, 0, 40]) },
  /** The broker has the message, and the publisher is never told. */
  "a confirmation": { side: "server", pattern: Buffer.from([0, 60, 0, 80]) },
  /** A message leaves the broker, and may never arrive. */
  "a delivery": { side: "server", pattern: Buffer.from([0, 60, 0, 60]) },
  /** The task has ended, and the broker never hears that the message is settled. */
  "an acknowledgement": { side: "client", pattern: Buffer.from([0, 60, 0, 80]) },
} as const satisfies Readonly<Record<string, { readonly side: CutSide; readonly pattern: Buffer }>>;

/** A proxy on a free port of 127.0.0.1. */
export class Cutter {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #traps = new Set<Trap>();
  /** Connections that were cut, both ends counted. */
  cutCount = 0;
  /** Bytes of either side pass so long after they came; as it is when they come, so that it only ever grows within a test. */
  delayMs = 0;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** Opens a way to `port` of this machine; connections fail while nobody listens there. */
  static async open(port: number): Promise<Cutter> {
    const server = createServer();
    const cutter = new Cutter(server);
    server.on("connection", (near) => {
      const far = connectTcp(port, "127.0.0.1");
      cutter.#pass("client", near, far);
      cutter.#pass("server", far, near);
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return cutter;
  }

  /** Where clients connect. */
  get port(): number {
    return (this.#server.address() as { readonly port: number }).port;
  }

  /** Cuts every connection now. */
  cut(): void {
    this.cutCount += this.#sockets.size;
    for (const socket of this.#sockets) socket.destroy();
  }

  /**
   * Cuts the next connection on which `side` sends `pattern`, behind the pattern: what it begins is never whole.
   * Resolves when that has happened.
   */
  cutAt({ side, pattern }: { readonly side: CutSide; readonly pattern: Buffer }): Promise<void> {
    return new Promise((resolve) => {
      const trap: Trap = {
        side,
        pattern,
        spring: () => {
          this.#traps.delete(trap);
          resolve();
        },
      };
      this.#traps.add(trap);
    });
  }

  /** Cuts everything and takes no more connections. */
  async close(): Promise<void> {
    this.#server.close();
    this.cut();
    await once(this.#server, "close");
  }

  #pass(side: CutSide, from: Socket, to: Socket): void {
    this.#sockets.add(from);
    from.on("error", () => undefined);
    from.on("close", () => {
      this.#sockets.delete(from);
      to.destroy();
    });
    from.on("end", () => to.end());
    from.on("data", (bytes: Buffer) => {
      for (const trap of this.#traps) {
        const at = trap.side === side ? bytes.indexOf(trap.pattern) : -1;
        if (at < 0) continue;
        trap.spring();
        this.cutCount += 2;
        // What was passed on leaves before the end; from here on nothing does.
        to.end(bytes.subarray(0, at + trap.pattern.length), () => to.destroy());
        from.destroy();
        return;
      }
      const pass = (): void => {
        if (!to.destroyed && !to.write(bytes)) from.pause();
      };
      if (this.delayMs === 0) pass();
      else setTimeout(pass, this.delayMs);
    });
    to.on("drain", () => from.resume());
  }
}
