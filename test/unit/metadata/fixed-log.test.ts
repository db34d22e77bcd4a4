/**
 * Goal: versions of the program that support a feature level write the same bytes for the same commands at that level, for ever.
 * Method: a log that never changes, with commands of every kind and refusals that are remembered, applied to an empty state; the
 * state hashes that it leaves, as members compare them, are recorded here.
 */
import { expect } from "chai";
import { COMMAND_KINDS } from "../../../src/metadata/codec.ts";
import { applyFixedLog } from "./fixed-log.ts";

const RECORDED = {
  1: {
    members: "52929fda061f8434",
    tree: "8987593a0627eb73",
    requests: "6571c9f94cd5c96d",
    uploads: "7d4d67d42ea11bde",
    copies: "247fa20966306958",
    tasks: "4d0dfd74057e4f2d",
    membership: "07999ceaf52d5ba9",
    "what is forgotten": "6eac2b7f3dfe673b",
    "the level is raised": "44cd67be61343b38",
    "copies that count no more": "6a004313233be251",
    "the level is raised further": "8196d1034e428682",
  },
  2: {
    members: "b283d7b3f16cfc59",
    tree: "3a0a8758214357c6",
    requests: "0f02cb0577989905",
    uploads: "ee5a192e2d069de3",
    copies: "b6be5e0668404868",
    tasks: "172aa260136e33f4",
    membership: "19f56ae9a13f1f08",
    "what is forgotten": "2ec313a0360599cd",
    "the level is raised": "9aea298040b6d154",
    "copies that count no more": "c01d04d502be786d",
    "the level is raised further": "cd792c15457e1e5c",
  },
  3: {
    members: "3bc16ff91e82c831",
    tree: "3358886d8cc3ebfd",
    requests: "7255dc14c87f7230",
    uploads: "3d9f45030d8025a6",
    copies: "88f6947212ab6095",
    tasks: "f165240d126bb97e",
    membership: "8394a42cb5bfdf2d",
    "what is forgotten": "392b0afbeb586696",
    "the level is raised": "ad77ba217d095e85",
    "copies that count no more": "450d6c7c2bcb8218",
    "the level is raised further": "c46a90cc6047ba03",
  },
} as const;

const ADVICE = `
What commands write has changed. A node of another version at the same feature level writes something else now: their state hashes
differ, and nodes stop. Keep to what was written below a new feature level (drive/feature-levels.ts; cluster/DESIGN.md, "Any change
of what apply writes"), also when only the wording of a refusal changes, and record the log at that level beside these. Hashes that
are here may be recorded anew only while no version that supports their level was released, or for chapters new to the log.`;

describe("what a fixed log of commands leaves in the state", () => {
  for (const level of [1, 2, 3] as const) {
    it(`is at feature level ${level} what every version leaves`, () => {
      expect(applyFixedLog(level).stateHashes, ADVICE).to.deep.equal(RECORDED[level]);
    });
  }

  it("comes of commands of every kind", () => {
    const { kinds } = applyFixedLog(1);

    expect(COMMAND_KINDS.filter((kind) => !kinds.has(kind))).to.deep.equal([]);
  });

  it("holds refusals of what is not there, conflicts, stale versions, lost claims and levels too low", () => {
    const { refusals } = applyFixedLog(1);

    expect([...refusals]).to.include.members([
      ...["PATH_NOT_FOUND", "PATH_EXISTS", "IS_A_DIRECTORY", "NOT_A_DIRECTORY", "VERSION_MISMATCH"],
      ...["TASK_CLAIM_LOST", "TASK_STATE_CONFLICT", "FEATURE_LEVEL_TOO_LOW", "MEMBERSHIP_CHANGE_IN_PROGRESS"],
      ...["SEAL_REJECTED", "UPLOAD_FINISHED", "REQUEST_ID_REUSED"],
    ]);
  });
});
