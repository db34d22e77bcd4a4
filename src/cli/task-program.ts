/** The options and arguments of `netdisk tasks`, for program.ts. */
import { InvalidArgumentError, Option, type Command } from "commander";
import { TASK_KINDS, TASK_STATES } from "../drive/task.ts";
import type { CommandContext } from "./command-context.ts";
import { cancelTask, listTasks, retryTask, showTask } from "./task-commands.ts";

type Action = (context: CommandContext) => Promise<number>;

/** Tasks that one call of `netdisk tasks ls` shows at most. */
const SHOWN_COUNT_MAX = 20_000;

function parseTaskId(text: string): number {
  if (/^[1-9][0-9]{0,14}$/.test(text)) return Number(text);
  throw new InvalidArgumentError("A task has a number, as netdisk tasks ls shows it.");
}

function parseLimit(text: string): number {
  const limit = Number(text);
  if (/^[0-9]+$/.test(text) && limit >= 1 && limit <= SHOWN_COUNT_MAX) return limit;
  throw new InvalidArgumentError(`It is a number from 1 to ${SHOWN_COUNT_MAX}.`);
}

/** Adds the commands. @param add gives a command the options of those that talk to a drive, and its action */
export function addTaskCommands(
  program: Command,
  add: (
    command: Command,
    make: (args: readonly string[], options: Record<string, unknown>) => Action,
  ) => void,
): void {
  const tasks = program.command("tasks").description("Work that the cluster does in the background.");
  const list = tasks
    .command("ls")
    .description("List tasks, newest first.")
    .addOption(new Option("--kind <kind>", "only these").choices([...TASK_KINDS]))
    .addOption(new Option("--state <state>", "only these").choices([...TASK_STATES]))
    .addOption(new Option("--limit <count>", "at most this many").argParser(parseLimit).default(100));
  add(list, (_args, options) => {
    const filter = {
      kind: TASK_KINDS.find((kind) => kind === options["kind"]),
      state: TASK_STATES.find((state) => state === options["state"]),
    };
    return (context) => listTasks(context, filter, options["limit"] as number);
  });
  const one = (
    name: string,
    description: string,
    run: (context: CommandContext, id: number) => Promise<number>,
  ) => {
    const command = tasks.command(name).description(description).argument("<task>", "number of the task");
    add(command, ([task = ""]) => {
      const taskId = parseTaskId(task);
      return (context) => run(context, taskId);
    });
  };
  one("show", "Show a task with its parameters, result and last error.", showTask);
  one(
    "cancel",
    "Cancel a task that waits or runs; what it has done stays. A download that is done is released.",
    cancelTask,
  );
  one("retry", "Let a task that failed or was cancelled be tried anew.", retryTask);
}
