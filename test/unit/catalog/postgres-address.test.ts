/** What the URL of PostgreSQL means: every mode, both ways to name an issuer, and what is refused. */
import { expect } from "chai";
import { parsePostgresAddress, type PostgresTls } from "../../../src/catalog/postgres-address.ts";
import { expectReason } from "../../support/expect-reason.ts";

const plain: PostgresTls = {
  check: "full",
  caFile: undefined,
  certificateFile: undefined,
  keyFile: undefined,
};

describe("parsePostgresAddress()", () => {
  const cases: readonly [query: string, caFile: string | undefined, tls: PostgresTls | undefined][] = [
    ["", undefined, undefined],
    ["?sslmode=disable", undefined, undefined],
    ["?sslmode=require", undefined, { ...plain, check: "none" }],
    ["?sslmode=require", "/ca", { ...plain, check: "issuer", caFile: "/ca" }],
    ["?sslmode=verify-ca&sslrootcert=/ca", undefined, { ...plain, check: "issuer", caFile: "/ca" }],
    ["?sslmode=verify-full", undefined, plain],
    ["?sslmode=verify-full&sslrootcert=%2Fa%20b", undefined, { ...plain, caFile: "/a b" }],
    ["?sslrootcert=/ca", undefined, { ...plain, caFile: "/ca" }],
    ["", "/ca", { ...plain, caFile: "/ca" }],
    ["?sslcert=/c&sslkey=/k", undefined, { ...plain, certificateFile: "/c", keyFile: "/k" }],
  ];
  for (const [query, caFile, tls] of cases) {
    it(`understands ${JSON.stringify(query)}${caFile === undefined ? "" : " with the issuer in a file"}`, () => {
      const found = parsePostgresAddress(`postgresql://u:p@h:1/d${query}`, caFile);
      expect(found).to.deep.equal({ url: "postgresql://u:p@h:1/d", tls });
    });
  }

  it("keeps everything else of the URL, and takes host:port for one", () => {
    const url = "postgres://u:p%40@h/d?application_name=x&sslmode=require";

    expect(parsePostgresAddress(url).url).to.equal("postgres://u:p%40@h/d?application_name=x");
    expect(parsePostgresAddress("h:5432").url).to.equal("postgresql://h:5432");
  });

  const refused: readonly [address: string, caFile: string | undefined][] = [
    ["postgresql://u:secret@h/d?sslmode=prefer", undefined],
    ["postgresql://u:secret@h/d?sslmode=allow", undefined],
    ["postgresql://u:secret@h/d?sslmode=verify-ca", undefined],
    ["postgresql://u:secret@h/d?sslmode=disable&sslrootcert=/ca", undefined],
    ["postgresql://u:secret@h/d?sslmode=disable", "/ca"],
    ["postgresql://u:secret@h/d?sslrootcert=/ca", "/ca"],
    ["postgresql://u:secret@h/d?sslcert=/c", undefined],
    ["postgresql://u:secret@h/d?sslkey=/k", undefined],
    ["postgresql://u:secret@h/d?ssl=true", undefined],
    ["postgresql://u:secret@h:port/d", undefined],
  ];
  for (const [address, caFile] of refused) {
    it(`refuses ${address}${caFile === undefined ? "" : " with the issuer in a file"}, without its password`, async () => {
      const error = await expectReason("CONFIGURATION_INVALID", () => parsePostgresAddress(address, caFile));
      expect(error.message).not.to.include("secret");
    });
  }
});
