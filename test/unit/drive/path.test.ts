/** Which names and paths the drive takes: one case for each rule, one above and one below each bound. */
import { expect } from "chai";
import type { ErrorReason } from "../../../src/drive/errors.ts";
import { NAME_SIZE_BYTES_MAX, PATH_DEPTH_MAX, PATH_SIZE_BYTES_MAX } from "../../../src/drive/limits.ts";
import {
  formatPath,
  parseName,
  parseNewFilePath,
  parseNewName,
  parseNewPath,
  parsePath,
} from "../../../src/drive/path.ts";
import { expectReason } from "../../support/expect-reason.ts";

describe("parseName()", () => {
  const good = [
    "a",
    "网盘.txt",
    "...",
    " leading and trailing ",
    "a\\b",
    "a:b",
    "%2e%2e",
    "😀",
    "é".normalize("NFC"),
    "-rf",
    "CON",
  ];
  for (const name of good) {
    it(`takes ${JSON.stringify(name)}`, () => {
      expect(parseName(name)).to.equal(name);
    });
  }

  const bad: readonly { readonly name: string; readonly why: string; readonly reason?: ErrorReason }[] = [
    { name: "", why: "an empty name" },
    { name: ".", why: "the name of the folder itself" },
    { name: "..", why: "the name of the folder above" },
    { name: "a/b", why: "a slash" },
    { name: "a\u0000b", why: "NUL" },
    { name: "a\nb", why: "a line break" },
    { name: "a\u007f", why: "DEL" },
    { name: "a\u0085", why: "a C1 control character" },
    { name: "\ud800", why: "half a surrogate pair" },
    { name: "é".normalize("NFD"), why: "a name that is not in normal form C" },
    { name: "x".repeat(NAME_SIZE_BYTES_MAX + 1), why: "one byte too many", reason: "NAME_TOO_LONG" },
    {
      name: "网".repeat(NAME_SIZE_BYTES_MAX / 3 + 1),
      why: "too many bytes in few characters",
      reason: "NAME_TOO_LONG",
    },
  ];
  for (const { name, why, reason } of bad) {
    it(`refuses ${why}`, async () => {
      await expectReason(reason ?? "PATH_INVALID", () => parseName(name));
    });
  }

  it("takes a name of exactly the allowed bytes", () => {
    expect(parseName("x".repeat(NAME_SIZE_BYTES_MAX))).to.have.length(NAME_SIZE_BYTES_MAX);
  });
});

describe("parseNewName()", () => {
  const good: readonly { readonly name: string; readonly why: string }[] = [
    { name: "\u{1f469}\u200d\u{1f4bb}.txt", why: "an emoji put together by a joiner" },
    {
      name: "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
      why: "a Persian word with a non-joiner",
    },
    { name: "\u0915\u094d\u200d\u0937", why: "a Devanagari cluster with a joiner" },
    { name: "\u05d0\u200f1", why: "Hebrew with a direction mark" },
    { name: "\u0627\u061c-1", why: "Arabic with a letter mark" },
    { name: "\u1780\u200b\u1781", why: "Khmer words parted by a space without width" },
    { name: "\ufffd", why: "the replacement character" },
    { name: "\ufdcf\ufdf0", why: "the neighbours of the non-characters" },
    { name: "\u{1fffd}\u{20000}", why: "the neighbours of the non-characters at the end of a plane" },
  ];
  for (const { name, why } of good) {
    it(`takes ${why}`, () => {
      expect(parseNewName(name)).to.equal(name);
    });
  }

  const bad = [
    ...["\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2069"],
    ...["\ufeff", "\u2028", "\u2029"],
    ...["\ufffe", "\uffff", "\ufdd0", "\ufdef", "\u{1fffe}", "\u{10ffff}"],
  ];
  for (const character of bad) {
    const code = (character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0");

    it(`refuses U+${code} and names it, but finds what was stored under such a name before`, async () => {
      const name = `invoice${character}fdp.exe`;

      const error = await expectReason("PATH_INVALID", () => parseNewName(name));
      await expectReason("PATH_INVALID", () => parseNewPath(`/a/${name}/b`));

      expect(error.message).to.include(`U+${code}`).and.not.include(character);
      expect(parseName(name)).to.equal(name);
      expect(parsePath(`/a/${name}`)).to.deep.equal(["a", name]);
    });
  }

  it("refuses what no name may hold", async () => {
    for (const name of ["", "..", "a\nb", "\udc00", "a/b"])
      await expectReason("PATH_INVALID", () => parseNewName(name));
  });
});

describe("parseNewFilePath()", () => {
  it("takes the path of a file, and refuses one that ends in a slash", async () => {
    expect(parseNewFilePath("/a/b")).to.deep.equal(["a", "b"]);

    const error = await expectReason("PATH_INVALID", () => parseNewFilePath("/a/b/"));

    expect(error.message).to.include('"/a/b/"').and.include("add the name of the file");
  });
});

describe("parsePath()", () => {
  it("splits an absolute path, with or without a slash at the end", () => {
    expect(parsePath("/a/b")).to.deep.equal(["a", "b"]);
    expect(parsePath("/a/b/")).to.deep.equal(["a", "b"]);
    expect(parsePath("/")).to.deep.equal([]);
    expect(formatPath(parsePath("/a/b"))).to.equal("/a/b");
  });

  it("refuses a relative path, an empty part and a step upwards", async () => {
    for (const path of ["a", "//a", "/a//b", "/a/../b", "/./a"])
      await expectReason("PATH_INVALID", () => parsePath(path));
  });

  it("takes the deepest allowed path and refuses one part more", async () => {
    const deep = "/d".repeat(PATH_DEPTH_MAX);

    expect(parsePath(deep)).to.have.length(PATH_DEPTH_MAX);
    await expectReason("PATH_TOO_DEEP", () => parsePath(`${deep}/d`));
  });

  it("takes the longest allowed path and refuses one byte more", async () => {
    const part = "/".concat("x".repeat(NAME_SIZE_BYTES_MAX));
    const whole = part.repeat(PATH_SIZE_BYTES_MAX / part.length);

    expect(parsePath(whole)).to.have.length(PATH_SIZE_BYTES_MAX / part.length);
    await expectReason("PATH_TOO_DEEP", () => parsePath(`${whole}/`.concat("")));
  });
});
