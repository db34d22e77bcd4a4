/**
 * Keeps this node known to the tree: registers it when what the tree says about it differs, and renews its write lease.
 *
 * Runs for as long as the node does and needs no leader to start: it tries again until one answers. A lease is renewed at a
 * third of its life, so two renewals may fail before small writes take the long path.
 */
import type { NodeRegistration } from "../metadata/commands.ts";
import { findMember } from "../metadata/members.ts";
import type { DriveError } from "../drive/errors.ts";
import { WRITE_LEASE_MS } from "../drive/limits.ts";
import type { Clock } from "../std/clock.ts";
import { valueOfKind, type MetadataClient } from "./metadata-client.ts";
import { PacedLoop } from "./paced-loop.ts";
import type { WriteLease } from "./write-lease.ts";

/** How often the registration is compared and the lease looked at. */
export const REGISTRAR_INTERVAL_MS = 1000;
/** A lease is renewed when this much of it has passed. */
export const LEASE_RENEW_AFTER_MS = WRITE_LEASE_MS / 3;

/** What a NodeRegistrar needs. */
export interface NodeRegistrarOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly lease: WriteLease;
  /** What this node says about itself; asked on every round, so it may change while the node runs. */
  readonly self: () => NodeRegistration;
  readonly onError?: (error: DriveError) => void;
}

/** Registers this node and renews its lease. */
export class NodeRegistrar {
  readonly #options: NodeRegistrarOptions;
  readonly #loop: PacedLoop;
  #renewedAtMs = -Infinity;

  constructor(options: NodeRegistrarOptions) {
    this.#options = options;
    this.#loop = new PacedLoop({
      clock: options.clock,
      idleMs: REGISTRAR_INTERVAL_MS,
      busyMs: REGISTRAR_INTERVAL_MS,
      work: (signal) => this.#round(signal),
      onError: options.onError,
    });
  }

  start(): void {
    this.#loop.start();
  }

  stop(): Promise<void> {
    return this.#loop.stop();
  }

  /** Looks at once instead of at the next interval. */
  wake(): void {
    this.#loop.wake();
  }

  async #round(signal: AbortSignal): Promise<"idle"> {
    const { metadata } = this.#options;
    const self = this.#options.self();
    const known = findMember(metadata.port.reader(), self.memberId);
    if (known === undefined || !isSame(known, self)) {
      await metadata.applyIdempotent({ kind: "register-node", node: self }, { signal });
    }
    await this.#renew(self, signal);
    return "idle";
  }

  async #renew(self: NodeRegistration, signal: AbortSignal): Promise<void> {
    // Small files that come to a storage-only node are written by the voter that it hands them to.
    if (self.isStorageOnly) return;
    const { clock, lease, metadata } = this.#options;
    const proposedAtMs = clock.monotonicMs();
    const due = proposedAtMs - this.#renewedAtMs >= LEASE_RENEW_AFTER_MS;
    if (!due && lease.usable && lease.wantedIdCount === 0) return;
    const { memberId, storeIncarnation } = self;
    const applied = await metadata.applyIdempotent(
      { kind: "renew-write-lease", memberId, storeIncarnation, idCount: lease.wantedIdCount },
      { signal },
    );
    const { firstContentId, idCount } = valueOfKind(applied, "write-lease");
    lease.renewed(proposedAtMs, { first: firstContentId, count: idCount });
    this.#renewedAtMs = proposedAtMs;
  }
}

function isSame(a: NodeRegistration, b: NodeRegistration): boolean {
  return (
    a.nodeId === b.nodeId &&
    a.storeIncarnation === b.storeIncarnation &&
    a.address === b.address &&
    a.httpUrl === b.httpUrl &&
    a.publicUrl === b.publicUrl &&
    a.zone === b.zone &&
    a.isStorageOnly === b.isStorageOnly &&
    a.featureLevelMax === b.featureLevelMax
  );
}
