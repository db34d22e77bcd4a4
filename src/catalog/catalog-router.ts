/**
 * Which catalog answers: PostgreSQL while it is fit to, else the node's own, which always runs. So search never fails because
 * of PostgreSQL; what that costs is the index of names on each node, some 60 bytes of disk a name. A question that PostgreSQL
 * fails to answer in time is answered here after.
 */
import type {
  Catalog,
  CatalogApi,
  CatalogPage,
  CatalogQuery,
  DuplicateReport,
  UsageGroup,
  UsageReport,
} from "../drive/catalog.ts";
import { hasReason } from "../drive/errors.ts";

/** A catalog outside of the node. */
export interface ExternalCatalog {
  readonly catalog: Catalog;
  /** Whether it is best asked: up, built, and not far behind. */
  isFit(): boolean;
  /** Lets it be built anew. Errors: CATALOG_UNAVAILABLE. */
  rebuild(): Promise<void>;
}

/** What a CatalogRouter needs. */
export interface CatalogRouterOptions {
  readonly embedded: Catalog;
  /** Lets the embedded one be built anew. */
  readonly rebuildEmbedded: () => void;
  readonly external?: ExternalCatalog | undefined;
  /** Told of each answer that the embedded catalog gave because the other one could not. */
  readonly onFallback?: (() => void) | undefined;
}

/** The catalog that clients of a node ask. */
export class CatalogRouter implements CatalogApi {
  readonly #options: CatalogRouterOptions;

  constructor(options: CatalogRouterOptions) {
    this.#options = options;
  }

  find(query: CatalogQuery, signal?: AbortSignal): Promise<CatalogPage> {
    return this.#ask((catalog) => catalog.find(query, signal));
  }

  usage(by: UsageGroup, under: string, signal?: AbortSignal): Promise<UsageReport> {
    return this.#ask((catalog) => catalog.usage(by, under, signal));
  }

  duplicates(countMax: number, signal?: AbortSignal): Promise<DuplicateReport> {
    return this.#ask((catalog) => catalog.duplicates(countMax, signal));
  }

  async rebuild(): Promise<void> {
    this.#options.rebuildEmbedded();
    await this.#options.external?.rebuild();
  }

  async #ask<T>(question: (catalog: Catalog) => Promise<T>): Promise<T> {
    const { embedded, external, onFallback } = this.#options;
    if (external === undefined) return question(embedded);
    if (external.isFit()) {
      try {
        return await question(external.catalog);
      } catch (error) {
        if (!hasReason(error, "CATALOG_UNAVAILABLE")) throw error;
      }
    }
    onFallback?.();
    return question(embedded);
  }
}
