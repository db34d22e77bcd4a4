/**
 * How many small files a state machine takes: put-small commands in batches of 64 on LMDB, one transaction a batch, flushing by
 * itself; beside it the same on the memory store, and the decoding of the commands alone. Prints commands per second.
 *
 * Run: node --import tsx bench/metadata.ts [commands]
 */
import { mkdtemp, rm } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { decodeCommand, encodeCommand } from "../src/metadata/codec.ts";
import type { CommandBody } from "../src/metadata/commands.ts";
import { MetadataStateMachine } from "../src/metadata/state-machine.ts";
import { sha256 } from "../src/std/digest.ts";
import { SystemClock } from "../src/std/clock.ts";
import { utf8 } from "../src/std/bytes.ts";
import { LmdbOrderedStoreProvider } from "../src/std/lmdb-ordered-store.ts";
import { MemoryOrderedStore } from "../src/std/memory-ordered-store.ts";
import type { OrderedStore } from "../src/std/ordered-store.ts";

const BATCH_COUNT = 64;
const COMMAND_COUNT = Number(process.argv[2] ?? 50_000);
const MEMBER_IDS = [101, 102, 103];

function encode(index: number, body: CommandBody, requestId = ""): Uint8Array {
  return encodeCommand({
    requestId,
    deadlineMs: requestId === "" ? 0 : 60_000,
    wallTimeMs: 1_700_000_000_000 + index,
    body,
  });
}

function setUp(): Uint8Array[] {
  const node = { nodeId: "n", address: "h:1", httpUrl: "", publicUrl: "", zone: "", isStorageOnly: false };
  return [
    ...MEMBER_IDS.map((memberId) =>
      encode(0, {
        kind: "register-node",
        node: { ...node, memberId, storeIncarnation: `store-${memberId}` },
      }),
    ),
    encode(0, {
      kind: "renew-write-lease",
      memberId: 101,
      storeIncarnation: "store-101",
      idCount: 1_000_000,
    }),
  ];
}

function putSmall(i: number): Uint8Array {
  const bytes = utf8(`file ${i}`);
  const treeHash = sha256(bytes);
  const contentId = 1 + i;
  const seals = MEMBER_IDS.map((memberId) => ({
    extent: { contentId, extentIndex: 0 },
    sizeBytes: bytes.length,
    root: treeHash,
    memberId,
    storeIncarnation: `store-${memberId}`,
  }));
  const path = ["data", `folder-${i % 100}`, `file-${i}.txt`];
  const body: CommandBody = {
    ...{ kind: "put-small", at: { baseId: 1, path }, createParents: true, onConflict: "fail" },
    ...{
      attributes: {},
      precondition: {},
      memberId: 101,
      contentId,
      sizeBytes: bytes.length,
      treeHash,
      seals,
    },
  };
  return encode(i, body, `request-${i}-0123456789abcdef`);
}

async function run(name: string, store: OrderedStore, commands: readonly Uint8Array[]): Promise<void> {
  const machine = new MetadataStateMachine();
  let index = 0;
  for (const data of setUp()) {
    index += 1;
    store.transaction((transaction) => machine.apply(transaction, { index, term: 1, data }));
  }
  const cpu = process.cpuUsage();
  const start = performance.now();
  const batchesMs: number[] = [];
  for (let at = 0; at < commands.length; at += BATCH_COUNT) {
    const batchStart = performance.now();
    store.transaction((transaction) => {
      for (const data of commands.slice(at, at + BATCH_COUNT)) {
        index += 1;
        const result = machine.apply(transaction, { index, term: 1, data });
        if (result.outcome === "rejected") throw new Error(`${result.reason}: ${result.message}`);
      }
    });
    batchesMs.push(performance.now() - batchStart);
    await new Promise((resolve) => setImmediate(resolve));
  }
  const appliedMs = performance.now() - start;
  await store.flush();
  const flushedMs = performance.now() - start;
  const used = process.cpuUsage(cpu);
  const cpuUs = (used.user + used.system) / commands.length;
  // On a busy machine most batches are interrupted; the fast ones show what the work itself takes.
  batchesMs.sort((a, b) => a - b);
  const tenthMs = batchesMs[Math.floor(batchesMs.length / 10)] ?? 0;
  const worstMs = batchesMs.at(-1) ?? 0;
  const rate = (ms: number): string => `${Math.round((commands.length / ms) * 1000)}/s`;
  console.log(
    `${name.padEnd(8)} applied ${rate(appliedMs)}, durable ${rate(flushedMs)}, slowest batch of ${BATCH_COUNT} ${worstMs.toFixed(1)} ms, ${cpuUs.toFixed(0)} us of processor each; undisturbed ${Math.round((BATCH_COUNT / tenthMs) * 1000)}/s`,
  );
}

console.log(
  `${COMMAND_COUNT} put-small commands, ${cpus().length} x ${cpus()[0]?.model ?? "?"}, Node ${process.version}`,
);
const commands = Array.from({ length: COMMAND_COUNT }, (_, i) => putSmall(i));
const decodeStart = performance.now();
for (const data of commands) decodeCommand(data);
console.log(
  `decode   ${(((performance.now() - decodeStart) * 1000) / COMMAND_COUNT).toFixed(1)} us each, ${commands[0]?.length ?? 0} bytes`,
);
await run("memory", new MemoryOrderedStore(), commands);
const directory = await mkdtemp(join(tmpdir(), "bench-metadata-"));
const store = await new LmdbOrderedStoreProvider({ directory, clock: new SystemClock() }).open("state");
await run("lmdb", store, commands);
await store.close();
await rm(directory, { recursive: true, force: true });
