/**
 * Goal: a state of any size gets its snapshot, and a dump that stands still ends. Method: a store in memory, dumped in pieces, and a clock on
 * which each turn of the event loop takes as long as the test says.
 */
import { expect } from "chai";
import { ReplicatedStore } from "../../../src/consensus/replicated-store.ts";
import { SnapshotFileReader } from "../../../src/consensus/snapshot-file.ts";
import { Snapshots } from "../../../src/consensus/snapshots.ts";
import type { Clock, Timer } from "../../../src/std/clock.ts";
import { MemoryOrderedStoreProvider } from "../../../src/std/memory-ordered-store.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";
import { silentLogger } from "../../../src/telemetry/logger.ts";

const CONF_STATE = { voters: [1], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
/** Records that a turn of the event loop takes. */
const SCAN_COUNT = 256;
const NEVER = new AbortController().signal;

/** Time passes when a turn of the event loop ends. */
class TurnClock implements Clock {
  turnMs = 0;
  #nowMs = 0;

  monotonicMs(): number {
    return this.#nowMs;
  }

  wallMs(): number {
    return 0;
  }

  setTimer(_delayMs: number, callback: () => void): Timer {
    this.#nowMs += this.turnMs;
    queueMicrotask(callback);
    return { cancel: () => undefined };
  }
}

interface Setup {
  readonly clock: TurnClock;
  readonly disk: MemoryDisk;
  readonly dump: () => Promise<number>;
}

async function setUp(recordCount: number, dumpStallMs: number): Promise<Setup> {
  const clock = new TurnClock();
  const disk = new MemoryDisk();
  await disk.makeDirectory("/s");
  const store = await ReplicatedStore.open({
    ...{ disk, clock, clusterId: "c", directory: "/s", initialConfState: CONF_STATE },
    provider: new MemoryOrderedStoreProvider(),
    stateMachine: { apply: () => undefined },
  });
  store.store.transaction((transaction) => {
    for (let i = 0; i < recordCount; i += 1) {
      const key = Buffer.alloc(5, 1);
      key.writeUInt32BE(i, 1);
      transaction.put(key, Buffer.alloc(20, i));
    }
  });
  const snapshots = new Snapshots({
    ...{ store, disk, clock, directory: "/s", dumpStallMs, sendStallMs: 1, loadBytesPerSecond: 1 },
    logger: silentLogger,
    transport: { sendSnapshot: () => Promise.resolve() } as never,
    logStartIndex: () => 0,
    onSent: () => undefined,
  });
  const dump = async (): Promise<number> => {
    await snapshots.dumpTo("/s/tree", () => undefined, NEVER);
    const file = await disk.open("/s/tree", "read");
    const reader = new SnapshotFileReader(file);
    await reader.readHeader();
    let count = 0;
    for await (const records of reader.readRecords()) count += records.length;
    await file.close();
    return count;
  };
  return { clock, disk, dump };
}

describe("A dump of the state", () => {
  it("may take as long as it needs while it gets on", async () => {
    const { clock, dump } = await setUp(40 * SCAN_COUNT, 1000);
    clock.turnMs = 999;
    expect(await dump()).to.equal(40 * SCAN_COUNT);
    expect(clock.monotonicMs()).to.be.above(39_000);
  });

  it("is given up when it stands still, and leaves nothing behind", async () => {
    const { clock, disk, dump } = await setUp(10 * SCAN_COUNT, 1000);
    clock.turnMs = 1000;
    await expectReason("OVERLOADED", () => dump());
    expect(await disk.exists("/s/tree"), "half a dump").to.equal(false);
  });
});
