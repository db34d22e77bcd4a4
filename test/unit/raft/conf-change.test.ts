/** Membership changes that etcd's vectors do not name, and the bytes of a change in the log. */
import { expect } from "chai";
import { changeConfig, EMPTY_CONF_STATE, memberIds, transitionOf } from "../../../src/raft/conf-change.ts";
import {
  CONF_CHANGE_STEPS_MAX,
  decodeConfChange,
  encodeConfChange,
  findConfChange,
} from "../../../src/raft/conf-change-codec.ts";
import type { ConfChange, ConfState } from "../../../src/raft/types.ts";
import { parseSteps } from "../../support/raft/describe.ts";
import { confState } from "../../support/raft/memory-log-storage.ts";

function change(steps: string, transition: ConfChange["transition"] = "auto"): ConfChange {
  return { transition, steps: parseSteps(steps), context: new Uint8Array(0) };
}

function next(config: ConfState, one: ConfChange): ConfState {
  const result = changeConfig(config, one);
  if (!result.ok) throw new Error(result.reason);
  return result.config;
}

describe("changeConfig()", () => {
  it("takes one step at once, and more through a joint configuration", () => {
    expect(transitionOf(change("v4"))).to.equal("simple");
    expect(transitionOf(change("v4 r1"))).to.equal("enter-joint");
    expect(transitionOf(change("v4", "joint-implicit"))).to.equal("enter-joint");
    expect(transitionOf(change(""))).to.equal("leave-joint");
  });

  it("replaces a voter in two moves, with both majorities in between", () => {
    const joint = next(confState([1, 2, 3]), change("r3 v4"));
    expect([joint.voters, joint.votersOutgoing, joint.autoLeave]).to.deep.equal([[1, 2, 4], [1, 2, 3], true]);

    expect(next(joint, change(""))).to.deep.equal(confState([1, 2, 4]));
  });

  it("leaves by hand when that was asked for", () => {
    expect(next(confState([1]), change("v2", "joint-explicit")).autoLeave).to.equal(false);
  });

  it("never leaves a group without voters", () => {
    expect(changeConfig(confState([1]), change("r1")).ok).to.equal(false);
    expect(changeConfig(EMPTY_CONF_STATE, change("l1")).ok).to.equal(false);
  });

  it("counts everybody once", () => {
    const joint = next(confState([1, 2, 3], [7]), change("l3 v4"));

    expect(memberIds(joint)).to.deep.equal([1, 2, 3, 4, 7]);
  });
});

describe("encodeConfChange()", () => {
  it("gives back what was put in", () => {
    const one: ConfChange = {
      transition: "joint-explicit",
      steps: parseSteps(`v1 l2 r3 u${Number.MAX_SAFE_INTEGER}`),
      context: Uint8Array.from([9, 8, 7]),
    };

    expect(decodeConfChange(encodeConfChange(one))).to.deep.equal(one);
  });

  it("has these bytes, for ever", () => {
    expect(Buffer.from(encodeConfChange(change("l258"))).toString("hex")).to.equal(
      "01000001010000000000000102",
    );
    expect(encodeConfChange(change("")).length).to.equal(0);
  });

  it("takes as many steps as its limit, and no more", () => {
    const steps = Array.from({ length: CONF_CHANGE_STEPS_MAX }, (_, i) => `v${i + 1}`).join(" ");

    expect(decodeConfChange(encodeConfChange(change(steps))).steps.length).to.equal(CONF_CHANGE_STEPS_MAX);
    expect(() => encodeConfChange(change(`${steps} v5000`))).to.throw(/steps in one change/);
  });

  for (const hex of [
    "01",
    "02000000",
    "01050000",
    "0100000100",
    "010000010900000000000000",
    "0100000101ffffffffffffffff",
  ]) {
    it(`refuses ${hex}`, () => {
      expect(findConfChange(Buffer.from(hex, "hex"))).to.equal(undefined);
    });
  }
});
