/** Runs the contract of chunk stores against the disk chunk store, on a disk in memory and on the machine's with LMDB. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DiskChunkStore } from "../../src/chunks/disk-chunk-store.ts";
import { SystemClock } from "../../src/std/clock.ts";
import { threadPoolDigester } from "../../src/std/digest.ts";
import { LmdbOrderedStoreProvider } from "../../src/std/lmdb-ordered-store.ts";
import { SystemPrng } from "../../src/std/prng.ts";
import { SystemDisk } from "../../src/std/system-disk.ts";
import { StoreFixture } from "../unit/chunks/store-fixture.ts";
import { describeChunkStore } from "./chunk-store.contract.ts";

function unexpected(...what: readonly unknown[]): void {
  throw new Error(`not expected here: ${JSON.stringify(what)}`);
}

describeChunkStore("DiskChunkStore on a disk in memory", async () => {
  const store = await new StoreFixture().open();
  return { store, destroy: () => store.close() };
});

describeChunkStore("DiskChunkStore on the disk of the machine", async () => {
  const root = await mkdtemp(join(tmpdir(), "chunk-store-"));
  const clock = new SystemClock();
  const index = await new LmdbOrderedStoreProvider({ directory: join(root, "index"), clock }).open("chunks");
  const store = await DiskChunkStore.open({
    disk: new SystemDisk(),
    clock,
    prng: new SystemPrng(),
    digester: threadPoolDigester,
    directory: join(root, "chunks"),
    index,
    memberId: 11,
    onFatal: unexpected,
    onDamage: unexpected,
    onFault: unexpected,
    onTrouble: unexpected,
  });
  const destroy = async (): Promise<void> => {
    await store.close();
    await index.close();
    await rm(root, { recursive: true, force: true });
  };
  return { store, destroy };
});
