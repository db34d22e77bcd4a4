/**
 * Goal: the small commands do what they say, in text and JSON, with exit codes that scripts can rely on.
 * Method: the whole command line over a drive in memory.
 */
import { expect } from "chai";
import { Writable } from "node:stream";
import { judgeCopies } from "../../../src/drive/cluster-judgement.ts";
import { must } from "../../../src/std/assert.ts";
import type { ReadOptions } from "../../../src/drive/drive-api.ts";
import { exitCodeOf, exitCodeOfCounts, UsageError } from "../../../src/cli/exit-code.ts";
import { formatBytes, formatCount, formatDuration, formatMode } from "../../../src/std/format.ts";
import { NODE_COUNT_MAX } from "../../../src/cli/option-values.ts";
import { TIMEOUT_SECONDS_MAX } from "../../../src/cli/with-drive.ts";
import { NO_REPLICAS } from "../../../src/drive/drive-api.ts";
import type { ClusterStatus, NodeStatus } from "../../../src/drive/drive-api.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { netdisk } from "./run-cli.ts";

/** A drive with /docs (mode 0750), /docs/a.txt ("alpha", mode 0640) and /b.txt. */
async function smallDrive(): Promise<MemoryDrive> {
  const drive = new MemoryDrive();
  const put = (path: string, text: string): Promise<unknown> =>
    drive.putFile(
      {
        path,
        sizeBytes: text.length,
        onConflict: "fail",
        attributes: { mode: 0o640, modifyTimeMs: Date.UTC(2026, 1, 3, 4, 5, 6) },
        createParents: false,
      },
      (async function* () {
        yield Buffer.from(text);
      })(),
    );
  await drive.createDirectory("/docs", { createParents: false, existOk: false, attributes: { mode: 0o750 } });
  await put("/docs/a.txt", "alpha");
  await put("/b.txt", "beta!!");
  return drive;
}

async function pathsOf(drive: MemoryDrive, path: string): Promise<string[]> {
  return (await drive.list({ path }, { countMax: 100 })).entries.map(({ name }) => name);
}

describe("netdisk ls", () => {
  it("lists names, folders with a slash", async () => {
    expect((await netdisk(["ls"], { drive: await smallDrive() })).out).to.equal("b.txt\ndocs/\n");
  });

  it("shows mode, size and time with -l", async () => {
    const { out } = await netdisk(["ls", "-l", "/docs/a.txt"], { drive: await smallDrive() });

    expect(out).to.equal("-rw-r-----  5  2026-02-03 04:05:06  /docs/a.txt\n");
  });

  it("gives one JSON object a line", async () => {
    const result = await netdisk(["ls", "--json", "/"], { drive: await smallDrive() });

    expect(
      result.records().map(({ path, kind, sizeBytes, mode }) => ({ path, kind, sizeBytes, mode })),
    ).to.deep.equal([
      { path: "/b.txt", kind: "file", sizeBytes: 6, mode: "0640" },
      { path: "/docs", kind: "directory", sizeBytes: 0, mode: "0750" },
    ]);
  });

  it("reads a folder of several pages to its end", async () => {
    const drive = new MemoryDrive();
    for (let i = 0; i < 2100; i += 1) {
      await drive.createDirectory(`/${String(i).padStart(5, "0")}`, {
        createParents: false,
        existOk: false,
        attributes: {},
      });
    }

    expect((await netdisk(["ls"], { drive })).out.split("\n")).to.have.length(2101);
  });

  it("ends quietly when the reader of its output goes away", async () => {
    const stdout = new Writable({
      write: (_chunk, _encoding, done) => done(Object.assign(new Error("EPIPE"), { code: "EPIPE" })),
    });

    const { code, err } = await netdisk(["ls"], { drive: await smallDrive(), stdout });

    expect([code, err]).to.deep.equal([0, ""]);
  });
});

describe("netdisk stat", () => {
  it("shows everything, copies included", async () => {
    const { out } = await netdisk(["stat", "/docs/a.txt"], { drive: await smallDrive() });

    expect(out)
      .to.include("5 bytes")
      .and.include("-rw-r----- (0640)")
      .and.include("3/3 verified, oldest check 2 d ago on n1, n2, n3");
  });

  it("shows the usual mode where none was given, and no time for the root, which nobody made", async () => {
    const drive = await smallDrive();
    await drive.createDirectory("/docs/deep/er", { createParents: true, existOk: false, attributes: {} });

    const root = await netdisk(["stat", "/"], { drive });
    const rootJson = await netdisk(["stat", "--json", "/"], { drive });
    const list = await netdisk(["ls", "-l", "/docs"], { drive });

    expect(root.out)
      .to.include("drwxr-xr-x (none given)")
      .and.match(/Modified +-\n/)
      .and.match(/Created +-\n/);
    expect(rootJson.records()[0]).to.not.have.any.keys("modifyTime", "createTime", "mode");
    expect(list.out).to.match(/^drwxr-xr-x +0 +2026-01-02 03:04:05 +deep\/$/m);
    expect(root.out + list.out)
      .to.not.include("?")
      .and.not.include("1970");
  });

  it("gives the copies in JSON", async () => {
    const result = await netdisk(["stat", "--json", "/docs/a.txt", "/docs"], { drive: await smallDrive() });

    expect(result.records()[0]?.["durability"]).to.deep.equal({
      verifiedCopies: 3,
      of: 3,
      nodes: ["n1", "n2", "n3"],
      oldestCheckAgeMs: 2 * 86_400_000,
    });
    expect(result.records()[1]).to.not.have.property("durability");
  });

  it("fails with one sentence, the remedy and the reason; in JSON on stderr", async () => {
    const drive = await smallDrive();

    const text = await netdisk(["stat", "/none"], { drive });
    const json = await netdisk(["stat", "--json", "/none"], { drive });

    expect(text.code).to.equal(1);
    expect(text.err).to.match(
      /^netdisk: \/none: .+\. Check the path; "netdisk ls" shows .+\. \[PATH_NOT_FOUND\]\n$/,
    );
    expect(json.out).to.equal("");
    expect(JSON.parse(json.err)).to.deep.include({ type: "error", subject: "/none" });
    expect((JSON.parse(json.err) as { error: object }).error).to.include({
      code: "PATH_NOT_FOUND",
      outcome: "definite",
      remedy: 'Check the path; "netdisk ls" shows what is there.',
    });
  });

  it("ends with 3 when some paths failed", async () => {
    expect((await netdisk(["stat", "/b.txt", "/none"], { drive: await smallDrive() })).code).to.equal(3);
  });
});

describe("netdisk mkdir, mv, cp and rm", () => {
  it("makes a folder, with -p also those above, and complains without it", async () => {
    const drive = await smallDrive();

    expect((await netdisk(["mkdir", "/x/y/z"], { drive })).code).to.equal(1);
    expect((await netdisk(["mkdir", "-p", "/x/y/z"], { drive })).code).to.equal(0);
    expect((await netdisk(["mkdir", "-p", "/x/y/z"], { drive })).code).to.equal(0);
    expect((await netdisk(["mkdir", "/x/y/z"], { drive })).err).to.include("[PATH_EXISTS]");
  });

  it("renames a file, or moves it into a folder", async () => {
    const drive = await smallDrive();

    await netdisk(["mv", "/b.txt", "/c.txt"], { drive });
    await netdisk(["mv", "/c.txt", "/docs"], { drive });

    expect(await pathsOf(drive, "/")).to.deep.equal(["docs"]);
    expect(await pathsOf(drive, "/docs")).to.deep.equal(["a.txt", "c.txt"]);
  });

  it("copies files and folders, several into one", async () => {
    const drive = await smallDrive();

    expect((await netdisk(["cp", "-r", "/docs", "/copy"], { drive })).code).to.equal(0);
    expect((await netdisk(["cp", "/b.txt", "/docs/a.txt", "/copy/"], { drive })).code).to.equal(3);
    expect(
      (await netdisk(["cp", "--on-conflict", "rename", "/docs/a.txt", "/copy"], { drive })).code,
    ).to.equal(0);

    expect(await pathsOf(drive, "/copy"))
      .to.have.length(3)
      .and.include("a.txt")
      .and.include("b.txt");
  });

  it("moves several only into a folder that is there", async () => {
    const drive = await smallDrive();

    expect((await netdisk(["mv", "/b.txt", "/docs/a.txt", "/new"], { drive })).code).to.equal(2);
    expect((await netdisk(["mv", "/b.txt", "/new/"], { drive })).code).to.equal(1);
    expect((await netdisk(["mv", "/", "/docs"], { drive })).code).to.equal(2);
  });

  it("deletes a folder with what is in it only with -r", async () => {
    const drive = await smallDrive();

    expect((await netdisk(["rm", "/docs"], { drive })).err).to.include("[DIRECTORY_NOT_EMPTY]");
    expect((await netdisk(["rm", "-r", "/docs", "/b.txt"], { drive })).code).to.equal(0);
    expect(await pathsOf(drive, "/")).to.deep.equal([]);
  });
});

describe("netdisk cluster status", () => {
  it("shows what one node knows, and fails, when no leader answers", async () => {
    class Leaderless extends MemoryDrive {
      override cluster(options?: ReadOptions): Promise<ClusterStatus> {
        if (options?.consistency === "stale") return super.cluster(options);
        return Promise.reject(new DriveError("COMMIT_OUTCOME_UNKNOWN", "No answer."));
      }
    }

    const { code, out, err } = await netdisk(["cluster", "status", "--timeout", "1"], {
      drive: new Leaderless(),
    });

    expect(code).to.equal(1);
    expect(out).to.include("no leader is known");
    expect(err).to.match(/no leader; \d+ of \d+ nodes? down/);
    expect(err)
      .to.match(/Changes need \d+ of the \d+ voters? up/)
      .and.include("docs/RUNBOOK.md");
    expect(err).to.not.include("may have happened");
  });

  it("asks for a scrub, and has a node give its copies away and take some again", async () => {
    const drive = await smallDrive();

    const scrub = await netdisk(["cluster", "scrub"], { drive });
    const drain = await netdisk(["cluster", "drain", "n1"], { drive });
    const status = await netdisk(["cluster", "status"], { drive });
    const stop = await netdisk(["cluster", "drain", "n1", "--stop", "--json"], { drive });
    const wrong = await netdisk(["cluster", "drain", "n9"], { drive });

    expect([scrub.code, drain.code, stop.code]).to.deep.equal([0, 0, 0]);
    expect(drive.scrubCount).to.equal(1);
    expect(status.out).to.include("up, draining").and.include("1 h 0 min ago, now 50%");
    expect(status.out).to.include("n1 gives its copies away: 7 B left.");
    expect(stop.records()[0]).to.deep.equal({ nodeId: "n1", draining: false });
    expect(drive.draining.size).to.equal(0);
    expect(wrong.code).to.not.equal(0);
    expect(wrong.err).to.include("There is no node n9");
  });

  it("says whom a drain waits for when too few other nodes have room", async () => {
    const drive = await smallDrive();
    const status = await drive.cluster();
    const [node] = status.nodes;
    const statusWith = async (freeBytes: number): Promise<string> => {
      const named = (nodeId: string, more: Partial<NodeStatus> = {}): NodeStatus => ({
        ...must(node, "a node"),
        nodeId,
        ...more,
      });
      const nodes = [named("n1", { draining: true, liveBytes: 7 }), named("n2"), named("n3")];
      drive.cluster = () =>
        Promise.resolve({ ...status, nodes: [...nodes, named("n4", { freeBytes, totalBytes: 10_000 })] });
      return (await netdisk(["cluster", "status"], { drive })).out;
    };

    expect(await statusWith(1000)).to.include("n1 gives its copies away: 7 B left.\n");
    expect(await statusWith(999)).to.include(
      "7 B left. What has no other place waits: 2 of the 3 nodes needed are up, not drained, and less than 90% full; add a node or free space.",
    );
  });

  it("says that every file has three verified copies when it is so", async () => {
    const drive = await smallDrive();
    const status = await drive.cluster();
    drive.cluster = () =>
      Promise.resolve({
        ...status,
        replicas: { ...NO_REPLICAS, extentCount: 2, fullyReplicatedCount: 2 },
      });

    const { out, code } = await netdisk(["cluster", "status"], { drive });
    const json = await netdisk(["cluster", "status", "--json"], { drive });

    expect(code).to.equal(0);
    expect(out).to.include("leads").and.include("Every file has three verified copies (2 of 2 extents).");
    expect(json.records()[0]).to.include({ fullyReplicated: true, fileCount: 2 });
  });

  it("says the feature level, and which nodes keep it from being raised", async () => {
    const drive = await smallDrive();
    const status = await drive.cluster();
    const [node] = status.nodes;
    const shown = async (featureLevel: number | undefined, ...nodes: readonly Partial<NodeStatus>[]) => {
      const all = nodes.map((each) => ({ ...must(node, "a node"), ...each }));
      drive.cluster = () => Promise.resolve({ ...status, featureLevel, nodes: all });
      return (await netdisk(["cluster", "status"], { drive })).out;
    };
    const newer = { nodeId: "n1", featureLevelMax: 2 };

    expect(await shown(2, newer)).to.match(/^Feature level 2\.$/m);
    expect(await shown(1, newer)).to.include("Feature level 1; it is being raised to 2.");
    expect(
      await shown(1, newer, { nodeId: "n2", featureLevelMax: 1 }, { ...newer, nodeId: "n3", health: "down" }),
    ).to.include(
      "Feature level 1; it is raised to 2 once these are up with a version that supports it: n2, n3.",
    );
    expect(await shown(undefined, newer)).to.not.include("Feature level");
    const json = await netdisk(["cluster", "status", "--json"], { drive });
    expect(JSON.stringify(json.records()[0])).to.include('"featureLevelMax":2');
  });

  it("tells what prepared downloads hold apart from the files", async () => {
    const drive = await smallDrive();
    const before = await netdisk(["cluster", "status"], { drive });
    const expireTimeMs = Date.UTC(2026, 10, 24, 6, 30, 5);
    drive.prepared = { downloadCount: 5, fileCount: 1082, sizeBytes: 2.5 * 1024 ** 3, expireTimeMs };

    const after = await netdisk(["cluster", "status"], { drive });

    expect(before.out).to.not.include("prepared");
    expect(after.out).to.match(/^2 files in .*\(bytes that files share count once\)\.$/m);
    expect(after.out).to.include(
      'UTC, also of files deleted since.\n"netdisk tasks ls --kind download" lists them, "netdisk tasks cancel" releases one.',
    );
  });

  it("says that a node collects nothing unknown, and how that is ended", async () => {
    const drive = await smallDrive();
    drive.collectionBrake = { extentCount: 3000, orphanCount: 1204, futureCount: 0 };

    const { out } = await netdisk(["cluster", "status"], { drive });
    expect(out).to.match(/n1 collects no unknown chunks: the tree does not know 1,204 of 3,000 extents\./);
    expect(out).to.match(/data\.orphanPercentMax 100/);

    drive.collectionBrake = { extentCount: 3000, orphanCount: 0, futureCount: 5 };
    const older = await netdisk(["cluster", "status"], { drive });
    expect(older.out).to.match(/5 of 3,000 extents are younger than the tree\. They are never removed/);
  });

  it("says what a node told of itself: that it is not ready, and what it works on", async () => {
    const drive = await smallDrive();
    const report = {
      ...{ seenTimeMs: Date.UTC(2026, 0, 2, 3, 4, 5), isReady: true, inflightBytes: 2 * 1024 * 1024 },
      ...{ appliedIndex: 5, freeBytes: 6, totalBytes: 7, transfers: [], tasks: [] },
    };
    const transfer = { id: "8", kind: "upload", sizeBytes: undefined, transferredBytes: 9 } as const;

    drive.report = report;
    const idle = await netdisk(["cluster", "status"], { drive });
    const task = {
      ...{ taskId: 12, kind: "replication" as const, fence: 3, sinceTimeMs: Date.UTC(2026, 0, 2, 3, 4, 0) },
      progress: { doneCount: 40, totalCount: 500 },
    };
    drive.report = {
      ...{ ...report, isReady: false },
      transfers: [transfer, { ...transfer, kind: "download" }],
      tasks: [task, { ...task, taskId: 13, kind: "upload", progress: { doneCount: 0, totalCount: 0 } }],
    };
    const busy = await netdisk(["cluster", "status"], { drive });
    const json = await netdisk(["cluster", "status", "--json"], { drive });

    expect(idle.out).to.not.match(/not ready|works on/);
    expect(busy.out).to.include(
      "n1 said at 2026-01-02 03:04:05 UTC that it is not ready; its /readyz says why.",
    );
    expect(busy.out).to.include("n1 works on 1 upload and 1 download, 2.0 MiB in flight.");
    expect(busy.out).to.include(
      "n1 works on replication task 12 since 2026-01-02 03:04:00 UTC, 40 of 500 done.",
    );
    expect(busy.out).to.include("n1 works on upload task 13 since 2026-01-02 03:04:00 UTC.");
    expect(json.records()[0]).to.have.nested.property("nodes[0].report.isReady", false);
  });

  const healthy: ClusterStatus = {
    clusterId: "c",
    nodeId: "n1",
    leaderId: "n1",
    term: 1,
    commitIndex: 1,
    appliedIndex: 1,
    clusterTimeMs: 0,
    nodes: [],
    replicas: { ...NO_REPLICAS, extentCount: 10, fullyReplicatedCount: 10 },
    fileCount: 10,
    directoryCount: 1,
    openUploadCount: 0,
    contentBytes: 100,
  };
  const node = {
    nodeId: "n3",
    memberId: 3,
    role: "voter",
    sinceMs: 1,
    address: "",
    httpUrl: "",
    publicUrl: "",
    zone: "",
    freeBytes: 0,
    totalBytes: 0,
    appliedIndex: 0,
    liveBytes: 0,
    full: false,
    lost: false,
    draining: false,
    scrub: undefined,
    scrubProgress: undefined,
    quarantinedCount: 0,
    collectionBrake: undefined,
  } as const;
  const up = { ...node, health: "up" } as const;
  const uncopied = { ...healthy.replicas, noCopyCount: 1, missingCopyBytes: 10_485_760 };
  const cases: readonly {
    readonly name: string;
    readonly change: Partial<ClusterStatus>;
    readonly says: string;
  }[] = [
    {
      name: "one extent has two copies",
      change: { replicas: { ...healthy.replicas, fullyReplicatedCount: 9, underReplicatedCount: 1 } },
      says: "1 of 10 extents have fewer",
    },
    {
      name: "a copy is suspect",
      change: { replicas: { ...healthy.replicas, suspectCount: 1 } },
      says: "damaged or missing",
    },
    {
      name: "a copy is damaged",
      change: { replicas: { ...healthy.replicas, corruptCount: 1 } },
      says: "1 with a damaged copy",
    },
    {
      name: "copies are being recounted",
      change: { replicas: { ...healthy.replicas, recounting: true } },
      says: "being counted",
    },
    {
      name: "the cluster has too few nodes for three copies",
      change: {
        nodes: [up, up],
        replicas: { ...healthy.replicas, fullyReplicatedCount: 0, underReplicatedCount: 10 },
      },
      says: 'the cluster has only 2 nodes, "netdisk cluster add"',
    },
    {
      name: "copies are missing and no other node can take them",
      change: {
        nodes: [up, up, { ...node, health: "down" }],
        replicas: { ...healthy.replicas, fullyReplicatedCount: 8, underReplicatedCount: 2 },
      },
      says: 'n3 is down, and no other node can take their copies: start it again, or put another in its place with "netdisk cluster replace"',
    },
    {
      name: "copies are missing and repair goes on",
      change: {
        nodes: [up, up, up],
        replicas: {
          ...healthy.replicas,
          fullyReplicatedCount: 8,
          underReplicatedCount: 2,
          singleCopyCount: 1,
          missingCopyBytes: 3_000_000_000,
          repairBytesPerSecond: 10_000_000,
          redundantInMs: 300_000,
        },
      },
      says: "about 5 min 0 s",
    },
    {
      name: "one extent has no copy and a node is down, although three others are up",
      change: {
        nodes: [up, up, up, { ...node, nodeId: "n4", health: "down" }],
        replicas: { ...uncopied, fullyReplicatedCount: 9, underReplicatedCount: 1 },
      },
      says: "verified copies; repair cannot make copies of 1 without any, and n4 is down: bring n4 back with the same disk. Among",
    },
    {
      name: "one extent has no copy, another one two, and a node is down that nobody can stand in for",
      change: {
        nodes: [up, up, { ...node, health: "down" }],
        replicas: { ...uncopied, fullyReplicatedCount: 8, underReplicatedCount: 2 },
      },
      says: "n3 is down: bring n3 back with the same disk; repair makes the others. Among",
    },
    {
      name: "one extent has no copy that is not in quarantine",
      change: {
        nodes: [{ ...up, nodeId: "n1" }, { ...up, nodeId: "n2", quarantinedCount: 1 }, up],
        replicas: { ...uncopied, fullyReplicatedCount: 9, underReplicatedCount: 1 },
      },
      says: "without any: see to the disks of n2, which keep damaged ones; what reads well again is taken back. Among",
    },
    {
      name: "one extent has no copy anywhere",
      change: {
        nodes: [up, up, up],
        replicas: { ...uncopied, fullyReplicatedCount: 9, underReplicatedCount: 1 },
      },
      says: "without any: bring a node back that had one, or write their files anew. Among",
    },
    {
      name: "copies are missing and a node that could take them is full",
      change: {
        nodes: [up, up, { ...up, full: true }],
        replicas: { ...healthy.replicas, fullyReplicatedCount: 9, underReplicatedCount: 1 },
      },
      says: "repair makes the others; n3 is full: copies that can go nowhere else wait until it has room.",
    },
    {
      name: "copies are missing and two of four nodes are full",
      change: {
        nodes: [up, up, { ...up, full: true }, { ...up, nodeId: "n4", full: true }],
        replicas: { ...healthy.replicas, fullyReplicatedCount: 9, underReplicatedCount: 1 },
      },
      says: "; n3, n4 are full: copies that can go nowhere else wait until they have room.",
    },
    {
      name: "copies are missing and three nodes beside a full one have room",
      change: {
        nodes: [up, up, up, { ...up, full: true }],
        replicas: { ...healthy.replicas, fullyReplicatedCount: 9, underReplicatedCount: 1 },
      },
      says: "repair makes the others.",
    },
    {
      name: "copies are missing and another node is away, which has not been given up",
      change: {
        nodes: [up, up, up, { ...node, nodeId: "n4", health: "suspect" }],
        replicas: { ...healthy.replicas, fullyReplicatedCount: 9, underReplicatedCount: 1 },
      },
      says: "repair makes the others; n4 is suspect: the copies there count and cannot be read now.",
    },
    {
      name: "the copies of a node that was given up are made elsewhere",
      change: {
        nodes: [up, up, up, { ...node, nodeId: "n4", health: "down", lost: true }],
        replicas: { ...healthy.replicas, fullyReplicatedCount: 9, underReplicatedCount: 1 },
      },
      says: "repair makes the others.",
    },
    {
      name: "a node was removed and its copies are still being counted",
      change: { replicas: { ...healthy.replicas, recounting: true } },
      says: "was given up or was removed are being counted; ask again.",
    },
    { name: "a node is down", change: { nodes: [{ ...node, health: "down" }] }, says: "n3 is down" },
    { name: "no leader is known", change: { leaderId: undefined }, says: "no leader is known" },
    {
      name: "there are bytes but no extents",
      change: {
        replicas: NO_REPLICAS,
      },
      says: "does not know the copies yet",
    },
  ];
  it("says so without a node that was given up: its copies were made elsewhere", () => {
    const gone = { ...node, health: "down", lost: true } as const;
    const { fully, sentence } = judgeCopies({ ...healthy, nodes: [up, up, up, { ...gone, nodeId: "n4" }] });
    expect(fully).to.equal(true);
    expect(sentence).to.equal(
      "Every file has three verified copies (10 of 10 extents), none of them counted on n4, given up.",
    );
    const both = [gone, { ...node, nodeId: "n5", health: "down" } as const];
    expect(judgeCopies({ ...healthy, nodes: [up, up, ...both] }).sentence).to.include("but n5 is down:");
  });

  for (const { name, change, says } of cases) {
    it(`does not say so when ${name}`, () => {
      const { fully, sentence } = judgeCopies({ ...healthy, ...change });

      expect(fully).to.equal(false);
      if ((change.replicas?.noCopyCount ?? 0) > 0) expect(sentence).not.to.include("to copy");
      expect(sentence)
        .to.include(says)
        .and.not.match(/^Every/);
    });
  }
});

describe("the command line", () => {
  it("talks to the nodes of the flag, before or after the command, else of the environment, else of a local cluster", async () => {
    const asked: string[] = [];
    const world = {
      drive: await smallDrive(),
      environment: { NETDISK_NODES: "env:1" },
      onConnect: (addresses: readonly string[]) => void asked.push(addresses.join(",")),
    };

    await netdisk(["ls", "--nodes", "a:1, b:2,a:1"], world);
    await netdisk(["--nodes", "c:3", "ls"], world);
    await netdisk(["ls"], world);
    await netdisk(["ls"], { ...world, environment: {} });

    expect(asked).to.deep.equal([
      "a:1,b:2",
      "c:3",
      "env:1",
      "127.0.0.1:29001,127.0.0.1:29002,127.0.0.1:29003",
    ]);
  });

  it("shows help and version on stdout", async () => {
    const help = await netdisk(["put", "--help"]);
    const version = await netdisk(["--version"]);

    expect([help.code, version.code]).to.deep.equal([0, 0]);
    expect(help.out).to.include("SRC... DEST").and.include("trailing /");
    expect(version.out).to.equal("1.2.3\n");
  });

  const nodes = (count: number): string => Array.from({ length: count }, (_, i) => `n${i}:1`).join(",");
  const bounds: readonly { readonly args: readonly string[]; readonly code: number }[] = [
    { args: ["ls", "--timeout", "1"], code: 0 },
    { args: ["ls", "--timeout", "0"], code: 2 },
    { args: ["ls", "--timeout", String(TIMEOUT_SECONDS_MAX)], code: 0 },
    { args: ["ls", "--timeout", String(TIMEOUT_SECONDS_MAX + 1)], code: 2 },
    { args: ["ls", "--nodes", nodes(NODE_COUNT_MAX)], code: 0 },
    { args: ["ls", "--nodes", nodes(NODE_COUNT_MAX + 1)], code: 2 },
    { args: ["ls", "--nodes", "localhost"], code: 2 },
    { args: ["ls", "--nodes", ","], code: 2 },
    { args: ["ls", "relative"], code: 2 },
    { args: ["ls", "/a//b"], code: 1 },
    { args: ["ls", "--frobnicate"], code: 2 },
    { args: ["frobnicate"], code: 2 },
    { args: ["up", "--nodes", "127.0.0.1:1"], code: 2 },
    { args: ["up", "--nodes", "0"], code: 2 },
    { args: ["up", "--nodes", "10"], code: 2 },
    { args: ["up", "--base-port", "some"], code: 2 },
    { args: [], code: 2 },
  ];
  for (const { args, code } of bounds) {
    it(`ends with ${code} for: netdisk ${args.join(" ").slice(0, 60)}`, async () => {
      expect((await netdisk(args, { drive: await smallDrive() })).code).to.equal(code);
    });
  }

  it("reports wrong usage as JSON when that was asked for", async () => {
    const { code, err } = await netdisk(["ls", "--json", "--frobnicate"], { drive: await smallDrive() });

    expect(code).to.equal(2);
    expect((JSON.parse(err) as { error: { code: string } }).error.code).to.equal("USAGE");
  });
});

describe("exit codes", () => {
  it("tell done, failed and partly done apart", () => {
    expect(exitCodeOfCounts({ doneCount: 0, failedCount: 0 })).to.equal(0);
    expect(exitCodeOfCounts({ doneCount: 1, failedCount: 0 })).to.equal(0);
    expect(exitCodeOfCounts({ doneCount: 0, failedCount: 1 })).to.equal(1);
    expect(exitCodeOfCounts({ doneCount: 1, failedCount: 1 })).to.equal(3);
  });

  it("are 2 for the command line and the configuration, 1 for everything else", () => {
    expect(exitCodeOf(new UsageError("x"))).to.equal(2);
    expect(exitCodeOf(new DriveError("CONFIGURATION_INVALID", "x"))).to.equal(2);
    expect(exitCodeOf(new DriveError("NO_SPACE", "x"))).to.equal(1);
  });
});

describe("figures for people", () => {
  it("are written in binary units without rounding up to 1024", () => {
    expect([0, 1023, 1024, 1536, 1024 ** 2 - 1, 1024 ** 2, 5 * 1024 ** 4].map(formatBytes)).to.deep.equal([
      "0 B",
      "1023 B",
      "1.0 KiB",
      "1.5 KiB",
      "1.0 MiB",
      "1.0 MiB",
      "5.0 TiB",
    ]);
    expect([0, 999, 1000, 1234567].map(formatCount)).to.deep.equal(["0", "999", "1,000", "1,234,567"]);
    expect([400, 12_000, 200_000, 7_500_000].map(formatDuration)).to.deep.equal([
      "0.4 s",
      "12 s",
      "3 min 20 s",
      "2 h 5 min",
    ]);
    expect(formatMode("file", 0o4755)).to.equal("-rwsr-xr-x");
    expect(formatMode("directory", 0o1776)).to.equal("drwxrwxrwT");
    expect(formatMode("file", undefined)).to.equal("-rw-r--r--");
    expect(formatMode("directory", undefined)).to.equal("drwxr-xr-x");
  });
});
