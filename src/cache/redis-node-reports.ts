/**
 * What nodes tell of themselves in Redis: one hash a node that lives for a short time, for people and programs that look.
 *
 * Information alone: nothing that decides anything reads it. What nodes need to know of each other comes with heartbeats.
 */
import type { NodeReport, ReportedTask, ReportedTransfer } from "../drive/drive-api.ts";
import { TASK_KINDS } from "../drive/task.ts";
import type { RedisClient } from "./redis-client.ts";

/** A report is gone after this: two that did not come in a row. */
export const REPORT_LIFE_MS = 15_000;
/** Transfers that a report names; the newest ones. */
export const REPORT_TRANSFER_COUNT_MAX = 50;
/** Tasks that a report names; those that were begun last. */
export const REPORT_TASK_COUNT_MAX = 50;

// A report replaces the one before as a whole.
const SCRIPT = `
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'seen', ARGV[2], 'health', ARGV[3], 'load', ARGV[4], 'disk', ARGV[5], 'transfers', ARGV[6], 'tasks', ARGV[7])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1`;

/** See the file's comment. */
export class RedisNodeReports {
  readonly #client: RedisClient;
  readonly #lifeMs: number;

  constructor(client: RedisClient, lifeMs: number = REPORT_LIFE_MS) {
    this.#client = client;
    this.#lifeMs = lifeMs;
  }

  /** Leaves a node's report for the others. @returns whether it is there */
  async publish(memberId: number, report: NodeReport): Promise<boolean> {
    const { seenTimeMs, isReady, inflightBytes, appliedIndex, freeBytes, totalBytes, transfers, tasks } =
      report;
    const values = [
      ...[this.#lifeMs, seenTimeMs, isReady ? "ready" : "unready"],
      ...[JSON.stringify({ inflightBytes, appliedIndex }), JSON.stringify({ freeBytes, totalBytes })],
      JSON.stringify(transfers.slice(-REPORT_TRANSFER_COUNT_MAX)),
      JSON.stringify(tasks.slice(-REPORT_TASK_COUNT_MAX)),
    ];
    const answer = await this.#client.attempt("report", (redis) =>
      redis.eval(SCRIPT, 1, this.#key(memberId), ...values),
    );
    return answer.ok;
  }

  /** The reports of these members that are there; none while Redis does not answer. */
  async read(memberIds: readonly number[]): Promise<ReadonlyMap<number, NodeReport>> {
    const answer = await this.#client.attempt("reports", (redis) =>
      Promise.all(memberIds.map((memberId) => redis.hgetall(this.#key(memberId)))),
    );
    const reports = new Map<number, NodeReport>();
    if (!answer.ok) return reports;
    for (const [index, memberId] of memberIds.entries()) {
      const report = decode(answer.value[index] ?? {});
      if (report !== undefined) reports.set(memberId, report);
    }
    return reports;
  }

  #key(memberId: number): string {
    return this.#client.key("node", memberId);
  }
}

/** The report in a hash; undefined when it is none. */
function decode(fields: Readonly<Record<string, string>>): NodeReport | undefined {
  const { seen, health, load, disk, transfers, tasks } = fields;
  const seenTimeMs = Number(seen);
  const { inflightBytes, appliedIndex } = recordOf(load);
  const { freeBytes, totalBytes } = recordOf(disk);
  const listed = parse(transfers);
  // Nodes of an earlier build tell of no tasks.
  const listedTasks = tasks === undefined ? [] : parse(tasks);
  if (seen === undefined || !isCount(seenTimeMs) || !Array.isArray(listed)) return undefined;
  if (!Array.isArray(listedTasks)) return undefined;
  if (health !== "ready" && health !== "unready") return undefined;
  if (!isCount(inflightBytes) || !isCount(appliedIndex)) return undefined;
  if (!isCount(freeBytes) || !isCount(totalBytes)) return undefined;
  return {
    ...{ seenTimeMs, isReady: health === "ready", inflightBytes, appliedIndex, freeBytes, totalBytes },
    transfers: listed.flatMap((each) => decodeTransfer(each) ?? []).slice(-REPORT_TRANSFER_COUNT_MAX),
    tasks: listedTasks.flatMap((each) => decodeTask(each) ?? []).slice(-REPORT_TASK_COUNT_MAX),
  };
}

function decodeTransfer(value: unknown): ReportedTransfer | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { id, kind, sizeBytes, transferredBytes } = value as Record<string, unknown>;
  if (typeof id !== "string" || (kind !== "upload" && kind !== "download")) return undefined;
  if (!isCount(transferredBytes) || (sizeBytes !== undefined && !isCount(sizeBytes))) return undefined;
  return { id, kind, sizeBytes, transferredBytes };
}

function decodeTask(value: unknown): ReportedTask | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { taskId, kind: name, fence, sinceTimeMs, progress } = value as Record<string, unknown>;
  const kind = TASK_KINDS.find((each) => each === name);
  if (kind === undefined || typeof progress !== "object" || progress === null) return undefined;
  const { doneCount, totalCount } = progress as Record<string, unknown>;
  if (!isCount(taskId) || !isCount(fence) || !isCount(sinceTimeMs)) return undefined;
  if (!isCount(doneCount) || !isCount(totalCount)) return undefined;
  return { taskId, kind, fence, sinceTimeMs, progress: { doneCount, totalCount } };
}

function recordOf(text: string | undefined): Readonly<Record<string, unknown>> {
  const value = parse(text);
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

function parse(text: string | undefined): unknown {
  try {
    return text === undefined ? undefined : JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
