/** Goal: background work stays within its bounds. Method: one below and one above each. */
import { expect } from "chai";
import { DriveError } from "../../../src/drive/errors.ts";
import { Chores } from "../../../src/replication/chores.ts";
import { deferred } from "../../../src/std/deferred.ts";

describe("Chores", () => {
  it("run up to the bound at once, refuse the next, and take new ones when some have ended", async () => {
    const chores = new Chores(2);
    const gate = deferred<void>();
    expect(chores.run(() => gate.promise)).to.equal(true);
    expect(chores.run(() => gate.promise)).to.equal(true);

    expect(chores.run(() => gate.promise)).to.equal(false);
    gate.resolve();
    await chores.idle();

    expect(chores.count).to.equal(0);
    expect(chores.run(() => Promise.reject(new DriveError("NO_LEADER", "none")))).to.equal(true);
    await chores.idle();
  });
});
