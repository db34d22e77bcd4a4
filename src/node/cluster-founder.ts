/**
 * Writes the first command of a cluster, and checks on every node that its build agrees with what the cluster was founded with.
 *
 * The command is idempotent, so every node may try it; it ends as soon as the tree knows the cluster.
 */
import type { MetadataClient } from "../cluster/metadata-client.ts";
import { PacedLoop } from "../cluster/paced-loop.ts";
import { DriveError } from "../drive/errors.ts";
import { CHUNK_SIZE_BYTES } from "../drive/limits.ts";
import { clusterInfo } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";

/** Version of everything that is written to the log and the chunk stores. */
export const FORMAT_VERSION = 1;

const FOUND_INTERVAL_MS = 100;
const CHECK_INTERVAL_MS = 1000;

/** What a ClusterFounder needs. */
export interface ClusterFounderOptions {
  readonly clock: Clock;
  readonly metadata: MetadataClient;
  readonly clusterId: string;
  /** Feature level that all founders support; absent for the first one. */
  readonly foundingLevel?: number | undefined;
  readonly onFatal: (error: Error) => void;
}

/** Founds the cluster in the tree. */
export class ClusterFounder {
  readonly #options: ClusterFounderOptions;
  readonly #loop: PacedLoop;

  constructor(options: ClusterFounderOptions) {
    this.#options = options;
    this.#loop = new PacedLoop({
      clock: options.clock,
      idleMs: CHECK_INTERVAL_MS,
      busyMs: FOUND_INTERVAL_MS,
      work: (signal) => this.#round(signal),
    });
  }

  start(): void {
    this.#loop.start();
  }

  stop(): Promise<void> {
    return this.#loop.stop();
  }

  async #round(signal: AbortSignal): Promise<"busy" | "idle"> {
    const { metadata, clusterId, foundingLevel, onFatal } = this.#options;
    const info = clusterInfo(metadata.port.reader());
    if (info !== undefined) {
      const ours = { clusterId, chunkSizeBytes: CHUNK_SIZE_BYTES, formatVersion: FORMAT_VERSION };
      const differing = Object.entries(ours).find(([key, value]) => info[key as keyof typeof ours] !== value);
      if (differing !== undefined) {
        const [setting, value] = differing;
        const stored = String(info[setting as keyof typeof ours]);
        onFatal(
          new DriveError("WRONG_CLUSTER", `The cluster has ${setting} ${stored}, this program ${value}.`, {
            setting,
            stored,
            own: String(value),
          }),
        );
      }
      return "idle";
    }
    if (metadata.port.leaderId() !== metadata.port.memberId) return "busy";
    await metadata.applyIdempotent(
      {
        kind: "bootstrap",
        clusterId,
        chunkSizeBytes: CHUNK_SIZE_BYTES,
        formatVersion: FORMAT_VERSION,
        featureLevel: foundingLevel,
      },
      { signal },
    );
    return "busy";
  }
}
