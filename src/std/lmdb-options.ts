/** How every store of LMDB is opened: plain bytes, in the order of bytes, each commit synced before it counts. */

/**
 * Settings of lmdb's open(). Without `eventTurnBatching` a transaction is exactly one batch(): with it lmdb-js starts the
 * transaction by itself and keeps a promise of it to itself, which nobody can handle when the disk is full.
 */
export const LMDB_OPEN_OPTIONS = {
  keyEncoding: "binary",
  encoding: "binary",
  compression: false,
  cache: false,
  maxDbs: 1,
  overlappingSync: false,
  eventTurnBatching: false,
} as const;
