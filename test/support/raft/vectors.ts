/**
 * Compares what our nodes do with what a scenario file of etcd-io/raft expects.
 *
 * Exactly equal: what directives print that handle no messages, such as raft-state, raft-log, status and compact. Equal as
 * multisets per directive: messages, each with everything it carries, and what the harness says beside them (refused proposals,
 * members that are not known, "no messages", roles, progress). A directive counts with those in its input; where these print a
 * log, entries count as messages do. Not compared: log lines, the layout of batches, the order of messages. Allowed differences:
 *
 *   1. Log:term/index of "MsgStorageAppend" itself, which nobody reads: the entries say it.
 *   2. Indentation, because it only shows nesting.
 *   3. The commit index and its term in requests for a vote and in refusals, which etcd's do not have (raft/DESIGN.md says why
 *      ours do). What follows from them is compared: commit indexes and roles.
 */
import { parseDirective, parseScript, type DirectiveCase } from "./datadriven.ts";
import { InteractionGroup, RefusedFeatureError } from "./interaction.ts";

/** Directives that print messages, whose order and layout are not compared. */
const MESSAGE_COMMANDS: ReadonlySet<string> = new Set([
  "deliver-msgs",
  "process-append-thread",
  "process-apply-thread",
  "process-ready",
  "send-snapshot",
  "stabilize",
]);

/** Directives that print entries. */
const LOG_COMMANDS: ReadonlySet<string> = new Set(["raft-log", "compact"]);

/** What is compared beside messages: roles, progress, and what the harness says. */
const WORDS =
  /^(?:\d+: State.*|raft: .*|raft proposal dropped|no messages|no (?:append|apply) work to perform|index must be specified .*)$/;

/** What a log is printed as. */
const LOG_LINE = /^(?:\d+\/\d+ Entry.*|log is empty: .*)$/;

/** How a scenario file ended. */
export type ReplayResult =
  | { readonly outcome: "equal"; readonly cases: number }
  | { readonly outcome: "refused"; readonly reason: string }
  | { readonly outcome: "different"; readonly differences: readonly string[] };

/**
 * Runs the scenario in `text` and compares; a scenario that needs a refused feature is not run to its end.
 * @param name the file, for errors
 * @throws Error naming file, line and directive for whatever is not understood, or breaks the core
 */
export function replayInteraction(text: string, name = "scenario"): ReplayResult {
  const group = new InteractionGroup();
  const differences: string[] = [];
  const cases = parseNamed(text, name);
  try {
    for (const directive of cases) {
      const difference = compareCase(directive, runCase(group, directive, name));
      if (difference !== undefined) differences.push(difference);
    }
  } catch (error) {
    if (error instanceof RefusedFeatureError) return { outcome: "refused", reason: error.message };
    throw error;
  }
  return differences.length > 0
    ? { outcome: "different", differences }
    : { outcome: "equal", cases: cases.length };
}

/** The cases of a script; an error of its format names the file. */
export function parseNamed(text: string, name: string): DirectiveCase[] {
  try {
    return parseScript(text);
  } catch (error) {
    throw new Error(`${name}, ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
}

function runCase(group: InteractionGroup, directive: DirectiveCase, name: string): string {
  try {
    return group.run(directive);
  } catch (error) {
    if (error instanceof RefusedFeatureError) throw error;
    const { line, command } = directive;
    const reason = error instanceof Error ? error.message : String(error);
    throw new Error(`${name}, line ${line}: ${command}: ${reason}`, { cause: error });
  }
}

function compareCase(directive: DirectiveCase, actual: string): string | undefined {
  const commands = commandsOf(directive);
  const isExact = !commands.some((command) => MESSAGE_COMMANDS.has(command));
  const hasLog = commands.some((command) => LOG_COMMANDS.has(command));
  const read = isExact ? withoutLogLines : (text: string) => messagesIn(text, hasLog);
  const wanted = read(directive.expected);
  const got = read(actual);
  if (wanted === got) return undefined;
  return `line ${directive.line}: ${directive.command}\n--- expected\n${wanted}\n--- actual\n${got}`;
}

/** The directive and those in its input. */
function commandsOf({ command, input }: DirectiveCase): string[] {
  if (command === "propose-conf-change") return [command];
  return [command, ...input.split("\n").map((line) => parseDirective(line).command)];
}

/** `text` without the lines that etcd's logger wrote. */
export function withoutLogLines(text: string): string {
  const lines = text.split("\n").filter((line) => !/^\s*(DEBUG|INFO|WARN|ERROR|FATAL|PANIC) /.test(line));
  return lines.filter((line) => line !== "ok" && line !== "").join("\n");
}

/** The messages in `text`, what the harness says beside them and, where asked for, entries, one a line, sorted. */
export function messagesIn(text: string, hasLog = false): string {
  const messages: string[] = [];
  const lines = text.split("\n");
  for (let at = 0; at < lines.length; at += 1) {
    const line = (lines[at] ?? "").trim();
    if (WORDS.test(line) || (hasLog && LOG_LINE.test(line))) messages.push(line);
    if (!/^(dropped: )?[0-9a-zA-Z]+->[0-9a-zA-Z]+ Msg/.test(line)) continue;
    let message = line.replace(/ Responses:\[$/, "");
    if (message.endsWith("Entries:[")) {
      do {
        at += 1;
        message += ` ${(lines[at] ?? "").trim()}`;
      } while (!(lines[at] ?? "").trim().startsWith("]"));
      message = message.replace(/ Responses:\[$/, "");
    }
    if ((lines[at + 1] ?? "").trim().startsWith("Snapshot:")) {
      at += 1;
      message += ` ${(lines[at] ?? "").trim().replace(/ Responses:\[$/, "")}`;
    }
    messages.push(message.replace(/(MsgStorageAppend Term:\d+) Log:\d+\/\d+/, "$1"));
  }
  return messages.sort().join("\n");
}
