/** A bad month at full size: `npm run heal` (16 GiB), or `npm run heal -- GIB`. Needs about four times that on the disk. */
import { isProven, runHealJob } from "./heal-job.ts";

const [gib = "16"] = process.argv.slice(2);
const report = await runHealJob({
  totalBytes: Number(gib) * 1024 ** 3,
  largeSizeBytes: 128 * 1024 ** 2,
  smallFileCount: 5000,
  flipCount: 100,
  seed: 20_264,
  log: (line) => process.stdout.write(`${line}\n`),
});
process.stdout.write(
  `${report.statusText}\n${JSON.stringify({ ...report, statusText: undefined }, null, 2)}\n`,
);
process.stdout.write(isProven(report) ? "PROVEN\n" : "NOT PROVEN\n");
process.exitCode = isProven(report) ? 0 : 1;
