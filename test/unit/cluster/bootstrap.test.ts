// Goal: nodes form a cluster only when every address has answered, all are empty and all report the same set; exactly one
// cluster, whatever the order, the delays and the crashes.
// Method: whole nodes' way into the cluster over a simulated network and disks in memory, under a fake clock.
import { expect } from "chai";
import { Bootstrap, type ClusterMembership } from "../../../src/cluster/bootstrap.ts";
import { normalizeAddresses } from "../../../src/cluster/bootstrap-rule.ts";
import type { FeatureLevels } from "../../../src/drive/feature-levels.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { silentLogger } from "../../../src/telemetry/logger.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";

const NAMES = ["a:1", "b:1", "c:1"];

/** A node that can be stopped, crashed, wiped and started again. */
class TestNode {
  readonly network: TestNetwork;
  readonly address: string;
  peers: readonly string[];
  disk = new MemoryDisk({ afterCrash: "hang" });
  featureLevels: FeatureLevels | undefined;
  bootstrap: Bootstrap | undefined;
  membership: ClusterMembership | undefined;
  error: unknown;
  #starts = 0;
  #abort = new AbortController();

  constructor(network: TestNetwork, address: string, peers: readonly string[]) {
    this.network = network;
    this.address = address;
    this.peers = peers;
  }

  start(): void {
    this.#starts += 1;
    const names = [...this.network.nodes.keys()];
    this.#abort = new AbortController();
    this.membership = undefined;
    this.error = undefined;
    const bootstrap = new Bootstrap({
      disk: this.disk,
      directory: "/data",
      dataNames: ["raft", "chunks"],
      nodeId: this.address,
      address: this.address,
      peers: this.peers,
      exchange: { ask: (address) => this.network.ask(address) },
      featureLevels: this.featureLevels,
      clock: this.network.clock,
      prng: new SeededPrng(names.indexOf(this.address) * 100 + this.#starts),
      logger: silentLogger,
    });
    const run = async (): Promise<void> => {
      await bootstrap.open();
      this.bootstrap = bootstrap;
      this.membership = await bootstrap.run(this.#abort.signal);
    };
    run().catch((error: unknown) => {
      this.error = error;
    });
  }

  stop(): void {
    this.bootstrap = undefined;
    this.#abort.abort(new Error("stopped"));
  }

  crash(seed: number): void {
    this.stop();
    this.disk.crash(new SeededPrng(seed));
  }

  wipe(): void {
    this.stop();
    this.disk = new MemoryDisk();
  }
}

class TestNetwork {
  readonly clock = new FakeClock();
  readonly nodes = new Map<string, TestNode>();
  /** Other names of nodes. */
  readonly aliases = new Map<string, string>();

  constructor(addresses: readonly string[] = NAMES, peers: readonly string[] = addresses) {
    for (const address of addresses) this.nodes.set(address, new TestNode(this, address, peers));
  }

  node(address: string): TestNode {
    const node = this.nodes.get(address);
    if (node === undefined) throw new Error(`no node ${address}`);
    return node;
  }

  get all(): TestNode[] {
    return [...this.nodes.values()];
  }

  ask(address: string): Promise<ReturnType<Bootstrap["answer"]>> {
    const { bootstrap } = this.nodes.get(this.aliases.get(address) ?? address) ?? {};
    if (bootstrap === undefined) return Promise.reject(new Error("connection refused"));
    return Promise.resolve(bootstrap.answer());
  }

  /** Expects that all nodes formed one cluster of all of them. */
  expectFormed(): string {
    const ids = this.all.map((node) => node.membership?.memberId);
    const clusters = new Set(this.all.map((node) => node.membership?.clusterId));
    expect(clusters.size, this.all.map((node) => node.bootstrap?.waitingReason).join()).to.equal(1);
    expect(new Set(ids).size).to.equal(this.all.length);
    for (const node of this.all) {
      expect(node.membership?.founders.map((founder) => founder.memberId)).to.have.members(ids);
    }
    return [...clusters][0] ?? "";
  }
}

describe("Bootstrap", () => {
  const orders = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
  ];
  for (const order of orders) {
    it(`forms one cluster when nodes start in the order ${order.map((at) => NAMES[at]).join(" ")}`, async () => {
      const network = new TestNetwork();
      for (const at of order) {
        network.node(NAMES[at] ?? "").start();
        await network.clock.advance(100);
      }
      await network.clock.advance(3000);

      network.expectFormed();
    });
  }

  it("forms a cluster of one at once", async () => {
    const network = new TestNetwork(["a:1"], []);
    network.node("a:1").start();
    await network.clock.advance(0);

    network.expectFormed();
  });

  for (const [name, peersOf] of [
    ["with self", (): readonly string[] => NAMES],
    ["without self", (self: string): readonly string[] => NAMES.filter((address) => address !== self)],
    ["with schemes and capitals", (): readonly string[] => ["http://A:1/", " b:1", "C:1"]],
  ] as const) {
    it(`takes PEERS ${name}`, async () => {
      const network = new TestNetwork();
      for (const node of network.all) node.peers = peersOf(node.address);
      for (const node of network.all) node.start();
      await network.clock.advance(3000);

      network.expectFormed();
    });
  }

  it("agrees on the newest feature level that all founders support, and keeps it over a restart", async () => {
    const network = new TestNetwork();
    for (const [at, node] of network.all.entries()) node.featureLevels = { min: 1, max: 4 + at };
    for (const node of network.all) node.start();
    await network.clock.advance(3000);
    const [first] = network.all;
    first?.stop();
    first?.start();
    await network.clock.advance(0);

    expect(network.all.map((node) => node.membership?.foundingLevel)).to.deep.equal([4, 4, 4]);
  });

  it("begins at the first feature level beside a node from before there were levels", async () => {
    const network = new TestNetwork();
    const ask = network.ask.bind(network);
    network.ask = async (address) => {
      const { featureLevels, ...report } = await ask(address);
      return address === "b:1" ? report : { ...report, featureLevels };
    };
    for (const node of network.all) node.start();
    await network.clock.advance(3000);

    network.expectFormed();
    expect(network.node("a:1").membership?.foundingLevel).to.equal(undefined);
  });

  it("waits while the nodes have no feature level in common, and says so", async () => {
    const network = new TestNetwork();
    network.node("b:1").featureLevels = { min: 8, max: 9 };
    for (const node of network.all) node.start();
    await network.clock.advance(3000);

    expect(network.node("a:1").bootstrap?.waitingReason).to.match(
      /no feature level that the versions of all/,
    );
  });

  it("finds the name under which the list knows this node", async () => {
    const network = new TestNetwork(["0.0.0.0:1", "b:1"], ["a:1", "b:1"]);
    network.aliases.set("a:1", "0.0.0.0:1");
    network.node("b:1").peers = ["a:1"];
    for (const node of network.all) node.start();
    await network.clock.advance(3000);

    network.expectFormed();
    expect(network.node("b:1").membership?.founders.map((founder) => founder.address)).to.deep.equal([
      "a:1",
      "b:1",
    ]);
  });

  it("waits an hour for the last one, and forms nothing before", async () => {
    const network = new TestNetwork();
    network.node("a:1").start();
    network.node("b:1").start();
    await network.clock.advance(3_600_000);
    expect(network.node("a:1").membership).to.equal(undefined);
    expect(network.node("a:1").bootstrap?.waitingReason).to.equal("Waiting for an answer of c:1.");

    network.node("c:1").start();
    await network.clock.advance(3000);

    network.expectFormed();
  });

  it("refuses a wiped node, says why, and leaves the others alone", async () => {
    const network = new TestNetwork();
    for (const node of network.all) node.start();
    await network.clock.advance(3000);
    const clusterId = network.expectFormed();
    const wiped = network.node("b:1");
    const memberId = wiped.membership?.memberId;

    wiped.wipe();
    wiped.start();
    await network.clock.advance(60_000);

    expect(wiped.membership).to.equal(undefined);
    expect(wiped.bootstrap?.waitingReason)
      .to.contain(clusterId)
      .and.to.contain("this node's data was removed");
    expect(wiped.bootstrap?.answer().memberId).not.to.equal(memberId);
    for (const address of ["a:1", "c:1"]) {
      const node = network.node(address);
      node.stop();
      node.start();
      await network.clock.advance(10);
      expect(node.membership?.clusterId).to.equal(clusterId);
    }
  });

  it("says WRONG_CLUSTER when the nodes of two clusters are mixed up", async () => {
    const network = new TestNetwork(["a:1", "b:1", "c:1", "d:1", "e:1"]);
    for (const pair of [
      ["a:1", "b:1"],
      ["c:1", "d:1"],
    ]) {
      for (const address of pair) {
        network.node(address).peers = pair;
        network.node(address).start();
      }
    }
    await network.clock.advance(3000);
    const fresh = network.node("e:1");
    fresh.peers = ["a:1", "c:1"];
    fresh.start();
    await network.clock.advance(1000);
    await expectReason("WRONG_CLUSTER", () => {
      throw fresh.error as Error;
    });

    const old = network.node("a:1");
    old.stop();
    old.peers = ["b:1", "c:1"];
    old.start();
    await network.clock.advance(1000);
    await expectReason("WRONG_CLUSTER", () => old.bootstrap?.checkPeers());
  });

  it("waits while the nodes are configured with different sets, and says which", async () => {
    const network = new TestNetwork();
    network.node("c:1").peers = ["a:1", "b:1", "d:1"];
    for (const node of network.all) node.start();
    await network.clock.advance(10_000);

    for (const node of network.all) expect(node.membership).to.equal(undefined);
    expect(network.node("a:1").bootstrap?.waitingReason).to.contain("configured with other addresses");
  });

  it("waits when one node is listed under two names", async () => {
    const network = new TestNetwork(["a:1", "b:1"], ["a:1", "b:1", "b2:1"]);
    network.aliases.set("b2:1", "b:1");
    for (const node of network.all) node.start();
    await network.clock.advance(10_000);

    expect(network.node("a:1").membership).to.equal(undefined);
    expect(network.node("a:1").bootstrap?.waitingReason).to.not.equal("");
  });

  it("says so when a node was wiped while the cluster was being formed", async () => {
    const network = new TestNetwork();
    network.node("a:1").start();
    network.node("b:1").start();
    await network.clock.advance(600);
    // The third answers, but its own questions get no answers: it accepts nothing.
    const third = network.node("c:1");
    third.peers = ["a:1", "b:1"];
    third.start();
    await network.clock.advanceUntil(
      "the first has proposed",
      () => network.node("a:1").bootstrap?.answer().empty === false,
    );
    third.wipe();
    third.start();
    await network.clock.advance(5000);

    const formed = network.all.filter((node) => node.membership !== undefined);
    expect(formed.length).to.equal(0);
    expect(network.node("b:1").bootstrap?.waitingReason).to.contain("lost its data");
  });

  it("forms one cluster when any node crashes at any operation of its disk", async () => {
    for (const address of NAMES) {
      let crashed = true;
      for (let operation = 1; crashed; operation += 1) {
        const network = new TestNetwork();
        const victim = network.node(address);
        let count = 0;
        victim.disk.onOperation = () => {
          count += 1;
          if (count === operation) victim.crash(operation);
          return undefined;
        };
        for (const node of network.all) node.start();
        await network.clock.advance(3000);
        crashed = count >= operation;
        victim.disk.onOperation = undefined;
        if (crashed) victim.start();
        await network.clock.advance(3000);

        network.expectFormed();
      }
    }
  }).timeout(20_000);

  it("knows for ever that a member has started, and not before that is durable", async () => {
    let isMarked = false;
    for (let operation = 1; !isMarked; operation += 1) {
      const network = new TestNetwork(["a:1"], []);
      const node = network.node("a:1");
      node.start();
      await network.clock.advance(0);
      expect(node.membership?.isStarted).to.equal(false);
      let count = 0;
      node.disk.onOperation = () => {
        count += 1;
        if (count === operation) node.crash(operation);
        return undefined;
      };
      void node.bootstrap?.markStarted().then(() => {
        isMarked = true;
      });
      await network.clock.advance(0);
      node.disk.onOperation = undefined;
      if (isMarked) node.crash(operation);

      node.start();
      await network.clock.advance(0);

      // A crash may also leave the mark of a call that never ended.
      if (isMarked) expect(node.membership?.isStarted).to.equal(true);
      expect(node.error).to.equal(undefined);
      await node.bootstrap?.markStarted();
      await node.bootstrap?.markStarted();
      node.crash(operation);
      node.start();
      await network.clock.advance(0);
      expect(node.membership?.isStarted).to.equal(true);
      expect(node.bootstrap?.answer().formed).to.equal(true);
    }
  });

  it("refuses a damaged identity, and data without one", async () => {
    const network = new TestNetwork(["a:1"], []);
    const node = network.node("a:1");
    node.start();
    await network.clock.advance(0);
    node.stop();

    node.disk.flipBit("/data/identity", 30);
    node.start();
    await network.clock.advance(0);
    await expectReason("DATA_CORRUPT", () => {
      throw node.error as Error;
    });

    await node.disk.remove("/data/identity");
    await node.disk.makeDirectory("/data/chunks");
    node.start();
    await network.clock.advance(0);
    await expectReason("DATA_CORRUPT", () => {
      throw node.error as Error;
    });
  });

  it("orders addresses by bytes and lists each once", () => {
    expect(normalizeAddresses(["b:1", "http://A:1", "a:1 ", "B:1"])).to.deep.equal(["a:1", "b:1"]);
  });
});
