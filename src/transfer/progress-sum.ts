/** What several sources say of one upload, put together: pure. Each source knows at least what it says. */
import type { Extent } from "../drive/content.ts";
import type { Progress } from "../drive/drive-api.ts";

type Copies = Progress["copiedBytes"];

/** The most of both, never more than the size; size and reason as `source` says where it says so. */
export function combine(
  known: Progress | undefined,
  source: Progress,
  phase: Progress["phase"] = source.phase,
): Progress {
  const sizeBytes = source.sizeBytes ?? known?.sizeBytes;
  const most = (a: number | undefined, b: number): number =>
    Math.min(Math.max(a ?? 0, b), sizeBytes ?? Number.POSITIVE_INFINITY);
  return {
    ...{ id: source.id, kind: source.kind, phase, sizeBytes },
    transferredBytes: most(known?.transferredBytes, source.transferredBytes),
    copiedBytes: [
      most(known?.copiedBytes[0], source.copiedBytes[0]),
      most(known?.copiedBytes[1], source.copiedBytes[1]),
      most(known?.copiedBytes[2], source.copiedBytes[2]),
    ],
    errorReason: source.errorReason ?? known?.errorReason,
  };
}

/** What is told at the end of an upload of `sizeBytes`: the whole of it came, and has the copies that `copiedBytes` counts. */
export function finished(
  known: Progress | undefined,
  id: string,
  sizeBytes: number,
  copiedBytes: Copies,
): Progress {
  const source = { id, kind: "upload", phase: "done", sizeBytes, errorReason: undefined } as const;
  return {
    ...combine(known, { ...source, transferredBytes: sizeBytes, copiedBytes }),
    errorReason: undefined,
  };
}

/** Whether a watcher of `before` is to be told `now`. */
export function differs(now: Progress, before: Progress): boolean {
  return (
    now.phase !== before.phase || now.sizeBytes !== before.sizeBytes || totalBytes(now) !== totalBytes(before)
  );
}

/** A figure that grows whenever one of the figures does. */
function totalBytes({ transferredBytes, copiedBytes: [one, two, three] }: Progress): number {
  return transferredBytes + one + two + three;
}

/** The phase of an upload of which several nodes say how far it is: the furthest; an end is told by the tree alone. */
export function furthestPhase(phases: readonly (Progress["phase"] | undefined)[]): Progress["phase"] {
  if (phases.some((phase) => phase === "committing" || phase === "done")) return "committing";
  return phases.includes("sealing") ? "sealing" : "receiving";
}

/** Bytes of a file of which at least one, two and three copies are verified; those of one copy are all, since the file is there. */
export function verifiedBytes(
  extents: readonly Pick<Extent, "sizeBytes" | "replicas">[],
  sizeBytes: number,
): Copies {
  const withCopies = (count: number): number =>
    extents.reduce((sum, extent) => {
      const verified = extent.replicas.filter((replica) => replica.state === "verified").length;
      return verified >= count ? sum + extent.sizeBytes : sum;
    }, 0);
  return [sizeBytes, withCopies(2), withCopies(3)];
}
