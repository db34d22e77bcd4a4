/**
 * The port through which the data plane talks to the replicated tree: propose a command, make a read linearizable, read.
 *
 * node/ wires it to consensus/ (locally on voters, forwarding to the leader); tests and the simulator use the same wiring over
 * a simulated network. Nothing above consensus/ knows Raft otherwise.
 */
import type { CommandBody, CommandResult } from "../metadata/commands.ts";
import type { OrderedReader } from "../std/ordered-store.ts";

/** Options of a proposal. */
export interface ProposeOptions {
  /** "" for commands that are idempotent by themselves. */
  readonly requestId?: string | undefined;
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The replicated tree, as seen from one node. */
export interface MetadataPort {
  /**
   * Proposes a command from any node and waits until it is applied at the leader; its effect is visible to reads that follow
   * linearize() anywhere. Proposals that certainly did not happen are retried inside until the timeout.
   * @returns the answer of the state machine; a rejection is an answer, see unwrap() in cluster/metadata-client.ts
   * @throws DriveError NO_LEADER, OVERLOADED, NODE_STOPPING, FEATURE_LEVEL_TOO_LOW (definite) or COMMIT_OUTCOME_UNKNOWN (indefinite)
   */
  propose(body: CommandBody, options?: ProposeOptions): Promise<CommandResult>;

  /**
   * Resolves when this node's store holds everything that was acknowledged anywhere before the call (ReadIndex, thesis 6.4).
   * @throws DriveError NO_LEADER when no leader confirmed it in time
   */
  linearize(options?: {
    readonly timeoutMs?: number | undefined;
    readonly signal?: AbortSignal | undefined;
  }): Promise<void>;

  /** The local store for metadata/view.ts; changes only between turns of the event loop. Do not hold on to it across a snapshot install: ask again. */
  reader(): OrderedReader;

  /** Highest applied index of the local store. */
  appliedIndex(): number;

  /** The member id of the leader as known here, or undefined. */
  leaderId(): number | undefined;

  /** This node's member id. */
  readonly memberId: number;

  /** Calls `listener(appliedIndex)` after each batch applied to the local store; returns a function that ends it. */
  onApplied(listener: (appliedIndex: number) => void): () => void;
}
