/** What every counter of requests promises. Windows are long, so that a slow machine changes nothing; waiting is tested with a short one. */
import { expect } from "chai";
import type { RequestCounters, RequestLimits } from "../../src/cache/request-counters.ts";
import { eventually } from "../support/eventually.ts";

const HOUR_MS = 3_600_000;

/** How often `count` requests from `address` are allowed. */
async function takeMany(counters: RequestCounters, address: string, count: number): Promise<number> {
  let allowedCount = 0;
  for (let i = 0; i < count; i += 1) if ((await counters.take(address)).allowed) allowedCount += 1;
  return allowedCount;
}

/** Registers the tests. @param open makes counters that know nothing yet */
export function requestCountersContract(open: (limits: RequestLimits) => Promise<RequestCounters>): void {
  const perAddress = { countMax: 5, windowMs: HOUR_MS };

  it("allows an address as many as its bound says, and not one more", async () => {
    const counters = await open({ perAddress, inAll: undefined });

    expect(await takeMany(counters, "192.0.2.1", 5)).to.equal(5);
    const refused = await counters.take("192.0.2.1");

    expect(refused).to.deep.include({ allowed: false, scope: "address" });
    if (!refused.allowed) expect(refused.retryAfterMs).to.be.within(1, HOUR_MS / 5);
  });

  it("counts addresses apart, and one client's IPv6 addresses together", async () => {
    const counters = await open({ perAddress, inAll: undefined });

    expect(await takeMany(counters, "192.0.2.1", 6)).to.equal(5);
    expect(await takeMany(counters, "192.0.2.2", 6)).to.equal(5);
    expect(await takeMany(counters, "2001:db8::1", 3)).to.equal(3);
    expect(await takeMany(counters, "2001:db8::2", 3)).to.equal(2);
  });

  it("bounds all addresses together, and does not count what an address was refused", async () => {
    const counters = await open({ perAddress, inAll: { countMax: 8, windowMs: HOUR_MS } });

    expect(await takeMany(counters, "192.0.2.1", 100)).to.equal(5);
    expect(await takeMany(counters, "192.0.2.2", 3)).to.equal(3);
    expect(await counters.take("192.0.2.3")).to.deep.include({ allowed: false, scope: "all" });
  });

  it("does not count for an address what was refused to all", async () => {
    const counters = await open({
      perAddress: { countMax: 2, windowMs: HOUR_MS },
      inAll: { countMax: 1, windowMs: 1000 },
    });
    let allowedCount = 0;

    await eventually(
      "the address has used up its own bound",
      async () => {
        const decision = await counters.take("192.0.2.1");
        if (decision.allowed) allowedCount += 1;
        return !decision.allowed && decision.scope === "address";
      },
      { withinMs: 20_000 },
    );

    // Between the two there were refusals to all; had they counted, the second would have been refused to the address.
    expect(allowedCount).to.equal(2);
  });

  it("allows an address again after a time", async () => {
    const counters = await open({ perAddress: { countMax: 2, windowMs: 1000 }, inAll: undefined });
    await takeMany(counters, "192.0.2.1", 1000);

    await eventually("it is let in again", async () => (await counters.take("192.0.2.1")).allowed, {
      withinMs: 20_000,
    });
  });
}
