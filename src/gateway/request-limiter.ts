/** Refusing requests when too many come: the port to whoever counts them, and the answer. */
import { HttpError } from "./http-error.ts";

/** Whether a request may be served; "address": its sender sent too many, "all": too many came in all. */
export type RequestAdmission =
  | { readonly allowed: true }
  | { readonly allowed: false; readonly scope: "address" | "all"; readonly retryAfterMs: number };

/** Counts requests. */
export interface RequestLimiter {
  /** Counts a request from a network address and says whether it may be served. Never fails, and never takes long. */
  take(address: string): Promise<RequestAdmission>;
}

/** @throws HttpError TOO_MANY_REQUESTS that says when to come again */
export async function refuseOverLimit(limiter: RequestLimiter, address: string): Promise<void> {
  const admission = await limiter.take(address);
  if (admission.allowed) return;
  const { scope, retryAfterMs } = admission;
  const seconds = Math.max(1, Math.ceil(retryAfterMs / 1000));
  const whose = scope === "address" ? "this address" : "all clients together";
  throw new HttpError(
    "TOO_MANY_REQUESTS",
    `Too many requests of ${whose}.`,
    { scope, retry_after_ms: String(Math.ceil(retryAfterMs)) },
    seconds,
  );
}
