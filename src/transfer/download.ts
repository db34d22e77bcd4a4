/**
 * Downloads: a file opened at one version, read by ranges over its extents, from this node's copy or from others'.
 *
 * What was opened stays what it was: the content is immutable (content-reader.ts).
 */
import { extentCount, type Extent, type Replica } from "../drive/content.ts";
import type { Download, PathEntry } from "../drive/drive-api.ts";
import type { Entry } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import { readContent } from "./content-reader.ts";
import { ticketKeys } from "../metadata/ticket-keys.ts";
import { clusterTime } from "../metadata/view.ts";
import type { DataPlane } from "./data-plane.ts";
import { ticketFor } from "./ticket.ts";

/** An open download. */
export class ContentDownload implements Download {
  readonly entry: Entry;
  readonly path: string;
  readonly progressId: string;
  readonly #plane: DataPlane;
  readonly #extents: () => readonly Extent[];

  /** @param extents the content's extents as known at opening, or better since, in order */
  constructor(plane: DataPlane, file: PathEntry, extents: () => readonly Extent[], progressId: string) {
    this.#plane = plane;
    this.entry = file.entry;
    this.path = file.path;
    this.progressId = progressId;
    this.#extents = extents;
  }

  get local(): boolean {
    const own = this.#plane.metadata.port.memberId;
    return this.#extents().every((extent) => isVerifiedAt(extent.replicas, own));
  }

  get redirectUrl(): string | undefined {
    return this.#redirectTo()?.publicUrl;
  }

  get redirectTicket(): string | undefined {
    const { metadata, directory } = this.#plane;
    const target = this.#redirectTo();
    if (target === undefined || directory.find(target.memberId)?.isStorageOnly !== true) return undefined;
    const reader = metadata.port.reader();
    const [key] = ticketKeys(reader);
    if (key === undefined) return undefined;
    return ticketFor(this.entry, target.memberId, clusterTime(reader), key);
  }

  /** The best other node that clients reach and that holds all of the file. */
  #redirectTo(): { readonly memberId: number; readonly publicUrl: string } | undefined {
    const own = this.#plane.metadata.port.memberId;
    const extents = this.#extents();
    const [first] = extents;
    if (first === undefined) return undefined;
    for (const memberId of this.#plane.placement.rankReaders(first.replicas)) {
      if (memberId === own || this.#plane.detector.state(memberId).health !== "up") continue;
      const member = this.#plane.directory.find(memberId);
      if (member === undefined || member.publicUrl === "") continue;
      // Until the first key was made nobody can be sent to a node that wants a ticket.
      if (member.isStorageOnly && ticketKeys(this.#plane.metadata.port.reader()).length === 0) continue;
      if (extents.every((extent) => isVerifiedAt(extent.replicas, memberId))) return member;
    }
    return undefined;
  }

  async *read(
    offset: number,
    length: number,
    signal?: AbortSignal,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const { contentId, sizeBytes } = this.entry;
    checkRange(sizeBytes, offset, length);
    const progress = this.#plane.progress.open(this.progressId, "download", length);
    try {
      const extents = this.#extents;
      const range = {
        ...{ contentId, sizeBytes, offset, length, signal },
        get extents() {
          return extents();
        },
      };
      for await (const piece of readContent(this.#plane, range)) {
        progress.addTransferred(piece.length);
        yield piece;
      }
      progress.enter("done");
    } catch (error) {
      progress.fail(error instanceof DriveError ? error.reason : "INTERNAL");
      throw error;
    } finally {
      progress.fail("CANCELED");
    }
  }
}

/** Checks that a range lies within a file. @throws DriveError RANGE_NOT_SATISFIABLE */
export function checkRange(sizeBytes: number, offset: number, length: number): void {
  const valid = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
  if (valid && offset + length <= sizeBytes) return;
  throw new DriveError(
    "RANGE_NOT_SATISFIABLE",
    `The file has ${sizeBytes} bytes; ${length} at ${offset} were asked for.`,
    { size_bytes: String(sizeBytes), offset: String(offset), length: String(length) },
  );
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
