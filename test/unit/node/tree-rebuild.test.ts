/**
 * `netdisk rebuild` where it must not go on, and where it goes on after a crash. The whole of it is tried in test/e2e/runbook/tree-lost.test.ts.
 */
import { expect } from "chai";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findIdentity, makeIdentity, storeIdentity } from "../../../src/cluster/bootstrap-identity.ts";
import { rebuildTree, type TreeRebuildReport } from "../../../src/node/tree-rebuild.ts";
import { writeAtomicFile } from "../../../src/std/atomic-file.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { SystemDisk } from "../../../src/std/system-disk.ts";
import { expectReason } from "../../support/expect-reason.ts";

describe("netdisk rebuild", () => {
  let root: string;
  let directories: readonly string[];
  const disk = new SystemDisk();
  const prng = new SeededPrng(7);
  const identity = makeIdentity(prng, "node1");
  const cluster = { clusterId: "old", members: [{ memberId: identity.memberId, address: "a:1" }] };

  const run = (
    ask: () => Promise<never> = () => Promise.reject(new Error("nobody")),
  ): Promise<TreeRebuildReport> =>
    rebuildTree({ directories, disk, clock: new SystemClock(), prng, ask, confirmedClusterId: undefined });

  beforeEach(async () => {
    root = mkdtempSync(join(tmpdir(), "netdisk-rebuild-"));
    directories = [join(root, "one"), join(root, "two")];
    for (const directory of directories) {
      mkdirSync(directory);
      await storeIdentity(disk, directory, { ...identity, phase: "started", cluster });
    }
  });

  afterEach(() => rmSync(root, { recursive: true }));

  it("refuses a directory with a tree, and one without chunks", async () => {
    await expectReason("ARGUMENT_INVALID", () => run());
    mkdirSync(join(directories[1] ?? "", "raft"));
    writeFileSync(join(directories[1] ?? "", "raft", "CURRENT"), "");
    const error = await expectReason("MEMBERSHIP_CHANGE_UNSAFE", () => run());
    expect(error.message).to.include("netdisk recover");
  });

  it("finishes what was marked as ready, in every directory, and only once", async () => {
    const renewed = { ...identity, phase: "started" as const, cluster: { ...cluster, clusterId: "new" } };
    for (const directory of directories) {
      for (const name of ["raft", "stores"]) {
        mkdirSync(join(directory, `${name}.recovered`));
        writeFileSync(join(directory, `${name}.recovered`, "made"), "");
      }
    }
    // The crash came after the first mark.
    const mark = { directory: directories[0] ?? "", name: "rebuilding", magic: "NDREBLD1" };
    await writeAtomicFile(disk, mark, utf8(JSON.stringify({ oldClusterId: "old", identity: renewed })));
    const report = await run();
    expect(report).to.deep.include({ oldClusterId: "old", newClusterId: "new", found: undefined });
    for (const directory of directories) {
      expect((await findIdentity(disk, directory))?.cluster?.clusterId).to.equal("new");
      expect(existsSync(join(directory, "raft", "made")), directory).to.equal(true);
      expect(existsSync(join(directory, "stores", "made")), directory).to.equal(true);
      expect(existsSync(join(directory, "rebuilding")), directory).to.equal(false);
    }
    await expectReason("MEMBERSHIP_CHANGE_UNSAFE", () => run());
  });
});
