/** Watching an upload: at another node by asking, what a relay adds to it, and through several nodes at once. */
import { expect } from "chai";
import type { Progress } from "../../../src/drive/drive-api.ts";
import { CHUNK_SIZE_BYTES, EXTENT_CHUNK_COUNT_MAX } from "../../../src/drive/limits.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { must } from "../../../src/std/assert.ts";
import { sleep } from "../../../src/std/clock.ts";
import { PROGRESS_INTERVAL_MS, PROGRESS_WATCHER_COUNT_MAX } from "../../../src/transfer/progress.ts";
import { SURVEY_INTERVAL_HEARD_MS, SURVEY_INTERVAL_MS } from "../../../src/transfer/upload-watch.ts";
import type { ProgressRelay } from "../../../src/transfer/progress-relay.ts";
import { uploadWatchContract } from "../../contract/upload-watch.contract.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { patternBytes, TestDrives, uploadOf } from "../../support/use-drives.ts";

describe("An upload at another node, without a relay", function () {
  this.timeout(90_000);
  uploadWatchContract(() => Promise.resolve([undefined, undefined]));
});

describe("An upload at another node, with a relay", () => {
  it("shows what its node tells, asks the targets less often meanwhile, and as before when it falls silent", async () => {
    const drives = new TestDrives(3);
    const sizeBytes = 4 * CHUNK_SIZE_BYTES;
    const { uploadId } = await drives.drive(1).initUpload(uploadOf("/a.bin", { sizeBytes }));
    let tell: (progress: Progress) => void = () => undefined;
    let endedCount = 0;
    const relay: ProgressRelay = {
      changed: () => undefined,
      listen: (_id, listener) => {
        tell = listener;
        return () => (endedCount += 1);
      },
    };
    const { drive, plane } = drives.makeNode(2, relay);
    let surveyCount = 0;
    Object.assign(plane.metadata.port, {
      linearize: () => {
        surveyCount += 1;
        return Promise.resolve();
      },
    });
    const seen: string[] = [];
    const controller = new AbortController();
    const watching = (async () => {
      for await (const { phase, transferredBytes } of drive.watchProgress(
        String(uploadId),
        controller.signal,
      )) {
        seen.push(`${phase} ${transferredBytes}`);
      }
    })();
    watching.catch(() => undefined);
    const told = (phase: Progress["phase"], transferredBytes: number): Progress => ({
      ...{ id: String(uploadId), kind: "upload", phase, sizeBytes, transferredBytes },
      ...{ copiedBytes: [0, 0, 0], errorReason: undefined },
    });

    await drives.clock.advance(10);
    tell(told("receiving", 5));
    await drives.clock.advance(200);
    tell(told("receiving", 4));
    await drives.clock.advance(200);
    tell(told("sealing", 9));
    for (let passedMs = 0; passedMs < SURVEY_INTERVAL_HEARD_MS - 500; passedMs += 500) {
      tell(told("sealing", 9));
      await drives.clock.advance(500);
    }
    expect(surveyCount).to.equal(1);
    await drives.clock.advance(200);
    expect(surveyCount).to.equal(2);
    await drives.clock.advance(SURVEY_INTERVAL_MS);
    expect(surveyCount).to.equal(3);
    tell(told("failed", 9));
    await drives.clock.advance(10);
    expect(surveyCount).to.equal(4);
    controller.abort();
    await watching.catch(() => undefined);

    expect(seen).to.deep.equal(["receiving 0", "receiving 5", "sealing 9"]);
    expect(endedCount).to.equal(1);
  });
});

describe("An upload through several nodes", function () {
  this.timeout(20_000);
  const SIZE_BYTES = 2 * CHUNK_SIZE_BYTES + 5;
  const CONTENT = patternBytes(SIZE_BYTES);
  const ALL = [SIZE_BYTES, SIZE_BYTES, SIZE_BYTES];

  const begin = async (drives: TestDrives): Promise<number> =>
    (await drives.drive(1).initUpload(uploadOf("/a/f.bin", { sizeBytes: SIZE_BYTES }))).uploadId;

  const send = async (
    drives: TestDrives,
    memberId: number,
    uploadId: number,
    index: number,
  ): Promise<void> => {
    const bytes = CONTENT.subarray(index * CHUNK_SIZE_BYTES, (index + 1) * CHUNK_SIZE_BYTES);
    await drives.drive(memberId).writeChunk(uploadId, index, bytes, undefined);
    await drives.clock.advance(0);
  };

  /** Everything that a watcher at a node is told until the end. */
  const watch = (
    drives: TestDrives,
    memberId: number,
    uploadId: number,
  ): { readonly seen: Progress[]; readonly over: Promise<void> } => {
    const seen: Progress[] = [];
    const over = (async () => {
      for await (const progress of drives.drive(memberId).watchProgress(String(uploadId)))
        seen.push(progress);
    })();
    over.catch(() => undefined);
    return { seen, over };
  };

  const newest = ({ seen }: { readonly seen: readonly Progress[] }): readonly unknown[] => {
    const { phase, transferredBytes, copiedBytes } = must(seen.at(-1), "a figure");
    return [phase, transferredBytes, ...copiedBytes];
  };

  it("is told alike at all of them: what came by whichever node, and the whole of it at the end", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives);
    await send(drives, 1, uploadId, 0);
    const watches = [1, 2, 3].map((memberId) => watch(drives, memberId, uploadId));
    await drives.clock.advance(100);
    const first = CHUNK_SIZE_BYTES;
    for (const each of watches) expect(newest(each)).to.deep.equal(["receiving", first, first, first, first]);

    await send(drives, 2, uploadId, 1);
    await drives.clock.advance(SURVEY_INTERVAL_MS + PROGRESS_INTERVAL_MS);
    const two = 2 * CHUNK_SIZE_BYTES;
    for (const each of watches) expect(newest(each)).to.deep.equal(["receiving", two, two, two, two]);

    await send(drives, 3, uploadId, 2);
    await drives.drive(2).completeUpload(uploadId, {});
    await drives.clock.advance(SURVEY_INTERVAL_MS + PROGRESS_INTERVAL_MS);
    const late = [1, 2, 3].map((memberId) => watch(drives, memberId, uploadId));
    for (const each of [...watches, ...late]) {
      await each.over;
      expect(newest(each)).to.deep.equal(["done", SIZE_BYTES, ...ALL]);
      for (const [index, { transferredBytes, copiedBytes }] of each.seen.entries()) {
        const before = each.seen[index - 1] ?? { transferredBytes: 0, copiedBytes: [0, 0, 0] };
        expect(transferredBytes).to.be.at.least(before.transferredBytes);
        for (const copy of [0, 1, 2] as const) {
          expect(copiedBytes[copy]).to.be.at.least(before.copiedBytes[copy] ?? 0);
        }
      }
    }
    for (const { seen } of late) expect(seen).to.have.length(1);
    expect(drives.clock.timerCount).to.equal(0);
  });

  it("ends everywhere when it is aborted at any of them, also for who asks later", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives);
    await send(drives, 1, uploadId, 0);
    await send(drives, 2, uploadId, 1);
    const watches = [1, 2, 3].map((memberId) => watch(drives, memberId, uploadId));
    await drives.clock.advance(100);

    await drives.drive(2).abortUpload(uploadId);
    await drives.clock.advance(SURVEY_INTERVAL_MS + PROGRESS_INTERVAL_MS);

    for (const each of watches) {
      await each.over;
      expect(must(each.seen.at(-1), "the end")).to.include({ phase: "failed", errorReason: "CANCELED" });
    }
    drives.restart(3);
    await expectReason("UPLOAD_NOT_FOUND", () => watch(drives, 3, uploadId).over);
    expect(drives.drive(1).runningTransfers(10)).to.deep.equal([]);
  });

  it("is no more under way at a node once it ended at another, though nobody watched", async () => {
    const drives = new TestDrives(3);
    const [completed, aborted] = [
      await begin(drives),
      (await drives.drive(1).initUpload(uploadOf("/b", { sizeBytes: SIZE_BYTES }))).uploadId,
    ];
    for (const index of [0, 1, 2]) await send(drives, 1, completed, index);
    await send(drives, 1, aborted, 0);
    expect(drives.drive(1).runningTransfers(10)).to.have.length(2);

    await drives.drive(2).completeUpload(completed, {});
    await drives.drive(2).abortUpload(aborted);

    expect(drives.drive(1).runningTransfers(10)).to.deep.equal([]);
    const later = watch(drives, 1, completed);
    await drives.clock.advance(PROGRESS_INTERVAL_MS);
    await later.over;
    expect(newest(later)).to.deep.equal(["done", SIZE_BYTES, ...ALL]);
    await expectReason("UPLOAD_NOT_FOUND", () => watch(drives, 1, aborted).over);
  });

  it("counts a chunk that is sent again, here or elsewhere, once", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives);
    const watching = watch(drives, 1, uploadId);
    for (const memberId of [1, 1, 2, 1]) await send(drives, memberId, uploadId, 0);
    await drives.clock.advance(2 * SURVEY_INTERVAL_MS);

    const one = CHUNK_SIZE_BYTES;
    expect(newest(watching)).to.deep.equal(["receiving", one, one, one, one]);
    await drives.drive(1).abortUpload(uploadId);
    await drives.clock.advance(PROGRESS_INTERVAL_MS);
    await watching.over;
  });

  it("says at the end that a third copy is not there yet", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives);
    drives.kill(3);
    for (const index of [0, 1, 2]) await send(drives, 1, uploadId, index);
    await drives.drive(1).completeUpload(uploadId, {});

    for (const memberId of [1, 2]) {
      const each = watch(drives, memberId, uploadId);
      await drives.clock.advance(PROGRESS_INTERVAL_MS);
      await each.over;
      expect(newest(each)).to.deep.equal(["done", SIZE_BYTES, SIZE_BYTES, SIZE_BYTES, 0]);
    }
  });

  it("is shown as far as this node has counted while the tree cannot be asked", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives);
    await send(drives, 1, uploadId, 0);
    const { port } = drives.node(1).plane.metadata;
    let isAway = true;
    const linearize = port.linearize.bind(port);
    Object.assign(port, {
      linearize: (options: Parameters<typeof linearize>[0]) =>
        isAway ? Promise.reject(new DriveError("NO_LEADER", "There is no leader.")) : linearize(options),
    });
    const watching = watch(drives, 1, uploadId);
    await drives.clock.advance(SURVEY_INTERVAL_MS);
    expect(newest(watching).slice(0, 2)).to.deep.equal(["receiving", CHUNK_SIZE_BYTES]);

    await send(drives, 1, uploadId, 1);
    await drives.clock.advance(PROGRESS_INTERVAL_MS);
    expect(newest(watching).slice(0, 2)).to.deep.equal(["receiving", 2 * CHUNK_SIZE_BYTES]);

    isAway = false;
    await drives.drive(2).abortUpload(uploadId);
    await drives.clock.advance(2 * SURVEY_INTERVAL_MS);
    await watching.over;
    expect(newest(watching)[0]).to.equal("failed");
  });

  it("asks the targets every five seconds while this node knows of all that came, and every second else", async () => {
    const drives = new TestDrives(3);
    const sizeBytes = 200 * CHUNK_SIZE_BYTES;
    const { uploadId } = await drives.drive(1).initUpload(uploadOf("/big", { sizeBytes }));
    const bytes = CONTENT.subarray(0, CHUNK_SIZE_BYTES);
    let surveyCount = 0;
    drives.replicas.onCall = ({ method }) => {
      if (method === "extentState") surveyCount += 1;
    };
    const watching = watch(drives, 1, uploadId);
    let index = 0;
    const sendFor = async (memberId: number, seconds: number): Promise<number> => {
      const before = surveyCount;
      for (let i = 0; i < seconds * 5; i += 1) {
        await drives.drive(memberId).writeChunk(uploadId, index, bytes, undefined);
        index += 1;
        await drives.clock.advance(200);
      }
      return (surveyCount - before) / 3;
    };

    expect(await sendFor(1, 10)).to.be.within(2, 4);
    expect(await sendFor(2, 10)).to.be.within(8, 11);
    await drives.drive(1).abortUpload(uploadId);
    await drives.clock.advance(SURVEY_INTERVAL_MS);
    await watching.over;
  });

  it("has as many watchers as transfers may have, and not one more", async () => {
    const drives = new TestDrives(3);
    const uploadId = await begin(drives);
    const leavers = Array.from({ length: PROGRESS_WATCHER_COUNT_MAX - 1 }, () =>
      drives.node(1).plane.progress.admitWatcher(),
    );
    const last = watch(drives, 1, uploadId);
    await drives.clock.advance(1);
    await expectReason("OVERLOADED", () => watch(drives, 1, uploadId).over);

    for (const leave of leavers) leave();
    await drives.drive(1).abortUpload(uploadId);
    await drives.clock.advance(SURVEY_INTERVAL_MS);
    await last.over;
  });

  describe("while a target hangs", () => {
    const HANG_MS = 10_000;
    const EXTENT_COUNT = 8;
    let drives: TestDrives;
    /** How often each member was asked what it holds. */
    let asked: Map<number, number>;

    beforeEach(() => {
      drives = new TestDrives(3);
      asked = new Map();
      drives.replicas.onCall = ({ method, memberId }) => {
        if (method !== "extentState") return undefined;
        asked.set(memberId, (asked.get(memberId) ?? 0) + 1);
        return memberId === 3 ? sleep(drives.clock, HANG_MS) : undefined;
      };
    });

    const beginMany = async (): Promise<number> => {
      const sizeBytes = EXTENT_COUNT * EXTENT_CHUNK_COUNT_MAX * CHUNK_SIZE_BYTES;
      return (await drives.drive(1).initUpload(uploadOf("/many", { sizeBytes }))).uploadId;
    };

    for (const [where, memberId, withinMs] of [
      ["at once at the node that completed it", 1, 2 * PROGRESS_INTERVAL_MS],
      ["within a second or so at another node", 2, SURVEY_INTERVAL_MS + 2 * PROGRESS_INTERVAL_MS],
    ] as const) {
      it(`is told to be done ${where}`, async () => {
        const uploadId = await begin(drives);
        await send(drives, 1, uploadId, 0);
        const watching = watch(drives, memberId, uploadId);
        await drives.clock.advance(10);
        for (const index of [1, 2]) await send(drives, 1, uploadId, index);
        await drives.drive(1).completeUpload(uploadId, {});

        await drives.clock.advance(withinMs);

        expect(newest(watching)).to.deep.equal(["done", SIZE_BYTES, ...ALL]);
        await watching.over;
      });
    }

    it("is told to be aborted within a second or so at another node, however many extents are still to be asked of", async () => {
      const uploadId = await beginMany();
      const watching = watch(drives, 1, uploadId);
      await drives.clock.advance(EXTENT_COUNT * HANG_MS);
      expect(newest(watching)[0]).to.equal("receiving");
      await drives.clock.advance(SURVEY_INTERVAL_HEARD_MS + 1);
      const askedCount = asked.get(3);

      await drives.drive(2).abortUpload(uploadId);
      await drives.clock.advance(SURVEY_INTERVAL_MS + 2 * PROGRESS_INTERVAL_MS);

      expect(newest(watching)[0]).to.equal("failed");
      await watching.over;
      await drives.clock.advance(HANG_MS);
      expect(asked.get(3), "the survey ended with it").to.equal(askedCount);
    });

    it("asks it no more once the watcher has left", async () => {
      const uploadId = await beginMany();
      const controller = new AbortController();
      const figures = drives.drive(1).watchProgress(String(uploadId), controller.signal);
      const leaving = expectReason("CANCELED", () => figures[Symbol.asyncIterator]().next());
      await drives.clock.advance(10);
      expect(asked.get(3)).to.equal(1);

      controller.abort();
      await leaving;
      await drives.clock.advance(2 * HANG_MS);

      expect(asked.get(3)).to.equal(1);
      expect(drives.clock.timerCount).to.equal(0);
    });

    it("asks it of no further extent once it is known to be down", async () => {
      const uploadId = await beginMany();
      const watching = watch(drives, 1, uploadId);
      await drives.clock.advance(10);
      drives.detector.health.set(3, "down");

      await drives.clock.advance(HANG_MS);

      expect([1, 2, 3].map((memberId) => asked.get(memberId))).to.deep.equal([EXTENT_COUNT, EXTENT_COUNT, 1]);
      await drives.drive(1).abortUpload(uploadId);
      await drives.clock.advance(SURVEY_INTERVAL_MS + PROGRESS_INTERVAL_MS);
      await watching.over;
    });
  });
});
