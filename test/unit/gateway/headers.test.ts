/** Header fields with a grammar of their own, and query strings. */
import { expect } from "chai";
import {
  contentDisposition,
  formatDigestField,
  isGenericMediaType,
  isMediaType,
  parseDigestField,
} from "../../../src/gateway/headers.ts";
import { parseQuery } from "../../../src/gateway/query.ts";
import { MEDIA_TYPE_SIZE_BYTES_MAX } from "../../../src/drive/limits.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { expectReason } from "../../support/expect-reason.ts";

describe("contentDisposition()", () => {
  it("names a plain file plainly", () => {
    expect(contentDisposition("a b.txt")).to.equal('attachment; filename="a b.txt"');
  });

  it("adds the exact name when ASCII cannot say it", () => {
    expect(contentDisposition("naïve.txt")).to.equal(
      "attachment; filename=\"na_ve.txt\"; filename*=UTF-8''na%C3%AFve.txt",
    );
    expect(contentDisposition("文件🙂")).to.equal(
      "attachment; filename=\"___\"; filename*=UTF-8''%E6%96%87%E4%BB%B6%F0%9F%99%82",
    );
  });

  it("lets no name break out of its quotes", () => {
    expect(contentDisposition('a"; x="\\%41')).to.equal(
      "attachment; filename=\"a_; x=___41\"; filename*=UTF-8''a%22%3B%20x%3D%22%5C%2541",
    );
    expect(contentDisposition("it's (1)*é")).to.include("filename*=UTF-8''it%27s%20%281%29%2A%C3%A9");
  });
});

describe("parseDigestField()", () => {
  const digest = sha256(new Uint8Array([1]));

  it("finds the SHA-256 among others", () => {
    expect(parseDigestField(`sha-512=:AAAA:, ${formatDigestField(digest)}`)).to.deep.equal({
      digest: new Uint8Array(digest),
    });
    expect(parseDigestField("md5=:AAAA:")).to.deep.equal({ digest: undefined });
    expect(parseDigestField(undefined)).to.deep.equal({ digest: undefined });
  });

  it("refuses a digest of another length or form", () => {
    const short = Buffer.alloc(31).toString("base64");
    const long = Buffer.alloc(33).toString("base64");
    for (const text of [`sha-256=:${short}:`, `sha-256=:${long}:`, "sha-256=abc", "sha-256=::", "", "x"]) {
      expect(parseDigestField(text), text).to.equal("malformed");
    }
  });
});

describe("isMediaType()", () => {
  it("takes types with parameters", () => {
    for (const text of ["text/plain", "text/plain; charset=utf-8", 'a/b;c="d e"', "image/svg+xml"]) {
      expect(isMediaType(text), text).to.equal(true);
    }
  });

  it("refuses what could split a header or means nothing", () => {
    for (const text of ["", "text", "text/", "a/b\r\nx: y", "a/b;", "a/b; c", "a/b, c/d", "ä/b"]) {
      expect(isMediaType(text), text).to.equal(false);
    }
  });

  it("takes the longest allowed and refuses one more", () => {
    const longest = `a/${"b".repeat(MEDIA_TYPE_SIZE_BYTES_MAX - 2)}`;
    expect([isMediaType(longest), isMediaType(`${longest}b`)]).to.deep.equal([true, false]);
  });

  it("knows the types that say nothing", () => {
    expect(isGenericMediaType("Application/Octet-Stream; x=1")).to.equal(true);
    expect(isGenericMediaType("text/plain")).to.equal(false);
  });
});

describe("parseQuery()", () => {
  it("decodes names and values once", () => {
    expect(parseQuery("path=%2Fa%20b+c%252F&x&y=")).to.deep.equal({ path: "/a b c%2F", x: "", y: "" });
    expect(parseQuery("")).to.deep.equal({});
    expect(Object.keys(parseQuery("__proto__=1"))).to.deep.equal(["__proto__"]);
  });

  it("refuses broken encodings, overlong UTF-8 and repeated names", async () => {
    for (const text of [
      "path=%zz",
      "path=%",
      "path=%c0%af",
      "path=%ff",
      "path=%ed%a0%80",
      "a=1&a=2",
      "a=1&%61=2",
    ]) {
      await expectReason("ARGUMENT_INVALID", () => parseQuery(text));
    }
  });
});
