/**
 * What a rebuilt tree gets beside its snapshot. Method: a state machine stands in for the snapshot; the steps of a rebuild run on it,
 * and all invariants are checked after each.
 */
import { expect } from "chai";
import { UNPLACED_RETENTION_MS } from "../../../src/drive/limits.ts";
import type { ApplyContext } from "../../../src/metadata/context.ts";
import { checkInvariants } from "../../../src/metadata/invariants.ts";
import {
  adoptFile,
  beginRebuild,
  pathsOfContents,
  placeInTime,
  REBUILD_JUMP,
  rebuildStep,
  setCopies,
  type FoundCopy,
} from "../../../src/metadata/rebuild.ts";
import { findLease, isLeased, UNPLACED_OWNER_ID } from "../../../src/metadata/members.ts";
import {
  clusterInfo,
  clusterTime,
  contentState,
  counters,
  getUpload,
  nextContentId,
  storeOf,
} from "../../../src/metadata/view.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { at, Harness, MEMBER_IDS, treeOf } from "./harness.ts";

const STORES = MEMBER_IDS.map((memberId) => ({ memberId, storeIncarnation: `store-${memberId}` }));

class Rebuilt extends Harness {
  step<T>(work: (context: ApplyContext) => T): T {
    this.index += 1;
    const where = { index: this.index, wallTimeMs: 1_800_000_000_000 };
    const result = this.store.transaction((transaction) => rebuildStep(transaction, where, work));
    checkInvariants(this.store);
    return result;
  }

  begin(stores = STORES): void {
    const rebuilt = { clusterId: "new", stores, elapsedMs: 5000, contentIdMin: 77 };
    this.step((context) => beginRebuild(context, rebuilt));
  }
}

function sealed(memberId: number, text: string): FoundCopy {
  const bytes = utf8(text);
  return { memberId, state: "sealed", sizeBytes: bytes.length, root: sha256(bytes) };
}

describe("rebuilding a tree from a snapshot", () => {
  it("gives no number again that the lost tree may have given, and keeps unplaced bytes for a time", () => {
    const h = new Rebuilt().bootstrap();
    h.put("/a");
    const leased = h.contentId();
    const firstUnknown = nextContentId(h.store);
    h.begin();
    expect(clusterInfo(h.store)?.clusterId).to.equal("new");
    expect(nextContentId(h.store)).to.equal(firstUnknown + REBUILD_JUMP);
    for (const contentId of [leased, firstUnknown, firstUnknown + 5]) {
      expect(contentState(h.store, contentId), String(contentId)).to.equal("leased");
    }
    const unplaced = findLease(h.store, UNPLACED_OWNER_ID);
    const endMs = clusterTime(h.store) + UNPLACED_RETENTION_MS;
    expect(isLeased(unplaced, endMs - 1, leased)).to.equal(true);
    expect(isLeased(unplaced, endMs, leased)).to.equal(false);
    // A lease from before is void: another small file needs a new one.
    h.refused("SEAL_REJECTED", { ...h.putBody("/b"), contentId: leased });
  });

  it("counts the copies that were found, and no others", () => {
    const h = new Rebuilt().bootstrap();
    const { contentId } = h.put("/a", { text: "bytes" });
    const extent = { contentId, extentIndex: 0 };
    const found = STORES.slice(0, 2);
    h.begin(found);
    expect(storeOf(h.store, 103).lostTimeMs).to.be.above(0);
    const set = (copies: readonly FoundCopy[]): { wholeCount: number; isMissed: boolean } =>
      h.step((context) => setCopies(context, extent, found, copies));
    expect(set([sealed(101, "bytes"), sealed(102, "bytes")])).to.deep.equal({
      wholeCount: 2,
      isMissed: false,
    });
    expect(counters(h.store).replicas.underReplicatedCount).to.equal(1);
    expect(set([sealed(101, "bytes")])).to.deep.equal({ wholeCount: 1, isMissed: true });
    expect(counters(h.store).replicas.singleCopyCount).to.equal(1);
    const damaged: FoundCopy = { ...sealed(102, "bytes"), state: "damaged", root: new Uint8Array(0) };
    expect(set([sealed(101, "other"), damaged])).to.include({ wholeCount: 0 });
    expect(counters(h.store).replicas.noCopyCount).to.equal(1);
    expect(pathsOfContents(h.store, new Set([contentId]), 10)).to.deep.equal(["/a"]);
  });

  it("makes files of what came later, under names that are free, and ends the upload that wrote it", () => {
    const h = new Rebuilt().bootstrap();
    const init = h.ok({
      ...{
        kind: "init-upload",
        at: at("/up"),
        createParents: false,
        sizeBytes: 3,
        treeHash: new Uint8Array(0),
      },
      ...{ onConflict: "fail", attributes: {}, precondition: {} },
      extents: [{ extentIndex: 0, memberIds: MEMBER_IDS }],
    });
    if (init.kind !== "upload") throw new Error(init.kind);
    expect(placeInTime(h.store, init.contentId, MEMBER_IDS)).to.equal("later");
    expect(placeInTime(h.store, nextContentId(h.store) + 3, MEMBER_IDS)).to.equal("later");
    h.begin();
    const adopt = (contentId: number): readonly string[] => {
      const extents = [{ sizeBytes: 3, root: sha256(utf8("abc")), memberIds: MEMBER_IDS }];
      return h.step((context) => adoptFile(context, { contentId, extents }, ["r", "x", "up.txt"], {}));
    };
    expect(adopt(init.contentId)).to.deep.equal(["r", "x", "up.txt"]);
    expect(getUpload(h.store, init.uploadId)).to.equal(undefined);
    expect(adopt(5000)).to.deep.equal(["r", "x", "up (2).txt"]);
    expect(treeOf(h.store)).to.deep.equal({ r: { x: { "up.txt": init.contentId, "up (2).txt": 5000 } } });
  });

  it("tells what was dropped or had no file at the snapshot from what came later", () => {
    const h = new Rebuilt().bootstrap();
    const { contentId } = h.put("/a");
    expect(placeInTime(h.store, contentId, MEMBER_IDS)).to.equal("known");
    h.remove("/a");
    h.advance(120_000);
    h.drain("expire");
    expect(placeInTime(h.store, contentId, MEMBER_IDS)).to.equal("dropped");
    expect(placeInTime(h.store, contentId + 1, MEMBER_IDS)).to.equal("orphan");
  });
});
