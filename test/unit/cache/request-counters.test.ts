/** Counters of requests of one node: the contract, and their bound. */
import { expect } from "chai";
import { EmbeddedRequestCounters } from "../../../src/cache/request-counters.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { requestCountersContract } from "../../contract/request-counters.contract.ts";
import { FakeClock } from "../../support/fake-clock.ts";

describe("EmbeddedRequestCounters", function () {
  this.timeout(60_000);
  requestCountersContract((limits) =>
    Promise.resolve(new EmbeddedRequestCounters(new SystemClock(), limits)),
  );

  it("forgets the address that was quiet longest when there are too many, and no other", () => {
    const limits = { perAddress: { countMax: 1, windowMs: 1000 }, inAll: undefined };
    const counters = new EmbeddedRequestCounters(new FakeClock(), limits, 3);
    const take = (address: string): boolean => counters.takeNow(address).allowed;

    expect(["a", "b", "c"].map(take)).to.deep.equal([true, true, true]);
    expect(["a", "b", "c"].map(take)).to.deep.equal([false, false, false]);
    expect(take("d")).to.equal(true);

    expect(["b", "c"].map(take)).to.deep.equal([false, false]);
    expect(take("a")).to.equal(true);
  });
});
