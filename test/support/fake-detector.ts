/** A failure detector whose judgements a test sets; everyone is "up" until it says otherwise. Keeps the evidence it was told. */
import type { FailureDetector, NodeLoad, PeerState } from "../../src/cluster/failure-detector-port.ts";
import type { NodeHealth } from "../../src/drive/drive-api.ts";

/** Figures of a node with plenty of room. */
export function idleLoad(overrides: Partial<NodeLoad> = {}): NodeLoad {
  return {
    freeBytes: 1e12,
    totalBytes: 2e12,
    liveBytes: 0,
    writesRefused: false,
    inflightBytes: 0,
    appliedIndex: 1,
    repairBytesPerSecond: 0,
    quarantinedCount: 0,
    scrubProgress: undefined,
    collectionBrake: undefined,
    ...overrides,
  };
}

/** FailureDetector for tests. */
export class FakeDetector implements FailureDetector {
  readonly health = new Map<number, NodeHealth>();
  readonly sinceMs = new Map<number, number>();
  readonly loads = new Map<number, NodeLoad>();
  readonly reports: { memberId: number; outcome: "reached" | "unreachable" }[] = [];
  readonly #memberIds: readonly number[];

  constructor(memberIds: readonly number[]) {
    this.#memberIds = memberIds;
  }

  state(memberId: number): PeerState {
    return {
      memberId,
      health: this.health.get(memberId) ?? "up",
      sinceMs: this.sinceMs.get(memberId) ?? 0,
      load: this.loads.get(memberId) ?? idleLoad(),
    };
  }

  states(): readonly PeerState[] {
    return this.#memberIds.map((memberId) => this.state(memberId));
  }

  report(memberId: number, outcome: "reached" | "unreachable"): void {
    this.reports.push({ memberId, outcome });
  }
}
