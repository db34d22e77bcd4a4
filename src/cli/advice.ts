/**
 * What to do about an error, in the words of the command line.
 *
 * The remedies of drive/errors.ts speak of requests, ids and fields; somebody at a terminal has commands and options. Every
 * reason of which the general remedy would mislead there has a sentence here, some of them one for each command.
 */
import { DriveError, REASONS, type ErrorReason } from "../drive/errors.ts";

const AGAIN = "Run the command again.";
const WAIT =
  'Run the command again, or wait longer with --timeout; "netdisk cluster status" shows who is up.';
const LOOK = 'It may have happened all the same: look with "netdisk ls", then run the command again.';

/** For what changes the cluster instead of an entry. */
const LOOK_AT_CLUSTER =
  'It may have happened all the same: look with "netdisk cluster status", then run the command again.';
const LOOK_AT = {
  ...{ add: LOOK_AT_CLUSTER, replace: LOOK_AT_CLUSTER, remove: LOOK_AT_CLUSTER, transfer: LOOK_AT_CLUSTER },
  ...{ drain: LOOK_AT_CLUSTER, scrub: LOOK_AT_CLUSTER, backup: LOOK_AT_CLUSTER },
  other: LOOK,
} as const;

const CONFLICT = "Choose another name, or use --on-conflict rename or replace.";

/** Where the cluster that is given up for lost is not. */
const START_OTHERS =
  "Start the other members instead of this; if they are truly gone, stop what answers at that address, then run the command again.";

/** Details of an error. */
type Metadata = Readonly<Record<string, string>>;

type Advice = string | (Readonly<Record<string, string>> & { readonly other: string });

const ADVICE: Readonly<Partial<Record<ErrorReason, Advice>>> = {
  PATH_INVALID: "Correct the name or path.",
  ARGUMENT_INVALID: {
    recover: "Name a member's data directory with --data-directory, and its cluster with --confirm.",
    rebuild: "Name data directories of members, and their cluster with --confirm.",
    other: "Correct the command.",
  },
  PAYLOAD_TRUNCATED: "Run the command again once nothing writes to the file.",
  DIGEST_MISMATCH: AGAIN,
  PATH_NOT_FOUND: {
    mkdir: 'Check the path, or use "mkdir -p" to make the folders above too.',
    other: 'Check the path; "netdisk ls" shows what is there.',
  },
  PATH_EXISTS: {
    mkdir: "Choose another name; with -p a folder that is there is fine.",
    put: CONFLICT,
    mv: CONFLICT,
    cp: CONFLICT,
    get: "Choose another destination, or use --overwrite.",
    other: "Choose another name.",
  },
  // "up" says itself which ports, and what may have them.
  ADDRESS_IN_USE: { up: "", other: REASONS.ADDRESS_IN_USE.remedy },
  NOT_A_DIRECTORY: {
    mv: "Choose another name, or a folder to move it into: a folder never replaces a file.",
    cp: "Choose another name, or a folder to copy it into: a folder never replaces a file.",
    other: "Name a folder.",
  },
  IS_A_DIRECTORY: {
    put: "Name a file, for example one inside the folder: a file never replaces a folder.",
    get: "Choose another destination: a file never replaces a folder.",
    other: "Name a file, for example one inside the folder: a file never replaces a folder.",
  },
  DIRECTORY_NOT_EMPTY: {
    rm: 'Empty the folder first, or use "rm -r" to delete it with everything in it.',
    other: 'Empty the folder first, or delete it with "netdisk rm -r".',
  },
  UPLOAD_NOT_FOUND: AGAIN,
  UPLOAD_EXPIRED: AGAIN,
  UPLOAD_FINISHED: AGAIN,
  UPLOAD_INCOMPLETE: AGAIN,
  UPLOAD_OFFSET_MISMATCH: AGAIN,
  SEAL_REJECTED: AGAIN,
  VERSION_MISMATCH: AGAIN,
  RANGE_NOT_SATISFIABLE: "The file changed meanwhile: run the command again.",
  REQUEST_EXPIRED: LOOK_AT,
  REQUEST_ID_REUSED: AGAIN,
  NOT_LEADER: WAIT,
  NO_LEADER: WAIT,
  NODE_STARTING: WAIT,
  NODE_STOPPING: WAIT,
  QUORUM_NOT_REACHED: WAIT,
  PEER_UNREACHABLE: "",
  COMMIT_OUTCOME_UNKNOWN: LOOK_AT,
  CANCELED: LOOK_AT,
  NO_SPACE:
    'Delete files, make room on the disks, or add a node; "netdisk cluster status" shows what is free.',
  OVERLOADED: "Wait a little, then run the command again.",
  CHUNK_NOT_FOUND: AGAIN,
  CHUNK_OUT_OF_RANGE: AGAIN,
};

/** An error whose advice depends on more than its reason and the command. */
export class AdvisedError extends DriveError {
  /** What the user can do about it: one or two sentences. */
  readonly remedy: string;

  /** @param remedy takes the place of what adviceFor() says; the others as for DriveError */
  constructor(
    reason: ErrorReason,
    message: string,
    remedy: string,
    metadata: Readonly<Record<string, string>> = {},
    cause?: unknown,
  ) {
    super(reason, message, metadata, cause);
    this.remedy = remedy;
  }
}

/** What makes a removal unsafe, as the metadata `harm` of the error says it: --force does not help against each. */
const UNSAFE_REMOVAL: Readonly<Record<string, string>> = {
  "no-voter": 'Add another node first ("netdisk cluster add"); to end the cluster, stop its nodes.',
  "no-quorum":
    "Bring back or replace the nodes that are down first; --force removes it all the same, and the cluster may then take no changes until they are up.",
  "last-copies":
    "Bring back the nodes that are away, or wait for repair; --force removes it all the same, and gives up what only it has.",
};

/** What to do where a change of the membership would do harm. */
function adviceForUnsafe(command: string | undefined, { harm, path }: Metadata): string {
  switch (command ?? "") {
    case "add":
      return 'Remove a voter first, or add one that has no vote with "netdisk cluster add --storage-only".';
    case "remove":
      return UNSAFE_REMOVAL[harm ?? ""] ?? REASONS.MEMBERSHIP_CHANGE_UNSAFE.remedy;
    case "rebuild":
      // The message says what to do with a tree that is there.
      return path === undefined ? START_OTHERS : "";
    case "recover":
      return START_OTHERS;
    default:
      return REASONS.MEMBERSHIP_CHANGE_UNSAFE.remedy;
  }
}

/**
 * What somebody who ran `command` ("mkdir"; undefined: none yet) can do about `reason`; empty when the message says it.
 * @param metadata of the error
 */
export function adviceFor(reason: ErrorReason, command: string | undefined, metadata: Metadata = {}): string {
  if (reason === "MEMBERSHIP_CHANGE_UNSAFE") return adviceForUnsafe(command, metadata);
  const advice = ADVICE[reason];
  if (advice === undefined) return REASONS[reason].remedy;
  if (typeof advice === "string") return advice;
  return (command === undefined ? undefined : advice[command]) ?? advice.other;
}
