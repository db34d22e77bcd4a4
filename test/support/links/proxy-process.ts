/**
 * The proxy's process: passes TCP connections on to the nodes of a cluster, and does to them what the rules say. Started by
 * links.ts, which talks to it over Node's IPC channel. Linux only: who opened a connection between nodes is read from /proc.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import {
  CLIENT,
  linkKey,
  type LinkCounts,
  type LinkRule,
  type Place,
  type ProxyAnswer,
  type ProxyRequest,
  type ProxyTarget,
} from "./link-rules.ts";

/** Bytes that wait in one direction of a connection before its sender is made to wait, as a socket's buffer would. */
const WAITING_BYTES_MAX = 4 * 1024 * 1024;

type Piece = { readonly bytes: Buffer | "end" | "reset"; readonly dueMs: number };

let rules: Readonly<Record<string, LinkRule>> = {};
const pids = new Map<Place, number>();
const connections = new Set<Connection>();
const counts = {
  connections: 0,
  bytes: 0,
  heldPieces: 0,
  lostPieces: 0,
  delayedPieces: 0,
  resets: 0,
  refused: 0,
};

const ruleOf = (link: string): LinkRule => rules[link] ?? {};

/** One direction of a connection. */
class Pipe {
  readonly link: string;
  hasLost = false;
  readonly #from: Socket;
  readonly #to: Socket;
  #waiting: Piece[] = [];
  #waitingBytes = 0;
  #lastDueMs = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(link: string, from: Socket, to: Socket) {
    this.link = link;
    this.#from = from;
    this.#to = to;
    from.on("data", (bytes: Buffer) => this.#take(bytes));
    from.on("end", () => this.#take("end"));
    from.on("error", () => this.#take("reset"));
    to.on("drain", () => this.pump());
  }

  /** Sends what may leave now. */
  pump(): void {
    clearTimeout(this.#timer);
    while (!this.#to.destroyed) {
      const [piece] = this.#waiting;
      if (piece === undefined || ruleOf(this.link).hold === true) break;
      const waitMs = piece.dueMs - performance.now();
      if (waitMs > 0) {
        this.#timer = setTimeout(() => this.pump(), waitMs);
        break;
      }
      this.#waiting.shift();
      if (piece.bytes === "end") this.#to.end();
      else if (piece.bytes === "reset") this.#to.resetAndDestroy();
      else {
        this.#waitingBytes -= piece.bytes.length;
        counts.bytes += piece.bytes.length;
        if (!this.#to.write(piece.bytes)) break;
      }
    }
    if (this.#waitingBytes < WAITING_BYTES_MAX / 2) this.#from.resume();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#waiting = [];
  }

  #take(bytes: Buffer | "end" | "reset"): void {
    const { hold, lose, delayMs = 0, jitterMs = 0 } = ruleOf(this.link);
    if (lose === true) {
      this.hasLost = true;
      counts.lostPieces += 1;
      return;
    }
    if (hold === true) counts.heldPieces += 1;
    const lateMs = delayMs + Math.random() * jitterMs;
    if (lateMs > 0) counts.delayedPieces += 1;
    const dueMs = Math.max(this.#lastDueMs, lateMs > 0 ? performance.now() + lateMs : 0);
    this.#lastDueMs = dueMs;
    this.#waiting.push({ bytes, dueMs });
    if (typeof bytes !== "string") {
      this.#waitingBytes += bytes.length;
      if (this.#waitingBytes >= WAITING_BYTES_MAX) this.#from.pause();
    }
    this.pump();
  }
}

/** A connection of `opener` to `target`, in two pipes. */
class Connection {
  readonly pipes: readonly [Pipe, Pipe];
  readonly #sockets: readonly [Socket, Socket];
  readonly #openLink: string;

  constructor(opener: Place, target: Place, near: Socket, far: Socket) {
    this.#sockets = [near, far];
    this.#openLink = linkKey(opener, target);
    this.pipes = [new Pipe(linkKey(opener, target), near, far), new Pipe(linkKey(target, opener), far, near)];
    connections.add(this);
    for (const socket of this.#sockets) {
      socket.on("close", () => {
        if (!this.#sockets.every((each) => each.destroyed)) return;
        connections.delete(this);
        for (const pipe of this.pipes) pipe.stop();
      });
    }
  }

  get isRefused(): boolean {
    return ruleOf(this.#openLink).refuse === true;
  }

  uses(links: ReadonlySet<string>): boolean {
    return this.pipes.some((pipe) => links.has(pipe.link));
  }

  reset(): void {
    counts.resets += 1;
    for (const pipe of this.pipes) pipe.stop();
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }
}

/** Which node has the other end of `socket`; CLIENT when none of them does. */
function openerOf(socket: Socket): Place {
  const port = (value: number | undefined): string =>
    (value ?? 0).toString(16).toUpperCase().padStart(4, "0");
  const near = `0100007F:${port(socket.remotePort)} 0100007F:${port(socket.localPort)}`;
  const line = readFileSync("/proc/net/tcp", "utf8")
    .split("\n")
    .find((each) => each.includes(near));
  const inode = line?.trim().split(/\s+/)[9];
  if (inode === undefined) return CLIENT;
  for (const [place, pid] of pids) {
    try {
      const folder = `/proc/${pid}/fd`;
      const files = readdirSync(folder);
      if (files.some((file) => linkOf(`${folder}/${file}`) === `socket:[${inode}]`)) return place;
    } catch {
      // The process has just ended: none of its connections is alive.
    }
  }
  return CLIENT;
}

function linkOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    // Closed since the folder was read.
    return undefined;
  }
}

function listen(target: Place, port: number, targetPort: number, opener: Place | undefined): Promise<Server> {
  const server = createServer({ noDelay: true, allowHalfOpen: true, pauseOnConnect: true }, (near) => {
    near.on("error", () => undefined);
    counts.connections += 1;
    const place = opener ?? openerOf(near);
    if (ruleOf(linkKey(place, target)).refuse === true) {
      counts.refused += 1;
      near.resetAndDestroy();
      return;
    }
    const far = connect({ port: targetPort, host: "127.0.0.1", noDelay: true, allowHalfOpen: true });
    new Connection(place, target, near, far);
    near.resume();
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => resolve(server));
  });
}

function setRules(next: Readonly<Record<string, LinkRule>>): void {
  rules = next;
  for (const connection of connections) {
    const isBroken = connection.pipes.some((pipe) => pipe.hasLost && ruleOf(pipe.link).lose !== true);
    if (isBroken || connection.isRefused) connection.reset();
    else for (const pipe of connection.pipes) pipe.pump();
  }
}

async function handle(request: ProxyRequest): Promise<LinkCounts | undefined> {
  switch (request.kind) {
    case "open":
      await Promise.all(
        request.targets.flatMap((target: ProxyTarget) => [
          listen(target.place, target.peerPort, target.nodeGrpcPort, undefined),
          listen(target.place, target.clientPort, target.nodeGrpcPort, CLIENT),
          listen(target.place, target.httpPort, target.nodeHttpPort, CLIENT),
        ]),
      );
      return undefined;
    case "process":
      pids.set(request.place, request.pid);
      return undefined;
    case "rules":
      setRules(request.rules);
      return undefined;
    case "reset": {
      const links = new Set(request.links);
      for (const connection of connections) if (connection.uses(links)) connection.reset();
      return undefined;
    }
    case "counts":
      return { ...counts };
  }
}

process.on("message", (request: ProxyRequest) => {
  const answer = (rest: Omit<ProxyAnswer, "id">): void => void process.send?.({ id: request.id, ...rest });
  handle(request).then(
    (found) => answer(found === undefined ? {} : { counts: found }),
    (error: unknown) => answer({ error: String(error) }),
  );
});
// The test has ended, however it did.
process.on("disconnect", () => process.exit(0));
