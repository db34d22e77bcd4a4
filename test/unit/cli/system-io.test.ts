/**
 * Goal: the world of a real process ends when its user says so twice, and a folder that is gone is told of, not stumbled over.
 * Method: signals are emitted inside the test; the working directory is one that was removed, in a process of its own.
 */
import { expect } from "chai";
import { systemIo } from "../../../src/cli/system-io.ts";
import { expectReason } from "../../support/expect-reason.ts";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A world whose exits are kept instead of made. */
function worldOf(exits: number[]): ReturnType<typeof systemIo> {
  return systemIo({
    createNode: () => {
      throw new Error("this test has no node");
    },
    exit: (code) => exits.push(code),
  });
}

describe("a signal from outside", () => {
  const cases: readonly { readonly heardCount?: number; readonly heard: number; readonly who: string }[] = [
    { heard: 1, who: "a command" },
    { heardCount: 2, heard: 2, who: "a command that listens to two" },
  ];
  for (const { heardCount, heard, who } of cases) {
    it(`is heard by ${who}; the one after ends the process at once, with 130`, () => {
      const exits: number[] = [];
      const names: string[] = [];
      const stop = worldOf(exits).signals.listen((name) => names.push(name), heardCount);
      const before: number[] = [];
      for (let i = 0; i < heard; i += 1) {
        process.emit("SIGHUP", "SIGHUP");
        before.push(exits.length);
      }

      process.emit("SIGHUP", "SIGHUP");
      stop();

      expect(before.every((count) => count === 0)).to.equal(true);
      expect(names).to.deep.equal(Array.from({ length: heard }, () => "SIGHUP"));
      expect(exits).to.deep.equal([130]);
    });
  }
});

describe("a working directory that was deleted", () => {
  const before = process.cwd();

  afterEach(() => process.chdir(before));

  it("is told of, with what to do, and only to commands that need it", async () => {
    const gone = fs.mkdtempSync(join(tmpdir(), "netdisk-gone-"));
    process.chdir(gone);
    fs.rmdirSync(gone);

    const io = worldOf([]);
    const error = await expectReason("PATH_NOT_FOUND", () => io.workingDirectory);

    expect(error.message).to.include("is gone");
    expect("remedy" in error && error.remedy).to.include("Change to a folder");
  });
});
