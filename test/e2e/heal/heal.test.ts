/** The bad month of a small cluster: the same job as `npm run heal`, with some MiB. */
import { expect } from "chai";
import { runHealJob } from "./heal-job.ts";

describe("A cluster of five that loses a node's data, has bits flipped, is drained and grows", function () {
  this.timeout(1_200_000);
  this.slow(120_000);

  it("keeps three verified copies of every file, and no request fails", async () => {
    const report = await runHealJob({
      totalBytes: 96 * 1024 ** 2,
      largeSizeBytes: 8 * 1024 ** 2,
      smallFileCount: 100,
      flipCount: 8,
      seed: 20_264,
      log: (line) => process.stdout.write(`      ${line}\n`),
    });

    expect(report.uploads.failures).to.deep.equal([]);
    expect(report.downloads.failures).to.deep.equal([]);
    expect(report.flippedCount).to.be.within(3, 8);
    expect(report.foundDamagedCount).to.be.greaterThan(0);
    expect(report.leftDamagedCount).to.equal(0);
    expect(report.fullyReplicatedCount).to.equal(report.extentCount);
  });
});
