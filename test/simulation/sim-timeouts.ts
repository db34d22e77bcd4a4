/**
 * How long simulated runs may take on the clock on the wall. They take their time from the processor alone (two minutes for the
 * hundred seeds on a machine of their own), so these end what hangs, and nothing that other programs merely slow down.
 */

/** A list of seeds, one after the other, in milliseconds. */
export const SEED_LIST_TIMEOUT_MS = 1_200_000;

/** One seed, in milliseconds. */
export const SEED_TIMEOUT_MS = 300_000;
