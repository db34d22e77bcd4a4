/**
 * Mocha's "spec" reporter, closed by one plain line that a program can read: "N passed, N failed".
 */
import Mocha from "mocha";

export default class PlainSummaryReporter extends Mocha.reporters.Spec {
  constructor(runner, options) {
    super(runner, options);
    runner.once(Mocha.Runner.constants.EVENT_RUN_END, () => {
      const { passes, failures } = this.stats;
      process.stdout.write(`\n${passes} passed, ${failures} failed\n`);
    });
  }
}
