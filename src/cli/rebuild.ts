/**
 * `netdisk rebuild`: founds a new cluster out of the chunk stores of an old one, when every voter's tree is lost.
 *
 * Without --confirm nothing is kept: the command says what it would give, and how to go on.
 */
import { rebuildTree, type TreeRebuildReport } from "../node/tree-rebuild.ts";
import { ChannelPool } from "../rpc/channel-pool.ts";
import { describeNode } from "../rpc/node-client.ts";
import { SystemDisk } from "../std/system-disk.ts";
import type { CliIo } from "./cli-io.ts";
import { EXIT_OK } from "./exit-code.ts";
import { formatBytes, formatQuantity, formatTime } from "../std/format.ts";
import type { Output } from "./output.ts";

/** Paths of each kind that are shown; all are in the JSON and in the report's file. */
const SHOWN_COUNT = 20;

/** Options of the command. */
export interface RebuildOptions {
  readonly directories: readonly string[];
  /** The id of the old cluster: the confirmation. */
  readonly confirm: string | undefined;
}

/** Runs the command. @throws as rebuildTree() */
export async function rebuild(io: CliIo, output: Output, options: RebuildOptions): Promise<number> {
  const { clock, prng } = io;
  const pool = new ChannelPool({ clock });
  try {
    const report = await rebuildTree({
      ...{ clock, prng, directories: options.directories },
      disk: new SystemDisk(),
      ask: (address) => describeNode(address, { pool, clock }),
      confirmedClusterId: options.confirm,
    });
    if (output.json) await output.record({ ...report });
    else for (const line of linesOf(report)) await output.line(line);
    return EXIT_OK;
  } finally {
    pool.close();
  }
}

function linesOf({ oldClusterId, newClusterId, nodes, found }: TreeRebuildReport): readonly string[] {
  const lines = [`Cluster ${oldClusterId}, from ${formatQuantity(nodes.length, "chunk store")}:`];
  for (const { directory, nodeId, memberId } of nodes)
    lines.push(`  ${nodeId} (member ${memberId}) in ${directory}`);
  if (found !== undefined) {
    const { snapshot, damagedSnapshotCount, guessed, unplaced, withoutBytes, perhapsDeleted } = found;
    lines.push(
      `Snapshot of the tree of ${formatTime(snapshot.madeTimeMs)} UTC, index ${snapshot.index} (${formatBytes(snapshot.sizeBytes)}).`,
      ...(damagedSnapshotCount > 0
        ? [`${formatQuantity(damagedSnapshotCount, "newer snapshot")} could not be read whole.`]
        : []),
      `It gives ${formatQuantity(found.fileCount, "file")} in ${formatQuantity(found.directoryCount, "folder")}.`,
      "Moves, copies, new folders, empty files and deletions made after it are lost.",
      ...listed(
        `${formatQuantity(found.guessedCount, "file")} came after it, GUESSED from manifests`,
        guessed.map(({ path }) => path),
      ),
      ...listed(
        `${formatQuantity(found.unplacedCount, "content")} could NOT BE PLACED, and are kept for 30 days`,
        unplaced.map(({ contentId, why, writtenFor }) => `${contentId}: ${why} ${writtenFor}`),
      ),
      ...listed(
        `${formatQuantity(withoutBytes.length, "file")} in it WITHOUT BYTES here: deleted since, or lost`,
        withoutBytes,
      ),
      ...listed(
        `${formatQuantity(perhapsDeleted.length, "file")} in it with fewer copies than it knew: PERHAPS DELETED since, here again`,
        perhapsDeleted,
      ),
    );
  }
  if (newClusterId !== undefined) {
    return [
      ...lines,
      `They are now the voters of the new cluster ${newClusterId}; the report is in rebuild-report.json of the first directory.`,
      "Start them as before. Empty the data directories of all other nodes before they join again.",
    ];
  }
  return [
    ...lines,
    "NOTHING WAS CHANGED. If any voter's tree can be brought back, do that instead. Give the data directories of as many nodes as possible.",
    `To found a new cluster, run the command again with: --confirm ${oldClusterId}`,
  ];
}

function listed(title: string, paths: readonly string[]): readonly string[] {
  if (paths.length === 0) return [];
  const more = paths.length > SHOWN_COUNT ? [`  ... and ${paths.length - SHOWN_COUNT} more`] : [];
  return [`${title}:`, ...paths.slice(0, SHOWN_COUNT).map((path) => `  ${path}`), ...more];
}
