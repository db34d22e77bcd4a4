/** Message authentication: HMAC-SHA-256, and a comparison that takes as long for a wrong guess as for a near one. */
import { createHmac, timingSafeEqual } from "node:crypto";

/** The HMAC-SHA-256 (RFC 2104) of `message` under `key`: 32 bytes. */
export function hmacSha256(key: Uint8Array, message: Uint8Array): Uint8Array {
  return createHmac("sha256", key).update(message).digest();
}

/** Whether two runs of bytes are equal, in a time that does not depend on where they differ. */
export function equalInConstantTime(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}
