/**
 * Deadlines and cancellation for one asynchronous step, under the handed-in clock.
 *
 * Rule: no call to a peer is awaited for ever. The step gets a signal of its own that aborts when the deadline passes or the
 * caller gives up; the caller is answered at that moment, whether or not the step listens to its signal.
 */
import { setMaxListeners } from "node:events";
import { DriveError } from "../drive/errors.ts";
import type { Clock } from "../std/clock.ts";

/** The error of a caller that gave up: its own DriveError when it gave one as the reason, CANCELED otherwise. */
export function canceledError(signal: AbortSignal): DriveError {
  if (signal.reason instanceof DriveError) return signal.reason;
  return new DriveError("CANCELED", "The caller gave up.", {}, signal.reason);
}

/** Throws canceledError() when `signal` has aborted. */
export function throwIfCanceled(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw canceledError(signal);
}

/** An AbortController whose signal many operations listen to at once, without Node's warning of a leak: each removes itself. */
export function sharedAbortController(): AbortController {
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  return controller;
}

/** Settings of withDeadline(). */
export interface DeadlineOptions {
  readonly clock: Clock;
  readonly timeoutMs: number;
  /** The caller's signal. */
  readonly signal?: AbortSignal | undefined;
  /** The error when the time is over. */
  readonly onTimeout: () => DriveError;
}

/**
 * Runs `work` with a signal and settles as it does, or earlier: with onTimeout() after `timeoutMs`, with canceledError() when
 * the caller's signal aborts. A later failure of the abandoned work is ignored: its caller was answered.
 */
export function withDeadline<T>(
  options: DeadlineOptions,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const { clock, timeoutMs, signal, onTimeout } = options;
  return new Promise<T>((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(canceledError(signal));
      return;
    }
    const controller = new AbortController();
    const finish = (): void => {
      timer.cancel();
      signal?.removeEventListener("abort", onAbort);
    };
    const abandon = (error: DriveError): void => {
      finish();
      reject(error);
      controller.abort(error);
    };
    const onAbort = (): void => {
      if (signal !== undefined) abandon(canceledError(signal));
    };
    const timer = clock.setTimer(timeoutMs, () => abandon(onTimeout()));
    signal?.addEventListener("abort", onAbort, { once: true });
    work(controller.signal).then(
      (value) => {
        finish();
        resolve(value);
      },
      (error: unknown) => {
        finish();
        reject(error as Error);
      },
    );
  });
}

/**
 * Settles as `work` does, or rejects with canceledError() as soon as `signal` aborts; the work itself goes on, and a later failure of
 * it is ignored: its caller was answered.
 */
export function unlessCanceled<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(canceledError(signal));
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}

/** The error of a peer that did not answer in time. */
export function unreachableError(memberId: number, what: string, timeoutMs: number): DriveError {
  return new DriveError("PEER_UNREACHABLE", `Member ${memberId} did not answer ${what} in ${timeoutMs} ms.`, {
    member_id: String(memberId),
    timeout_ms: String(timeoutMs),
  });
}
