/**
 * `netdisk cluster ...` on the command line: names, arguments and options of its commands.
 */
import { Option, type Command } from "commander";
import { JOIN_TOKEN_LIFETIME_MS_MAX } from "../drive/limits.ts";
import {
  addNode,
  backUpTree,
  removeNode,
  transferLeadership,
  type TokenSettings,
} from "./cluster-commands.ts";
import { clusterDrain, clusterScrub, clusterStatus } from "./cluster-status.ts";
import type { CommandContext } from "./command-context.ts";
import { parseInteger } from "./option-values.ts";

/** What a command does with a cluster; returns its exit code. */
export type Action = (context: CommandContext) => Promise<number>;

/** Gives a command its action, made from its arguments and options. */
export type AddAction = (
  command: Command,
  make: (args: readonly string[], options: Record<string, unknown>) => Action,
) => void;

/** Adds `cluster` and its commands to the program. */
export function addClusterCommands(program: Command, add: AddAction): void {
  const cluster = program
    .command("cluster")
    .description("Look at the cluster, and change who belongs to it.");
  const status = cluster
    .command("status")
    .description("Who leads, which nodes are well, and how many copies there are.");
  add(status, () => clusterStatus);
  const scrub = cluster
    .command("scrub")
    .description("Have every node read and verify all its copies now, yielding to users.");
  add(scrub, () => clusterScrub);
  const backup = cluster.command("backup").description("Keep a snapshot of the tree in the cluster now.");
  add(backup, () => backUpTree);
  const drain = cluster
    .command("drain")
    .description("Have a node give its copies to others and take no new ones, before it is removed.")
    .argument("<node>", "name or member id")
    .option("--stop", "end that: the node takes copies again");
  add(
    drain,
    ([nodeId], options) =>
      (context) =>
        clusterDrain(context, nodeId ?? "", options["stop"] !== true),
  );
  addMembershipCommands(cluster, add);
}

function addMembershipCommands(cluster: Command, add: AddAction): void {
  const tokenOptions = (command: Command): Command =>
    command
      .addOption(
        new Option("--lifetime <seconds>", "how long the token is good, an hour when absent").argParser(
          (text) => parseInteger(text, 1, JOIN_TOKEN_LIFETIME_MS_MAX / 1000),
        ),
      )
      .option("--wait", "until a node has joined with it");
  const tokenSettings = (options: Record<string, unknown>): TokenSettings => ({
    lifetimeSeconds: typeof options["lifetime"] === "number" ? options["lifetime"] : undefined,
    wait: options["wait"] === true,
  });
  add(
    tokenOptions(cluster.command("add").description("Make a token with which one more node joins.")).option(
      "--storage-only",
      "one that holds copies alone: it keeps no tree and has no vote",
    ),
    (_, options) => (context) =>
      addNode(context, undefined, {
        ...tokenSettings(options),
        storageOnly: options["storageOnly"] === true,
      }),
  );
  add(
    tokenOptions(
      cluster
        .command("replace")
        .description("Make a token with which a new node takes the place of one that is gone for good.")
        .argument("<node>", "name or member id of the one to replace"),
    ),
    ([node], options) =>
      (context) =>
        addNode(context, node, tokenSettings(options)),
  );
  add(
    cluster
      .command("remove")
      .description("Remove a node; its copies are made elsewhere.")
      .argument("<node>", "name or member id")
      .option("--force", "also when the rest has no live quorum, or a file would lose its last copy")
      .option("--no-wait", "do not wait until it is out"),
    ([node = ""], options) =>
      (context) =>
        removeNode(context, node, { force: options["force"] === true, wait: options["wait"] !== false }),
  );
  add(
    cluster
      .command("transfer")
      .description("Hand leadership to a node, or to the one that is furthest along.")
      .argument("[node]", "name or member id"),
    ([node]) =>
      (context) =>
        transferLeadership(context, node),
  );
}
