/**
 * The system's own tree. Goal: it keeps contents alive like any tree, and users neither see it, reach it nor hear of it. Method:
 * the commands that users' trees take, from the other root; invariants are checked after each.
 */
import { expect } from "chai";
import { SYSTEM_ROOT_ENTRY_ID, type Locator } from "../../../src/drive/entry.ts";
import { DROP_GRACE_MS } from "../../../src/drive/limits.ts";
import type { CommandBody } from "../../../src/metadata/commands.ts";
import { findById, scanRows } from "../../../src/metadata/feed.ts";
import {
  changesAfter,
  getContent,
  getEntry,
  list,
  pathOf,
  pendingWork,
  resolve,
} from "../../../src/metadata/view.ts";
import { at, Harness, mkdirBody, present, treeOf } from "./harness.ts";

const system = (path: string): Locator => at(path, SYSTEM_ROOT_ENTRY_ID);
const makeKept = (path: string): CommandBody => ({
  ...{ kind: "create-directory", at: system(path), createParents: true, existOk: true },
  ...{ attributes: {}, precondition: {} },
});
const keep = (from: string, path: string): CommandBody => ({
  ...{ kind: "copy-entry", source: at(from), to: system(path), onConflict: "fail", precondition: {} },
});
const drop = (path: string): CommandBody => ({
  ...{ kind: "delete-entry", at: system(path), recursive: true, precondition: {} },
});

describe("the system's own tree", () => {
  let h: Harness;
  beforeEach(() => {
    h = new Harness().bootstrap();
    h.mkdir("/d/e", { createParents: true });
    h.put("/d/e/f.txt");
    h.put("/d/g.txt");
    h.ok(makeKept("/kept"));
  });

  const isThere = (contentId: number): boolean => (getContent(h.store, contentId)?.referenceCount ?? 0) > 0;

  it("is not listed, and no id leads into it", () => {
    const kept = h.entry(keep("/d", "/kept/d"));
    h.drain("materialise");
    const inside = present(
      scanRows(h.store, undefined, 100).rows.find((row) => row.parentId === kept.entryId),
    );

    expect(Object.keys(treeOf(h.store))).to.deep.equal(["d"]);
    for (const { entryId } of [kept, inside]) {
      expect(getEntry(h.store, entryId)).to.equal(undefined);
      expect(findById(h.store, entryId)).to.equal(undefined);
      expect(pathOf(h.store, entryId)).to.equal(undefined);
      expect(() => resolve(h.store, at("", entryId))).to.throw("There is no entry");
    }
    h.refused("PATH_NOT_FOUND", {
      kind: "delete-entry",
      at: at("", kept.entryId),
      recursive: true,
      precondition: {},
    });
    h.refused("PATH_NOT_FOUND", {
      ...{ kind: "move-entry", source: at("/d/g.txt"), to: at("/x", kept.entryId), onConflict: "fail" },
      precondition: {},
    });
    h.refused("PATH_NOT_FOUND", {
      ...{ kind: "copy-entry", source: at("", inside.entryId), to: at("/stolen"), onConflict: "fail" },
      precondition: {},
    });
    h.refused("PATH_NOT_FOUND", mkdirBody("/kept/x"));
  });

  it("tells nobody of what happens in it", () => {
    const before = changesAfter(h.store, 0, 1000).length;

    h.ok(keep("/d", "/kept/d"));
    h.drain("materialise");
    h.ok({ ...h.putBody("/"), at: system("/kept/layout") });
    h.ok(drop("/kept"));
    h.drain("reclaim");

    expect(changesAfter(h.store, 0, 1000).length).to.equal(before);
  });

  it("keeps a folder as it was, files of it too that were replaced and deleted, until it is dropped", () => {
    const [file, other] = [h.put("/d/h.txt"), h.put("/d/e/i.txt")];
    h.ok(keep("/d", "/kept/d"));

    h.put("/d/h.txt", { text: "new", onConflict: "replace" });
    h.remove("/d/e");
    h.drain("reclaim");
    h.advance(2 * DROP_GRACE_MS);
    h.drain("expire");
    expect([isThere(file.contentId), isThere(other.contentId)]).to.deep.equal([true, true]);

    const found = resolve(h.store, system("/kept/d"));
    if (found.kind !== "entry") throw new Error(found.kind);
    h.ok({ kind: "materialise", directoryId: found.entry.entryId, path: [] });
    const page = list(h.store, found.entry.entryId, { countMax: 10 });
    if (page.kind !== "page") throw new Error(page.kind);
    expect(page.entries.map(({ name }) => name)).to.deep.equal(["e", "g.txt", "h.txt"]);
    expect(page.entries[2]?.contentId).to.equal(file.contentId);

    h.ok(drop("/kept"));
    h.drain("reclaim");
    expect([isThere(file.contentId), isThere(other.contentId)]).to.deep.equal([false, false]);
  });

  it("is filled in the background like any copy, and not given up for being out of sight", () => {
    const { entryId } = h.entry(keep("/d", "/kept/d"));

    expect(pendingWork(h.store).materialisable).to.equal(true);
    h.drain("materialise");

    expect(treeOf(h.store, entryId)).to.have.all.keys("e", "g.txt");
    expect(pendingWork(h.store).materialisable).to.equal(false);
  });

  it("takes uploads by chunks", () => {
    const upload = h.ok({
      ...{ kind: "init-upload", at: system("/kept/layout"), createParents: false, sizeBytes: undefined },
      ...{ treeHash: new Uint8Array(0), onConflict: "replace", attributes: {}, precondition: {} },
      extents: [{ extentIndex: 0, memberIds: [101, 102, 103] }],
    });
    if (upload.kind !== "upload") throw new Error(upload.kind);
    const { seals, sizeBytes } = h.putBody("/", { text: "layout" });
    const toHere = seals.map((seal) => ({
      ...seal,
      extent: { contentId: upload.contentId, extentIndex: 0 },
    }));

    const entry = h.entry({
      ...{ kind: "complete-upload", uploadId: upload.uploadId, sizeBytes, sha256: new Uint8Array(0) },
      ...{ treeHash: present(toHere[0]).root, seals: toHere, precondition: {} },
      ...{ onConflict: undefined, put: undefined },
    });

    expect(entry.name).to.equal("layout");
    expect(isThere(entry.contentId)).to.equal(true);
  });
});
