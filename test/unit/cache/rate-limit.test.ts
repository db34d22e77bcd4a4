/** How many requests a client may send: one below and one above, at once and spread, and against a model for random times. */
import { expect } from "chai";
import fc from "fast-check";
import { clientKey, decideRate, type RateLimit } from "../../../src/cache/rate-limit.ts";

/** The times of `times` that are allowed. */
function allowed(limit: RateLimit, times: readonly number[]): number[] {
  let arrivalMs: number | undefined;
  return times.filter((nowMs) => {
    const decision = decideRate(limit, arrivalMs, nowMs);
    if (decision.allowed) ({ arrivalMs } = decision);
    return decision.allowed;
  });
}

describe("decideRate()", () => {
  const limit = { countMax: 10, windowMs: 1000 };

  it("allows as many at once as the bound says, and not one more", () => {
    const at5 = (count: number): number[] => Array.from({ length: count }, () => 5);

    expect(allowed(limit, at5(10))).to.have.length(10);
    expect(allowed(limit, at5(11))).to.have.length(10);
  });

  it("allows an even stream at the bound for ever, and refuses some of a faster one", () => {
    const even = Array.from({ length: 1000 }, (_, i) => i * 100);
    const faster = Array.from({ length: 1000 }, (_, i) => i * 99);

    expect(allowed(limit, even)).to.have.length(1000);
    expect(allowed(limit, faster)).to.have.length(999);
  });

  it("says when the next one is allowed: then it is, and just before it is not", () => {
    let arrivalMs: number | undefined;
    for (let i = 0; i < 10; i += 1) {
      const decision = decideRate(limit, arrivalMs, 0);
      if (decision.allowed) ({ arrivalMs } = decision);
    }

    const refused = decideRate(limit, arrivalMs, 0);

    expect(refused).to.deep.equal({ allowed: false, retryAfterMs: 100 });
    expect(decideRate(limit, arrivalMs, 99).allowed).to.equal(false);
    expect(decideRate(limit, arrivalMs, 100).allowed).to.equal(true);
  });

  it("never allows more than the bound and its refill in any stretch of time, and never starves a client", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 20 }),
        fc.integer({ min: 1, max: 5000 }),
        fc.array(fc.integer({ min: 0, max: 400 }), { minLength: 1, maxLength: 200 }),
        (countMax, windowMs, gaps) => {
          let nowMs = 0;
          const times = gaps.map((gap) => (nowMs += gap));
          const passed = allowed({ countMax, windowMs }, times);
          for (const [i, from] of passed.entries()) {
            for (const [j, to] of passed.slice(i).entries()) {
              if (j + 1 > countMax + ((to - from) * countMax) / windowMs + 1e-3) return false;
            }
          }
          // Who waits a window after the last request is let in again.
          return (
            passed.length > 0 &&
            times.every((time) => passed.some((each) => each <= time && time - each <= windowMs))
          );
        },
      ),
    );
  });
});

describe("clientKey()", () => {
  for (const [address, key] of [
    ["192.0.2.1", "192.0.2.1"],
    ["::ffff:192.0.2.1", "192.0.2.1"],
    ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
    ["2001:DB8:1:2:ffff::1", "2001:db8:1:2::/64"],
    ["2001:db8:0001:02::", "2001:db8:1:2::/64"],
    ["2001:db8::1", "2001:db8:0:0::/64"],
    ["::1", "0:0:0:0::/64"],
    ["fe80::1%eth0", "fe80:0:0:0::/64"],
    ["", ""],
  ] as const) {
    it(`counts ${JSON.stringify(address)} as ${JSON.stringify(key)}`, () => {
      expect(clientKey(address)).to.equal(key);
    });
  }
});
