/** A catalog that gives the answers a test put into it and keeps the questions. */
import type {
  CatalogApi,
  CatalogEntry,
  CatalogPage,
  CatalogQuery,
  DuplicateReport,
  UsageGroup,
  UsageReport,
} from "../../src/drive/catalog.ts";

const ORIGIN = { source: "postgres", asOfIndex: 42 } as const;

/** A file as a catalog finds it. */
export function foundFile(path: string, overrides: Partial<CatalogEntry> = {}): CatalogEntry {
  return {
    entryId: 7,
    path,
    name: path.split("/").at(-1) ?? "",
    kind: "file",
    sizeBytes: 5,
    treeHash: new Uint8Array(32).fill(0xab),
    mediaType: "text/plain",
    modifyTimeMs: 1_700_000_000_000,
    createTimeMs: 1_700_000_001_000,
    copyCount: 3,
    ...overrides,
  };
}

/** See the file's comment. */
export class FakeCatalog implements CatalogApi {
  readonly queries: CatalogQuery[] = [];
  readonly usages: { by: UsageGroup; under: string }[] = [];
  pages: Omit<CatalogPage, keyof typeof ORIGIN>[] = [];
  rebuildCount = 0;
  /** When set, thrown by every method. */
  failure: Error | undefined;

  async find(query: CatalogQuery): Promise<CatalogPage> {
    if (this.failure !== undefined) throw this.failure;
    this.queries.push(query);
    return { ...ORIGIN, ...(this.pages.shift() ?? { entries: [], nextCursor: undefined }) };
  }

  async usage(by: UsageGroup, under: string): Promise<UsageReport> {
    if (this.failure !== undefined) throw this.failure;
    this.usages.push({ by, under });
    const rows = [{ key: "/a", fileCount: 2, sizeBytes: 2048 }];
    return { ...ORIGIN, rows, truncated: false, fileCount: 2, directoryCount: 1, sizeBytes: 2048 };
  }

  async duplicates(): Promise<DuplicateReport> {
    if (this.failure !== undefined) throw this.failure;
    const treeHash = new Uint8Array(32).fill(1);
    return { ...ORIGIN, groups: [{ treeHash, sizeBytes: 10, fileCount: 3, paths: ["/a", "/b"] }] };
  }

  async rebuild(): Promise<void> {
    if (this.failure !== undefined) throw this.failure;
    this.rebuildCount += 1;
  }
}
