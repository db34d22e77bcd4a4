/** Goal: which version may run in which cluster, and what it says when it may not. Method: ranges one below and one above. */
import { expect } from "chai";
import { DriveError } from "../../../src/drive/errors.ts";
import {
  checkLevel,
  commonLevel,
  FEATURE_LEVELS,
  levelTooLow,
  supportsLevel,
} from "../../../src/drive/feature-levels.ts";

describe("feature levels", () => {
  it("are supported from the lowest to the highest, and neither below nor above", () => {
    const levels = { min: 2, max: 4 };

    expect([1, 2, 3, 4, 5].filter((level) => supportsLevel(levels, level))).to.deep.equal([2, 3, 4]);
  });

  it("have the newest one in common that everybody supports", () => {
    const old = { min: 1, max: 2 };

    expect(commonLevel([{ min: 1, max: 5 }, old])).to.equal(2);
    expect(commonLevel([{ min: 2, max: 5 }, old])).to.equal(2);
    expect(commonLevel([{ min: 3, max: 5 }, old])).to.equal(undefined);
  });

  it("send a version that is too old to a newer one, and one that is too new to an older one", () => {
    const messageOf = (level: number): string => {
      try {
        checkLevel({ min: 2, max: 3 }, level);
      } catch (error) {
        if (!(error instanceof DriveError)) throw error;
        expect(error.reason).to.equal("VERSION_UNSUPPORTED");
        return error.message;
      }
      return "";
    };

    expect(messageOf(4)).to.equal(
      "The cluster has feature level 4, and this version of netdisk supports the levels 2 to 3: start it with the newer version that the other nodes run.",
    );
    expect(messageOf(1)).to.match(/level 1.*levels 2 to 3.*upgrade once the cluster's level was raised/);
    expect(messageOf(2) + messageOf(3)).to.equal("");
  });

  it("are named in the refusal of what needs a higher one", () => {
    expect(levelTooLow(3, 2).message).to.match(/needs feature level 3, and the cluster has 2/);
    expect(levelTooLow(3, 2).reason).to.equal("FEATURE_LEVEL_TOO_LOW");
  });

  it("of this version begin with the first, so that every data directory can be upgraded", () => {
    expect(FEATURE_LEVELS.min).to.equal(1);
    expect(FEATURE_LEVELS.max).to.be.at.least(2);
  });
});
