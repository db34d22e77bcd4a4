/**
 * Historical bugs of other chunk stores, each switchable, to prove that tests find them.
 *
 * A test names one when it builds a DriveNode or a part of it; production code never does, and no configuration reaches this
 * option (test/unit/node/planted-faults.test.ts). Ids are those of the list that they come from.
 */

/** Every historical bug of chunks that can be switched on, by name, with its id and what it does. */
export const PLANTED_CHUNK_FAULTS = {
  "sweep-asks-first":
    "G-01: the sweep asks the tree first and lists the store after, so what came in between is removed",
  "sweep-outruns-uploads":
    "G-02: a sweep takes what is not in a file yet for garbage, however new, so slow uploads lose their bytes",
  "sweep-ignores-failure": "G-03: a look at the tree that failed counts as a tree that knows nothing",
  "repair-unverified": "G-14: repair makes room without knowing that the others are good",
} as const;

/** One historical bug of chunks. */
export type PlantedChunkFault = keyof typeof PLANTED_CHUNK_FAULTS;
