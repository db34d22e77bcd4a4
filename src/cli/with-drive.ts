/**
 * Runs a command against a drive: connects, waits with patience, and says what is wrong when it cannot be done.
 *
 * "No node answers" is said only when none does. Somebody whose cluster has lost its majority has living nodes, and must not be
 * told to start the cluster: so whoever gave up asks each address once more, whether anybody is there at all. That the majority is
 * lost is said only when a node says that there is no leader, and none names one.
 */
import { setMaxListeners } from "node:events";
import { resolve } from "node:path";
import { InvalidArgumentError } from "commander";
import { DriveError, hasReason } from "../drive/errors.ts";
import { withTimeout } from "../std/clock.ts";
import { AdvisedError } from "./advice.ts";
import type { CliIo } from "./cli-io.ts";
import type { Action } from "./cluster-program.ts";
import { UsageError } from "./exit-code.ts";
import { findHttpPort } from "./http-port.ts";
import { parseNodes } from "./option-values.ts";
import type { Output } from "./output.ts";
import { Patience } from "./patience.ts";
import { DATA_DIRECTORY_DEFAULT } from "./up-layout.ts";
import { DEFAULT_NODES, programName } from "./up.ts";

/** Seconds that a step may take without success: default and maximum. */
export const TIMEOUT_SECONDS_DEFAULT = 60;
export const TIMEOUT_SECONDS_MAX = 86_400;

/** How long an address may take to say that somebody is there, in milliseconds. */
const PROBE_TIMEOUT_MS = 2000;

/** The options of every command that talks to a drive. */
export interface DriveOptions {
  readonly nodes?: readonly string[];
  readonly json?: boolean;
  readonly timeout?: number;
}

/** The user ended the command. */
export class InterruptedError extends Error {
  override readonly name = "InterruptedError";
}

/**
 * Runs `action` with a connection that is closed after, and returns its exit code.
 * @throws InterruptedError; UsageError for addresses that are none, or are those of HTTP; DriveError PEER_UNREACHABLE when no node
 *   answers, NO_LEADER when some do and know of no leader; whatever else `action` throws
 */
export async function withDrive(
  io: CliIo,
  output: Output,
  options: DriveOptions,
  action: Action,
): Promise<number> {
  const given = options.nodes ?? nodesOfEnvironment(io) ?? DEFAULT_NODES;
  let addresses = given;
  const interrupted = new AbortController();
  // Every step in flight listens, and how many those are is bounded elsewhere.
  setMaxListeners(0, interrupted.signal);
  const stopListening = io.signals.listen(() => interrupted.abort(new InterruptedError("interrupted")));
  const timeoutMs = (options.timeout ?? TIMEOUT_SECONDS_DEFAULT) * 1000;
  const connection = io.connect(given, timeoutMs);
  const progress = { ended: false };
  const explain = (error: unknown): Promise<unknown> => explainUnreachable(error, io, addresses);
  try {
    const patience = new Patience({
      clock: io.clock,
      prng: io.prng,
      timeoutMs,
      signal: interrupted.signal,
      onSlow: () => {
        const tell = (living: readonly string[]): void => {
          if (!progress.ended) output.note(slowNote(io, addresses, living, timeoutMs));
        };
        // Where asking itself fails, what is waited for is still worth a word; the command tells of its own errors.
        void askAll(io, addresses).then(
          (answers) => tell(livingOf(answers)),
          () => tell([]),
        );
        // Waiting does not help when the ports are those of HTTP.
        void findHttpPort(io, addresses).then((mistake) => {
          if (mistake !== undefined) interrupted.abort(mistake);
        });
      },
    });
    const { drive, admin } = connection;
    const askAt = (current: readonly string[]): void => {
      addresses = current;
      connection.setAddresses(current);
    };
    return await action({ io, output, drive, admin, patience, nodes: given.join(","), askAt, explain });
  } catch (error) {
    if (interrupted.signal.aborted) throw interrupted.signal.reason;
    throw await explain(error);
  } finally {
    progress.ended = true;
    stopListening();
    await connection.close();
  }
}

function nodesOfEnvironment(io: CliIo): readonly string[] | undefined {
  const text = io.environment["NETDISK_NODES"] ?? "";
  if (text === "") return undefined;
  try {
    return parseNodes(text);
  } catch (error) {
    if (error instanceof InvalidArgumentError) throw new UsageError(`NETDISK_NODES: ${error.message}`);
    throw error;
  }
}

/** What is said while a step takes long: what is waited for, and until when. */
function slowNote(
  io: CliIo,
  addresses: readonly string[],
  living: readonly string[],
  timeoutMs: number,
): string {
  const trying = `trying for up to ${timeoutMs / 1000} s.`;
  if (living.length === 0) {
    return `No answer yet from ${addresses.join(", ")}; ${trying} ${howToReach(io, addresses)} Ctrl-C ends it.`;
  }
  return `Not done yet: ${sayAnswers(living)}, but the cluster is busy or without a leader; ${trying} "${programName(io)} cluster status" shows who is up. Ctrl-C ends it.`;
}

function sayAnswers(living: readonly string[]): string {
  return living.length === 1
    ? `the node at ${living[0]} answers`
    : `the nodes at ${living.join(", ")} answer`;
}

/** What is learnt of an address: nobody is there; a node that names a leader, or says that there is none, or neither. */
type Answer = "silent" | "led" | "leaderless" | "unclear";

/** An address and what is learnt of it. */
interface Asked {
  readonly address: string;
  readonly answer: Answer;
}

function askAll(io: CliIo, addresses: readonly string[]): Promise<readonly Asked[]> {
  return Promise.all(addresses.map(async (address) => ({ address, answer: await ask(io, address) })));
}

/** The addresses where a node answers, whatever it says. */
function livingOf(asked: readonly Asked[]): readonly string[] {
  return asked.filter(({ answer }) => answer !== "silent").map(({ address }) => address);
}

async function ask(io: CliIo, address: string): Promise<Answer> {
  const connection = io.connect([address], PROBE_TIMEOUT_MS);
  const abort = new AbortController();
  try {
    const { signal } = abort;
    const { leaderId } = await withTimeout(
      io.clock,
      PROBE_TIMEOUT_MS,
      connection.drive.cluster({ consistency: "stale", signal }),
      () => new DriveError("PEER_UNREACHABLE", `The node at ${address} does not answer.`, { address }),
    );
    return leaderId === undefined ? "leaderless" : "led";
  } catch (error) {
    if (!(error instanceof DriveError)) throw error;
    if (error.reason === "NO_LEADER") return "leaderless";
    // A node that starts, stops or refuses is there; silence and a closed port are not.
    return hasReason(error, "PEER_UNREACHABLE", "CANCELED") ? "silent" : "unclear";
  } finally {
    abort.abort();
    await connection.close();
  }
}

/**
 * Says which nodes were tried when none answered, and what to do; or, when some are there and know of no leader, that the cluster has
 * no majority. Where a node names a leader, or says nothing of it, the error is told as it came.
 */
async function explainUnreachable(error: unknown, io: CliIo, addresses: readonly string[]): Promise<unknown> {
  // Patience gives up by itself when the client of the drive takes longer than it may.
  const nobody = hasReason(error, "NO_LEADER") && error.metadata["timeout_ms"] !== undefined;
  if (error instanceof AdvisedError || (!nobody && !hasReason(error, "PEER_UNREACHABLE"))) return error;
  const [mistake, asked] = await Promise.all([findHttpPort(io, addresses), askAll(io, addresses)]);
  if (mistake !== undefined) return mistake;
  const living = livingOf(asked);
  if (living.length > 0) {
    const has = (wanted: Answer): boolean => asked.some(({ answer }) => answer === wanted);
    if (has("led") || !has("leaderless")) return error;
    const some = sayAnswers(living);
    return new DriveError(
      "NO_LEADER",
      `${some.slice(0, 1).toUpperCase()}${some.slice(1)}, but the cluster is out of order: more than half of its nodes must be up and reach each other.`,
      error.metadata,
      error,
    );
  }
  const message = `No node answers at ${addresses.join(", ")}.`;
  return new AdvisedError("PEER_UNREACHABLE", message, howToReach(io, addresses), error.metadata, error);
}

/** How to come to a cluster when none is at `addresses`. */
function howToReach(io: CliIo, addresses: readonly string[]): string {
  return addresses.join() === DEFAULT_NODES.join()
    ? `Start a cluster on this machine with "${programName(io)} up", or name the nodes of another with --nodes. ${whereItsDataIs(io)}`
    : "Check the addresses (--nodes or NETDISK_NODES, gRPC ports), and that the nodes run.";
}

/** Which data a start without --data would use: in another folder than before that is a new, empty cluster. */
function whereItsDataIs(io: CliIo): string {
  try {
    const directory = resolve(io.workingDirectory, DATA_DIRECTORY_DEFAULT);
    return `Its data would be in ${directory}; for a cluster made in another folder, name that with --data.`;
  } catch (error) {
    // The working directory is gone.
    if (hasReason(error, "PATH_NOT_FOUND")) return "For a cluster made earlier, name its folder with --data.";
    throw error;
  }
}
