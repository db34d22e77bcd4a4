/**
 * What every user of the replicated tree needs beside the port: answers as values or errors, request ids, and typed helpers.
 *
 * A rejection by the state machine becomes the DriveError it names; an answer of another kind than asked for is a programmer
 * error. Holds no state but the source of request ids.
 */
import type { Entry } from "../drive/entry.ts";
import { DriveError } from "../drive/errors.ts";
import type { Applied, CommandBody, CommandResult, ResultValue } from "../metadata/commands.ts";
import { AssertionError } from "../std/assert.ts";
import { toHex } from "../std/bytes.ts";
import type { Prng } from "../std/prng.ts";
import type { MetadataPort, ProposeOptions } from "./metadata-port.ts";

/** Random bytes of a generated request id: 128 bits, so that no two clients ever draw the same. */
const REQUEST_ID_RANDOM_BYTES = 16;

/** The applied answer, or the DriveError that the rejection names. */
export function unwrap(result: CommandResult): Applied {
  if (result.outcome === "applied") return result;
  throw new DriveError(result.reason, result.message, result.metadata);
}

/** The answer of one kind. */
export type ValueOf<Kind extends ResultValue["kind"]> = Extract<ResultValue, { readonly kind: Kind }>;

/** An answer's value, asserted to be of `kind`. */
export function valueOfKind<Kind extends ResultValue["kind"]>(
  result: CommandResult,
  kind: Kind,
): ValueOf<Kind> {
  const { value } = unwrap(result);
  if (!isKind(value, kind)) throw new AssertionError(`expected a "${kind}" answer, got "${value.kind}"`);
  return value;
}

function isKind<Kind extends ResultValue["kind"]>(value: ResultValue, kind: Kind): value is ValueOf<Kind> {
  return value.kind === kind;
}

/** Proposes commands and unwraps their answers. */
export class MetadataClient {
  readonly port: MetadataPort;
  readonly #prng: Prng;

  /** @param prng source of request ids; must not repeat across processes outside the simulator */
  constructor(port: MetadataPort, prng: Prng) {
    this.port = port;
    this.#prng = prng;
  }

  /** A request id that nobody used before. */
  newRequestId(): string {
    return toHex(this.#prng.bytes(REQUEST_ID_RANDOM_BYTES));
  }

  /** Proposes a command with a request id (one is made when absent) and returns its answer of the given kind. */
  async apply<Kind extends ResultValue["kind"]>(
    body: CommandBody,
    kind: Kind,
    options: ProposeOptions = {},
  ): Promise<ValueOf<Kind>> {
    const requestId = options.requestId ?? this.newRequestId();
    return valueOfKind(await this.port.propose(body, { ...options, requestId }), kind);
  }

  /** Proposes a command with a request id, whatever kind of answer it has. */
  async applyAny(body: CommandBody, options: ProposeOptions = {}): Promise<Applied> {
    const requestId = options.requestId ?? this.newRequestId();
    return unwrap(await this.port.propose(body, { ...options, requestId }));
  }

  /** Proposes a tree command; returns the entry and its names from the root. */
  async applyEntry(
    body: CommandBody,
    options: ProposeOptions = {},
  ): Promise<{ readonly entry: Entry; readonly path: readonly string[] }> {
    return this.apply(body, "entry", options);
  }

  /** Proposes a command that is idempotent by itself, without a place in the request table. */
  async applyIdempotent(
    body: CommandBody,
    options: Omit<ProposeOptions, "requestId"> = {},
  ): Promise<Applied> {
    return unwrap(await this.port.propose(body, { ...options, requestId: "" }));
  }
}
