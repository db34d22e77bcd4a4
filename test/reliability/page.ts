/** Makes test/RELIABILITY.md out of the list and of what was counted in the last recorded run. */
import { FAULTS, INVARIANTS, NOT_COVERED } from "./list.ts";

/** What a recorded run found, kept in last-run.json. */
export interface LastRun {
  /** What was run: seeds of each simulator, the torture runs. */
  readonly runs: Readonly<Record<string, string>>;
  /** Counts by "raft:", "node:" or "processes:" and a name. */
  readonly counts: Readonly<Record<string, number>>;
  /** Each planted bug: the seeds that it took, and what found it. */
  readonly planted: readonly PlantedResult[];
}

/** A planted bug that was found. */
export interface PlantedResult {
  readonly name: string;
  readonly where: string;
  readonly seedCount: number;
  readonly foundBy: string;
}

/** The text of the page. */
export function reliabilityPage(run: LastRun): string {
  const lines = [
    "# What must hold, what goes wrong, and where both are shown",
    "",
    "This page is made by `npm run simulate -- --record`; `test/reliability/reliability.test.ts` fails when it, a place that it names or a",
    "count that it shows is not true any more. Ids are those in the messages of failures.",
    "",
    "| Level | Command |",
    "| --- | --- |",
    "| sentences of the Raft paper, figures 7 and 8, etcd's vectors, the recovery table | `npx mocha 'test/unit/raft/*.test.ts' test/unit/segments/recovery.test.ts` |",
    "| both simulators as in every test run | `npx mocha 'test/simulation/*.test.ts'` |",
    "| one seed again | `npm run simulate -- --seed N`, with `--raft` for the Raft cluster |",
    "| simulation without end | `npm run simulate`, `npm run simulate -- --raft` |",
    "| planted bugs | `npm run simulate -- --planted` |",
    "| real processes | `npm run torture -- --minutes 30 --nodes 5` |",
    "",
    "The last recorded run:",
    "",
    ...Object.entries(run.runs).map(([name, text]) => `- ${name}: ${text}`),
    "",
    "## Invariants",
    "",
    "| Id | What must hold | Checked in |",
    "| --- | --- | --- |",
    ...INVARIANTS.map(({ id, what, checkedAt }) => `| ${id} | ${what} | ${places(checkedAt)} |`),
    "",
    "## Faults",
    "",
    "| Id | What goes wrong | Done by | How often in the last run |",
    "| --- | --- | --- | --- |",
    ...FAULTS.map(
      ({ id, what, doneAt, counts }) => `| ${id} | ${what} | ${places(doneAt)} | ${howOften(counts, run)} |`,
    ),
    "",
    "## Planted bugs",
    "",
    "| Bug | Simulator | Seeds until found | Found by |",
    "| --- | --- | --- | --- |",
    ...run.planted.map(
      ({ name, where, seedCount, foundBy }) => `| ${name} | ${where} | ${seedCount} | ${foundBy} |`,
    ),
    "",
    "Known failures of chunk stores and their tests, planted or not: `test/README.md`. G-14 (repair makes room without knowing that the others are good) has a directed test, `test/unit/replication/repair.test.ts`.",
    "The canary, a run without a bug, finds nothing, as it must.",
    "",
    "## Not covered",
    "",
    ...Object.entries(NOT_COVERED).map(([id, text]) => `- **${id}**: ${text}`),
    "",
  ];
  return lines.join("\n");
}

function places(all: readonly string[]): string {
  const files = new Set(all.map((place) => `\`${fileOf(place)}\``));
  return [...files].join(", ");
}

function howOften(counts: readonly string[], run: LastRun): string {
  if (counts.length === 0) return "in every test run";
  return counts.map((name) => `${name.replace(":", ": ")} ${run.counts[name] ?? 0}`).join("; ");
}

/** The file of a place. */
export function fileOf(place: string): string {
  return place.slice(0, place.indexOf("#") < 0 ? place.length : place.indexOf("#"));
}

/** The text that stands in the file of a place; "" for any. */
export function markOf(place: string): string {
  const at = place.indexOf("#");
  return at < 0 ? "" : place.slice(at + 1);
}
