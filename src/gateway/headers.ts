/**
 * Header fields with a grammar of their own: Content-Disposition, Content-Digest, Repr-Digest, media types.
 *
 * What comes from a client is checked here before it means anything; what goes out can hold only characters that a header may.
 * Pure; conditions and ranges have files of their own.
 */
import { MEDIA_TYPE_SIZE_BYTES_MAX } from "../drive/limits.ts";
import { DIGEST_SIZE_BYTES } from "../std/digest.ts";

/**
 * "attachment" with the file's name (RFC 6266): an ASCII fallback, and the exact name as filename* (RFC 8187) when it differs.
 * @param name a checked name: no control characters, no "/"
 */
export function contentDisposition(name: string): string {
  const fallback = name.replaceAll(/[^\x20-\x7e]/gu, "_").replaceAll(/["\\%]/g, "_");
  const plain = `attachment; filename="${fallback}"`;
  return fallback === name ? plain : `${plain}; filename*=UTF-8''${encodeExtended(name)}`;
}

/** Percent-encodes all but attr-char of RFC 8187 section 3.2.1. */
function encodeExtended(text: string): string {
  return encodeURIComponent(text).replaceAll(
    /['()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

/** The SHA-256 member of a digest field, its absence, or that the field is malformed. */
export type DigestField = { readonly digest: Uint8Array | undefined } | "malformed";

const DIGEST_MEMBER = /^[ \t]*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/]*={0,2}):[ \t]*$/;

/**
 * Reads Content-Digest or Repr-Digest (RFC 9530): a dictionary of byte sequences. Other algorithms are skipped, as the RFC
 * says; a member sha-256 must have 32 bytes.
 */
export function parseDigestField(text: string | undefined): DigestField {
  if (text === undefined) return { digest: undefined };
  let digest: Uint8Array | undefined;
  for (const part of text.split(",")) {
    const match = DIGEST_MEMBER.exec(part);
    if (match === null) return "malformed";
    if (match[1] !== "sha-256") continue;
    digest = new Uint8Array(Buffer.from(match[2] ?? "", "base64"));
    if (digest.length !== DIGEST_SIZE_BYTES) return "malformed";
  }
  return { digest };
}

/** A digest field with `digest` as its sha-256 member. */
export function formatDigestField(digest: Uint8Array): string {
  return `sha-256=:${Buffer.from(digest).toString("base64")}:`;
}

const TOKEN = "[!#$%&'*+.^_`|~0-9A-Za-z-]+";
const QUOTED = '"(?:[\\t \\x21\\x23-\\x5b\\x5d-\\x7e]|\\\\[\\t \\x21-\\x7e])*"';
const MEDIA_TYPE = new RegExp(`^${TOKEN}/${TOKEN}(?:[ \\t]*;[ \\t]*${TOKEN}=(?:${TOKEN}|${QUOTED}))*$`);

/** Whether `text` is a media type of at most MEDIA_TYPE_SIZE_BYTES_MAX ASCII characters (RFC 9110 section 8.3.1). */
export function isMediaType(text: string): boolean {
  return text.length <= MEDIA_TYPE_SIZE_BYTES_MAX && MEDIA_TYPE.test(text);
}

// What clients send when they know nothing of the file: curl -T sends none, curl --data-binary a form, fetch(Blob) the second.
const GENERIC_MEDIA_TYPES = [
  "application/octet-stream",
  "application/x-www-form-urlencoded",
  "binary/octet-stream",
  "application/unknown",
];

/** Whether a Content-Type says nothing about the bytes. */
export function isGenericMediaType(text: string): boolean {
  return GENERIC_MEDIA_TYPES.includes((text.split(";")[0] ?? "").trim().toLowerCase());
}
