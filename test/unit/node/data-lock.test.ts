/** One process at a time in a data directory. */
import { expect } from "chai";
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { lockDataDirectory } from "../../../src/node/data-lock.ts";
import { expectReason } from "../../support/expect-reason.ts";

describe("lockDataDirectory()", () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "netdisk-lock-"));
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  it("refuses the directory to a second holder, by any path, until it is released", async () => {
    const data = join(directory, "data");
    const lock = await lockDataDirectory(data);
    symlinkSync(data, join(directory, "alias"));

    const error = await expectReason("DATA_DIRECTORY_IN_USE", () => lockDataDirectory(data));
    await expectReason("DATA_DIRECTORY_IN_USE", () => lockDataDirectory(join(directory, "alias")));
    expect(error.message).to.include(data);

    await lock.release();
    await (await lockDataDirectory(data)).release();
  });

  it("says that a file is where the directory, or one above it, should be", async () => {
    const file = join(directory, "file");
    writeFileSync(file, "");

    for (const path of [file, join(file, "data")]) {
      const { message } = await expectReason("NOT_A_DIRECTORY", () => lockDataDirectory(path));
      expect(message).to.include(path);
    }
  });
});
