/** Takes the figures of a node at this moment into its metrics. */
import type { Consensus } from "../consensus/consensus.ts";
import type { CommandResult } from "../metadata/commands.ts";
import { featureLevel } from "../metadata/feature-level.ts";
import { snapshotAge } from "../metadata/tree-snapshots.ts";
import { clusterInfo, clusterTime, counters, storeOf } from "../metadata/view.ts";
import type { CopyAudit } from "../replication/copy-audit.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { Catalogs } from "./catalogs.ts";
import type { TaskRunner } from "./task-runner.ts";
import type { StoreKeeper } from "./store-keeper.ts";

/** The parts of a node that have figures. */
export interface Observed {
  readonly consensus: Consensus<CommandResult>;
  readonly keeper: StoreKeeper;
  readonly copyAudit: CopyAudit;
  readonly catalogs: Catalogs;
  readonly tasks: TaskRunner;
}

/** See the file's comment. */
export function observe(observed: Observed, memberId: number, metrics: Metrics): void {
  const { consensus, keeper, copyAudit, catalogs } = observed;
  const { store, meter, scrubber } = keeper;
  const { term, commitIndex, appliedIndex, role } = consensus.status();
  metrics.raft({ term, commitIndex, appliedIndex, leading: role === "leader" });
  metrics.chunkStore(store.stats());
  const reader = consensus.reader();
  if (clusterInfo(reader) !== undefined) {
    const { replicas } = counters(reader);
    metrics.replicas({
      full: replicas.fullyReplicatedCount,
      under: replicas.underReplicatedCount,
      suspect: replicas.suspectCount,
      corrupt: replicas.corruptCount,
      lost: replicas.lostCount,
      unverified: replicas.unverifiedCount,
      single: replicas.singleCopyCount,
      none: replicas.noCopyCount,
      missingBytes: replicas.missingCopyBytes,
    });
    const { scrubPass, scrubStartTimeMs, scrubDamagedCount } = storeOf(reader, memberId);
    const { disownedCount, unansweredCount } = copyAudit.stats();
    metrics.copyHealth({
      repairedBytes: meter.totalBytes,
      quarantinedExtents: store.stats().quarantinedExtentCount,
      scrubPass,
      scrubAgeMs: scrubPass === 0 ? undefined : clusterTime(reader) - scrubStartTimeMs,
      treeSnapshotBehindMs: snapshotAge(reader).ageMs,
      scrubDamaged: scrubDamagedCount,
      scrubProgress: scrubber.progress() ?? 0,
      disownedCopies: disownedCount,
      unansweredQuestions: unansweredCount,
    });
  }
  observeKeeper(keeper, metrics);
  catalogs.observe();
  observed.tasks.observe();
}

/** Takes the figures of a node without the tree into its metrics. */
export function observeStore(keeper: StoreKeeper, metrics: Metrics): void {
  metrics.chunkStore(keeper.store.stats());
  observeKeeper(keeper, metrics);
}

function observeKeeper(
  { detector, plane, store: { memberId }, collectionBrake, featureLevels }: StoreKeeper,
  metrics: Metrics,
): void {
  const { orphanCount = 0, futureCount = 0 } = collectionBrake ?? {};
  metrics.collectionBrake({ orphanCount, futureCount });
  const reader = plane.metadata.port.reader();
  metrics.featureLevel({ level: featureLevel(reader), supportedMax: featureLevels.max });
  const peers = { up: 0, suspect: 0, down: 0 };
  for (const peer of detector.states()) {
    if (peer.memberId !== memberId) peers[peer.health] += 1;
  }
  metrics.peers(peers);
}
