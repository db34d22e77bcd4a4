/** Watching an upload at another node by asking, and what a relay adds to it. */
import { expect } from "chai";
import type { Progress } from "../../../src/drive/drive-api.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { SURVEY_INTERVAL_HEARD_MS, SURVEY_INTERVAL_MS } from "../../../src/transfer/progress-elsewhere.ts";
import type { ProgressRelay } from "../../../src/transfer/progress-relay.ts";
import { progressElsewhereContract } from "../../contract/progress-elsewhere.contract.ts";
import { TestDrives, uploadOf } from "../../support/use-drives.ts";

describe("An upload at another node, without a relay", function () {
  this.timeout(90_000);
  progressElsewhereContract(() => Promise.resolve([undefined, undefined]));
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
    await drives.clock.advance(SURVEY_INTERVAL_HEARD_MS - 500);
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
