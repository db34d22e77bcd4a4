/**
 * Connections to other nodes: one per address and purpose, made when first used and kept.
 *
 * "control" carries Raft, votes and heartbeats, "bulk" the bytes of files, each over a TCP connection of its own, so that a
 * heartbeat never waits behind megabytes. A broken connection is made anew after RECONNECT_BACKOFF_MS_MIN to _MAX; calls
 * meanwhile fail at once. Idle and half-open connections are found by keepalive.
 */
import { Client, connectivityState, credentials, type ChannelOptions } from "@grpc/grpc-js";
import { DriveError } from "../drive/errors.ts";
import type { Clock } from "../std/clock.ts";
import {
  CONNECT_TIMEOUT_MS,
  FLOW_CONTROL_WINDOW_BYTES,
  KEEPALIVE_TIMEOUT_MS,
  KEEPALIVE_TIME_MS,
  MESSAGE_SIZE_BYTES_MAX,
  RECONNECT_BACKOFF_MS_MAX,
  RECONNECT_BACKOFF_MS_MIN,
} from "./limits.ts";

/** What a connection is for. */
export type ChannelPurpose = "control" | "bulk";

/** Options of every channel. @param windowBytes HTTP/2 receive window; 0 for the library's default */
export function channelOptions(windowBytes: number): ChannelOptions {
  return {
    "grpc.max_receive_message_length": MESSAGE_SIZE_BYTES_MAX,
    "grpc.max_send_message_length": MESSAGE_SIZE_BYTES_MAX,
    "grpc.keepalive_time_ms": KEEPALIVE_TIME_MS,
    "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS,
    "grpc.initial_reconnect_backoff_ms": RECONNECT_BACKOFF_MS_MIN,
    "grpc.max_reconnect_backoff_ms": RECONNECT_BACKOFF_MS_MAX,
    "grpc.enable_retries": 0,
    "grpc.enable_http_proxy": 0,
    "grpc.service_config_disable_resolution": 1,
    "grpc.enable_channelz": 0,
    // Else channels with equal options share connections across the process.
    "grpc.use_local_subchannel_pool": 1,
    ...(windowBytes > 0 && { "grpc-node.flow_control_window": windowBytes }),
  };
}

/** Settings of ChannelPool. */
export interface ChannelPoolOptions {
  readonly clock: Clock;
  /** HTTP/2 receive window in bytes; 0 for the library's 64 KiB. FLOW_CONTROL_WINDOW_BYTES when absent. */
  readonly windowBytes?: number | undefined;
}

/** Channels by address and purpose. */
export class ChannelPool {
  readonly #clock: Clock;
  readonly #options: ChannelOptions;
  readonly #channels = new Map<string, Client>();
  #closed = false;

  constructor(options: ChannelPoolOptions) {
    this.#clock = options.clock;
    this.#options = channelOptions(options.windowBytes ?? FLOW_CONTROL_WINDOW_BYTES);
  }

  /** The channel to `address` (host:port). Throws NODE_STOPPING after close(). */
  channel(address: string, purpose: ChannelPurpose): Client {
    if (this.#closed) throw new DriveError("NODE_STOPPING", "The connections are closed.");
    const key = `${purpose} ${address}`;
    const known = this.#channels.get(key);
    if (known !== undefined) return known;
    const channel = new Client(address, credentials.createInsecure(), this.#options);
    this.#channels.set(key, channel);
    return channel;
  }

  /**
   * Resolves when the channel has a connection, so that a failure afterwards is one of a call that may have arrived.
   * @throws DriveError PEER_UNREACHABLE after CONNECT_TIMEOUT_MS, or as soon as a connection is refused: nothing was sent
   */
  connect(address: string, purpose: ChannelPurpose, timeoutMs = CONNECT_TIMEOUT_MS): Promise<Client> {
    const channel = this.channel(address, purpose);
    const underlying = channel.getChannel();
    const deadline = this.#clock.wallMs() + timeoutMs;
    return new Promise((resolve, reject) => {
      const check = (): void => {
        const state = underlying.getConnectivityState(true);
        if (state === connectivityState.READY) {
          resolve(channel);
        } else if (state === connectivityState.TRANSIENT_FAILURE || state === connectivityState.SHUTDOWN) {
          reject(unreachable(address));
        } else {
          underlying.watchConnectivityState(state, deadline, (error) => {
            if (error === undefined || error === null) check();
            else reject(unreachable(address));
          });
        }
      };
      check();
    });
  }

  /** Closes the channels to `address`; calls on them fail. */
  forget(address: string): void {
    for (const purpose of ["control", "bulk"]) {
      const key = `${purpose} ${address}`;
      this.#channels.get(key)?.close();
      this.#channels.delete(key);
    }
  }

  /** Closes every channel. Idempotent. */
  close(): void {
    this.#closed = true;
    for (const channel of this.#channels.values()) channel.close();
    this.#channels.clear();
  }
}

function unreachable(address: string): DriveError {
  return new DriveError("PEER_UNREACHABLE", `The node at ${address} cannot be reached.`, { address });
}
