/**
 * ProposalForwarder over gRPC: one pipelined stream to the leader for all proposals of this node.
 *
 * The connection is made before anything is handed to the stream, so a leader that cannot be reached is PEER_UNREACHABLE, and
 * only proposals that may have arrived end as COMMIT_OUTCOME_UNKNOWN.
 */
import type {
  ProposeBatchResponse,
  ProposeRequest,
  ProposeResponse,
} from "../../gen/netdisk/peer/v1/raft_service_pb.ts";
import { ProposeRequestSchema } from "../../gen/netdisk/peer/v1/raft_service_pb.ts";
import { create } from "@bufbuild/protobuf";
import type { ForwardOptions, ForwardedResult, ProposalForwarder } from "../consensus/transport.ts";
import { DriveError } from "../drive/errors.ts";
import type { MemberId } from "../raft/types.ts";
import type { Clock } from "../std/clock.ts";
import { toNumber } from "../contract/codec.ts";
import { decodeFailure } from "./error-codec.ts";
import { BATCH_COUNT_MAX, PROPOSALS_INFLIGHT_MAX, RAFT_QUEUE_BYTES_MAX } from "./limits.ts";
import type { PeerClients } from "./peer-clients.ts";
import { Pipeline } from "./pipeline.ts";

/** The leader answers within the caller's time; the stream is given up when even that answer is so much late. */
const ANSWER_GRACE_MS = 1_000;

/** Forwards proposals; one stream per leader, kept while it is used. */
export class GrpcProposalForwarder implements ProposalForwarder {
  readonly #clients: PeerClients;
  readonly #clock: Clock;
  readonly #pipelines = new Map<MemberId, Pipeline<ProposeRequest, ProposeResponse, ProposeBatchResponse>>();

  constructor(dependencies: { readonly clients: PeerClients; readonly clock: Clock }) {
    this.#clients = dependencies.clients;
    this.#clock = dependencies.clock;
  }

  async propose(leaderId: MemberId, data: Uint8Array, options: ForwardOptions): Promise<ForwardedResult> {
    const timeoutMs = Math.max(1, Math.ceil(options.timeoutMs));
    const answer = await this.#pipeline(leaderId).request(
      (correlationId) => create(ProposeRequestSchema, { correlationId, command: data, timeoutMs }),
      { sizeBytes: data.length, timeoutMs: timeoutMs + ANSWER_GRACE_MS, signal: options.signal },
    );
    const { outcome } = answer;
    switch (outcome.case) {
      case "applied":
        return { index: toNumber(outcome.value.index, "index"), result: outcome.value.result };
      case "failure":
        throw decodeFailure(outcome.value);
      case undefined:
        throw new DriveError("COMMIT_OUTCOME_UNKNOWN", "The leader's answer has no outcome.");
    }
  }

  /** Ends every stream. Idempotent. */
  stop(): void {
    for (const pipeline of this.#pipelines.values()) pipeline.stop();
  }

  #pipeline(leaderId: MemberId): Pipeline<ProposeRequest, ProposeResponse, ProposeBatchResponse> {
    const known = this.#pipelines.get(leaderId);
    if (known !== undefined) return known;
    const pipeline = new Pipeline<ProposeRequest, ProposeResponse, ProposeBatchResponse>({
      clock: this.#clock,
      open: async (batches, signal) => {
        const client = await this.#clients.connect(leaderId);
        const lostReason = "COMMIT_OUTCOME_UNKNOWN";
        return client.raft.proposeBatch(toMessages(batches), { signal, lostReason });
      },
      answersOf: (message) => message.answers,
      batchCountMax: BATCH_COUNT_MAX,
      inflightMax: PROPOSALS_INFLIGHT_MAX,
      inflightBytesMax: RAFT_QUEUE_BYTES_MAX,
      lostReason: "COMMIT_OUTCOME_UNKNOWN",
      peer: `member ${leaderId}`,
    });
    this.#pipelines.set(leaderId, pipeline);
    return pipeline;
  }
}

async function* toMessages(
  batches: AsyncIterable<readonly ProposeRequest[]>,
): AsyncIterable<{ proposals: ProposeRequest[] }> {
  for await (const batch of batches) yield { proposals: [...batch] };
}
