// Goal: what somebody gets wrong on the command line is told in one sentence, is not passed over, and leaves nothing behind.
// Method: the command line inside the test.
import { expect } from "chai";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { netdisk, useDirectory } from "./run-cli.ts";

describe("a mistake on the command line", () => {
  const here = useDirectory();

  const cases: readonly { readonly args: readonly string[]; readonly says: string }[] = [
    { args: ["cluster", "remove"], says: "missing required argument 'node'. See --help. [USAGE]" },
    { args: ["status"], says: "unknown command 'status' (Did you mean stat?) See --help. [USAGE]" },
    { args: ["--nodes", "10.0.0.1:29001", "up"], says: '"netdisk up --nodes 3"' },
    { args: ["up", "--nodes", "10.0.0.1:29001"], says: '"netdisk up" takes a number of nodes' },
    { args: ["up", "10.0.0.1:29001"], says: "too many arguments for 'up'" },
    { args: ["--nodes", "10.0.0.1:29001", "serve"], says: "--cluster-peers" },
    { args: ["--nodes", "10.0.0.1:29001", "recover"], says: "--cluster-peers" },
    { args: ["--timeout", "5", "up"], says: '--timeout means nothing to "netdisk up"' },
  ];
  for (const { args, says } of cases) {
    it(`is told for "netdisk ${args.join(" ")}", and nothing is begun`, async () => {
      const { code, out, err } = await netdisk(args, { directory: here.path });

      expect(code).to.equal(2);
      expect(out).to.equal("");
      expect(err).to.include(says);
      expect(err.trimEnd().split("\n")).to.have.length(1);
      expect(existsSync(join(here.path, ".netdisk"))).to.equal(false);
    });
  }

  for (const args of [["recover", "--data-directory"], ["rebuild"]]) {
    it(`in the directory that "netdisk ${args[0]}" is given makes no directory`, async () => {
      const absent = join(here.path, "nothing-here");
      const { code, err } = await netdisk([...args, absent]);

      expect(code).to.equal(1);
      expect(err).to.include(`${absent} holds no`).and.include("--confirm");
      expect(existsSync(absent)).to.equal(false);
    });
  }

  for (const name of ["PEERS", "NODE_ADDR", "NETDISK_CLUSTER_PEERS", "NETDISK_NODE_ADDRESS"]) {
    it(`is told when ${name} is set for "netdisk up", which lays out addresses of its own`, async () => {
      const running = await netdisk(["up", "--data", "data", "--base-port", "auto", "--nodes", "1"], {
        directory: here.path,
        environment: { [name]: "10.0.0.1:29001" },
        nodeProgram: ["-e", "process.exit(1)", "--"],
      });

      expect(running.err).to.include(`${name} is set and not used`);
    });
  }
});
