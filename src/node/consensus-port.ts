/**
 * The ports of cluster/ over Consensus: commands become bytes here and nowhere else, and membership changes conf changes.
 *
 * Every proposal gets the node's wall time, which is display data, and, when it carries a request id, a deadline in cluster
 * time: it may be applied only as long as its answer is remembered.
 */
import type { ConsensusMembership, MembershipView, MemberStep } from "../cluster/consensus-membership.ts";
import type { MetadataPort, ProposeOptions } from "../cluster/metadata-port.ts";
import type { Consensus } from "../consensus/consensus.ts";
import { REQUEST_RETENTION_MS } from "../drive/limits.ts";
import { encodeCommand } from "../metadata/codec.ts";
import type { CommandBody, CommandResult } from "../metadata/commands.ts";
import { checkProposable } from "../metadata/feature-level.ts";
import { clusterTime } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import type { OrderedReader } from "../std/ordered-store.ts";

/** The replicated tree at this node. */
export class ConsensusMetadataPort implements MetadataPort {
  readonly memberId: number;
  readonly #consensus: Consensus<CommandResult>;
  readonly #clock: Clock;

  constructor(dependencies: {
    readonly consensus: Consensus<CommandResult>;
    readonly clock: Clock;
    readonly memberId: number;
  }) {
    this.memberId = dependencies.memberId;
    this.#consensus = dependencies.consensus;
    this.#clock = dependencies.clock;
  }

  async propose(body: CommandBody, options: ProposeOptions = {}): Promise<CommandResult> {
    const { requestId = "", timeoutMs, signal } = options;
    checkProposable(this.reader(), body);
    // A node that lags knows an older cluster time, so the deadline is early rather than late: never beyond what is remembered.
    const deadlineMs = requestId === "" ? 0 : clusterTime(this.reader()) + REQUEST_RETENTION_MS;
    const data = encodeCommand({ requestId, deadlineMs, wallTimeMs: this.#clock.wallMs(), body });
    return (await this.#consensus.propose(data, { timeoutMs, signal })).result;
  }

  linearize(
    options: { readonly timeoutMs?: number | undefined; readonly signal?: AbortSignal | undefined } = {},
  ): Promise<void> {
    return this.#consensus.linearize(options);
  }

  reader(): OrderedReader {
    return this.#consensus.reader();
  }

  appliedIndex(): number {
    return this.#consensus.appliedIndex();
  }

  leaderId(): number | undefined {
    return this.#consensus.leaderId();
  }

  onApplied(listener: (appliedIndex: number) => void): () => void {
    return this.#consensus.onApplied(listener);
  }
}

/** Consensus at this node for who changes the membership. */
export class ConsensusMembershipPort implements ConsensusMembership {
  readonly #consensus: Consensus<CommandResult>;

  constructor(consensus: Consensus<CommandResult>) {
    this.#consensus = consensus;
  }

  view(): MembershipView {
    const { role, hasCommittedInTerm, lastIndex, progress } = this.#consensus.status();
    return {
      isLeading: role === "leader" && hasCommittedInTerm,
      config: this.#consensus.confState(),
      lastIndex,
      progress: new Map(
        [...progress].map(([memberId, { matchIndex, recentActive, state }]) => [
          memberId,
          { matchIndex, isActive: recentActive, isStreaming: state === "replicate" },
        ]),
      ),
    };
  }

  async change(steps: readonly MemberStep[]): Promise<void> {
    const transition = steps.length > 1 ? "joint-implicit" : "auto";
    await this.#consensus.changeMembership({ transition, steps });
  }

  transferLeadership(to: number): Promise<void> {
    return this.#consensus.transferLeadership(to);
  }
}
