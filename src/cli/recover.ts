/**
 * `netdisk recover`: founds a new cluster out of one surviving member, when the majority of the old one is lost for good.
 *
 * Without --confirm nothing is changed: the command says what this member knows and what may be lost, and how to go on. Run again
 * with the same --confirm it goes on where it was interrupted, or says that everything is done.
 */
import { recoverQuorum, type QuorumRecoveryReport } from "../node/quorum-recovery.ts";
import { ChannelPool } from "../rpc/channel-pool.ts";
import { describeNode } from "../rpc/node-client.ts";
import { SystemDisk } from "../std/system-disk.ts";
import type { CliIo } from "./cli-io.ts";
import { EXIT_OK } from "./exit-code.ts";
import type { Output } from "./output.ts";
import { readConfig, type ConfigOptions } from "./serve.ts";

/** Options of the command. */
export interface RecoverOptions {
  readonly config: ConfigOptions;
  /** The id of the old cluster: the confirmation. */
  readonly confirm: string | undefined;
}

/** Runs the command. @throws as recoverQuorum(); DriveError CONFIGURATION_INVALID */
export async function recover(io: CliIo, output: Output, options: RecoverOptions): Promise<number> {
  const config = await readConfig(io, options.config);
  const { clock, prng } = io;
  const pool = new ChannelPool({ clock });
  try {
    const { directory } = config.data;
    const report = await recoverQuorum({
      ...{ directory, clock, prng },
      disk: new SystemDisk(),
      ask: (address) => describeNode(address, { pool, clock }),
      confirmedClusterId: options.confirm,
    });
    if (output.json) await output.record(recordOf(report));
    else for (const line of linesOf(report, directory)) await output.line(line);
    return EXIT_OK;
  } finally {
    pool.close();
  }
}

function linesOf(report: QuorumRecoveryReport, directory: string): readonly string[] {
  const { nodeId, oldClusterId, newClusterId, outcome, survivor, others, lastWriteMs } = report;
  const lines = [`Member ${report.memberId} (${nodeId}) of cluster ${oldClusterId}, in ${directory}`];
  if (survivor !== undefined) {
    const { last, commitIndex, term } = survivor;
    lines.push(
      `  last entry     ${last.index} of term ${last.term}; certainly committed up to ${commitIndex}; term ${term}`,
    );
  }
  if (lastWriteMs !== undefined) lines.push(`  last written   ${new Date(lastWriteMs).toISOString()}`);
  for (const { address, memberId } of others) lines.push(`  no answer from ${address} (member ${memberId})`);
  if (outcome === "replaced") {
    return [
      `Member ${report.memberId} (${nodeId}), in ${directory}`,
      `This was done before: the member has left the cluster ${oldClusterId} and belongs to ${newClusterId ?? ""} now. Nothing was changed.`,
    ];
  }
  if (outcome === "unfinished") {
    return [
      ...lines,
      `An earlier run that founds the new cluster ${newClusterId ?? ""} was interrupted. Do not start the node before it is finished.`,
      `To finish it, run the command again with: --confirm ${oldClusterId}`,
    ];
  }
  if (outcome === "founded") {
    return [
      ...lines,
      `It is now the only member of the new cluster ${newClusterId ?? ""}.`,
      "Members of the old cluster are refused from now on: empty their data directories before they join again.",
      `Start it with PEERS naming itself alone, then add members. The old data is kept in ${directory}/*.replaced-*.`,
    ];
  }
  return [
    ...lines,
    "WHAT MAY BE LOST: changes that only the lost members had acknowledged. Nobody can tell which, or whether there are any.",
    "Files of which no surviving node has a copy stay in the tree and cannot be read.",
    "If any other member can be brought back, do that instead. Of several survivors, use the one with the highest last entry.",
    `To found a new cluster from this member, run the command again with: --confirm ${oldClusterId}`,
  ];
}

function recordOf(report: QuorumRecoveryReport): Record<string, unknown> {
  const { survivor, lastWriteMs, ...rest } = report;
  return {
    ...rest,
    ...(survivor === undefined
      ? {}
      : {
          lastIndex: survivor.last.index,
          lastTerm: survivor.last.term,
          commitIndex: survivor.commitIndex,
          term: survivor.term,
        }),
    ...(lastWriteMs === undefined ? {} : { lastWriteAt: new Date(lastWriteMs).toISOString() }),
  };
}
