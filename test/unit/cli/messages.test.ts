/**
 * Goal: what the command line says fits the command line: advice in its own words, defaults in the help, and where a cluster is
 * when none answers.
 */
import { expect } from "chai";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { adviceFor } from "../../../src/cli/advice.ts";
import { DEFAULT_NODES } from "../../../src/cli/up.ts";
import { TIMEOUT_SECONDS_DEFAULT } from "../../../src/cli/with-drive.ts";
import { DriveError, isErrorReason, REASONS, type ErrorReason } from "../../../src/drive/errors.ts";
import { must } from "../../../src/std/assert.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { netdisk } from "./run-cli.ts";

/** A drive that nobody answers for. */
function absentDrive(): MemoryDrive {
  const drive = new MemoryDrive();
  const refuse = (): Promise<never> =>
    Promise.reject(new DriveError("PEER_UNREACHABLE", "Connection refused."));
  Object.assign(drive, { stat: refuse, createDirectory: refuse, cluster: refuse });
  return drive;
}

/** A drive whose nodes answer what `cluster` says, and nothing else is to be had from: what is asked for fails with `reason`. */
function troubledDrive(reason: ErrorReason, cluster: MemoryDrive["cluster"]): MemoryDrive {
  const fail = (): Promise<never> => Promise.reject(new DriveError(reason, "It cannot be done."));
  return Object.assign(absentDrive(), { stat: fail, createDirectory: fail, cluster });
}

/** A drive with a node that answers: the others, and with them the majority, are gone. */
function driveWithoutMajority(reason: ErrorReason): MemoryDrive {
  const living = new MemoryDrive();
  return troubledDrive(reason, async () => ({ ...(await living.cluster()), leaderId: undefined }));
}

describe("the advice of the command line", () => {
  it("speaks of no requests, ids or fields, whatever went wrong and whichever command ran", () => {
    const commands = ["ls", "stat", "mkdir", "mv", "cp", "rm", "put", "get", "status", undefined];
    const wrong = Object.keys(REASONS)
      .filter(isErrorReason)
      .flatMap((reason) => commands.map((command) => `${command}: ${adviceFor(reason, command)}`))
      .filter((advice) => /onConflict|request|resum|chunk|upload/i.test(advice));

    expect(wrong).to.deep.equal([]);
  });

  const cases: readonly { readonly args: readonly string[]; readonly says: string }[] = [
    { args: ["mkdir", "/d"], says: "with -p a folder that is there is fine" },
    { args: ["mkdir", "/none/d"], says: '"mkdir -p"' },
    { args: ["rm", "/d"], says: '"rm -r"' },
    { args: ["mv", "/a", "/f"], says: "--on-conflict" },
    { args: ["cp", "/a", "/f"], says: "--on-conflict" },
    { args: ["ls", "/none"], says: '"netdisk ls"' },
  ];
  for (const { args, says } of cases) {
    it(`is ${says} for "netdisk ${args.join(" ")}"`, async () => {
      const drive = new MemoryDrive();
      for (const path of ["/d", "/d/b", "/a"])
        await drive.createDirectory(path, { createParents: false, existOk: false, attributes: {} });
      const file = {
        path: "/f",
        sizeBytes: 0,
        onConflict: "fail",
        attributes: {},
        createParents: false,
      } as const;
      await drive.putFile(file, Readable.from([]));

      const { code, err } = await netdisk(args, { drive });

      expect(code).to.equal(1);
      expect(err).to.include(says).and.not.include("onConflict");
    });
  }
});

describe("a change of the membership that would do harm", () => {
  const advice = (command: string, metadata = {}) => adviceFor("MEMBERSHIP_CHANGE_UNSAFE", command, metadata);

  it("is to be forced only where force helps, and what that costs is said", () => {
    expect(advice("remove", { harm: "no-quorum" }))
      .to.include("--force")
      .and.include("no changes");
    expect(advice("remove", { harm: "last-copies" }))
      .to.include("--force")
      .and.include("gives up");
    for (const command of ["add", "replace", "remove", "recover", "rebuild"])
      expect(advice(command), command).to.not.include("--force");
    expect(advice("remove", { harm: "no-voter" }))
      .to.include("cluster add")
      .and.not.include("--force");
    expect(REASONS.MEMBERSHIP_CHANGE_UNSAFE.remedy).to.not.include("--force");
  });

  it("asks to start the others, where they answer although they are taken for lost", () => {
    for (const command of ["recover", "rebuild"])
      expect(advice(command, { address: "h:1" }))
        .to.include("Start the other members")
        .and.include("stop what answers at that address");
    expect(advice("rebuild", { path: "/d/raft" }), "the message says it").to.equal("");
  });
});

describe("moving a folder to where a file is", () => {
  it("is refused in the words of the drive, with advice that can be followed", () => {
    for (const command of ["mv", "cp"])
      expect(adviceFor("NOT_A_DIRECTORY", command))
        .to.include("Choose another name")
        .and.include("a folder never replaces a file");
  });
});

describe("the help", () => {
  it("tells the defaults of --nodes and --timeout", async () => {
    for (const args of [["--help"], ["ls", "--help"], ["put", "--help"]]) {
      const text = (await netdisk(args)).out.replaceAll(/\s+/g, "");

      expect(text).to.include(`default:NETDISK_NODES,else${DEFAULT_NODES.join(",")}`);
      expect(text).to.include(`default:${TIMEOUT_SECONDS_DEFAULT}`);
    }
  });

  it("tells every exit code, that of a bug too", async () => {
    const text = (await netdisk(["--help"])).out.replaceAll(/\s+/g, " ");

    for (const code of ["0 done", "1 failed", "2 wrong", "3 partly", "70 a bug", "130 interrupted"])
      expect(text).to.include(code);
  });

  it("tells the defaults of a local cluster", async () => {
    const text = (await netdisk(["up", "--help"])).out.replaceAll(/\s+/g, " ");

    expect(text).to.include("default: as before, else 3").and.include("default: 29001, HTTP from 9081");
  });
});

describe("a cluster that does not answer", function () {
  this.timeout(10_000);
  const servers: Server[] = [];

  afterEach(async () => {
    await Promise.all(servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve))));
  });

  /** An HTTP server that answers `answers` by path; returns its address. */
  async function serveHttp(answers: Readonly<Record<string, unknown>>): Promise<string> {
    const server = createServer((request, response) => {
      const answer = answers[(request.url ?? "").split("?")[0] ?? ""];
      response.statusCode = answer === undefined ? 404 : 200;
      response.end(JSON.stringify(answer ?? {}));
    });
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return `127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  it("is to be started, when it would be on this machine", async () => {
    const { code, err } = await netdisk(["ls", "--timeout", "1"], { drive: absentDrive() });

    expect(code).to.equal(1);
    expect(err)
      .to.include(`No node answers at ${DEFAULT_NODES.join(", ")}.`)
      .and.include('"netdisk up"')
      .and.include("--nodes")
      .and.include("[PEER_UNREACHABLE]");
  });

  it("is to be started too when the client of the drive never answers", async () => {
    const drive = new MemoryDrive();
    drive.stat = () => new Promise(() => undefined);
    drive.cluster = () => new Promise(() => undefined);

    const { code, err } = await netdisk(["ls", "--timeout", "1"], { drive });

    expect(code).to.equal(1);
    expect(err).to.include('"netdisk up"').and.include("[PEER_UNREACHABLE]");
  });

  it("is to be started whichever command finds that out, and programs get the advice as the remedy", async () => {
    const { code, err } = await netdisk(["mkdir", "/d", "--timeout", "1", "--json"], {
      drive: absentDrive(),
    });

    const { error } = JSON.parse(err) as { error: { code: string; remedy: string } };
    expect(code).to.equal(1);
    expect(error.code).to.equal("PEER_UNREACHABLE");
    expect(error.remedy)
      .to.include('"netdisk up"')
      .and.match(/Its data would be in \/.*\/\.netdisk;/)
      .and.include("--data");
  });

  for (const args of [["ls"], ["mkdir", "/d"]]) {
    for (const reason of ["NO_LEADER", "PEER_UNREACHABLE"] as const) {
      it(`is not to be started when a node of it lives (netdisk ${args.join(" ")}, last error ${reason})`, async () => {
        const run = [...args, "--timeout", "1"];

        const { code, err } = await netdisk(run, { drive: driveWithoutMajority(reason) });

        expect(code).to.equal(1);
        expect(err)
          .to.include("[NO_LEADER]")
          .and.include('"netdisk cluster status"')
          .and.not.include("No node answers")
          .and.not.include("Start a cluster");
      });
    }
  }

  /** What a node answers that says nothing of a leader, that there is none, or names one. */
  const unclear = (): Promise<never> => Promise.reject(new DriveError("NODE_STARTING", "The node starts."));
  const leaderless = (): Promise<never> => Promise.reject(new DriveError("NO_LEADER", "There is no leader."));
  const led = (): ReturnType<MemoryDrive["cluster"]> => new MemoryDrive().cluster();

  /** Answers one after the other, and the last of them from then on. */
  const inTurn = (...answers: readonly MemoryDrive["cluster"][]): MemoryDrive["cluster"] => {
    let count = 0;
    return () => must(answers[Math.min(count++, answers.length - 1)], "an answer")();
  };

  for (const [what, cluster] of [
    ["a node of it names a leader", led],
    ["one node of it names a leader, and another knows of none", inTurn(leaderless, led)],
    ["its nodes say nothing of a leader", unclear],
  ] as const) {
    it(`has not lost its majority when ${what}: the error is told as it came`, async () => {
      const drive = troubledDrive("PEER_UNREACHABLE", cluster);

      const { code, err } = await netdisk(["ls", "--timeout", "1"], { drive });

      expect(code).to.equal(1);
      expect(err)
        .to.include("[PEER_UNREACHABLE]")
        .and.include("It cannot be done.")
        .and.not.include("more than half")
        .and.not.include("No node answers")
        .and.not.include("Start a cluster");
    });
  }

  it("has not lost its majority when a node names a leader and the client of the drive never answers", async () => {
    const drive = new MemoryDrive();
    drive.stat = () => new Promise(() => undefined);

    const { code, err } = await netdisk(["ls", "--timeout", "1"], { drive });

    expect(code).to.equal(1);
    expect(err).to.include("No node answered within 1 s.").and.not.include("more than half");
  });

  for (const [what, cluster] of [
    ["says that it has no leader", leaderless],
    ["knows of none, and another only starts", inTurn(unclear, leaderless)],
  ] as const) {
    it(`has lost its majority when a node of it ${what}`, async () => {
      const drive = troubledDrive("PEER_UNREACHABLE", cluster);

      const { err } = await netdisk(["ls", "--timeout", "1"], { drive });

      expect(err).to.include("[NO_LEADER]").and.include("more than half of its nodes must be up");
    });
  }

  it("is waited for with a word, and the command goes on, when asking its nodes fails in an unknown way", async () => {
    const drive = new MemoryDrive();
    let settle = (): void => undefined;
    const list = drive.list.bind(drive);
    drive.list = async (...parameters) => {
      await new Promise<void>((resolve) => (settle = resolve));
      return list(...parameters);
    };
    drive.cluster = () => Promise.reject(new TypeError("a bug"));

    const { code, err } = await netdisk(["ls"], { drive, onNote: () => settle() });

    expect(code).to.equal(0);
    expect(err).to.include("No answer yet");
  });

  it("is not called silent while a node of it lives and a step takes long, as in an election", async () => {
    const drive = new MemoryDrive();
    let settle = (): void => undefined;
    const list = drive.list.bind(drive);
    drive.list = async (...parameters) => {
      await new Promise<void>((resolve) => (settle = resolve));
      return list(...parameters);
    };
    const stderr = { said: "" };

    const running = netdisk(["ls"], {
      drive,
      onNote: (text) => {
        stderr.said += text;
        settle();
      },
    });
    const { code, err } = await running;

    expect(code).to.equal(0);
    expect(stderr.said).to.equal(err);
    expect(err)
      .to.include("Not done yet: the nodes at")
      .and.include("cluster status")
      .and.not.include("Start a cluster");
  });

  it("is to be looked for, when its addresses were given", async () => {
    const nodes = await serveHttp({});

    const { code, err } = await netdisk(["ls", "--timeout", "1", "--nodes", nodes], { drive: absentDrive() });

    expect(code).to.equal(1);
    expect(err).to.include(nodes).and.include("Check the addresses").and.not.include("netdisk up");
  });

  it("was asked at its HTTP port: the gRPC ports to use are named", async () => {
    const nodes = await serveHttp({
      "/version": { nodeId: "n1", version: "1" },
      "/api/cluster": {
        nodes: [{ address: "10.0.0.1:29001" }, { address: "10.0.0.2:29001" }, { address: "" }],
      },
    });

    const { code, err } = await netdisk(["ls", "--timeout", "1", "--nodes", nodes], { drive: absentDrive() });

    expect(code).to.equal(2);
    expect(err)
      .to.include(`${nodes} is the HTTP port of n1`)
      .and.include("Use --nodes 10.0.0.1:29001,10.0.0.2:29001.");
  });

  it("was asked at the HTTP port of a node that knows no cluster yet", async () => {
    const nodes = await serveHttp({ "/version": { nodeId: "n1", version: "1" } });

    const { err } = await netdisk(["ls", "--timeout", "1", "--nodes", nodes], { drive: absentDrive() });

    expect(err).to.include("is the HTTP port of n1").and.include("29001 by default");
  });

  it("is not waited for any longer once it is known that the port is that of HTTP", async () => {
    const nodes = await serveHttp({ "/version": { nodeId: "n1", version: "1" } });
    const drive = absentDrive();

    const { code, err } = await netdisk(["ls", "--timeout", "3600", "--nodes", nodes], { drive });

    expect(code).to.equal(2);
    expect(err).to.include("No answer yet").and.include("is the HTTP port of n1");
  });
});
