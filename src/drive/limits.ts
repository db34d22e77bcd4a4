/**
 * Every bound of the drive in one place. Each is checked at the edge, where it gives a DriveError, and asserted inside.
 * Values marked "format" are part of what is on disk and never change for a cluster.
 */

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

/** Bytes of a chunk, which is also a leaf of the tree hash; only the last chunk of a content is smaller. Format. */
export const CHUNK_SIZE_BYTES = MIB;

/** Bytes covered by one checksum inside a stored chunk. Format. */
export const CHECKSUM_BLOCK_SIZE_BYTES = 64 * KIB;

/** Bytes of an extent at most; a power of two of chunks, so that its root is a subtree of the content's. Format. */
export const EXTENT_SIZE_BYTES_MAX = GIB;

/** Chunks in a full extent. Format. */
export const EXTENT_CHUNK_COUNT_MAX = EXTENT_SIZE_BYTES_MAX / CHUNK_SIZE_BYTES;

/** Bytes of a content at most: 8,192 extents. Bounds the extent list of one record. */
export const CONTENT_SIZE_BYTES_MAX = 8 * KIB * GIB;

/** Extents of this size and more are stored in segments of their own, so that deleting them is an unlink. */
export const DEDICATED_SEGMENT_SIZE_BYTES_MIN = 64 * MIB;

/** Bytes of a name in UTF-8, the limit of common file systems. */
export const NAME_SIZE_BYTES_MAX = 255;

/** Components in a path. Bounds the walks up and down the tree. */
export const PATH_DEPTH_MAX = 128;

/** Bytes of a whole path in UTF-8. */
export const PATH_SIZE_BYTES_MAX = 16 * KIB;

/** Cluster time for which bytes that a rebuilt tree could not place are kept. */
export const UNPLACED_RETENTION_MS = 30 * 24 * 60 * 60 * 1000;

/** Snapshots of the tree that are kept. */
export const TREE_SNAPSHOT_COUNT = 3;

/** Bytes of a path in a manifest; of longer ones the last name is kept there. */
export const ORIGIN_PATH_SIZE_BYTES_MAX = KIB;

/** Bytes of a media type. */
export const MEDIA_TYPE_SIZE_BYTES_MAX = 255;

/** Bytes of a request id. */
export const REQUEST_ID_SIZE_BYTES_MAX = 64;

/** How long the result of a mutation is remembered, in cluster time. */
export const REQUEST_RETENTION_MS = 15 * 60 * 1000;

/**
 * Results remembered at once; full means OVERLOADED: as many as REQUEST_RETENTION_MS of 2,222 changes a second leave. Each takes some
 * 260 bytes in the state and so in each snapshot (0.5 GB when full), twice that in the store's file, and nothing of memory. Shorter
 * retention was rejected: an answer that the outcome is unknown names the id to ask again with, also where the node made it, and
 * whoever gets that answer may have to wait for an outage to end. The bound decides what commands do: all members have the same.
 */
export const REQUEST_COUNT_MAX = 2_000_000;

/** Entries on one page of a listing: default and maximum. */
export const PAGE_SIZE_DEFAULT = 1000;
export const PAGE_SIZE_MAX = 10_000;

/** Open uploads in the cluster. */
export const UPLOAD_COUNT_MAX = 100_000;

/** An upload expires this long, in cluster time, after its last sign of life. */
export const UPLOAD_LEASE_MS = 7 * 24 * 60 * 60 * 1000;

/** A node's lease for small writes, in cluster time; renewed at a third of it. */
export const WRITE_LEASE_MS = 60 * 1000;

/** Items that one expiry, reclaim or copy command touches at most. */
export const BATCH_ITEM_COUNT_MAX = 1000;

/** Bytes of one encoded command. */
export const COMMAND_SIZE_BYTES_MAX = MIB;

/** Cluster time moves at most this far in one command. */
export const CLOCK_ADVANCE_MS_MAX = 10_000;

/**
 * Change events kept for subscribers that lag: at most this many, and as many notes of changed copies. Some 160 bytes each, 50 MB
 * in the store and in each snapshot, as much as 150,000 files take; two minutes at 2,000 files/s, and hours of common use. Whoever
 * is further behind scans everything, which for a million files is little slower than as many events.
 */
export const CHANGE_COUNT_MAX = 300_000;

/** Copies that every extent should have, and the fewest that an acknowledgement needs. */
export const REPLICA_COUNT = 3;
export const SEAL_COUNT_MIN = 2;

/** A disk that is fuller than this share gets no moved copies, and missing ones only where no other has room. */
export const HIGH_WATER_SHARE = 0.9;

/** After the second seal of an extent the third is awaited this long before it becomes a repair task. */
export const THIRD_SEAL_WAIT_MS = 2000;

/** Members of one cluster, voters and others. */
export const MEMBER_COUNT_MAX = 1000;

/** Voters of one cluster: every one costs each commit a message, and more than three failures at once are no plan. */
export const VOTER_COUNT_MAX = 7;

/** Tokens to join with that are remembered at once. */
export const JOIN_TOKEN_COUNT_MAX = 100;

/** How long a token to join with is good, in cluster time: least, when nobody says, and most. */
export const JOIN_TOKEN_LIFETIME_MS_MIN = 1000;
export const JOIN_TOKEN_LIFETIME_MS_DEFAULT = 60 * 60 * 1000;
export const JOIN_TOKEN_LIFETIME_MS_MAX = 24 * 60 * 60 * 1000;

/** Content ids that one renewal of a write lease hands out at most. */
export const CONTENT_ID_COUNT_MAX = 1_000_000;

/** Blocks of content ids that a write lease keeps; older ones are forgotten. */
export const WRITE_LEASE_BLOCK_COUNT_MAX = 4;

/** Bytes that nothing refers to any more are dropped this long afterwards, in cluster time: readers under way may finish. */
export const DROP_GRACE_MS = 60 * 1000;

/** Unfinished copies of one directory that a copy command may add to; more are OVERLOADED until some are finished. */
export const COPIER_COUNT_MAX = 16;

/** Unfinished copies of copies of copies...: how long such a chain a copy command may make. */
export const COPY_CHAIN_COUNT_MAX = 8;

/** Names that one command may carry into unfinished copies before it changes their source; more are OVERLOADED. */
export const COPY_PUSH_COUNT_MAX = BATCH_ITEM_COUNT_MAX;

/** Steps of a walk from an entry up to the root. Entries below that depth, which only moves can make, are refused: PATH_TOO_DEEP. */
export const ANCESTOR_COUNT_MAX = 8 * PATH_DEPTH_MAX;

/** The highest number that a name is given to make it free, as in "name (2)". */
export const RENAME_NUMBER_MAX = 1_000_000;

/** Tasks of one kind that wait or run at once; more are OVERLOADED until some have ended. */
export const TASK_OPEN_COUNT_MAX = 5_000;

/** Tasks that have ended and are remembered; the oldest are forgotten first. */
export const TASK_ENDED_COUNT_MAX = 5_000;

/** A task that has ended is remembered this long, in cluster time. */
export const TASK_RETENTION_MS = 24 * 60 * 60 * 1000;

/** Attempts at a task until a failure is final. */
export const TASK_ATTEMPT_COUNT_MAX = 5;

/** Pause before the second attempt, in cluster time; doubled before each further one, up to the maximum. */
export const TASK_BACKOFF_MS_MIN = 1000;
export const TASK_BACKOFF_MS_MAX = 5 * 60 * 1000;

/** How long a claim may hold without being renewed, in cluster time. */
export const TASK_LEASE_MS_MIN = 1000;
export const TASK_LEASE_MS_MAX = 10 * 60 * 1000;

/** Bytes of a task's parameters, and of its result. */
export const TASK_PAYLOAD_SIZE_BYTES_MAX = 64 * KIB;

/** Bytes of the key that makes creating a task idempotent. */
export const TASK_KEY_SIZE_BYTES_MAX = 255;

/** Bytes of the text that says why a task failed; what is longer is cut off. */
export const TASK_ERROR_SIZE_BYTES_MAX = KIB;

/** Findings about files that one renewal of a claim records at most. */
export const TASK_FINDING_COUNT_MAX = BATCH_ITEM_COUNT_MAX;

/** A prepared download is kept this long after it is ready, in cluster time, and each attempt to prepare it may take as long. */
export const PREPARED_DOWNLOAD_LIFETIME_MS = 24 * 60 * 60 * 1000;

/** Files and folders in a prepared download. */
export const PREPARED_DOWNLOAD_ENTRY_COUNT_MAX = 1_000_000;

/** Files and folders that one prepared download may be asked to be made of. */
export const PREPARED_DOWNLOAD_SOURCE_COUNT_MAX = 1000;

/** Prepared downloads that are kept at once; one more is OVERLOADED until some have expired. */
export const PREPARED_DOWNLOAD_COUNT_MAX = 1000;

/** Bytes of the path of an entry inside an archive: the format has 16 bits for it. */
export const ARCHIVED_PATH_SIZE_BYTES_MAX = 65_534;

/** Tasks on one page of a list: default and maximum; each may carry two payloads. */
export const TASK_PAGE_SIZE_DEFAULT = 100;
export const TASK_PAGE_SIZE_MAX = 1000;

/** Bytes of the secret that tickets are signed with. */
export const TICKET_KEY_SIZE_BYTES = 32;

/** Age, in cluster time, at which the key of tickets is replaced; its predecessor stays good until the next one comes. */
export const TICKET_KEY_MS = 24 * 60 * 60 * 1000;

/** How long a ticket is good, in cluster time: a redirect is followed at once, a slow client asks anew. */
export const TICKET_LIFETIME_MS = 5 * 60 * 1000;

/** By how much a node's idea of cluster time may run ahead of that of the node that made the ticket. */
export const TICKET_SLACK_MS = 10_000;

/** A storage-only node that no voter has answered for this long serves nothing any more: what it knows may be over. */
export const VOTER_CONTACT_MS_MAX = 30_000;

/** Characters of a ticket: a name of 255 bytes, a media type, digests and numbers. */
export const TICKET_LENGTH_MAX = 2048;
