/**
 * Goal: what the command line says fits the command line: advice in its own words, defaults in the help, and where a cluster is
 * when none answers.
 */
import { expect } from "chai";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { adviceFor } from "../../../src/cli/advice.ts";
import { TIMEOUT_SECONDS_DEFAULT } from "../../../src/cli/program.ts";
import { DEFAULT_NODES } from "../../../src/cli/up.ts";
import { DriveError, isErrorReason, REASONS } from "../../../src/drive/errors.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { netdisk } from "./run-cli.ts";

/** A drive that nobody answers for. */
function absentDrive(): MemoryDrive {
  const drive = new MemoryDrive();
  drive.stat = () => Promise.reject(new DriveError("PEER_UNREACHABLE", "Connection refused."));
  return drive;
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

describe("the help", () => {
  it("tells the defaults of --nodes and --timeout", async () => {
    for (const args of [["--help"], ["ls", "--help"], ["put", "--help"]]) {
      const text = (await netdisk(args)).out.replaceAll(/\s+/g, "");

      expect(text).to.include(`default:NETDISK_NODES,else${DEFAULT_NODES.join(",")}`);
      expect(text).to.include(`default:${TIMEOUT_SECONDS_DEFAULT}`);
    }
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

    const { code, err } = await netdisk(["ls", "--timeout", "1"], { drive });

    expect(code).to.equal(1);
    expect(err).to.include('"netdisk up"').and.include("[PEER_UNREACHABLE]");
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
