/** All three services fail again and again: `npm run services` (5 rounds), or `npm run services -- ROUNDS`. */
import { isProven, runServicesJob } from "./services-job.ts";

const [rounds = "5"] = process.argv.slice(2);
const report = await runServicesJob({
  rounds: Number(rounds),
  seed: 20_265,
  log: (line) => process.stdout.write(`${line}\n`),
});
process.stdout.write(`${JSON.stringify(report, null, 2)}\n${isProven(report) ? "PROVEN" : "NOT PROVEN"}\n`);
process.exitCode = isProven(report) ? 0 : 1;
