/**
 * Builds the configuration of a node: defaults < file < environment < flags.
 *
 * Every problem of every source is found before anything is reported, each with where it comes from. Unknown keys of the
 * file and unknown NETDISK_ variables are problems: a setting that is misspelled would otherwise be a default in disguise.
 * Reads no file and no environment by itself; what it is given is all it sees.
 */
import { parse as parseYaml } from "yaml";
import { DriveError } from "../drive/errors.ts";
import { findAddress, isWildcard } from "./address.ts";
import { defaultConfig, selfAddress, type Config } from "./config.ts";
import { parseRedisUrl } from "./redis-url.ts";
import { parseText, parseValue, SETTINGS, type Parsed, type Setting, type SettingValue } from "./settings.ts";

/** Where settings come from. */
export interface ConfigSources {
  /** A configuration file: its name, for messages, and its text, YAML or JSON. */
  readonly file?: { readonly path: string; readonly text: string } | undefined;
  /** Environment variables by name. */
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Flags of the command line, by setting key ("http.port"), as text. */
  readonly flags: Readonly<Record<string, string | undefined>>;
}

/** Bytes of a configuration file at most. */
export const CONFIG_FILE_SIZE_BYTES_MAX = 1024 * 1024;

/** NETDISK_ variables that belong to the command line and not to a node. */
const COMMAND_LINE_VARIABLES = new Set(["NETDISK_NODES", "NETDISK_CONFIG"]);

// Kubernetes gives every container such variables for each service, and a service may well be called "netdisk".
const SERVICE_LINK =
  /^NETDISK_(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$/;

/**
 * The configuration that the sources give, frozen.
 * @throws DriveError CONFIGURATION_INVALID that lists every problem with its source; metadata `problems` has one a line
 */
export function loadConfig(sources: ConfigSources): Config {
  const problems: string[] = [];
  const values = new Map<string, SettingValue>();
  const keep = (setting: Setting, parsed: Parsed, source: string): void => {
    if ("problem" in parsed) problems.push(`${source} ${parsed.problem}`);
    else values.set(setting.key, parsed.value);
  };
  if (sources.file !== undefined) readFile(sources.file, keep, problems);
  readEnvironment(sources.environment, keep, problems);
  for (const setting of SETTINGS) {
    const text = sources.flags[setting.key];
    if (text !== undefined) keep(setting, parseText(setting, text), setting.flag);
  }
  const config = assemble(values);
  problems.push(...findContradictions(config));
  if (problems.length > 0) throw configurationInvalid(problems);
  return config;
}

type Keep = (setting: Setting, parsed: Parsed, source: string) => void;

function readFile(file: { path: string; text: string }, keep: Keep, problems: string[]): void {
  if (Buffer.byteLength(file.text) > CONFIG_FILE_SIZE_BYTES_MAX) {
    problems.push(`${file.path}: is larger than ${CONFIG_FILE_SIZE_BYTES_MAX} bytes`);
    return;
  }
  let document: unknown;
  try {
    // YAML 1.2 contains JSON. The core schema has no types of its own beyond JSON's, and aliases are not needed.
    document = parseYaml(file.text, { schema: "core", maxAliasCount: 0 });
  } catch (error) {
    const [line = ""] = error instanceof Error ? error.message.split("\n") : [];
    problems.push(`${file.path}: is not valid YAML or JSON: ${line}`);
    return;
  }
  if (document === null || document === undefined) return;
  if (!isRecord(document)) {
    problems.push(`${file.path}: must be a mapping of sections such as "http:"`);
    return;
  }
  for (const [section, fields] of Object.entries(document))
    readSection(file.path, section, fields, keep, problems);
}

function readSection(path: string, section: string, fields: unknown, keep: Keep, problems: string[]): void {
  if (!SETTINGS.some((setting) => setting.key.startsWith(`${section}.`))) {
    problems.push(`${path}: ${section} is not a known section${suggestion(section, sectionNames())}`);
    return;
  }
  if (fields === null) return;
  if (!isRecord(fields)) {
    problems.push(`${path}: ${section} must be a mapping of settings`);
    return;
  }
  for (const [field, value] of Object.entries(fields)) {
    const key = `${section}.${field}`;
    const setting = SETTINGS.find((candidate) => candidate.key === key);
    if (setting === undefined) {
      problems.push(
        `${path}: ${key} is not a known setting${suggestion(
          key,
          SETTINGS.map((each) => each.key),
        )}`,
      );
    } else keep(setting, parseValue(setting, value), `${path}: ${key}`);
  }
}

function readEnvironment(environment: ConfigSources["environment"], keep: Keep, problems: string[]): void {
  const known = new Set(COMMAND_LINE_VARIABLES);
  for (const setting of SETTINGS) {
    for (const name of setting.environment) {
      known.add(name);
      const text = environment[name];
      // Compose files pass variables that are not set as empty ones: for a setting that must have a value, that is "not set".
      if (text === undefined || (text === "" && !setting.optional)) continue;
      keep(setting, parseText(setting, text), name);
    }
  }
  for (const [name, text] of Object.entries(environment).sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (!name.startsWith("NETDISK_") || known.has(name) || text === undefined) continue;
    if (SERVICE_LINK.test(name) || /^(tcp|udp|sctp):\/\//.test(text)) continue;
    problems.push(`${name} is not a known environment variable${suggestion(name, [...known])}`);
  }
}

/** Puts values over the defaults; fields that had problems keep their default, so that contradictions can still be looked for. */
function assemble(values: ReadonlyMap<string, SettingValue>): Config {
  const sections: Record<string, Record<string, unknown>> = {};
  for (const [section, fields] of Object.entries(defaultConfig())) {
    const filled: Record<string, unknown> = {};
    for (const [field, value] of Object.entries(fields)) {
      const key = `${section}.${field}`;
      filled[field] = values.has(key) ? values.get(key) : value;
    }
    sections[section] = Object.freeze(filled);
  }
  // Each value was checked against its row of the table, and a test compares the rows with the fields of Config.
  return Object.freeze(sections) as unknown as Config;
}

/** What is wrong between settings that are each valid. */
function findContradictions(config: Config): readonly string[] {
  const problems: string[] = [];
  const { node, cluster, http, raft } = config;
  if (raft.heartbeatTicks >= raft.electionTicks) {
    problems.push(
      `raft.heartbeatTicks (${raft.heartbeatTicks}) must be less than raft.electionTicks (${raft.electionTicks})`,
    );
  }
  if (cluster.suspectAfterMs < 2 * cluster.heartbeatMs) {
    problems.push(
      `cluster.suspectAfterMs (${cluster.suspectAfterMs}) must be at least two heartbeats of ${cluster.heartbeatMs} ms`,
    );
  }
  if (cluster.downAfterMs <= cluster.suspectAfterMs) {
    problems.push(
      `cluster.downAfterMs (${cluster.downAfterMs}) must be more than cluster.suspectAfterMs (${cluster.suspectAfterMs})`,
    );
  }
  const listen = findAddress(node.address);
  if (listen !== undefined && listen.port === http.port) {
    problems.push(`node.address and http.port both use port ${http.port}`);
  }
  const self = findAddress(selfAddress(config));
  if (self !== undefined && isWildcard(self.host) && cluster.peers.length > 0) {
    problems.push(
      `cluster.me (ME) must say how peers reach this node, because ${selfAddress(config)} names no host`,
    );
  }
  problems.push(...redisContradictions(config));
  return problems;
}

function redisContradictions({ services, cache }: Config): readonly string[] {
  const { redisUrl, redisPasswordFile, redisCaFile } = services;
  if (redisUrl === undefined) {
    return cache.entries === "redis"
      ? ["cache.entries cannot be redis, because services.redisUrl (REDIS_URL) is absent"]
      : [];
  }
  const target = parseRedisUrl(redisUrl);
  if (target === undefined) return [];
  const problems: string[] = [];
  if (target.password !== undefined && redisPasswordFile !== undefined) {
    problems.push("services.redisPasswordFile must be absent, because services.redisUrl has a password too");
  }
  if (!target.isTls && redisCaFile !== undefined) {
    problems.push(
      "services.redisCaFile must be absent, because services.redisUrl does not begin with rediss",
    );
  }
  return problems;
}

function configurationInvalid(problems: readonly string[]): DriveError {
  const count = problems.length === 1 ? "1 problem" : `${problems.length} problems`;
  const list = problems.map((problem) => `  - ${problem}${/[.?!]$/.test(problem) ? "" : "."}`).join("\n");
  return new DriveError("CONFIGURATION_INVALID", `The configuration has ${count}:\n${list}`, {
    problems: problems.join("\n"),
  });
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function sectionNames(): readonly string[] {
  return [...new Set(SETTINGS.map((setting) => setting.key.slice(0, setting.key.indexOf("."))))];
}

/** "; did you mean x?" when one of `names` is within a slip of the pen, else nothing. */
function suggestion(name: string, names: readonly string[]): string {
  const closest = names
    .map((candidate) => ({ candidate, distance: editDistance(name.toLowerCase(), candidate.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance)[0];
  return closest !== undefined && closest.distance <= 3 ? `; did you mean ${closest.candidate}?` : "";
}

/** Levenshtein distance, for names of a few dozen characters. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const substitution = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(substitution, (previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1));
    }
    previous = row;
  }
  return previous[b.length] ?? 0;
}
