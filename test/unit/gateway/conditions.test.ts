/** Entity tags, dates and the order of conditions: RFC 9110 section 13. */
import { expect } from "chai";
import {
  etagOf,
  judgeRead,
  lastModified,
  parseEtags,
  parseHttpDate,
  parsePrecondition,
  rangeApplies,
  VERSION_NONE,
} from "../../../src/gateway/conditions.ts";
import type { Entry } from "../../../src/drive/entry.ts";
import { expectReason } from "../../support/expect-reason.ts";

const TIME_MS = Date.UTC(1994, 10, 6, 8, 49, 37);
const entry: Entry = {
  entryId: 5,
  parentId: 1,
  name: "a",
  kind: "file",
  version: 7,
  sizeBytes: 1,
  contentId: 2,
  treeHash: new Uint8Array(32),
  sha256: new Uint8Array(0),
  mediaType: "",
  mode: undefined,
  modifyTimeMs: TIME_MS + 400,
  createTimeMs: 0,
};

describe("parseEtags()", () => {
  it("reads lists of strong and weak tags", () => {
    expect(parseEtags('"a", W/"b" ,"c,d", ""')).to.deep.equal([
      { weak: false, tag: "a" },
      { weak: true, tag: "b" },
      { weak: false, tag: "c,d" },
      { weak: false, tag: "" },
    ]);
    expect(parseEtags(" * ")).to.equal("*");
  });

  it("refuses what is no list", () => {
    for (const text of ["", "a", '"a', '"a" "b"', 'w/"a"', '"a",*', '*,"a"'])
      expect(parseEtags(text)).to.equal(undefined);
  });
});

describe("parsePrecondition()", () => {
  it("turns tags into versions", () => {
    expect(parsePrecondition({ "if-match": '"7", "8"' })).to.deep.equal({ ifVersions: [7, 8] });
    expect(parsePrecondition({ "if-match": "*" })).to.deep.equal({ ifExists: true });
    expect(parsePrecondition({ "if-none-match": "*" })).to.deep.equal({ ifAbsent: true });
    expect(parsePrecondition({})).to.equal(undefined);
  });

  it("lets weak and foreign tags match nothing instead of anything", () => {
    expect(parsePrecondition({ "if-match": 'W/"7", "abc", "07"' })).to.deep.equal({
      ifVersions: [VERSION_NONE, VERSION_NONE, VERSION_NONE],
    });
  });

  it("refuses guards that it could not keep", async () => {
    for (const headers of [
      { "if-match": "7" },
      { "if-none-match": '"7"' },
      { "if-unmodified-since": "Sun, 06 Nov 1994 08:49:37 GMT" },
    ]) {
      await expectReason("ARGUMENT_INVALID", () => parsePrecondition(headers));
    }
  });
});

describe("judgeRead()", () => {
  const date = "Sun, 06 Nov 1994 08:49:37 GMT";
  const before = "Sun, 06 Nov 1994 08:49:36 GMT";
  const cases: readonly [string, Record<string, string>, string][] = [
    ["no condition", {}, "serve"],
    ["If-None-Match with the tag", { "if-none-match": '"7"' }, "not-modified"],
    ["If-None-Match with the tag as weak", { "if-none-match": 'W/"7"' }, "not-modified"],
    ["If-None-Match with another tag", { "if-none-match": '"6"' }, "serve"],
    ["If-None-Match *", { "if-none-match": "*" }, "not-modified"],
    ["If-Match with the tag", { "if-match": '"1","7"' }, "serve"],
    ["If-Match with the tag as weak", { "if-match": 'W/"7"' }, "precondition-failed"],
    ["If-Match with another tag", { "if-match": '"6"' }, "precondition-failed"],
    ["If-Match that is no list", { "if-match": "7" }, "precondition-failed"],
    ["If-Modified-Since its second", { "if-modified-since": date }, "not-modified"],
    ["If-Modified-Since a second before", { "if-modified-since": before }, "serve"],
    ["If-Modified-Since nonsense", { "if-modified-since": "yesterday" }, "serve"],
    ["If-Unmodified-Since its second", { "if-unmodified-since": date }, "serve"],
    ["If-Unmodified-Since a second before", { "if-unmodified-since": before }, "precondition-failed"],
    ["If-None-Match over If-Modified-Since", { "if-none-match": '"6"', "if-modified-since": date }, "serve"],
    ["If-Match over If-Unmodified-Since", { "if-match": '"7"', "if-unmodified-since": before }, "serve"],
    ["If-Match before If-None-Match", { "if-match": '"6"', "if-none-match": '"7"' }, "precondition-failed"],
  ];
  for (const [name, headers, verdict] of cases) {
    it(`answers ${verdict} to ${name}`, () => {
      expect(judgeRead(headers, entry)).to.equal(verdict);
    });
  }
});

describe("rangeApplies()", () => {
  it("takes only the strong tag, never a date that the client chose", () => {
    expect(rangeApplies({}, entry)).to.equal(true);
    expect(rangeApplies({ "if-range": etagOf(entry) }, entry)).to.equal(true);
    for (const ifRange of ['W/"7"', '"6"', "Sun, 06 Nov 1994 08:49:37 GMT"]) {
      expect(rangeApplies({ "if-range": ifRange }, entry)).to.equal(false);
    }
  });
});

describe("HTTP dates", () => {
  it("are read in their three forms", () => {
    for (const text of [
      "Sun, 06 Nov 1994 08:49:37 GMT",
      "Sunday, 06-Nov-94 08:49:37 GMT",
      "Sun Nov  6 08:49:37 1994",
    ]) {
      expect(parseHttpDate(text), text).to.equal(TIME_MS);
    }
    expect(parseHttpDate("Sunday, 06-Nov-26 08:49:37 GMT")).to.equal(Date.UTC(2026, 10, 6, 8, 49, 37));
  });

  it("are refused in any other form", () => {
    for (const text of [
      "1994-11-06T08:49:37Z",
      "Sun, 6 Nov 1994 08:49:37 GMT",
      "",
      "Sun, 06 Nov 1994 08:49:37 CET",
    ]) {
      expect(parseHttpDate(text), text).to.equal(undefined);
    }
  });

  it("are left out when the year has no four digits", () => {
    expect(lastModified(entry)).to.equal("Sun, 06 Nov 1994 08:49:37 GMT");
    const last = Date.UTC(9999, 11, 31, 23, 59, 59, 999);
    expect(lastModified({ ...entry, modifyTimeMs: last })).to.equal("Fri, 31 Dec 9999 23:59:59 GMT");
    expect(lastModified({ ...entry, modifyTimeMs: last + 1 })).to.equal(undefined);
    expect(lastModified({ ...entry, modifyTimeMs: Number.NaN })).to.equal(undefined);
  });
});
