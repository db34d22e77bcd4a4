/** The catalogs of a node, put together: its own, PostgreSQL where it is configured, and which of them answers. */
import { CatalogRouter } from "../catalog/catalog-router.ts";
import { EmbeddedCatalog } from "../catalog/embedded-catalog.ts";
import { NameFollower } from "../catalog/name-follower.ts";
import { PostgresCatalog } from "../catalog/postgres-catalog.ts";
import type { PostgresClient } from "../catalog/postgres-client.ts";
import { PostgresProjector } from "../catalog/postgres-projector.ts";
import type { MetadataPort } from "../cluster/metadata-port.ts";
import type { CatalogApi } from "../drive/catalog.ts";
import type { ServiceStatus } from "../drive/drive-api.ts";
import type { DriveError } from "../drive/errors.ts";
import type { ReplicaPorts } from "../replication/replica-port.ts";
import type { Clock } from "../std/clock.ts";
import type { OrderedStoreProvider } from "../std/ordered-store.ts";
import type { Logger } from "../telemetry/logger.ts";
import type { Metrics } from "../telemetry/metrics.ts";

/** What Catalogs needs. */
export interface CatalogsOptions {
  readonly clock: Clock;
  readonly port: MetadataPort;
  readonly indexes: OrderedStoreProvider;
  readonly replicas: ReplicaPorts;
  /** The Raft term while this node leads; undefined otherwise. */
  readonly leadingTerm: () => number | undefined;
  readonly postgres: PostgresClient | undefined;
  readonly logger: Logger;
  readonly metrics: Metrics;
}

/** The catalogs of a node. start() once. */
export class Catalogs {
  readonly api: CatalogApi;
  readonly #madeAtMs: number;
  readonly #metrics: Metrics;
  readonly #names: NameFollower;
  readonly #projector: PostgresProjector | undefined;
  readonly #postgres: PostgresClient | undefined;

  constructor(options: CatalogsOptions) {
    const { clock, port, metrics, postgres } = options;
    const logger = options.logger.child("catalog");
    this.#madeAtMs = clock.wallMs();
    this.#metrics = metrics;
    this.#postgres = postgres;
    const told =
      (catalog: "embedded" | "postgres") =>
      (why: string): void => {
        logger.info("catalog_rebuild_began", { catalog, why });
        metrics.catalogRebuilt(catalog);
      };
    const onError = (loop: string) => {
      let last = "";
      return (error: DriveError): void => {
        // An outage is told once, not with every try.
        const detail = `${error.message} ${error.metadata["detail"] ?? ""}`;
        if (detail !== last) logger.warn("round_failed", { loop, reason: error.reason, detail });
        last = detail;
      };
    };
    this.#names = new NameFollower({
      clock,
      port,
      stores: options.indexes,
      onError: onError("names"),
      onRebuild: told("embedded"),
    });
    const embedded = new EmbeddedCatalog({ clock, port, names: this.#names });
    this.#projector =
      postgres === undefined
        ? undefined
        : new PostgresProjector({
            clock,
            client: postgres,
            port,
            replicas: options.replicas,
            leadingTerm: options.leadingTerm,
            onError: onError("projection"),
            onRebuild: told("postgres"),
            onProjected: (rowCount) => metrics.projected(rowCount),
          });
    const projector = this.#projector;
    this.api = new CatalogRouter({
      embedded,
      rebuildEmbedded: () => this.#names.rebuild(),
      external:
        postgres === undefined || projector === undefined
          ? undefined
          : {
              catalog: new PostgresCatalog(postgres),
              isFit: () => projector.isFit(),
              rebuild: () => projector.rebuild(),
            },
      onFallback: () => metrics.catalogFellBack(),
    });
  }

  start(): void {
    this.#names.start();
    this.#projector?.start();
  }

  async stop(): Promise<void> {
    await Promise.all([this.#names.stop(), this.#projector?.stop()]);
  }

  /** How PostgreSQL does, as this node sees it; where none is configured it is "off" since the start. */
  service(): ServiceStatus {
    const status = this.#projector?.status();
    if (status === undefined) {
      return { name: "postgres", state: "off", sinceTimeMs: this.#madeAtMs, detail: "" };
    }
    return { name: "postgres", state: status.state, sinceTimeMs: status.sinceMs, detail: status.detail };
  }

  /** Takes the figures of this moment into the metrics. */
  observe(): void {
    const projector = this.#projector;
    const stats = projector?.stats();
    this.#metrics.catalog({
      embeddedLagCount: this.#names.lagCount(),
      postgres:
        projector === undefined || stats === undefined || this.#postgres === undefined
          ? undefined
          : { ...stats, isUp: projector.status().state === "up", pool: this.#postgres.pool },
    });
  }
}
