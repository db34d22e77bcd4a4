/** Goal: the line of a transfer says all that matters in the terminal that there is. Method: every width. */
import { expect } from "chai";
import { summarise, TransferMeter } from "../../../src/cli/transfer-meter.ts";
import { FakeClock } from "../../support/fake-clock.ts";

const MIB = 1024 * 1024;

async function meterOf(kind: "put" | "get"): Promise<TransferMeter> {
  const clock = new FakeClock();
  const meter = new TransferMeter(kind, clock);
  meter.foundCount = 1;
  meter.foundBytes = 572 * MIB;
  const share = meter.begin();
  share.transferredBytes = 429 * MIB;
  share.copiedBytes = [429 * MIB, 428 * MIB, 143 * MIB];
  await clock.advance(4290);
  return meter;
}

describe("The line of a transfer", () => {
  it("shows bytes of every copy where there is room", async () => {
    const line = (await meterOf("put")).line();
    expect(line).to.equal(
      "[###############-----] 75%  0/1 files  429.0 MiB/572.0 MiB  copies 1: 429.0 MiB 2: 428.0 MiB 3: 143.0 MiB  100.0 MiB/s  4.3 s",
    );
    expect((await meterOf("put")).line(line.length)).to.equal(line);
    expect((await meterOf("put")).line(line.length - 1))
      .to.include("[###############-----]")
      .and.include("copies 75% 74% 25%");
  });

  it("shows all three copies in 80 columns, and never more than fits", async () => {
    const meter = await meterOf("put");
    expect(meter.line(79)).to.equal(
      "75%  0/1 files  429.0 MiB/572.0 MiB  copies 75% 74% 25%  100.0 MiB/s  4.3 s",
    );
    for (let columns = 1; columns <= 140; columns += 1) {
      const line = meter.line(columns);
      expect(line.length).to.be.at.most(columns);
      if (columns >= 44) expect(line).to.match(/copies 75% 74% 25%|copies 1: 429.0 MiB/);
    }
  });

  it("counts in the rate and the summary only what came since the start", async () => {
    const clock = new FakeClock();
    const meter = new TransferMeter("get", clock);
    meter.foundCount = 1;
    meter.foundBytes = 500 * MIB;
    const share = meter.begin();
    share.transferredBytes = 500 * MIB;
    share.presentBytes = 400 * MIB;
    await clock.advance(2000);

    expect(meter.line()).to.include("500.0 MiB/500.0 MiB").and.include("  50.0 MiB/s  ");
    meter.end(share, true);
    meter.doneCount = 1;
    expect(summarise(meter, "fetched")).to.equal(
      "1 file fetched, 100.0 MiB in 2.0 s (400.0 MiB more were there already).",
    );
  });

  it("says nothing of copies for what is fetched", async () => {
    expect((await meterOf("get")).line()).not.to.include("copies");
  });
});
