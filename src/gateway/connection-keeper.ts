/**
 * The bound on open connections: the longest idle one makes room for a new one, so that whoever holds connections for nothing
 * shuts nobody out.
 *
 * Idle is a connection without a request in hand: kept alive, silent, or with a header that has not come whole. When every one
 * has a request in hand the new one is refused. Invariant: at most countMax connections are kept.
 */
import type { Server } from "node:http";
import type { Socket } from "node:net";

/** Keeps the connections of one server. */
export class ConnectionKeeper {
  readonly #countMax: number;
  readonly #refuse: (socket: Socket) => void;
  /** Without a request in hand; the longest idle first. */
  readonly #idle = new Set<Socket>();
  /** Requests in hand (pipelined ones included) of each other connection. */
  readonly #busy = new Map<Socket, number>();

  /** @param refuse answers and closes a connection for which there is no room */
  constructor(server: Server, countMax: number, refuse: (socket: Socket) => void) {
    this.#countMax = countMax;
    this.#refuse = refuse;
    server.on("connection", (socket: Socket) => this.#take(socket));
  }

  /** A request of `socket` has come. */
  begin(socket: Socket): void {
    if (!this.#idle.delete(socket) && !this.#busy.has(socket)) return;
    this.#busy.set(socket, (this.#busy.get(socket) ?? 0) + 1);
  }

  /** It was answered, or broke off. */
  end(socket: Socket): void {
    const count = this.#busy.get(socket);
    if (count === undefined) return;
    if (count > 1) {
      this.#busy.set(socket, count - 1);
      return;
    }
    this.#busy.delete(socket);
    if (!socket.destroyed) this.#idle.add(socket);
  }

  #take(socket: Socket): void {
    if (this.#idle.size + this.#busy.size >= this.#countMax) {
      const [longestIdle] = this.#idle;
      if (longestIdle === undefined) {
        this.#refuse(socket);
        return;
      }
      this.#idle.delete(longestIdle);
      longestIdle.destroy();
    }
    this.#idle.add(socket);
    socket.once("close", () => {
      this.#idle.delete(socket);
      this.#busy.delete(socket);
    });
  }
}
