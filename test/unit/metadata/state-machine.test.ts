/** Commands on the tree: each refusal, conflicts, preconditions, requests, the feed; and that every store ends up the same. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { ROOT_ENTRY_ID } from "../../../src/drive/entry.ts";
import {
  CLOCK_ADVANCE_MS_MAX,
  PATH_DEPTH_MAX,
  REQUEST_COUNT_MAX,
  REQUEST_RETENTION_MS,
} from "../../../src/drive/limits.ts";
import type { CommandBody } from "../../../src/metadata/commands.ts";
import { readState } from "../../../src/metadata/context.ts";
import { checkInvariants } from "../../../src/metadata/invariants.ts";
import { STATE_KEY } from "../../../src/metadata/keys.ts";
import { freeName, numberedName } from "../../../src/metadata/names.ts";
import { stateCodec } from "../../../src/metadata/records.ts";
import { fingerprintOf, FINGERPRINT_SIZE_BYTES } from "../../../src/metadata/requests.ts";
import {
  changesAfter,
  clusterInfo,
  clusterTime,
  counters,
  getEntry,
  list,
  pathOf,
  pendingWork,
} from "../../../src/metadata/view.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { LmdbOrderedStoreProvider } from "../../../src/std/lmdb-ordered-store.ts";
import { at, dump, Harness, mkdirBody, transferBody, treeOf } from "./harness.ts";

const deleteBody = (path: string, recursive = false): CommandBody => ({
  ...{ kind: "delete-entry", at: at(path), recursive, precondition: {} },
});
const updateBody = (path: string, mode: number): CommandBody => ({
  ...{ kind: "update-entry", at: at(path), attributes: { mode }, precondition: {} },
});

describe("commands on the tree", () => {
  let h: Harness;
  beforeEach(() => {
    h = new Harness().bootstrap();
    h.mkdir("/d/e", { createParents: true });
    h.put("/d/f.txt");
  });

  it("check the version asked for of a folder that may be there", () => {
    const precondition = { ifVersions: [] };
    h.refused("VERSION_MISMATCH", mkdirBody("/d/e", { existOk: true, precondition }));
  });

  it("say in a user's words which of a file and a folder cannot replace the other", () => {
    const result = h.apply(transferBody("move-entry", "/d/e", "/d/f.txt", "replace"));

    expect(JSON.stringify(result))
      .to.include("A folder cannot replace the file")
      .and.not.include("directory");
  });

  it("refuse what is not there, not a folder, or taken", () => {
    h.refused("PATH_NOT_FOUND", mkdirBody("/x/y"));
    h.refused("NOT_A_DIRECTORY", mkdirBody("/d/f.txt/y"));
    h.refused("NOT_A_DIRECTORY", mkdirBody("/d/f.txt/y", { createParents: true }));
    h.refused("PATH_EXISTS", mkdirBody("/d/e"));
    h.refused("PATH_EXISTS", mkdirBody("/d/f.txt", { existOk: true }));
    h.refused("PATH_EXISTS", mkdirBody("/"));
    h.refused("PATH_EXISTS", { ...h.putBody("/d/f.txt") });
    h.refused("IS_A_DIRECTORY", { ...h.putBody("/d/e"), onConflict: "replace" });
    h.refused("NOT_A_DIRECTORY", transferBody("move-entry", "/d/e", "/d/f.txt", "replace"));
    h.refused("PATH_NOT_FOUND", deleteBody("/nothing"));
    h.refused("DIRECTORY_NOT_EMPTY", deleteBody("/d"));
    h.refused("ARGUMENT_INVALID", deleteBody("/", true));
    h.refused("PATH_NOT_FOUND", { kind: "delete-entry", at: at("", 999), recursive: true, precondition: {} });
    h.refused("ARGUMENT_INVALID", updateBody("/d", 0o10000));
    h.ok(updateBody("/d", 0o7777));
    expect(h.mkdir("/d/e", { existOk: true }).name).to.equal("e");
  });

  it("refuse to put a folder into itself, by any way down to it", () => {
    h.mkdir("/d/e/g");
    for (const kind of ["move-entry", "copy-entry"] as const) {
      h.refused("MOVE_INTO_SELF", transferBody(kind, "/d", "/d/e/g/h"));
      h.refused("MOVE_INTO_SELF", transferBody(kind, "/d", "/d/x"));
      h.refused("MOVE_INTO_SELF", transferBody(kind, "/", "/d/x"));
    }
    h.refused("MOVE_INTO_SELF", transferBody("copy-entry", "/d", "/d", "replace"));
    expect(h.copy("/d", "/d", "rename").name).to.equal("d (2)");
  });

  it("refuse bad names, and paths one deeper than allowed", () => {
    h.refused("PATH_INVALID", {
      ...mkdirBody("/x"),
      at: { baseId: ROOT_ENTRY_ID, path: [".."] },
    } as CommandBody);
    h.refused("PATH_INVALID", mkdirBody("/a\u0000b"));
    h.ok(mkdirBody(`/${"n".repeat(255)}`));
    h.refused("NAME_TOO_LONG", mkdirBody(`/${"n".repeat(256)}`));
    const deepest = Array.from({ length: PATH_DEPTH_MAX }, () => "x").join("/");
    h.ok(mkdirBody(deepest, { createParents: true }));
    h.refused("PATH_TOO_DEEP", mkdirBody(`${deepest}/x`));
  });

  it("check preconditions against the version of what is there", () => {
    const { version } = h.put("/d/g");
    const replace = (precondition: object): CommandBody => ({
      ...h.putBody("/d/g", { onConflict: "replace", precondition, text: "new" }),
    });
    h.contentId();
    h.refused("VERSION_MISMATCH", replace({ ifVersions: [version + 1] }));
    h.refused("VERSION_MISMATCH", replace({ ifAbsent: true }));
    h.refused("VERSION_MISMATCH", mkdirBody("/d/new", { precondition: { ifExists: true } }));
    h.refused("VERSION_MISMATCH", mkdirBody("/d/new", { precondition: { ifVersions: [] } }));
    h.refused("VERSION_MISMATCH", transferBody("move-entry", "/d/g", "/d/h", "fail", { ifVersions: [1] }));

    const first = h.entry(replace({ ifVersions: [version], ifExists: true }));

    expect(first.version).to.be.greaterThan(version);
    h.refused("VERSION_MISMATCH", replace({ ifVersions: [version] }));
  });

  it("keep the entry's id and creation when a file is replaced, in command order", () => {
    const old = h.put("/d/g", { text: "1", attributes: { mode: 0o600, mediaType: "a/b" } });

    const second = h.put("/d/g", { text: "2", onConflict: "replace" });
    const third = h.put("/d/g", { text: "3", onConflict: "replace" });

    expect([second.entryId, third.entryId]).to.deep.equal([old.entryId, old.entryId]);
    expect([third.mode, third.mediaType, third.createTimeMs]).to.deep.equal([0o600, "a/b", old.createTimeMs]);
    expect(third.contentId).to.not.equal(second.contentId);
    expect(counters(h.store).contentBytes).to.equal("/d/f.txt".length + 1);
  });

  it("move by attaching again: ids stay, paths change, the replaced entry goes", () => {
    const file = h.put("/d/e/deep");
    h.put("/target");
    h.mkdir("/empty");

    h.move("/d", "/empty", "replace");
    expect(pathOf(h.store, file.entryId)).to.deep.equal(["empty", "e", "deep"]);
    const moved = h.move("/empty/e/deep", "/target", "replace");

    expect(moved.entryId).to.equal(file.entryId);
    h.refused("PATH_EXISTS", transferBody("move-entry", "/target", "/empty"));
    h.refused("DIRECTORY_NOT_EMPTY", transferBody("move-entry", "/empty/e", "/empty", "replace"));
    expect(h.move("/target", "/target").version).to.equal(moved.version);
  });

  it("make everything below a deleted folder unreachable at once, by id too, and reclaim it later", () => {
    const folder = h.mkdir("/d/e/g");
    const file = h.put("/d/e/g/file");
    h.remove("/d");

    expect(getEntry(h.store, folder.entryId)).to.equal(undefined);
    expect(getEntry(h.store, file.entryId)).to.equal(undefined);
    h.refused("PATH_NOT_FOUND", { ...mkdirBody("x"), at: at("x", folder.entryId) } as CommandBody);
    expect(pendingWork(h.store).reclaimable).to.equal(true);
    h.drain("reclaim");

    expect(counters(h.store)).to.include({ fileCount: 0, directoryCount: 0, contentBytes: 0 });
    expect(treeOf(h.store)).to.deep.equal({});
  });

  it("list in code point order, page by page, whatever the order of arrival", () => {
    const names = ["z", "a", "Z", "é", "文", "\u{1F600}", "ﬀ", "a b"];
    for (const name of names) h.mkdir(`/d/e/${name}`);
    const directoryId = h.mkdir("/d/e", { existOk: true }).entryId;

    const found: string[] = [];
    for (let more = true; more;) {
      const page = list(h.store, directoryId, { afterName: found.at(-1), countMax: 3 });
      if (page.kind !== "page") throw new Error(page.kind);
      found.push(...page.entries.map((entry) => entry.name));
      more = page.more;
    }

    expect(found).to.deep.equal(names.toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))));
  });
});

describe("names for onConflict rename", () => {
  it("number before the extension and cut the stem at a code point to fit 255 bytes", () => {
    expect(numberedName("photo.jpg", 2, "file")).to.equal("photo (2).jpg");
    expect(numberedName("photo.jpg", 2, "directory")).to.equal("photo.jpg (2)");
    expect(numberedName(".profile", 3, "file")).to.equal(".profile (3)");
    const long = numberedName(`${"文".repeat(83)}.txt`, 10, "file");
    expect(long).to.equal(`${"文".repeat(82)} (10).txt`);
    expect(Buffer.byteLength(long)).to.be.at.most(255);
  });

  it("take the lowest free number when there are no gaps, in few questions", () => {
    for (const taken of [1, 2, 3, 4, 7, 8, 1000]) {
      let questions = 0;
      const name = freeName("a", "file", (each) => {
        questions += 1;
        return Number(/\((\d+)\)/.exec(each)?.[1]) <= taken;
      });
      expect(name).to.equal(`a (${Math.max(2, taken + 1)})`);
      expect(questions).to.be.at.most(22);
    }
    expect(() => freeName("a", "file", () => true)).to.throw("No free name");
  });
});

describe("media types", () => {
  it("are printable ASCII of at most 255 characters", () => {
    const h = new Harness().bootstrap();
    const { entryId } = h.put("/f", { text: "1" });
    const set = (mediaType: string): CommandBody => ({
      ...{ kind: "update-entry", at: { baseId: entryId, path: [] }, attributes: { mediaType } },
      precondition: {},
    });
    for (const bad of ["a/b\r\nX: y", "a/\u0000", "é/b", "a\x7f", "x".repeat(256)]) {
      h.refused("ARGUMENT_INVALID", set(bad));
    }
    for (const good of ["", 'a/b; c="d e"', "x".repeat(255)]) h.ok(set(good));
  });
});

describe("the request table", () => {
  const again = (h: Harness, requestId: string, deadlineMs = 0): unknown =>
    h.apply(mkdirBody("/once"), { requestId, deadlineMs });

  it("answers a repeated request from memory, refusals too", () => {
    const h = new Harness().bootstrap();

    const first = again(h, "r-1");
    const refusal = again(h, "r-2");
    const before = dump(h.store);

    expect(again(h, "r-1")).to.deep.equal(first);
    expect(again(h, "r-2")).to.deep.equal(refusal);
    expect(refusal).to.include({ outcome: "rejected", reason: "PATH_EXISTS" });
    expect(dump(h.store)).to.deep.equal(before);
  });

  it("refuses a request id that stands for another change, and remembers the first", () => {
    const h = new Harness().bootstrap();
    const first = again(h, "r-1");
    const before = dump(h.store);

    const other = h.apply(mkdirBody("/other"), { requestId: "r-1" });

    expect(other).to.include({ outcome: "rejected", reason: "REQUEST_ID_REUSED" });
    expect(dump(h.store)).to.deep.equal(before);
    expect(again(h, "r-1", 5)).to.deep.equal(first);
  });

  it("takes request ids of 1 to 64 printable ASCII characters without spaces", () => {
    const h = new Harness().bootstrap();
    for (const requestId of ["a b", "a\n", "\x7f", "é", "x".repeat(65)]) {
      expect(again(h, requestId)).to.include({ reason: "ARGUMENT_INVALID" });
    }
    expect(again(h, "!~".repeat(32))).to.include({ outcome: "applied" });
  });

  it("takes a put of the same bytes by another path for the same request", () => {
    const put = {
      at: { baseId: 1, path: ["a"] },
      createParents: true,
      onConflict: "fail",
      attributes: {},
    } as const;
    const content = { sizeBytes: 1, treeHash: new Uint8Array(32), seals: [], precondition: {} };
    const small = { kind: "put-small", ...put, ...content, memberId: 3, contentId: 4 } as const;
    const long = {
      ...{ kind: "complete-upload" as const, uploadId: 7, ...content },
      ...{ sha256: new Uint8Array(0), onConflict: undefined, put },
    } as const;
    const same = fingerprintOf(small);

    expect(same).to.have.lengthOf(FINGERPRINT_SIZE_BYTES);
    expect(fingerprintOf(long)).to.deep.equal(same);
    expect(fingerprintOf({ ...small, memberId: 5, contentId: 6 })).to.deep.equal(same);
    expect(fingerprintOf({ ...long, uploadId: 8 })).to.deep.equal(same);
    expect(fingerprintOf({ ...small, sizeBytes: 2 })).not.to.deep.equal(same);
    expect(fingerprintOf({ ...small, onConflict: "replace" })).not.to.deep.equal(same);
    expect(fingerprintOf({ ...long, put: undefined })).not.to.deep.equal(same);
  });

  it("refuses what comes after its deadline or has one too far ahead, and forgets by cluster time", () => {
    const h = new Harness().bootstrap();
    h.ok({ kind: "advance-clock", elapsedMs: 1000 });

    expect(again(h, "late", 1000)).to.include({ reason: "REQUEST_EXPIRED" });
    expect(again(h, "far", 1001 + REQUEST_RETENTION_MS)).to.include({ reason: "ARGUMENT_INVALID" });
    expect(again(h, "x".repeat(65))).to.include({ reason: "ARGUMENT_INVALID" });
    expect(again(h, "y".repeat(64), 1000 + REQUEST_RETENTION_MS)).to.include({ outcome: "applied" });
    expect(again(h, "soon", 1001)).to.include({ reason: "PATH_EXISTS" });
    expect(counters(h.store).requestCount).to.equal(2);
    h.ok({ kind: "advance-clock", elapsedMs: 1 });
    h.drain("expire");
    expect(counters(h.store).requestCount).to.equal(1);
  });

  it("is OVERLOADED one above its limit, and makes room of what has expired", () => {
    const h = new Harness({ requestCountMax: 2 }).bootstrap();
    again(h, "a", 1000);
    again(h, "b");

    expect(again(h, "c")).to.include({ reason: "OVERLOADED" });
    h.ok({ kind: "advance-clock", elapsedMs: 1000 });
    expect(again(h, "c")).to.include({ reason: "PATH_EXISTS" });
  });

  it("leaves room for fifteen minutes of 2,000 changes a second", () => {
    expect(REQUEST_COUNT_MAX).to.be.at.least((2000 * REQUEST_RETENTION_MS) / 1000);
  });

  it("is OVERLOADED at the bound and not one below, and that is not remembered", () => {
    const h = new Harness().bootstrap();
    // As if so many had been made: the count alone decides. A recount would find it wrong.
    h.checks = false;
    h.store.transaction((transaction) => {
      const state = readState(transaction);
      transaction.put(STATE_KEY, stateCodec.encode({ ...state, requestCount: REQUEST_COUNT_MAX - 1 }));
    });

    expect(again(h, "last")).to.include({ outcome: "applied" });
    expect(again(h, "more")).to.include({ reason: "OVERLOADED" });
    expect(again(h, "last"), "what is remembered is answered").to.include({ outcome: "applied" });
    expect(counters(h.store).requestCount).to.equal(REQUEST_COUNT_MAX);
  });
});

describe("cluster time, bootstrap and the feed", () => {
  it("moves by at most the limit a command and never back", () => {
    const h = new Harness().bootstrap();
    h.ok({ kind: "advance-clock", elapsedMs: CLOCK_ADVANCE_MS_MAX });
    h.refused("ARGUMENT_INVALID", { kind: "advance-clock", elapsedMs: CLOCK_ADVANCE_MS_MAX + 1 });
    expect(clusterTime(h.store)).to.equal(CLOCK_ADVANCE_MS_MAX);
  });

  it("keeps the first bootstrap", () => {
    const h = new Harness().bootstrap();
    h.ok({ kind: "bootstrap", clusterId: "other", chunkSizeBytes: 1, formatVersion: 9 });
    expect(clusterInfo(h.store)?.clusterId).to.equal("cluster");
  });

  it("numbers events by command, keeps a bounded number and says when some are gone", () => {
    const h = new Harness({ changeCountMax: 10 }).bootstrap();
    h.mkdir("/a/b/c", { createParents: true });
    h.move("/a/b", "/b");
    h.remove("/a");
    const kinds = changesAfter(h.store, 0, 100).map(
      ({ kind, entry, position }) => `${kind} ${entry.name} ${position}`,
    );
    expect(kinds).to.deep.equal(["created a 0", "created b 1", "created c 2", "moved b 0", "deleted a 0"]);
    expect(changesAfter(h.store, 0, 1).length).to.equal(3);

    for (let i = 0; i < 20; i += 1) h.mkdir(`/n${i}`);

    expect(counters(h.store).changeCount).to.be.within(5, 10);
    expect(() => changesAfter(h.store, 4, 100)).to.throw("not kept");
    expect(changesAfter(h.store, h.index - 1, 100).map(({ entry }) => entry.name)).to.deep.equal(["n19"]);

    // Six events a command: what is forgotten ends in the middle of one, and the rest of it goes next.
    for (let i = 0; i < 10; i += 1) {
      h.mkdir(`/p${i}/1/2/3/4/5`, { createParents: true });
      expect(counters(h.store).changeCount).to.be.within(5, 10);
      checkInvariants(h.store);
    }
  });
});

describe("bounds on copies", () => {
  it("allow so many unfinished copies of a folder and refuse one more until some are finished", () => {
    const h = new Harness({ copierCountMax: 2 }).bootstrap();
    h.put("/s/f", { createParents: true });
    h.copy("/s", "/1");
    h.copy("/s", "/2");
    h.refused("OVERLOADED", transferBody("copy-entry", "/s", "/3"));
    h.drain("materialise");
    h.copy("/s", "/3");
  });

  it("allow chains of unfinished copies up to a length", () => {
    const h = new Harness({ copyChainCountMax: 2 }).bootstrap();
    h.put("/0/f", { createParents: true });
    h.copy("/0", "/1");
    h.copy("/1", "/2");
    h.refused("OVERLOADED", transferBody("copy-entry", "/2", "/3"));
    h.drain("materialise");
    h.copy("/2", "/3");
  });
});

describe("the same commands on memory and on LMDB", () => {
  it("leave the same bytes", async function () {
    this.timeout(20_000);
    const h = new Harness({ batchItemCountMax: 3 }).bootstrap();
    for (let i = 0; i < 40; i += 1) h.put(`/s/${i % 5}/f${i}`, { createParents: true, text: String(i % 7) });
    h.copy("/s", "/copy");
    h.put("/s/1/f1", { onConflict: "replace", text: "new" });
    h.move("/s/2", "/copy/2", "rename");
    h.remove("/s");
    for (let i = 0; i < 6; i += 1) h.ok({ kind: "reclaim" });
    h.apply(mkdirBody("/once"), { requestId: "r" });
    const directory = await mkdtemp(join(tmpdir(), "metadata-"));
    const store = await new LmdbOrderedStoreProvider({ directory, clock: new SystemClock() }).open("state");

    for (const [i, data] of h.log.entries()) {
      store.transaction((t) => h.machine.apply(t, { index: i + 1, term: 1, data }));
      if (i % 10 === 0) await store.flush();
    }
    await store.flush();

    expect(dump(store)).to.deep.equal(dump(h.store));
    await store.close();
    await rm(directory, { recursive: true, force: true });
  });
});
