/**
 * Prepared downloads over gRPC. Goal: a client sees what the drive says, and reads on at another node from the byte where one
 * broke off. Method: two servers on loopback over the same fake.
 */
import { expect } from "chai";
import { DriveError } from "../../../src/drive/errors.ts";
import { downloadService } from "../../../src/rpc/download-service.ts";
import { RemoteDriveApi } from "../../../src/rpc/remote-drive-api.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { SystemPrng } from "../../../src/std/prng.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { downloadStatus, FakePreparedDownloads, readyStatus } from "../../support/fake-prepared-downloads.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { startRpc, type RpcFixture } from "../../support/rpc-fixture.ts";
import { bytesOf } from "../../support/use-drives.ts";

const BYTES = Buffer.from(Array.from({ length: 5000 }, (_, i) => i % 251));

describe("Prepared downloads over gRPC", function () {
  this.timeout(20_000);
  let servers: RpcFixture[] = [];
  let remote: RemoteDriveApi;
  let downloads: FakePreparedDownloads;

  beforeEach(async () => {
    downloads = new FakePreparedDownloads(BYTES);
    const drive = new MemoryDrive();
    drive.preparedDownloads = downloads;
    servers = [
      await startRpc([downloadService(() => drive)]),
      await startRpc([downloadService(() => drive)]),
    ];
    const addresses = servers.map(({ address }) => address);
    remote = new RemoteDriveApi({ addresses, clock: new SystemClock(), prng: new SystemPrng() });
  });
  afterEach(async () => {
    remote.close();
    await Promise.all(servers.map((server) => server.stop()));
  });

  it("are asked for and told about", async () => {
    const asked = await remote.preparedDownloads.prepare(
      { sources: [{ path: "/a" }, { entryId: 9 }], name: "n" },
      { requestId: "k" },
    );
    const failed = downloadStatus({ state: "failed", error: { reason: "CHUNK_LOST", message: "Lost." } });
    downloads.states = [failed, readyStatus(BYTES.length)];

    expect(asked).to.deep.equal(downloadStatus());
    expect(downloads.asked).to.deep.equal([{ sources: [{ path: "/a" }, { entryId: 9 }], name: "n" }]);
    expect(downloads.requestIds).to.deep.equal(["k"]);
    expect(await remote.preparedDownloads.status(12)).to.deep.equal(failed);
    expect(await remote.preparedDownloads.status(12)).to.deep.equal(readyStatus(BYTES.length));
  });

  it("are released", async () => {
    await remote.preparedDownloads.release(12);
    expect(downloads.released).to.deep.equal([12]);

    downloads.failure = new DriveError("TASK_NOT_FOUND", "There is no task 12.");
    await expectReason("TASK_NOT_FOUND", () => remote.preparedDownloads.release(12));
  });

  it("are read on from the byte where a stream broke off", async () => {
    const opened = await remote.preparedDownloads.open(12);
    downloads.ranges.length = 0;
    downloads.breakAfter = { sizeBytes: 2500, error: new DriveError("NODE_STOPPING", "The node stops.") };

    const bytes = await bytesOf(opened.read(100, 4000));

    expect(bytes.equals(BYTES.subarray(100, 4100))).to.equal(true);
    expect(downloads.ranges).to.deep.equal([
      [100, 4000],
      [2600, 1500],
    ]);
    expect(opened).to.include({ sizeBytes: 5000, entryCount: 3, name: "照片.zip" });
  });

  it("are refused as the drive refuses them", async () => {
    const opened = await remote.preparedDownloads.open(12);
    await expectReason("RANGE_NOT_SATISFIABLE", () => bytesOf(opened.read(4999, 2)));

    downloads.failure = new DriveError("DOWNLOAD_NOT_READY", "Not yet.");

    await expectReason("DOWNLOAD_NOT_READY", () => remote.preparedDownloads.open(12));
  });
});
