import { expect } from "chai";
import { spawnSync } from "node:child_process";
import { existsSync, lstatSync, mkdtempSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { utf8 } from "../../../src/std/bytes.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { moveLockToMemory, removeLock, removeStaleLocks } from "../../../src/std/lmdb-lock-file.ts";
import { LmdbOrderedStoreProvider } from "../../../src/std/lmdb-ordered-store.ts";

describe("The lock file of LMDB", () => {
  let directory: string;
  /** Stands for the file system in memory. */
  let memory: string;
  const lock = (): string => join(directory, "lock.mdb");
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "netdisk-lmdb-"));
    memory = mkdtempSync(join(tmpdir(), "netdisk-memory-"));
  });
  afterEach(() => {
    for (const each of [directory, memory]) rmSync(each, { recursive: true, force: true });
  });

  it("is led to memory, in place of a plain one", async () => {
    writeFileSync(lock(), "of before");

    expect(await moveLockToMemory(directory, memory)).to.equal(true);
    writeFileSync(lock(), "new");

    expect(lstatSync(lock()).isSymbolicLink()).to.equal(true);
    const [made = ""] = readdirSync(memory);
    expect(readdirSync(join(memory, made))).to.deep.equal(["lock.mdb"]);
  });

  it("of a process that was killed is removed from memory by the next one", async () => {
    await moveLockToMemory(directory, memory);
    await moveLockToMemory(directory, memory);

    expect(readdirSync(memory)).to.have.length(1);
    await removeLock(directory, memory);
    expect(readdirSync(memory)).to.have.length(0);
    expect(readdirSync(directory)).to.deep.equal([]);
  });

  it("is removed by any process once its owner is gone, and never while it may be there", async () => {
    await moveLockToMemory(directory, memory);
    const [mine = ""] = readdirSync(memory);
    const [, where = "", pid = "", beginning = ""] = /^netdisk-lock-(\d+)-(\d+)-(\d+)-/.exec(mine) ?? [];
    const { pid: ended } = spawnSync(process.execPath, ["--version"]);
    const stale = [
      `netdisk-lock-${where}-${ended}-${beginning}-aaaaaa`,
      // The id belongs to another process by now.
      `netdisk-lock-${where}-${pid}-${Number(beginning) + 1}-bbbbbb`,
    ];
    const kept = [
      mine,
      // Of processes that cannot be seen from here, and of nobody who says.
      `netdisk-lock-1-${ended}-${beginning}-cccccc`,
      "netdisk-lock-dddddd",
      `other-${where}-${ended}-${beginning}-eeeeee`,
    ];
    for (const name of [...stale, ...kept.slice(1)]) mkdirSync(join(memory, name));

    expect(await removeStaleLocks(memory)).to.equal(stale.length);
    expect(readdirSync(memory).sort()).to.deep.equal(kept.sort());
    expect(await removeStaleLocks(join(memory, "nowhere"))).to.equal(0);
  });

  it("stays beside the data where there is no memory to put it", async () => {
    expect(await moveLockToMemory(directory, join(memory, "nowhere"))).to.equal(false);
    expect(existsSync(lock())).to.equal(false);
  });

  it("is gone when a store was closed, and a store opens again after one that was not", async () => {
    const make = (): LmdbOrderedStoreProvider =>
      new LmdbOrderedStoreProvider({ directory, clock: new SystemClock() });
    const store = await make().open("s");
    store.transaction((transaction) => transaction.put(utf8("a"), utf8("1")));
    await store.flush();
    await store.close();
    expect(readdirSync(join(directory, "s"))).to.not.include("lock.mdb");

    // As after a power cut, which empties the memory: a link that leads nowhere.
    await moveLockToMemory(join(directory, "s"), memory);
    for (const each of readdirSync(memory)) rmSync(join(memory, each), { recursive: true });
    expect((await make().check("s")).kind).to.equal("verified");
    const again = await make().open("s");
    expect(again.get(utf8("a"))).to.deep.equal(Buffer.from("1"));
    // Killed without a close: nothing says that the store is whole, so it is read, and that needs a lock too.
    await moveLockToMemory(join(directory, "s"), memory);
    for (const each of readdirSync(memory)) rmSync(join(memory, each), { recursive: true });
    expect((await make().check("s")).kind).to.equal("readable");
    await again.close();
  }).timeout(20_000);
});
