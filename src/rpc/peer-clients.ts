/**
 * Typed clients of the peers' services by member id: address look-up, identity headers and channels in one place.
 *
 * A client is kept as long as the member's address stays the same. Callers ask again for each call or stream, so a member that
 * moved is found at its new address.
 */
import { AssignmentService } from "../../gen/netdisk/peer/v1/assignment_service_pb.ts";
import { NodeService } from "../../gen/netdisk/peer/v1/node_service_pb.ts";
import { RaftService } from "../../gen/netdisk/peer/v1/raft_service_pb.ts";
import { ReplicaService } from "../../gen/netdisk/peer/v1/replica_service_pb.ts";
import { DriveError } from "../drive/errors.ts";
import type { Clock } from "../std/clock.ts";
import type { ChannelPool } from "./channel-pool.ts";
import { createGrpcClient, type GrpcClient } from "./client-adapter.ts";
import { peerHeaders, type IdentitySource } from "./peer-identity.ts";

/** Where members are. */
export interface PeerDirectory {
  /** host:port of the member's gRPC server; undefined while it is not known. */
  addressOf(memberId: number): string | undefined;
}

/** The clients of one peer. */
export interface PeerClient {
  readonly memberId: number;
  readonly address: string;
  /** Raft, over the control connection. */
  readonly raft: GrpcClient<typeof RaftService>;
  /** Heartbeats, over the control connection. */
  readonly node: GrpcClient<typeof NodeService>;
  /** Assignments and the small part of the tree, over the control connection. */
  readonly assignments: GrpcClient<typeof AssignmentService>;
  /** The chunk store, over the bulk connection. */
  readonly replica: GrpcClient<typeof ReplicaService>;
  /** Snapshots, over the bulk connection. */
  readonly bulkRaft: GrpcClient<typeof RaftService>;
}

/** Clients by member id. */
export class PeerClients {
  readonly #pool: ChannelPool;
  readonly #directory: PeerDirectory;
  readonly #identity: IdentitySource;
  readonly #clock: Clock;
  readonly #clients = new Map<number, PeerClient>();

  /** @param dependencies `identity` gives this node's, for the headers of every call */
  constructor(dependencies: {
    readonly pool: ChannelPool;
    readonly directory: PeerDirectory;
    readonly identity: IdentitySource;
    readonly clock: Clock;
  }) {
    this.#pool = dependencies.pool;
    this.#directory = dependencies.directory;
    this.#identity = dependencies.identity;
    this.#clock = dependencies.clock;
  }

  /** The clients of a member; undefined while its address is not known. */
  find(memberId: number): PeerClient | undefined {
    const address = this.#directory.addressOf(memberId);
    if (address === undefined) return undefined;
    const known = this.#clients.get(memberId);
    if (known?.address === address) return known;
    const headers = peerHeaders(this.#identity(), memberId);
    const adapter = { clock: this.#clock, address, headers };
    const control = { ...adapter, channel: this.#pool.channel(address, "control") };
    const bulk = { ...adapter, channel: this.#pool.channel(address, "bulk") };
    const client: PeerClient = {
      memberId,
      address,
      raft: createGrpcClient(RaftService, control),
      node: createGrpcClient(NodeService, control),
      assignments: createGrpcClient(AssignmentService, control),
      replica: createGrpcClient(ReplicaService, bulk),
      bulkRaft: createGrpcClient(RaftService, bulk),
    };
    this.#clients.set(memberId, client);
    return client;
  }

  /** As find(). Throws PEER_UNREACHABLE while the address is not known. */
  get(memberId: number): PeerClient {
    const client = this.find(memberId);
    if (client !== undefined) return client;
    throw new DriveError("PEER_UNREACHABLE", `The address of member ${memberId} is not known.`, {
      member_id: String(memberId),
    });
  }

  /**
   * The clients of a member once its connection stands, so that a later failure means a call that may have arrived.
   * @throws DriveError PEER_UNREACHABLE: nothing was sent
   */
  async connect(memberId: number): Promise<PeerClient> {
    const client = this.get(memberId);
    await this.#pool.connect(client.address, "control");
    return client;
  }
}
