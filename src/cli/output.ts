/**
 * What a command says: results on stdout, everything else on stderr, as text for people or as one JSON object a line.
 *
 * With --json stdout carries nothing but JSON lines, each with a "type", and errors are JSON lines on stderr. Writing waits
 * for a slow reader; a reader that went away (`netdisk ls | head`) ends the command quietly.
 */
import { once } from "node:events";
import type { Writable } from "node:stream";
import { DriveError } from "../drive/errors.ts";
import { errnoOf } from "../std/disk.ts";
import { AdvisedError, adviceFor } from "./advice.ts";
import { UsageError } from "./exit-code.ts";
import { printable, printableLines } from "../std/format.ts";

/** The reader of stdout went away; there is nobody to tell. */
export class OutputClosedError extends Error {
  override readonly name = "OutputClosedError";
}

/** How an error looks in JSON. */
export interface ErrorJson {
  /** Reason of the error catalogue, "USAGE", or the operating system's code such as "ENOENT". */
  readonly code: string;
  readonly message: string;
  readonly remedy: string;
  /** "indefinite" when the change may have happened. */
  readonly outcome: "definite" | "indefinite";
  readonly metadata: Readonly<Record<string, string>>;
}

const SYSTEM_MESSAGES: Readonly<Record<string, string>> = {
  ENOENT: "There is no such file or folder here.",
  EACCES: "Access is denied.",
  EPERM: "The operation is not permitted.",
  EISDIR: "It is a folder, not a file.",
  ENOTDIR: "A part of the path is not a folder.",
  ENOSPC: "No space is left on the disk here.",
  ELOOP: "A symbolic link is in the way.",
  EMFILE: "Too many files are open.",
  EROFS: "The file system here is read-only.",
  EIO: "The disk here reports an error.",
};

/** An error as one sentence, what somebody who ran `command` can do about it, and a stable code. */
export function describeError(error: unknown, command?: string): ErrorJson {
  if (error instanceof DriveError) {
    const { reason, message, metadata, spec } = error;
    const remedy = error instanceof AdvisedError ? error.remedy : adviceFor(reason, command, metadata);
    return { code: reason, message, remedy, outcome: spec.outcome, metadata };
  }
  if (error instanceof UsageError) {
    return {
      code: "USAGE",
      message: error.message,
      remedy: "See --help.",
      outcome: "definite",
      metadata: {},
    };
  }
  const code = errnoOf(error);
  const path =
    error instanceof Error && "path" in error && typeof error.path === "string" ? error.path : undefined;
  if (error instanceof Error && code !== undefined) {
    const isMaking = "syscall" in error && error.syscall === "mkdir";
    const sentence =
      isMaking && code === "ENOENT"
        ? "No folder can be made here."
        : (SYSTEM_MESSAGES[code] ?? error.message);
    const message = path === undefined ? sentence : `${printable(path)}: ${sentence}`;
    return { code, message, remedy: "", outcome: "definite", metadata: path === undefined ? {} : { path } };
  }
  const message = error instanceof Error ? error.message : String(error);
  return {
    code: "INTERNAL",
    message,
    remedy: "This is a bug; report it.",
    outcome: "indefinite",
    metadata: {},
  };
}

/** An error in one line for people: message, remedy and code. */
export function formatError(error: unknown, command?: string): string {
  const { code, message, remedy } = describeError(error, command);
  return [message, remedy, `[${code}]`].filter((part) => part !== "").join(" ");
}

const idAsText = (key: string, value: unknown): unknown =>
  typeof value === "number" && (key.endsWith("Id") || key === "version") ? String(value) : value;

/** The two streams of a command. */
export class Output {
  readonly json: boolean;
  readonly #stdout: Writable;
  readonly #stderr: Writable;
  /** Name of the command, for its advice. */
  command: string | undefined;
  #failure: Error | undefined;
  #drained: Promise<void> | undefined;
  /** Clears and redraws the progress line around what is written to the terminal. */
  #overlay: { hide(): void; show(): void } | undefined;

  constructor(stdout: Writable, stderr: Writable, options: { readonly json: boolean }) {
    this.#stdout = stdout;
    this.#stderr = stderr;
    this.json = options.json;
    stdout.on("error", (error) => (this.#failure ??= error));
    // When stderr is gone there is nobody to tell, and what is being done does not depend on it.
    stderr.on("error", () => undefined);
  }

  /** describeError() for the command that runs. */
  describe(error: unknown): ErrorJson {
    return describeError(error, this.command);
  }

  /** Makes `overlay` step aside whenever something else is written; undefined ends it. */
  setOverlay(overlay: { hide(): void; show(): void } | undefined): void {
    this.#overlay = overlay;
  }

  /** Writes a line of a result for people. */
  line(text: string): Promise<void> {
    return this.bytes(Buffer.from(`${text}\n`));
  }

  /** Writes one JSON line of a result. Ids are text in it, as in the JSON of HTTP: not every reader keeps 64 bits of a number. */
  record(value: Readonly<Record<string, unknown>>): Promise<void> {
    return this.bytes(Buffer.from(`${JSON.stringify(value, idAsText)}\n`));
  }

  /** Writes bytes to stdout as they are and waits while its reader is behind. */
  async bytes(bytes: Uint8Array): Promise<void> {
    this.#throwIfClosed();
    this.#overlay?.hide();
    // Many writers may wait at once; they share one listener for "drain".
    if (!this.#stdout.write(bytes)) {
      this.#drained ??= once(this.#stdout, "drain").then(
        () => void (this.#drained = undefined),
        () => undefined,
      );
      await this.#drained;
    }
    this.#throwIfClosed();
    this.#overlay?.show();
  }

  #throwIfClosed(): void {
    if (this.#failure === undefined && !this.#stdout.destroyed) return;
    if (this.#failure !== undefined && errnoOf(this.#failure) !== "EPIPE") throw this.#failure;
    throw new OutputClosedError();
  }

  /** Says something to people that is no result; nothing with --json. */
  note(text: string): void {
    if (this.json) return;
    this.#overlay?.hide();
    this.#stderr.write(`${printableLines(text)}\n`);
    this.#overlay?.show();
  }

  /** Passes on a warning of the runtime, on stderr. */
  warning({ name, message }: Error): void {
    this.#overlay?.hide();
    this.#stderr.write(
      this.json
        ? `${JSON.stringify({ type: "warning", name, message })}\n`
        : `netdisk: ${name}: ${message}\n`,
    );
    this.#overlay?.show();
  }

  /** Reports an error on stderr. `subject` is what it is about: a path, or undefined for the command itself. */
  error(error: unknown, subject?: string): void {
    this.#overlay?.hide();
    const about = subject === undefined ? {} : { subject };
    const text = formatError(error, this.command);
    const prefix = subject === undefined ? "" : `${printable(subject)}: `;
    this.#stderr.write(
      this.json
        ? `${JSON.stringify({ type: "error", ...about, error: this.describe(error) })}\n`
        : `netdisk: ${text.startsWith(prefix) ? "" : prefix}${printableLines(text)}\n`,
    );
    this.#overlay?.show();
  }
}
