/**
 * Goal: a file whose client states no media type has the one of its name, whichever way it came, and a repeat of the request is
 * still the same request. Method: whole drives over the real state machine.
 */
import { expect } from "chai";
import { CHUNK_SIZE_BYTES } from "../../../src/drive/limits.ts";
import { mediaTypeOfName } from "../../../src/transfer/media-type.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

const REPLACE = { onConflict: "replace" } as const;

async function putIn(
  drives: TestDrives,
  path: string,
  overrides: Parameters<typeof uploadOf>[1] = {},
  requestId?: string,
): Promise<string> {
  const body = streamOf(patternBytes(10));
  return (await drives.drive().putFile(uploadOf(path, overrides), body, { requestId })).entry.mediaType;
}

describe("the media type of a file whose client states none", () => {
  it("is that of the last ending of its name, without parameters", () => {
    expect(mediaTypeOfName("a.txt")).to.equal("text/plain");
    expect(mediaTypeOfName("Photo.JPG")).to.equal("image/jpeg");
    expect(mediaTypeOfName("a.tar.gz")).to.equal("application/gzip");
    expect(mediaTypeOfName("报告.pdf")).to.equal("application/pdf");
    expect(mediaTypeOfName("page.html")).to.equal("text/html");
  });

  it("is unknown where the name has no ending, or none that is known", () => {
    for (const name of ["", "txt", ".txt", "a.", "README", "a.no-such-ending", "a.txt "]) {
      expect(mediaTypeOfName(name), JSON.stringify(name)).to.equal(undefined);
    }
  });

  for (const leased of [true, false]) {
    for (const sizeBytes of [0, 10, 2 * CHUNK_SIZE_BYTES]) {
      it(`is set by a one-shot upload of ${sizeBytes} bytes ${leased ? "with" : "without"} a lease`, async () => {
        const drives = new TestDrives(3);
        if (leased) drives.grantLease();

        const { entry } = await drives
          .drive()
          .putFile(uploadOf("/a/b.png"), streamOf(patternBytes(sizeBytes)));

        expect(entry.mediaType).to.equal("image/png");
      });
    }
  }

  it("is set by an upload in steps", async () => {
    const drives = new TestDrives(3);
    const { uploadId } = await drives.drive().initUpload(uploadOf("/a/b.png", { sizeBytes: 10 }));
    await drives.drive().writeChunk(uploadId, 0, patternBytes(10), undefined);

    const { entry } = await drives.drive(2).completeUpload(uploadId, {});

    expect(entry.mediaType).to.equal("image/png");
  });

  it("does not take the place of one that is stated, be it empty", async () => {
    const drives = new TestDrives(3);

    expect(await putIn(drives, "/a.png", { attributes: { mediaType: "text/x-a" } })).to.equal("text/x-a");
    expect(await putIn(drives, "/b.png", { attributes: { mediaType: "" } })).to.equal("");
  });

  it("is the type that a replaced file had, when that was known", async () => {
    const drives = new TestDrives(3);
    await putIn(drives, "/a.png", { attributes: { mediaType: "text/x-a" } });
    await putIn(drives, "/b.png", { attributes: { mediaType: "" } });

    expect(await putIn(drives, "/a.png", REPLACE)).to.equal("text/x-a");
    expect(await putIn(drives, "/b.png", REPLACE)).to.equal("image/png");
    expect(await putIn(drives, "/a.png", { onConflict: "rename" })).to.equal("image/png");
    const { uploadId } = await drives.drive().initUpload(uploadOf("/a.png", { sizeBytes: 0, ...REPLACE }));
    const { entry } = await drives.drive().completeUpload(uploadId, {});
    expect(entry.mediaType).to.equal("text/x-a");
  });

  for (const leased of [true, false]) {
    it(`is the same for a repeat of the request ${leased ? "with" : "without"} a lease`, async () => {
      const drives = new TestDrives(3);
      if (leased) drives.grantLease();
      await putIn(drives, "/kept.png", { attributes: { mediaType: "text/x-a" } });
      for (const path of ["/a.png", "/README", "/kept.png"]) {
        const first = await putIn(drives, path, REPLACE, `id-of-${path}`);

        expect(await putIn(drives, path, REPLACE, `id-of-${path}`), path).to.equal(first);
      }
      const versions = (await drives.drive().stat({ path: "/a.png" })).entry.version;
      await putIn(drives, "/a.png", REPLACE, "id-of-/a.png");
      expect((await drives.drive().stat({ path: "/a.png" })).entry.version).to.equal(versions);
    });
  }

  it("is the same for a repeat of the beginning of an upload", async () => {
    const drives = new TestDrives(3);
    const request = uploadOf("/a.png", { sizeBytes: 0, ...REPLACE });
    const first = await drives.drive().initUpload(request, { requestId: "r" });
    await drives.drive().completeUpload(first.uploadId, {});

    expect((await drives.drive(2).initUpload(request, { requestId: "r" })).uploadId).to.equal(first.uploadId);
    await expectReason("REQUEST_ID_REUSED", () =>
      drives.drive().initUpload({ ...request, path: "/b.png" }, { requestId: "r" }),
    );
  });
});
