/**
 * Downloads: a file opened at one version, read by ranges over its extents, from this node's copy or from others'.
 *
 * What was opened stays what it was: the content is immutable and pinned here while it is read. Each extent's copies are looked
 * up again as reading proceeds, so copies made or lost meanwhile are seen; when the tree has forgotten the content, the copies
 * known at opening are used as long as they last.
 */
import { extentCount, extentSizeBytes, type Extent, type Replica } from "../drive/content.ts";
import type { Download, PathEntry } from "../drive/drive-api.ts";
import type { Entry } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { EXTENT_SIZE_BYTES_MAX } from "../drive/limits.ts";
import { getExtent } from "../metadata/view.ts";
import { must } from "../std/assert.ts";
import type { DataPlane } from "./data-plane.ts";

/** An open download. */
export class ContentDownload implements Download {
  readonly entry: Entry;
  readonly path: string;
  readonly progressId: string;
  readonly #plane: DataPlane;
  readonly #extents: readonly Extent[];

  /** @param extents the content's extents at opening, in order */
  constructor(plane: DataPlane, file: PathEntry, extents: readonly Extent[], progressId: string) {
    this.#plane = plane;
    this.entry = file.entry;
    this.path = file.path;
    this.progressId = progressId;
    this.#extents = extents;
  }

  get local(): boolean {
    const own = this.#plane.metadata.port.memberId;
    return this.#extents.every((extent) => isVerifiedAt(extent.replicas, own));
  }

  get redirectUrl(): string | undefined {
    const own = this.#plane.metadata.port.memberId;
    const [first] = this.#extents;
    if (first === undefined) return undefined;
    for (const memberId of this.#plane.placement.rankReaders(first.replicas)) {
      if (memberId === own || this.#plane.detector.state(memberId).health !== "up") continue;
      const publicUrl = this.#plane.directory.find(memberId)?.publicUrl ?? "";
      if (publicUrl === "") continue;
      if (this.#extents.every((extent) => isVerifiedAt(extent.replicas, memberId))) return publicUrl;
    }
    return undefined;
  }

  async *read(
    offset: number,
    length: number,
    signal?: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    this.#checkRange(offset, length);
    const unpin = this.#plane.pins.pin(this.entry.contentId);
    const progress = this.#plane.progress.open(this.progressId, "download", length);
    try {
      for (let at = offset; at < offset + length;) {
        const extentIndex = Math.floor(at / EXTENT_SIZE_BYTES_MAX);
        const inExtent = at - extentIndex * EXTENT_SIZE_BYTES_MAX;
        const extentBytes = extentSizeBytes(this.entry.sizeBytes, extentIndex);
        const run = Math.min(extentBytes - inExtent, offset + length - at);
        const pieces = this.#plane.reader.read({
          extent: { contentId: this.entry.contentId, extentIndex },
          offset: inExtent,
          length: run,
          rankedMemberIds: () => this.#plane.placement.rankReaders(this.#replicasOf(extentIndex)),
          signal,
        });
        for await (const piece of pieces) {
          progress.addTransferred(piece.length);
          yield piece;
        }
        at += run;
      }
      progress.enter("done");
    } catch (error) {
      progress.fail(error instanceof DriveError ? error.reason : "INTERNAL");
      throw error;
    } finally {
      unpin();
      progress.fail("CANCELED");
    }
  }

  /** The latest replicas known; those at opening when the tree has forgotten the content. */
  #replicasOf(extentIndex: number): readonly Replica[] {
    const known = getExtent(this.#plane.metadata.port.reader(), {
      contentId: this.entry.contentId,
      extentIndex,
    })?.replicas;
    return known ?? must(this.#extents[extentIndex], "an extent within the file").replicas;
  }

  #checkRange(offset: number, length: number): void {
    const { sizeBytes } = this.entry;
    const valid = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
    if (valid && offset + length <= sizeBytes) return;
    throw new DriveError(
      "RANGE_NOT_SATISFIABLE",
      `The file has ${sizeBytes} bytes; ${length} at ${offset} were asked for.`,
      { size_bytes: String(sizeBytes), offset: String(offset), length: String(length) },
    );
  }
}

function isVerifiedAt(replicas: readonly Replica[], memberId: number): boolean {
  return replicas.some((replica) => replica.memberId === memberId && replica.state === "verified");
}

/** Checks that a content's record lists all its extents, as the tree promises. */
export function checkExtents(entry: Entry, extents: readonly Extent[]): void {
  if (extents.length === extentCount(entry.sizeBytes)) return;
  throw new DriveError("CHUNK_LOST", `Content ${entry.contentId} is no longer in the tree.`, {
    content_id: String(entry.contentId),
  });
}
