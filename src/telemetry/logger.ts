/**
 * Logs: one JSON line an event, `{"time", "level", "node", "module", "event", ...}`, written by pino.
 *
 * An event is a past-tense fact in snake_case ("election_won"); everything variable is a field. Fields whose name tells of a
 * secret, and passwords inside URLs, never reach the line, at any depth. An error is logged once, where it is handled.
 * Does not read the clock or the environment: time, level and destination are given.
 */
import { pino, type DestinationStream, type Logger as PinoLogger } from "pino";
import type { Clock } from "../std/clock.ts";
import { LineOutput } from "../std/line-output.ts";

/** How much an event matters: "debug" is for developers, "error" for operators to look at, "fatal" ends the process. */
export type LogLevel = "debug" | "info" | "warn" | "error" | "fatal";

/** The variable parts of an event. The names that every line carries are taken. */
export type LogFields = Readonly<Record<string, unknown>> & {
  readonly time?: never;
  readonly level?: never;
  readonly node?: never;
  readonly module?: never;
  readonly event?: never;
};

/** Where a module reports what happened. Never throws and never waits. */
export interface Logger {
  /** A logger whose lines carry `module`. */
  child(module: string): Logger;
  /** Detail for developers. */
  debug(event: string, fields?: LogFields): void;
  /** A normal fact worth keeping. */
  info(event: string, fields?: LogFields): void;
  /** Something unusual that the node coped with. */
  warn(event: string, fields?: LogFields): void;
  /** Something failed and an operator should know. */
  error(event: string, fields?: LogFields): void;
  /** The last line before the process ends. */
  fatal(event: string, fields?: LogFields): void;
}

/** Where lines go: called with each line, newline included. */
export interface LogDestination {
  write(line: string): void;
}

/** Settings of createLogger(). */
export interface LoggerOptions {
  /** NODE_ID of the node. */
  readonly node: string;
  /** Events below it are dropped. */
  readonly level: LogLevel | "silent";
  readonly clock: Clock;
  /** Standard output when absent. */
  readonly destination?: LogDestination | undefined;
}

/** Makes the root logger of a node; its lines carry module "node" until child() names another. */
export function createLogger(options: LoggerOptions): Logger {
  const settings = {
    level: options.level,
    base: { node: options.node },
    timestamp: () => `,"time":"${new Date(options.clock.wallMs()).toISOString()}"`,
    formatters: { level: (label: string) => ({ level: label }) },
    messageKey: "event",
  };
  const onResumed = (count: number): void => logger.warn("log_lines_dropped", { count });
  const { destination = new LineOutput({ onResumed }) } = options;
  const root = pino(settings, {
    write: (line: string) => destination.write(line),
  } satisfies DestinationStream);
  const logger = new PinoModuleLogger(root, "node");
  return logger;
}

class PinoModuleLogger implements Logger {
  readonly #root: PinoLogger;
  readonly #logger: PinoLogger;

  constructor(root: PinoLogger, module: string) {
    this.#root = root;
    this.#logger = root.child({ module });
  }

  child(module: string): Logger {
    return new PinoModuleLogger(this.#root, module);
  }

  debug(event: string, fields?: LogFields): void {
    this.#write("debug", event, fields);
  }

  info(event: string, fields?: LogFields): void {
    this.#write("info", event, fields);
  }

  warn(event: string, fields?: LogFields): void {
    this.#write("warn", event, fields);
  }

  error(event: string, fields?: LogFields): void {
    this.#write("error", event, fields);
  }

  fatal(event: string, fields?: LogFields): void {
    this.#write("fatal", event, fields);
  }

  #write(level: LogLevel, event: string, fields: LogFields | undefined): void {
    if (!this.#logger.isLevelEnabled(level)) return;
    this.#logger[level](fields === undefined ? {} : redact(fields), event);
  }
}

/** Logs a warning of the runtime (process "warning"), which would otherwise stand as text between the lines. */
export function logProcessWarning(logger: Logger, warning: Error): void {
  const { name, message, stack } = warning;
  const code = "code" in warning && typeof warning.code === "string" ? { code: warning.code } : {};
  logger.warn("process_warned", { name, message, ...code, stack });
}

/** A logger that drops everything, for tests and benchmarks. */
export const silentLogger: Logger = {
  child: () => silentLogger,
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  fatal: () => undefined,
};

/** Nesting of fields shown at most; deeper values become "[deep]", so that a cycle ends too. */
export const LOG_DEPTH_MAX = 6;

const REDACTED = "[redacted]";
// Whole words of a field name, so that `tokenCount` stays readable only if it is no secret: it is not worth the risk.
const SECRET_NAME =
  /pass(word|wd|phrase)?$|secret|token|authorization|cookie|credential|private_?key|api_?key|signature/i;
const URL_PASSWORD = /([a-z][a-z0-9+.-]*:\/\/)[^\s/@]*@/gi;

/** A copy of `fields` fit for a log line: secrets replaced, errors and byte arrays spelled out, depth bounded. */
export function redact(fields: LogFields): Record<string, unknown> {
  return redactRecord(fields, 0);
}

function redactRecord(record: object, depth: number): Record<string, unknown> {
  const result: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(record)) {
    result[key] = SECRET_NAME.test(key) ? REDACTED : redactValue(value, depth + 1);
  }
  return result;
}

function redactValue(value: unknown, depth: number): unknown {
  if (typeof value === "string") return value.replace(URL_PASSWORD, `$1${REDACTED}@`);
  if (typeof value === "bigint") return value.toString();
  if (typeof value !== "object" || value === null) return value;
  if (depth > LOG_DEPTH_MAX) return "[deep]";
  if (value instanceof Uint8Array) return `[${value.length} bytes]`;
  if (value instanceof Error) return redactError(value, depth);
  if (Array.isArray(value)) return value.map((element) => redactValue(element, depth + 1));
  return redactRecord(value, depth);
}

function redactError(error: Error, depth: number): Record<string, unknown> {
  const { name, message, stack, cause, ...rest } = error as Error & Record<string, unknown>;
  return {
    ...redactRecord(rest, depth),
    name,
    message: redactValue(message, depth),
    stack: redactValue(stack, depth),
    ...(cause === undefined ? {} : { cause: redactValue(cause, depth + 1) }),
  };
}
