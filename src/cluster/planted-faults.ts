/**
 * Bugs of other systems' upgrades, each switchable, to prove that tests find them. A test names one when it builds a DriveNode;
 * production code never does (test/unit/node/planted-faults.test.ts).
 */

/** Every bug that can be switched on, by name, with its id and what it does. */
export const PLANTED_LEVEL_FAULTS = {
  "level-raised-early":
    "P4: the feature level is raised as soon as the leader supports it, whoever else does not",
} as const;

/** One bug. */
export type PlantedLevelFault = keyof typeof PLANTED_LEVEL_FAULTS;
