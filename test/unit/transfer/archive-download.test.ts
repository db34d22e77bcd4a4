/**
 * An open prepared download whose contents go away. Goal: its reader is told so, at every stage of forgetting them. Method: a stored
 * layout of a file of several extents, of which the tree has the records that the test leaves it.
 */
import { expect } from "chai";
import { LayoutWriter } from "../../../src/archive/layout.ts";
import { extentCount } from "../../../src/drive/content.ts";
import { EXTENT_SIZE_BYTES_MAX } from "../../../src/drive/limits.ts";
import { contentKey, extentKey } from "../../../src/metadata/keys.ts";
import { contentCodec, extentCodec } from "../../../src/metadata/records.ts";
import { ArchiveDownload } from "../../../src/transfer/archive-download.ts";
import { LayoutStore } from "../../../src/transfer/layout-store.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { bytesOf, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

const FILE = { contentId: 4711, sizeBytes: 3 * EXTENT_SIZE_BYTES_MAX };

/** A download of FILE, of which the tree has the extents `extentIndexes` left: it forgets them from the first to the last. */
async function downloadWith(extentIndexes: readonly number[]): Promise<ArchiveDownload> {
  const drives = new TestDrives(3);
  const { plane } = drives.node(1);
  const writer = new LayoutWriter();
  const { contentId, sizeBytes } = FILE;
  const about = { path: "big", kind: "file", modifyTimeMs: 0, mode: 0o644, crc32: 0 } as const;
  const layout = Buffer.concat([writer.add({ ...about, contentId, sizeBytes }), writer.finish()]);
  const { entry } = await drives.drive().putFile(uploadOf("/layout.zip"), streamOf(layout));
  drives.tree.store.transaction((t) => {
    const [treeHash, sha256] = [new Uint8Array(32), new Uint8Array(0)];
    const counts = { referenceCount: 0, extentCount: extentCount(sizeBytes), weakExtentCount: 0 };
    t.put(
      contentKey(contentId),
      contentCodec.encode({ sizeBytes, treeHash, sha256, ...counts, extent: undefined }),
    );
    for (const extentIndex of extentIndexes) {
      const extent = { sizeBytes: EXTENT_SIZE_BYTES_MAX, root: new Uint8Array(32), replicas: [] };
      t.put(extentKey(contentId, extentIndex), extentCodec.encode(extent));
    }
  });
  const stored = await new LayoutStore(plane).open(entry);
  return new ArchiveDownload(plane, { downloadId: 1, expireTimeMs: 0, file: entry }, stored);
}

describe("ArchiveDownload", () => {
  for (const left of [[1, 2], [2], []]) {
    for (const length of [1000, 512 * 1024]) {
      it(`says that it was released when extents ${left.join() || "none"} of a file are left, to who reads ${length} bytes`, async () => {
        const download = await downloadWith(left);
        expect(download.sizeBytes).to.be.greaterThan(FILE.sizeBytes);
        await expectReason("DOWNLOAD_EXPIRED", () =>
          bytesOf(download.read(EXTENT_SIZE_BYTES_MAX + 5000, length)),
        );
      });
    }
  }
});
