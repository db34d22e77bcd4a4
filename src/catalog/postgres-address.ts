/**
 * What the URL of PostgreSQL says about encryption, taken apart. Pure: files are read by whoever connects.
 *
 * `sslmode` means what it means to libpq (https://www.postgresql.org/docs/current/libpq-ssl.html), except that the modes that may
 * silently go on without encryption ("allow", "prefer") are refused: whoever names them would not be told.
 */
import { DriveError } from "../drive/errors.ts";

/** How the server is checked: not at all, its certificate's issuer, or the host name in it too. */
export type TlsCheck = "none" | "issuer" | "full";

/** Encryption as configured. */
export interface PostgresTls {
  readonly check: TlsCheck;
  /** Certificates of issuers that are trusted; undefined: those that Node trusts. */
  readonly caFile: string | undefined;
  /** What this node shows to the server; both or neither. */
  readonly certificateFile: string | undefined;
  readonly keyFile: string | undefined;
}

/** Where PostgreSQL is. */
export interface PostgresAddress {
  /** Without anything about encryption. */
  readonly url: string;
  /** Undefined: not encrypted. */
  readonly tls: PostgresTls | undefined;
}

const TLS_PARAMETERS = ["sslmode", "sslrootcert", "sslcert", "sslkey", "ssl", "uselibpqcompat"];

function refuse(message: string): never {
  throw new DriveError("CONFIGURATION_INVALID", `POSTGRES_URL: ${message}.`);
}

function checkOf(mode: string, caFile: string | undefined): TlsCheck {
  switch (mode) {
    case "require":
      return caFile === undefined ? "none" : "issuer";
    case "verify-ca":
      return caFile === undefined ? refuse("sslmode=verify-ca needs the issuer's certificate") : "issuer";
    case "verify-full":
      return "full";
    default:
      return refuse(
        `sslmode is one of disable, require, verify-ca and verify-full, and not ${JSON.stringify(mode)}`,
      );
  }
}

/**
 * Takes an address apart: a URL, or host:port. `caFile` stands for `sslrootcert`; with either and without `sslmode` the server
 * is checked in full.
 * @throws DriveError CONFIGURATION_INVALID when it contradicts itself; its message holds nothing secret
 */
export function parsePostgresAddress(address: string, caFile?: string): PostgresAddress {
  const text = address.includes("://") ? address : `postgresql://${address}`;
  if (!URL.canParse(text)) refuse("it is not a URL");
  const url = new URL(text);
  const given = (name: string): string | undefined => url.searchParams.get(name) ?? undefined;
  const [mode, inUrl] = [given("sslmode"), given("sslrootcert")];
  const [certificateFile, keyFile] = [given("sslcert"), given("sslkey")];
  if (given("ssl") !== undefined) refuse("encryption is asked for by sslmode, not by ssl");
  if (inUrl !== undefined && caFile !== undefined) refuse("the issuer's certificate is named twice");
  if ((certificateFile === undefined) !== (keyFile === undefined)) refuse("sslcert and sslkey go together");
  for (const name of TLS_PARAMETERS) url.searchParams.delete(name);
  const files = [inUrl, caFile, certificateFile].filter((file) => file !== undefined);
  if (mode === "disable" || (mode === undefined && files.length === 0)) {
    if (files.length > 0) refuse("certificates are of no use with sslmode=disable");
    return { url: url.href, tls: undefined };
  }
  const authority = inUrl ?? caFile;
  const check = checkOf(mode ?? "verify-full", authority);
  return { url: url.href, tls: { check, caFile: authority, certificateFile, keyFile } };
}

const TLS_FAILURES: Readonly<Record<string, string>> = {
  SELF_SIGNED_CERT_IN_CHAIN: "The server's certificate was issued by somebody who is not trusted",
  DEPTH_ZERO_SELF_SIGNED_CERT: "The server's certificate was issued by itself, and it is not trusted",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "The server's certificate was issued by somebody who is not trusted",
  UNABLE_TO_GET_ISSUER_CERT: "The server's certificate was issued by somebody who is not trusted",
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "The server's certificate was issued by somebody who is not trusted",
  CERT_SIGNATURE_FAILURE: "The server's certificate was not issued by whom it says",
  CERT_HAS_EXPIRED: "The server's certificate has expired",
  CERT_NOT_YET_VALID: "The server's certificate is not valid yet",
  ERR_TLS_CERT_ALTNAME_INVALID: "The server's certificate is for another host",
};

/** What a failure of TLS means, by the code that Node gives it; undefined for anything else. */
export function tlsFailure(code: string): string | undefined {
  return TLS_FAILURES[code];
}
