/** The disk in memory is as unkind as a real one may be, and no unkinder: what the tests of everything above rest on. */
import { expect } from "chai";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deferred } from "../../../src/std/deferred.ts";
import { errnoOf, type DiskFile } from "../../../src/std/disk.ts";
import { SystemDisk } from "../../../src/std/system-disk.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";

async function write(disk: MemoryDisk, path: string, bytes: Uint8Array, offset = 0): Promise<void> {
  const file = await disk.open(path, "open-or-create");
  await file.write(offset, [bytes]);
  await file.sync();
  await file.close();
}

describe("An open file", () => {
  const directory = mkdtempSync(join(tmpdir(), "netdisk-named-"));
  after(() => rmSync(directory, { recursive: true }));
  const disks = [
    { name: "MemoryDisk", disk: new MemoryDisk(), root: "" },
    { name: "SystemDisk", disk: new SystemDisk(), root: directory },
  ];
  for (const { name, disk, root } of disks) {
    it(`knows whether its path still names it (${name})`, async () => {
      const path = `${root}/file`;
      const file = await disk.open(path, "create");
      await file.write(0, [new Uint8Array(3)]);
      expect(await file.isNamed(), "as it was made").to.equal(true);

      await disk.remove(path);
      expect(await file.isNamed(), "removed").to.equal(false);
      const other = await disk.open(path, "create");
      await other.write(0, [new Uint8Array(3)]);
      expect(await file.isNamed(), "another one in its place").to.equal(false);
      expect(await other.isNamed()).to.equal(true);
      expect((await file.read(0, 10)).length, "it is read all the same").to.equal(3);

      await disk.rename(path, `${root}/moved`);
      expect(await other.isNamed(), "moved away").to.equal(false);
      await disk.rename(`${root}/moved`, path);
      expect(await other.isNamed(), "and back").to.equal(true);
      await file.close();
      await other.close();
      const error = await other.isNamed().catch((reason: unknown) => reason);
      expect(errnoOf(error), "closed").to.equal("EBADF");
    });

    it(`tells which file a path names, and how long it is (${name})`, async () => {
      const [path, other] = [`${root}/first`, `${root}/second`];
      expect(await disk.stat(path)).to.equal(undefined);
      for (const each of [path, other]) {
        const file = await disk.open(each, "create");
        await file.write(0, [new Uint8Array(7)]);
        await file.close();
      }
      const before = await disk.stat(path);
      expect(before?.sizeBytes).to.equal(7);
      const file = await disk.open(path, "existing");
      await file.truncate(3);
      await file.close();
      expect(await disk.stat(path), "cut short").to.deep.include({
        fileNumber: before?.fileNumber,
        sizeBytes: 3,
      });

      await disk.rename(other, path);
      const after = await disk.stat(path);
      expect(after?.sizeBytes).to.equal(7);
      expect(after?.fileNumber, "another one in its place").not.to.equal(before?.fileNumber);
    });
  }
});

describe("MemoryDisk", () => {
  it("keeps what was synced in a directory that was synced, under every seed", async () => {
    for (let seed = 0; seed < 50; seed += 1) {
      const disk = new MemoryDisk();
      await write(disk, "/file", new Uint8Array(10_000).fill(7));
      await disk.syncDirectory("/");

      disk.crash(new SeededPrng(seed));

      expect(disk.contentOf("/file").every((byte) => byte === 7)).to.equal(true);
      expect(disk.contentOf("/file").length).to.equal(10_000);
    }
  });

  it("loses, keeps and tears unsynced writes at sectors, each under some seed", async () => {
    const outcomes = new Set<string>();
    for (let seed = 0; seed < 60; seed += 1) {
      const disk = new MemoryDisk();
      await write(disk, "/file", new Uint8Array(2048).fill(1));
      await disk.syncDirectory("/");
      const file = await disk.open("/file", "existing");
      await file.write(0, [new Uint8Array(2048).fill(2)]);

      disk.crash(new SeededPrng(seed));

      const sectors = [0, 512, 1024, 1536].map(
        (at) => new Set(disk.contentOf("/file").subarray(at, at + 512)),
      );
      expect(sectors.every((sector) => sector.size === 1)).to.equal(true);
      outcomes.add(sectors.map((sector) => [...sector].join()).join(""));
    }
    expect(outcomes.has("1111")).to.equal(true);
    expect(outcomes.has("2222")).to.equal(true);
    expect(outcomes.size).to.be.greaterThan(6);
  });

  it("may lose names and renames that no sync of the directory followed, and never splits a rename", async () => {
    const outcomes = new Set<string>();
    for (let seed = 0; seed < 40; seed += 1) {
      const disk = new MemoryDisk();
      await write(disk, "/old", new Uint8Array([1]));
      await disk.syncDirectory("/");
      await write(disk, "/new", new Uint8Array([2]));
      await disk.rename("/new", "/old");

      disk.crash(new SeededPrng(seed));

      outcomes.add(
        disk
          .filesBelow("/")
          .map((path) => `${path}${disk.contentOf(path)[0]}`)
          .join(),
      );
    }
    expect([...outcomes].sort()).to.deep.equal(["/new2,/old1", "/old1", "/old2"]);
  });

  it("ends what was open at a crash, for good", async () => {
    const disk = new MemoryDisk();
    const process = disk.process();
    const file = await process.open("/file", "create");
    disk.crash(new SeededPrng(1));

    for (const work of [
      () => file.write(0, [new Uint8Array(1)]),
      () => file.sync(),
      () => process.remove("/file"),
      () => process.list("/"),
    ]) {
      const error = await work().catch((reason: unknown) => reason);
      expect(String(error)).to.contain("ECRASH");
    }
    expect(await disk.process().list("/")).to.be.an("array");
  });

  it("is full at its capacity to the byte, and keeps the part that fitted", async () => {
    const disk = new MemoryDisk({ capacityBytes: 100 });
    const file = await disk.open("/file", "create");
    await file.write(0, [new Uint8Array(100)]);

    const error = await file.write(99, [new Uint8Array([5, 5])]).catch((reason: unknown) => reason);

    expect(String(error)).to.contain("ENOSPC");
    expect(disk.contentOf("/file")[99]).to.equal(5);
    expect(await disk.space("/")).to.deep.equal({ freeBytes: 0, totalBytes: 100 });
  });

  it("goes on with the old file for who has it open when it is lost or replaced, and shows a cut to everybody", async () => {
    const disk = new MemoryDisk();
    const open = async (path: string): Promise<DiskFile> => {
      await write(disk, path, new Uint8Array(100).fill(1));
      return disk.open(path, "existing");
    };
    const files = await Promise.all(["/lost", "/replaced", "/cut"].map(open));
    disk.lose("/lost");
    disk.replace("/replaced", new Uint8Array(7).fill(2));
    disk.cut("/cut", 40);

    for (const file of files) await file.write(100, [new Uint8Array(1).fill(3)]);
    const seen = await Promise.all(files.map((file) => file.read(0, 200)));
    expect(seen.map((bytes) => [bytes.length, bytes[0], bytes[40], bytes[100]])).to.deep.equal([
      [101, 1, 1, 3],
      [101, 1, 1, 3],
      // The gap reads as zeros.
      [101, 1, 0, 3],
    ]);
    for (const file of files) await file.sync();
    await disk.syncDirectory("/");
    disk.crash(new SeededPrng(1));
    expect(disk.filesBelow("/")).to.deep.equal(["/cut", "/replaced"]);
    expect([...disk.contentOf("/replaced")]).to.deep.equal([2, 2, 2, 2, 2, 2, 2]);
    expect(disk.contentOf("/cut")).to.have.length(101);
  });

  it("says that a file is being written from the question for its size to the end of the write, while its process lives", async () => {
    const disk = new MemoryDisk();
    await write(disk, "/file", new Uint8Array(10));
    const [reader, writer] = [await disk.open("/file", "read"), await disk.open("/file", "existing")];
    const isWritten = (): boolean => disk.isBeingWritten("/file");
    await reader.size();
    expect(isWritten(), "a reader asked").to.equal(false);

    await writer.size();
    expect(isWritten(), "a writer asked").to.equal(true);
    const writing = writer.write(10, [new Uint8Array(1)]);
    expect(isWritten(), "it writes").to.equal(true);
    await writing;
    expect(isWritten(), "it has written").to.equal(false);

    const truncating = writer.truncate(3);
    expect(isWritten(), "it cuts").to.equal(true);
    await truncating;
    expect(isWritten(), "it has cut").to.equal(false);
    await writer.size();
    disk.kill();
    expect(isWritten(), "its process is gone").to.equal(false);
  });

  it("makes nothing durable by a sync that began before a cut, of what is written after it", async () => {
    const sizes = new Set<number>();
    for (let seed = 0; seed < 20; seed += 1) {
      const disk = new MemoryDisk();
      await write(disk, "/file", new Uint8Array(10));
      await disk.syncDirectory("/");
      const file = await disk.open("/file", "existing");
      await file.write(10, [new Uint8Array(10)]);
      const released = deferred<void>();
      disk.onOperation = (operation) => (operation === "sync" ? released.promise : undefined);
      const syncing = file.sync();
      disk.cut("/file", 5);
      await file.write(5, [new Uint8Array(5000)]);
      released.resolve();
      await syncing;

      disk.crash(new SeededPrng(seed));

      sizes.add(disk.contentOf("/file").length);
    }
    expect([...sizes]).to.include.members([5, 5005]);
  });

  it("gives the same outcome for the same seed", async () => {
    const run = async (): Promise<string> => {
      const disk = new MemoryDisk();
      for (let i = 0; i < 5; i += 1) {
        const file = await disk.open(`/f${i}`, "create");
        await file.write(i, [new SeededPrng(i).bytes(9000)]);
      }
      disk.crash(new SeededPrng(3));
      return disk
        .filesBelow("/")
        .map((path) => Buffer.from(disk.contentOf(path)).toString("hex"))
        .join();
    };

    expect(await run()).to.equal(await run());
  });
});
