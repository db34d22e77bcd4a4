/** Goal: a node registers itself, keeps its lease, and the leader alone keeps the tree in order. Method: the real state machine under a test clock. */
import { expect } from "chai";
import { Housekeeping } from "../../../src/cluster/housekeeping.ts";
import { MetadataClient, unwrap, valueOfKind } from "../../../src/cluster/metadata-client.ts";
import { NodeDirectory } from "../../../src/cluster/node-directory.ts";
import { LEASE_RENEW_AFTER_MS, NodeRegistrar } from "../../../src/cluster/node-registrar.ts";
import { PacedLoop } from "../../../src/cluster/paced-loop.ts";
import {
  LEASE_BLOCK_USE_MS,
  LEASE_ID_COUNT,
  LEASE_USABLE_MS,
  WriteLease,
} from "../../../src/cluster/write-lease.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { DROP_GRACE_MS, WRITE_LEASE_MS } from "../../../src/drive/limits.ts";
import { clusterTime, counters, dropList, pendingWork } from "../../../src/metadata/view.ts";
import { findMember } from "../../../src/metadata/members.ts";
import { StoreCheckError, StoreFullError } from "../../../src/std/ordered-store.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { MemoryTree, registrationOf } from "../../support/memory-metadata-port.ts";

function setUp(memberId = 1) {
  const clock = new FakeClock();
  const tree = new MemoryTree(clock);
  const metadata = new MetadataClient(tree.port(memberId), new SeededPrng(1));
  return { clock, tree, metadata };
}

describe("MetadataClient", () => {
  it("turns a rejection into the error it names, with its metadata", async () => {
    const { metadata } = setUp();

    const error = await expectReason("UPLOAD_NOT_FOUND", () =>
      metadata.apply({ kind: "abort-upload", uploadId: 9 }, "none"),
    );

    expect(error.metadata["upload_id"]).to.equal("9");
    await expectReason("UPLOAD_NOT_FOUND", async () =>
      unwrap(await metadata.port.propose({ kind: "renew-upload", uploadId: 9 })),
    );
  });

  it("never makes the same request id twice", () => {
    const { metadata } = setUp();

    const ids = new Set(Array.from({ length: 1000 }, () => metadata.newRequestId()));

    expect(ids.size).to.equal(1000);
  });
});

describe("NodeRegistrar", () => {
  function registrar(parts: ReturnType<typeof setUp>, self = () => registrationOf(1)) {
    const lease = new WriteLease(parts.clock);
    return { lease, loop: new NodeRegistrar({ clock: parts.clock, metadata: parts.metadata, lease, self }) };
  }

  it("registers the node, and again when its address has changed, and not otherwise", async () => {
    const parts = setUp();
    let address = "10.0.0.1:29001";
    const { loop } = registrar(parts, () => registrationOf(1, { address }));

    loop.start();
    await parts.clock.advance(5000);
    expect(parts.tree.count("register-node")).to.equal(1);
    address = "10.0.0.2:29001";
    await parts.clock.advance(5000);
    await loop.stop();

    expect(parts.tree.count("register-node")).to.equal(2);
    expect(findMember(parts.tree.store, 1)?.address).to.equal(address);
  });

  it("keeps the lease usable without a gap, with ids that are never the same", async () => {
    const parts = setUp();
    const { loop, lease } = registrar(parts);
    loop.start();
    await parts.clock.advance(1);
    const ids = new Set<number>();

    for (let second = 0; second < 180; second += 1) {
      expect(lease.usable, `after ${second} s`).to.equal(true);
      for (let i = 0; i < 10; i += 1) ids.add(lease.takeContentId() ?? -1);
      await parts.clock.advance(1000);
    }
    await loop.stop();

    expect(ids.size).to.equal(1800);
    expect(ids.has(-1)).to.equal(false);
    expect(parts.tree.count("renew-write-lease")).to.be.within(8, 10);
  });

  it("goes on trying while there is no leader, and gives the lease up in time", async () => {
    const parts = setUp();
    const { loop, lease } = registrar(parts);
    loop.start();
    await parts.clock.advance(1);
    parts.tree.unavailable = true;
    await parts.clock.advance(LEASE_USABLE_MS - 10);
    expect(lease.usable).to.equal(true);
    await parts.clock.advance(10);
    expect(lease.takeContentId()).to.equal(undefined);

    parts.tree.unavailable = false;
    await parts.clock.advance(1000);
    await loop.stop();

    expect(lease.usable).to.equal(true);
    expect(lease.idCount).to.equal(LEASE_ID_COUNT);
  });
});

describe("WriteLease", () => {
  it("counts from before the renewal was proposed, and ends before the tree's own", () => {
    const clock = new FakeClock();
    const lease = new WriteLease(clock);

    lease.renewed(-1000, { first: 10, count: 2 });

    expect(LEASE_USABLE_MS).to.be.lessThan(WRITE_LEASE_MS);
    expect([lease.takeContentId(), lease.takeContentId(), lease.takeContentId()]).to.deep.equal([
      10,
      11,
      undefined,
    ]);
  });

  it("does not use ids from before a gap", async () => {
    const clock = new FakeClock();
    const lease = new WriteLease(clock);
    lease.renewed(0, { first: 10, count: 5 });
    await clock.advance(LEASE_USABLE_MS);

    lease.renewed(clock.monotonicMs(), { first: 100, count: 1 });

    expect(lease.takeContentId()).to.equal(100);
  });

  it("asks for another block after an hour, and then uses none of the ids before", async () => {
    const clock = new FakeClock();
    const lease = new WriteLease(clock);
    const renew = (first: number): void => {
      lease.renewed(clock.monotonicMs(), { first, count: lease.wantedIdCount });
    };
    renew(1000);
    const wanted: number[] = [];
    for (let passedMs = 0; passedMs < LEASE_BLOCK_USE_MS; passedMs += LEASE_RENEW_AFTER_MS) {
      wanted.push(lease.wantedIdCount);
      expect(lease.takeContentId()).to.be.within(1000, 2000);
      await clock.advance(LEASE_RENEW_AFTER_MS);
      renew(900_000);
    }

    expect(new Set(wanted)).to.deep.equal(new Set([0]));
    expect(lease.takeContentId()).to.equal(900_000);
    expect(lease.idCount).to.equal(LEASE_ID_COUNT - 1);
  });
});

describe("Housekeeping", () => {
  it("moves cluster time at the leader by what has passed, and nowhere else", async () => {
    const parts = setUp();
    const follower = new MetadataClient(parts.tree.port(2), new SeededPrng(2));
    const loops = [parts.metadata, follower].map(
      (metadata) => new Housekeeping({ clock: parts.clock, metadata, prng: new SeededPrng(3) }),
    );

    for (const loop of loops) loop.start();
    await parts.clock.advance(10_500);
    for (const loop of loops) await loop.stop();

    expect(clusterTime(parts.tree.store)).to.equal(10_000);
    expect(parts.tree.count("advance-clock")).to.equal(10);
  });

  it("counts no time for which the node did not lead or could not commit", async () => {
    const parts = setUp();
    const loop = new Housekeeping({ clock: parts.clock, metadata: parts.metadata, prng: new SeededPrng(3) });
    parts.tree.leaderId = 2;
    loop.start();
    await parts.clock.advance(60_000);
    expect(clusterTime(parts.tree.store)).to.equal(0);
    parts.tree.leaderId = 1;
    await parts.clock.advance(3_000);
    parts.tree.unavailable = true;
    await parts.clock.advance(60_000);
    parts.tree.unavailable = false;
    await parts.clock.advance(1_000);
    await loop.stop();

    expect(clusterTime(parts.tree.store)).to.be.at.most(4_000);
  });

  it("takes expiry and reclaiming forward until nothing is left", async () => {
    const parts = setUp();
    const { tree, clock, metadata } = parts;
    for (const member of [1, 2, 3]) tree.apply({ kind: "register-node", node: registrationOf(member) });
    const at = { baseId: 1, path: ["d"] };
    tree.apply({
      kind: "create-directory",
      at: { baseId: 1, path: ["d", "e", "f"] },
      createParents: true,
      existOk: false,
      attributes: {},
      precondition: {},
    });
    tree.apply({ kind: "delete-entry", at, recursive: true, precondition: {} });
    const begun = tree.apply({
      kind: "init-upload",
      at,
      createParents: true,
      sizeBytes: 10,
      treeHash: new Uint8Array(0),
      onConflict: "fail",
      attributes: {},
      precondition: {},
      extents: [{ extentIndex: 0, memberIds: [1, 2, 3] }],
    });
    const { uploadId } = valueOfKind(begun, "upload");
    tree.apply({ kind: "abort-upload", uploadId });
    for (let i = 0; i <= DROP_GRACE_MS / 10_000; i += 1)
      tree.apply({ kind: "advance-clock", elapsedMs: 10_000 });
    const loop = new Housekeeping({ clock, metadata, prng: new SeededPrng(3) });

    loop.start();
    await clock.advance(3_000);
    await loop.stop();

    expect(counters(tree.store).directoryCount).to.equal(0);
    // The targets of the aborted upload are told to drop their part.
    expect(dropList(tree.store, 3, 10).length).to.equal(1);
    expect(pendingWork(tree.store)).to.deep.equal({
      expirable: false,
      reclaimable: false,
      materialisable: false,
      evictable: false,
      recountable: false,
    });
  });
});

describe("NodeDirectory", () => {
  it("finds members by id, a new address at once", () => {
    const { tree, clock, metadata } = setUp();
    const directory = new NodeDirectory(metadata.port, clock);
    expect(directory.memberIds()).to.deep.equal([]);
    tree.apply({ kind: "register-node", node: registrationOf(2) });
    tree.apply({ kind: "register-node", node: registrationOf(1) });

    expect(directory.memberIds()).to.deep.equal([1, 2]);
    tree.apply({ kind: "register-node", node: registrationOf(2, { address: "other:1" }) });
    expect(directory.addressOf(2)).to.equal("other:1");
    expect(directory.addressOf(3)).to.equal(undefined);
    expect(directory.nodeIdOf(1)).to.equal("node-1");
  });
});

describe("PacedLoop", () => {
  it("goes on after operating errors, pauses as told, and wakes", async () => {
    const clock = new FakeClock();
    let rounds = 0;
    const errors: string[] = [];
    const loop = new PacedLoop({
      clock,
      idleMs: 1000,
      busyMs: 10,
      work: () => {
        rounds += 1;
        if (rounds === 1) return Promise.reject(new DriveError("NO_LEADER", "none"));
        return Promise.resolve(rounds < 4 ? "busy" : "idle");
      },
      onError: (error) => errors.push(error.reason),
    });

    loop.start();
    await clock.advance(999);
    expect([rounds, errors]).to.deep.equal([1, ["NO_LEADER"]]);
    await clock.advance(21);
    expect(rounds).to.equal(4);
    loop.wake();
    await clock.advance(0);
    expect(rounds).to.equal(5);
    await loop.stop();
    await loop.stop();

    expect(clock.timerCount).to.equal(0);
  });

  it("takes a full disk, and what the machine ran out of, for operating errors, whoever came upon them", async () => {
    const clock = new FakeClock();
    const failures = [
      Object.assign(new Error("no space left on device"), { code: "ENOSPC" }),
      new StoreFullError("/index/names"),
      Object.assign(new Error("too many open files"), { code: "EMFILE" }),
      new StoreCheckError("the process ended without an answer (SIGKILL)"),
    ];
    const errors: DriveError[] = [];
    let rounds = 0;
    const loop = new PacedLoop({
      clock,
      idleMs: 1000,
      busyMs: 10,
      work: () => {
        const failure = failures[rounds];
        rounds += 1;
        return failure === undefined ? Promise.resolve("idle") : Promise.reject(failure);
      },
      onError: (error) => errors.push(error),
    });

    loop.start();
    await clock.advance(5500);
    await loop.stop();

    expect(rounds).to.equal(6);
    expect(errors.map(({ reason }) => reason)).to.deep.equal([
      "NO_SPACE",
      "NO_SPACE",
      "OVERLOADED",
      "OVERLOADED",
    ]);
    expect(errors.map(({ cause }) => cause)).to.deep.equal(failures);
  });
});
