/**
 * All that makes copies at the members of a TestDrives: repair, the planner, a queue with its outbox and a worker, for each member.
 * A member can die in the middle: from then on none of its calls to the tree is ever answered.
 */
import { MetadataClient } from "../../src/cluster/metadata-client.ts";
import type { MetadataPort } from "../../src/cluster/metadata-port.ts";
import { CopyMaker } from "../../src/replication/copy-maker.ts";
import { ExtentLocks } from "../../src/replication/extent-locks.ts";
import { Repair } from "../../src/replication/repair.ts";
import { ReplicaCopier } from "../../src/replication/replica-copier.ts";
import { inlineDigester } from "../../src/std/digest.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { EmbeddedQueue } from "../../src/tasks/embedded-queue.ts";
import { ReplicationHandler } from "../../src/tasks/replication-handler.ts";
import { ReplicationPlanner } from "../../src/tasks/replication-planner.ts";
import { TaskOutbox } from "../../src/tasks/task-outbox.ts";
import { TaskTable } from "../../src/tasks/task-table.ts";
import { SLOT_COUNT, TaskWorker } from "../../src/tasks/task-worker.ts";
import { freePace, type TestDrives } from "./use-drives.ts";

interface Loop {
  start(): void;
  stop(): Promise<void>;
}

/** What is started: members work on tasks unless `withoutWorkers`. */
export interface CopyLoopsOptions {
  readonly withoutWorkers?: boolean;
}

/** The loops of some members. */
export class CopyLoops {
  readonly planners = new Map<number, ReplicationPlanner>();
  readonly #drives: TestDrives;
  readonly #loops = new Map<number, readonly Loop[]>();
  readonly #workers = new Map<number, TaskWorker>();
  readonly #dead = new Set<number>();

  /** Starts them. */
  constructor(drives: TestDrives, memberIds: readonly number[], options: CopyLoopsOptions = {}) {
    this.#drives = drives;
    for (const memberId of memberIds) this.#startMember(memberId, options);
  }

  /** Takes a member down in the middle of what it does. */
  die(memberId: number): void {
    this.#dead.add(memberId);
    this.#drives.kill(memberId);
  }

  /** Lets time pass, in the cluster too, as the leader's housekeeping does. */
  async pass(ms: number): Promise<void> {
    const stepMs = 500;
    for (let passed = 0; passed < ms; passed += stepMs) {
      await this.#drives.clock.advance(stepMs);
      this.#drives.tree.apply({ kind: "advance-clock", elapsedMs: stepMs });
      this.#drives.tree.apply({ kind: "expire" });
    }
  }

  /** Ends those that live. */
  async stop(): Promise<void> {
    for (const [memberId, loops] of this.#loops) {
      if (this.#dead.has(memberId)) continue;
      await this.#workers.get(memberId)?.stop();
      for (const loop of loops) await loop.stop();
    }
  }

  #startMember(memberId: number, { withoutWorkers = false }: CopyLoopsOptions): void {
    const { plane, assignments } = this.#drives.node(memberId);
    const { clock, detector, placement, budget } = plane;
    const port = this.#mortal(plane.metadata.port);
    const metadata = new MetadataClient(port, new SeededPrng(7000 + memberId));
    const onBadReplica = plane.reports.reportBad.bind(plane.reports);
    const copier = new ReplicaCopier({
      ...freePace(clock),
      ...{ ports: this.#drives.replicas, detector, digester: inlineDigester, budget, memberId, onBadReplica },
    });
    const copies = new CopyMaker({
      clock,
      metadata,
      assignments,
      placement,
      copier,
      locks: new ExtentLocks(),
    });
    const copying = { clock, metadata, detector, placement };
    const planner = new ReplicationPlanner(copying);
    const repair = new Repair({ ...copying, copies, tasks: planner });
    const queue = new EmbeddedQueue();
    const outbox = new TaskOutbox({
      ...{ clock, port, queue, isActive: () => true, republishAfterMs: 5000 },
    });
    const worker = new TaskWorker({
      clock,
      table: new TaskTable(metadata),
      handlers: new Map([["replication", new ReplicationHandler(copying)]]),
    });
    if (!withoutWorkers) {
      queue.consume("replication", SLOT_COUNT, (delivery) => worker.take("replication", delivery));
    }
    const loops = [repair, planner, outbox];
    this.planners.set(memberId, planner);
    this.#workers.set(memberId, worker);
    this.#loops.set(memberId, loops);
    for (const loop of loops) loop.start();
  }

  #mortal(port: MetadataPort): MetadataPort {
    const never = new Promise<never>(() => undefined);
    const isDead = (): boolean => this.#dead.has(port.memberId);
    return {
      ...port,
      propose: (body, options) =>
        isDead()
          ? never
          : port.propose(body, options).then(
              (result) => (isDead() ? never : result),
              (error: unknown) => (isDead() ? never : Promise.reject(error as Error)),
            ),
      linearize: (options) => (isDead() ? never : port.linearize(options)),
    };
  }
}
