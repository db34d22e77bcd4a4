/**
 * Goal: nobody hears of a member that is removed while his file is on its way. Method: whole drives over the real state machine;
 * the node has read its list of members just before the tree removes one.
 */
import { expect } from "chai";
import { EXTENT_CHUNK_COUNT_MAX } from "../../../src/drive/limits.ts";
import { openMembershipChange } from "../../../src/metadata/membership.ts";
import { must } from "../../../src/std/assert.ts";
import { TARGET_CHOICE_COUNT_MAX } from "../../../src/transfer/stale-targets.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { registrationOf } from "../../support/memory-metadata-port.ts";
import { patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

function remove(drives: TestDrives, memberId: number): void {
  const begun = drives.tree.apply({ kind: "remove-member", memberId, isForced: true });
  expect(begun.outcome, JSON.stringify(begun)).to.equal("applied");
  const { changeId } = must(openMembershipChange(drives.tree.store), "a change is open");
  drives.tree.apply({ kind: "end-membership-change", changeId, failure: "" });
}

/** Three members, and a fourth that only the list of member 1 still has; placement takes it because 2 is in doubt. */
function withRemoved(): TestDrives {
  const drives = new TestDrives(4, 3);
  drives.detector.health.set(2, "suspect");
  expect(drives.node(1).plane.directory.memberIds()).to.deep.equal([1, 2, 3, 4]);
  expect(drives.node(1).plane.placement.choose()).to.include(4);
  remove(drives, 4);
  return drives;
}

describe("A member that is removed while targets are chosen", () => {
  it("is replaced by another before an upload begins", async () => {
    const drives = withRemoved();

    const request = uploadOf("/f", { sizeBytes: 10 });
    const ticket = await drives.drive().initUpload(request, { requestId: "r" });

    expect(ticket.targets.map(({ nodeId }) => nodeId)).to.have.members(["node-1", "node-2", "node-3"]);
    expect(drives.tree.count("init-upload")).to.equal(2);
    const repeated = await drives.drive(2).initUpload(request, { requestId: "r" });
    expect(repeated.uploadId).to.equal(ticket.uploadId);
  });

  for (const leased of [true, false]) {
    it(`is not noticed by a one-shot upload ${leased ? "with" : "without"} a lease`, async () => {
      const drives = withRemoved();
      if (leased) drives.grantLease();

      const { entry } = await drives.drive().putFile(uploadOf("/f"), streamOf(patternBytes(100)));

      expect(entry.sizeBytes).to.equal(100);
    });
  }

  it("is replaced by another when a later extent gets its targets", async () => {
    const drives = new TestDrives(4, 3);
    drives.detector.health.set(2, "suspect");
    const { uploadId } = await drives.drive().initUpload(uploadOf("/f"));
    expect(drives.node(1).plane.directory.memberIds()).to.include(4);
    remove(drives, 4);

    await drives.drive().writeChunk(uploadId, EXTENT_CHUNK_COUNT_MAX, patternBytes(10), undefined);

    expect(drives.tree.count("assign-extent")).to.equal(2);
  });

  it("makes an upload refused as one to repeat after TARGET_CHOICE_COUNT_MAX choices, and not before", async () => {
    for (const removals of [TARGET_CHOICE_COUNT_MAX - 1, TARGET_CHOICE_COUNT_MAX]) {
      const drives = withRemoved();
      let memberId = 4;
      let choices = 0;
      drives.tree.onPropose = ({ kind }) => {
        if (kind !== "init-upload") return Promise.resolve();
        choices += 1;
        if (choices > 1 && choices <= removals) remove(drives, memberId);
        if (choices < removals) {
          // The next to be chosen, and to be gone when that is proposed.
          memberId += 1;
          drives.tree.apply({ kind: "register-node", node: registrationOf(memberId) });
        }
        return Promise.resolve();
      };
      const begin = () => drives.drive().initUpload(uploadOf("/f", { sizeBytes: 10 }), { requestId: "r" });

      if (removals < TARGET_CHOICE_COUNT_MAX) expect((await begin()).targets.length).to.equal(3);
      else await expectReason("MEMBERSHIP_CHANGE_IN_PROGRESS", begin);
    }
  });
});
