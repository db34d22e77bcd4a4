/**
 * Goal: a copy counts only while the very store that sealed it is there, at once for every reader and in time for every counter;
 * what a scrub pass says covers what was sealed before it. Method: commands against the state machine, with every invariant
 * checked after each.
 */
import { expect } from "chai";
import {
  dropList,
  extentsOf,
  counters,
  pendingWork,
  storeOf,
  underReplicated,
} from "../../../src/metadata/view.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { Harness, MEMBER_IDS, sealOf } from "./harness.ts";

function statesOf(h: Harness, contentId: number): readonly string[] {
  return extentsOf(h.store, contentId).flatMap((extent) =>
    extent.replicas.map(({ memberId, state }) => `${memberId} ${state}`),
  );
}

function recountAll(h: Harness): number {
  for (let commands = 0; ; commands += 1) {
    if (!pendingWork(h.store).recountable) return commands;
    h.ok({ kind: "recount" });
  }
}

const lost = { kind: "declare-lost", memberId: 102, storeIncarnation: "store-102" } as const;
const returned = { kind: "return-store", memberId: 102, storeIncarnation: "store-102" } as const;

describe("a member with a new chunk store", () => {
  it("has no copy any more, from the moment it registers", () => {
    const h = new Harness().bootstrap();
    const { contentId } = h.put("/f", { text: "x" });

    h.register(102, "store-new");

    expect(statesOf(h, contentId)).to.deep.equal(["101 verified", "102 lost", "103 verified"]);
    expect(counters(h.store).replicas).to.include({ recounting: true, fullyReplicatedCount: 1 });
    recountAll(h);
    expect(counters(h.store).replicas).to.include({
      ...{ recounting: false, fullyReplicatedCount: 0, underReplicatedCount: 1, lostCount: 1 },
      missingCopyBytes: 1,
    });
    expect(underReplicated(h.store, undefined, 10)[0]).to.include({ contentId, verifiedCount: 2 });
  });

  it("gets its copies back one by one, each with a seal of the new store", () => {
    const h = new Harness().bootstrap();
    const { contentId } = h.put("/f", { text: "x" });
    h.register(102, "store-new");
    const seal = sealOf(contentId, 102, utf8("x"));
    h.refused("SEAL_REJECTED", { kind: "add-replica", seal });

    // Before the recount has come to it, and after.
    h.ok({ kind: "add-replica", seal: { ...seal, storeIncarnation: "store-new" } });
    recountAll(h);

    expect(statesOf(h, contentId)).to.have.members(["101 verified", "102 verified", "103 verified"]);
    expect(counters(h.store).replicas).to.include({ fullyReplicatedCount: 1, lostCount: 0 });
  });
});

describe("a member that was away for too long", () => {
  it("is given up with all its copies, in batches, and comes back with those that nobody recounted", () => {
    const h = new Harness({ batchItemCountMax: 4 }).bootstrap();
    const ids = Array.from({ length: 10 }, (_, i) => h.put(`/f${i}`, { text: `x${i}` }).contentId);

    h.ok(lost);
    expect(ids.flatMap((id) => statesOf(h, id)).filter((state) => state === "102 lost")).to.have.length(10);
    h.ok({ kind: "recount" });
    expect(counters(h.store).replicas).to.include({ recounting: true, lostCount: 4 });
    h.ok(returned);
    recountAll(h);

    expect(storeOf(h.store, 102).lostTimeMs).to.equal(0);
    expect(counters(h.store).replicas).to.include({ lostCount: 4, fullyReplicatedCount: 6 });
  });

  it("is not given up when it came back with another store meanwhile, and cannot return with another", () => {
    const h = new Harness().bootstrap();
    h.register(102, "store-new");
    h.ok(lost);
    expect(storeOf(h.store, 102).lostTimeMs).to.equal(0);
    h.refused("SEAL_REJECTED", returned);
    h.refused("ARGUMENT_INVALID", { ...lost, memberId: 999 });
  });

  it("has its copy on record until three others are verified, and drops it then", () => {
    const h = new Harness().bootstrap();
    h.register(104);
    const { contentId } = h.put("/f", { text: "x" });
    const key = { contentId, extentIndex: 0 };
    h.ok(lost);
    recountAll(h);
    h.ok({ kind: "assign-replica", ...key, memberId: 104, replacesMemberId: 102 });
    expect(statesOf(h, contentId)).to.include.members(["102 lost", "104 pending"]);

    h.ok({ kind: "add-replica", seal: sealOf(contentId, 104, utf8("x")) });

    expect(statesOf(h, contentId)).to.have.members(["101 verified", "103 verified", "104 verified"]);
  });

  it("recounts contents of many extents from where a batch ended", () => {
    const h = new Harness({ batchItemCountMax: 3 }).bootstrap();
    for (let i = 0; i < 7; i += 1) h.put(`/f${i}`, { text: `y${i}` });
    h.ok(lost);
    expect(recountAll(h)).to.be.within(3, 8);
    expect(counters(h.store).replicas.lostCount).to.equal(7);
  });
});

describe("a copy that counts no more, before it is recounted", () => {
  const level = 3;
  const moving = (h: Harness, contentId: number, memberId: number, replacesMemberId: number) =>
    h.ok({ kind: "assign-replica", contentId, extentIndex: 0, memberId, replacesMemberId });
  const seal = (h: Harness, contentId: number, memberId: number) =>
    h.ok({ kind: "add-replica", seal: sealOf(contentId, memberId, utf8("x")) });

  for (const [what, makeVoid] of [
    ["whose member was given up", (h: Harness) => void h.ok(lost)],
    ["whose store was replaced", (h: Harness) => h.register(102, "store-new")],
  ] as const) {
    it(`is not one of the three on whose strength a moved copy goes: one ${what}`, () => {
      const h = new Harness().bootstrap(level);
      h.register(104);
      const { contentId } = h.put("/f", { text: "x" });
      moving(h, contentId, 104, 101);
      makeVoid(h);

      seal(h, contentId, 104);
      expect(statesOf(h, contentId)).to.have.members(["101 verified", "103 verified", "104 verified"]);
      recountAll(h);
      expect(statesOf(h, contentId)).to.have.members(["101 verified", "103 verified", "104 verified"]);
      expect(counters(h.store).replicas).to.include({ fullyReplicatedCount: 1, lostCount: 0 });
    });
  }

  it("goes like any bad one once three others count", () => {
    const h = new Harness().bootstrap(level);
    h.register(104);
    const { contentId } = h.put("/f", { text: "x" });
    h.ok(lost);
    moving(h, contentId, 104, 102);

    seal(h, contentId, 104);

    expect(statesOf(h, contentId)).to.have.members(["101 verified", "103 verified", "104 verified"]);
    recountAll(h);
    expect(counters(h.store).replicas).to.include({ fullyReplicatedCount: 1, lostCount: 0 });
  });

  it("goes likewise where a fourth copy is there, when it is recounted or reported", () => {
    const h = new Harness().bootstrap(level);
    h.register(104);
    const [one, two] = [h.put("/f", { text: "x" }).contentId, h.put("/g", { text: "x" }).contentId];
    for (const contentId of [one, two]) seal(h, contentId, 104);
    h.ok({ kind: "report-replica", contentId: two, extentIndex: 0, memberId: 101, finding: "corrupt" });
    expect(statesOf(h, two)).to.have.members(["102 verified", "103 verified", "104 verified"]);

    h.ok(lost);
    recountAll(h);

    expect(statesOf(h, one)).to.have.members(["101 verified", "103 verified", "104 verified"]);
    expect(statesOf(h, two), "two others are too few").to.have.members([
      ...["102 lost", "103 verified", "104 verified"],
    ]);
    expect(dropList(h.store, 102, 10)).to.deep.equal([{ contentId: one, extentIndex: 0 }]);
  });

  it("is not made by the late seal of a member that was given up, until that has compared its copies", () => {
    const h = new Harness().bootstrap(level);
    const { contentId } = h.put("/f", { text: "x", memberIds: [101, 103] });
    h.ok(lost);
    recountAll(h);

    h.refused("SEAL_REJECTED", { kind: "add-replica", seal: sealOf(contentId, 102, utf8("x")) });
    h.ok(returned);
    seal(h, contentId, 102);

    expect(counters(h.store).replicas).to.include({ fullyReplicatedCount: 1 });
  });

  it("is recorded as lost with a file whose other seals suffice, and does not make up for one that is missing", () => {
    const h = new Harness().bootstrap(level);
    h.ok(lost);
    recountAll(h);
    h.refused("SEAL_REJECTED", h.putBody("/few", { text: "x", memberIds: [101, 102] }));

    const { contentId } = h.put("/f", { text: "x" });

    expect(statesOf(h, contentId)).to.deep.equal(["101 verified", "102 lost", "103 verified"]);
    expect(counters(h.store).replicas).to.include({
      underReplicatedCount: 1,
      lostCount: 1,
      recounting: false,
    });
    expect(underReplicated(h.store, undefined, 10)[0]).to.include({ contentId, verifiedCount: 2 });
  });

  it("is found when the level is raised, where older versions had recorded it behind the recount", () => {
    const h = new Harness().bootstrap(2);
    for (const memberId of MEMBER_IDS) h.register(memberId, `store-${memberId}`, 3);
    h.ok(lost);
    recountAll(h);
    const { contentId } = h.put("/f", { text: "x" });
    expect(counters(h.store).replicas).to.include({ recounting: false, fullyReplicatedCount: 1 });

    h.ok({ kind: "raise-feature-level", level });
    recountAll(h);

    expect(statesOf(h, contentId)).to.deep.equal(["101 verified", "102 lost", "103 verified"]);
    expect(counters(h.store).replicas).to.include({ fullyReplicatedCount: 0, lostCount: 1 });
  });

  it("makes no fourth of a bad one for longer than until the recount, when its store returns before", () => {
    const h = new Harness().bootstrap(level);
    h.register(104);
    const { contentId } = h.put("/f", { text: "x" });
    h.ok(lost);
    h.ok({ kind: "report-replica", contentId, extentIndex: 0, memberId: 101, finding: "corrupt" });
    moving(h, contentId, 104, 101);
    seal(h, contentId, 104);
    expect(statesOf(h, contentId), "102 is lost, and too few others count").to.include("101 corrupt");
    h.ok(returned);
    recountAll(h);

    expect(statesOf(h, contentId)).to.have.members(["102 verified", "103 verified", "104 verified"]);
    expect(dropList(h.store, 101, 10)).to.deep.equal([{ contentId, extentIndex: 0 }]);
    expect(counters(h.store).replicas).to.include({ corruptCount: 0, fullyReplicatedCount: 1 });
  });

  it("is settled when the level is raised, where older versions had kept a bad fourth copy", () => {
    const h = new Harness().bootstrap(2);
    for (const memberId of [...MEMBER_IDS, 104]) h.register(memberId, `store-${memberId}`, 3);
    const { contentId } = h.put("/f", { text: "x" });
    seal(h, contentId, 104);
    h.ok({ kind: "report-replica", contentId, extentIndex: 0, memberId: 101, finding: "corrupt" });
    expect(statesOf(h, contentId)).to.include("101 corrupt");

    h.ok({ kind: "raise-feature-level", level });
    recountAll(h);

    expect(statesOf(h, contentId)).to.have.members(["102 verified", "103 verified", "104 verified"]);
  });

  it("counted until then: clusters below the level go on as their older versions do", () => {
    const h = new Harness().bootstrap(2);
    h.register(104);
    const { contentId } = h.put("/f", { text: "x" });
    moving(h, contentId, 104, 101);
    h.ok(lost);

    seal(h, contentId, 104);

    expect(statesOf(h, contentId)).to.have.members(["102 lost", "103 verified", "104 verified"]);
  });
});

describe("a finding about a copy", () => {
  it("is kept as what it is, and not made less certain by a later suspicion", () => {
    const h = new Harness().bootstrap();
    const { contentId } = h.put("/f", { text: "x" });
    const report = { kind: "report-replica", contentId, extentIndex: 0, memberId: 102 } as const;

    h.ok({ ...report, finding: "suspect" });
    expect(statesOf(h, contentId)).to.include("102 suspect");
    h.ok({ ...report, finding: "corrupt" });
    h.ok({ ...report, finding: "suspect" });
    expect(statesOf(h, contentId)).to.include("102 corrupt");
    h.ok({ ...report, finding: "lost" });
    expect(counters(h.store).replicas).to.include({ corruptCount: 0, lostCount: 1, suspectCount: 0 });
  });

  it("counts extents with one copy and with none", () => {
    const h = new Harness().bootstrap();
    const { contentId } = h.put("/f", { text: "xyz" });
    const report = { kind: "report-replica", contentId, extentIndex: 0, finding: "lost" } as const;
    for (const [i, memberId] of MEMBER_IDS.entries()) {
      h.ok({ ...report, memberId });
      expect(counters(h.store).replicas).to.include({
        singleCopyCount: i === 1 ? 1 : 0,
        noCopyCount: i === 2 ? 1 : 0,
        missingCopyBytes: 3 * (i + 1),
      });
    }
  });
});

describe("a scrub pass", () => {
  const pass = (startTimeMs: number, number = 1, memberId = 102) =>
    ({
      kind: "report-scrub",
      memberId,
      storeIncarnation: `store-${memberId}`,
      pass: number,
      startTimeMs,
      extentCount: 5,
      bytes: 500,
      damagedCount: 0,
    }) as const;

  function checkTimes(h: Harness, contentId: number): readonly number[] {
    return extentsOf(h.store, contentId).flatMap((extent) => extent.replicas.map((r) => r.checkTimeMs));
  }

  it("stands for a check of everything that was sealed before it began, and of nothing else", () => {
    const h = new Harness().bootstrap();
    h.advance(1000);
    const old = h.put("/old", { text: "x" }).contentId;
    h.advance(1000);
    const startTimeMs = 2000;
    h.advance(1000);
    const young = h.put("/young", { text: "y" }).contentId;
    h.advance(1000);

    h.ok(pass(startTimeMs));

    expect(checkTimes(h, old)).to.deep.equal([1000, 2000, 1000]);
    expect(checkTimes(h, young)).to.deep.equal([3000, 3000, 3000]);
    expect(storeOf(h.store, 102)).to.include({ scrubPass: 1, scrubEndTimeMs: 4000, scrubBytes: 500 });
  });

  it("of an earlier store, an older one, or one of the future counts for nothing", () => {
    const h = new Harness().bootstrap();
    h.advance(5000);
    const { contentId } = h.put("/f", { text: "x" });
    h.advance(5000);
    h.ok(pass(9000, 3));
    h.ok(pass(8000, 2));
    expect(storeOf(h.store, 102).scrubPass).to.equal(3);
    h.refused("ARGUMENT_INVALID", pass(10_001, 4));
    h.register(102, "store-new");
    h.refused("SEAL_REJECTED", pass(9500, 4));
    h.ok({
      kind: "add-replica",
      seal: { ...sealOf(contentId, 102, utf8("x")), storeIncarnation: "store-new" },
    });
    expect(checkTimes(h, contentId)).to.have.members([5000, 5000, 10_000]);
  });
});

describe("draining", () => {
  it("is switched on and off for a member that is there", () => {
    const h = new Harness().bootstrap();
    h.ok({ kind: "set-draining", memberId: 102, draining: true });
    expect(storeOf(h.store, 102).drainTimeMs).to.be.greaterThan(0);
    h.ok({ kind: "set-draining", memberId: 102, draining: false });
    expect(storeOf(h.store, 102).drainTimeMs).to.equal(0);
    h.refused("ARGUMENT_INVALID", { kind: "set-draining", memberId: 999, draining: true });
  });
});
