/** The reserve of a store: exact to the byte, and given up by itself when there is space. */
import { expect } from "chai";
import { defaultReserveBytes, SpaceGuard } from "../../../src/chunks/space-guard.ts";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";

const GIB = 1024 ** 3;

const written = (): Promise<void> => Promise.resolve();

describe("SpaceGuard", () => {
  it("takes what leaves exactly the reserve, and refuses one byte more", async () => {
    const disk = new MemoryDisk({ capacityBytes: 10_000 });
    const guard = await SpaceGuard.open(disk, "/", 1000);

    await guard.hold(9000, written);

    disk.capacityBytes = 5000;
    await expectReason("NO_SPACE", () => guard.hold(4001, written));
    await guard.hold(4000, written);
  });

  it("keeps half of the reserve from copies, to the byte, and from users all of it", async () => {
    const disk = new MemoryDisk({ capacityBytes: 2000 });
    const guard = await SpaceGuard.open(disk, "/", 1000);
    await guard.hold(1000, written);

    disk.capacityBytes = 1000;
    await expectReason("NO_SPACE", () => guard.hold(1, written));
    await expectReason("NO_SPACE", () => guard.require(1));
    await expectReason("NO_SPACE", () => guard.hold(501, written, "copies"));
    await guard.require(500, "copies");
    await guard.hold(500, written, "copies");
    expect(guard.refused).to.equal(true);
  });

  it("keeps from copies what compaction needs, and from compaction half of the reserve, to the byte", async () => {
    const disk = new MemoryDisk({ capacityBytes: 10_000 });
    const guard = await SpaceGuard.open(disk, "/", 1000, 500);
    disk.capacityBytes = 1000;
    await guard.refresh();
    await expectReason("NO_SPACE", () => guard.hold(1, written, "copies"));
    await expectReason("NO_SPACE", () => guard.takeForCompaction(501));
    await guard.takeForCompaction(500);
  });

  it("says that it refuses while not even a chunk fits, and no longer once there is space, though nobody wrote", async () => {
    const disk = new MemoryDisk({ capacityBytes: 1000 + CHUNK_SIZE_BYTES });
    const guard = await SpaceGuard.open(disk, "/", 1000);
    expect(guard.refused).to.equal(false);

    disk.capacityBytes -= 1;
    await guard.refresh();
    expect(guard.refused).to.equal(true);

    disk.capacityBytes += 1;
    await guard.refresh();
    expect(guard.refused).to.equal(false);
  });

  it("asks the file system again before it refuses", async () => {
    const disk = new MemoryDisk({ capacityBytes: 2000 });
    const guard = await SpaceGuard.open(disk, "/", 1000);
    await guard.hold(1000, written);

    disk.capacityBytes = 4000;
    await guard.hold(2500, written);

    expect(guard.space).to.deep.equal({ freeBytes: 1500, totalBytes: 4000 });
  });
});

describe("defaultReserveBytes()", () => {
  const reserve = (totalBytes: number): number => defaultReserveBytes({ freeBytes: 0, totalBytes });

  it("is 2 % of a disk, at least 1 GiB and at most 16 GiB, and a tenth of a small one", () => {
    expect(reserve(100 * GIB)).to.equal(2 * GIB);
    expect(reserve(20 * GIB)).to.equal(GIB);
    expect(reserve(5 * GIB)).to.equal(GIB / 2);
    expect(reserve(2000 * GIB)).to.equal(16 * GIB);
  });
});
