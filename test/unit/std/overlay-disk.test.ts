// Goal: an overlay shows what a disk would show after the same changes, and the disk below has none of them.
// Method: random operations on an overlay and on a disk with the same files; printed seeds.
import { expect } from "chai";
import { must } from "../../../src/std/assert.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { errnoOf, type Disk, type DiskFile, type OpenMode } from "../../../src/std/disk.ts";
import { OverlayDisk } from "../../../src/std/overlay-disk.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";

const PATHS = ["/d/a", "/d/b", "/d/c", "/d/e/f", "/d/e/g"];
const MODES: readonly OpenMode[] = ["existing", "create", "open-or-create", "read"];

async function filled(): Promise<MemoryDisk> {
  const disk = new MemoryDisk();
  await disk.makeDirectory("/d/e");
  for (const path of ["/d/a", "/d/b", "/d/e/f"]) {
    const file = await disk.open(path, "create");
    await file.write(0, [utf8(`${path} `.repeat(8))]);
    await file.close();
  }
  return disk;
}

/** What came of an operation, or the code of its error. */
async function outcomeOf(work: Promise<unknown>): Promise<unknown> {
  try {
    return await work;
  } catch (error) {
    const code = errnoOf(error);
    if (code === undefined) throw error;
    return code;
  }
}

type Step = (disk: Disk) => Promise<unknown>;

/** Opens a file, does something to it, and tells its bytes, read in both ways. */
function use(
  path: string,
  mode: OpenMode,
  work: (file: DiskFile) => Promise<void>,
  from: number,
  length: number,
): Step {
  return async (disk) => {
    const file = await disk.open(path, mode);
    try {
      if (mode !== "read") await work(file);
      const bytes = await file.read(from, length);
      expect(Buffer.from(file.readSync(from, length)).equals(bytes)).to.equal(true);
      return [await file.size(), await file.isNamed(), Buffer.from(bytes).toString("latin1")];
    } finally {
      await file.close();
    }
  };
}

function isBeside(path: string, other: string): boolean {
  return path !== other && path.startsWith("/d/e/") === other.startsWith("/d/e/");
}

function randomStep(prng: SeededPrng): Step {
  const path = must(PATHS[prng.below(PATHS.length)], "a path");
  const other = must(PATHS[prng.below(PATHS.length)], "a path");
  const mode = must(MODES[prng.below(MODES.length)], "a mode");
  const at = prng.below(100);
  const parts = [prng.bytes(prng.below(20)), prng.bytes(prng.below(20))];
  const [from, length] = [prng.below(120), prng.below(120)];
  switch (prng.below(8)) {
    case 0:
      return (disk) => disk.remove(path);
    case 1:
      return (disk) => (isBeside(path, other) ? disk.rename(path, other) : Promise.resolve());
    case 2:
      return (disk) => disk.list(path.startsWith("/d/e") ? "/d/e" : "/d");
    case 3:
      return async (disk) => [await disk.exists(path), (await disk.stat(path))?.sizeBytes];
    case 4:
    case 5:
      return use(path, mode, (file) => file.truncate(at), from, length);
    default:
      return use(path, mode, (file) => file.write(at, parts), from, length);
  }
}

describe("OverlayDisk", () => {
  it("shows what a disk would, and changes nothing below", async () => {
    for (let seed = 0; seed < 200; seed += 1) {
      const prng = new SeededPrng(seed);
      const below = await filled();
      const before = below.filesBelow("/");
      const [overlay, model] = [new OverlayDisk(below), await filled()];
      for (let count = 0; count < 60; count += 1) {
        const step = randomStep(prng);
        const expected = await outcomeOf(step(model));
        expect(await outcomeOf(step(overlay)), `seed=${seed} step ${count}`).to.deep.equal(expected);
      }
      expect(below.filesBelow("/"), `seed=${seed}`).to.deep.equal(before);
    }
  });

  it("takes away whole directories, and makes them anew", async () => {
    const below = await filled();
    const disk = new OverlayDisk(below);

    await disk.remove("/d/e");
    expect(await disk.list("/d")).to.deep.equal(["a", "b"]);
    expect(await outcomeOf(disk.list("/d/e"))).to.equal("ENOENT");
    await disk.makeDirectory("/d/e/deep");
    await (await disk.open("/d/e/deep/x", "create")).close();

    expect(await disk.list("/d")).to.deep.equal(["a", "b", "e"]);
    expect(await disk.list("/d/e")).to.deep.equal(["deep"]);
    expect(await disk.list("/d/e/deep")).to.deep.equal(["x"]);
    expect(await disk.exists("/d/e/f")).to.equal(false);
    expect(await below.list("/d/e")).to.deep.equal(["f"]);
  });

  it("shows one file to all who have it open, and tells who has lost its name", async () => {
    const disk = new OverlayDisk(await filled());
    const [reader, writer] = [await disk.open("/d/a", "read"), await disk.open("/d/a", "existing")];

    await writer.write(0, [utf8("new")]);
    expect(Buffer.from(await reader.read(0, 5)).toString()).to.equal("newa ");
    await disk.remove("/d/a");

    expect(await reader.isNamed()).to.equal(false);
    expect(Buffer.from(reader.readSync(0, 3)).toString()).to.equal("new");
  });
});
