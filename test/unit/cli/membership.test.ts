// Goal: the commands that change the membership say what they do, watch it to its end, and end with the right code.
// Method: the command line inside the test over a membership that the test scripts.
import { expect } from "chai";
import type {
  ClusterAdmin,
  JoinTokenRequest,
  MembershipProgress,
  MembershipStatus,
  TreeBackup,
} from "../../../src/drive/cluster-admin.ts";
import type { ClusterStatus } from "../../../src/drive/drive-api.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { must } from "../../../src/std/assert.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { netdisk } from "./run-cli.ts";

const DONE: MembershipProgress = {
  ...{ changeId: 7, kind: "add", phase: "done", memberId: 4, nodeId: "node4", formerMemberId: 0 },
  ...{ formerNodeId: "", appliedIndex: 0, targetIndex: 0, reason: "" },
};

/** A membership whose change goes through `steps`, one a look. */
class ScriptedAdmin implements ClusterAdmin {
  readonly calls: unknown[] = [];
  readonly #steps: (MembershipProgress | undefined)[];
  refusal: DriveError | undefined;
  members: MembershipStatus["members"] = [
    { memberId: 1, nodeId: "node1", part: "voter" },
    { memberId: 3, nodeId: "node3", part: "outgoing" },
    { memberId: 4, nodeId: "node4", part: "incoming" },
  ];

  constructor(...steps: (MembershipProgress | undefined)[]) {
    this.#steps = steps;
  }

  createJoinToken(request: JoinTokenRequest): Promise<{ token: string; lifetimeMs: number }> {
    this.calls.push({ ...request, secret: /^[0-9a-f]{32}$/u.test(request.secret) });
    return Promise.resolve({ token: "ndj1.c.s", lifetimeMs: request.lifetimeMs ?? 3_600_000 });
  }

  removeNode(node: string, settings: { readonly force: boolean }): Promise<{ changeId: number }> {
    this.calls.push({ node, ...settings });
    return this.refusal === undefined ? Promise.resolve({ changeId: 7 }) : Promise.reject(this.refusal);
  }

  transferLeadership(node: string | undefined): Promise<{ changeId: number }> {
    this.calls.push({ transferTo: node });
    return Promise.resolve({ changeId: 7 });
  }

  backUpTree(): Promise<TreeBackup> {
    this.calls.push("backUpTree");
    const isNew = this.calls.length === 1;
    return Promise.resolve({ index: 4711, sizeBytes: 2048, wallTimeMs: 1_700_000_000_000, isNew });
  }

  membership(): Promise<MembershipStatus> {
    const change = this.#steps.length > 1 ? this.#steps.shift() : this.#steps[0];
    return Promise.resolve({ members: this.members, isJoint: change?.phase === "promoting", change });
  }
}

describe("netdisk cluster", () => {
  const run = (args: readonly string[], admin: ClusterAdmin) =>
    netdisk(["cluster", ...args, "--nodes", "h:1,h:2"], { drive: new MemoryDrive(), admin });

  it("backup keeps a snapshot of the tree, or says that there is one", async () => {
    const admin = new ScriptedAdmin();
    const first = await run(["backup"], admin);
    expect(first.out).to.equal("A snapshot of the tree of index 4,711 (2.0 KiB) is kept.\n");
    const second = await run(["backup"], admin);
    expect(second.out).to.match(/^Nothing has changed since the snapshot of index 4,711 .* UTC\.\n$/u);
    expect((await run(["backup", "--json"], admin)).out).to.contain('"sizeBytes":2048');
  });

  it("add makes a token and shows how to start the node", async () => {
    const admin = new ScriptedAdmin(undefined);
    const { code, out } = await run(["add", "--lifetime", "600"], admin);
    expect(code).to.equal(0);
    expect(out).to.include("UV_THREADPOOL_SIZE=16 netdisk serve --join ndj1.c.s --cluster-peers h:1,h:2");
    const wanted = { secret: true, lifetimeMs: 600_000, replacesNode: undefined };
    expect(admin.calls).to.deep.equal([{ ...wanted, storageOnly: false }]);

    await run(["add", "--lifetime", "600", "--storage-only"], admin);
    expect(admin.calls[1]).to.deep.equal({ ...wanted, storageOnly: true });
  });

  it("add tells programs the command and its environment apart", async () => {
    const [token] = (await run(["add", "--json"], new ScriptedAdmin(undefined))).records();
    expect(token?.["command"]).to.match(/^netdisk serve --join ndj1.c.s /);
    expect(token?.["environment"]).to.deep.equal({ UV_THREADPOOL_SIZE: "16" });
  });

  it("add says that nobody came when the token is over, and fails", async () => {
    const { code, err } = await run(
      ["add", "--lifetime", "1", "--wait"],
      new ScriptedAdmin({ ...DONE, changeId: 3 }, undefined),
    );
    expect(code).to.equal(1);
    expect(err).to.include("No node has joined with the token in 1.0 s");
  });

  it("replace names the node that goes, and waits for the new one with its progress", async () => {
    const change = { ...DONE, kind: "replace" as const, formerMemberId: 3, formerNodeId: "node3" };
    const admin = new ScriptedAdmin(
      { ...DONE, changeId: 6 },
      { ...DONE, changeId: 6 },
      { ...change, phase: "joining" },
      { ...change, phase: "catching-up", appliedIndex: 120, targetIndex: 4000 },
      { ...change, phase: "promoting" },
      { ...change, phase: "done" },
    );
    const { code, out } = await run(["replace", "node3", "--wait"], admin);
    expect(code).to.equal(0);
    expect(out.trim().split("\n").slice(2)).to.deep.equal([
      `replacing node3 by node4: admitted, not started yet; "netdisk cluster remove node4" gives it up`,
      "replacing node3 by node4: added as learner, catching up 120 of 4,000",
      "replacing node3 by node4: caught up, about to vote",
      "replacing node3 by node4: done",
    ]);
    const wanted = { secret: true, lifetimeMs: undefined, replacesNode: "node3", storageOnly: undefined };
    expect(admin.calls).to.deep.equal([wanted]);
  });

  it("remove ends with 0 when the node is out, and with 1 when it stayed", async () => {
    const change = { ...DONE, kind: "remove" as const, memberId: 0, nodeId: "", formerNodeId: "node3" };
    const admin = new ScriptedAdmin({ ...change, phase: "removing" }, { ...change, phase: "done" });
    admin.members = [1, 2, 4].map((memberId) => ({ memberId, nodeId: `node${memberId}`, part: "voter" }));
    const done = await run(["remove", "node3", "--force", "--json"], admin);
    expect(done.code).to.equal(0);
    expect(done.records().map(({ phase }) => phase)).to.deep.equal(["removing", "done"]);
    expect(admin.calls).to.deep.equal([{ node: "node3", force: true }]);

    const failed = await run(
      ["remove", "node3"],
      new ScriptedAdmin({ ...change, phase: "failed", reason: "Of the 2 voters only 1 are up." }),
    );
    expect(failed.code).to.equal(1);
    expect(failed.out).to.include("removing node3: failed: Of the 2 voters only 1 are up.");
  });

  for (const { left, sentence } of [
    { left: ["node1"], sentence: "only 1 node: files have one copy until" },
    { left: ["node1", "node3"], sentence: "only 2 nodes: files have two copies until" },
    { left: ["node1", "node3", "node4"], sentence: undefined },
  ]) {
    it(`remove ${sentence === undefined ? "is silent about copies" : "says that files have fewer copies"} when ${left.length} are left`, async () => {
      const change = { ...DONE, kind: "remove" as const, formerNodeId: "node2" };
      const admin = new ScriptedAdmin(change);
      admin.members = left.map((nodeId, at) => ({ memberId: at + 1, nodeId, part: "voter" }));

      const { code, err } = await run(["remove", "node2"], admin);

      expect(code).to.equal(0);
      if (sentence === undefined) expect(err).to.equal("");
      else expect(err).to.include(sentence).and.include("netdisk cluster add");
    });
  }

  it("remove says why it is refused, with what to do, and does not wait when told so", async () => {
    const admin = new ScriptedAdmin(undefined);
    const harm = { harm: "last-copies" };
    admin.refusal = new DriveError("MEMBERSHIP_CHANGE_UNSAFE", "Member 2 cannot be removed now.", harm);
    const refused = await run(["remove", "node2"], admin);
    expect(refused.code).to.equal(1);
    expect(refused.err).to.include("cannot be removed now").and.include("MEMBERSHIP_CHANGE_UNSAFE");
    expect(refused.err).to.include("--force removes it all the same");
    admin.refusal = undefined;
    expect((await run(["remove", "node2", "--no-wait"], admin)).out).to.include("Change 7 has begun");
  });

  /** Nodes of which `answering` answers. */
  async function driveOf(answering: string, ...nodeIds: readonly string[]): Promise<MemoryDrive> {
    const status: ClusterStatus = await new MemoryDrive().cluster();
    const [node] = status.nodes;
    const nodes = nodeIds.map((nodeId, at) => ({
      ...must(node, "a node"),
      ...{ nodeId, memberId: at + 1, address: `${nodeId}:1`, health: "up" as const },
    }));
    const cluster = () => Promise.resolve({ ...status, nodeId: answering, nodes });
    return Object.assign(new MemoryDrive(), { cluster });
  }

  for (const { command, kind } of [
    { command: ["remove", "node1"], kind: "remove" },
    { command: ["replace", "node1", "--wait"], kind: "replace" },
  ] as const) {
    it(`${kind} watches through the others when the only node that was named goes`, async () => {
      const change = { ...DONE, kind, formerMemberId: 1, formerNodeId: "node1" };
      const steps = [{ ...change, changeId: 6 }, { ...change, phase: "removing" as const }, change];
      const admin = new ScriptedAdmin(...(kind === "remove" ? steps.slice(1) : steps));
      let asked: readonly string[] = ["node1:1"];
      const look = admin.membership.bind(admin);
      admin.membership = async () => {
        const status = await look();
        // From the moment the change has begun nobody is at the address of the one that goes.
        if (status.change?.changeId === 7 && asked.includes("node1:1"))
          throw new DriveError("PEER_UNREACHABLE", "Connection refused.");
        return status;
      };

      const { code, err } = await netdisk(["cluster", ...command, "--nodes", "node1:1", "--timeout", "1"], {
        ...{ drive: await driveOf("node1", "node1", "node2", "node3"), admin },
        onAddresses: (addresses) => (asked = addresses),
      });

      expect(code, err).to.equal(0);
      expect(asked).to.deep.equal(["node2:1", "node3:1"]);
    });
  }

  it("transfer hands leadership over, to anybody when nobody is named", async () => {
    const change = { ...DONE, kind: "transfer" as const, nodeId: "" };
    const admin = new ScriptedAdmin(change);
    expect((await run(["transfer"], admin)).out).to.include("handing leadership over: done");
    await run(["transfer", "node2"], admin);
    expect(admin.calls).to.deep.equal([{ transferTo: undefined }, { transferTo: "node2" }]);
  });

  it("status and who waits are told that a change is held back, and why", async () => {
    const held = { ...DONE, phase: "promoting" as const, reason: "Only 1 are up." };
    const { out } = await run(["status"], new ScriptedAdmin(held));
    expect(out).to.include("Membership: adding node4: caught up, held back: Only 1 are up.");

    const admin = new ScriptedAdmin(undefined, { ...held, phase: "joining" }, DONE);
    const lines = (await run(["add", "--wait"], admin)).out;
    expect(lines).to.include("adding node4: started, held back: Only 1 are up.\nadding node4: done");
  });

  it("status shows a change under way and the two configurations of a joint one", async () => {
    const { out } = await run(["status"], new ScriptedAdmin({ ...DONE, phase: "promoting" }));
    expect(out).to.include("Membership: adding node4: caught up, about to vote.");
    expect(out).to.include("Two configurations hold (joint): coming node4; going node3.");
    const { out: quiet } = await run(["status"], new ScriptedAdmin(DONE));
    expect(quiet).to.not.include("Membership");
  });
});
