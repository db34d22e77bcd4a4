/**
 * Goal: `up` starts real processes, says when they are ready, tells of deaths, stops all of them, and never leaves one behind.
 * Method: instead of nodes it starts small scripts that answer /readyz and do what their data directory says.
 */
import { expect } from "chai";
import * as fs from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { basename, join } from "node:path";
import { openLayout, type Layout, type LayoutQuestions, type LocalNode } from "../../../src/cli/up-layout.ts";
import { UsageError } from "../../../src/cli/exit-code.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { netdisk, useDirectory, type CliResult } from "./run-cli.ts";

/** A stand-in for `netdisk serve`: answers /readyz, stops at SIGTERM, notes what it was told. */
const NODE_SCRIPT = `
  const fs = require("node:fs");
  const args = process.argv.slice(1);
  const flag = (name) => args[args.indexOf(name) + 1];
  const directory = flag("--data-directory");
  fs.appendFileSync(directory + "/starts", JSON.stringify({ args, pid: process.pid, pool: process.env.UV_THREADPOOL_SIZE, arenas: process.env.MALLOC_ARENA_MAX }) + "\\n");
  if (fs.existsSync(directory + "/../fail-" + flag("--node-id"))) {
    // The others are up first, so that there is something to stop.
    const others = ["node1", "node3"].map((name) => directory + "/../" + name + "/starts");
    const fail = () => {
      if (!others.every((path) => fs.existsSync(path))) return void setTimeout(fail, 20);
      console.error(fs.readFileSync(directory + "/../fail-" + flag("--node-id"), "utf8") || "cannot start: reasons");
      process.exit(7);
    };
    fail();
  } else {
  const end = (how) => { fs.appendFileSync(directory + "/ends", how + "\\n"); process.exit(0); };
  process.on("SIGTERM", () => end("SIGTERM"));
  process.on("disconnect", () => end("disconnect"));
  require("node:http").createServer((request, response) => response.end("ok")).listen(Number(flag("--http-port")), "127.0.0.1");
  }
`;

interface Start {
  readonly args: readonly string[];
  readonly pid: number;
  readonly pool: string;
  readonly arenas: string;
}

describe("netdisk up", function () {
  this.timeout(15_000);
  const here = useDirectory();

  /** Runs `up` and does `whenReady` once it has said that the nodes are ready. */
  async function up(
    args: readonly string[],
    whenReady: (signal: (name: string) => void) => void,
  ): Promise<CliResult> {
    const holder: { signal: (name: string) => void } = { signal: () => undefined };
    const running = netdisk(["up", "--data", "data", ...args], {
      directory: here.path,
      nodeProgram: ["-e", NODE_SCRIPT, "--"],
      onListen: (signal) => (holder.signal = signal),
    });
    const ended = { value: false };
    void running.finally(() => (ended.value = true));
    const isUp = (): boolean =>
      [1, 2, 3].every((i) => fs.existsSync(join(here.path, `data/node${i}/starts`))) || ended.value;
    while (!isUp()) await pause();
    // The scripts listen a moment after they have noted their start.
    for (let i = 0; i < 25 && !ended.value; i += 1) await pause();
    whenReady((name) => holder.signal(name));
    return running;
  }

  const starts = (nodeId: string): Start[] =>
    fs
      .readFileSync(join(here.path, "data", nodeId, "starts"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Start);

  it("starts three nodes that know each other, prints their URLs, and stops all of them in order", async () => {
    const { code, out } = await up(["--base-port", "auto"], (signal) => signal("SIGINT"));

    const [first] = starts("node1");
    const urls = [...out.matchAll(/http:\/\/127\.0\.0\.1:\d+/g)].map(([url]) => url);
    expect(code).to.equal(0);
    expect(out).to.include("3 nodes ready").and.include("cluster status");
    expect(new Set(urls).size).to.equal(3);
    expect(first).to.include({ pool: "16", arenas: "1" });
    expect(first?.args).to.include.members(["serve", "--cluster-peers", "--node-id", "node1"]);
    for (const nodeId of ["node1", "node2", "node3"]) {
      expect(fs.readFileSync(join(here.path, "data", nodeId, "ends"), "utf8")).to.equal("SIGTERM\n");
    }
  });

  it("says when it founds a new, empty cluster, and not when one is there", async () => {
    const first = await up(["--base-port", "auto"], (signal) => signal("SIGTERM"));
    const second = await up([], (signal) => signal("SIGTERM"));

    expect(first.err).to.include("founds a new, empty one").and.include("--data");
    expect(second.err).to.include("Starting 3 nodes").and.not.include("new, empty");
  });

  it("goes on with the same addresses and data at the second start", async () => {
    await up(["--base-port", "auto"], (signal) => signal("SIGTERM"));
    for (const nodeId of ["node1", "node2", "node3"])
      fs.renameSync(join(here.path, "data", nodeId, "starts"), join(here.path, "data", nodeId, "starts-1"));
    await up([], (signal) => signal("SIGTERM"));

    const [again] = starts("node2");
    const before = JSON.parse(fs.readFileSync(join(here.path, "data/node2/starts-1"), "utf8")) as Start;
    expect(again?.args).to.deep.equal(before.args);
  });

  it("tells of a node that died, goes on, and ends with 1 when none is left", async () => {
    const { code, err } = await up(["--base-port", "auto"], () => {
      for (const nodeId of ["node2", "node1", "node3"]) process.kill(starts(nodeId)[0]?.pid ?? 0, "SIGKILL");
    });

    expect(code).to.equal(1);
    expect(err)
      .to.match(/node\d ended \(signal SIGKILL\)/)
      .and.include("node2.log")
      .and.include("Ctrl-C and the same command start all nodes")
      .and.include("0 of 3 nodes started here are left");
  });

  it("says of the nodes started here alone how many are left, and who knows of the others", async () => {
    const { err } = await up(["--base-port", "auto"], (signal) => {
      process.kill(starts("node2")[0]?.pid ?? 0, "SIGKILL");
      process.kill(starts("node3")[0]?.pid ?? 0, "SIGKILL");
      setTimeout(() => signal("SIGTERM"), 500);
    });

    expect(err)
      .to.include("1 of 3 nodes started here is left.")
      .and.match(/--nodes [0-9.:,]+ cluster status" says how the cluster does/)
      .and.not.include("majority");
  });

  /** Says in its data that the cluster refuses node2: what a node logs that was removed, and its stop after that. */
  function removeNode2(): void {
    fs.mkdirSync(join(here.path, "data"), { recursive: true });
    const fatal = { event: "node_refused", code: "MEMBER_REMOVED", message: "The cluster removed member 7." };
    const lines = [fatal, { event: "node_stopping" }, { event: "node_stopped" }];
    fs.writeFileSync(
      join(here.path, "data/fail-node2"),
      lines.map((line) => JSON.stringify(line)).join("\n"),
    );
  }

  it("starts the others when the cluster removed a node, and says how a new one takes its place", async () => {
    removeNode2();

    const { code, out, err } = await up(["--base-port", "auto"], (signal) => signal("SIGINT"));

    expect(code).to.equal(0);
    expect(err).to.include("node2 was removed from the cluster and is not started.");
    expect(err).to.match(
      /serve --node-id node2 --node-address \S+ .*--data-directory \S+node2 --join TOKEN\n/,
    );
    expect(err).to.match(/--nodes 127.0.0.1:\d+,127.0.0.1:\d+ cluster add"/);
    expect(out).to.include("2 nodes ready").and.not.include("node2");
    for (const nodeId of ["node1", "node3"])
      expect(fs.readFileSync(join(here.path, "data", nodeId, "ends"), "utf8")).to.equal("SIGTERM\n");
  });

  it("tells programs of a node that was removed as a record", async () => {
    removeNode2();

    const run = await up(["--base-port", "auto", "--json"], (signal) => signal("SIGINT"));

    const [removed, ready] = run.records();
    expect(removed).to.include({ type: "node_removed", nodeId: "node2" });
    expect(ready?.["nodes"]).to.have.length(2);
  });

  it("goes by what a node logs at this start, not by the refusal of an earlier one", async () => {
    removeNode2();
    await up(["--base-port", "auto"], (signal) => signal("SIGINT"));
    fs.writeFileSync(join(here.path, "data/fail-node2"), "cannot start: another reason");

    const { code, err } = await up([], () => undefined);

    expect(code).to.equal(1);
    expect(err).to.include("another reason").and.not.include("removed");
  });

  it("shows the end of the log when a node cannot start, and stops the others", async () => {
    fs.mkdirSync(join(here.path, "data"));
    fs.writeFileSync(join(here.path, "data/fail-node2"), "");

    const { code, err } = await up(["--base-port", "auto"], () => undefined);

    expect(code).to.equal(1);
    expect(err).to.include("node2 ended while it started (exit code 7)").and.include("cannot start: reasons");
    expect(fs.existsSync(join(here.path, "data/node1/starts"))).to.equal(true);
    expect(() => process.kill(starts("node1")[0]?.pid ?? 0, 0)).to.throw();
  });
});

describe("netdisk up, when a node says why it cannot start", function () {
  this.timeout(15_000);
  const here = useDirectory();

  it("repeats its words and where its log is", async () => {
    fs.mkdirSync(join(here.path, "data"));
    const line = {
      level: "fatal",
      event: "start_failed",
      code: "DATA_CORRUPT",
      message: "The log is damaged.",
    };
    fs.writeFileSync(join(here.path, "data/fail-node2"), JSON.stringify(line));

    const { code, err } = await netdisk(["up", "--data", "data", "--base-port", "auto"], {
      directory: here.path,
      nodeProgram: ["-e", NODE_SCRIPT, "--"],
    });

    expect(code).to.equal(1);
    expect(err)
      .to.include("node2: The log is damaged.")
      .and.include("node2.log")
      .and.include("[DATA_CORRUPT]")
      .and.not.include("start_failed");
  });
});

/** Questions about folders without data, and ports where no node answers. */
const NOBODY: LayoutQuestions = {
  identityIn: () => Promise.resolve(undefined),
  clusterAt: () => Promise.resolve(undefined),
};

/** Questions about data of the cluster "c1", whose nodes answer wherever they are asked. */
const OF_C1: LayoutQuestions = {
  identityIn: (directory) =>
    Promise.resolve({ nodeId: basename(directory), clusterId: "c1", isRemoved: false }),
  clusterAt: () => Promise.resolve("c1"),
};

describe("openLayout()", () => {
  const here = useDirectory();
  const servers: Server[] = [];
  const sockets: Socket[] = [];

  afterEach(async () => {
    for (const socket of sockets.splice(0)) socket.destroy();
    await Promise.all(servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve))));
  });

  /** Takes a port of loopback. */
  async function takePort(wanted = 0): Promise<number> {
    // Who connects gets no answer.
    const server = createServer((socket) => sockets.push(socket.on("error", () => undefined)));
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(wanted, "127.0.0.1", resolve));
    const address = server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  }

  it("says which ports are taken and how to choose others, and lays out nothing", async () => {
    const port = await takePort();

    const error = await expectReason("ADDRESS_IN_USE", () =>
      openLayout(here.path, { nodeCount: 1, ports: port }, NOBODY),
    );

    expect(error.message).to.include(String(port)).and.include("--base-port auto");
    expect(fs.readdirSync(here.path)).to.deep.equal([]);
  });

  /** A layout of two nodes, and what is known of it: node1 and node2 of cluster "c1". */
  async function layOutTwo(): Promise<{ first: LocalNode; second: LocalNode }> {
    const { nodes } = await openLayout(here.path, { nodeCount: 2, ports: "auto" }, NOBODY);
    const [first, second] = nodes;
    if (first === undefined || second === undefined) throw new Error("two nodes were asked for");
    return { first, second };
  }

  const again = (questions: Partial<LayoutQuestions>): Promise<Layout> =>
    openLayout(here.path, { nodeCount: undefined, ports: "default" }, { ...OF_C1, ...questions });

  it("says of a cluster all of whose nodes answer that it is running already, and nothing of other ports", async () => {
    const { first, second } = await layOutTwo();
    for (const { grpcPort, httpPort } of [first, second]) {
      await takePort(grpcPort);
      await takePort(httpPort);
    }

    const { message } = await expectReason("ADDRESS_IN_USE", () => again({}));

    expect(message)
      .to.include("this very cluster is running already")
      .and.include("Ctrl-C")
      .and.not.include("Choose another port");
  });

  it("starts the nodes whose ports are free beside one that answers in the name of the cluster", async () => {
    const { first, second } = await layOutTwo();
    await takePort(second.grpcPort);
    const asked: string[] = [];

    const layout = await again({
      clusterAt: (address) => {
        asked.push(address);
        return Promise.resolve("c1");
      },
    });

    expect(layout).to.deep.equal({ nodes: [first, second], running: [second], removed: [], isNew: false });
    expect(asked).to.deep.equal([`127.0.0.1:${second.grpcPort}`]);
  });

  const strangers: readonly { readonly who: string; readonly clusterId: string | undefined }[] = [
    { who: "a node of another cluster", clusterId: "c2" },
    { who: "something that does not answer", clusterId: undefined },
  ];
  for (const { who, clusterId } of strangers) {
    it(`refuses when ${who} has a port, and says which`, async () => {
      const { first, second } = await layOutTwo();
      await takePort(second.grpcPort);

      const { message } = await expectReason("ADDRESS_IN_USE", () =>
        again({ clusterAt: () => Promise.resolve(clusterId) }),
      );

      expect(message)
        .to.include(`port ${second.grpcPort} is taken`)
        .and.include("no node of this cluster answers there")
        .and.not.include(String(first.grpcPort));
    });
  }

  it("does without a node that the cluster removed, whoever has its ports by now", async () => {
    const { first, second } = await layOutTwo();
    await takePort(second.httpPort);

    const layout = await again({
      clusterAt: () => Promise.resolve(undefined),
      identityIn: (directory) =>
        Promise.resolve({
          nodeId: basename(directory),
          clusterId: "c1",
          isRemoved: directory.endsWith("node2"),
        }),
    });

    expect(layout).to.deep.equal({ nodes: [first, second], running: [], removed: [second], isNew: false });
  });

  it("tells of a real listener that says nothing, before anything is started", async () => {
    const { first } = await layOutTwo();
    await takePort(first.grpcPort);

    const { code, err } = await netdisk(["up", "--data", "."], { directory: here.path });

    expect(code).to.equal(1);
    expect(err).to.include(`port ${first.grpcPort} is taken`).and.include("no node of this cluster answers");
  }).timeout(10_000);

  it("refuses another number of nodes, or other ports, for a cluster that is there", async () => {
    await openLayout(here.path, { nodeCount: 2, ports: "auto" }, NOBODY);

    for (const wanted of [
      { nodeCount: 3, ports: "auto" },
      { nodeCount: undefined, ports: 12_345 },
    ] as const) {
      const error = await openLayout(here.path, wanted, NOBODY).catch((reason: unknown) => reason);
      expect(error).to.be.instanceOf(UsageError);
    }
    const { nodes } = await openLayout(here.path, { nodeCount: undefined, ports: "auto" }, NOBODY);
    expect(nodes).to.have.length(2);
  });

  it("refuses a layout that it cannot read", async () => {
    for (const text of [
      "{",
      "[]",
      '{"format":2,"nodes":[]}',
      '{"format":1,"nodes":[{"nodeId":"../x","grpcPort":1,"httpPort":2}]}',
    ]) {
      fs.writeFileSync(join(here.path, "cluster.json"), text);

      await expectReason("DATA_CORRUPT", () =>
        openLayout(here.path, { nodeCount: undefined, ports: "auto" }, NOBODY),
      );
    }
  });

  it("takes a first port so high that all fit, and no higher", async () => {
    const error = await openLayout(here.path, { nodeCount: 2, ports: 65_535 - 100 }, NOBODY).catch(
      (reason: unknown) => reason,
    );

    expect(error).to.be.instanceOf(UsageError);
  });
});

/** A short real pause: the processes are real. */
function pause(): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, 20);
  });
}
