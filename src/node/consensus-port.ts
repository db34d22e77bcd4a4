/**
 * The MetadataPort over Consensus: commands become bytes here and nowhere else.
 *
 * Every proposal gets the node's wall time, which is display data, and, when it carries a request id, a deadline in cluster
 * time: it may be applied only as long as its answer is remembered.
 */
import type { MetadataPort, ProposeOptions } from "../cluster/metadata-port.ts";
import type { Consensus } from "../consensus/consensus.ts";
import { REQUEST_RETENTION_MS } from "../drive/limits.ts";
import { encodeCommand } from "../metadata/codec.ts";
import type { CommandBody, CommandResult } from "../metadata/commands.ts";
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
