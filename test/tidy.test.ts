/**
 * The shape of src/, checked: which folder may import which, who alone may use a package or an ambient global, and how large a
 * file may grow. The table below is the one in ARCHITECTURE.md; change both knowingly.
 */
import { expect } from "chai";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const SRC = join(ROOT, "src");

const CORE = ["std", "drive"];
const EDGE = [...CORE, "telemetry"];

/** Folder -> folders of src/ it may import beside itself. Arrows point down. */
const IMPORTS: Record<string, readonly string[]> = {
  std: [],
  drive: ["std"],
  config: CORE,
  telemetry: CORE,
  raft: ["std"],
  metadata: CORE,
  routing: CORE,
  archive: ["std"],
  segments: ["std", "drive", "telemetry"],
  chunks: [...EDGE, "segments"],
  consensus: [...EDGE, "segments", "raft"],
  cluster: [...EDGE, "segments", "routing", "metadata"],
  replication: [...EDGE, "chunks", "routing", "cluster", "metadata"],
  catalog: [...EDGE, "routing", "cluster", "metadata", "replication"],
  cache: [...EDGE, "cluster", "metadata"],
  tasks: [...EDGE, "cluster", "metadata", "replication"],
  transfer: [...EDGE, "archive", "chunks", "routing", "cluster", "metadata", "replication"],
  backup: [...EDGE, "chunks", "cluster", "consensus", "metadata", "raft", "replication"],
  contract: CORE,
  rpc: [
    ...EDGE,
    "contract",
    "chunks",
    "cluster",
    "consensus",
    "metadata",
    "raft",
    "replication",
    "routing",
    "transfer",
  ],
  gateway: [...EDGE, "contract"],
  node: [
    ...EDGE,
    "backup",
    "cache",
    "catalog",
    "chunks",
    "cluster",
    "config",
    "consensus",
    "gateway",
    "metadata",
    "raft",
    "replication",
    "routing",
    "rpc",
    "segments",
    "tasks",
    "transfer",
  ],
  cli: [...EDGE, "config", "rpc", "node"],
  "main.ts": [...EDGE, "config", "cli", "node"],
};

/** Folders that stay pure: no asynchrony, no node:* import. */
const PURE = ["raft", "metadata", "routing", "archive"];

/** Package -> files (by path in src/) that alone may import it. */
const EXCLUSIVE: readonly { readonly packages: RegExp; readonly allowed: RegExp }[] = [
  { packages: /^@grpc\/grpc-js$/, allowed: /^rpc\// },
  { packages: /^(fastify|@fastify\/.*)$/, allowed: /^gateway\// },
  { packages: /^@connectrpc\//, allowed: /^gateway\// },
  { packages: /^prom-client$/, allowed: /^telemetry\// },
  { packages: /^pino$/, allowed: /^telemetry\// },
  { packages: /^lmdb$/, allowed: /(^|\/)lmdb-[a-z-]+\.ts$/ },
  { packages: /^(pg|ioredis|amqplib)$/, allowed: /^(catalog\/postgres|cache\/redis|tasks\/rabbitmq)-/ },
  { packages: /^umzug$/, allowed: /^catalog\/postgres-schema\.ts$/ },
  { packages: /^commander$/, allowed: /^cli\// },
  { packages: /^node:(fs|fs\/promises)$/, allowed: /^(std|cli|config|node)\/|^main\.ts$/ },
  { packages: /^node:(crypto)$/, allowed: /^std\// },
  {
    packages: /^node:(net|http|http2|https|dgram|child_process|worker_threads|cluster)$/,
    allowed: /^(std|rpc|gateway|cli|node)\/|^main\.ts$/,
  },
  { packages: /^@bufbuild\/protobuf/, allowed: /^(rpc|gateway|contract)\/|(^|\/)([a-z-]+-)?codec\.ts$/ },
];

/** Ambient things -> where alone they may be used, and what to use instead. */
const BANNED: readonly { readonly what: RegExp; readonly allowed: RegExp; readonly instead: string }[] = [
  { what: /\bDate\.now\(|\bnew Date\(\)|\bperformance\.now\(/, allowed: /^std\//, instead: "Clock" },
  { what: /\b(setTimeout|setInterval|setImmediate)\(/, allowed: /^std\//, instead: "Clock.setTimer" },
  { what: /\bMath\.random\(|\brandomUUID\(|\brandomBytes\(/, allowed: /^std\//, instead: "Prng" },
  { what: /\bprocess\.(env|argv)\b/, allowed: /^(config|cli)\/|^main\.ts$/, instead: "config/" },
  { what: /\bprocess\.exit\(/, allowed: /^main\.ts$/, instead: "onFatal" },
  {
    what: /\bconsole\.(log|error|warn|info)\(/,
    allowed: /^$/,
    instead: "telemetry/logger or the command's output",
  },
  { what: /^export \*/m, allowed: /^$/, instead: "a curated list" },
  { what: /^export default/m, allowed: /^$/, instead: "a named export" },
  { what: /\b(FIXME|XXX|HACK)\b|TODO(?!\(#\d+\))/, allowed: /^$/, instead: "mending it" },
];

/** Where a process begins. */
const ENTRIES = [
  "main.ts",
  "std/lmdb-check-child.ts",
  "consensus/snapshot-dump-child.ts",
  "consensus/snapshot-load-child.ts",
];

const LINES_MAX = 600;

interface SourceFile {
  readonly path: string;
  readonly folder: string;
  readonly text: string;
  readonly imports: readonly string[];
}

function listFiles(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((item) => {
    const path = join(directory, item.name);
    if (item.isDirectory()) return listFiles(path);
    return item.name.endsWith(".ts") ? [path] : [];
  });
}

/** Comments blanked out, so that prose about a banned call is not taken for one. */
function withoutComments(text: string): string {
  return text.replaceAll(/\/\*[\s\S]*?\*\//g, "").replaceAll(/(^|[^:])\/\/.*$/gm, "$1");
}

const files: readonly SourceFile[] = listFiles(SRC).map((absolute) => {
  const path = relative(SRC, absolute);
  const text = readFileSync(absolute, "utf8");
  const imports = [
    ...text.matchAll(/^\s*(?:import|export)[^;]*?from\s+"([^"]+)"/gm),
    ...text.matchAll(/\bimport\("([^"]+)"\)/g),
  ].map((match) => match[1] ?? "");
  return { path, folder: path.includes("/") ? (path.split("/")[0] ?? "") : path, text, imports };
});

/** The file of src/ (or "gen/...") that `specifier` in `file` names; undefined for packages. */
function target(file: SourceFile, specifier: string): string | undefined {
  if (!specifier.startsWith(".")) return undefined;
  return relative(SRC, resolve(SRC, dirname(file.path), specifier));
}

describe("The source tree", () => {
  it("has only folders of the import table", () => {
    expect(
      [...new Set(files.map((file) => file.folder))].filter((folder) => IMPORTS[folder] === undefined),
    ).to.deep.equal([]);
  });

  it("has imports that point down only", () => {
    const wrong = files.flatMap((file) =>
      file.imports.flatMap((specifier) => {
        const path = target(file, specifier);
        if (path === undefined) return [];
        if (path.startsWith("../gen/")) {
          const allowed = /^(rpc|gateway|contract)\/|(^|\/)([a-z-]+-)?codec\.ts$/.test(file.path);
          return allowed ? [] : [`${file.path} -> ${path}`];
        }
        const folder = path.split("/")[0] ?? "";
        if (folder === file.folder || (IMPORTS[file.folder] ?? []).includes(folder)) return [];
        return [`${file.path} -> ${path}`];
      }),
    );

    expect(wrong).to.deep.equal([]);
  });

  it("has no import cycles between files", () => {
    const graph = new Map(
      files.map((file) => [file.path, file.imports.flatMap((each) => target(file, each) ?? [])]),
    );
    const state = new Map<string, "visiting" | "done">();
    const cycles: string[] = [];
    const visit = (path: string, trail: readonly string[]): void => {
      if (state.get(path) === "done") return;
      if (state.get(path) === "visiting") {
        cycles.push([...trail.slice(trail.indexOf(path)), path].join(" -> "));
        return;
      }
      state.set(path, "visiting");
      for (const next of graph.get(path) ?? []) visit(next, [...trail, path]);
      state.set(path, "done");
    };
    for (const path of graph.keys()) visit(path, []);

    expect(cycles).to.deep.equal([]);
  });

  it("lets each package be used only where it belongs", () => {
    const wrong = files.flatMap((file) =>
      file.imports.flatMap((specifier) =>
        EXCLUSIVE.filter((rule) => rule.packages.test(specifier) && !rule.allowed.test(file.path)).map(
          () => `${file.path} imports ${specifier}`,
        ),
      ),
    );

    expect(wrong).to.deep.equal([]);
  });

  it("reads clocks, chance, timers and the environment only where it may", () => {
    const wrong = files.flatMap((file) => {
      const code = withoutComments(file.text);
      const wholeText = file.text;
      return BANNED.filter((rule) => {
        const subject = rule.instead === "mending it" ? wholeText : code;
        return rule.what.test(subject) && !rule.allowed.test(file.path);
      }).map((rule) => `${file.path}: ${rule.what.source}; use ${rule.instead}`);
    });

    expect(wrong).to.deep.equal([]);
  });

  it("keeps the cores pure: no promises, no node modules", () => {
    const wrong = files
      .filter((file) => PURE.includes(file.folder))
      .flatMap((file) => {
        const code = withoutComments(file.text);
        const found: string[] = [];
        if (/\basync\b|\bawait\b|\bPromise\b/.test(code)) found.push(`${file.path} is asynchronous`);
        if (file.imports.some((specifier) => specifier.startsWith("node:")))
          found.push(`${file.path} imports a node module`);
        return found;
      });

    expect(wrong).to.deep.equal([]);
  });

  it("opens every file with a comment that says what it is", () => {
    expect(
      files.filter((file) => !/^(#!.*\n)?\/(\*\*|\/)/.test(file.text)).map((file) => file.path),
    ).to.deep.equal([]);
  });

  it(`keeps every file under ${LINES_MAX} lines`, () => {
    expect(
      files
        .filter((file) => file.text.split("\n").length > LINES_MAX)
        .map((file) => `${file.path} ${file.text.split("\n").length}`),
    ).to.deep.equal([]);
  });

  it("has no file that neither the program nor a test reaches", () => {
    const tests = [...listFiles(join(ROOT, "test")), ...listFiles(join(ROOT, "bench"))].map((path) =>
      readFileSync(path, "utf8"),
    );
    const mentioned = new Set(
      files.flatMap((file) => file.imports.flatMap((specifier) => target(file, specifier) ?? [])),
    );
    const dead = files.filter(
      (file) =>
        !ENTRIES.includes(file.path) &&
        !mentioned.has(file.path) &&
        !tests.some((text) => text.includes(`src/${file.path}`)),
    );

    expect(dead.map((file) => file.path)).to.deep.equal([]);
  });

  it("states the same import table in ARCHITECTURE.md", () => {
    const text = readFileSync(join(ROOT, "ARCHITECTURE.md"), "utf8");
    const wrong = Object.entries(IMPORTS)
      .filter(([folder]) => !text.includes(`\`${folder}${folder.endsWith(".ts") ? "" : "/"}\``))
      .map(([folder]) => folder);

    expect(wrong).to.deep.equal([]);
  });
});
