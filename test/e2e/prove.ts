/** The main job at full size: `npm run prove` (20,000 files and one of 2 GiB), or `npm run prove -- FILES BYTES`. */
import { runMainJob } from "./main-job.ts";

const [files = "20000", bytes = String(2 * 1024 ** 3)] = process.argv.slice(2);
const report = await runMainJob({
  fileCount: Number(files),
  largeSizeBytes: Number(bytes),
  seed: 20_262,
  log: (line) => process.stdout.write(`${line}\n`),
});
process.stdout.write(
  `${report.statusText}\n${JSON.stringify({ ...report, statusText: undefined }, null, 2)}\n`,
);
const proven =
  report.putExitCode === 0 &&
  report.differences.length === 0 &&
  report.underReplicatedCount === 0 &&
  report.fileCount === report.sourceCount;
process.stdout.write(proven ? "PROVEN\n" : "NOT PROVEN\n");
process.exitCode = proven ? 0 : 1;
