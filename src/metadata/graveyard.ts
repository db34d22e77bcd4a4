/**
 * Reclaiming what was deleted: directories detached from the tree are taken apart, a bounded number of rows per command.
 *
 * A directory in the graveyard is unreachable from the moment of its deletion: the walk up from anything in it does not end at
 * the root. It is not taken apart while somebody's unfinished copy still reads from it; those copies are gone on with first. A
 * directory found inside becomes an item of the graveyard itself, so no walk is ever deep.
 */
import type { ResultValue } from "./commands.ts";
import { scanPrefix, type ApplyContext } from "./context.ts";
import {
  advanceCopy,
  detachCopy,
  findCopy,
  listCopiers,
  materialiseAny,
  materialiseDirectory,
} from "./copies.ts";
import { graveyardKey, makeKey, numberInKey, TABLE } from "./keys.ts";
import { entryRecordCodec } from "./records.ts";
import { buryRow, pullPath } from "./tree.ts";

const ALL = makeKey(TABLE.graveyard, []);

/** reclaim. */
export function reclaim(context: ApplyContext): ResultValue {
  const { batchItemCountMax } = context.limits;
  let itemCount = 0;
  while (itemCount < batchItemCountMax) {
    const first = scanPrefix(context, ALL, 1)[0];
    if (first === undefined) break;
    itemCount += reclaimDirectory(context, numberInKey(first.key, 0), batchItemCountMax - itemCount);
  }
  return { kind: "batch", itemCount, more: scanPrefix(context, ALL, 1).length > 0 };
}

// Goes on with one directory of the graveyard; returns how many rows or marks it took, at least 1.
function reclaimDirectory(context: ApplyContext, directoryId: number, countMax: number): number {
  const copierId = listCopiers(context, directoryId, 1)[0];
  if (copierId !== undefined) return advanceCopy(context, copierId, countMax);
  const copy = findCopy(context, directoryId);
  if (copy !== undefined) detachCopy(context, directoryId, copy);
  const rows = scanPrefix(context, makeKey(TABLE.row, [directoryId]), countMax);
  for (const { key, value } of rows) {
    context.delete(key);
    buryRow(context, entryRecordCodec.decode(value));
  }
  const marks = scanPrefix(context, makeKey(TABLE.absent, [directoryId]), countMax - rows.length);
  for (const { key } of marks) context.delete(key);
  const itemCount = rows.length + marks.length;
  if (itemCount < countMax) {
    context.delete(graveyardKey(directoryId));
    context.state.directoryCount -= 1;
  }
  return Math.max(1, itemCount);
}

/** materialise. */
export function materialise(
  context: ApplyContext,
  directoryId: number,
  path: readonly string[],
): ResultValue {
  let itemCount: number;
  if (directoryId === 0) itemCount = materialiseAny(context);
  else {
    const target = pullPath(context, directoryId, path);
    itemCount =
      target === undefined ? 0 : materialiseDirectory(context, target, context.limits.batchItemCountMax);
  }
  return { kind: "batch", itemCount, more: context.state.pendingCopyCount > 0 };
}
