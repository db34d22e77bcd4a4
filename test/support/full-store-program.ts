/**
 * A process with a store on a disk that takes nothing: argv[2] is an empty directory. Tries to flush again and again, of every size,
 * below and beyond what the file has room for, then gives the disk back. Prints how often it was refused and what the store held.
 */
import { utf8 } from "../../src/std/bytes.ts";
import { SystemClock } from "../../src/std/clock.ts";
import { LmdbOrderedStoreProvider } from "../../src/std/lmdb-ordered-store.ts";
import { StoreFullError } from "../../src/std/ordered-store.ts";
import { must } from "../../src/std/assert.ts";
import { limitFileSize } from "./file-size-limit.ts";

const ROUNDS = 60;

const directory = must(process.argv[2], "a directory");
// The limit is no matter of the file system, so its figure is this program's.
const freeBytes = (): Promise<number> => Promise.resolve(0);
const provider = new LmdbOrderedStoreProvider({ directory, clock: new SystemClock(), freeBytes });
const store = await provider.open("full");
let refusals = 0;
for (let round = 0; round < ROUNDS; round += 1) {
  // A third of the rounds finds room in the file for all of it, but not a byte is taken.
  const sizeBytes = (round % 3) * 200_000 + 10;
  // Files up to here can be written; the soft limit of this process, which ends with it.
  limitFileSize(process.pid, round % 2 === 0 ? 0 : 300_000);
  store.transaction((transaction) => transaction.put(utf8(`key ${round}`), new Uint8Array(sizeBytes)));
  try {
    await store.flush();
  } catch (error) {
    if (!(error instanceof StoreFullError)) throw error;
    refusals += 1;
  }
}
limitFileSize(process.pid, undefined);
await store.flush();
const held = [...store.range({ from: utf8("key "), to: utf8("key ~") })].length;
await store.close();
process.stdout.write(JSON.stringify({ refusals, held }));
