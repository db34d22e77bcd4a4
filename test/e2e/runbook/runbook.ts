/**
 * An operator for the drills: runs the commands of docs/RUNBOOK.md as they stand there, against real nodes.
 *
 * A drill takes the commands from the document, so the two cannot drift apart: a section that is gone, or has other commands than
 * the drill runs, fails it. Only the names that stand for something in the document are put in: a node, a directory, an id.
 */
import { expect } from "chai";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { must } from "../../../src/std/assert.ts";
import { SystemClock, sleep } from "../../../src/std/clock.ts";
import { eventually } from "../../support/eventually.ts";
import { start, type Running, type RunResult } from "../../support/run-program.ts";
import { PROGRAM, removeLocks, type ClusterNode } from "../../support/use-cluster.ts";

const RUNBOOK = join(dirname(fileURLToPath(import.meta.url)), "../../../docs/RUNBOOK.md");
const clock = new SystemClock();
/** Between the requests of users: load, and not so many files that a drill waits long for their copies. */
const PAUSE_MS = 100;

/** The sentence that ends the drills on copies, as the document names it. */
export const ALL_COPIES = "Every file has three verified copies";

/** What stands in the document for the id that a command has shown. */
export const SHOWN_ID = "0123456789abcdef0123456789abcdef";

/** The blocks of commands in a section, in order; a section ends at the next heading of its level or above. */
export function commandsOf(title: string): readonly string[] {
  const lines = readFileSync(RUNBOOK, "utf8").split("\n");
  const first = lines.findIndex((line) => /^#+ /.test(line) && line.replace(/^#+ /, "") === title);
  expect(first, `docs/RUNBOOK.md has a section "${title}"`).to.be.at.least(0);
  const level = must(/^#+/.exec(lines[first] ?? ""), "a heading")[0].length;
  const blocks: string[] = [];
  let block: string[] | undefined;
  for (const line of lines.slice(first + 1)) {
    const heading = /^(#+) /.exec(line);
    if (block === undefined && heading !== null && (heading[1] ?? "").length <= level) break;
    if (line.trim() !== "```") block?.push(line.trim());
    else if (block === undefined) block = [];
    else {
      blocks.push(block.join("\n"));
      block = undefined;
    }
  }
  return blocks;
}

/** A node that was started by a command which the program printed. */
export interface StartedNode {
  readonly nodeId: string;
  readonly httpUrl: string;
  readonly grpcAddress: string;
  readonly process: Running;
}

/** Runs commands as an operator types them: by the name netdisk, in a directory of their own. */
export class Operator {
  readonly #directory = mkdtempSync(join(tmpdir(), "netdisk-operator-"));
  readonly #started: StartedNode[] = [];
  readonly #environment: Readonly<Record<string, string>>;
  /** gRPC addresses for NETDISK_NODES. */
  addresses: string;

  /**
   * @param addresses gRPC addresses, as NETDISK_NODES has them
   * @param environment settings of the nodes that it starts
   */
  constructor(addresses: string, environment: Readonly<Record<string, string>> = {}) {
    this.addresses = addresses;
    this.#environment = environment;
    const program = join(this.#directory, "netdisk");
    writeFileSync(program, `#!/bin/sh\nexec "${process.execPath}" "${PROGRAM}" "$@"\n`);
    chmodSync(program, 0o755);
  }

  /** Runs a command of the document with `names` put in, to its end. */
  run(command: string, names: Readonly<Record<string, string>> = {}): Promise<RunResult> {
    return this.#begin(command, names, { NETDISK_NODES: this.addresses }).result;
  }

  /** run() that must end with 0; returns what it said on stdout. */
  async succeed(command: string, names: Readonly<Record<string, string>> = {}): Promise<string> {
    const { exitCode, stdout, stderr } = await this.run(command, names);
    expect(exitCode, `${command}: ${stderr}`).to.equal(0);
    return stdout;
  }

  /** Starts the node of the command that `text` ends with, as `cluster add` and `replace` print it, and waits until it is ready. */
  async startPrinted(text: string): Promise<StartedNode> {
    const command =
      must(
        /^ *(?:UV_THREADPOOL_SIZE=\d+ )?(netdisk serve --join .*)$/mu.exec(text),
        `a command in ${text}`,
      )[1] ?? "";
    const flag = (name: string): string => must(new RegExp(`${name} (\\S+)`).exec(command), name)[1] ?? "";
    const node: StartedNode = {
      nodeId: flag("--node-id"),
      httpUrl: `http://127.0.0.1:${flag("--http-port")}`,
      grpcAddress: flag("--node-address"),
      process: this.#begin(
        `exec ${command} > ${flag("--node-id")}.log 2>&1`,
        {},
        { UV_THREADPOOL_SIZE: "16", ...this.#environment },
      ),
    };
    this.#started.push(node);
    let hasEnded = false;
    void node.process.result.then(() => (hasEnded = true));
    try {
      await eventually(
        `${node.nodeId} is ready`,
        async () => hasEnded || (await fetch(`${node.httpUrl}/readyz`)).status === 200,
        { withinMs: 60_000 },
      );
      expect(hasEnded, `${node.nodeId} has ended`).to.equal(false);
    } catch (error) {
      const log = readFileSync(join(this.#directory, `${node.nodeId}.log`), "utf8");
      throw new Error(`${command} started no node; its log ends with:\n${log.slice(-3000)}`, {
        cause: error,
      });
    }
    return node;
  }

  /** Asks for the status, by the command of the document, until it says `sentence`; returns all of it. */
  statusSays(sentence: string, command: string): Promise<string> {
    return eventually(
      `the status says ${sentence}`,
      async () => {
        const { stdout } = await this.run(command);
        return stdout.includes(sentence) ? stdout : undefined;
      },
      { withinMs: 150_000, everyMs: 500 },
    );
  }

  /** Ends what it started and removes its directory. */
  async dispose(): Promise<void> {
    for (const { process: running } of this.#started) running.kill("SIGKILL");
    await Promise.all(this.#started.map(({ process: running }) => running.result));
    for (const { nodeId } of this.#started) await removeLocks(join(this.#directory, nodeId));
    rmSync(this.#directory, { recursive: true, force: true });
  }

  #begin(
    command: string,
    names: Readonly<Record<string, string>>,
    environment: Readonly<Record<string, string>>,
  ): Running {
    let text = command;
    for (const [name, value] of Object.entries(names)) {
      expect(command, `the command names ${name}`).to.include(name);
      text = text.replaceAll(name, value);
    }
    const settings = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
    const path = `PATH=${this.#directory}:${process.env["PATH"] ?? ""}`;
    return start("env", [path, ...settings, "sh", "-ec", `cd "${this.#directory}"; ${text}`]);
  }
}

/** Files that users put while the operator works. */
export class Users {
  readonly #urls: () => readonly string[];
  readonly #kept: string[] = [];
  readonly #failures: string[] = [];
  #work: Promise<void> | undefined;
  #isEnding = false;

  /** @param urls HTTP URLs of the nodes that they use, asked before each request */
  constructor(urls: () => readonly string[]) {
    this.#urls = urls;
  }

  /** Begins to put files, one after the other; resolves when some are there. */
  async begin(): Promise<void> {
    this.#isEnding = false;
    const before = this.#kept.length + this.#failures.length;
    this.#work = this.#put();
    await eventually("files are put", () => this.#kept.length + this.#failures.length >= before + 10, {
      withinMs: 30_000,
    });
  }

  /** Ends that. Every request must have succeeded, and at least `countMin` files must have been put. */
  async end(countMin: number): Promise<void> {
    this.#isEnding = true;
    await this.#work;
    expect(this.#failures).to.deep.equal([]);
    expect(this.#kept.length).to.be.at.least(countMin);
  }

  /** Reads every file that was acknowledged, from the given node. */
  async expectAll(url: string): Promise<void> {
    for (const name of this.#kept) {
      const response = await fetch(`${url}/api/download?path=/${name}&redirect=never`);
      expect(await response.text(), name).to.equal(`content of ${name}`);
    }
  }

  async #put(): Promise<void> {
    for (let at = this.#kept.length; !this.#isEnding; at += 1) {
      const name = `file-${at}.txt`;
      const urls = this.#urls();
      const url = must(urls[at % urls.length], "a node");
      const response = await fetch(`${url}/api/files/content?path=/${name}`, {
        method: "PUT",
        body: `content of ${name}`,
      });
      if (response.ok) this.#kept.push(name);
      else this.#failures.push(`${name}: ${response.status} ${await response.text()}`);
      await sleep(clock, PAUSE_MS);
    }
  }
}

/** Stops a node as its supervisor would. */
export const stop = (node: ClusterNode): Promise<void> => node.signal("SIGTERM");
