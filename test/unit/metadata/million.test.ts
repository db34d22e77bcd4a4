/**
 * Goal: a folder of 1,000,000 descendants is moved, copied and deleted by one command each, with a bounded number of writes and
 * in less than 5 ms, and everything afterwards goes on in bounded steps. Method: the tree (1,000 folders of 999 files) is put
 * into the store directly, as a million commands would have left it; invariants are checked on the result once.
 */
import { expect } from "chai";
import { ROOT_ENTRY_ID } from "../../../src/drive/entry.ts";
import type { CommandBody } from "../../../src/metadata/commands.ts";
import { readState } from "../../../src/metadata/context.ts";
import { placeKey, rowKey, STATE_KEY, contentKey } from "../../../src/metadata/keys.ts";
import {
  contentCodec,
  entryRecordCodec,
  placeCodec,
  stateCodec,
  type EntryRecord,
} from "../../../src/metadata/records.ts";
import { counters, getEntry, list, resolve } from "../../../src/metadata/view.ts";
import { encodeCommand } from "../../../src/metadata/codec.ts";
import type { OrderedTransaction } from "../../../src/std/ordered-store.ts";
import { at, Harness, present, transferBody } from "./harness.ts";

const FOLDER_COUNT = 1000;
const FILE_COUNT = 999;

/** Writes that moving, copying or deleting a folder may cost. */
const WRITE_COUNT_MAX = 10;

class Million extends Harness {
  /** Applies a command, counts its writes and takes the time. */
  measured(body: CommandBody): { readonly writeCount: number; readonly elapsedMs: number } {
    const data = encodeCommand({ requestId: "", deadlineMs: 0, wallTimeMs: 0, body });
    this.index += 1;
    let writeCount = 0;
    const startMs = performance.now();
    const result = this.store.transaction((below) => {
      const counting: OrderedTransaction = {
        get: (key) => below.get(key),
        range: (range) => below.range(range),
        put: (key, value) => {
          writeCount += 1;
          below.put(key, value);
        },
        insert: (key, value) => {
          writeCount += 1;
          below.insert(key, value);
        },
        delete: (key) => {
          writeCount += 1;
          below.delete(key);
        },
      };
      return this.machine.apply(counting, { index: this.index, term: 1, data });
    });
    const elapsedMs = performance.now() - startMs;
    expect(result.outcome, JSON.stringify(result)).to.equal("applied");
    return { writeCount, elapsedMs };
  }

  fill(): void {
    const file = this.put("/first");
    const big = this.mkdir("/big");
    this.store.transaction((t) => {
      const state = readState(t);
      let nextId = state.nextEntryId;
      const put = (parentId: number, name: string, kind: EntryRecord["kind"]): number => {
        const entryId = nextId;
        nextId += 1;
        const isFile = kind === "file";
        const { sizeBytes, contentId, treeHash } = isFile ? file : { ...big, contentId: 0 };
        const row: EntryRecord = {
          ...{ entryId, kind, version: 1, sizeBytes, contentId, treeHash, mediaType: "", mode: undefined },
          modifyTimeMs: 0,
          createTimeMs: 0,
        };
        t.put(rowKey(parentId, name), entryRecordCodec.encode(row));
        t.put(placeKey(entryId), placeCodec.encode({ parentId, name }));
        return entryId;
      };
      for (let i = 0; i < FOLDER_COUNT; i += 1) {
        const folderId = put(big.entryId, `folder-${String(i).padStart(4, "0")}`, "directory");
        for (let j = 0; j < FILE_COUNT; j += 1) put(folderId, `file-${String(j).padStart(4, "0")}`, "file");
      }
      const key = contentKey(file.contentId);
      const content = contentCodec.decode(present(t.get(key)));
      t.put(key, contentCodec.encode({ ...content, referenceCount: 1 + FOLDER_COUNT * FILE_COUNT }));
      const fileCount = state.fileCount + FOLDER_COUNT * FILE_COUNT;
      const directoryCount = state.directoryCount + FOLDER_COUNT;
      t.put(STATE_KEY, stateCodec.encode({ ...state, nextEntryId: nextId, fileCount, directoryCount }));
    });
  }
}

describe("A folder with 1,000,000 descendants", function () {
  this.timeout(60_000);

  const harness = new Million();
  harness.checks = false;

  before(() => {
    harness.bootstrap();
    harness.fill();
    harness.mkdir("/elsewhere");
    // The first calls compile the code; what is measured is the work.
    for (let i = 0; i < 20; i += 1) {
      harness.put(`/elsewhere/${i}`);
      harness.copy("/elsewhere", `/copy-${i}`);
      harness.move(`/copy-${i}`, `/moved-${i}`);
      harness.remove(`/moved-${i}`);
      harness.drain("reclaim");
    }
  });

  /** Each command is small; the fastest of several says what it costs, the others what else the machine does. */
  function expectSmall(bodies: readonly CommandBody[]): void {
    const measured = bodies.map((body) => harness.measured(body));
    expect(Math.max(...measured.map((each) => each.writeCount))).to.be.at.most(WRITE_COUNT_MAX);
    expect(Math.min(...measured.map((each) => each.elapsedMs))).to.be.lessThan(5);
  }

  it("is moved by one small command", () => {
    const { entryId } = harness.move("/big", "/0");

    expectSmall([0, 1, 2, 3, 4].map((i) => transferBody("move-entry", `/${i}`, `/${i + 1}`)));

    expect(getEntry(harness.store, entryId)?.name).to.equal("5");
    expect(resolve(harness.store, at("/5/folder-0500/file-0500")).kind).to.equal("entry");
    harness.move("/5", "/elsewhere/big");
  });

  it("is copied by one small command, and the copy is a snapshot that can be read at once", () => {
    const targets = ["/copy", "/copy-1", "/copy-2", "/copy-3", "/copy-4"];
    expectSmall(targets.map((to) => transferBody("copy-entry", "/elsewhere/big", to)));

    const change = harness.measured({
      kind: "delete-entry",
      at: at("/elsewhere/big/folder-0500/file-0500"),
      recursive: false,
      precondition: {},
    });
    // The folder and the file are carried into each of the five copies first.
    expect(change.writeCount).to.be.at.most(10 * WRITE_COUNT_MAX);

    expect(resolve(harness.store, at("/copy/folder-0500/file-0500")).kind).to.equal("entry");
    const wanted = resolve(harness.store, at("/copy/folder-0999/file-0001"));
    if (wanted.kind !== "needs-materialise") throw new Error(wanted.kind);
    const { directoryId, path } = wanted;
    harness.measured({ kind: "materialise", directoryId, path });
    const found = resolve(harness.store, at("/copy/folder-0999/file-0001"));
    if (found.kind !== "entry") throw new Error(found.kind);
    harness.ok({ kind: "materialise", directoryId: found.entry.parentId, path: [] });
    const page = list(harness.store, found.entry.parentId, { countMax: 100 });
    expect(page.kind === "page" ? page.entries.length : page.kind).to.equal(100);
  });

  it("is deleted by one small command, gone at once, and taken apart in bounded steps", () => {
    const inside = resolve(harness.store, at("/elsewhere/big/folder-0001/file-0001"));
    if (inside.kind !== "entry") throw new Error(inside.kind);
    const before = counters(harness.store).fileCount;

    const doomed = ["/elsewhere/big", "/copy", "/copy-1", "/copy-2", "/copy-3", "/copy-4"];
    expectSmall(
      doomed.map((path) => ({ kind: "delete-entry", at: at(path), recursive: true, precondition: {} })),
    );

    expect(getEntry(harness.store, inside.entry.entryId)).to.equal(undefined);
    expect(getEntry(harness.store, inside.entry.parentId)).to.equal(undefined);
    // Nobody will see the rest of these copies, so they do not keep what they read from.
    for (let i = 0; i < 20; i += 1) {
      const { writeCount } = harness.measured({ kind: "reclaim" });
      expect(writeCount).to.be.at.most(10_000);
    }
    expect(counters(harness.store).fileCount).to.be.lessThan(before - 10_000);
    expect(list(harness.store, ROOT_ENTRY_ID, { countMax: 10 }).kind).to.equal("page");
  });
});
