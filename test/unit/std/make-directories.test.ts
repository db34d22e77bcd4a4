/**
 * Goal: folders are made with those above them, and where none can be made that is an error and not an endless loop.
 * Method: a real directory, and /proc, which refuses every new folder with ENOENT.
 */
import { expect } from "chai";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { errnoOf } from "../../../src/std/disk.ts";
import { makeDirectories } from "../../../src/std/make-directories.ts";

describe("makeDirectories()", () => {
  let here: string;

  beforeEach(() => (here = fs.mkdtempSync(join(tmpdir(), "netdisk-directories-"))));
  afterEach(() => fs.rmSync(here, { recursive: true }));

  /** The code of the system with which it fails; "made" when it does not. */
  const outcome = (path: string): Promise<string | undefined> =>
    makeDirectories(path).then(() => "made", errnoOf);

  it("makes a folder and all that are missing above it, each with the mode", async () => {
    await makeDirectories(join(here, "a/b/c"), 0o700);

    for (const path of ["a", "a/b", "a/b/c"])
      expect(fs.statSync(join(here, path)).mode & 0o777).to.equal(0o700);
  });

  it("leaves a folder that is there as it is", async () => {
    fs.mkdirSync(join(here, "a"), { mode: 0o755 });
    fs.writeFileSync(join(here, "a/file"), "kept");

    await makeDirectories(join(here, "a"), 0o700);
    await makeDirectories("/");

    expect(fs.readFileSync(join(here, "a/file"), "utf8")).to.equal("kept");
    expect(fs.statSync(join(here, "a")).mode & 0o777).to.equal(0o755);
  });

  it("goes through links to folders", async () => {
    fs.mkdirSync(join(here, "real"));
    fs.symlinkSync("real", join(here, "link"));

    await makeDirectories(join(here, "link/a/b"));
    await makeDirectories(join(here, "link"));

    expect(fs.statSync(join(here, "real/a/b")).isDirectory()).to.equal(true);
  });

  it("makes one folder when many want it at once", async () => {
    await Promise.all(Array.from({ length: 20 }, () => makeDirectories(join(here, "a/b/c/d"))));

    expect(fs.statSync(join(here, "a/b/c/d")).isDirectory()).to.equal(true);
  });

  it("fails when a file, or a link to nothing, is in the way", async () => {
    fs.writeFileSync(join(here, "file"), "");
    fs.symlinkSync("nothing", join(here, "broken"));

    expect(await outcome(join(here, "file"))).to.equal("EEXIST");
    expect(await outcome(join(here, "file/a/b"))).to.equal("ENOTDIR");
    expect(await outcome(join(here, "broken"))).to.equal("EEXIST");
  });

  it("fails at once where no folder can be made, as in /proc", async function () {
    if (process.platform !== "linux") this.skip();

    expect(await outcome("/proc/netdisk")).to.equal("ENOENT");
    expect(await outcome("/proc/netdisk/a/b")).to.equal("ENOENT");
  });
});
