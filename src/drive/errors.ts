/**
 * The catalogue of everything that can go wrong for a caller: one table, read by every edge (gRPC, HTTP, command line).
 *
 * A DriveError is an operating error: expected, typed, and the only class that crosses a module boundary. Code tests the
 * `reason`, never the text. Every variable part of the message is also in `metadata` (AIP-193). `outcome` says whether a
 * change certainly did not happen (Maelstrom's definite and indefinite errors): an indefinite error is never reported as
 * "unavailable", because generic clients retry that code with a new identity.
 */

/** Canonical status codes, by their names in google.rpc.Code. */
export type StatusCode =
  | "canceled"
  | "invalid_argument"
  | "deadline_exceeded"
  | "not_found"
  | "already_exists"
  | "permission_denied"
  | "resource_exhausted"
  | "failed_precondition"
  | "aborted"
  | "out_of_range"
  | "unimplemented"
  | "internal"
  | "unavailable"
  | "data_loss"
  | "unauthenticated";

/** What one reason means to a caller. */
export interface ReasonSpec {
  readonly code: StatusCode;
  readonly httpStatus: number;
  /** "definite": the change did not and will not happen. "indefinite": it may have. */
  readonly outcome: "definite" | "indefinite";
  /** What the caller can do about it; one sentence, shown to users. */
  readonly remedy: string;
  /** Seconds for Retry-After where waiting helps. */
  readonly retryAfterSeconds?: number;
}

const FIX = "Correct the request and send it again.";
const RETRY = "Send the same request again.";

/** Every reason. The proto enum ErrorReason holds the same names; a test walks both. */
export const REASONS = {
  PATH_INVALID: { code: "invalid_argument", httpStatus: 400, outcome: "definite", remedy: FIX },
  NAME_TOO_LONG: {
    code: "invalid_argument",
    httpStatus: 400,
    outcome: "definite",
    remedy: "Choose a shorter name.",
  },
  PATH_TOO_DEEP: {
    code: "invalid_argument",
    httpStatus: 400,
    outcome: "definite",
    remedy: "Use fewer nested folders.",
  },
  ARGUMENT_INVALID: { code: "invalid_argument", httpStatus: 400, outcome: "definite", remedy: FIX },
  PAYLOAD_TOO_LARGE: {
    code: "invalid_argument",
    httpStatus: 413,
    outcome: "definite",
    remedy: "Send less at a time.",
  },
  PAYLOAD_TRUNCATED: {
    code: "invalid_argument",
    httpStatus: 400,
    outcome: "definite",
    remedy: "Send the missing bytes.",
  },
  DIGEST_MISMATCH: {
    code: "invalid_argument",
    httpStatus: 400,
    outcome: "definite",
    remedy: "Send the bytes again; those of an upload that cannot be completed, in a new upload.",
  },
  CHUNK_OUT_OF_RANGE: { code: "invalid_argument", httpStatus: 400, outcome: "definite", remedy: FIX },
  PATH_NOT_FOUND: {
    code: "not_found",
    httpStatus: 404,
    outcome: "definite",
    remedy: "Check the path or id.",
  },
  UPLOAD_NOT_FOUND: {
    code: "not_found",
    httpStatus: 404,
    outcome: "definite",
    remedy:
      "Check the id, or start a new upload. For a prepared download read GET /api/downloads/{id}, which says how far it is.",
  },
  DOWNLOAD_NOT_READY: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Ask again in a moment: the download is being prepared.",
    retryAfterSeconds: 2,
  },
  DOWNLOAD_FAILED: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Read why in the state of the download, then prepare it again.",
  },
  DOWNLOAD_EXPIRED: {
    code: "not_found",
    httpStatus: 410,
    outcome: "definite",
    remedy: "Prepare the download again.",
  },
  DOWNLOAD_TOO_LARGE: {
    code: "failed_precondition",
    httpStatus: 413,
    outcome: "definite",
    remedy: "Prepare several downloads of fewer files each.",
  },
  TASK_NOT_FOUND: { code: "not_found", httpStatus: 404, outcome: "definite", remedy: "Check the task id." },
  TASK_STATE_CONFLICT: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Read the task: its state does not allow this.",
  },
  TASK_CLAIM_LOST: {
    code: "aborted",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Stop working on the task: it was cancelled, or another worker has it.",
  },
  QUEUE_UNAVAILABLE: {
    code: "unavailable",
    httpStatus: 503,
    outcome: "definite",
    remedy: "Nothing: tasks go on without the broker.",
    retryAfterSeconds: 5,
  },
  VERSION_UNSUPPORTED: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Start the node with the version of netdisk that the other nodes run.",
  },
  FEATURE_LEVEL_TOO_LOW: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy:
      "Upgrade every node, then try again: netdisk cluster status says which nodes hold the level back.",
  },
  UPLOAD_EXPIRED: { code: "not_found", httpStatus: 410, outcome: "definite", remedy: "Start a new upload." },
  PATH_EXISTS: {
    code: "already_exists",
    httpStatus: 409,
    outcome: "definite",
    remedy:
      "Choose another name, or, where the request takes it, set onConflict to rename or replace, for a folder existOk.",
  },
  NOT_A_DIRECTORY: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Name a folder; a folder never replaces a file.",
  },
  IS_A_DIRECTORY: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy:
      "Name a file, for example one inside the folder: a file never replaces a folder. To fetch a whole folder use POST /api/downloads or netdisk get --zip.",
  },
  DIRECTORY_NOT_EMPTY: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Empty the folder first, or delete it with everything in it by recursive=true.",
  },
  MOVE_INTO_SELF: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Choose a destination outside the folder.",
  },
  UPLOAD_INCOMPLETE: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Send the missing chunks, then complete again.",
  },
  UPLOAD_FINISHED: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy: "It takes no other bytes: complete it as it is, or begin a new upload.",
  },
  SEAL_REJECTED: {
    code: "aborted",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Complete the upload again.",
  },
  VERSION_MISMATCH: {
    code: "aborted",
    httpStatus: 412,
    outcome: "definite",
    remedy: "Read the current version, then make the change again.",
  },
  UPLOAD_OFFSET_MISMATCH: {
    code: "aborted",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Ask for the committed size and resume from there.",
  },
  RANGE_NOT_SATISFIABLE: {
    code: "out_of_range",
    httpStatus: 416,
    outcome: "definite",
    remedy: "Ask for a range inside the file.",
  },
  REQUEST_EXPIRED: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Read the current state, then send the change as a new request.",
  },
  REQUEST_ID_REUSED: {
    code: "failed_precondition",
    httpStatus: 422,
    outcome: "definite",
    remedy: "Use a new request id for a new change.",
  },
  NOT_LEADER: {
    code: "failed_precondition",
    httpStatus: 503,
    outcome: "definite",
    remedy: RETRY,
    retryAfterSeconds: 1,
  },
  NO_LEADER: {
    code: "unavailable",
    httpStatus: 503,
    outcome: "definite",
    remedy: RETRY,
    retryAfterSeconds: 1,
  },
  CATALOG_UNAVAILABLE: {
    code: "unavailable",
    httpStatus: 503,
    outcome: "definite",
    remedy: "Ask again later: the catalog is being built or does not answer. Files are not affected.",
    retryAfterSeconds: 5,
  },
  NODE_STARTING: {
    code: "unavailable",
    httpStatus: 503,
    outcome: "definite",
    remedy: RETRY,
    retryAfterSeconds: 1,
  },
  NODE_STOPPING: {
    code: "unavailable",
    httpStatus: 503,
    outcome: "definite",
    remedy: RETRY,
    retryAfterSeconds: 1,
  },
  QUORUM_NOT_REACHED: {
    code: "unavailable",
    httpStatus: 503,
    outcome: "definite",
    remedy: RETRY,
    retryAfterSeconds: 1,
  },
  PEER_UNREACHABLE: {
    code: "unavailable",
    httpStatus: 503,
    outcome: "definite",
    remedy: RETRY,
    retryAfterSeconds: 1,
  },
  COMMIT_OUTCOME_UNKNOWN: {
    code: "deadline_exceeded",
    httpStatus: 504,
    outcome: "indefinite",
    remedy: "The change may have happened. Send it again with the same request_id, never with a new one.",
  },
  OVERLOADED: {
    code: "resource_exhausted",
    httpStatus: 429,
    outcome: "definite",
    remedy: "Wait, then send the same request again.",
    retryAfterSeconds: 1,
  },
  NO_SPACE: {
    code: "resource_exhausted",
    httpStatus: 507,
    outcome: "definite",
    remedy: "Free space on the nodes, or add nodes: two of them must have room.",
  },
  QUOTA_EXCEEDED: {
    code: "resource_exhausted",
    httpStatus: 507,
    outcome: "definite",
    remedy: "Delete files first.",
  },
  CHUNK_NOT_FOUND: {
    code: "not_found",
    httpStatus: 404,
    outcome: "definite",
    remedy: "Ask another replica.",
  },
  CHUNK_CORRUPT: {
    code: "data_loss",
    httpStatus: 500,
    outcome: "definite",
    remedy: "Tell an operator: stored bytes are damaged.",
  },
  CHUNK_LOST: {
    code: "data_loss",
    httpStatus: 500,
    outcome: "definite",
    remedy: "Tell an operator: no good copy of these bytes can be reached.",
  },
  WRONG_CLUSTER: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Check the addresses: this node belongs to another cluster.",
  },
  DATA_DIRECTORY_IN_USE: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Stop the other process, or give this one another data directory.",
  },
  DATA_CORRUPT: {
    code: "data_loss",
    httpStatus: 500,
    outcome: "definite",
    remedy: "Keep the data directory and restore what is damaged; the other nodes serve on meanwhile.",
  },
  ADDRESS_IN_USE: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Choose another port, or stop the process that has it.",
  },
  CONFIGURATION_INVALID: {
    code: "invalid_argument",
    httpStatus: 400,
    outcome: "definite",
    remedy: "Correct the configuration.",
  },
  MEMBERSHIP_CHANGE_IN_PROGRESS: {
    code: "aborted",
    httpStatus: 409,
    outcome: "definite",
    remedy:
      "Wait until the change under way has ended (netdisk cluster status shows it), then send it again.",
    retryAfterSeconds: 1,
  },
  MEMBERSHIP_CHANGE_UNSAFE: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy: "Mend first what the message names.",
  },
  MEMBER_NOT_FOUND: {
    code: "not_found",
    httpStatus: 404,
    outcome: "definite",
    remedy: "Name a node or member id that netdisk cluster status shows.",
  },
  MEMBER_REMOVED: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy:
      "Empty this node's data directory and start it with --join and a new token (netdisk cluster add).",
  },
  MEMBER_DUPLICATED: {
    code: "failed_precondition",
    httpStatus: 409,
    outcome: "definite",
    remedy:
      "Stop one of the two processes; a copied data directory must be removed, its node joins with a token.",
  },
  JOIN_TOKEN_INVALID: {
    code: "permission_denied",
    httpStatus: 403,
    outcome: "definite",
    remedy: "Make a new token with netdisk cluster add; each is good for one node and for a limited time.",
  },
  TICKET_INVALID: {
    code: "permission_denied",
    httpStatus: 403,
    outcome: "definite",
    remedy: "Ask for the file anew, without the ticket.",
  },
  UNAUTHENTICATED: { code: "unauthenticated", httpStatus: 401, outcome: "definite", remedy: "Sign in." },
  PERMISSION_DENIED: {
    code: "permission_denied",
    httpStatus: 403,
    outcome: "definite",
    remedy: "Ask for access.",
  },
  CANCELED: {
    code: "canceled",
    httpStatus: 499,
    outcome: "indefinite",
    remedy: "Send it again with the same request_id.",
  },
  INTERNAL: {
    code: "internal",
    httpStatus: 500,
    outcome: "indefinite",
    remedy: "Report it with the id shown; the node's log has the details.",
  },
} as const satisfies Record<string, ReasonSpec>;

/** The stable name of what went wrong. */
export type ErrorReason = keyof typeof REASONS;

/** Whether `text` names a reason of the catalogue. */
export function isErrorReason(text: string): text is ErrorReason {
  return Object.hasOwn(REASONS, text);
}

/** An operating error with a reason of the catalogue. */
export class DriveError extends Error {
  override readonly name = "DriveError";
  readonly reason: ErrorReason;
  /** Every variable part of the message, for programs. */
  readonly metadata: Readonly<Record<string, string>>;

  /**
   * @param message one sentence for a person: what was wrong, with the values
   * @param metadata the variable parts by snake_case name
   * @param cause the foreign error behind it, kept for the log
   */
  constructor(
    reason: ErrorReason,
    message: string,
    metadata: Readonly<Record<string, string>> = {},
    cause?: unknown,
  ) {
    super(message, cause === undefined ? undefined : { cause });
    this.reason = reason;
    this.metadata = metadata;
  }

  /** The row of the catalogue. */
  get spec(): ReasonSpec {
    return REASONS[this.reason];
  }
}

/** Whether `error` is a DriveError with one of `reasons`. */
export function hasReason(error: unknown, ...reasons: readonly ErrorReason[]): error is DriveError {
  return error instanceof DriveError && reasons.includes(error.reason);
}
