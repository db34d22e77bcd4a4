/**
 * The writer takes up all work, whenever it comes: also in the very turns of the event loop in which a round ends, when a
 * writer that still calls itself busy would leave it lying, and with it every proposal of the node.
 */
import { expect } from "chai";
import { LogWriter, ROUND_ENTRY_COUNT } from "../../../src/consensus/log-writer.ts";
import { SegmentRaftLog } from "../../../src/consensus/segment-raft-log.ts";
import { makeMessage } from "../../../src/raft/message.ts";
import type { Message } from "../../../src/raft/types.ts";
import { silentLogger } from "../../../src/telemetry/logger.ts";
import { noMetrics } from "../../../src/telemetry/metrics.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";

/** The work of storing entries from `index` on. */
function store(index: number, count = 1): Message {
  const entries = Array.from({ length: count }, (_, at) => ({
    index: index + at,
    term: 1,
    kind: "normal" as const,
    data: Buffer.alloc(8, index),
  }));
  return makeMessage({
    kind: "storage-append",
    entries,
    responses: [makeMessage({ kind: "append-response", index })],
  });
}

function openLog(clock: FakeClock): Promise<SegmentRaftLog> {
  return SegmentRaftLog.open({
    disk: new MemoryDisk(),
    clock,
    directory: "/log",
    clusterId: "c",
    memberId: 1,
    whenAbsent: "create",
    keepPromise: () => Promise.resolve(),
    heldIndex: () => 0,
    onUnreadable: () => undefined,
    onFatal: () => undefined,
  });
}

describe("LogWriter", () => {
  for (let turns = 0; turns <= 12; turns += 1) {
    it(`takes up work that comes ${turns} promise turns after a round was delivered`, async () => {
      const clock = new FakeClock();
      const log = await openLog(clock);
      const delivered: number[] = [];
      const enqueueLater = async (index: number): Promise<void> => {
        for (let turn = 0; turn < turns; turn += 1) await Promise.resolve();
        writer.enqueue(store(index));
      };
      const writer: LogWriter = new LogWriter({
        log,
        clock,
        logger: silentLogger,
        metrics: noMetrics,
        install: () => Promise.resolve(),
        deliver: (responses) => {
          delivered.push(...responses.map(({ index }) => index));
          if (delivered.length === 1) void enqueueLater(2);
        },
        onFatal: (error) => {
          throw error;
        },
      });

      writer.enqueue(store(1));
      for (let round = 0; round < 20; round += 1) await settle();

      expect(delivered).to.deep.equal([1, 2]);
      expect(writer.waitingCount).to.equal(0);
      await writer.stop();
      await log.close();
    });
  }

  for (const [messageCount, perMessage, rounds] of [
    [ROUND_ENTRY_COUNT, 1, [ROUND_ENTRY_COUNT]],
    [ROUND_ENTRY_COUNT + 1, 1, [ROUND_ENTRY_COUNT, 1]],
    [3, ROUND_ENTRY_COUNT - 1, [1, 1, 1]],
    [2, ROUND_ENTRY_COUNT + 1, [1, 1]],
    [24, ROUND_ENTRY_COUNT, [3, 2, 2, 2, ...Array.from({ length: 15 }, () => 1)]],
  ] as const) {
    it(`stores ${messageCount} messages of ${perMessage} entries in ${rounds.length} rounds`, async () => {
      const clock = new FakeClock();
      const log = await openLog(clock);
      const delivered: number[] = [];
      const writer = new LogWriter({
        log,
        clock,
        logger: silentLogger,
        metrics: noMetrics,
        install: () => Promise.resolve(),
        deliver: (responses) => void delivered.push(responses.length),
        onFatal: (error) => {
          throw error;
        },
      });

      for (let at = 0; at < messageCount; at += 1) writer.enqueue(store(at * perMessage + 1, perMessage));
      // Without entries, it goes with what is before it.
      writer.enqueue(makeMessage({ kind: "storage-append" }));
      while (writer.isBusy) await settle();

      expect(delivered).to.deep.equal(rounds);
      expect(log.lastIndex()).to.equal(messageCount * perMessage);
      await writer.stop();
      await log.close();
    });
  }
});
