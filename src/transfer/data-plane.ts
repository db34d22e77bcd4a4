/**
 * The parts of the data plane of one node, put together: what uploads, downloads and background work share.
 *
 * Built once from the ports that node/ or a simulator hands in. Nothing here does anything by itself; the loops are started by
 * whoever owns the node.
 */
import type { FailureDetector } from "../cluster/failure-detector-port.ts";
import { MetadataClient } from "../cluster/metadata-client.ts";
import type { MetadataPort } from "../cluster/metadata-port.ts";
import { NodeDirectory } from "../cluster/node-directory.ts";
import { WriteLease } from "../cluster/write-lease.ts";
import type { ExtentKey, ManifestOrigin, OriginHint, ReplicaFinding } from "../drive/content.ts";
import type { EntryAttributes } from "../drive/entry.ts";
import { ORIGIN_PATH_SIZE_BYTES_MAX } from "../drive/limits.ts";
import { formatPath } from "../drive/path.ts";
import { clusterInfo, storeOf } from "../metadata/view.ts";
import { Chores } from "../replication/chores.ts";
import { ExtentReader } from "../replication/extent-reader.ts";
import { HoleFiller } from "../replication/hole-filler.ts";
import { Placement } from "../replication/placement.ts";
import type { ReplicaPorts } from "../replication/replica-port.ts";
import { ReplicaReports } from "../replication/replica-reports.ts";
import { Sealer } from "../replication/sealer.ts";
import { ReadBudget } from "../replication/read-window.ts";
import { WriteBudget } from "../replication/write-budget.ts";
import type { Clock } from "../std/clock.ts";
import { DigestMemory, type Digester } from "../std/digest.ts";
import type { Prng } from "../std/prng.ts";
import { ContentPins } from "./content-pins.ts";
import { ProgressBoard } from "./progress.ts";

/** What the data plane is built from. */
export interface DataPlanePorts {
  readonly clock: Clock;
  readonly prng: Prng;
  readonly digester: Digester;
  /** Shared with this node's own store, which then does not hash again what came in here. */
  readonly hashed?: DigestMemory | undefined;
  readonly metadata: MetadataPort;
  readonly replicas: ReplicaPorts;
  readonly detector: FailureDetector;
  /** How many members consensus has; see Placement. */
  readonly expectedMemberCount?: (() => number) | undefined;
  /** Bytes of uploads that this node holds at once, and as many of downloads; the defaults of the two budgets when absent. */
  readonly inFlightBytesMax?: number | undefined;
  /** Told of each copy that was found damaged or missing, beside the report to the tree: for metrics and the log. */
  readonly onBadReplica?: (extent: ExtentKey, memberId: number, finding: ReplicaFinding) => void;
}

/** The shared parts. */
export class DataPlane {
  readonly clock: Clock;
  readonly digester: Digester;
  readonly hashed: DigestMemory;
  readonly metadata: MetadataClient;
  readonly ports: ReplicaPorts;
  readonly detector: FailureDetector;
  readonly directory: NodeDirectory;
  readonly placement: Placement;
  readonly budget: WriteBudget;
  readonly filler: HoleFiller;
  readonly sealer: Sealer;
  readonly reader: ExtentReader;
  readonly chores: Chores;
  readonly reports: ReplicaReports;
  readonly progress: ProgressBoard;
  readonly lease: WriteLease;
  readonly pins: ContentPins;

  constructor(ports: DataPlanePorts) {
    const { clock, prng, digester, metadata, replicas, detector } = ports;
    this.clock = clock;
    this.digester = digester;
    this.hashed = ports.hashed ?? new DigestMemory();
    this.ports = replicas;
    this.detector = detector;
    this.metadata = new MetadataClient(metadata, prng);
    this.directory = new NodeDirectory(metadata, clock);
    this.placement = new Placement({
      directory: this.directory,
      detector,
      memberId: metadata.memberId,
      expectedMemberCount: ports.expectedMemberCount,
      isClosed: (memberId) => {
        const { drainTimeMs, lostTimeMs } = storeOf(metadata.reader(), memberId);
        return drainTimeMs > 0 || lostTimeMs > 0;
      },
    });
    this.budget = new WriteBudget(
      ports.inFlightBytesMax === undefined ? {} : { nodeBytesMax: ports.inFlightBytesMax },
    );
    this.filler = new HoleFiller({ ports: replicas, detector, digester, budget: this.budget });
    this.chores = new Chores();
    this.reports = new ReplicaReports({ clock, metadata: this.metadata, chores: this.chores });
    this.sealer = new Sealer({
      clock,
      ports: replicas,
      detector,
      filler: this.filler,
      isGivenUp: (memberId) => this.reports.isGivenUp(memberId),
    });
    this.reader = new ExtentReader({
      clock,
      ports: replicas,
      detector,
      budget: new ReadBudget(ports.inFlightBytesMax),
      onBadReplica: (extent, memberId, finding) => {
        ports.onBadReplica?.(extent, memberId, finding);
        this.reports.reportBad(extent, memberId, finding);
      },
    });
    this.progress = new ProgressBoard({ clock });
    this.lease = new WriteLease(clock);
    this.pins = new ContentPins();
  }

  /** Where bytes written now belong, for their manifest. `entryId` 0: not known yet, as for small contents. */
  originOf(entryId: number, hint: OriginHint): ManifestOrigin {
    const { port } = this.metadata;
    const clusterId = clusterInfo(port.reader())?.clusterId ?? "";
    return { clusterId, entryId, commitIndex: port.appliedIndex(), hint };
  }

  /** What the manifest of a file's bytes says of it. `contentSizeBytes` 0: not known yet. */
  hintOf(path: readonly string[], attributes: EntryAttributes, contentSizeBytes: number): OriginHint {
    const whole = formatPath(path);
    const isLong = Buffer.byteLength(whole, "utf8") > ORIGIN_PATH_SIZE_BYTES_MAX;
    return {
      purpose: "file",
      path: isLong ? (path.at(-1) ?? "") : whole,
      modifyTimeMs: Math.max(0, Math.trunc(attributes.modifyTimeMs ?? this.clock.wallMs())),
      contentSizeBytes,
    };
  }
}
