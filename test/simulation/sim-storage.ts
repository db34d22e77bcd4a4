/**
 * The ports of a storage-only node to voters, over the simulated network: what it asks of the tree, and the requests of its clients
 * that it hands on. Deadlines and error reasons are those of the gRPC clients.
 */
import type { FoundingMember } from "../../src/cluster/bootstrap-identity.ts";
import { DriveError, hasReason, type ErrorReason } from "../../src/drive/errors.ts";
import type { DriveNode } from "../../src/node/drive-node.ts";
import type { VoterClients } from "../../src/node/storage-node.ts";
import { must } from "../../src/std/assert.ts";
import { VOTER_ANSWER_TIMEOUT_MS, type VoterFeed } from "../../src/transfer/voter-feed.ts";
import { call, reach, type SimEndpoint } from "./sim-transport.ts";

/** A voter and where it is. */
export type SimVoterContact = FoundingMember;

const ANSWER_GRACE_MS = 1_000;
/** How long a request that is handed on may take at one voter. */
const HANDED_ON_TIMEOUT_MS = 10_000;
/** Answers after which another voter is asked: nothing was done. */
const PASSING_REASONS: readonly ErrorReason[] = [
  "NOT_LEADER",
  "NO_LEADER",
  "NODE_STARTING",
  "NODE_STOPPING",
  "PEER_UNREACHABLE",
  "OVERLOADED",
];

/**
 * One voter as this node asks it.
 * @param onAnswer told, by this node's clock, when a question for the view was asked that the voter answered
 */
export function simVoterFeed(
  endpoint: SimEndpoint,
  voterId: number,
  onAnswer: (askedMs: number) => void,
): VoterFeed {
  const ask = <T>(
    label: string,
    signal: AbortSignal | undefined,
    serve: (feed: VoterFeed, signal: AbortSignal) => Promise<T>,
    settings: { readonly deadlineMs: number; readonly lost?: () => Error } = {
      deadlineMs: VOTER_ANSWER_TIMEOUT_MS,
    },
  ): Promise<T> =>
    call(endpoint, voterId, `feed ${label}`, { ...settings, signal }, (inner) =>
      serve(reach(endpoint, voterId).feedFor(endpoint.memberId), inner),
    );
  return {
    view: async (knownDigest, signal) => {
      const askedMs = endpoint.process.monotonicMs();
      const view = await ask("view", signal, (feed, inner) => feed.view(knownDigest, inner));
      onAnswer(askedMs);
      return view;
    },
    held: (after, signal) => ask("held", signal, (feed, inner) => feed.held(after, inner)),
    wanted: (after, signal) => ask("wanted", signal, (feed, inner) => feed.wanted(after, inner)),
    dropped: (signal) => ask("dropped", signal, (feed, inner) => feed.dropped(inner)),
    look: (extents, { fresh, signal }) =>
      ask("look", signal, (feed, inner) => feed.look(extents, { fresh, signal: inner })),
    openFile: (ref, options = {}) =>
      ask("open", options.signal, (feed, inner) => feed.openFile(ref, { ...options, signal: inner })),
    propose: (command, { timeoutMs, signal }) =>
      ask("propose", signal, (feed, inner) => feed.propose(command, { timeoutMs, signal: inner }), {
        deadlineMs: timeoutMs + ANSWER_GRACE_MS,
        lost: () => new DriveError("COMMIT_OUTCOME_UNKNOWN", "The connection to the voter broke."),
      }),
  };
}

/** What clients may ask, handed on to whichever voter answers, the one that did last first. */
export function simVoterClients(endpoint: SimEndpoint, contacts: readonly SimVoterContact[]): VoterClients {
  let voterIds = contacts.map(({ memberId }) => memberId);
  const handOn = async (
    label: string,
    parameters: readonly unknown[],
    target: (node: DriveNode) => object,
  ): Promise<unknown> => {
    // The bytes of a file pass once: they cannot be told to a second voter.
    const attemptIds = label === "putFile" ? voterIds.slice(0, 1) : voterIds;
    let last: unknown;
    for (const voterId of attemptIds) {
      try {
        return await handOnTo(endpoint, voterId, label, parameters, target);
      } catch (error) {
        last = error;
        voterIds = [...voterIds.filter((id) => id !== voterId), voterId];
        if (!hasReason(error, ...PASSING_REASONS)) throw error;
      }
    }
    throw must(last, "there is a voter to ask");
  };
  const proxy = <T extends object>(target: (node: DriveNode) => T): T =>
    new Proxy({} as T, {
      get:
        (_, name) =>
        (...parameters: readonly unknown[]) =>
          handOn(String(name), parameters, target),
    });
  return {
    drive: proxy((node) => node.drive),
    admin: proxy((node) => node.admin),
    setAddresses: (addresses) => {
      voterIds = addresses.map(memberOfAddress);
    },
    close: () => undefined,
  };
}

function handOnTo(
  endpoint: SimEndpoint,
  voterId: number,
  label: string,
  parameters: readonly unknown[],
  target: (node: DriveNode) => object,
): Promise<unknown> {
  const lost = (): Error =>
    new DriveError("COMMIT_OUTCOME_UNKNOWN", `The connection to member ${voterId} broke.`);
  const signal = parameters.map(signalOf).find((each) => each !== undefined);
  const options = { deadlineMs: HANDED_ON_TIMEOUT_MS, signal, lost };
  return call(endpoint, voterId, label, options, async (inner) => {
    const callee = target(reach(endpoint, voterId));
    const method = Reflect.get(callee, label) as (...values: readonly unknown[]) => Promise<unknown>;
    return method.apply(
      callee,
      parameters.map((value) => withSignal(value, inner)),
    );
  });
}

/** The caller's signal, as an argument or among options. */
function signalOf(value: unknown): AbortSignal | undefined {
  if (value instanceof AbortSignal) return value;
  if (typeof value !== "object" || value === null || !("signal" in value)) return undefined;
  return value.signal instanceof AbortSignal ? value.signal : undefined;
}

/** The same argument with the signal of the callee's side. */
function withSignal(value: unknown, signal: AbortSignal): unknown {
  if (value instanceof AbortSignal) return signal;
  return signalOf(value) === undefined ? value : { ...(value as object), signal };
}

function memberOfAddress(address: string): number {
  return Number(/^10\.0\.0\.(\d+):/u.exec(address)?.[1]);
}
