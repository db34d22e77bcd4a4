/**
 * Goal: the hand-written JSON of a listing is the one that views.ts describes. Method: random entries, odd ones included, held
 * against JSON.stringify(); the seed is printed.
 */
import { expect } from "chai";
import fc from "fast-check";
import type { Entry } from "../../../src/drive/entry.ts";
import { pageJson } from "../../../src/gateway/page-json.ts";
import { pageViewSchema } from "../../../src/gateway/schemas.ts";
import { DATE_MS_MAX, fileView } from "../../../src/gateway/views.ts";

const id = fc.maxSafeNat();
const timeMs = fc.oneof(
  fc.integer({ min: 1_700_000_000_000, max: 1_700_000_003_000 }),
  fc.maxSafeInteger(),
  fc.constantFrom(
    0,
    -1,
    -1000,
    999,
    DATE_MS_MAX,
    -DATE_MS_MAX,
    -86_400_001,
    DATE_MS_MAX + 1,
    -DATE_MS_MAX - 1,
    1.5,
  ),
);
const digest = fc.oneof(fc.uint8Array({ minLength: 32, maxLength: 32 }), fc.constant(new Uint8Array(0)));
const text = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.string(),
  fc.constantFrom('"', "\\", "\u2028", "é", "😀"),
);
const anyEntry: fc.Arbitrary<Entry> = fc
  .record({
    entryId: id,
    parentId: id,
    name: text,
    kind: fc.constantFrom("file" as const, "directory" as const),
    version: id,
    sizeBytes: id,
    contentId: id,
    treeHash: digest,
    sha256: digest,
    isSmall: fc.boolean(),
    mediaType: text,
    mode: fc.option(fc.integer({ min: 0, max: 0o7777 }), { nil: undefined }),
    modifyTimeMs: timeMs,
    createTimeMs: timeMs,
  })
  .map(({ isSmall, ...entry }) => (isSmall ? { ...entry, sha256: entry.treeHash } : entry));

describe("pageJson()", () => {
  it("writes what JSON.stringify() writes of the views", () => {
    const page = fc.record({
      entries: fc.array(anyEntry, { maxLength: 20 }),
      path: text,
      nextCursor: fc.option(text, { nil: undefined }),
    });

    fc.assert(
      fc.property(page, ({ entries, path, nextCursor }) => {
        const files = entries.map((entry) => fileView(entry));
        const expected = JSON.stringify({ path, files, nextCursor: nextCursor ?? null });

        expect(String(pageJson({ entries, path, nextCursor }))).to.equal(expected);
      }),
      { numRuns: 500 },
    );
  });

  it("holds entries of any size", () => {
    const [entry] = fc.sample(anyEntry, { numRuns: 1, seed: 2 });
    if (entry === undefined) throw new Error("no sample");
    const entries = ["网".repeat(85), "x", "\u{1f600}".repeat(63)].flatMap((name) =>
      Array.from({ length: 200 }, () => ({ ...entry, name, mediaType: `text/${name}`.slice(0, 255) })),
    );
    const files = entries.map((each) => fileView(each));

    const text = String(pageJson({ entries, path: "/", nextCursor: undefined }));

    expect(text === JSON.stringify({ path: "/", files, nextCursor: null })).to.equal(true);
  });

  it("is a page of the documented shape", () => {
    const [entry] = fc.sample(anyEntry, { numRuns: 1, seed: 1 });
    if (entry === undefined) throw new Error("no sample");
    const whole = { ...entry, treeHash: new Uint8Array(32), sha256: new Uint8Array(32), mode: 0o644 };

    const parsed: unknown = JSON.parse(String(pageJson({ entries: [whole], path: "/", nextCursor: "c" })));

    expect(pageViewSchema.parse(parsed)).to.deep.equal(parsed);
  });
});
