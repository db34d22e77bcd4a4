/**
 * The table of settings: for every field of Config its outside names, its values and what it does.
 *
 * One row gives the key in a file, the environment variables, the flag of `netdisk serve`, the checks, the line of
 * documentation and the example file; a test compares the rows with the fields of defaultConfig(). Parsing is here too: from
 * text (environment, flags) and from what YAML gives. Names without the NETDISK_ prefix are those of the roadmap.
 */
import { findAddress, isHost } from "./address.ts";
import { ENTRY_CACHES, LOG_LEVELS } from "./config.ts";
import { parseRedisUrl } from "./redis-url.ts";

/** What values a setting takes. Bounds are inclusive. */
export type SettingKind =
  | { readonly type: "integer"; readonly min: number; readonly max: number; readonly unit: string }
  | { readonly type: "text"; readonly pattern: RegExp; readonly rule: string }
  | { readonly type: "choice"; readonly choices: readonly string[] }
  | { readonly type: "address" }
  | { readonly type: "addresses"; readonly countMax: number }
  | { readonly type: "url"; readonly schemes: readonly string[]; readonly bareAddress: boolean }
  | { readonly type: "redis" };

/** One row of the table. */
export interface Setting {
  /** Section and field in Config and in a file, such as "http.port". */
  readonly key: string;
  /** Environment variables, the most specific last: when several are set the last one counts. */
  readonly environment: readonly string[];
  /** Flag of `netdisk serve`, such as "--http-port". */
  readonly flag: string;
  readonly kind: SettingKind;
  /** Whether it may be absent (null in a file, empty in the environment). */
  readonly optional: boolean;
  /** Whether its value is hidden where configuration is printed: URLs with passwords. */
  readonly secret: boolean;
  /** One or two sentences for the example file and the help. */
  readonly description: string;
}

/** A value that a setting can have; which one follows from its kind. */
export type SettingValue = string | number | readonly string[] | undefined;

/** Nodes that PEERS may name. */
export const PEER_COUNT_MAX = 64;

const MIB = 1024 * 1024;
const TIB = 1024 * 1024 * MIB;

interface RowOptions {
  /** Instead of the one made from the key. */
  readonly flag?: string;
  readonly environment?: readonly string[];
  readonly optional?: boolean;
  readonly secret?: boolean;
}

function row(key: string, kind: SettingKind, description: string, options: RowOptions = {}): Setting {
  const words = key
    .replace(/([A-Z])/g, "-$1")
    .replace(".", "-")
    .toLowerCase();
  return {
    key,
    kind,
    description,
    flag: options.flag ?? `--${words}`,
    environment: [...(options.environment ?? []), `NETDISK_${words.replaceAll("-", "_").toUpperCase()}`],
    optional: options.optional ?? false,
    secret: options.secret ?? false,
  };
}

const integer = (min: number, max: number, unit: string): SettingKind => ({
  type: "integer",
  min,
  max,
  unit,
});
const LABEL = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const LABEL_RULE = "1 to 64 letters, digits, dots, hyphens and underscores, starting with a letter or digit";

/** Every setting, in the order of the example file. */
export const SETTINGS: readonly Setting[] = [
  row(
    "node.id",
    { type: "text", pattern: LABEL, rule: LABEL_RULE },
    "Label of this node in logs and status. Its identity is the member id in the data directory.",
    { environment: ["NODE_ID"] },
  ),
  row(
    "node.address",
    { type: "address" },
    "host:port where gRPC listens. Anyone who reaches it can read and write everything: keep it on a private network.",
    { environment: ["NODE_ADDR"] },
  ),
  row(
    "node.zone",
    { type: "text", pattern: /^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$/, rule: `empty, or ${LABEL_RULE}` },
    "Failure domain: copies of a file go to different zones first. Empty: the node is a zone of its own.",
  ),
  row(
    "node.stopGraceMs",
    integer(0, 600_000, "milliseconds"),
    "How long requests in hand may finish when the node is told to stop.",
  ),
  row(
    "cluster.peers",
    { type: "addresses", countMax: PEER_COUNT_MAX },
    "gRPC addresses of the nodes that form the cluster, with or without this one. Empty: a cluster of one.",
    { environment: ["PEERS"] },
  ),
  row(
    "cluster.me",
    { type: "address" },
    "This node's own address as its peers reach it, when it is not node.address (a wildcard, a container).",
    { environment: ["ME"], optional: true },
  ),
  row(
    "cluster.joinToken",
    { type: "text", pattern: /^[\x21-\x7e]{1,256}$/, rule: "a token of netdisk cluster add" },
    "Joins the cluster of cluster.peers with a token instead of forming one. Ignored once the node belongs to it.",
    { flag: "--join", optional: true, secret: true },
  ),
  row(
    "cluster.heartbeatMs",
    integer(50, 60_000, "milliseconds"),
    "Time between heartbeats to each peer. Shorter finds failures sooner and costs more messages.",
  ),
  row(
    "cluster.suspectAfterMs",
    integer(100, 600_000, "milliseconds"),
    "Silence after which a peer is suspect: new copies and reads prefer others. At least two heartbeats.",
  ),
  row(
    "cluster.downAfterMs",
    integer(200, 86_400_000, "milliseconds"),
    "Silence after which a peer is down: copies it was yet to make are made elsewhere. Longer than suspectAfterMs.",
  ),
  row(
    "cluster.lostAfterMs",
    integer(1000, 30 * 86_400_000, "milliseconds"),
    "How long a peer is down until it is given up: all its copies are made anew elsewhere. Longer than a restart takes.",
  ),
  row(
    "data.directory",
    { type: "text", pattern: /^[^\0]{1,4096}$/, rule: "a path of 1 to 4,096 characters" },
    "Directory of this node's state. One process at a time; never shared between nodes.",
  ),
  row(
    "data.reserveBytes",
    integer(0, 16 * TIB, "bytes"),
    "Space kept free. Below it the node refuses writes, and goes on with reads, deletes and repair.",
  ),
  row(
    "data.orphanPercentMax",
    integer(0, 100, "percent"),
    "Share of the chunk store that one sweep may remove as unknown to the tree. More stops the sweep: look first, then raise it.",
  ),
  row(
    "http.host",
    { type: "text", pattern: /^[^\0]{1,253}$/, rule: "a host name or IP address" },
    "Where the HTTP gateway listens. Loopback means this machine only; 0.0.0.0 means everyone.",
  ),
  row("http.port", integer(1, 65_535, "a TCP port"), "Port of the HTTP gateway."),
  row(
    "http.publicUrl",
    { type: "url", schemes: ["http", "https"], bareAddress: false },
    "URL at which clients reach this gateway; other nodes redirect downloads to it. Absent: they never do.",
    { environment: ["PUBLIC_URL"], optional: true },
  ),
  row(
    "http.requestsPerAddressMax",
    integer(0, 100_000, "requests"),
    "Requests that one client address may send in http.requestWindowMs; more get 429. 0: any number. With Redis all gateways count together.",
  ),
  row("http.requestsMax", integer(0, 100_000, "requests"), "The same for all client addresses together."),
  row(
    "http.requestWindowMs",
    integer(1000, 3_600_000, "milliseconds"),
    "Time that the two bounds above are for. So many requests may come at once, and then as many in this time.",
  ),
  row(
    "raft.tickMs",
    integer(5, 1000, "milliseconds"),
    "Length of a tick, the unit of the two settings below.",
  ),
  row(
    "raft.electionTicks",
    integer(3, 1000, "ticks"),
    "Ticks without a leader until an election; every node adds up to as many again by chance. Equal on all nodes.",
  ),
  row(
    "raft.heartbeatTicks",
    integer(1, 100, "ticks"),
    "Ticks between heartbeats of the leader. Less than electionTicks, best a fifth of it or less.",
  ),
  row(
    "raft.snapshotLogEntryCount",
    integer(1000, 10_000_000, "log entries"),
    "Log entries between snapshots. Fewer restarts faster; more lets a node that was away catch up without a snapshot.",
  ),
  row(
    "transfer.inFlightBytesMax",
    integer(8 * MIB, 64 * 1024 * MIB, "bytes"),
    "Bytes of uploads in memory at once, and as many of downloads. Beyond it uploads wait, and downloads go on in pieces of 128 KiB.",
  ),
  row(
    "cache.entries",
    { type: "choice", choices: ENTRY_CACHES },
    "Where entries that were looked up are kept for the next who asks. A node that has the tree is fastest without.",
  ),
  row("log.level", { type: "choice", choices: LOG_LEVELS }, "How much is logged: one JSON object a line."),
  row(
    "services.postgresUrl",
    { type: "url", schemes: ["postgres", "postgresql"], bareAddress: true },
    "PostgreSQL for search and reports, as a URL or host:port. TLS with ?sslmode=require, verify-ca or verify-full. Never needed to serve.",
    { environment: ["POSTGRES_URL"], optional: true, secret: true },
  ),
  row(
    "services.postgresPasswordFile",
    { type: "text", pattern: /^.{1,4096}$/, rule: "a path of at most 4,096 characters" },
    "File with the password for PostgreSQL, in place of one in the URL.",
    { environment: ["POSTGRES_PASSWORD_FILE"], optional: true },
  ),
  row(
    "services.postgresCaFile",
    { type: "text", pattern: /^.{1,4096}$/, rule: "a path of at most 4,096 characters" },
    "File with the certificates (PEM) of issuers to trust for PostgreSQL's own, in place of sslrootcert in the URL. Alone it means sslmode=verify-full.",
    { environment: ["POSTGRES_CA_FILE"], optional: true },
  ),
  row(
    "services.redisUrl",
    { type: "redis" },
    "Redis, shared by the nodes for what may be lost at any time. rediss:// is TLS. Never needed to serve.",
    { environment: ["REDIS_URL"], optional: true, secret: true },
  ),
  row(
    "services.redisPasswordFile",
    { type: "text", pattern: /^.{1,4096}$/, rule: "a path of at most 4,096 characters" },
    "File with the password for Redis, in place of one in the URL.",
    { environment: ["REDIS_PASSWORD_FILE"], optional: true },
  ),
  row(
    "services.redisCaFile",
    { type: "text", pattern: /^.{1,4096}$/, rule: "a path of at most 4,096 characters" },
    "File with the certificate (PEM) of the authority that signed that of Redis, for rediss://. Absent: the machine's own authorities.",
    { environment: ["REDIS_CA_FILE"], optional: true },
  ),
  row(
    "services.rabbitmqUrl",
    { type: "url", schemes: ["amqp", "amqps"], bareAddress: true },
    "RabbitMQ, which hands background tasks to the nodes, as a URL or host:port; amqps:// is TLS, the path is the virtual host, one for each cluster. Never needed to serve.",
    { environment: ["RABBITMQ_URL"], optional: true, secret: true },
  ),
  row(
    "services.rabbitmqPasswordFile",
    { type: "text", pattern: /^.{1,4096}$/, rule: "a path of at most 4,096 characters" },
    "File with the password for RabbitMQ, in place of one in the URL.",
    { environment: ["RABBITMQ_PASSWORD_FILE"], optional: true },
  ),
  row(
    "services.rabbitmqCaFile",
    { type: "text", pattern: /^.{1,4096}$/, rule: "a path of at most 4,096 characters" },
    "File with the certificate (PEM) of the authority that signed that of RabbitMQ, for amqps://. Absent: the machine's own authorities.",
    { environment: ["RABBITMQ_CA_FILE"], optional: true },
  ),
];

/** A value, or one sentence that says what is wrong with it. */
export type Parsed = { readonly value: SettingValue } | { readonly problem: string };

/** What the kind asks for, as the end of "must be ...". */
export function describeKind(kind: SettingKind): string {
  switch (kind.type) {
    case "integer":
      return `an integer from ${kind.min} to ${kind.max} (${kind.unit})`;
    case "text":
      return kind.rule;
    case "choice":
      return `one of ${kind.choices.join(", ")}`;
    case "address":
      return "host:port with a port from 1 to 65535";
    case "addresses":
      return `at most ${kind.countMax} different host:port, separated by commas`;
    case "url": {
      const schemes = kind.schemes.map((scheme) => `${scheme}://`).join(" or ");
      return `a URL that starts with ${schemes}${kind.bareAddress ? ", or host:port" : ""}`;
    }
    case "redis":
      return "host:port, redis://host or rediss://host; several nodes of a cluster with commas between, or one after redis+cluster:// or rediss+cluster://";
  }
}

/** Reads the text of an environment variable or flag. An empty text is "absent" where that is allowed. */
export function parseText(setting: Setting, text: string): Parsed {
  const { kind } = setting;
  if (text === "" && setting.optional) return { value: undefined };
  if (kind.type === "integer") {
    return parseValue(setting, /^[+-]?\d+$/.test(text.trim()) ? Number(text) : text);
  }
  if (kind.type === "addresses") {
    return parseValue(
      setting,
      text
        .split(",")
        .map((part) => part.trim())
        .filter((part) => part !== ""),
    );
  }
  return parseValue(setting, text.trim());
}

/** Checks a value of any type, as a file gives it. */
export function parseValue(setting: Setting, value: unknown): Parsed {
  const { kind } = setting;
  if ((value === null || value === undefined) && setting.optional) return { value: undefined };
  const shown = setting.secret ? "the value given" : (JSON.stringify(value) ?? String(value));
  const problem = { problem: `must be ${describeKind(kind)}, not ${shown}` };
  if (kind.type === "integer") {
    const fits =
      typeof value === "number" && Number.isSafeInteger(value) && value >= kind.min && value <= kind.max;
    return fits ? { value } : problem;
  }
  if (kind.type === "addresses") {
    return isAddressList(value, kind.countMax) ? { value: Object.freeze([...value]) } : problem;
  }
  return typeof value === "string" && textFits(setting, value) ? { value } : problem;
}

function isAddressList(value: unknown, countMax: number): value is string[] {
  return (
    Array.isArray(value) &&
    value.length <= countMax &&
    value.every((part) => typeof part === "string" && findAddress(part) !== undefined) &&
    new Set(value).size === value.length
  );
}

function textFits(setting: Setting, text: string): boolean {
  const { kind } = setting;
  switch (kind.type) {
    case "text":
      return kind.pattern.test(text) && (setting.key !== "http.host" || isHost(text));
    case "choice":
      return kind.choices.includes(text);
    case "address":
      return findAddress(text) !== undefined;
    case "url":
      return urlFits(kind.schemes, kind.bareAddress, text);
    case "redis":
      return parseRedisUrl(text) !== undefined;
    case "integer":
    case "addresses":
      return false;
  }
}

function urlFits(schemes: readonly string[], bareAddress: boolean, text: string): boolean {
  if (bareAddress && findAddress(text) !== undefined) return true;
  if (!URL.canParse(text)) return false;
  const url = new URL(text);
  return schemes.includes(url.protocol.slice(0, -1)) && url.hostname !== "";
}
