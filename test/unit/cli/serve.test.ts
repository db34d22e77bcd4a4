/**
 * Goal: a node runs until it is told to stop, stops once, and a wrong configuration is told whole before anything starts.
 * Method: a node that only remembers what was asked of it, and signals delivered by hand.
 */
import { expect } from "chai";
import * as fs from "node:fs";
import { join } from "node:path";
import type { RunnableNode } from "../../../src/cli/cli-io.ts";
import { STOP_MARGIN_MS } from "../../../src/cli/serve.ts";
import { defaultConfig, type Config } from "../../../src/config/config.ts";
import { DriveError, REASONS } from "../../../src/drive/errors.ts";
import { deferred } from "../../../src/std/deferred.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";
import { netdisk, useDirectory, type CliWorld } from "./run-cli.ts";

/** A node that starts and stops when the test says so. */
class FakeNode implements RunnableNode {
  readonly starting = deferred<void>();
  readonly stopping = deferred<void>();
  config: Config | undefined;
  readonly calls: string[] = [];

  start(): Promise<void> {
    this.calls.push("start");
    return this.starting.promise;
  }

  stop(): Promise<void> {
    this.calls.push("stop");
    return this.stopping.promise;
  }
}

/** A world with `node`, and the function that sends it a signal. */
function worldOf(node: FakeNode): { world: CliWorld; signal: (name: string) => void } {
  const holder: { signal: (name: string) => void } = { signal: () => undefined };
  const world: CliWorld = {
    createNode: (config) => {
      node.config = config;
      return node;
    },
    onListen: (signal) => (holder.signal = signal),
  };
  return { world, signal: (name) => holder.signal(name) };
}

describe("netdisk serve", () => {
  const here = useDirectory();

  it("gives the node the configuration of file, environment and flags", async () => {
    const node = new FakeNode();
    const { world, signal } = worldOf(node);
    fs.writeFileSync(join(here.path, "n.yaml"), "http: {port: 1111}\nnode: {id: file}\nlog: {level: warn}\n");
    node.starting.resolve();
    node.stopping.resolve();

    const running = netdisk(["serve", "--config", "n.yaml", "--node-id", "flag"], {
      ...world,
      directory: here.path,
      environment: { NODE_ID: "environment", NETDISK_HTTP_PORT: "2222" },
    });
    setTimeout(() => signal("SIGTERM"), 50);

    expect((await running).code).to.equal(0);
    expect(node.config?.node.id).to.equal("flag");
    expect(node.config?.http.port).to.equal(2222);
    expect(node.config?.log.level).to.equal("warn");
    expect(node.calls).to.deep.equal(["start", "stop"]);
  });

  it("stops in order at the first signal and ends at once at the second", async () => {
    const node = new FakeNode();
    const { world, signal } = worldOf(node);
    node.starting.resolve();

    const running = netdisk(["serve"], { ...world, directory: here.path });
    await settle();
    signal("SIGINT");
    await settle();
    const stopped = [...node.calls];
    signal("SIGINT");

    expect((await running).code).to.equal(1);
    expect(stopped).to.deep.equal(["start", "stop"]);
  });

  it("ends a node that does not stop within its grace and a margin", async () => {
    const node = new FakeNode();
    const { world, signal } = worldOf(node);
    const clock = new FakeClock();
    const ended = { code: undefined as number | undefined };
    node.starting.resolve();
    const running = netdisk(["serve"], { ...world, directory: here.path, clock }).then((result) => {
      ended.code = result.code;
      return result;
    });
    await settle();
    signal("SIGTERM");

    await clock.advance(defaultConfig().node.stopGraceMs + STOP_MARGIN_MS - 1);
    const before = ended.code;
    await clock.advance(1);

    expect(before).to.equal(undefined);
    const { log } = await running;
    expect(log.map(({ event }) => event)).to.deep.equal(["stop_overdue"]);
    expect(ended.code).to.equal(1);
  });

  for (const how of ["refused", "not started"]) {
    it(`ends a node that was ${how} and does not stop within the same time, with the reason in its log`, async () => {
      const node = new FakeNode();
      const clock = new FakeClock();
      const error = new DriveError("VERSION_UNSUPPORTED", "The cluster has feature level 2.");
      const world: CliWorld = {
        createNode: () => Object.assign(node, how === "refused" ? { refused: Promise.resolve(error) } : {}),
      };
      if (how === "refused") node.starting.resolve();
      else node.starting.reject(error);
      const ended = { code: undefined as number | undefined };
      const running = netdisk(["serve"], { ...world, directory: here.path, clock }).then((result) => {
        ended.code = result.code;
        return result;
      });
      await settle();

      await clock.advance(defaultConfig().node.stopGraceMs + STOP_MARGIN_MS - 1);
      const before = ended.code;
      await clock.advance(1);

      expect(before).to.equal(undefined);
      const { log, code } = await running;
      expect(log.map(({ event }) => event)).to.deep.equal(["node_refused", "stop_overdue"]);
      expect(code).to.equal(1);
    });
  }

  it("stops a node that is told to while it starts", async () => {
    const node = new FakeNode();
    const { world, signal } = worldOf(node);
    node.stopping.resolve();

    const running = netdisk(["serve"], { ...world, directory: here.path });
    await settle();
    signal("SIGTERM");

    expect((await running).code).to.equal(0);
    expect(node.calls).to.deep.equal(["start", "stop"]);
  });

  it("tells of what the system refuses in the log too, with what to do, and no bare line beside it", async () => {
    const node = new FakeNode();
    const { world } = worldOf(node);
    node.stopping.resolve();
    const made = fs.promises.mkdir(join(here.path, "none/data"));
    const refusal = await made.then(
      () => new Error("it was made"),
      (error: unknown) => error as Error,
    );
    node.starting.reject(refusal);

    const { code, err, log } = await netdisk(["serve"], { ...world, directory: here.path });

    expect([code, err, log.length]).to.deep.equal([1, "", 1]);
    expect(log[0]).to.include({ level: "fatal", event: "start_failed", code: "ENOENT" });
    expect(log[0]?.["message"]).to.include("none/data: No folder can be made here.");
    expect(log[0]?.["remedy"]).to.include("start the node again");
  });

  for (const terminalColumns of [undefined, 80]) {
    const where = terminalColumns === undefined ? "as one JSON line" : "on a terminal in a readable line too";

    it(`says why a node cannot start, ${where}, and ends with 1`, async () => {
      const node = new FakeNode();
      const { world } = worldOf(node);
      node.stopping.resolve();
      node.starting.reject(new DriveError("DATA_CORRUPT", "The log is damaged.", { path: "raft/1" }));

      const settings = { ...world, directory: here.path, ...(terminalColumns && { terminalColumns }) };
      const { code, err, log } = await netdisk(["serve", "--node-id", "n7"], settings);

      expect(code).to.equal(1);
      expect(log).to.have.length(1);
      expect(log[0]).to.include({
        level: "fatal",
        node: "n7",
        event: "start_failed",
        code: "DATA_CORRUPT",
        message: "The log is damaged.",
        remedy: REASONS.DATA_CORRUPT.remedy,
      });
      const readable = `netdisk: The log is damaged. ${REASONS.DATA_CORRUPT.remedy} [DATA_CORRUPT]\n`;
      expect(err).to.equal(terminalColumns === undefined ? "" : readable);
      expect(node.calls).to.deep.equal(["start", "stop"]);
    });
  }

  it("says why it stops before the node logs that it stops, when it cannot start and when it is refused", async () => {
    for (const how of ["start", "refuse"]) {
      const error = new DriveError("MEMBER_REMOVED", "Member 7 was removed from the cluster.");
      const refused = deferred<DriveError>();
      const world: CliWorld = {
        createNode: (_config, logger) => ({
          refused: refused.promise,
          start: () => (how === "start" ? Promise.reject(error) : Promise.resolve()),
          stop: () => {
            logger.info("node_stopping");
            return Promise.resolve();
          },
        }),
      };
      if (how === "refuse") refused.resolve(error);

      const { code, log } = await netdisk(["serve"], { ...world, directory: here.path });

      expect(code, how).to.equal(1);
      expect(log.map(({ event }) => event)).to.deep.equal(["node_refused", "node_stopping"]);
    }
  });

  it("logs the warnings of the runtime as JSON", async () => {
    const node = new FakeNode();
    const { world, signal } = worldOf(node);
    const holder = { warn: (_warning: Error): void => undefined };
    node.starting.resolve();
    node.stopping.resolve();

    const running = netdisk(["serve"], {
      ...world,
      directory: here.path,
      onWarning: (warn) => (holder.warn = warn),
    });
    await settle();
    holder.warn(Object.assign(new Error("It leaks."), { name: "LeakWarning", code: "L1" }));
    signal("SIGTERM");

    const { log, err } = await running;
    expect(err).to.equal("");
    expect(log[0]).to.include({
      level: "warn",
      event: "process_warned",
      name: "LeakWarning",
      message: "It leaks.",
      code: "L1",
    });
  });

  it("lists all that is wrong with the configuration and ends with 2", async () => {
    const node = new FakeNode();
    const environment = { NETDISK_HTTP_PORT: "0", NODE_ADDR: "nowhere", NETDISK_TYPO: "1" };

    const { code, err, log } = await netdisk(["serve"], {
      ...worldOf(node).world,
      directory: here.path,
      environment,
      terminalColumns: 80,
    });

    expect(code).to.equal(2);
    expect(log.map((line) => line["code"])).to.deep.equal(["CONFIGURATION_INVALID"]);
    expect(err)
      .to.include("3 problems")
      .and.include("NETDISK_HTTP_PORT")
      .and.include("NODE_ADDR")
      .and.include("NETDISK_TYPO");
    expect(node.calls).to.deep.equal([]);
  });

  it("says that a configuration file is missing", async () => {
    const { code, log } = await netdisk(["serve", "--config", "none.yaml"], { directory: here.path });

    expect(code).to.equal(2);
    expect(log[0]?.["message"]).to.include("none.yaml").and.include("ENOENT");
  });

  it("asks for a larger thread pool when nothing set it", async () => {
    const node = new FakeNode();
    const { world, signal } = worldOf(node);
    node.starting.resolve();
    node.stopping.resolve();
    setTimeout(() => signal("SIGTERM"), 20);

    const { log } = await netdisk(["serve"], { ...world, environment: { UV_THREADPOOL_SIZE: undefined } });

    expect(log[0]).to.include({ level: "warn", event: "thread_pool_small" });
    expect(log[0]?.["remedy"]).to.include("UV_THREADPOOL_SIZE");
  });
});

describe("netdisk config print", () => {
  it("prints what serve would use, as YAML and as JSON, without secrets", async () => {
    const environment = { POSTGRES_URL: "postgres://u:hunter2@db/x", NETDISK_HTTP_PORT: "9999" };

    const text = await netdisk(["config", "print"], { environment });
    const json = await netdisk(["config", "print", "--json", "--log-level", "debug"], { environment });

    expect([text.code, json.code]).to.deep.equal([0, 0]);
    expect(text.out).to.include("port: 9999").and.not.include("hunter2");
    expect(json.records()[0]?.["log"]).to.deep.equal({ level: "debug" });
    expect(json.out).to.not.include("hunter2");
  });
});
