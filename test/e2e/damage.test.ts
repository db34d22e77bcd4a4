// Goal: whatever is damaged in the files of one node, every acknowledged file is read back right, and the node heals or says
// why it cannot.
// Method: three real processes; one is killed or stopped, a file of its data is damaged, and it is started again, round after
// round. DAMAGE_ROUNDS sets how many (CI: 6; 50 takes some minutes), DAMAGE_SEED repeats a run.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { expect } from "chai";
import { must } from "../../src/std/assert.ts";
import { SeededPrng, SystemPrng, type Prng } from "../../src/std/prng.ts";
import { eventually } from "../support/eventually.ts";
import { useCluster, type ClusterNode, type TestCluster } from "../support/use-cluster.ts";

const ROUNDS = Number(process.env["DAMAGE_ROUNDS"] ?? 6);

interface Stored {
  readonly path: string;
  readonly sha256: string;
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function filesBelow(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true, recursive: true })
    .filter((item) => item.isFile())
    .map((item) => join(item.parentPath, item.name))
    .sort();
}

/** Puts a file; answers undefined when that was not acknowledged. */
async function put(node: ClusterNode, path: string, bytes: Uint8Array): Promise<Stored | undefined> {
  const url = `${node.httpUrl}/api/files/content?path=${path}`;
  const response = await fetch(url, { method: "PUT", body: bytes as Uint8Array<ArrayBuffer> }).catch(
    (error: unknown) => {
      // It may end at that very moment, by damage that it meets; see revive().
      if (node.running) throw error;
      return undefined;
    },
  );
  await response?.arrayBuffer();
  return response?.ok === true ? { path, sha256: sha256(bytes) } : undefined;
}

/** Reads every file through `node`; one that cannot be read right now is asked for again. */
async function expectAll(
  node: ClusterNode,
  stored: readonly Stored[],
  { what, up }: { readonly what: string; readonly up: readonly ClusterNode[] },
): Promise<void> {
  for (const { path, sha256: expected } of stored) {
    await eventually(
      `${path} is read through ${node.nodeId}, ${what}`,
      async () => {
        revive(up);
        const response = await fetch(`${node.httpUrl}/api/download?path=${path}&redirect=never`);
        const bytes = new Uint8Array(await response.arrayBuffer());
        if (!response.ok) return false;
        expect(sha256(bytes), `${path} through ${node.nodeId}, ${what}`).to.equal(expected);
        return true;
      },
      { withinMs: 60_000 },
    );
  }
}

/**
 * Starts nodes again that ended by themselves, as a supervisor does: damage of an earlier round may be met only now, by a read,
 * and heals at the next start. Anything else that ends a node fails the test.
 */
function revive(nodes: readonly ClusterNode[]): void {
  for (const node of nodes.filter(({ running }) => !running)) {
    // LMDB maps its file: a damaged page may also end the process with a signal.
    const isDamage = node.endedBySignal || node.logTail().includes("DATA_CORRUPT");
    expect(isDamage, `${node.nodeId} ended by itself:\n${node.logTail()}`).to.equal(true);
    process.stdout.write(`      ${node.nodeId} met damage of an earlier round and is started again\n`);
    node.start();
  }
}

/** Waits until a log that has come to rest has noted how far it is durable: later damage cannot look like a torn end. */
async function settled(node: ClusterNode): Promise<void> {
  const newest = (): number =>
    Math.max(...filesBelow(join(node.dataDirectory, "raft/log")).map((path) => statSync(path).mtimeMs));
  await eventually(
    "the log's end is noted",
    async () => {
      revive([node]);
      if (statSync(join(node.dataDirectory, "raft/PROMISES")).mtimeMs < newest()) return false;
      const response = await fetch(`${node.httpUrl}/readyz`);
      return response.status === 200;
    },
    { withinMs: 90_000, everyMs: 50 },
  ).catch((error: unknown) => {
    const times = filesBelow(join(node.dataDirectory, "raft")).map(
      (path) => `${relative(node.dataDirectory, path)} ${statSync(path).mtime.toISOString()}`,
    );
    throw new Error(`${node.nodeId}: ${times.join(", ")}\n${node.logTail()}`, { cause: error });
  });
}

/** Damages a file and answers what was done; the bytes that were there come back with `undo`. */
function damage(prng: Prng, directory: string): { readonly what: string; readonly undo: () => void } {
  const areas = ["raft/log", "raft/log", "stores", "index", "chunks", "raft"];
  const area = must(areas[prng.below(areas.length)], "an area");
  const files = filesBelow(join(directory, area)).filter((path) => statSync(path).size > 0);
  const path = must(files[prng.below(files.length)], `a file below ${area}`);
  const bytes = readFileSync(path);
  const undo = (): void => writeFileSync(path, bytes);
  const name = relative(directory, path);
  const kind = prng.below(6);
  if (kind === 0) {
    const size = prng.below(bytes.length);
    truncateSync(path, size);
    return { what: `${name} cut from ${bytes.length} to ${size} bytes`, undo };
  }
  if (kind === 1 && area !== "chunks") {
    rmSync(path);
    return { what: `${name} removed`, undo };
  }
  const damaged = Buffer.from(bytes);
  if (kind === 2) {
    const from = prng.below(bytes.length);
    damaged.fill(0, from, Math.min(bytes.length, from + 4096));
    writeFileSync(path, damaged);
    return { what: `${name} zeroed from ${from}`, undo };
  }
  const places = Array.from({ length: 1 + prng.below(4) }, () => prng.below(bytes.length));
  for (const at of places) damaged[at] = (damaged[at] ?? 0) ^ (1 << prng.below(8));
  writeFileSync(path, damaged);
  return { what: `${name} flipped at ${places.join(", ")}`, undo };
}

/** Starts a damaged node: "healed" once it is ready, "refused" when it ends with DATA_CORRUPT and a remedy. */
async function startDamaged(node: ClusterNode, what: string): Promise<"healed" | "refused"> {
  const before = readFileSync(node.logPath, "utf8").length;
  // A record that is found damaged at run time ends the node, and the next start makes the store anew.
  for (let start = 1; start <= 3; start += 1) {
    node.start();
    const outcome = await eventually(
      `${node.nodeId} heals or refuses: ${what}`,
      async () => {
        if (!node.running) return "ended" as const;
        const response = await fetch(`${node.httpUrl}/readyz`).catch(() => undefined);
        return response?.status === 200 ? ("healed" as const) : undefined;
      },
      { withinMs: 90_000, everyMs: 100 },
    );
    if (outcome === "healed") return "healed";
  }
  const said = readFileSync(node.logPath, "utf8").slice(before);
  expect(said, what).to.include("DATA_CORRUPT");
  expect(said, what).to.include("remedy");
  return "refused";
}

describe(`A node of three with damaged files, ${ROUNDS} rounds`, function () {
  this.timeout(120_000 + ROUNDS * 60_000);
  const cluster = useCluster({ nodes: 3 });

  it("heals or refuses clearly, and no acknowledged file is lost or wrong", async () => {
    const seed = Number(process.env["DAMAGE_SEED"] ?? new SystemPrng().below(1_000_000));
    const prng = new SeededPrng(seed);
    const stored: Stored[] = [];
    const outcomes = { healed: 0, refused: 0 };
    for (let round = 1; round <= ROUNDS; round += 1) {
      for (const node of cluster().nodes) await settled(node);
      await putSome(cluster(), prng, { stored, round });
      const victim = cluster().node(prng.below(3));
      if (prng.below(2) === 0) await victim.signal("SIGTERM");
      else {
        await settled(victim);
        await victim.kill();
      }
      const { what, undo } = damage(prng, victim.dataDirectory);
      const label = `seed=${seed} round ${round}: ${what}`;
      const others = cluster().nodes.filter((node) => node !== victim);
      await expectAll(must(others[prng.below(2)], "another node"), stored.slice(-5), {
        what: label,
        up: others,
      });
      const outcome = await startDamaged(victim, label);
      outcomes[outcome] += 1;
      process.stdout.write(`      ${label}: ${outcome}\n`);
      if (outcome === "refused") {
        undo();
        victim.start();
        await victim.ready(60_000);
      }
      await expectAll(victim, stored.slice(-8), { what: label, up: cluster().nodes });
    }
    for (const node of cluster().nodes)
      await expectAll(node, stored, { what: `seed=${seed} at the end`, up: cluster().nodes });
    expect(stored.length, `seed=${seed}`).to.be.above(ROUNDS);
    expect(outcomes.healed, `seed=${seed}`).to.be.above(ROUNDS / 2);
  });
});

async function putSome(
  cluster: TestCluster,
  prng: Prng,
  run: { readonly stored: Stored[]; readonly round: number },
): Promise<void> {
  for (let at = 0; at < 4; at += 1) {
    const size = 1 + prng.below(at === 0 ? 3 * 1024 * 1024 : 20_000);
    const bytes = prng.bytes(size);
    const file = await put(cluster.node(prng.below(3)), `/r${run.round}-${at}`, bytes);
    if (file !== undefined) run.stored.push(file);
  }
}
