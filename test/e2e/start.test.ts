/**
 * Goal: `npm start` says at once what it does, and brings a cluster up. Method: the very script, with data and ports of its own.
 */
import { expect } from "chai";
import { mkdtempSync, rmSync } from "node:fs";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { eventually } from "../support/eventually.ts";
import { netdisk } from "../support/run-program.ts";
import { PROGRAM } from "../support/use-cluster.ts";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");

/** The gRPC addresses in what it printed, as --nodes takes them. */
const addressesIn = (out: string): string =>
  [...out.matchAll(/gRPC (\S+)/g)].map(([, address]) => address ?? "").join(",");

describe("npm start", function () {
  this.timeout(120_000);

  /** Runs `command`, as "npm start", until it printed `text`, does `work` with what it printed, ends it by Ctrl-C; all that it printed. */
  async function runUntil(
    command: readonly [string, ...(readonly string[])],
    directory: string,
    text: string,
    work: (out: string) => Promise<void> = () => Promise.resolve(),
  ): Promise<{ out: string; err: string }> {
    const child = spawn(command[0], [...command.slice(1), "--base-port", "auto", "--data", directory], {
      cwd: ROOT,
      // A group of its own: the signal goes to all of it, as that of a terminal does.
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const exited = once(child, "exit");
    const said = { out: "", err: "" };
    child.stdout.on("data", (data) => (said.out += String(data)));
    child.stderr.on("data", (data) => (said.err += String(data)));
    try {
      await eventually(text, () => said.out.includes(text) || child.exitCode !== null, {
        withinMs: 100_000,
      });
      await work(said.out);
    } finally {
      if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, "SIGINT");
      await exited;
    }
    return said;
  }

  it("says that it builds, then starts three nodes, and stops them at Ctrl-C", async () => {
    const directory = mkdtempSync(join(tmpdir(), "netdisk-start-"));
    const { out } = await runUntil(["npm", "start", "--"], directory, "3 nodes ready").finally(() =>
      rmSync(directory, { recursive: true, force: true }),
    );

    const lines = out.split("\n").filter((line) => line !== "" && !line.startsWith("> "));
    expect(lines[0]).to.match(/^Building netdisk, then starting three nodes/);
    expect(out).to.include("3 nodes ready").and.include("cluster status");
  });

  it("starts the others after one was removed, and says how to let a new one in", async () => {
    const directory = mkdtempSync(join(tmpdir(), "netdisk-start-"));
    // What "npm start" runs once it has built.
    const up = [process.execPath, PROGRAM, "up", "--nodes", "3"] as const;
    try {
      await runUntil(up, directory, "3 nodes ready", async (out) => {
        const removed = await netdisk(["cluster", "remove", "node2", "--nodes", addressesIn(out)]);
        expect(removed.exitCode, removed.stderr).to.equal(0);
      });

      const again = await runUntil(up, directory, "2 nodes ready");

      expect(again.out).to.include("2 nodes ready");
      expect(again.err).to.include("node2 was removed from the cluster and is not started.");
      expect(again.err).to.match(/ serve .*--join TOKEN$/m);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });
});
