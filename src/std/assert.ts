/**
 * Assertions: how the program says that it is wrong, as opposed to its input.
 *
 * An AssertionError is a programmer error. It is never caught to be handled: the process entry point logs it and ends the
 * node, because a replica that goes on with a broken invariant is worse than a missing one.
 */

/** A broken invariant. Nothing but the process entry point catches it. */
export class AssertionError extends Error {
  override readonly name = "AssertionError";
}

/**
 * Ends the current operation with an AssertionError when `condition` is false.
 * @param message what should have been true, with the values that show why it is not
 */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** Returns `value`, asserting that it is neither undefined nor null; `why` says why it cannot be. */
export function must<T>(value: T | undefined | null, why: string): T {
  if (value === undefined || value === null) throw new AssertionError(`missing value: ${why}`);
  return value;
}

/** The end of an exhaustive switch: compiles only when every case was handled before. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable case: ${JSON.stringify(value)}`);
}
