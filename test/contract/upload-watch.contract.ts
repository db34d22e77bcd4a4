/** What watching an upload at another node promises, however the figures come: by asking, by Redis, or while Redis is down. */
import { expect } from "chai";
import type { Progress } from "../../src/drive/drive-api.ts";
import { CHUNK_SIZE_BYTES } from "../../src/drive/limits.ts";
import type { ProgressRelay } from "../../src/transfer/progress-relay.ts";
import { must } from "../../src/std/assert.ts";
import { eventually } from "../support/eventually.ts";
import { expectReason } from "../support/expect-reason.ts";
import { patternBytes, TestDrives, uploadOf } from "../support/use-drives.ts";

const CHUNK_COUNT = 4;

/** A relay for each of two nodes; undefined where there is none. */
export type OpenRelays = () => Promise<readonly [ProgressRelay | undefined, ProgressRelay | undefined]>;

/** An upload at node 1 that node 2 watches. */
async function begin(openRelays: OpenRelays): Promise<{
  readonly drives: TestDrives;
  readonly uploadId: number;
  readonly seen: Progress[];
  readonly watching: Promise<void>;
  readonly controller: AbortController;
  readonly write: (chunkIndex: number) => Promise<void>;
  readonly until: (what: string, condition: (newest: Progress) => boolean) => Promise<void>;
}> {
  const drives = new TestDrives(3);
  const relays = await openRelays();
  for (const [index, relay] of relays.entries())
    drives.nodes.set(index + 1, drives.makeNode(index + 1, relay));
  const sizeBytes = CHUNK_COUNT * CHUNK_SIZE_BYTES;
  const { uploadId } = await drives.drive(1).initUpload(uploadOf("/a.bin", { sizeBytes }));
  const bytes = patternBytes(sizeBytes);
  const write = async (chunkIndex: number): Promise<void> => {
    const at = chunkIndex * CHUNK_SIZE_BYTES;
    await drives
      .drive(1)
      .writeChunk(uploadId, chunkIndex, bytes.subarray(at, at + CHUNK_SIZE_BYTES), undefined);
  };
  await write(0);
  const seen: Progress[] = [];
  const controller = new AbortController();
  const watching = (async () => {
    for await (const progress of drives.drive(2).watchProgress(String(uploadId), controller.signal))
      seen.push(progress);
  })();
  // Whoever awaits it sees the failure.
  watching.catch(() => undefined);
  const until = async (what: string, condition: (newest: Progress) => boolean): Promise<void> => {
    await eventually(
      what,
      async () => {
        await drives.clock.advance(100);
        const newest = seen.at(-1);
        return newest !== undefined && condition(newest);
      },
      { withinMs: 60_000, everyMs: 10 },
    );
  };
  return { drives, uploadId, seen, watching, controller, write, until };
}

/** Registers the tests. */
export function uploadWatchContract(openRelays: OpenRelays): void {
  it("gives the figures at once, then growing ones, then the end", async () => {
    const { drives, uploadId, seen, watching, write, until } = await begin(openRelays);
    await until("the first chunk is seen", ({ copiedBytes }) => copiedBytes[1] >= CHUNK_SIZE_BYTES);

    for (let chunkIndex = 1; chunkIndex < CHUNK_COUNT; chunkIndex += 1) await write(chunkIndex);
    await until(
      "all chunks are seen",
      ({ copiedBytes }) => copiedBytes[1] === CHUNK_COUNT * CHUNK_SIZE_BYTES,
    );
    await drives.drive(1).completeUpload(uploadId, {});
    await until("the end is seen", ({ phase }) => phase === "done");
    await watching;

    for (const [index, progress] of seen.entries()) {
      const before = seen[index - 1];
      expect(progress).to.include({ id: String(uploadId), kind: "upload", errorReason: undefined });
      expect(progress.sizeBytes).to.equal(CHUNK_COUNT * CHUNK_SIZE_BYTES);
      if (before === undefined) continue;
      expect(progress.transferredBytes).to.be.at.least(before.transferredBytes);
      for (const copy of [0, 1, 2] as const) {
        expect(progress.copiedBytes[copy]).to.be.at.least(before.copiedBytes[copy]);
      }
    }
    const whole = CHUNK_COUNT * CHUNK_SIZE_BYTES;
    expect(must(seen.at(-1), "the end")).to.deep.include({
      phase: "done",
      transferredBytes: whole,
      copiedBytes: [whole, whole, whole],
    });
    expect(seen.filter(({ phase }) => phase === "done")).to.have.length(1);
  });

  it("ends with the upload when that is aborted, and says so", async () => {
    const { drives, uploadId, seen, watching, until } = await begin(openRelays);
    await until("something is seen", () => true);

    await drives.drive(1).abortUpload(uploadId);
    await until("the end is seen", ({ phase }) => phase === "failed");
    await watching;

    expect(must(seen.at(-1), "the end").errorReason).to.equal("CANCELED");
    await expectReason("UPLOAD_NOT_FOUND", () =>
      drives.drive(2).watchProgress(String(uploadId))[Symbol.asyncIterator]().next(),
    );
  });

  it("ends with a watcher who leaves", async () => {
    const { watching, controller, until } = await begin(openRelays);
    await until("something is seen", () => true);

    controller.abort();

    await expectReason("CANCELED", () => watching);
  });

  it("refuses an upload that nobody knows", async () => {
    const drives = new TestDrives(3);
    const [, relay] = await openRelays();
    const { drive } = drives.makeNode(2, relay);

    for (const id of ["12345", "download-1-1", "x"]) {
      await expectReason("UPLOAD_NOT_FOUND", async () => {
        for await (const progress of drive.watchProgress(id)) expect(progress).to.equal(undefined);
      });
    }
  });
}
