/** Goal: the cluster's feature level in the tree. Method: commands of several versions, and the bytes of the state. */
import { expect } from "chai";
import { DriveError } from "../../../src/drive/errors.ts";
import type { FeatureLevels } from "../../../src/drive/feature-levels.ts";
import { encodeCommand } from "../../../src/metadata/codec.ts";
import type { CommandBody } from "../../../src/metadata/commands.ts";
import { checkProposable, checkSupported, featureLevel } from "../../../src/metadata/feature-level.ts";
import { STATE_KEY } from "../../../src/metadata/keys.ts";
import { findMember } from "../../../src/metadata/members.ts";
import { openMembershipChange } from "../../../src/metadata/membership.ts";
import { stateCodec } from "../../../src/metadata/records.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { MemoryOrderedStore } from "../../../src/std/memory-ordered-store.ts";
import { registrationOf } from "../../support/memory-metadata-port.ts";
import { Harness, MEMBER_IDS, present } from "./harness.ts";

const raise = (level: number): CommandBody => ({ kind: "raise-feature-level", level });

const found = (level?: number): CommandBody => ({
  ...{ kind: "bootstrap", clusterId: "cluster", chunkSizeBytes: 1024 * 1024, formatVersion: 1 },
  featureLevel: level,
});

const register = (memberId: number, featureLevelMax?: number): CommandBody => ({
  kind: "register-node",
  node: registrationOf(memberId, featureLevelMax === undefined ? {} : { featureLevelMax }),
});

function harnessOf(levels?: FeatureLevels): Harness {
  return new Harness({}, new MemoryOrderedStore(), levels);
}

function reasonOf(work: () => void): string {
  try {
    work();
  } catch (error) {
    if (error instanceof DriveError) return error.reason;
    throw error;
  }
  return "none";
}

describe("the feature level of a cluster", () => {
  it("is the first one in a state from before there were levels, which is written as before", () => {
    const harness = new Harness().bootstrap();
    const bytes = present(harness.store.get(STATE_KEY));

    expect(featureLevel(harness.store)).to.equal(1);
    // Field 19 as a varint would begin with 0x98 0x01; the record without it is as long.
    expect(stateCodec.encode({ ...stateCodec.decode(bytes), featureLevel: 0 })).to.deep.equal(bytes);
    expect(stateCodec.encode({ ...stateCodec.decode(bytes), featureLevel: 1 }).length).to.equal(
      bytes.length + 3,
    );
  });

  it("is what the founders agreed on in a new cluster, and cannot be founded again", () => {
    const harness = harnessOf();
    harness.ok(found(2));
    harness.ok(found());

    expect(featureLevel(harness.store)).to.equal(2);
  });

  it("is raised by a command, once, and never goes down", () => {
    const harness = harnessOf({ min: 1, max: 3 });
    harness.ok(found());
    harness.ok(raise(3));
    harness.ok(raise(2));
    harness.ok(raise(3));

    expect(featureLevel(harness.store)).to.equal(3);
  });

  it("is not raised while a node comes, of which nobody knows what it supports", () => {
    const harness = new Harness().bootstrap();
    const tokenHash = sha256(utf8("t"));
    harness.ok({ kind: "issue-join-token", tokenHash, lifetimeMs: 60_000, replacesMemberId: 0 });
    harness.ok({
      ...{ kind: "admit-member", tokenHash, memberId: 104, nodeId: "node-104" },
      ...{ address: "10.0.0.104:1", isStorageOnly: false },
    });

    harness.refused("MEMBERSHIP_CHANGE_IN_PROGRESS", raise(2));
    const { changeId } = present(openMembershipChange(harness.store));
    harness.ok({ kind: "end-membership-change", changeId, failure: "it never came" });
    harness.ok(raise(2));

    expect(featureLevel(harness.store)).to.equal(2);
  });

  it("is raised further only when every registration says that its member supports it", () => {
    const harness = harnessOf({ min: 1, max: 3 });
    harness.ok(found(2));
    harness.ok(register(1, 3));
    harness.ok(register(2, 2));
    harness.refused("VERSION_UNSUPPORTED", raise(3));
    harness.ok(register(2));
    harness.refused("VERSION_UNSUPPORTED", raise(3));
    harness.ok(register(2, 3));
    harness.ok(raise(3));

    expect(featureLevel(harness.store)).to.equal(3);
    expect(findMember(harness.store, 2)?.featureLevelMax).to.equal(3);
  });

  it("gates what needs it, where it is proposed and where it is applied", () => {
    const harness = new Harness().bootstrap();
    const [memberId] = MEMBER_IDS;
    const body = register(present(memberId), 2);

    expect(reasonOf(() => checkProposable(harness.store, body))).to.equal("FEATURE_LEVEL_TOO_LOW");
    harness.refused("FEATURE_LEVEL_TOO_LOW", body);
    harness.ok(raise(2));

    expect(reasonOf(() => checkProposable(harness.store, body))).to.equal("none");
    harness.ok(body);
  });
});

describe("a node of a version that is too old", () => {
  it("stops at the command that raises the level beyond what it supports, and changes nothing", () => {
    const harness = harnessOf({ min: 1, max: 1 });
    harness.bootstrap();
    const before = present(harness.store.get(STATE_KEY));

    expect(reasonOf(() => harness.apply(raise(2)))).to.equal("VERSION_UNSUPPORTED");
    expect(harness.store.get(STATE_KEY)).to.deep.equal(before);
  });

  it("stops at a command of a kind that it does not know", () => {
    const harness = new Harness().bootstrap();
    const data = Uint8Array.of(0xc2, 0xbb, 0x01, 0x00);
    const apply = (): void => {
      harness.store.transaction((t) => harness.machine.apply(t, { index: harness.index + 1, term: 1, data }));
    };

    expect(reasonOf(apply)).to.equal("VERSION_UNSUPPORTED");
  });

  it("stops at a command with a field that it does not know, by the level that the command names", () => {
    const harness = harnessOf({ min: 1, max: 1 });
    harness.bootstrap();
    const data = encodeCommand({ requestId: "", deadlineMs: 0, wallTimeMs: 0, body: register(7, 2) });
    const apply = (): void => {
      harness.store.transaction((t) => harness.machine.apply(t, { index: harness.index + 1, term: 1, data }));
    };

    expect(reasonOf(apply)).to.equal("VERSION_UNSUPPORTED");
    expect(findMember(harness.store, 7)).to.equal(undefined);
  });

  it("refuses a state of a level one above what it supports, or one below, and takes those between", () => {
    const store = harnessOf({ min: 1, max: 9 });
    store.ok(found(3));
    const refusal = (min: number, max: number): string =>
      reasonOf(() => checkSupported(store.store, { min, max }));

    expect(refusal(1, 2)).to.equal("VERSION_UNSUPPORTED");
    expect(refusal(4, 5)).to.equal("VERSION_UNSUPPORTED");
    expect([refusal(3, 5), refusal(1, 3), refusal(3, 3)]).to.deep.equal(["none", "none", "none"]);
  });

  it("takes a store that no cluster was founded in yet", () => {
    expect(reasonOf(() => checkSupported(new MemoryOrderedStore(), { min: 2, max: 3 }))).to.equal("none");
  });
});
