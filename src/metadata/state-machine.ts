/**
 * The replicated state machine: one committed command in, its writes and its answer out.
 *
 * Deterministic: reads no clock, draws nothing, does no I/O; the same state and command give the same writes in the same order
 * on every member. A refusal is an answer and writes nothing but its own memory in the request table. A throw is a broken
 * invariant and ends the node.
 */
import { DriveError } from "../drive/errors.ts";
import {
  FEATURE_LEVELS,
  levelTooLow,
  versionUnsupported,
  type FeatureLevels,
} from "../drive/feature-levels.ts";
import { unreachable } from "../std/assert.ts";
import type { OrderedTransaction } from "../std/ordered-store.ts";
import { advanceClock, expire } from "./clock.ts";
import { decodeCommand } from "./codec.ts";
import { setsLevel } from "./command-level.ts";
import type { Command, CommandBody, CommandResult, Rejected, ResultValue } from "./commands.ts";
import { confirmDropped, recordSha256 } from "./contents.ts";
import { ApplyContext, DEFAULT_LIMITS, type StateMachineLimits } from "./context.ts";
import { evict } from "./evict.ts";
import { featureLevel, raiseFeatureLevel } from "./feature-level.ts";
import { materialise, reclaim } from "./graveyard.ts";
import { CLUSTER_KEY } from "./keys.ts";
import { registerNode, renewWriteLease } from "./members.ts";
import {
  admitMember,
  endMembershipChange,
  issueJoinToken,
  removeMember,
  transferLeadership,
} from "./membership.ts";
import { clusterCodec } from "./records.ts";
import { addReplica, addReplicas, assignReplicas, assignReplica, reportReplica } from "./replicas.ts";
import { admit, findAnswer, isOfAttempt, remember } from "./requests.ts";
import { declareLost, recount, reportScrub, returnStore, setDraining } from "./stores.ts";
import { recordTreeSnapshot } from "./tree-snapshots.ts";
import {
  cancelTask,
  claimTask,
  createTask,
  failTask,
  finishTask,
  releaseTask,
  renewTask,
  retryTask,
} from "./tasks.ts";
import { rotateTicketKey } from "./ticket-keys.ts";
import { copyEntry, createDirectory, deleteEntry, moveEntry, updateEntry } from "./tree.ts";
import { abortUpload, assignExtent, completeUpload, initUpload, putSmall, renewUpload } from "./uploads.ts";

const NONE: ResultValue = { kind: "none" };

/** Applies commands to a store; holds no state of its own. */
export class MetadataStateMachine {
  readonly #limits: StateMachineLimits;
  readonly #levels: FeatureLevels;

  /**
   * @param limits other bounds than those of drive/limits.ts, for tests; the same on every member
   * @param levels the feature levels that this node supports
   */
  constructor(limits: Partial<StateMachineLimits> = {}, levels: FeatureLevels = FEATURE_LEVELS) {
    this.#limits = { ...DEFAULT_LIMITS, ...limits };
    this.#levels = levels;
  }

  /**
   * Applies one committed command inside `transaction`.
   * @returns the answer for the proposer; the remembered one when its request was applied before
   * @throws DriveError VERSION_UNSUPPORTED for what this node cannot apply as newer ones do: it must stop
   */
  apply(
    transaction: OrderedTransaction,
    committed: { readonly index: number; readonly term: number; readonly data: Uint8Array },
  ): CommandResult {
    const { index, data } = committed;
    const command = decodeCommand(data);
    if (command.featureLevel !== undefined && command.featureLevel > this.#levels.max) {
      throw versionUnsupported(this.#levels, command.featureLevel);
    }
    const context = new ApplyContext(transaction, {
      index,
      wallTimeMs: command.wallTimeMs,
      limits: this.#limits,
    });
    const remembered = findAnswer(context, command);
    if (remembered !== undefined) return remembered;
    const refusal = attempt(index, () => {
      admit(context, command);
      refuseEarly(context, command);
    });
    if (refusal !== undefined) return refusal;
    return execute(transaction, context, command);
  }
}

// Whoever proposes looks first (cluster/metadata-port.ts); this is for one that did not.
function refuseEarly(context: ApplyContext, { featureLevel: needed, body }: Command): void {
  if (needed === undefined || setsLevel(body)) return;
  const level = featureLevel(context);
  if (needed > level) throw levelTooLow(needed, level);
}

function execute(transaction: OrderedTransaction, context: ApplyContext, command: Command): CommandResult {
  const { index } = context;
  let value: ResultValue = NONE;
  const refusal = attempt(index, () => {
    value = dispatch(context, command.body);
  });
  if (refusal === undefined) {
    const result: CommandResult = { outcome: "applied", index, value };
    remember(context, command, result);
    context.finish();
    return result;
  }
  if (command.requestId === "" || isOfAttempt(command, refusal)) return refusal;
  // What the refused command wanted to write is dropped with its context.
  const fresh = new ApplyContext(transaction, context);
  admit(fresh, command);
  remember(fresh, command, refusal);
  fresh.finish();
  return refusal;
}

// Runs `work`; the refusal that it threw, or undefined.
function attempt(index: number, work: () => void): Rejected | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    if (!(error instanceof DriveError)) throw error;
    const { reason, message, metadata } = error;
    return { outcome: "rejected", index, reason, message, metadata };
  }
}

function dispatch(context: ApplyContext, body: CommandBody): ResultValue {
  switch (body.kind) {
    case "bootstrap":
      return bootstrap(context, body);
    case "advance-clock":
      return advanceClock(context, body.elapsedMs);
    case "register-node":
      registerNode(context, body);
      return NONE;
    case "renew-write-lease":
      return renewWriteLease(context, body);
    case "create-directory":
      return createDirectory(context, body);
    case "move-entry":
      return moveEntry(context, body);
    case "copy-entry":
      return copyEntry(context, body);
    case "delete-entry":
      return deleteEntry(context, body);
    case "update-entry":
      return updateEntry(context, body);
    case "init-upload":
      return initUpload(context, body);
    case "renew-upload":
      return renewUpload(context, body);
    case "assign-extent":
      return assignExtent(context, body);
    case "complete-upload":
      return completeUpload(context, body);
    case "abort-upload":
      return abortUpload(context, body);
    case "put-small":
      return putSmall(context, body);
    case "add-replica":
      addReplica(context, body);
      return NONE;
    case "add-replicas":
      return addReplicas(context, body);
    case "assign-replicas":
      return assignReplicas(context, body);
    case "assign-replica":
      assignReplica(context, body);
      return NONE;
    case "report-replica":
      reportReplica(context, body);
      return NONE;
    case "declare-lost":
      declareLost(context, body);
      return NONE;
    case "return-store":
      returnStore(context, body);
      return NONE;
    case "report-scrub":
      reportScrub(context, body);
      return NONE;
    case "set-draining":
      setDraining(context, body);
      return NONE;
    case "request-scrub":
      // After everything that has begun by now.
      context.state.scrubRequestTimeMs = context.state.clusterTimeMs + 1;
      return NONE;
    case "recount":
      return recount(context);
    case "record-sha256":
      recordSha256(context, body);
      return NONE;
    case "expire":
      return expire(context);
    case "reclaim":
      return reclaim(context);
    case "materialise":
      return materialise(context, body.directoryId, body.path);
    case "confirm-dropped":
      confirmDropped(context, body);
      return NONE;
    case "issue-join-token":
      return issueJoinToken(context, body);
    case "admit-member":
      return admitMember(context, body);
    case "remove-member":
      return removeMember(context, body);
    case "transfer-leadership":
      return transferLeadership(context, body);
    case "end-membership-change":
      endMembershipChange(context, body);
      return NONE;
    case "evict":
      return evict(context);
    case "record-tree-snapshot":
      recordTreeSnapshot(context, body);
      return NONE;
    case "create-task":
      return createTask(context, body);
    case "claim-task":
      return claimTask(context, body);
    case "renew-task":
      return renewTask(context, body);
    case "finish-task":
      return finishTask(context, body);
    case "fail-task":
      return failTask(context, body);
    case "release-task":
      return releaseTask(context, body);
    case "retry-task":
      return retryTask(context, body);
    case "cancel-task":
      return cancelTask(context, body);
    case "rotate-ticket-key":
      rotateTicketKey(context, body);
      return NONE;
    case "raise-feature-level":
      raiseFeatureLevel(context, body);
      return NONE;
    default:
      return unreachable(body);
  }
}

function bootstrap(
  context: ApplyContext,
  body: Extract<CommandBody, { readonly kind: "bootstrap" }>,
): ResultValue {
  if (context.get(CLUSTER_KEY) !== undefined) return NONE;
  context.put(CLUSTER_KEY, clusterCodec.encode(body));
  context.state.featureLevel = body.featureLevel ?? 0;
  return NONE;
}
