/**
 * PostgreSQL, Redis and RabbitMQ, all real, fail in every way under a cluster of three real nodes that people work with. Nobody may
 * notice: no request fails, none takes long. Afterwards everything has caught up by itself: all tasks are done, none twice in effect,
 * and the tables equal the state machine and the manifests row by row. `npm run services` runs many rounds, the suite one.
 */
import { connect } from "amqplib";
import { must } from "../../../src/std/assert.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { AMQP_METHODS, Cutter } from "../../support/cutter.ts";
import { eventually } from "../../support/eventually.ts";
import { expectProjectionEqualsTruth } from "../../support/projection.ts";
import { netdisk } from "../../support/run-program.ts";
import { startOwnService, type OwnService } from "../../support/services/services.ts";
import { withStoppedCluster } from "../../support/stopped-cluster.ts";
import { startCluster, type ClusterNode, type TestCluster } from "../../support/use-cluster.ts";
import {
  MEDIAN_FACTOR_MAX,
  MEDIAN_SLACK_MS,
  REQUEST_KINDS,
  ServiceLoad,
  type Latencies,
  type RequestKind,
} from "./service-load.ts";

const SERVICES = ["postgres", "redis", "rabbitmq"] as const;
type Service = (typeof SERVICES)[number];

const ALL_UP = "all up";
const AWAY_PHASES = ["killed", "frozen"] as const;
type AwayPhase = (typeof AWAY_PHASES)[number];
const WITHIN_MS = 120_000;
const QUEUE = "download_tasks";
/** Prepared downloads asked for at once: more than the nodes work on, so that messages wait. */
const BURST_COUNT = 30;
/** A cluster keeps 1,000 prepared downloads; bursts of one run end before. */
const BURST_COUNT_MAX = 25;

/** What to run. */
export interface ServicesJobOptions {
  readonly rounds: number;
  readonly seed: number;
  readonly log: (line: string) => void;
}

/** Medians and the slowest request while something was in a certain state. */
export interface PhaseLatency {
  readonly phase: string;
  readonly kind: RequestKind;
  readonly count: number;
  readonly medianMs: number;
  readonly slowestMs: number;
}

/** What was found. */
export interface ServicesReport {
  /** Requests that failed or were answered wrongly. */
  readonly failures: readonly string[];
  readonly fileCount: number;
  readonly latencies: readonly PhaseLatency[];
  readonly taskStates: Readonly<Record<string, number>>;
  /** Files ever written that no finished upload task names. */
  readonly uncheckedFileIds: readonly string[];
  /** Deliveries after which a node said "done", over all nodes. */
  readonly finishedCount: number;
  readonly taskCount: number;
  readonly deadLetterCount: number;
  readonly purgedCount: number;
}

interface ServiceJson {
  readonly name: Service;
  readonly state: string;
  readonly since: string;
  readonly detail: string;
}

interface TaskJson {
  readonly taskId: string;
  readonly kind: string;
  readonly state: string;
  readonly parameters: { readonly entryIds?: readonly number[] } | null;
}

/** One run. */
class ServicesJob {
  readonly #options: ServicesJobOptions;
  readonly #services: Readonly<Record<Service, OwnService>>;
  readonly #broker: Cutter;
  readonly #cluster: TestCluster;
  readonly #clock = new SystemClock();
  readonly #load: ServiceLoad;
  readonly #latencies: PhaseLatency[] = [];
  #burstCount = 0;
  #purgedCount = 0;

  constructor(
    options: ServicesJobOptions,
    services: Readonly<Record<Service, OwnService>>,
    broker: Cutter,
    cluster: TestCluster,
  ) {
    this.#options = options;
    this.#services = services;
    this.#broker = broker;
    this.#cluster = cluster;
    this.#load = new ServiceLoad(cluster, new SeededPrng(options.seed), 3);
  }

  async run(): Promise<ServicesReport> {
    await this.#all(SERVICES, "up");
    await this.#load.go(20);
    await this.#burst();
    this.#note(ALL_UP);
    for (let round = 0; round < this.#options.rounds; round += 1) {
      await this.#allKilled();
      await this.#allFrozen();
      await this.#brokerKilled();
      await this.#brokerCut();
      await this.#queuePurged();
      await this.#messagesDead();
    }
    await this.#load.stop();
    return await this.#settle();
  }

  /** All three die at the same moment and come back later. */
  async #allKilled(): Promise<void> {
    const beganMs = this.#clock.wallMs();
    await Promise.all(SERVICES.map((name) => this.#services[name].kill()));
    this.#say("all three are killed");
    await this.#awayAndBack("killed", beganMs, () =>
      Promise.all(SERVICES.map((name) => this.#services[name].start())),
    );
  }

  /** Connections stay open and nothing answers. */
  async #allFrozen(): Promise<void> {
    const beganMs = this.#clock.wallMs();
    await Promise.all(SERVICES.map((name) => this.#services[name].pause()));
    this.#say("all three are frozen");
    await this.#awayAndBack("frozen", beganMs, () =>
      Promise.all(SERVICES.map((name) => this.#services[name].resume())),
    );
  }

  async #awayAndBack(how: AwayPhase, beganMs: number, bringBack: () => Promise<unknown>): Promise<void> {
    this.#load.takeLatencies();
    try {
      const first = await this.#all(SERVICES, "degraded", beganMs);
      await this.#load.go(30);
      await this.#burst();
      const later = await this.#all(SERVICES, "degraded", beganMs);
      // Whoever looks sees the same beginning, however often they were tried since.
      if (first.join() !== later.join())
        throw new Error(`away since ${first.join()}, then since ${later.join()}`);
      await this.#expectShown("degraded");
      this.#note(how);
    } finally {
      const backMs = this.#clock.wallMs();
      await bringBack();
      this.#say("they are back");
      await this.#all(SERVICES, "up", backMs);
    }
    await this.#load.go(15);
    await this.#expectShown("up");
    this.#note("just back");
  }

  async #brokerKilled(): Promise<void> {
    const beganMs = this.#clock.wallMs();
    const burst = this.#burst();
    await this.#services.rabbitmq.kill();
    await burst;
    await this.#all(["rabbitmq"], "degraded", beganMs);
    await this.#burst();
    await this.#load.go(10);
    const backMs = this.#clock.wallMs();
    await this.#services.rabbitmq.start();
    await this.#all(["rabbitmq"], "up", backMs);
    await this.#burst();
    this.#say("the broker was killed and started");
  }

  /** A connection ends in the middle of each kind of message. */
  async #brokerCut(): Promise<void> {
    for (const [what, method] of Object.entries(AMQP_METHODS)) {
      let isCut = false;
      const cut = this.#broker.cutAt(method).then(() => (isCut = true));
      await this.#bursts(`a cut in ${what}`, () => isCut);
      await cut;
      await this.#all(["rabbitmq"], "up");
      this.#say(`a connection was cut in the middle of ${what}`);
    }
  }

  async #queuePurged(): Promise<void> {
    let count = 0;
    await this.#bursts("purged messages", async () => {
      count += await this.#asked(async (channel) => (await channel.purgeQueue(QUEUE)).messageCount);
      return count > 0;
    });
    this.#purgedCount += count;
    this.#say(`${count} messages were purged`);
  }

  /** A consumer of somebody else's takes messages and gives them back until the broker puts them aside. */
  async #messagesDead(): Promise<void> {
    const before = await this.#deadCount();
    const model = await connect(this.#services.rabbitmq.url);
    try {
      const channel = await model.createChannel();
      await channel.consume(QUEUE, (message) => {
        if (message !== null) channel.nack(message, false, true);
      });
      await this.#bursts("dead letters", async () => (await this.#deadCount()) > before);
    } finally {
      await model.close();
    }
    this.#say(`${(await this.#deadCount()) - before} messages were given back too often`);
  }

  /** Bursts of download tasks until something has happened, looked at while they are under way. */
  async #bursts(what: string, isSo: () => Promise<boolean> | boolean): Promise<void> {
    let burst = Promise.resolve();
    let isOver = true;
    await eventually(
      what,
      async () => {
        if (isOver) {
          isOver = false;
          burst = this.#burst().then(() => void (isOver = true));
        }
        return await isSo();
      },
      { withinMs: WITHIN_MS, everyMs: 10 },
    );
    await burst;
  }

  async #burst(): Promise<void> {
    this.#burstCount += 1;
    if (this.#burstCount > BURST_COUNT_MAX * this.#options.rounds)
      throw new Error(`not within ${BURST_COUNT_MAX} bursts of tasks a round`);
    await this.#load.prepareDownloads(BURST_COUNT);
  }

  async #asked<T>(
    question: (
      channel: Awaited<ReturnType<Awaited<ReturnType<typeof connect>>["createChannel"]>>,
    ) => Promise<T>,
  ): Promise<T> {
    const model = await connect(this.#services.rabbitmq.url);
    try {
      return await question(await model.createChannel());
    } finally {
      await model.close();
    }
  }

  #deadCount(): Promise<number> {
    return this.#asked(async (channel) => (await channel.checkQueue(`${QUEUE}.dead`)).messageCount);
  }

  /** Waits until every node says so of each service, since `sinceMs` at the earliest; returns since when. */
  async #all(names: readonly Service[], state: string, sinceMs = 0): Promise<readonly string[]> {
    const since: string[] = [];
    for (const node of this.#cluster.nodes) {
      for (const name of names) {
        since.push(
          await eventually(
            `${node.nodeId} says that ${name} is ${state}`,
            async () => {
              const seen = await serviceOf(node, name);
              return seen.state === state && Date.parse(seen.since) >= sinceMs - 1 ? seen.since : undefined;
            },
            { withinMs: WITHIN_MS },
          ),
        );
      }
    }
    return since;
  }

  /** What operators see: the command line and the metrics say the same. */
  async #expectShown(state: string): Promise<void> {
    const { stdout } = await netdisk(["--nodes", this.#cluster.addresses, "cluster", "status"]);
    for (const name of SERVICES) {
      if (!new RegExp(`^${name}: ${state} since \\d{4}-`, "m").test(stdout))
        throw new Error(`cluster status does not say that ${name} is ${state}:\n${stdout}`);
      for (const node of this.#cluster.nodes) {
        await eventually(
          `netdisk_${name}_up of ${node.nodeId} says that it is ${state}`,
          async () => (await metric(node, `netdisk_${name}_up`)) === (state === "up" ? 1 : 0),
          { withinMs: WITHIN_MS },
        );
      }
    }
  }

  #note(phase: string): void {
    const found = phaseLatencies(phase, this.#load.takeLatencies());
    this.#latencies.push(...found);
    for (const { kind, count, medianMs, slowestMs } of found) {
      const times = `${medianMs.toFixed(0)} ms median, ${slowestMs.toFixed(0)} ms slowest of ${count}`;
      this.#say(`${phase}: ${kind} ${times}`);
    }
  }

  #say(line: string): void {
    this.#options.log(line);
  }

  async #settle(): Promise<ServicesReport> {
    const tasks = await eventually(
      "every task has ended, and every file is in one",
      async () => {
        const found = await this.#tasks();
        const isOver = found.every(({ state }) => state !== "waiting" && state !== "running");
        return isOver && this.#unchecked(found).length === 0 ? found : undefined;
      },
      { withinMs: WITHIN_MS, everyMs: 500 },
    ).catch(() => this.#tasks());
    await this.#projected();
    await this.#downloads();
    const taskStates: Record<string, number> = {};
    for (const { state } of tasks) taskStates[state] = (taskStates[state] ?? 0) + 1;
    let finishedCount = 0;
    for (const node of this.#cluster.nodes)
      finishedCount += await metric(node, "netdisk_task_deliveries_total", 'outcome="done"');
    const deadLetterCount = await this.#deadCount();
    await this.#expectCounted(deadLetterCount);
    await Promise.all(this.#cluster.nodes.map((node) => node.signal("SIGTERM")));
    this.#say("comparing the tables with the state and the manifests");
    await withStoppedCluster(
      this.#cluster.nodes.map(({ dataDirectory }) => dataDirectory),
      (truth) => expectProjectionEqualsTruth(truth, this.#services.postgres.url, "after all faults"),
    );
    return {
      ...{ failures: this.#load.failures, fileCount: this.#load.fileIds.length, latencies: this.#latencies },
      ...{ taskStates, uncheckedFileIds: this.#unchecked(tasks), finishedCount, taskCount: tasks.length },
      ...{ deadLetterCount, purgedCount: this.#purgedCount },
    };
  }

  async #tasks(): Promise<readonly TaskJson[]> {
    const found: TaskJson[] = [];
    let cursor: string | null = "";
    while (cursor !== null) {
      const at: string = cursor === "" ? "" : `&cursor=${encodeURIComponent(cursor)}`;
      const answer = await fetch(`${this.#cluster.node(0).httpUrl}/api/tasks?limit=100${at}`);
      const page = (await answer.json()) as { tasks: readonly TaskJson[]; nextCursor: string | null };
      found.push(...page.tasks);
      cursor = page.nextCursor;
    }
    return found;
  }

  /** Files that no finished task checked. A file that was removed may have been gone before anybody could. */
  #unchecked(tasks: readonly TaskJson[]): readonly string[] {
    const checked = new Set(
      tasks
        .filter(({ kind, state }) => kind === "upload" && state === "done")
        .flatMap(({ parameters }) => parameters?.entryIds ?? []),
    );
    return this.#load.fileIds.filter(
      (fileId) => !checked.has(Number(fileId)) && !this.#load.removedIds.has(fileId),
    );
  }

  /** Waits until nothing is left to be projected. */
  async #projected(): Promise<void> {
    const leader = await this.#cluster.leader();
    await eventually(
      "PostgreSQL has everything",
      async () => {
        const left = [
          await metric(leader, "netdisk_catalog_lag_commands", 'catalog="postgres"'),
          await metric(leader, "netdisk_catalog_waiting"),
        ];
        return left.every((count) => count === 0);
      },
      { withinMs: WITHIN_MS, everyMs: 500 },
    );
  }

  /** Every prepared download is there, once and whole. */
  async #downloads(): Promise<void> {
    for (const [at, downloadId] of this.#load.downloadIds.entries()) {
      const node = this.#cluster.node(at % 3);
      const answer = await fetch(`${node.httpUrl}/api/downloads/${downloadId}/content`);
      const bytes = Buffer.from(await answer.arrayBuffer());
      if (!answer.ok || !bytes.includes("archive me ")) {
        this.#load.failures.push(
          `download ${downloadId}: ${answer.status} ${bytes.toString().slice(0, 200)}`,
        );
      }
    }
  }

  /** What happened is in the metrics: calls and how they ended, fallbacks, the queue's dead letters. */
  async #expectCounted(deadLetterCount: number): Promise<void> {
    const wanted: readonly (readonly [name: string, labels: string])[] = [
      ["netdisk_redis_calls_total", 'outcome="done"'],
      ["netdisk_redis_calls_total", 'outcome="failed"'],
      ["netdisk_redis_calls_total", 'outcome="refused"'],
      ["netdisk_redis_call_duration_seconds_count", ""],
      ["netdisk_postgres_transaction_duration_seconds_count", 'outcome="done"'],
      ["netdisk_postgres_transaction_duration_seconds_count", 'outcome="failed"'],
      ["netdisk_catalog_fallbacks_total", ""],
      ["netdisk_catalog_projected_rows_total", ""],
      ["netdisk_rabbitmq_publish_duration_seconds_count", ""],
      ["netdisk_rabbitmq_publish_errors_total", ""],
      ["netdisk_task_messages_published_total", 'queue="embedded"'],
      ["netdisk_task_messages_published_total", 'queue="rabbitmq"'],
      ["netdisk_task_duration_seconds_count", 'kind="download"'],
    ];
    for (const [name, labels] of wanted) {
      let sum = 0;
      for (const node of this.#cluster.nodes) sum += await metric(node, name, labels);
      if (sum === 0) throw new Error(`the metric ${name}{${labels}} counted nothing`);
    }
    for (const node of this.#cluster.nodes) {
      await eventually(
        `${node.nodeId} counts ${deadLetterCount} dead letters`,
        async () =>
          (await metric(node, "netdisk_rabbitmq_queue_messages", 'kind="download",part="dead"')) ===
          deadLetterCount,
        { withinMs: WITHIN_MS, everyMs: 500 },
      );
    }
  }
}

async function serviceOf(node: ClusterNode, name: Service): Promise<ServiceJson> {
  const answer = await fetch(`${node.httpUrl}/readyz?verbose`);
  const { services } = (await answer.json()) as { services: readonly ServiceJson[] };
  return must(
    services.find((each) => each.name === name),
    `${name} among the services`,
  );
}

/** The sum of a metric's values whose labels hold `labels`; 0 when there is none. */
async function metric(node: ClusterNode, name: string, labels = ""): Promise<number> {
  const text = await (await fetch(`${node.httpUrl}/metrics`)).text();
  let sum = 0;
  for (const line of text.split("\n")) {
    const [, given = "", value] = new RegExp(`^${name}(?:\\{([^}]*)\\})? (\\S+)$`).exec(line) ?? [];
    if (value !== undefined && given.includes(labels)) sum += Number(value);
  }
  return sum;
}

function phaseLatencies(phase: string, latencies: Latencies): readonly PhaseLatency[] {
  return REQUEST_KINDS.flatMap((kind) => {
    const sorted = latencies[kind].toSorted((a, b) => a - b);
    const medianMs = sorted[Math.floor(sorted.length / 2)];
    if (medianMs === undefined) return [];
    return [{ phase, kind, count: sorted.length, medianMs, slowestMs: must(sorted.at(-1), "a time") }];
  });
}

/** Where half of the requests took too long, beside the same requests with all services up. */
export function slowPhases({ latencies }: ServicesReport): readonly PhaseLatency[] {
  return latencies.filter(({ phase, kind, medianMs }) => {
    const before = latencies.find((each) => each.phase === ALL_UP && each.kind === kind);
    return (
      AWAY_PHASES.some((away) => away === phase) &&
      before !== undefined &&
      medianMs > before.medianMs * MEDIAN_FACTOR_MAX + MEDIAN_SLACK_MS
    );
  });
}

/** Whether nobody noticed and everything caught up. */
export function isProven(report: ServicesReport): boolean {
  return (
    report.failures.length === 0 &&
    report.taskStates["done"] === report.taskCount &&
    report.uncheckedFileIds.length === 0 &&
    report.finishedCount <= report.taskCount &&
    slowPhases(report).length === 0
  );
}

/** Runs it with services and a cluster of its own. @throws when anything but a request of the load goes wrong */
export async function runServicesJob(options: ServicesJobOptions): Promise<ServicesReport> {
  const started: { dispose(): Promise<void> }[] = [];
  const own = async (name: Service): Promise<OwnService> => {
    const service = await startOwnService(name);
    started.push(service);
    return service;
  };
  try {
    const services = {
      postgres: await own("postgres"),
      redis: await own("redis"),
      rabbitmq: await own("rabbitmq"),
    };
    const broker = await Cutter.open(services.rabbitmq.port);
    started.push({ dispose: () => broker.close() });
    const cluster = await startCluster({
      nodes: 3,
      environment: {
        POSTGRES_URL: services.postgres.url,
        REDIS_URL: services.redis.url,
        RABBITMQ_URL: `amqp://guest:guest@127.0.0.1:${broker.port}`,
        // Everything that may ask Redis does: entries, and a count for each request.
        NETDISK_CACHE_ENTRIES: "redis",
        NETDISK_HTTP_REQUESTS_MAX: "100000",
        NETDISK_HTTP_REQUEST_WINDOW_MS: "1000",
      },
    });
    started.push(cluster);
    return await new ServicesJob(options, services, broker, cluster).run();
  } finally {
    for (const each of started.reverse()) await each.dispose();
  }
}
