/** Too many requests over HTTP: what is refused, what the answer says, and what is never refused. */
import { expect } from "chai";
import type { RequestAdmission } from "../../../src/gateway/request-limiter.ts";
import { useGateway, type ErrorJson } from "./use-gateway.ts";

describe("The gateway with a bound on requests", () => {
  const asked: string[] = [];
  let admission: RequestAdmission = { allowed: true };
  const at = useGateway(
    {},
    {
      requestLimiter: {
        take: (address) => {
          asked.push(address);
          return Promise.resolve(admission);
        },
      },
    },
  );

  beforeEach(() => {
    asked.length = 0;
    admission = { allowed: true };
  });

  it("asks for each request by its client's address, and serves those that are allowed", async () => {
    const response = await at.fetch("/api/files?path=/");

    expect(response.status).to.equal(200);
    expect(asked).to.deep.equal(["127.0.0.1"]);
  });

  for (const [retryAfterMs, seconds] of [
    [0.2, "1"],
    [1000, "1"],
    [1001, "2"],
  ] as const) {
    it(`refuses with 429 and says to come again after ${seconds} s when that is in ${retryAfterMs} ms`, async () => {
      admission = { allowed: false, scope: "address", retryAfterMs };

      const response = await at.fetch("/api/files?path=/");

      expect(response.status).to.equal(429);
      expect(response.headers.get("Retry-After")).to.equal(seconds);
      const { error } = (await response.json()) as ErrorJson;
      expect(error).to.deep.equal({
        code: "TOO_MANY_REQUESTS",
        message: "Too many requests of this address.",
        remedy: "Wait as long as Retry-After says, then send the same request again.",
        metadata: { scope: "address", retry_after_ms: String(Math.ceil(retryAfterMs)) },
      });
    });
  }

  it("refuses uploads before their bytes, and stores nothing of them", async () => {
    admission = { allowed: false, scope: "all", retryAfterMs: 10 };
    const response = await at.fetch("/api/files/content?path=/a.bin", {
      method: "PUT",
      body: "x".repeat(100_000),
    });
    admission = { allowed: true };

    expect(response.status).to.equal(429);
    expect((await at.fetch("/api/files?path=/a.bin")).status).to.equal(404);
  });

  it("never refuses health checks and metrics", async () => {
    admission = { allowed: false, scope: "all", retryAfterMs: 10 };

    for (const path of ["/livez", "/readyz?verbose", "/healthz", "/metrics"]) {
      expect((await at.fetch(path)).status, path).to.equal(200);
    }
    expect(asked).to.deep.equal([]);
  });
});
