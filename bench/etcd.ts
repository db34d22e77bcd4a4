/** A three-member etcd on loopback, driven by the same grpc-js load generator as netdisk. */
import * as grpc from "@grpc/grpc-js";
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePorts } from "../test/support/use-cluster.ts";
import { eventually } from "../test/support/eventually.ts";

/** A running etcd cluster. */
export interface Etcd {
  /** Puts a key at member `index`. */
  put(index: number, key: string, value: Uint8Array): Promise<void>;
  /** Reads a key through a member, linearizably (etcd's default). */
  get(index: number, key: string): Promise<void>;
  /** Index of the member that leads. */
  leader(): Promise<number>;
  kill(index: number): void;
  dispose(): void;
}

function field(tag: number, bytes: Uint8Array): Buffer {
  const size: number[] = [];
  let rest = bytes.length;
  while (rest >= 128) {
    size.push((rest & 127) | 128);
    rest >>= 7;
  }
  size.push(rest);
  return Buffer.concat([Buffer.from([(tag << 3) | 2, ...size]), bytes]);
}

/** Reads varint fields of a flat protobuf message (etcd's StatusResponse and its header). */
function varints(bytes: Buffer): Map<number, bigint | Buffer> {
  const found = new Map<number, bigint | Buffer>();
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++] ?? 0;
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = Number(varint());
    if ((key & 7) === 0) found.set(key >> 3, varint());
    else {
      const size = Number(varint());
      found.set(key >> 3, bytes.subarray(at, at + size));
      at += size;
    }
  }
  return found;
}

function unary(client: grpc.Client, path: string, request: Buffer): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      path,
      (value: Buffer) => value,
      (value: Buffer) => value,
      request,
      new grpc.Metadata(),
      { deadline: Date.now() + 10_000 },
      (error, value) => (error === null ? resolve(value ?? Buffer.alloc(0)) : reject(error)),
    );
  });
}

/** Starts three members with default settings (fsync on, as shipped) and waits until they serve. Undefined when etcd is not installed. */
export async function startEtcd(): Promise<Etcd | undefined> {
  const directory = mkdtempSync(join(tmpdir(), "netdisk-bench-etcd-"));
  const ports = await freePorts(6);
  const peers = [0, 1, 2].map((index) => `m${index}=http://127.0.0.1:${ports[3 + index]}`).join(",");
  const missing = { value: false };
  const members: ChildProcess[] = [0, 1, 2].map((index) => {
    const child = spawn(
      "etcd",
      [
        ...["--name", `m${index}`, "--data-dir", join(directory, `m${index}`), "--initial-cluster", peers],
        ...[
          "--listen-client-urls",
          `http://127.0.0.1:${ports[index]}`,
          "--advertise-client-urls",
          `http://127.0.0.1:${ports[index]}`,
        ],
        ...["--listen-peer-urls", `http://127.0.0.1:${ports[3 + index]}`],
        ...[
          "--initial-advertise-peer-urls",
          `http://127.0.0.1:${ports[3 + index]}`,
          "--logger",
          "zap",
          "--log-level",
          "error",
        ],
      ],
      { stdio: "ignore" },
    );
    child.on("error", () => {
      missing.value = true;
    });
    return child;
  });
  const clients = [0, 1, 2].map(
    (index) => new grpc.Client(`127.0.0.1:${ports[index]}`, grpc.credentials.createInsecure()),
  );
  const etcd: Etcd = {
    async put(index, key, value) {
      const client = clients[index];
      if (client === undefined) throw new Error(`no member ${index}`);
      await unary(
        client,
        "/etcdserverpb.KV/Put",
        Buffer.concat([field(1, Buffer.from(key)), field(2, value)]),
      );
    },
    async get(index, key) {
      const client = clients[index];
      if (client === undefined) throw new Error(`no member ${index}`);
      await unary(client, "/etcdserverpb.KV/Range", field(1, Buffer.from(key)));
    },
    async leader() {
      return eventually(
        "etcd has a leader",
        async () => {
          for (const [index, client] of clients.entries()) {
            if (members[index]?.signalCode !== null) continue;
            const status = varints(await unary(client, "/etcdserverpb.Maintenance/Status", Buffer.alloc(0)));
            const header = status.get(1);
            if (header instanceof Buffer && status.get(4) !== 0n && varints(header).get(2) === status.get(4))
              return { index };
          }
          return undefined;
        },
        { withinMs: 20_000 },
      ).then((found) => found.index);
    },
    kill: (index) => members[index]?.kill("SIGKILL"),
    dispose() {
      for (const client of clients) client.close();
      for (const member of members) member.kill("SIGKILL");
      rmSync(directory, { recursive: true, force: true });
    },
  };
  try {
    await eventually(
      "etcd serves",
      async () => {
        if (missing.value) return "missing" as const;
        await etcd.put(0, "ready", Buffer.from("1"));
        return "ready" as const;
      },
      { withinMs: 30_000, everyMs: 200 },
    ).then((state) => {
      if (state === "missing") throw new Error("missing");
    });
    return etcd;
  } catch (error) {
    etcd.dispose();
    if (missing.value) return undefined;
    throw error;
  }
}
