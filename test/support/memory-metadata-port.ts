/**
 * The replicated tree without replication: the real state machine over a store in memory, applied at once, behind a
 * MetadataPort for each member. Faults: no leader, answers lost after the command was applied, commands held back.
 */
import type { MetadataPort, ProposeOptions } from "../../src/cluster/metadata-port.ts";
import { DriveError } from "../../src/drive/errors.ts";
import { encodeCommand } from "../../src/metadata/codec.ts";
import type { CommandBody, CommandResult, NodeRegistration } from "../../src/metadata/commands.ts";
import type { StateMachineLimits } from "../../src/metadata/context.ts";
import { MetadataStateMachine } from "../../src/metadata/state-machine.ts";
import type { Clock } from "../../src/std/clock.ts";
import { MemoryOrderedStore } from "../../src/std/memory-ordered-store.ts";
import type { OrderedReader } from "../../src/std/ordered-store.ts";

/** The tree that the ports of all members share. */
export class MemoryTree {
  readonly store = new MemoryOrderedStore();
  /** Every command that was applied, in order. */
  readonly applied: { readonly index: number; readonly body: CommandBody; readonly result: CommandResult }[] =
    [];
  leaderId: number | undefined = 1;
  /** While set, proposals and linearize() fail with NO_LEADER. */
  unavailable = false;
  /** Kinds of commands whose answer is lost: applied, but COMMIT_OUTCOME_UNKNOWN to the proposer. Each counts down. */
  readonly lostAnswers = new Map<CommandBody["kind"], number>();
  /** Sees every command before it is applied; may throw or wait. */
  onPropose: ((body: CommandBody) => void | Promise<void>) | undefined;
  readonly #machine: MetadataStateMachine;
  readonly #clock: Clock;
  readonly #listeners = new Set<(index: number) => void>();
  #index = 0;

  constructor(clock: Clock, limits: Partial<StateMachineLimits> = {}) {
    this.#machine = new MetadataStateMachine(limits);
    this.#clock = clock;
    this.apply({ kind: "bootstrap", clusterId: "test-cluster", chunkSizeBytes: 1048576, formatVersion: 1 });
  }

  /** Applies a command now. */
  apply(body: CommandBody, requestId = ""): CommandResult {
    this.#index += 1;
    const index = this.#index;
    const data = encodeCommand({ requestId, deadlineMs: 0, wallTimeMs: this.#clock.wallMs(), body });
    const result = this.store.transaction((transaction) =>
      this.#machine.apply(transaction, { index, term: 1, data }),
    );
    this.applied.push({ index, body, result });
    for (const listener of this.#listeners) listener(index);
    return result;
  }

  /** How many commands of a kind were applied. */
  count(kind: CommandBody["kind"]): number {
    return this.applied.filter(({ body }) => body.kind === kind).length;
  }

  /** The port of one member. */
  port(memberId: number): MetadataPort {
    const propose = (body: CommandBody, options: ProposeOptions = {}): Promise<CommandResult> =>
      this.#propose(body, options);
    const linearize = (): Promise<void> => {
      if (this.unavailable) return Promise.reject(new DriveError("NO_LEADER", "No leader."));
      return Promise.resolve();
    };
    const index = (): number => this.#index;
    const leader = (): number | undefined => this.leaderId;
    const reader = (): OrderedReader => this.store;
    return {
      memberId,
      propose,
      linearize,
      reader,
      appliedIndex: index,
      leaderId: leader,
      onApplied: (listener) => {
        this.#listeners.add(listener);
        return () => this.#listeners.delete(listener);
      },
    };
  }

  async #propose(body: CommandBody, options: ProposeOptions): Promise<CommandResult> {
    await this.onPropose?.(body);
    if (this.unavailable) throw new DriveError("NO_LEADER", "No leader.");
    const result = this.apply(body, options.requestId ?? "");
    // Whoever does not wait any longer gets no answer; the command went its way.
    if (options.signal?.aborted === true) throw new DriveError("CANCELED", "The caller does not wait.");
    const lost = this.lostAnswers.get(body.kind) ?? 0;
    if (lost > 0) {
      this.lostAnswers.set(body.kind, lost - 1);
      throw new DriveError("COMMIT_OUTCOME_UNKNOWN", "The answer was lost.");
    }
    return result;
  }
}

/** The registration of a member of a test cluster. */
export function registrationOf(
  memberId: number,
  overrides: Partial<NodeRegistration> = {},
): NodeRegistration {
  return {
    memberId,
    nodeId: `node-${memberId}`,
    storeIncarnation: `store-${memberId}`,
    address: `127.0.0.1:${29000 + memberId}`,
    httpUrl: `http://127.0.0.1:${9080 + memberId}`,
    publicUrl: "",
    zone: "",
    isStorageOnly: false,
    ...overrides,
  };
}
