/**
 * Historical bugs can be switched on by tests alone: nothing that runs in production names the option, and no setting, flag or
 * message of the network reaches it.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "chai";
import { PLANTED_LEVEL_FAULTS } from "../../../src/cluster/planted-faults.ts";
import type { DriveNodeOptions } from "../../../src/node/drive-node.ts";
import { PLANTED_FAULTS } from "../../../src/raft/planted-faults.ts";
import { PLANTED_CHUNK_FAULTS } from "../../../src/replication/planted-faults.ts";

const SOURCES = join(import.meta.dirname, "../../../src");

/** Files that take the option and hand it on, or look at it; none of them is where a process begins. */
const MAY_NAME_IT = [
  "cluster/level-raiser.ts",
  "consensus/consensus-options.ts",
  "consensus/consensus.ts",
  "consensus/log-writer.ts",
  "consensus/raft-driver.ts",
  "node/drive-node-options.ts",
  "node/drive-node.ts",
  "node/store-keeper.ts",
  "raft/raft-core.ts",
  "raft/raft-node.ts",
  "replication/drop-collector.ts",
  "replication/replica-copier.ts",
];

/** Paths of all sources below src/, and what is in them. */
function sources(): [string, string][] {
  return readdirSync(SOURCES, { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".ts"))
    .map((path) => [path, readFileSync(join(SOURCES, path), "utf8")]);
}

describe("planted faults", () => {
  it("are named by no file that makes a node for production, nor by configuration, commands and edges", () => {
    const naming = sources()
      .filter(([, text]) => /planted(?:Chunk|Level)?Fault\b/u.test(text))
      .map(([path]) => path);

    expect(naming.sort()).to.deep.equal(MAY_NAME_IT);
  });

  it("are written out, by name, only where they are switchable", () => {
    const names = [
      ...Object.keys(PLANTED_FAULTS),
      ...Object.keys(PLANTED_CHUNK_FAULTS),
      ...Object.keys(PLANTED_LEVEL_FAULTS),
    ];
    const naming = sources().filter(([, text]) => names.some((name) => text.includes(`"${name}"`)));

    for (const [path] of naming) expect(path).to.match(/^(?:raft|replication|consensus|cluster)\//u);
  });

  it("are off in a node that is built without the option", () => {
    const keys: (keyof DriveNodeOptions)[] = ["plantedFault", "plantedChunkFault", "plantedLevelFault"];
    const production = readFileSync(join(SOURCES, "node/node.ts"), "utf8");

    expect(production).to.match(/new DriveNode\(\{/u);
    for (const key of keys) expect(production).to.not.include(key);
  });
});
