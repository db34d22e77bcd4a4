/** Which names and paths the drive takes: one case for each rule, one above and one below each bound. */
import { expect } from "chai";
import type { ErrorReason } from "../../../src/drive/errors.ts";
import { NAME_SIZE_BYTES_MAX, PATH_DEPTH_MAX, PATH_SIZE_BYTES_MAX } from "../../../src/drive/limits.ts";
import { formatPath, parseName, parsePath } from "../../../src/drive/path.ts";
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
