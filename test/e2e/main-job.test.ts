/** The promise of the whole product on a smaller tree; `npm run prove` runs it in full. */
import { expect } from "chai";
import { runMainJob } from "./main-job.ts";

const MIB = 1024 * 1024;

describe("A folder put into the drive while nodes are killed", () => {
  it("reads back equal in three verified copies after the power cut of all nodes", async function () {
    this.timeout(300_000);

    const report = await runMainJob({
      fileCount: 1500,
      largeSizeBytes: 160 * MIB,
      seed: 20_261,
      log: (line) => process.stdout.write(`      ${line}\n`),
    });

    expect(report.putExitCode, report.putErrors).to.equal(0);
    expect(report.differences).to.deep.equal([]);
    expect(report.fileCount).to.equal(report.sourceCount);
    expect(report.underReplicatedCount).to.equal(0);
    expect(report.fullyReplicatedCount).to.equal(report.extentCount);
    expect(report.statusText).to.match(/three verified copies/);
  });
});
