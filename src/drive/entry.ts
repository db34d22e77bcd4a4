/**
 * Entries: the nodes of the file tree, as every layer above metadata/ sees them.
 *
 * Times named *TimeMs are wall time, display data only. `version` is the index of the command that last changed the entry:
 * it grows with every change of content, attributes, name or place, and is the ETag.
 */

/** The directory at the top of the tree; it has no name and no parent, and cannot be moved or deleted. */
export const ROOT_ENTRY_ID = 1;

/**
 * The root of a second tree, which users neither see nor reach: what the drive keeps for itself, such as what a prepared download
 * is made of. Its entries have ids like others, but answer to none: only a locator from this root leads to them, and no event
 * tells of them. No other entry ever gets this id.
 */
export const SYSTEM_ROOT_ENTRY_ID = Number.MAX_SAFE_INTEGER;

/** A file or directory. */
export interface Entry {
  readonly entryId: number;
  readonly parentId: number;
  readonly name: string;
  readonly kind: "file" | "directory";
  /** Index of the command that last changed it. */
  readonly version: number;
  /** Size of a file; 0 for a directory. */
  readonly sizeBytes: number;
  /** The file's content; 0 for a directory. */
  readonly contentId: number;
  /** Tree hash of a file's bytes, 32 bytes; empty for a directory. */
  readonly treeHash: Uint8Array;
  /** Plain SHA-256 of a file's bytes when it is known; empty otherwise. */
  readonly sha256: Uint8Array;
  /** Media type of a file, such as "text/plain"; empty when unknown. */
  readonly mediaType: string;
  /** Permission bits as in POSIX st_mode & 0o7777; undefined when the client gave none. */
  readonly mode: number | undefined;
  /** When the client's file was last modified. */
  readonly modifyTimeMs: number;
  readonly createTimeMs: number;
}

/** Attributes a client may give with a new or changed entry; absent ones keep their value or default. */
export interface EntryAttributes {
  readonly modifyTimeMs?: number | undefined;
  readonly mode?: number | undefined;
  readonly mediaType?: string | undefined;
}

/** Where an entry is: `path` walked down from the directory `baseId`. An empty path is the base itself. */
export interface Locator {
  readonly baseId: number;
  /** Checked names (drive/path.ts), at most PATH_DEPTH_MAX. */
  readonly path: readonly string[];
}

/** What must hold for a change to happen (RFC 9110 section 13); VERSION_MISMATCH otherwise. */
export interface Precondition {
  /** If-Match: the entry (for an upload or copy: the entry it would replace) has one of these versions. */
  readonly ifVersions?: readonly number[] | undefined;
  /** If-Match: *. It exists. */
  readonly ifExists?: boolean | undefined;
  /** If-None-Match: *. Nothing is there. */
  readonly ifAbsent?: boolean | undefined;
}

/** What to do when the name is taken: refuse (PATH_EXISTS), take "name (2)", or put the new one in its place. */
export type OnConflict = "fail" | "rename" | "replace";
