/** Goal: a disk that breaks under a running node is told as such, with what to do, and a bug is never told as a broken disk. Method: the errors of the operating system as they come. */
import { mkdtempSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { describeDataFailure } from "../../../src/cli/data-failure.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { SyncError } from "../../../src/segments/segment-error.ts";

const DIRECTORY = "/srv/netdisk";

function refusal(code: string, path?: string): Error {
  return Object.assign(new Error(`${code}: refused`), { code, syscall: "open", ...(path && { path }) });
}

describe("What ended a node", () => {
  const cases = [
    { code: "ENOENT", says: "There is no such file or folder here." },
    { code: "EROFS", says: "The file system here is read-only." },
    { code: "EACCES", says: "Access is denied." },
    { code: "EIO", says: "The disk here reports an error." },
  ];
  for (const { code, says } of cases) {
    it(`is its disk when a file of its data cannot be opened or synced: ${code}`, () => {
      const path = join(DIRECTORY, "chunks/log/0001.seg");
      const errors = [
        refusal(code, path),
        new SyncError(path, refusal(code)),
        new Error("The log cannot go on.", { cause: new SyncError(path, refusal(code)) }),
      ];

      for (const error of errors) {
        const failure = describeDataFailure(error, DIRECTORY);
        expect(failure).to.include({ code, path, message: `${path}: ${says}` });
        expect(failure?.remedy).to.include(`mounted below ${DIRECTORY}`).and.include("start the node again");
      }
    });
  }

  it("is its disk when the folder of a segment is gone, as the system itself says it", async () => {
    const directory = mkdtempSync(join(tmpdir(), "data-failure-"));
    rmSync(directory, { recursive: true });

    const error = await open(join(directory, "1.seg"), "wx").catch((thrown: unknown) => thrown);

    expect(describeDataFailure(error, directory)?.code).to.equal("ENOENT");
  });

  it("is no disk when the file is elsewhere, the error is of another kind, or has no file", () => {
    const path = join(DIRECTORY, "chunks/1.seg");
    const others = [
      refusal("ENOENT", "/srv/netdisk-other/1.seg"),
      refusal("ENOENT", "/srv/file"),
      refusal("EBADF", path),
      refusal("ENOENT"),
      new SyncError(path, new Error("assertion failed")),
      new DriveError("INTERNAL", "Something else.", { path }),
      "text",
    ];

    for (const error of others) expect(describeDataFailure(error, DIRECTORY)).to.equal(undefined);
  });

  it("is its data when the program found them wrong by itself, and what it said is kept", () => {
    const failure = describeDataFailure(
      new DriveError("DATA_CORRUPT", "An older copy: replace it."),
      DIRECTORY,
    );

    expect(failure).to.include({
      code: "DATA_CORRUPT",
      message: "An older copy: replace it.",
      path: DIRECTORY,
    });
  });
});
