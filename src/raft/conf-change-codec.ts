/**
 * The bytes of a membership change inside a log entry of kind "conf-change".
 *
 * The core itself proposes and checks membership changes, so the form is its own and does not depend on any schema. It is
 * written to disk: never change it, only add a version.
 *
 *   change   = <empty>                                    leave the joint configuration
 *            | version(1)=1 transition(1) count(2, big endian) step{count} context(rest)
 *   step     = kind(1) memberId(8, big endian)
 *
 * The empty form exists because an entry without data can never be refused for its size, and leaving must always work.
 */
import { assert } from "../std/assert.ts";
import { NO_BYTES } from "./message.ts";
import type { ConfChange, ConfChangeStep } from "./types.ts";

/** Most steps that one change may hold. */
export const CONF_CHANGE_STEPS_MAX = 1_000;

/** Thrown by decodeConfChange() for bytes that encodeConfChange() does not make. */
export class ConfChangeFormatError extends Error {
  override readonly name = "ConfChangeFormatError";
}

/** First byte of the form. Never change. */
const VERSION = 1;
/** Bytes before the first step. */
const HEADER_BYTES = 4;
/** Bytes of one step. */
const STEP_BYTES = 9;
/** Codes are positions: append only, never reorder. */
const TRANSITIONS = ["auto", "joint-implicit", "joint-explicit"] as const;
/** Codes are positions: append only, never reorder. */
const STEP_KINDS = ["add-voter", "add-learner", "remove", "update"] as const;

/** The bytes of `change`; empty for the change that only leaves a joint configuration. */
export function encodeConfChange(change: ConfChange): Uint8Array {
  assert(change.steps.length <= CONF_CHANGE_STEPS_MAX, `${change.steps.length} steps in one change`);
  if (change.transition === "auto" && change.steps.length === 0 && change.context.length === 0)
    return NO_BYTES;
  const bytes = new Uint8Array(HEADER_BYTES + change.steps.length * STEP_BYTES + change.context.length);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, VERSION);
  view.setUint8(1, TRANSITIONS.indexOf(change.transition));
  view.setUint16(2, change.steps.length);
  let at = HEADER_BYTES;
  for (const step of change.steps) {
    assert(Number.isSafeInteger(step.memberId) && step.memberId >= 0, `member id ${step.memberId}`);
    view.setUint8(at, STEP_KINDS.indexOf(step.kind));
    view.setBigUint64(at + 1, BigInt(step.memberId));
    at += STEP_BYTES;
  }
  bytes.set(change.context, at);
  return bytes;
}

/** The change that `bytes` hold. Throws ConfChangeFormatError. The context is a view of `bytes`, not a copy. */
export function decodeConfChange(bytes: Uint8Array): ConfChange {
  if (bytes.length === 0) return { transition: "auto", steps: [], context: NO_BYTES };
  if (bytes.length < HEADER_BYTES) throw new ConfChangeFormatError(`${bytes.length} bytes are too few`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint8(0) !== VERSION) throw new ConfChangeFormatError(`unknown version ${view.getUint8(0)}`);
  const transition = TRANSITIONS[view.getUint8(1)];
  if (transition === undefined) throw new ConfChangeFormatError(`unknown transition ${view.getUint8(1)}`);
  const count = view.getUint16(2);
  const contextAt = HEADER_BYTES + count * STEP_BYTES;
  if (count > CONF_CHANGE_STEPS_MAX) throw new ConfChangeFormatError(`${count} steps`);
  if (bytes.length < contextAt)
    throw new ConfChangeFormatError(`cut off: ${count} steps in ${bytes.length} bytes`);
  const steps: ConfChangeStep[] = [];
  for (let i = 0; i < count; i += 1) steps.push(decodeStep(view, HEADER_BYTES + i * STEP_BYTES));
  return { transition, steps, context: bytes.subarray(contextAt) };
}

/** The change that `bytes` hold, or undefined when they hold none. */
export function findConfChange(bytes: Uint8Array): ConfChange | undefined {
  try {
    return decodeConfChange(bytes);
  } catch (error) {
    if (error instanceof ConfChangeFormatError) return undefined;
    throw error;
  }
}

function decodeStep(view: DataView, at: number): ConfChangeStep {
  const kind = STEP_KINDS[view.getUint8(at)];
  if (kind === undefined) throw new ConfChangeFormatError(`unknown step ${view.getUint8(at)}`);
  const memberId = Number(view.getBigUint64(at + 1));
  if (!Number.isSafeInteger(memberId)) throw new ConfChangeFormatError(`member id ${memberId} is not safe`);
  return { kind, memberId };
}
