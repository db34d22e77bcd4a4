/**
 * Reading a range of a content over its extents, from this node's copy or from others', every block verified where it lies.
 *
 * The content is pinned here while it is read. Copies are looked up again for each extent, so copies made or lost meanwhile are
 * seen; when the tree has forgotten the content, those known at the beginning are used as long as they last.
 */
import { extentSizeBytes, type Extent, type Replica } from "../drive/content.ts";
import { EXTENT_SIZE_BYTES_MAX } from "../drive/limits.ts";
import { getExtent } from "../metadata/view.ts";
import { must } from "../std/assert.ts";
import type { DataPlane } from "./data-plane.ts";

/** What is to be read. */
export interface ContentRange {
  readonly contentId: number;
  /** Of the whole content. */
  readonly sizeBytes: number;
  /** The content's extents as they were known, in order; looked at again for each, so what is behind it may become better. */
  readonly extents: readonly Extent[];
  /** [offset, offset + length) lies within the content. */
  readonly offset: number;
  readonly length: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * The bytes of the range, in pieces of at most a chunk.
 * @throws DriveError CHUNK_LOST, CANCELED
 */
export async function* readContent(
  plane: DataPlane,
  range: ContentRange,
): AsyncGenerator<Uint8Array, void, undefined> {
  const { contentId, sizeBytes, offset, length, signal } = range;
  const replicasOf = (extentIndex: number): readonly Replica[] => {
    const known = getExtent(plane.metadata.port.reader(), { contentId, extentIndex });
    return (known ?? must(range.extents[extentIndex], "an extent within the content")).replicas;
  };
  const unpin = plane.pins.pin(contentId);
  try {
    for (let at = offset; at < offset + length;) {
      const extentIndex = Math.floor(at / EXTENT_SIZE_BYTES_MAX);
      const inExtent = at - extentIndex * EXTENT_SIZE_BYTES_MAX;
      const run = Math.min(extentSizeBytes(sizeBytes, extentIndex) - inExtent, offset + length - at);
      yield* plane.reader.read({
        extent: { contentId, extentIndex },
        offset: inExtent,
        length: run,
        rankedMemberIds: () => plane.placement.rankReaders(replicasOf(extentIndex)),
        signal,
      });
      at += run;
    }
  } finally {
    unpin();
  }
}
