/** The shape of a log line, and that secrets stay out of it. */
import { expect } from "chai";
import {
  createLogger,
  LOG_DEPTH_MAX,
  redact,
  silentLogger,
  type LogLevel,
} from "../../../src/telemetry/logger.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import type { Clock } from "../../../src/std/clock.ts";

const clock: Clock = {
  monotonicMs: () => 0,
  wallMs: () => Date.UTC(2026, 0, 2, 3, 4, 5, 6),
  setTimer: () => ({ cancel: () => undefined }),
};

function loggerTo(lines: string[], level: LogLevel | "silent" = "debug") {
  return createLogger({ node: "n1", level, clock, destination: { write: (line) => lines.push(line) } });
}

describe("createLogger()", () => {
  it("writes one JSON line an event with time, level, node, module and event", () => {
    const lines: string[] = [];
    loggerTo(lines).child("raft").info("election_won", { term: 7 });
    expect(lines.length).to.equal(1);
    expect(lines[0]?.endsWith("\n")).to.equal(true);
    expect(JSON.parse(lines[0] ?? "")).to.deep.equal({
      time: "2026-01-02T03:04:05.006Z",
      level: "info",
      node: "n1",
      module: "raft",
      event: "election_won",
      term: 7,
    });
  });

  it("drops events below its level, and keeps those at it", () => {
    const lines: string[] = [];
    const logger = loggerTo(lines, "warn");
    logger.info("started");
    logger.warn("slowed");
    logger.error("failed");
    logger.fatal("ended");
    expect(lines.map((line) => (JSON.parse(line) as { event: string }).event)).to.deep.equal([
      "slowed",
      "failed",
      "ended",
    ]);
  });

  it("writes one module only, however often a child has a child", () => {
    const lines: string[] = [];
    loggerTo(lines).child("rpc").child("raft").debug("sent");
    expect(lines[0]?.match(/"module"/g)?.length).to.equal(1);
    expect(lines[0]).to.include('"module":"raft"');
  });

  it("spells out an error with its reason, stack and cause", () => {
    const lines: string[] = [];
    const error = new DriveError("NO_SPACE", "The disk is full.", { node_id: "n1" }, new Error("ENOSPC"));
    loggerTo(lines).error("write_failed", { error });
    const line = JSON.parse(lines[0] ?? "") as {
      error: Record<string, unknown> & { cause: { message: string } };
    };
    expect(line.error["reason"]).to.equal("NO_SPACE");
    expect(line.error["message"]).to.equal("The disk is full.");
    expect(line.error["stack"]).to.include("logger.test");
    expect(line.error.cause.message).to.equal("ENOSPC");
  });

  it("keeps secrets out of the line at any depth", () => {
    const lines: string[] = [];
    loggerTo(lines).info("configured", {
      password: "canary-1",
      nested: { apiKey: "canary-2", headers: [{ authorization: "canary-3" }] },
      url: "redis://user:canary-4@host:6379/0",
      joinToken: "canary-5",
      error: new Error("cannot reach postgres://me:canary-6@db/x"),
    });
    expect(lines[0]).to.not.include("canary");
    expect(lines[0]).to.include("redis://[redacted]@host:6379/0");
  });
});

describe("redact()", () => {
  it("shows values at the deepest level allowed and cuts those below, cycles included", () => {
    const nest = (depth: number): Record<string, unknown> =>
      depth === 0 ? { leaf: 1 } : { next: nest(depth - 1) };
    expect(JSON.stringify(redact(nest(LOG_DEPTH_MAX)))).to.include("leaf");
    expect(JSON.stringify(redact(nest(LOG_DEPTH_MAX + 1)))).to.include("[deep]");
    const cycle: Record<string, unknown> = {};
    cycle["self"] = cycle;
    expect(JSON.stringify(redact(cycle))).to.include("[deep]");
  });

  it("shows byte arrays by their length and big integers as text", () => {
    expect(redact({ bytes: new Uint8Array(3), big: 5n, nothing: undefined, none: null })).to.deep.equal({
      bytes: "[3 bytes]",
      big: "5",
      nothing: undefined,
      none: null,
    });
  });
});

describe("silentLogger", () => {
  it("takes every event and its children do too", () => {
    const logger = silentLogger.child("x");
    for (const level of ["debug", "info", "warn", "error", "fatal"] as const)
      logger[level]("happened", { a: 1 });
    expect(logger).to.equal(silentLogger);
  });
});
