/** `netdisk uploads`, and what `cluster status` says of unfinished uploads. */
import { expect } from "chai";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { patternBytes, uploadOf } from "../../support/use-drives.ts";
import { netdisk } from "./run-cli.ts";

describe("netdisk uploads", () => {
  let drive: MemoryDrive;
  let uploadId = 0;

  beforeEach(async () => {
    drive = new MemoryDrive();
    const sizeBytes = 4 * CHUNK_SIZE_BYTES + 7;
    uploadId = (await drive.initUpload(uploadOf("/照片.bin", { sizeBytes }))).uploadId;
    for (const index of [0, 2]) {
      await drive.writeChunk(uploadId, index, patternBytes(CHUNK_SIZE_BYTES), undefined);
    }
  });

  it("lists which file each is to be, what came of it, and until when it is kept", async () => {
    const { code, out, err } = await netdisk(["uploads", "ls"], { drive });

    expect(code, err).to.equal(0);
    expect(out).to.match(
      new RegExp(`^${uploadId} +2\\.0 MiB of 4\\.0 MiB +25 min 0 s +2026-11-30 06:30:00 +/照片\\.bin$`, "m"),
    );
    const json = await netdisk(["uploads", "ls", "--json"], { drive });
    expect(json.records()).to.deep.equal([
      {
        ...{ uploadId: String(uploadId), path: "/照片.bin", sizeBytes: 4 * CHUNK_SIZE_BYTES + 7 },
        ...{ receivedBytes: 2 * CHUNK_SIZE_BYTES, idleMs: 1_500_000 },
        expireTime: "2026-11-30T06:30:00.000Z",
      },
    ]);
  });

  it("discards one, after which there are none", async () => {
    const discarded = await netdisk(["uploads", "discard", String(uploadId)], { drive });

    expect(discarded.code, discarded.err).to.equal(0);
    expect(discarded.out).to.include(`Upload ${uploadId} is discarded`);
    expect((await netdisk(["uploads", "ls"], { drive })).out).to.include("There are no unfinished uploads.");
    expect((await netdisk(["uploads", "discard", String(uploadId)], { drive })).code).to.equal(1);
    expect((await netdisk(["uploads", "discard", "all"], { drive })).code).to.equal(2);
  });

  it("are told of by the status, with what was announced, and by number alone where a node knows no more", async () => {
    const told = await netdisk(["cluster", "status"], { drive });
    drive.openUploads = () => Promise.reject(new DriveError("INTERNAL", "The node is older."));
    const older = await netdisk(["cluster", "status"], { drive });
    await drive.abortUpload(uploadId);
    const none = await netdisk(["cluster", "status"], { drive });

    expect(told.out).to.include(
      '1 unfinished upload (4.0 MiB announced, idle for 25 min 0 s at most, kept until 2026-11-30 06:30:00 UTC); "netdisk uploads ls"',
    );
    expect(older.out).to.match(/^1 unfinished upload\.$/m);
    expect([older.code, none.code]).to.deep.equal([0, 0]);
    expect(none.out).to.not.include("unfinished");
  });
});
