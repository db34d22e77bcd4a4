/**
 * The drive at a storage-only node: voters do what concerns the tree, and the bytes of files are served here.
 *
 *   anything but a download --> the same call at a voter, or at the next one when that is away
 *   a download --> openFile at a voter: a ticket, and where the bytes are --> the ticket is checked --> own copy, else peers'
 *   a redirected download --> the ticket that came with it is checked --> own copy; where others are is asked meanwhile
 *
 * Nothing is served without a ticket, nor once no voter has answered for VOTER_CONTACT_MS_MAX.
 */
import { extentCount, extentSizeBytes, type Extent } from "../drive/content.ts";
import type {
  ClusterStatus,
  Download,
  DownloadOptions,
  DriveApi,
  EntryRef,
  Progress,
  ReadOptions,
  ServiceStatus,
} from "../drive/drive-api.ts";
import { DriveError } from "../drive/errors.ts";
import { VOTER_CONTACT_MS_MAX } from "../drive/limits.ts";
import { ticketKeys } from "../metadata/ticket-keys.ts";
import type { DataPlane } from "../transfer/data-plane.ts";
import { ContentDownload } from "../transfer/download.ts";
import type { RemoteTree } from "../transfer/remote-tree.ts";
import { openTicket, type TicketClaims } from "../transfer/ticket.ts";
import type { VoterFeed } from "../transfer/voter-feed.ts";
import { LateDrive } from "./late-drive.ts";

/** What a StorageDrive is made from. */
export interface StorageDriveOptions {
  readonly plane: DataPlane;
  readonly tree: RemoteTree;
  readonly feed: VoterFeed;
  /** The drive at voters, with fail-over between them. */
  readonly atVoters: () => DriveApi;
  readonly problems: () => readonly string[];
  readonly services: () => readonly ServiceStatus[];
  readonly warnings: () => readonly string[];
}

/** The drive at a storage-only node. */
export class StorageDrive extends LateDrive {
  readonly #options: StorageDriveOptions;
  #downloadCount = 0;

  constructor(options: StorageDriveOptions) {
    super(options.atVoters, options.problems, options.services, options.warnings);
    this.#options = options;
  }

  /** Errors as DriveApi.openDownload(); TICKET_INVALID, and NO_LEADER while voters are out of reach. */
  override async openDownload(ref: EntryRef, options: DownloadOptions = {}): Promise<Download> {
    const { feed } = this.#options;
    const { ticket } = options;
    if (ticket !== undefined) return this.#openTicketed(ref, ticket);
    const opened = await feed.openFile(ref, options);
    return this.#download(this.#check(opened.ticket), opened.path, () => opened.extents);
  }

  override async cluster(options?: ReadOptions): Promise<ClusterStatus> {
    const { plane } = this.#options;
    const status = await super.cluster(options);
    return { ...status, nodeId: plane.directory.nodeIdOf(plane.metadata.port.memberId) };
  }

  /** Transfers under way at this node, at most `countMax` of the newest. */
  runningTransfers(countMax: number): readonly Progress[] {
    return this.#options.plane.progress.running(countMax);
  }

  #openTicketed(ref: EntryRef, ticket: string): Download {
    const { plane, feed } = this.#options;
    const claims = this.#check(ticket);
    const { entry } = claims;
    if (!("entryId" in ref) || ref.entryId !== entry.entryId) {
      throw new DriveError("TICKET_INVALID", "The ticket is for another file.");
    }
    let extents = ownExtents(claims, plane.metadata.port.memberId);
    // The redirect says that this node has them; should one be damaged, it helps to know who else has.
    plane.chores.run(async () => {
      const keys = extents.map(({ extentIndex }) => ({ contentId: entry.contentId, extentIndex }));
      const looks = await feed.look(keys, { fresh: true });
      extents = extents.map((extent, at) => looks[at]?.extent ?? extent);
    });
    return this.#download(claims, `/${entry.name}`, () => extents);
  }

  #check(ticket: string): TicketClaims {
    const { plane, tree } = this.#options;
    const nowMs = tree.clusterTimeMs();
    if (!tree.isInContact() || nowMs === undefined) {
      throw new DriveError(
        "NO_LEADER",
        `No voter of the cluster has answered for ${VOTER_CONTACT_MS_MAX / 1000} s, so this node serves nothing.`,
      );
    }
    const { memberId } = plane.metadata.port;
    return openTicket(ticket, { keys: ticketKeys(tree.reader()), memberId, nowMs });
  }

  #download(claims: TicketClaims, path: string, extents: () => readonly Extent[]): Download {
    const { entry } = claims;
    this.#downloadCount += 1;
    const progressId = `download-${entry.entryId}-${this.#downloadCount}`;
    const download = new ContentDownload(this.#options.plane, { entry, path }, extents, progressId);
    return claims.offset === 0 && claims.length === entry.sizeBytes
      ? download
      : new RangedDownload(download, claims);
  }
}

/** A download of the part that a ticket allows. */
class RangedDownload implements Download {
  readonly entry: Download["entry"];
  readonly path: string;
  readonly progressId: string | undefined;
  readonly #whole: Download;
  readonly #claims: TicketClaims;

  constructor(whole: Download, claims: TicketClaims) {
    this.entry = whole.entry;
    this.path = whole.path;
    this.progressId = whole.progressId;
    this.#whole = whole;
    this.#claims = claims;
  }

  get local(): boolean {
    return this.#whole.local;
  }

  /** The ticket is for this node. */
  get redirectUrl(): undefined {
    return undefined;
  }

  read(offset: number, length: number, signal?: AbortSignal): AsyncIterable<Uint8Array> {
    const { offset: from, length: count } = this.#claims;
    if (offset >= from && offset + length <= from + count) return this.#whole.read(offset, length, signal);
    throw new DriveError("TICKET_INVALID", `The ticket allows ${count} bytes at ${from}.`, {
      offset: String(from),
      length: String(count),
    });
  }
}

/** The extents of a ticket's content as far as this member's copies go. */
function ownExtents({ entry }: TicketClaims, memberId: number): readonly Extent[] {
  return Array.from({ length: extentCount(entry.sizeBytes) }, (_, extentIndex) => ({
    extentIndex,
    sizeBytes: extentSizeBytes(entry.sizeBytes, extentIndex),
    root: new Uint8Array(0),
    replicas: [{ memberId, state: "verified", checkTimeMs: 0 }],
  }));
}
