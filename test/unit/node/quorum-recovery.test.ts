// Goal: a recovery that is interrupted anywhere leaves the old member or the new cluster, and is finished by running it again; a report
// changes nothing. Method: a real data directory of a member, every byte and time in it compared, and a disk that gives up at each of
// its operations in turn.
import { expect } from "chai";
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findIdentity, storeIdentity } from "../../../src/cluster/bootstrap-identity.ts";
import type { BootstrapReport } from "../../../src/cluster/bootstrap-rule.ts";
import { surveySurvivor } from "../../../src/consensus/new-cluster.ts";
import { openStorage } from "../../../src/consensus/open-storage.ts";
import { FEATURE_LEVELS, type FeatureLevels } from "../../../src/drive/feature-levels.ts";
import { encodeCommand } from "../../../src/metadata/codec.ts";
import type { CommandBody, CommandResult } from "../../../src/metadata/commands.ts";
import { MetadataStateMachine } from "../../../src/metadata/state-machine.ts";
import { clusterInfo } from "../../../src/metadata/view.ts";
import { recoverQuorum, type QuorumRecoveryReport } from "../../../src/node/quorum-recovery.ts";
import { CheckedOrderedStoreProvider } from "../../../src/std/checked-ordered-store.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import type { Disk } from "../../../src/std/disk.ts";
import { LmdbOrderedStoreProvider } from "../../../src/std/lmdb-ordered-store.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { SystemDisk } from "../../../src/std/system-disk.ts";
import { silentLogger } from "../../../src/telemetry/logger.ts";
import { directoryState } from "../../support/directory-state.ts";
import { expectReason } from "../../support/expect-reason.ts";

const OLD = "0123456789abcdef0123456789abcdef";
const MEMBERS = [1, 2, 3].map((memberId) => ({ memberId, address: `127.0.0.1:${memberId}` }));
const clock = new SystemClock();

function storesIn(directory: string): CheckedOrderedStoreProvider {
  const lmdb = new LmdbOrderedStoreProvider({ directory: join(directory, "stores"), clock });
  return new CheckedOrderedStoreProvider(lmdb, () => undefined);
}

/** Makes the data of a member that has some entries in its log and, unless there are `later` ones, none of them in its state. */
async function makeMember(
  directory: string,
  later: readonly CommandBody[] = [],
  levels: FeatureLevels = FEATURE_LEVELS,
): Promise<void> {
  const disk = new SystemDisk();
  mkdirSync(directory, { recursive: true });
  const cluster = { clusterId: OLD, members: MEMBERS };
  await storeIdentity(disk, directory, {
    nodeId: "a",
    memberId: 1,
    incarnation: "x",
    phase: "started",
    cluster,
  });
  const confState = {
    voters: [1, 2, 3],
    votersOutgoing: [],
    learners: [],
    learnersNext: [],
    autoLeave: false,
  };
  const { log, store } = await openStorage<CommandResult>({
    disk,
    clock,
    logger: silentLogger,
    directory: join(directory, "raft"),
    clusterId: OLD,
    memberId: 1,
    whenAbsent: "create",
    onCreated: () => Promise.resolve(),
    onUnreadable: () => undefined,
    onFatal: () => undefined,
    store: {
      provider: storesIn(directory),
      stateMachine: new MetadataStateMachine({}, levels),
      initialConfState: confState,
    },
  });
  const first: CommandBody = { kind: "bootstrap", clusterId: OLD, chunkSizeBytes: 1 << 20, formatVersion: 1 };
  const commands = [first, ...later].map((body, at) => {
    const data = encodeCommand({ requestId: "", deadlineMs: 0, wallTimeMs: 0, body });
    return { index: 2 + at, term: 4, kind: "normal" as const, data };
  });
  const entries = [{ index: 1, term: 4, kind: "normal" as const, data: new Uint8Array(0) }, ...commands];
  await log.append([
    {
      entries,
      hardState: { term: 4, votedFor: 2, commitIndex: 0 },
    },
  ]);
  if (later.length > 0) {
    for (let at = 0; at < entries.length;) at += store.applyBatch(entries, at, () => confState).count;
    await store.flush();
  }
  await log.close();
  await store.close();
}

/** Of the state of a data directory, the files below `raft` and `stores`, under their names there. */
function oldDataIn(
  state: Readonly<Record<string, string>>,
): Record<"raft" | "stores", Record<string, string>> {
  const below = (folder: string): Record<string, string> =>
    Object.fromEntries(
      Object.entries(state)
        .filter(([path]) => path.startsWith(`${folder}/`))
        .map(([path, described]) => [path.slice(folder.length + 1), described]),
    );
  return { raft: below("raft"), stores: below("stores") };
}

/** A disk of a process that dies at its `limit`-th operation. */
function dyingDisk(limit: number): { readonly disk: Disk; readonly count: () => number } {
  const disk = new SystemDisk();
  let count = 0;
  const step = (): void => {
    count += 1;
    if (count >= limit) throw new Error("the process has died");
  };
  return {
    count: () => count,
    disk: new Proxy(disk, {
      get: (target, name) => {
        const value = Reflect.get(target, name) as (...parameters: unknown[]) => unknown;
        return async (...parameters: unknown[]) => {
          step();
          return await value.apply(target, parameters);
        };
      },
    }),
  };
}

describe("recoverQuorum", function () {
  this.timeout(120_000);
  let root: string;
  let pristine: string;

  before(async () => {
    root = mkdtempSync(join(tmpdir(), "quorum-recovery-"));
    pristine = join(root, "pristine");
    await makeMember(pristine);
  });

  after(() => {
    rmSync(root, { recursive: true, force: true });
  });

  function copy(name: string): string {
    const directory = join(root, name);
    cpSync(pristine, directory, { recursive: true });
    return directory;
  }

  /** A member that was killed in the middle of a write, after an earlier recovery was interrupted. */
  function killed(name: string): string {
    const directory = copy(name);
    rmSync(join(directory, "stores/state-1/closed.crc"));
    symlinkSync("/dev/shm/netdisk-lock-0-0-0-gone/lock.mdb", join(directory, "stores/state-1/lock.mdb"));
    mkdirSync(join(directory, "stores/state-2"));
    appendFileSync(join(directory, "raft/log/0000000001.seg"), Buffer.alloc(20, 7));
    writeFileSync(join(directory, "raft/log/leftover.tmp"), "x");
    mkdirSync(join(directory, "raft.recovered"));
    return directory;
  }

  function run(
    directory: string,
    confirmedClusterId: string | undefined,
    disk: Disk = new SystemDisk(),
    ask: (address: string) => Promise<BootstrapReport> = () => Promise.reject(new Error("nobody")),
  ): Promise<QuorumRecoveryReport> {
    return recoverQuorum({ directory, disk, clock, prng: new SeededPrng(3), ask, confirmedClusterId });
  }

  async function expectNewCluster(directory: string): Promise<void> {
    const identity = await findIdentity(new SystemDisk(), directory);
    const clusterId = identity?.cluster?.clusterId ?? "";
    expect(clusterId).to.not.equal(OLD);
    expect(identity?.cluster?.members.map(({ memberId }) => memberId)).to.deep.equal([1]);
    const survivor = await surveySurvivor(
      {
        disk: new SystemDisk(),
        clock,
        memberId: 1,
        initialVoters: [1],
        stateMachine: new MetadataStateMachine(),
        from: { directory: join(directory, "raft"), stores: storesIn(directory), clusterId },
      },
      (reader) => clusterInfo(reader)?.clusterId,
    );
    expect(survivor.seen).to.equal(clusterId);
    expect(survivor.last).to.deep.equal({ index: 2, term: 4 });
    expect(survivor.term).to.equal(5);
    expect(survivor.confState.voters).to.deep.equal([1]);
    const names = readdirSync(directory).sort();
    expect(names).to.deep.equal([
      "identity",
      "raft",
      `raft.replaced-${OLD}`,
      "stores",
      `stores.replaced-${OLD}`,
    ]);
  }

  it("only reports without a confirmation, and does nothing for a wrong one or while another member answers", async () => {
    const directory = copy("report");
    const report = await run(directory, undefined);
    expect(report.newClusterId).to.equal(undefined);
    expect(report.survivor?.last).to.deep.equal({ index: 2, term: 4 });
    expect(report.others.map(({ memberId }) => memberId)).to.deep.equal([2, 3]);
    await expectReason("ARGUMENT_INVALID", () => run(directory, "f".repeat(32)));
    const answer: BootstrapReport = {
      ...{ empty: false, formed: true, nodeId: "b", memberId: 2, address: "127.0.0.1:2", addresses: [] },
      cluster: { clusterId: OLD, members: MEMBERS },
    };
    const ask = (): Promise<BootstrapReport> => Promise.resolve(answer);
    await expectReason("MEMBERSHIP_CHANGE_UNSAFE", () => run(directory, OLD, new SystemDisk(), ask));
    await expectReason("ARGUMENT_INVALID", () => run(root, OLD));
    expect(existsSync(join(directory, "raft.recovered"))).to.equal(false);
    expect((await findIdentity(new SystemDisk(), directory))?.cluster?.clusterId).to.equal(OLD);
  });

  for (const [title, make] of [
    ["closed in order", copy],
    ["was killed", killed],
  ] as const) {
    it(`changes no byte and no time of a member that ${title}, however often it reports or refuses`, async () => {
      const directory = make(title.replaceAll(" ", "-"));
      const segment = join(directory, "raft/log/0000000001.seg");
      utimesSync(segment, 1_700_000_000, 1_700_000_000);
      const before = directoryState(directory);
      const lastWriteMs = statSync(segment).mtimeMs;

      const first = await run(directory, undefined);
      expect(first.lastWriteMs).to.equal(lastWriteMs);
      expect(first.survivor?.last).to.deep.equal({ index: 2, term: 4 });
      expect(directoryState(directory)).to.deep.equal(before);
      expect(await run(directory, undefined)).to.deep.equal(first);
      await expectReason("ARGUMENT_INVALID", () => run(directory, "f".repeat(32)));
      expect(directoryState(directory)).to.deep.equal(before);

      const { raft, stores } = oldDataIn(before);
      await run(directory, OLD);
      await expectNewCluster(directory);
      expect(directoryState(join(directory, `raft.replaced-${OLD}`))).to.include(raft);
      expect(directoryState(join(directory, `stores.replaced-${OLD}`))).to.include(stores);
    });
  }

  it("says that it is done when it is confirmed again, and refuses the id of a third cluster", async () => {
    const directory = copy("again");
    const { newClusterId } = await run(directory, OLD);
    const before = directoryState(directory);

    const again = await run(directory, OLD);
    expect(again).to.include({ outcome: "replaced", oldClusterId: OLD, newClusterId });
    const error = await expectReason("ARGUMENT_INVALID", () => run(directory, "f".repeat(32)));
    expect(String(error)).to.include(`is ${newClusterId}, not`);
    const report = await run(directory, undefined);
    expect(report).to.include({ outcome: "reported", oldClusterId: newClusterId, newClusterId: undefined });
    expect(directoryState(directory)).to.deep.equal(before);
  });

  it("refuses a member whose state is gone, and does not make an empty one in its place", async () => {
    const directory = copy("no-state");
    rmSync(join(directory, "raft/CURRENT"));
    const before = directoryState(directory);

    const error = await expectReason("DATA_CORRUPT", () => run(directory, undefined));

    expect(String(error)).to.include("its state is gone");
    expect(directoryState(directory)).to.deep.equal(before);
  });

  it("refuses data of a feature level that this version does not support", async () => {
    const directory = join(root, "newer");
    const level = FEATURE_LEVELS.max + 1;
    await makeMember(directory, [{ kind: "raise-feature-level", level }], { min: 1, max: level });

    await expectReason("VERSION_UNSUPPORTED", () => run(directory, undefined));
  });

  it("counts a founder that was removed earlier neither as lost nor as one that answers", async () => {
    const directory = join(root, "removed");
    const node = {
      nodeId: "b",
      memberId: 2,
      address: "127.0.0.1:2",
      httpUrl: "",
      publicUrl: "",
      zone: "",
      isStorageOnly: false,
    };
    await makeMember(directory, [
      { kind: "register-node", node: { ...node, storeIncarnation: "s" } },
      { kind: "remove-member", memberId: 2, isForced: true },
      // The index of the removal is its id.
      { kind: "end-membership-change", changeId: 4, failure: "" },
    ]);
    const asked: string[] = [];

    const report = await run(directory, undefined, new SystemDisk(), (address) => {
      asked.push(address);
      return Promise.reject(new Error("nobody"));
    });

    expect(report.others.map(({ memberId }) => memberId)).to.deep.equal([3]);
    expect(asked).to.deep.equal(["127.0.0.1:3"]);
  });

  it("goes on after it died at every other operation of the disk", async () => {
    let deaths = 0;
    let unfinished = 0;
    for (let limit = 1; ; limit += 2) {
      const directory = copy(`death-${limit}`);
      const { disk } = dyingDisk(limit);
      const died = await run(directory, OLD, disk).then(
        () => false,
        () => true,
      );
      if (died) {
        deaths += 1;
        const identity = await findIdentity(new SystemDisk(), directory);
        const before = directoryState(directory);
        const { outcome } = await run(directory, undefined);
        expect(directoryState(directory)).to.deep.equal(before);
        if (outcome === "unfinished") {
          unfinished += 1;
          await expectReason("ARGUMENT_INVALID", () => run(directory, "f".repeat(32)));
        }
        // The same word again, wherever it was interrupted.
        const { newClusterId } = await run(directory, OLD);
        const after = await findIdentity(new SystemDisk(), directory);
        expect(newClusterId).to.equal(after?.cluster?.clusterId);
        if (identity?.cluster?.clusterId !== OLD) expect(after).to.deep.equal(identity);
      }
      await expectNewCluster(directory);
      rmSync(directory, { recursive: true, force: true });
      if (!died) break;
    }
    expect(deaths).to.be.above(30);
    expect(unfinished).to.be.above(3);
  });
});
