/**
 * What Consensus is built from, takes and shows: its options, those of a request, and its status. Types only.
 */
import type { Status } from "../raft/raft-node.ts";
import type { PlantedFault } from "../raft/planted-faults.ts";
import type { MemberId } from "../raft/types.ts";
import type { Clock } from "../std/clock.ts";
import type { Disk } from "../std/disk.ts";
import type { OrderedStoreProvider } from "../std/ordered-store.ts";
import type { Prng } from "../std/prng.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { StateMachine } from "./state-machine.ts";
import type { ProposalForwarder, RaftTransport } from "./transport.ts";
import type { ConsensusTuning } from "./tuning.ts";

/** Settings and dependencies of a Consensus. */
export interface ConsensusOptions<Result> {
  readonly clusterId: string;
  readonly memberId: MemberId;
  /** The voters that the cluster was formed with; the same on all of them, and used only when the data is made. */
  readonly initialVoters: readonly MemberId[];
  readonly disk: Disk;
  /** Belongs to consensus alone; its parent exists. */
  readonly directory: string;
  /**
   * Whether log and state are made when both are absent, or are DATA_CORRUPT because they must exist: "refuse" once
   * onCreated() has ended for this member id, since an empty log must not vote under an id that was used.
   */
  readonly whenAbsent: "create" | "refuse";
  /**
   * Makes it durable, outside `directory`, that log and state exist. Awaited by each start with "create" once they do, before
   * this member takes part; when it rejects, so does start().
   */
  readonly onCreated: () => Promise<void>;
  /** Where the generations of the replicated store live. */
  readonly stores: OrderedStoreProvider;
  readonly clock: Clock;
  readonly prng: Prng;
  readonly logger: Logger;
  readonly metrics?: Metrics | undefined;
  readonly transport: RaftTransport;
  readonly forwarder: ProposalForwarder;
  readonly stateMachine: StateMachine<Result>;
  /** The form of a result on its way to a follower that forwarded the proposal. */
  readonly encodeResult: (result: Result) => Uint8Array;
  readonly decodeResult: (bytes: Uint8Array) => Result;
  /** Called once, with what makes it impossible to go on: the process must end. */
  readonly onFatal: (error: Error) => void;
  readonly tuning?: Partial<ConsensusTuning> | undefined;
  readonly logCacheSizeBytesMax?: number | undefined;
  readonly logSegmentSizeBytes?: number | undefined;
  /** A historical bug to show, in tests alone. */
  readonly plantedFault?: PlantedFault | undefined;
}

/** Options of propose() and linearize(). */
export interface RequestOptions {
  /** From 1; the tuning's requestTimeoutMs when absent. */
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A node's view of consensus. */
export interface ConsensusStatus extends Status {
  readonly clusterId: string;
  /** Highest index that the replicated store has durably. */
  readonly flushedIndex: number;
  /** Bytes of the entries in the log. */
  readonly logSizeBytes: number;
  /** Proposals and reads that wait. */
  readonly proposalCount: number;
  readonly readCount: number;
  /** Times that a member's state was seen to differ at the same index. */
  readonly disagreementCount: number;
}
