/**
 * What the tree assigns to one member: which copies it should hold, is yet to make, and may remove. The port of every loop that
 * works on a node's own bytes; where the tree is kept it is read (TreeAssignments), elsewhere a voter is asked (the feed of a
 * storage-only node, rpc/assignment-client.ts).
 *
 * Answers come in pages, and an incomplete view is an error, never a short page: whoever removes bytes relies on that. What
 * removing relies on is looked up afresh: such an answer holds everything that was acknowledged before the question.
 */
import type { MetadataPort } from "../cluster/metadata-port.ts";
import type { Extent, ExtentKey } from "../drive/content.ts";
import {
  clusterInfo,
  contentState,
  dropList,
  getExtent,
  listExtents,
  nextContentId,
  storeOf,
  underReplicated,
  type KeyedExtent,
  type UnderReplicated,
} from "../metadata/view.ts";

/** Extents of the tree looked at for one page. */
export const ASSIGNMENT_PAGE_COUNT = 500;
/** Extents on one page of what is to be removed, which one command confirms. */
export const DROP_PAGE_COUNT = 1000;
/** Extents looked up with one question at most. */
export const LOOK_COUNT_MAX = 500;

/** A part of the copies that a member should hold. */
export interface AssignmentPage {
  readonly extents: readonly KeyedExtent[];
  /** Where the next page begins; undefined at the end of the tree. */
  readonly next: ExtentKey | undefined;
}

/** A part of the copies that a member is yet to make, fewest copies first. */
export interface WantedPage {
  readonly extents: readonly KeyedExtent[];
  /** Where the next page begins; undefined at the end of the list. */
  readonly next: UnderReplicated | undefined;
}

/** What the tree says of an extent that a store holds. */
export interface ExtentLook {
  /** "unknown": nobody knows its content, and nothing can come to refer to it. "future": the tree has not given out its id yet. */
  readonly state: "known" | "unknown" | "future";
  /** Whether the member is to remove its copy. */
  readonly isDropped: boolean;
  /** The extent when its content is committed. */
  readonly extent: Extent | undefined;
}

/** The assignments of one member. Errors are those of linearize() and, from afar, PEER_UNREACHABLE. */
export interface Assignments {
  /** Extents of which the member is said to hold a copy that counts, or counted before it was given up. The first page is fresh. */
  held(after: ExtentKey | undefined, signal?: AbortSignal): Promise<AssignmentPage>;
  /** Extents of which the member is yet to make a copy. */
  wanted(after: UnderReplicated | undefined, signal?: AbortSignal): Promise<WantedPage>;
  /** Extents that the member is to remove, at most DROP_PAGE_COUNT. */
  dropped(signal?: AbortSignal): Promise<readonly ExtentKey[]>;
  /** One answer for each of at most LOOK_COUNT_MAX extents, in order; `fresh` when what is acknowledged elsewhere must be seen. */
  look(
    extents: readonly ExtentKey[],
    options: { readonly fresh: boolean; readonly signal?: AbortSignal | undefined },
  ): Promise<readonly ExtentLook[]>;
}

/** The assignments of a member as the tree at this node has them. */
export class TreeAssignments implements Assignments {
  readonly #port: MetadataPort;
  readonly #memberId: number;
  readonly #isAlwaysFresh: boolean;

  /**
   * @param port the tree
   * @param memberId whose assignments
   * @param isAlwaysFresh whether every answer is fresh: for one who asks now this node, now another
   */
  constructor(port: MetadataPort, memberId: number, isAlwaysFresh = false) {
    this.#port = port;
    this.#memberId = memberId;
    this.#isAlwaysFresh = isAlwaysFresh;
  }

  async held(after: ExtentKey | undefined, signal?: AbortSignal): Promise<AssignmentPage> {
    await this.#catchUp(after === undefined, signal);
    const reader = this.#port.reader();
    const page = listExtents(reader, after, ASSIGNMENT_PAGE_COUNT);
    const last = page.length < ASSIGNMENT_PAGE_COUNT ? undefined : page.at(-1);
    return {
      extents: page.filter(({ extent }) => this.isHeld(extent)),
      next: last === undefined ? undefined : keyOf(last),
    };
  }

  async wanted(after: UnderReplicated | undefined, signal?: AbortSignal): Promise<WantedPage> {
    await this.#catchUp(false, signal);
    const reader = this.#port.reader();
    const page = underReplicated(reader, after, ASSIGNMENT_PAGE_COUNT);
    const extents: KeyedExtent[] = [];
    for (const key of page) {
      const extent = getExtent(reader, key);
      if (extent !== undefined && isWantedOf(this.#memberId, extent)) {
        extents.push({ contentId: key.contentId, extent });
      }
    }
    return { extents, next: page.length < ASSIGNMENT_PAGE_COUNT ? undefined : page.at(-1) };
  }

  async dropped(signal?: AbortSignal): Promise<readonly ExtentKey[]> {
    await this.#catchUp(false, signal);
    return dropList(this.#port.reader(), this.#memberId, DROP_PAGE_COUNT);
  }

  async look(
    extents: readonly ExtentKey[],
    { fresh, signal }: { readonly fresh: boolean; readonly signal?: AbortSignal | undefined },
  ): Promise<readonly ExtentLook[]> {
    await this.#catchUp(fresh, signal);
    const reader = this.#port.reader();
    const isFounded = clusterInfo(reader) !== undefined;
    const endId = nextContentId(reader);
    return extents.map((key) => ({
      // No tree is no reason to remove anything, and neither is one that is older than the bytes.
      state:
        key.contentId >= endId
          ? "future"
          : isFounded && contentState(reader, key.contentId) === "unknown"
            ? "unknown"
            : "known",
      isDropped: this.#isDropped(key),
      extent: getExtent(reader, key),
    }));
  }

  /** Whether the member is said to hold a copy of an extent; see held(). */
  isHeld(extent: Extent): boolean {
    // While it is given up its verified copies show as lost; they are the ones to compare before it comes back.
    const isLost = storeOf(this.#port.reader(), this.#memberId).lostTimeMs > 0;
    return isHeldBy(this.#memberId, extent, isLost);
  }

  #isDropped({ contentId, extentIndex }: ExtentKey): boolean {
    const before =
      extentIndex > 0
        ? { contentId, extentIndex: extentIndex - 1 }
        : { contentId: contentId - 1, extentIndex: Number.MAX_SAFE_INTEGER };
    const [first] = dropList(this.#port.reader(), this.#memberId, 1, before);
    return first?.contentId === contentId && first.extentIndex === extentIndex;
  }

  async #catchUp(fresh: boolean, signal: AbortSignal | undefined): Promise<void> {
    if (fresh || this.#isAlwaysFresh) await this.#port.linearize({ signal });
  }
}

/** Whether a member is said to hold a copy; one that was given up, those that it held before. */
export function isHeldBy(memberId: number, extent: Extent, isLost: boolean): boolean {
  return extent.replicas.some(
    (replica) =>
      replica.memberId === memberId && (replica.state === "verified" || (isLost && replica.state === "lost")),
  );
}

/** Whether a member is expected to have a copy that does not count yet, or no longer. */
export function isWantedOf(memberId: number, extent: Extent): boolean {
  return extent.replicas.some((replica) => replica.memberId === memberId && replica.state !== "verified");
}

function keyOf({ contentId, extent }: KeyedExtent): ExtentKey {
  return { contentId, extentIndex: extent.extentIndex };
}
