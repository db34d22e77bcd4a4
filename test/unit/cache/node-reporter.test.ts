/** Goal: what a node tells of its readiness is never much older than a change of it. Method: a fake clock, and reports kept in a list. */
import { expect } from "chai";
import { NodeReporter, READINESS_INTERVAL_MS, REPORT_INTERVAL_MS } from "../../../src/cache/node-reporter.ts";
import { FakeClock } from "../../support/fake-clock.ts";

const FIGURES = {
  ...{ inflightBytes: 0, appliedIndex: 1, freeBytes: 2, totalBytes: 3 },
  ...{ transfers: [], tasks: [] },
};

describe("NodeReporter", () => {
  let clock: FakeClock;
  let isReady: boolean;
  let told: boolean[];
  let reporter: NodeReporter;

  beforeEach(() => {
    clock = new FakeClock();
    isReady = false;
    told = [];
    reporter = new NodeReporter({
      clock,
      isReady: () => isReady,
      report: () => FIGURES,
      publish: (report) => Promise.resolve(told.push(report.isReady)),
    });
    reporter.start();
  });

  afterEach(() => reporter.stop());

  it("tells at once of a node that becomes ready, and of one that is so no more", async () => {
    await clock.advance(1);
    expect(told).to.deep.equal([false]);

    isReady = true;
    await clock.advance(READINESS_INTERVAL_MS);
    expect(told).to.deep.equal([false, true]);

    isReady = false;
    await clock.advance(READINESS_INTERVAL_MS);
    expect(told).to.deep.equal([false, true, false]);
  });

  it("tells at intervals of a node that stays as it was", async () => {
    await clock.advance(REPORT_INTERVAL_MS - 1);
    expect(told).to.have.length(1);

    await clock.advance(READINESS_INTERVAL_MS);
    expect(told).to.have.length(2);
  });
});
