/** The catalog over gRPC, for clients outside the cluster: asked of whichever node can answer. */
import {
  decodeDuplicates,
  decodePage,
  decodeUsage,
  encodeGroup,
  encodeQuery,
} from "../contract/catalog-codec.ts";
import type {
  CatalogApi,
  CatalogPage,
  CatalogQuery,
  DuplicateReport,
  UsageGroup,
  UsageReport,
} from "../drive/catalog.ts";
import type { Failover } from "./failover.ts";

/** Reports read everything there is. */
const REPORT_TIMEOUT_MS = 120_000;

/** The catalog of a cluster elsewhere. */
export class RemoteCatalog implements CatalogApi {
  readonly #failover: Failover;

  constructor(failover: Failover) {
    this.#failover = failover;
  }

  find(query: CatalogQuery, signal?: AbortSignal): Promise<CatalogPage> {
    const options = { signal, timeoutMs: REPORT_TIMEOUT_MS };
    return this.#failover.run(signal, async ({ catalog }) =>
      decodePage(await catalog.search(encodeQuery(query), options)),
    );
  }

  usage(by: UsageGroup, under: string, signal?: AbortSignal): Promise<UsageReport> {
    const options = { signal, timeoutMs: REPORT_TIMEOUT_MS };
    return this.#failover.run(signal, async ({ catalog }) =>
      decodeUsage(await catalog.getUsage({ by: encodeGroup(by), under }, options)),
    );
  }

  duplicates(countMax: number, signal?: AbortSignal): Promise<DuplicateReport> {
    const options = { signal, timeoutMs: REPORT_TIMEOUT_MS };
    return this.#failover.run(signal, async ({ catalog }) =>
      decodeDuplicates(await catalog.listDuplicates({ pageSize: countMax }, options)),
    );
  }

  rebuild(signal?: AbortSignal): Promise<void> {
    return this.#failover.run(signal, async ({ catalog }) => {
      await catalog.rebuildCatalog({}, { signal });
    });
  }
}
