/** One round of `npm run services`: all three services fail under a small load. */
import { expect } from "chai";
import { must } from "../../../src/std/assert.ts";
import { MEDIAN_FACTOR_MAX, MEDIAN_SLACK_MS } from "./service-load.ts";
import { runServicesJob, slowPhases } from "./services-job.ts";

describe("A cluster whose PostgreSQL, Redis and RabbitMQ are killed, frozen, cut and emptied", function () {
  this.timeout(1_200_000);
  this.slow(180_000);

  it("serves every request meanwhile, and afterwards has done every task once and projected every row", async () => {
    const report = await runServicesJob({
      rounds: 1,
      seed: 20_265,
      log: (line) => process.stdout.write(`      ${line}\n`),
    });

    expect(report.failures).to.deep.equal([]);
    expect(report.taskStates).to.deep.equal({ done: report.taskCount });
    expect(report.uncheckedFileIds).to.deep.equal([]);
    expect(report.finishedCount).to.be.at.most(report.taskCount);
    expect(report.purgedCount).to.be.greaterThan(0);
    expect(report.deadLetterCount).to.be.greaterThan(0);
    const slow = `medians above ${MEDIAN_FACTOR_MAX} times that with all up and ${MEDIAN_SLACK_MS} ms`;
    expect(slowPhases(report), slow).to.deep.equal([]);
    expect(must(report.latencies[0], "a phase").phase).to.equal("all up");
  });
});
