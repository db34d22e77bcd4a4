/**
 * The configuration of one node: its type, and every default in one place.
 *
 * A setting is here only if operators have a reason to change it; what nobody would change is a named constant where it is
 * used. Modules receive their own small options, never Config. config/settings.ts says how each field is named outside and
 * what values it takes; config/load.ts fills it from a file, the environment and flags.
 */

/** How much a node logs: each level includes those before it. */
export const LOG_LEVELS = ["error", "warn", "info", "debug"] as const;

/** One of LOG_LEVELS. */
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Where entries that were looked up are kept for the next who asks. */
export const ENTRY_CACHES = ["off", "memory", "redis"] as const;

/** One of ENTRY_CACHES. */
export type EntryCacheKind = (typeof ENTRY_CACHES)[number];

/** Everything a node can be told. Addresses are "host:port"; an IPv6 host is in brackets. */
export interface Config {
  readonly node: {
    /** Label of the node in logs and status, not its identity: that is the member id in the data directory. */
    readonly id: string;
    /** Where the gRPC services listen. Loopback unless told otherwise: anyone who reaches it can read and write everything. */
    readonly address: string;
    /** Failure domain. Copies of one file go to different zones first. Empty: the node is a zone of its own. */
    readonly zone: string;
    /** Milliseconds that requests in hand get to finish when the node is told to stop. */
    readonly stopGraceMs: number;
  };
  readonly cluster: {
    /** gRPC addresses of the nodes that form the cluster, with or without this one. Empty: a cluster of one. */
    readonly peers: readonly string[];
    /** This node's own address as its peers reach it, when that is not node.address (a wildcard, a container). */
    readonly me: string | undefined;
    /** Token of `netdisk cluster add`, with which a node with an empty data directory joins. Ignored once it belongs. */
    readonly joinToken: string | undefined;
    /** Milliseconds between heartbeats to each peer. Shorter finds failures sooner and costs more messages. */
    readonly heartbeatMs: number;
    /** Silence after which a peer is "suspect": new copies and reads prefer others. */
    readonly suspectAfterMs: number;
    /** Silence after which a peer is "down": copies it was yet to make are made elsewhere. */
    readonly downAfterMs: number;
    /** How long a peer is down until it is given up: all its copies are made anew elsewhere. Longer than a restart takes. */
    readonly lostAfterMs: number;
  };
  readonly data: {
    /** Directory of this node's state. One process at a time; never shared between nodes. */
    readonly directory: string;
    /** Bytes of the file system kept free: below that the node refuses writes, and reads, deletes and repair go on. */
    readonly reserveBytes: number;
    /** Percent of the chunk store that one sweep may remove as unknown to the tree; more stops it until an operator has looked. */
    readonly orphanPercentMax: number;
  };
  readonly http: {
    /** Where the HTTP gateway listens. */
    readonly host: string;
    readonly port: number;
    /** URL at which browsers and other clients reach this gateway; other nodes redirect downloads to it. Absent: never. */
    readonly publicUrl: string | undefined;
    /** Requests that one client address may send in requestWindowMs, at all gateways together where Redis is configured. 0: any number. */
    readonly requestsPerAddressMax: number;
    /** The same for all addresses together. */
    readonly requestsMax: number;
    /** Milliseconds of the two bounds above. */
    readonly requestWindowMs: number;
  };
  readonly raft: {
    /** Milliseconds of a tick, the unit of the two settings below. */
    readonly tickMs: number;
    /** Ticks without a leader until an election; each node adds up to as many again by chance. All nodes alike. */
    readonly electionTicks: number;
    /** Ticks between heartbeats of the leader; less than electionTicks, best a fifth or less. */
    readonly heartbeatTicks: number;
    /** Log entries after which a snapshot is taken and the log is cut. Fewer restarts faster, more lets laggards catch up. */
    readonly snapshotLogEntryCount: number;
  };
  readonly transfer: {
    /** Bytes of uploads in memory at once, and as many of downloads. Beyond it uploads wait and downloads go on in small pieces. */
    readonly inFlightBytesMax: number;
  };
  readonly cache: {
    /** Where entries that were looked up are kept. Off, because the tree of a node is faster than any of them: bench/RESULTS.md. */
    readonly entries: EntryCacheKind;
  };
  readonly log: {
    readonly level: LogLevel;
  };
  /** External services. A node serves without them; what they are good for is with each. */
  readonly services: {
    readonly postgresUrl: string | undefined;
    /** File with the password for it, in place of one in the URL. */
    readonly postgresPasswordFile: string | undefined;
    /** File with the certificates of issuers that its own may come from. */
    readonly postgresCaFile: string | undefined;
    readonly redisUrl: string | undefined;
    /** File with the password for it, in place of one in the URL. */
    readonly redisPasswordFile: string | undefined;
    /** File with the certificate of the authority that signed its own; the machine's authorities when absent. */
    readonly redisCaFile: string | undefined;
    readonly rabbitmqUrl: string | undefined;
    /** File with the password for it, in place of one in the URL. */
    readonly rabbitmqPasswordFile: string | undefined;
    /** File with the certificate of the authority that signed its own; the machine's authorities when absent. */
    readonly rabbitmqCaFile: string | undefined;
  };
}

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;

/** A configuration with every default: a node by itself on loopback. */
export function defaultConfig(): Config {
  return {
    node: { id: "node1", address: "127.0.0.1:29001", zone: "", stopGraceMs: 10_000 },
    cluster: {
      peers: [],
      me: undefined,
      joinToken: undefined,
      // Two lost heartbeats are bad luck, four are a reason to look elsewhere; re-copying waits for a restart to pass.
      heartbeatMs: 500,
      suspectAfterMs: 2000,
      downAfterMs: 15_000,
      lostAfterMs: 15 * 60_000,
    },
    data: { directory: ".netdisk/node1", reserveBytes: GIB, orphanPercentMax: 5 },
    http: {
      host: "127.0.0.1",
      port: 9081,
      publicUrl: undefined,
      requestsPerAddressMax: 0,
      requestsMax: 0,
      requestWindowMs: 10_000,
    },
    // An election starts 500 to 1,000 ms after the last heartbeat: well above a garbage collection, a slow fsync or a busy
    // machine. A leader that dies is noticed sooner, by its broken connections.
    raft: { tickMs: 50, electionTicks: 10, heartbeatTicks: 2, snapshotLogEntryCount: 100_000 },
    transfer: { inFlightBytesMax: 64 * MIB },
    cache: { entries: "off" },
    log: { level: "info" },
    services: {
      postgresUrl: undefined,
      postgresPasswordFile: undefined,
      postgresCaFile: undefined,
      redisUrl: undefined,
      redisPasswordFile: undefined,
      redisCaFile: undefined,
      rabbitmqUrl: undefined,
      rabbitmqPasswordFile: undefined,
      rabbitmqCaFile: undefined,
    },
  };
}

/** This node's gRPC address as its peers know it. */
export function selfAddress(config: Config): string {
  return config.cluster.me ?? config.node.address;
}

/** The gRPC addresses of the other nodes, in the order given, whether or not PEERS named this one too. */
export function peerAddresses(config: Config): readonly string[] {
  const self = selfAddress(config);
  return config.cluster.peers.filter((address) => address !== self);
}
