/**
 * ClusterAdmin over gRPC, for the command line: any of several nodes, with fail-over. Changes get a request id when the caller gave
 * none, so that they can be repeated at another node without happening twice.
 */
import type {
  AdminOptions,
  BegunChange,
  ClusterAdmin,
  JoinToken,
  JoinTokenRequest,
  MembershipStatus,
  TreeBackup,
} from "../drive/cluster-admin.ts";
import type { ReadOptions } from "../drive/drive-api.ts";
import { encodeConsistency, toBigint, toNumber } from "../contract/codec.ts";
import { toHex } from "../std/bytes.ts";
import type { Clock } from "../std/clock.ts";
import type { Prng } from "../std/prng.ts";
import { ChannelPool } from "./channel-pool.ts";
import { Failover } from "./failover.ts";
import { decodeMembership } from "./membership-codec.ts";

/** Bytes of a request id made here, before hexadecimal. */
const REQUEST_ID_RANDOM_SIZE_BYTES = 16;

/** The membership of a cluster elsewhere. */
export class RemoteClusterAdmin implements ClusterAdmin {
  readonly #pool: ChannelPool;
  readonly #prng: Prng;
  readonly #failover: Failover;

  /** @param options as RemoteDriveOptions */
  constructor(options: {
    readonly addresses: readonly string[];
    readonly clock: Clock;
    readonly prng: Prng;
    readonly timeoutMs?: number | undefined;
  }) {
    this.#prng = options.prng;
    this.#pool = new ChannelPool({ clock: options.clock });
    this.#failover = new Failover({ ...options, pool: this.#pool });
  }

  /** From now on these nodes are asked. */
  setAddresses(addresses: readonly string[]): void {
    this.#failover.setAddresses(addresses);
  }

  /** Closes all connections. Idempotent. */
  close(): void {
    this.#pool.close();
  }

  createJoinToken(request: JoinTokenRequest, options: AdminOptions = {}): Promise<JoinToken> {
    const { secret, lifetimeMs = 0, replacesNode = "", storageOnly = false } = request;
    const fields = { secret, replacesNode, storageOnly, ...this.#requestId(options) };
    const message = { lifetimeMs: toBigint(lifetimeMs), ...fields };
    return this.#failover.run(options.signal, async ({ cluster }) => {
      const answer = await cluster.createJoinToken(message, { signal: options.signal });
      return { token: answer.token, lifetimeMs: toNumber(answer.lifetimeMs, "lifetime_ms") };
    });
  }

  removeNode(
    node: string,
    settings: { readonly force: boolean },
    options: AdminOptions = {},
  ): Promise<BegunChange> {
    const message = { node, force: settings.force, ...this.#requestId(options) };
    return this.#failover.run(options.signal, async ({ cluster }) => {
      const { changeId } = await cluster.removeNode(message, { signal: options.signal });
      return { changeId: toNumber(changeId, "change_id") };
    });
  }

  transferLeadership(node: string | undefined, options: AdminOptions = {}): Promise<BegunChange> {
    const message = { node: node ?? "", ...this.#requestId(options) };
    return this.#failover.run(options.signal, async ({ cluster }) => {
      const { changeId } = await cluster.transferLeadership(message, { signal: options.signal });
      return { changeId: toNumber(changeId, "change_id") };
    });
  }

  backUpTree({ signal }: { readonly signal?: AbortSignal | undefined } = {}): Promise<TreeBackup> {
    return this.#failover.run(signal, async ({ cluster }) => {
      const { index, sizeBytes, madeTimeMs, isNew } = await cluster.backUpTree({}, { signal });
      return {
        index: toNumber(index, "index"),
        sizeBytes: toNumber(sizeBytes, "size_bytes"),
        wallTimeMs: toNumber(madeTimeMs, "made_time_ms"),
        isNew,
      };
    });
  }

  membership(options: ReadOptions = {}): Promise<MembershipStatus> {
    const { signal, consistency } = options;
    return this.#failover.run(signal, async ({ cluster }) => {
      const request = { consistency: encodeConsistency(consistency) };
      return decodeMembership((await cluster.getMembership(request, { signal })).status);
    });
  }

  #requestId({ requestId }: AdminOptions): { readonly requestId: string } {
    return { requestId: requestId ?? toHex(this.#prng.bytes(REQUEST_ID_RANDOM_SIZE_BYTES)) };
  }
}
