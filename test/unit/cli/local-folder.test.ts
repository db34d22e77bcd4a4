/**
 * Goal: whatever the drive says its names are, nothing is written outside the folder that the user named.
 * Method: a corpus of names, links laid in the way, and drives that lie about names.
 */
import { expect } from "chai";
import * as fs from "node:fs";
import { join } from "node:path";
import { enterDirectory, openDestination, parseLocalName } from "../../../src/cli/local-folder.ts";
import type { EntryPage } from "../../../src/drive/drive-api.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { MemoryDrive } from "../../support/memory-drive.ts";
import { netdisk, useDirectory } from "./run-cli.ts";

const EVERYWHERE = [
  "",
  ".",
  "..",
  "../x",
  "/etc/passwd",
  "a/b",
  "a\0b",
  "a\nb",
  "\u001b[2J",
  "x".repeat(256),
  "\ud800",
];
const ON_WINDOWS = [
  "..\\x",
  "C:\\x",
  "C:",
  "a:stream",
  "a\\b",
  "con",
  "NUL.txt",
  "com1",
  "LPT9.log",
  "a.",
  "...",
  "a ",
  "a?",
  "a*",
  'a"b',
  "a<b",
  "a|b",
];
const FINE = ["a", "a b", ".hidden", "~", "-rf", "ümläut", "日本語", "x".repeat(255), "console", "a'b"];

describe("parseLocalName()", () => {
  for (const name of EVERYWHERE) {
    it(`refuses ${JSON.stringify(name).slice(0, 40)} everywhere`, async () => {
      const reason = name.length > 255 ? "NAME_TOO_LONG" : "PATH_INVALID";
      await expectReason(reason, () => parseLocalName(name, "linux"));
      await expectReason(reason, () => parseLocalName(name, "win32"));
    });
  }
  for (const name of ON_WINDOWS) {
    it(`refuses ${JSON.stringify(name)} on Windows, where it would mean something else`, async () => {
      await expectReason("PATH_INVALID", () => parseLocalName(name, "win32"));
      expect(parseLocalName(name, "linux")).to.equal(name);
    });
  }
  for (const name of FINE) {
    it(`takes ${JSON.stringify(name).slice(0, 40)} everywhere`, () => {
      expect(parseLocalName(name, "linux")).to.equal(name);
      expect(parseLocalName(name, "win32")).to.equal(name);
    });
  }
});

describe("enterDirectory()", () => {
  const here = useDirectory();

  it("makes a folder, and enters one that is there", async () => {
    expect(await enterDirectory(here.path, "a", "linux")).to.equal(join(here.path, "a"));
    expect(await enterDirectory(here.path, "a", "linux")).to.equal(join(here.path, "a"));
  });

  it("refuses a link to a folder, and a file", async () => {
    fs.symlinkSync("/tmp", join(here.path, "link"));
    fs.writeFileSync(join(here.path, "file"), "");

    await expectReason("NOT_A_DIRECTORY", () => enterDirectory(here.path, "link", "linux"));
    await expectReason("NOT_A_DIRECTORY", () => enterDirectory(here.path, "file", "linux"));
  });
});

describe("openDestination()", () => {
  const here = useDirectory();

  it("follows a link that is the user's own word", async () => {
    fs.mkdirSync(join(here.path, "real"));
    fs.symlinkSync("real", join(here.path, "link"));

    expect(await openDestination(join(here.path, "link"))).to.equal(join(fs.realpathSync(here.path), "real"));
  });

  it("refuses a file, and a folder in a file", async () => {
    fs.writeFileSync(join(here.path, "file"), "");

    await expectReason("NOT_A_DIRECTORY", () => openDestination(join(here.path, "file")));
    await expectReason("NOT_A_DIRECTORY", () => openDestination(join(here.path, "file/x")));
  });
});

describe("netdisk get to where no folder can be made", () => {
  it("fails at once and says so, instead of trying for ever", async function () {
    if (process.platform !== "linux") this.skip();
    const drive = new MemoryDrive();
    await drive.createDirectory("/d", { createParents: false, existOk: false, attributes: {} });

    const { code, err } = await netdisk(["get", "/d", "/proc/netdisk"], { drive });

    expect(code).to.equal(1);
    expect(err).to.include("/proc/netdisk: No folder can be made here.");
  });
});

describe("netdisk get from a drive that cannot be trusted", () => {
  const here = useDirectory();

  /** A drive with /d/sub/a.txt and /d/b.txt. */
  async function drive(): Promise<MemoryDrive> {
    const memory = new MemoryDrive();
    fs.mkdirSync(join(here.path, "src/d/sub"), { recursive: true });
    fs.writeFileSync(join(here.path, "src/d/sub/a.txt"), "alpha");
    fs.writeFileSync(join(here.path, "src/d/b.txt"), "beta");
    await netdisk(["put", "src/d", "/"], { drive: memory, directory: here.path });
    return memory;
  }

  for (const name of ["..", "../../evil", "/tmp/netdisk-evil", ".", ""]) {
    it(`does not follow the name ${JSON.stringify(name)} out of the folder`, async () => {
      const lying = await drive();
      const list = lying.list.bind(lying);
      lying.list = async (...parameters): Promise<EntryPage> => {
        const page = await list(...parameters);
        return { ...page, entries: page.entries.map((entry) => ({ ...entry, name })) };
      };
      fs.mkdirSync(join(here.path, "deep/out"), { recursive: true });

      const { code, err } = await netdisk(["get", "/d", "deep/out"], { drive: lying, directory: here.path });

      expect(code).to.equal(1);
      expect(err).to.include("[PATH_INVALID]");
      expect(fs.readdirSync(here.path).toSorted((a, b) => a.localeCompare(b))).to.deep.equal(["deep", "src"]);
      expect(fs.readdirSync(join(here.path, "deep"))).to.deep.equal(["out"]);
      expect(fs.readdirSync(join(here.path, "deep/out/d"))).to.deep.equal([]);
    });
  }

  it("writes nothing through a link that lies in its way, and goes on with the rest", async () => {
    fs.mkdirSync(join(here.path, "elsewhere"));
    fs.mkdirSync(join(here.path, "out/d"), { recursive: true });
    fs.symlinkSync(join(here.path, "elsewhere"), join(here.path, "out/d/sub"));

    const { code, err } = await netdisk(["get", "--overwrite", "/d", "out"], {
      drive: await drive(),
      directory: here.path,
    });

    expect(code).to.equal(3);
    expect(err).to.include("symbolic link");
    expect(fs.readdirSync(join(here.path, "elsewhere"))).to.deep.equal([]);
    expect(fs.readFileSync(join(here.path, "out/d/b.txt"), "utf8")).to.equal("beta");
  });

  it("replaces a link at a file's place instead of writing through it, and only when told to", async () => {
    fs.mkdirSync(join(here.path, "out"));
    fs.writeFileSync(join(here.path, "victim"), "keep");
    fs.symlinkSync(join(here.path, "victim"), join(here.path, "out/b.txt"));
    const memory = await drive();

    const careful = await netdisk(["get", "/d/b.txt", "out/"], { drive: memory, directory: here.path });
    const forced = await netdisk(["get", "--overwrite", "/d/b.txt", "out/"], {
      drive: memory,
      directory: here.path,
    });

    expect([careful.code, forced.code]).to.deep.equal([1, 0]);
    expect(fs.readFileSync(join(here.path, "victim"), "utf8")).to.equal("keep");
    expect(fs.lstatSync(join(here.path, "out/b.txt")).isFile()).to.equal(true);
  });

  it("takes over no set-user-id bit", async () => {
    const memory = await drive();
    await memory.update({ path: "/d/b.txt" }, { mode: 0o4755 });

    await netdisk(["get", "/d/b.txt", "out/"], { drive: memory, directory: here.path });

    expect(fs.statSync(join(here.path, "out/b.txt")).mode & 0o7777).to.equal(0o755);
  });
});
