/**
 * Snapshots of the tree as contents: kept while they are among the newest, dropped like any content afterwards, shared with nobody.
 */
import { expect } from "chai";
import { TREE_SNAPSHOT_COUNT } from "../../../src/drive/limits.ts";
import type { CommandBody } from "../../../src/metadata/commands.ts";
import { lastEventIndex, treeSnapshots } from "../../../src/metadata/tree-snapshots.ts";
import { contentState, dropList } from "../../../src/metadata/view.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { at, Harness, MEMBER_IDS, sealOf } from "./harness.ts";

function snapshotBody(
  h: Harness,
  index: number,
  text = `tree ${index}`,
): CommandBody & {
  readonly kind: "record-tree-snapshot";
} {
  const bytes = utf8(text);
  const contentId = h.contentId();
  return {
    ...{ kind: "record-tree-snapshot", memberId: 101, contentId, sizeBytes: bytes.length },
    treeHash: sha256(bytes),
    seals: MEMBER_IDS.map((memberId) => sealOf(contentId, memberId, bytes)),
    ...{ index, eventIndex: lastEventIndex(h.store), clusterTimeMs: 0 },
  };
}

describe("snapshots of the tree", () => {
  it("keeps the newest by what they show, and drops the others like any content", () => {
    const h = new Harness().bootstrap();
    h.put("/a");
    const bodies = Array.from({ length: TREE_SNAPSHOT_COUNT + 1 }, (_, i) => snapshotBody(h, 1 + i));
    const [oldest, ...rest] = bodies;
    // An older one that comes late is not kept at the cost of a newer one.
    for (const body of rest) h.ok(body);
    expect(treeSnapshots(h.store).map(({ index }) => index)).to.deep.equal([2, 3, 4]);
    if (oldest !== undefined) h.ok(oldest);
    expect(treeSnapshots(h.store).map(({ index }) => index)).to.deep.equal([2, 3, 4]);
    expect(contentState(h.store, oldest?.contentId ?? 0)).to.equal("dropping");
    expect(contentState(h.store, rest[0]?.contentId ?? 0)).to.equal("committed");
    h.advance(120_000);
    h.drain("expire");
    expect(dropList(h.store, 101, 10).map(({ contentId }) => contentId)).to.deep.equal([oldest?.contentId]);
  });

  it("are contents that no upload may share", () => {
    const h = new Harness().bootstrap();
    const body = snapshotBody(h, 1);
    h.ok(body);
    const value = h.ok({
      ...{ kind: "init-upload", at: at("/stolen"), createParents: false, sizeBytes: body.sizeBytes },
      ...{ treeHash: body.treeHash, onConflict: "fail", attributes: {}, precondition: {} },
      extents: [{ extentIndex: 0, memberIds: MEMBER_IDS }],
    });
    expect(value.kind === "upload" ? value.entry : "other").to.equal(undefined);
  });

  it("are refused without enough seals, without a lease, of the future, and twice", () => {
    const h = new Harness().bootstrap();
    const body = snapshotBody(h, 1);
    h.refused("SEAL_REJECTED", { ...body, seals: body.seals.slice(0, 1) });
    h.refused("SEAL_REJECTED", { ...body, memberId: 102 });
    h.refused("ARGUMENT_INVALID", { ...body, index: 1000 });
    h.refused("ARGUMENT_INVALID", { ...body, clusterTimeMs: 1000 });
    h.ok(body);
    h.refused("SEAL_REJECTED", body);
    h.refused("SEAL_REJECTED", snapshotBody(h, 1));
  });

  it("knows the last event", () => {
    const h = new Harness().bootstrap();
    expect(lastEventIndex(h.store)).to.equal(0);
    h.put("/a");
    const last = h.index;
    h.advance(1000);
    expect(lastEventIndex(h.store)).to.equal(last);
  });
});
