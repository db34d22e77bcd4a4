/** Goal: what the tree records about members that come and go. Method: commands, outcomes and the recount of all invariants. */
import { expect } from "chai";
import {
  JOIN_TOKEN_COUNT_MAX,
  JOIN_TOKEN_LIFETIME_MS_MAX,
  JOIN_TOKEN_LIFETIME_MS_MIN,
} from "../../../src/drive/limits.ts";
import type { CommandBody } from "../../../src/metadata/commands.ts";
import { findExtent } from "../../../src/metadata/extents.ts";
import { checkInvariants } from "../../../src/metadata/invariants.ts";
import {
  lastMembershipChange,
  openMembershipChange,
  removedMembers,
} from "../../../src/metadata/membership.ts";
import { findMember } from "../../../src/metadata/members.ts";
import { counters, dropList, pendingWork, underReplicated } from "../../../src/metadata/view.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { Harness, present, sealOf } from "./harness.ts";

const hashOf = (token: string): Uint8Array => sha256(utf8(token));

function issue(token = "t", options: { lifetimeMs?: number; replacesMemberId?: number } = {}): CommandBody {
  const { lifetimeMs = 60_000, replacesMemberId = 0 } = options;
  return { kind: "issue-join-token", tokenHash: hashOf(token), lifetimeMs, replacesMemberId };
}

function admit(memberId: number, token = "t"): CommandBody {
  const nodeId = `node-${memberId}`;
  return {
    kind: "admit-member",
    tokenHash: hashOf(token),
    memberId,
    nodeId,
    address: `10.0.0.${memberId}:1`,
    isStorageOnly: false,
  };
}

const remove = (memberId: number, isForced = false): CommandBody => ({
  kind: "remove-member",
  memberId,
  isForced,
});

/** Ends the open change as the leader does. */
function end(harness: Harness, failure = ""): void {
  const { changeId } = present(openMembershipChange(harness.store));
  harness.ok({ kind: "end-membership-change", changeId, failure });
}

describe("a token to join with", () => {
  it("admits one member, and that one again when it asks again", () => {
    const harness = new Harness().bootstrap();
    harness.ok(issue());

    const first = harness.ok(admit(104));
    const again = harness.ok(admit(104));

    expect(first).to.deep.equal(again);
    expect(openMembershipChange(harness.store)).to.include({ kind: "add", memberId: 104, formerMemberId: 0 });
    harness.refused("JOIN_TOKEN_INVALID", admit(105));
  });

  it("is refused when nobody made it", () => {
    new Harness().bootstrap().refused("JOIN_TOKEN_INVALID", admit(104, "made up"));
  });

  it("is good until just before its time in cluster time, and not any more then", () => {
    const harness = new Harness().bootstrap();
    harness.ok(issue("a", { lifetimeMs: 20_000 }));
    harness.ok(issue("b", { lifetimeMs: 20_000 }));
    harness.advance(19_999);
    harness.ok(admit(104, "a"));
    end(harness);
    harness.advance(1);

    harness.refused("JOIN_TOKEN_INVALID", admit(105, "b"));
    expect(harness.apply(admit(104, "a")).outcome, "who was admitted may ask again").to.equal("applied");
  });

  it("has a lifetime between the bounds", () => {
    const harness = new Harness().bootstrap();
    harness.refused("ARGUMENT_INVALID", issue("a", { lifetimeMs: JOIN_TOKEN_LIFETIME_MS_MIN - 1 }));
    harness.refused("ARGUMENT_INVALID", issue("a", { lifetimeMs: JOIN_TOKEN_LIFETIME_MS_MAX + 1 }));
    harness.ok(issue("a", { lifetimeMs: JOIN_TOKEN_LIFETIME_MS_MIN }));
    harness.ok(issue("b", { lifetimeMs: JOIN_TOKEN_LIFETIME_MS_MAX }));
  });

  it("cannot be made twice", () => {
    const harness = new Harness().bootstrap();
    harness.ok(issue());
    harness.refused("ARGUMENT_INVALID", issue());
  });

  it("is one of at most so many, of which expired ones make room", () => {
    const harness = new Harness().bootstrap();
    for (let i = 0; i < JOIN_TOKEN_COUNT_MAX; i += 1) harness.ok(issue(`t${i}`, { lifetimeMs: 10_000 }));
    harness.refused("OVERLOADED", issue("one more"));
    harness.advance(10_000);
    harness.ok(issue("one more"));
  });

  it("for the place of a member begins a replacement, or an addition when that member is gone", () => {
    const harness = new Harness().bootstrap();
    harness.refused("MEMBER_NOT_FOUND", issue("x", { replacesMemberId: 999 }));
    harness.ok(issue("a", { replacesMemberId: 103 }));
    harness.ok(issue("b", { replacesMemberId: 103 }));

    harness.ok(admit(104, "a"));
    expect(openMembershipChange(harness.store)).to.include({ kind: "replace", formerMemberId: 103 });
    end(harness);
    expect(findMember(harness.store, 103)).to.equal(undefined);

    harness.ok(admit(105, "b"));
    expect(openMembershipChange(harness.store)).to.include({ kind: "add", formerMemberId: 0 });
  });
});

describe("changes of the membership", () => {
  it("are made one at a time: a second is refused with what is under way", () => {
    const harness = new Harness().bootstrap();
    harness.ok(issue());
    harness.ok(remove(103));

    const second = harness.apply(remove(102));
    expect(second).to.include({ outcome: "rejected", reason: "MEMBERSHIP_CHANGE_IN_PROGRESS" });
    expect(second.outcome === "rejected" && second.metadata["kind"]).to.equal("remove");
    harness.refused("MEMBERSHIP_CHANGE_IN_PROGRESS", admit(104));
    harness.refused("MEMBERSHIP_CHANGE_IN_PROGRESS", {
      kind: "transfer-leadership",
      memberId: 101,
      leaderId: 102,
    });

    end(harness);
    harness.ok(admit(104));
  });

  it("answer the same change to the same removal, and become forced when asked for", () => {
    const harness = new Harness().bootstrap();
    const first = harness.ok(remove(103));
    expect(harness.ok(remove(103))).to.deep.equal(first);
    expect(harness.ok(remove(103, true))).to.deep.equal(first);
    expect(openMembershipChange(harness.store)?.isForced).to.equal(true);
  });

  it("end once: the end of an older one is ignored", () => {
    const harness = new Harness().bootstrap();
    harness.ok(remove(103));
    const { changeId } = present(openMembershipChange(harness.store));
    end(harness);
    harness.ok(remove(102));
    harness.ok({ kind: "end-membership-change", changeId, failure: "" });
    expect(openMembershipChange(harness.store)).to.include({ kind: "remove", formerMemberId: 102 });
  });

  it("that failed say why, and leave nothing of the member that did not come but its used-up id", () => {
    const harness = new Harness().bootstrap();
    harness.ok(issue());
    harness.ok(admit(104));
    end(harness, "it never caught up");

    expect(lastMembershipChange(harness.store)).to.include({ hasEnded: true, failure: "it never caught up" });
    expect(removedMembers(harness.store, 10).map(({ memberId }) => memberId)).to.deep.equal([104]);
    harness.refused("MEMBER_REMOVED", admit(104));
  });

  it("give up a node that is being added when it is removed", () => {
    const harness = new Harness().bootstrap();
    harness.ok(issue());
    harness.ok(admit(104));
    harness.ok(remove(104));
    expect(openMembershipChange(harness.store)).to.include({ kind: "remove", formerMemberId: 104 });
  });

  it("keep the member when a removal failed", () => {
    const harness = new Harness().bootstrap();
    harness.ok(remove(103));
    end(harness, "not safe");
    expect(findMember(harness.store, 103)?.nodeId).to.equal("node-103");
    expect(removedMembers(harness.store, 10)).to.deep.equal([]);
  });

  it("refuse members that are not there", () => {
    const harness = new Harness().bootstrap();
    harness.refused("MEMBER_NOT_FOUND", remove(999));
    harness.refused("MEMBER_NOT_FOUND", { kind: "transfer-leadership", memberId: 999, leaderId: 101 });
  });
});

describe("a member that was removed", () => {
  function withRemoved(harness: Harness, memberId: number): void {
    harness.ok(remove(memberId));
    end(harness);
  }

  it("cannot register again, renew a lease or seal", () => {
    const harness = new Harness().bootstrap();
    withRemoved(harness, 103);

    expect(harness.apply(remove(103))).to.include({ outcome: "rejected", reason: "MEMBER_REMOVED" });
    const node = {
      ...{ memberId: 103, nodeId: "n", storeIncarnation: "s", address: "a" },
      ...{ httpUrl: "", publicUrl: "", zone: "", isStorageOnly: false },
    };
    harness.refused("MEMBER_REMOVED", { kind: "register-node", node });
    harness.refused("SEAL_REJECTED", {
      ...{ kind: "renew-write-lease", memberId: 103, storeIncarnation: "store-103", idCount: 0 },
    });
    harness.refused("SEAL_REJECTED", harness.putBody("/late.txt"));
  });

  it("has its copies forgotten in bounded steps, so that they count as missing", () => {
    const harness = new Harness({ batchItemCountMax: 3 }).bootstrap();
    for (let i = 0; i < 10; i += 1) harness.put(`/f${i}`, { text: `content ${i}` });
    harness.put("/elsewhere", { text: "e", memberIds: [101, 102] });
    expect(counters(harness.store).replicas).to.include({ fullyReplicatedCount: 10 });
    withRemoved(harness, 103);
    harness.ok({ kind: "evict" });
    expect(counters(harness.store).replicas, "too good, and says so").to.include({ recounting: true });

    expect(harness.drain("evict"), "several commands").to.be.above(1);

    expect(counters(harness.store).replicas).to.include({
      ...{ recounting: false, fullyReplicatedCount: 0 },
      underReplicatedCount: 11,
    });
    for (const key of underReplicated(harness.store, undefined, 100)) {
      const extent = present(findExtent(harness.store, key.contentId, key.extentIndex));
      expect(extent.replicas.map(({ memberId }) => memberId)).to.have.members([101, 102]);
    }
    harness.register(104);
    const [first] = underReplicated(harness.store, undefined, 1);
    const { contentId } = present(first);
    harness.ok({ kind: "assign-replica", contentId, extentIndex: 0, memberId: 104, replacesMemberId: 0 });
    harness.ok({ kind: "add-replica", seal: sealOf(contentId, 104, utf8("content 0")) });
    expect(counters(harness.store).replicas).to.include({ fullyReplicatedCount: 1 });
  });

  it("is told nothing to drop any more", () => {
    const harness = new Harness().bootstrap();
    harness.put("/a", { text: "a" });
    harness.put("/b", { text: "b" });
    harness.remove("/a");
    harness.advance(60_000);
    harness.drain("expire");
    expect(dropList(harness.store, 103, 10)).to.have.length(1);
    withRemoved(harness, 103);
    harness.remove("/b");
    harness.advance(60_000);
    harness.drain("expire");
    harness.drain("evict");

    expect(dropList(harness.store, 103, 10)).to.deep.equal([]);
    expect(dropList(harness.store, 102, 10)).to.have.length(2);
  });

  it("leaves a cluster that can acknowledge alone when only one is left", () => {
    const harness = new Harness().bootstrap();
    withRemoved(harness, 103);
    harness.refused("SEAL_REJECTED", harness.putBody("/two.txt", { memberIds: [101] }));
    withRemoved(harness, 102);
    harness.put("/one.txt", { memberIds: [101] });
  });

  it("is not waited for by an upload that it was to hold", () => {
    const harness = new Harness().bootstrap();
    putLarge(harness, 1, {
      meanwhile: () => {
        withRemoved(harness, 103);
        harness.drain("evict");
      },
    });
    const [only] = underReplicated(harness.store, undefined, 10);
    const extent = present(findExtent(harness.store, present(only).contentId, 0));
    expect(extent.replicas.map(({ memberId }) => memberId)).to.deep.equal([101, 102]);
  });

  it("keeps copies of large contents in view too: every extent is looked at", () => {
    const harness = new Harness({ batchItemCountMax: 2 }).bootstrap();
    const extents = putLarge(harness, 5);
    withRemoved(harness, 102);
    harness.drain("evict");
    expect(underReplicated(harness.store, undefined, 10)).to.have.length(extents);
  });

  for (const level of [2, 3]) {
    describe(`has nothing left at level 3 (removed at level ${level})`, () => {
      const founded = (): Harness => {
        const harness = new Harness({ batchItemCountMax: 4 }).bootstrap(level);
        for (const memberId of [101, 102, 103]) harness.register(memberId, `store-${memberId}`, 3);
        return harness;
      };
      // Below level 3 something is left, and the invariants do not hold until the level is raised.
      const forgetAll = (harness: Harness, between: () => void = () => undefined): void => {
        harness.checks = level === 3;
        withRemoved(harness, 103);
        harness.ok({ kind: "evict" });
        between();
        harness.drain("evict");
        harness.ok({ kind: "raise-feature-level", level: 3 });
        while (pendingWork(harness.store).recountable) harness.ok({ kind: "recount" });
        harness.drain("evict");
        checkInvariants(harness.store);
      };

      it("when the content that is being looked at goes between two steps", () => {
        const harness = founded();
        putLarge(harness, 5, { name: "first" });
        const extents = putLarge(harness, 5, { name: "second" });
        harness.remove("/first");
        harness.advance(60_000);
        forgetAll(harness, () => {
          harness.drain("reclaim");
          harness.drain("expire");
        });

        const short = underReplicated(harness.store, undefined, 100);
        expect(short.map(({ verifiedCount }) => verifiedCount)).to.deep.equal(Array(extents).fill(2));
      });

      it("when its list of copies to drop is longer than a step and no content is there", () => {
        const harness = founded();
        for (let i = 0; i < 10; i += 1) harness.put(`/f${i}`, { text: `content ${i}` });
        for (let i = 0; i < 10; i += 1) harness.remove(`/f${i}`);
        harness.drain("reclaim");
        harness.advance(61_000);
        harness.drain("expire");
        expect(dropList(harness.store, 103, 100)).to.have.length(10);
        forgetAll(harness);

        expect(dropList(harness.store, 103, 100)).to.deep.equal([]);
        expect(counters(harness.store).replicas).to.include({ recounting: false });
      });
    });
  }
});

/** Makes a content with `count` full extents at those of 101, 102 and 103 that are members at the end; returns the count. */
function putLarge(
  harness: Harness,
  count: number,
  { name = "large", meanwhile = (): void => undefined } = {},
): number {
  const GIB = 1024 ** 3;
  const ids = [101, 102, 103];
  const started = harness.ok({
    ...{ kind: "init-upload", at: { baseId: 1, path: [name] }, createParents: false },
    ...{ sizeBytes: count * GIB, treeHash: new Uint8Array(0), onConflict: "fail" as const },
    ...{ attributes: {}, precondition: {} },
    extents: Array.from({ length: count }, (_, extentIndex) => ({ extentIndex, memberIds: ids })),
  });
  if (started.kind !== "upload") throw new Error(started.kind);
  const { uploadId, contentId } = started;
  const roots = Array.from({ length: count }, (_, i) => sha256(utf8(`extent ${i}`)));
  meanwhile();
  const sealers = ids.filter((memberId) => findMember(harness.store, memberId) !== undefined);
  const seals = roots.flatMap((root, extentIndex) =>
    sealers.map((memberId) => ({
      ...{ extent: { contentId, extentIndex }, sizeBytes: GIB, root, memberId },
      storeIncarnation: `store-${memberId}`,
    })),
  );
  const treeHash = foldRoots(roots);
  harness.ok({
    ...{
      kind: "complete-upload",
      uploadId,
      sizeBytes: count * GIB,
      treeHash,
      sha256: new Uint8Array(0),
      seals,
    },
    ...{ precondition: {}, onConflict: undefined, put: undefined },
  });
  return count;
}

/** The tree hash over the roots of full extents: pairs, level by level, an odd one goes up as it is. */
function foldRoots(roots: readonly Uint8Array[]): Uint8Array {
  let level = [...roots];
  while (level.length > 1) {
    const next: Uint8Array[] = [];
    for (let i = 0; i < level.length; i += 2) {
      const [a, b] = [present(level[i]), level[i + 1]];
      next.push(b === undefined ? a : sha256(Buffer.concat([a, b])));
    }
    level = next;
  }
  return present(level[0]);
}
