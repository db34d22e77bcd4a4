/**
 * `netdisk cluster add | replace | remove | transfer`: who belongs to the cluster, changed while it serves.
 *
 * A change is begun at any node and carried out by whoever leads; these commands show how far it is until it has ended. Interrupting
 * one does not end its change: `netdisk cluster status` shows it, and asking for the same removal again goes on watching it.
 */
import type { MembershipProgress } from "../drive/cluster-admin.ts";
import { REPLICA_COUNT } from "../drive/limits.ts";
import { sleep } from "../std/clock.ts";
import { toHex } from "../std/bytes.ts";
import type { CommandContext } from "./command-context.ts";
import { EXIT_FAILURE, EXIT_OK } from "./exit-code.ts";
import { formatBytes, formatCount, formatDuration, formatQuantity, formatTime } from "../std/format.ts";
import { joinCommand } from "./join-command.ts";
import { NODE_ENVIRONMENT, shellCommand } from "./node-environment.ts";
import { findNode, watchingAddresses } from "./watching-addresses.ts";

/** Random bytes of the secret of a token. */
const SECRET_SIZE_BYTES = 16;
/** How often a change is looked at while it is watched. */
export const WATCH_INTERVAL_MS = 300;

/** Settings of `cluster add` and `cluster replace`. */
export interface TokenSettings {
  /** Seconds for which the token is good; the cluster's default when undefined. */
  readonly lifetimeSeconds: number | undefined;
  /** Whether to wait until a node has joined with it. */
  readonly wait: boolean;
  /** Whether the node is to keep no tree and have no vote. */
  readonly storageOnly?: boolean | undefined;
}

/** Makes a token with which a node joins, or takes the place of another. */
export async function addNode(
  context: CommandContext,
  replacesNode: string | undefined,
  settings: TokenSettings,
): Promise<number> {
  const { admin, drive, patience, output, io, nodes } = context;
  const secret = toHex(io.prng.bytes(SECRET_SIZE_BYTES));
  const requestId = patience.requestId();
  const { lifetimeSeconds, storageOnly } = settings;
  const lifetimeMs = lifetimeSeconds === undefined ? undefined : lifetimeSeconds * 1000;
  const before = await patience.read((signal) => admin.membership({ signal }));
  const made = await patience.run((signal) =>
    admin.createJoinToken({ secret, lifetimeMs, replacesNode, storageOnly }, { requestId, signal }),
  );
  const known = await patience.read((signal) => drive.cluster({ consistency: "stale", signal }));
  const replaced = findNode(known.nodes, replacesNode);
  const { command, hint } = joinCommand(made.token, nodes, known.nodes, replaced);
  if (output.json) await output.record({ type: "token", ...made, command, environment: NODE_ENVIRONMENT });
  else {
    const place = replacesNode === undefined ? "" : ` in the place of ${replacesNode}`;
    await output.line(
      `For ${formatDuration(made.lifetimeMs)} one node may join${place}. Start it with an empty data directory:`,
    );
    await output.line(`  ${shellCommand(command)}`);
    if (hint !== undefined) output.note(hint);
  }
  if (!settings.wait) return EXIT_OK;
  if (replacesNode !== undefined)
    context.askAt(watchingAddresses(nodes.split(","), known, replacesNode).after);
  const knownId = before.change?.changeId ?? 0;
  const isOurs = (change: MembershipProgress): boolean =>
    change.changeId > knownId && (change.kind === "add" || change.kind === "replace");
  return watch(context, isOurs, {
    startMs: made.lifetimeMs,
    whenNone: `No node has joined with the token in ${formatDuration(made.lifetimeMs)}, and it is good no more. Does the new node run, and what does its log say?`,
  });
}

/** Removes a node and waits until it is out. */
export async function removeNode(
  context: CommandContext,
  node: string,
  settings: { readonly force: boolean; readonly wait: boolean },
): Promise<number> {
  const { admin, drive, patience, nodes } = context;
  const requestId = patience.requestId();
  const known = await patience.read((signal) => drive.cluster({ consistency: "stale", signal }));
  const addresses = watchingAddresses(nodes.split(","), known, node);
  // The answer itself may be lost with the node: the others give it again.
  context.askAt(addresses.before);
  const { changeId } = await patience.run((signal) =>
    admin.removeNode(node, { force: settings.force }, { requestId, signal }),
  );
  if (!settings.wait) return told(context, changeId);
  context.askAt(addresses.after);
  const code = await watch(context, (change) => change.changeId === changeId);
  if (code === EXIT_OK) await noteFewNodes(context);
  return code;
}

/** Says so when the cluster has fewer nodes than a file has copies. */
async function noteFewNodes({ admin, patience, output }: CommandContext): Promise<void> {
  const { members } = await patience.read((signal) => admin.membership({ signal }));
  // Each copy is on a node of its own.
  const nodeCount = members.filter(({ part }) => part !== "outgoing").length;
  if (nodeCount >= REPLICA_COUNT) return;
  const copies = nodeCount === 1 ? "one copy" : "two copies";
  const risk = nodeCount === 2 ? " Until then it takes changes only while both nodes are up." : "";
  const warning = `The cluster has only ${formatQuantity(nodeCount, "node")}: files have ${copies} until "netdisk cluster add" lets one more in.${risk}`;
  if (output.json) await output.record({ type: "note", note: warning, nodeCount });
  else output.note(warning);
}

/** Hands leadership to a node, or to the one that is furthest along, and waits until it leads. */
export async function transferLeadership(context: CommandContext, node: string | undefined): Promise<number> {
  const { admin, patience } = context;
  const requestId = patience.requestId();
  const { changeId } = await patience.run((signal) => admin.transferLeadership(node, { requestId, signal }));
  return watch(context, (change) => change.changeId === changeId);
}

async function told({ output }: CommandContext, changeId: number): Promise<number> {
  if (output.json) await output.record({ type: "change", changeId });
  else await output.line(`Change ${changeId} has begun; netdisk cluster status shows how far it is.`);
  return EXIT_OK;
}

/** A change in one sentence. */
export function describeChange(change: MembershipProgress): string {
  const { kind, phase, nodeId, formerNodeId, appliedIndex, targetIndex, reason } = change;
  const what = {
    add: `adding ${nodeId}`,
    remove: `removing ${formerNodeId}`,
    replace: `replacing ${formerNodeId} by ${nodeId}`,
    transfer: nodeId === "" ? "handing leadership over" : `handing leadership to ${nodeId}`,
  }[kind];
  // A node that is there and waits for others.
  const held = reason === "" ? undefined : `held back: ${reason}`;
  // One that does not come keeps other changes waiting.
  const wayOut = `; "netdisk cluster remove ${nodeId}" gives it up`;
  const how = {
    joining: held === undefined ? `admitted, not started yet${wayOut}` : `started, ${held}`,
    "catching-up":
      appliedIndex === 0
        ? `added as learner, not heard of yet or catching up${wayOut}`
        : `added as learner, catching up ${formatCount(appliedIndex)} of ${formatCount(targetIndex)}`,
    promoting: `caught up, ${held ?? "about to vote"}`,
    removing: "leaving",
    transferring: "under way",
    done: "done",
    failed: `failed: ${reason}`,
  }[phase];
  return `${what}: ${how}`;
}

/**
 * Shows a change until it has ended.
 * @param start how long it may take until there is one, and what to say when none came
 */
async function watch(
  { admin, patience, output, io }: CommandContext,
  isOurs: (change: MembershipProgress) => boolean,
  start = {
    startMs: 0,
    whenNone: "The change is not shown any more; netdisk cluster status shows who belongs to the cluster.",
  },
): Promise<number> {
  const endMs = io.clock.monotonicMs() + start.startMs;
  let shown = "";
  for (;;) {
    const { change } = await patience.read((signal) => admin.membership({ signal }));
    if (change !== undefined && isOurs(change)) {
      const line = describeChange(change);
      if (line !== shown) {
        if (output.json) await output.record({ type: "change", ...change });
        else await output.line(line);
      }
      shown = line;
      if (change.phase === "done") return EXIT_OK;
      if (change.phase === "failed") return EXIT_FAILURE;
    } else if (shown !== "") {
      // Ended, and another one has begun since.
      output.note("Another change has begun since; netdisk cluster status shows who belongs to the cluster.");
      return EXIT_OK;
    } else if (io.clock.monotonicMs() >= endMs) {
      output.note(start.whenNone);
      return EXIT_FAILURE;
    }
    await sleep(io.clock, WATCH_INTERVAL_MS, patience.signal);
  }
}

/** Has a snapshot of the tree kept that shows everything. */
export async function backUpTree({ admin, patience, output }: CommandContext): Promise<number> {
  const made = await patience.run((signal) => admin.backUpTree({ signal }));
  if (output.json) {
    await output.record({ type: "tree-snapshot", ...made });
    return EXIT_OK;
  }
  const { index, sizeBytes, wallTimeMs, isNew } = made;
  const what = `of index ${formatCount(index)} (${formatBytes(sizeBytes)})`;
  await output.line(
    isNew
      ? `A snapshot of the tree ${what} is kept.`
      : `Nothing has changed since the snapshot ${what} of ${formatTime(wallTimeMs)} UTC.`,
  );
  return EXIT_OK;
}
