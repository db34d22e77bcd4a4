import { expect } from "chai";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { utf8 } from "../../../src/std/bytes.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { LmdbOrderedStoreProvider } from "../../../src/std/lmdb-ordered-store.ts";
import { LmdbStoreViewProvider } from "../../../src/std/lmdb-store-view.ts";
import { directoryState } from "../../support/directory-state.ts";

describe("A look at LMDB stores", () => {
  const clock = new SystemClock();
  let directory: string;
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), "netdisk-view-"));
    const store = await new LmdbOrderedStoreProvider({ directory, clock }).open("s");
    store.transaction((transaction) => transaction.put(utf8("a"), utf8("1")));
    await store.flush();
    await store.close();
    mkdirSync(join(directory, "other"));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true, force: true });
  });

  it("shows the records, leaves out what is removed, refuses writes, and changes nothing", async () => {
    const before = directoryState(directory);
    const view = new LmdbStoreViewProvider({ directory, clock });

    expect((await view.check("s")).kind).to.equal("verified");
    const store = await view.open("s");
    expect(store.get(utf8("a"))).to.deep.equal(Buffer.from("1"));
    expect(() => store.transaction(() => undefined)).to.throw("is not written");
    await store.close();
    expect(await view.list()).to.deep.equal(["other", "s"]);
    await view.remove("other");
    expect(await view.list()).to.deep.equal(["s"]);
    expect((await view.check("other")).kind).to.equal("absent");

    expect(directoryState(directory)).to.deep.equal(before);
    expect(
      await new LmdbStoreViewProvider({ directory: join(directory, "none"), clock }).list(),
    ).to.deep.equal([]);
  });

  it("does not make a store that is not there", async () => {
    const before = directoryState(directory);
    const error = await new LmdbStoreViewProvider({ directory, clock })
      .open("absent")
      .catch((reason: unknown) => reason);
    expect(error).to.be.instanceOf(Error);
    expect(directoryState(directory)).to.deep.equal(before);
  });
});
