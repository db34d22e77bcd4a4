/**
 * Finds files of segments that were removed, replaced or cut short under the running store, and has what was in them looked at anew.
 *
 *   segment of the log    --> left for a new one when it is being written --> chunks of open extents in it are missing again
 *   segment of one extent --> the open extent is as if it had never come                                     |
 *                                                             sealed extents that use it are read whole <----'
 *
 * An open file is read and written on after its name is gone, and of a file that nobody reads nobody knows, so without this everything
 * would look well until a restart, or until the last good copy is gone. What is found missing is damage like any other: quarantined, told to onDamage, repaired from other copies; what a file that was
 * put in the place of another holds is believed as far as its checksums and digests go. Never removes anything.
 *
 * A segment of the log holds the manifests of terabytes: of an extent that has nothing but its manifest there, the manifest alone is
 * read, and the scrub does the rest. Whatever a look finds is found again by the next one until it was looked at.
 */
import type { ExtentKey } from "../drive/content.ts";
import { chunkCount } from "../drive/content.ts";
import { hasReason } from "../drive/errors.ts";
import type { MisplacedSegment } from "../segments/misplaced.ts";
import type { SingleSegment } from "../segments/single-segment.ts";
import { extentName } from "./chunk-codec.ts";
import type { SealedExtent } from "./index-codec.ts";
import type { ChunkReader } from "./chunk-reader.ts";
import type { OpenExtent } from "./open-extent.ts";
import type { StoreParts } from "./open-store.ts";

/** Extents looked at between two pauses. */
const PAGE_COUNT = 500;

/** Awaited before pieces of work, with the bytes that the piece reads, so that others get on. */
type Pause = (sizeBytes: number) => Promise<void>;

/** A segment of one extent that is misplaced, and what needed it. */
interface LostOwn {
  readonly found: MisplacedSegment;
  readonly open: OpenExtent | undefined;
  readonly sealed: ExtentKey | undefined;
}

/** What LostFiles needs of the store. */
export interface LostFilesOptions {
  readonly parts: StoreParts;
  readonly reader: ChunkReader;
  /** Runs work on an extent while nothing else seals or removes it. */
  readonly inTurn: (extent: ExtentKey, work: () => Promise<void>) => Promise<void>;
  /** Reads a sealed extent whole; quarantines what is damaged. See ChunkStore.verifyExtent(). */
  readonly verify: (
    extent: ExtentKey,
    beforeChunk: ((sizeBytes: number) => Promise<void>) | undefined,
  ) => Promise<unknown>;
  /** Reads the manifest of a sealed extent alone; quarantines all of the extent when it is damaged. */
  readonly verifyManifest: (extent: ExtentKey) => Promise<void>;
  /** Forgets an open extent, whose writes are over. */
  readonly close: (open: OpenExtent) => Promise<void>;
  /** Told of each file that is found missing, replaced or cut short, before what was in it is looked at. */
  readonly onLost: ((file: MisplacedSegment) => void) | undefined;
}

/** The look for lost files of one store. */
export class LostFiles {
  readonly #options: LostFilesOptions;
  #checking: Promise<void> | undefined;
  /** Paths of files that were told, and that were not looked at to the end. */
  readonly #told = new Set<string>();
  #count = 0;

  constructor(options: LostFilesOptions) {
    this.#options = options;
  }

  /** Files found missing, replaced or cut short so far. */
  get count(): number {
    return this.#count;
  }

  /**
   * Looks at all files once, and at what was in those that are missing, replaced or cut short, unless an earlier look
   * has dealt with them.
   * Whoever asks while a look is under way waits for that one.
   * @param pause awaited between pieces of work, with the bytes that are read next (0: hardly any), so that others get on; what it
   * throws ends the look, and the next begins anew
   * Errors: NO_SPACE, when a segment has to be left for a new one; those of the disk.
   */
  check(pause: Pause): Promise<void> {
    this.#checking ??= this.#check(pause).finally(() => {
      this.#checking = undefined;
    });
    return this.#checking;
  }

  async #check(pause: Pause): Promise<void> {
    const { log, own } = this.#options.parts;
    const ofLog = await log.checkFiles(() => pause(0));
    const ofExtents = await this.#findOwn(pause);
    // All of them before any is looked at: what one takes away may be all that was left to say of another.
    this.#tell([...ofLog, ...ofExtents.map(({ found }) => found)]);
    if (ofLog.length > 0) {
      const segmentIds = new Set(ofLog.map(({ segmentId }) => segmentId));
      await this.#forgetOpenChunks(segmentIds);
      await this.#lookAtUsers(segmentIds, pause);
      for (const found of ofLog) {
        log.settleMisplaced(found);
        this.#told.delete(found.path);
      }
    }
    // Those that are missing or cut short cost the least, and their copies are to be made anew soon.
    for (const kind of ["missing", "cut-short", "replaced"] as const) {
      for (const { found, open, sealed } of ofExtents) {
        if (found.kind !== kind) continue;
        // Nothing of an open extent is promised, so whoever seals it hears that its chunks are missing.
        if (open !== undefined) await this.#withOpen(open, () => this.#options.close(open));
        const beforeChunk = kind === "missing" ? undefined : upTo(found.leftBytes ?? Infinity, pause);
        // Open extents are sealed meanwhile: what a look has taken long to come to is as lost as it was.
        const extent = sealed ?? open?.extent;
        if (extent !== undefined && this.#isAwaited(extent, found.segmentId))
          await this.#lookAt(extent, () => this.#options.verify(extent, beforeChunk));
        own.settleMisplaced(found.segmentId);
        this.#told.delete(found.path);
        await pause(0);
      }
    }
  }

  /** Each once, though it is found again when a look ended early. */
  #tell(all: readonly MisplacedSegment[]): void {
    const paths = new Set(all.map(({ path }) => path));
    // What is found no more was removed by the store.
    for (const path of this.#told) if (!paths.has(path)) this.#told.delete(path);
    for (const found of all) {
      if (this.#told.has(found.path)) continue;
      this.#told.add(found.path);
      this.#count += 1;
      this.#options.onLost?.(found);
    }
  }

  /** Chunks of extents that are being written, in segments of the log: they are to be sent again. */
  async #forgetOpenChunks(segmentIds: ReadonlySet<number>): Promise<void> {
    for (const open of [...this.#options.parts.open.values()]) {
      if (open.own !== undefined) continue;
      await this.#withOpen(open, async () => {
        for (const [chunkIndex, { location }] of [...open.chunks]) {
          if (segmentIds.has(location.segmentId)) open.chunks.delete(chunkIndex);
        }
      });
    }
  }

  async #lookAtUsers(segmentIds: ReadonlySet<number>, pause: Pause): Promise<void> {
    const { verify, verifyManifest, parts } = this.#options;
    const { index } = parts.log;
    let page = index.listSealed(undefined, PAGE_COUNT);
    while (page.length > 0) {
      for (const extent of page) {
        const sealed = index.findSealed(extent);
        if (sealed?.uses.some(({ segmentId }) => segmentIds.has(segmentId)) !== true) continue;
        if (hasChunksIn(sealed, segmentIds)) await this.#lookAt(extent, () => verify(extent, pause));
        else {
          await pause(sealed.bodySizeBytes);
          await this.#lookAt(extent, () => verifyManifest(extent));
        }
      }
      await pause(0);
      page = index.listSealed(page.at(-1), PAGE_COUNT);
    }
  }

  /** Segments of one extent each that are misplaced, unless the extent is gone or known to be lost. */
  async #findOwn(pause: Pause): Promise<readonly LostOwn[]> {
    const { own, log, open } = this.#options.parts;
    const written = new Map<number, OpenExtent>();
    const writing: SingleSegment[] = [];
    for (const each of [...open.values()]) {
      if (each.own === undefined) continue;
      // One that cannot be opened is its writer's trouble.
      const segment = await each.own.segment?.catch(() => undefined);
      if (segment === undefined && each.own.recoveredEnd === undefined) continue;
      written.set(each.own.segmentId, each);
      if (segment !== undefined) writing.push(segment);
    }
    const sealed = new Map<number, ExtentKey>();
    for (let page = log.index.ownSegments(0, PAGE_COUNT); page.length > 0;) {
      for (const { segmentId, extent } of page) sealed.set(segmentId, extent);
      await pause(0);
      page = log.index.ownSegments((page.at(-1)?.segmentId ?? 0) + 1, PAGE_COUNT);
    }
    const segmentIds = new Set([...written.keys(), ...sealed.keys()]);
    const misplaced = await own.findMisplaced([...segmentIds], writing, () => pause(0));
    return misplaced.flatMap((found): LostOwn[] => {
      const left = written.get(found.segmentId);
      const held = sealed.get(found.segmentId) ?? left?.extent;
      // A file goes after its extent went: what is still known now has lost its file otherwise.
      const lost = {
        found,
        open: left !== undefined && this.#isOpen(left) ? left : undefined,
        sealed: held !== undefined && this.#isAwaited(held, found.segmentId) ? held : undefined,
      };
      if (lost.open !== undefined || lost.sealed !== undefined) return [lost];
      own.settleMisplaced(found.segmentId);
      return [];
    });
  }

  #isOpen(open: OpenExtent): boolean {
    return this.#options.parts.open.get(extentName(open.extent)) === open;
  }

  /** Whether bytes of a sealed extent should be in a segment of its own. */
  #isAwaited(extent: ExtentKey, segmentId: number): boolean {
    const sealed = this.#options.parts.log.index.findSealed(extent);
    return sealed?.ownSegmentId === segmentId && sealed.damagedChunks.length < chunkCount(sealed.sizeBytes);
  }

  async #lookAt(extent: ExtentKey, verify: () => Promise<unknown>): Promise<void> {
    // A manifest in memory says nothing of the one on the disk.
    this.#options.reader.forget(extent);
    try {
      await verify();
    } catch (error) {
      // Damaged, and that is known now; or removed meanwhile.
      if (!hasReason(error, "CHUNK_CORRUPT", "CHUNK_NOT_FOUND")) throw error;
    }
  }

  /** Runs `work` on an open extent while nobody writes, seals or removes it, unless it is open no more. */
  async #withOpen(open: OpenExtent, work: () => Promise<void>): Promise<void> {
    await this.#options.inTurn(open.extent, async () => {
      if (!this.#isOpen(open)) return;
      await open.quiesce();
      if (this.#isOpen(open)) await work();
    });
  }
}

/** `pause` for the first `leftBytes` that are read: there are no more. */
function upTo(leftBytes: number, pause: Pause): Pause {
  let left = leftBytes;
  return async (sizeBytes) => {
    const read = Math.min(sizeBytes, left);
    left -= read;
    if (read > 0) await pause(read);
  };
}

/** Whether a segment of the log holds more of a sealed extent than its manifest. */
function hasChunksIn(sealed: SealedExtent, segmentIds: ReadonlySet<number>): boolean {
  const { location, small, uses } = sealed;
  return uses.some(({ segmentId, sizeBytes }) => {
    const isManifest = !small && segmentId === location.segmentId && sizeBytes === location.sizeBytes;
    return segmentIds.has(segmentId) && !isManifest;
  });
}
