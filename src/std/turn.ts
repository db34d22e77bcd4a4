/**
 * The end of a turn of Node's event loop, for code at real sockets that gathers what arrives together.
 *
 * Rule: only for grouping work, never for timing or for the order of effects. Nothing that runs in the simulator may use it:
 * there a turn has no meaning.
 */

/** Resolves after everything that the event loop found ready in this turn was handled; microseconds later when idle. */
export function endOfTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
