/**
 * Joining a cluster with a token, from an empty data directory: asks the configured peers until one of them has admitted this node.
 *
 * The member id was drawn and stored when the directory was formatted, so asking again after a crash is the same request. What
 * the cluster says for good (the token is used, it is another cluster) ends the attempt; anything else is asked again.
 */
import { DriveError, hasReason, type ErrorReason } from "../drive/errors.ts";
import { sleep, type Clock } from "../std/clock.ts";
import type { ClusterProposal, FoundingMember } from "./bootstrap-identity.ts";
import type { JoinRequest } from "./membership.ts";

/** Pause between rounds of asking all peers. */
export const JOIN_ASK_INTERVAL_MS = 500;

/** What no other node would answer otherwise. */
const FINAL_REASONS: readonly ErrorReason[] = [
  "JOIN_TOKEN_INVALID",
  "WRONG_CLUSTER",
  "MEMBER_REMOVED",
  "VERSION_UNSUPPORTED",
  "ARGUMENT_INVALID",
];

/** What a node that was admitted is told. */
export interface JoinAnswer {
  /** The cluster as it was founded: its log begins with these voters. */
  readonly cluster: ClusterProposal;
  /** The members now, and where they are. */
  readonly members: readonly FoundingMember[];
}

/** How a node asks to be admitted. */
export interface JoinOptions {
  readonly token: string;
  /** Asks the node at `address`. */
  readonly ask: (address: string, request: JoinRequest) => Promise<JoinAnswer>;
  /** The configured peers, host names resolved to each of their addresses; asked anew for each round. */
  readonly addresses: () => Promise<readonly string[]>;
}

/**
 * Asks until this node is admitted. Rejects with the signal's reason.
 * @param onWait hears one sentence for the operator while there is a reason to wait
 * @throws DriveError JOIN_TOKEN_INVALID, WRONG_CLUSTER, MEMBER_REMOVED, VERSION_UNSUPPORTED, ARGUMENT_INVALID
 */
export async function joinWithToken(
  options: JoinOptions,
  self: Omit<JoinRequest, "token">,
  context: {
    readonly clock: Clock;
    readonly signal: AbortSignal | undefined;
    readonly onWait: (reason: string) => void;
  },
): Promise<JoinAnswer> {
  const { clock, signal, onWait } = context;
  for (;;) {
    const addresses = await options.addresses();
    if (addresses.length === 0) {
      throw new DriveError(
        "CONFIGURATION_INVALID",
        "To join a cluster the addresses of its nodes are needed.",
        {
          problems: "cluster.peers: is empty",
        },
      );
    }
    for (const address of addresses) {
      signal?.throwIfAborted();
      try {
        return await options.ask(address, { ...self, token: options.token });
      } catch (error) {
        if (!(error instanceof DriveError) || FINAL_REASONS.includes(error.reason)) throw error;
        // What the cluster says is said once, whichever node says it.
        const isOfCluster = hasReason(error, "ADDRESS_IN_USE", "MEMBERSHIP_CHANGE_IN_PROGRESS");
        const asked = isOfCluster ? "" : `asking the node at ${address} (cluster.peers) failed: `;
        onWait(`Waiting to be admitted: ${asked}${error.message}`);
      }
    }
    await sleep(clock, JOIN_ASK_INTERVAL_MS, signal);
  }
}
