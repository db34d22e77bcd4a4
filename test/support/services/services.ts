/**
 * Real services for tests. A test asks for one and gets it, in this order:
 *
 *   shared: the server the environment names (POSTGRES_URL, REDIS_URL, RABBITMQ_URL), one that listens where Debian's
 *           package does, a Docker container, an own process from installed programs, the same after installing them
 *   own:    a Docker container, an own process from installed programs, the same after installing them
 *
 * A shared one may hold other people's data: use a database, key prefix or virtual host of your own and remove it. An own one
 * can be stopped, killed, frozen and started again. A service that cannot be had fails the suite; nothing is skipped.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventually } from "../eventually.ts";
import { freePorts } from "../use-cluster.ts";
import { hasDocker, ServiceContainer } from "./docker.ts";
import { postgresKind } from "./postgres-kind.ts";
import { needProgram } from "./programs.ts";
import { rabbitmqKind } from "./rabbitmq-kind.ts";
import { redisKind } from "./redis-kind.ts";
import type { LaunchOptions, ServiceKind, ServiceName } from "./service-kind.ts";
import { ServiceProcess } from "./service-process.ts";

const KINDS: Readonly<Record<ServiceName, ServiceKind>> = {
  postgres: postgresKind,
  redis: redisKind,
  rabbitmq: rabbitmqKind,
};

/** A service may have to be pulled or installed first. */
const START_WITHIN_MS = 120_000;
const BRING_WITHIN_MS = 600_000;

/** A server that somebody else runs, or that all suites of this run share. */
export interface SharedService {
  readonly url: string;
}

/** A server that only this suite uses. */
export interface OwnService extends SharedService {
  readonly port: number;
  /** Process id of the server; undefined in Docker or while it is down. */
  readonly pid: number | undefined;
  /** Starts it again on the same port and files, and waits until it answers. */
  start(): Promise<void>;
  /** Ends it in an orderly way. */
  stop(): Promise<void>;
  /** Ends it at once, as a crash does. */
  kill(): Promise<void>;
  /** Freezes it: connections stay open, nothing answers. */
  pause(): Promise<void>;
  /** Ends `pause()`. */
  resume(): Promise<void>;
  /** Ends it and removes its files. */
  dispose(): Promise<void>;
}

/** How an own service is to be. */
export interface OwnServiceOptions {
  /** Settings in the words of the service's own configuration file. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Where its files go: an empty folder that stays the caller's; by default a temporary one. Never in Docker. */
  readonly directory?: string;
}

async function waitUntilUp(kind: ServiceKind, url: string, describe: () => string): Promise<void> {
  try {
    await eventually(`${kind.name} at ${url} answers`, async () => kind.probe(url).then(() => true), {
      withinMs: START_WITHIN_MS,
      everyMs: 100,
    });
  } catch (error) {
    throw new Error(`${kind.name} did not come up; its log ends with:\n${describe()}`, { cause: error });
  }
}

async function ownContainer(
  kind: ServiceKind,
  settings: Readonly<Record<string, string>>,
): Promise<OwnService> {
  const [port = 0] = await freePorts(1);
  const container = new ServiceContainer(kind, port, settings);
  const url = kind.url(port);
  const start = async (): Promise<void> => {
    await container.start();
    await waitUntilUp(kind, url, () => "(see docker logs)");
  };
  try {
    await start();
  } catch (error) {
    await container.remove();
    throw error;
  }
  return {
    url,
    port,
    pid: undefined,
    start,
    stop: () => container.stop(),
    kill: () => container.kill(),
    pause: () => container.pause(),
    resume: () => container.resume(),
    dispose: () => container.remove(),
  };
}

async function ownProcess(kind: ServiceKind, options: OwnServiceOptions): Promise<OwnService> {
  const programPath = await needProgram(kind);
  const [port = 0, firstSidePort = 0, secondSidePort = 0] = await freePorts(3);
  const directory = options.directory ?? mkdtempSync(join(tmpdir(), `netdisk-${kind.name}-`));
  const launchOptions: LaunchOptions = {
    directory,
    port,
    sidePorts: [firstSidePort, secondSidePort],
    settings: options.settings ?? {},
  };
  const server = new ServiceProcess(join(directory, "server.log"));
  const url = kind.url(port);
  const removeFiles = (): void => {
    if (options.directory === undefined) rmSync(directory, { recursive: true, force: true });
  };
  const atExit = (): void => {
    server.killNow();
    removeFiles();
  };
  process.once("exit", atExit);
  const start = async (): Promise<void> => {
    server.start(await kind.prepare(programPath, launchOptions));
    await waitUntilUp(kind, url, () => server.logTail());
  };
  const dispose = async (): Promise<void> => {
    await server.kill();
    await kind.forget?.(launchOptions);
    process.off("exit", atExit);
    removeFiles();
  };
  try {
    await start();
  } catch (error) {
    await dispose();
    throw error;
  }
  return {
    url,
    port,
    get pid() {
      return server.pid;
    },
    start,
    stop: () => server.stop(),
    kill: () => server.kill(),
    pause: async () => server.pause(),
    resume: async () => server.resume(),
    dispose,
  };
}

/** Starts a server of the caller's own, outside of a suite; `dispose()` it. @throws when none can be had */
export async function startOwnService(
  name: ServiceName,
  options: OwnServiceOptions = {},
): Promise<OwnService> {
  const kind = KINDS[name];
  if (options.directory === undefined && (await hasDocker()))
    return ownContainer(kind, options.settings ?? {});
  return ownProcess(kind, options);
}

const shared = new Map<ServiceName, Promise<SharedService>>();

async function findShared(kind: ServiceKind): Promise<SharedService> {
  const given = process.env[kind.variable];
  if (given !== undefined && given !== "") {
    // A server that was named and does not answer is a failure, never a reason to test against another one.
    await kind.probe(given);
    return { url: given };
  }
  for (const url of kind.usualUrls) {
    const answers = await kind.probe(url).then(
      () => true,
      () => false,
    );
    if (answers) return { url };
  }
  // It ends with the process: all suites of this run use it.
  return startOwnService(kind.name);
}

/** The shared server of this run, found or started at the first call. @throws when none can be had */
export function sharedService(name: ServiceName): Promise<SharedService> {
  const known = shared.get(name) ?? findShared(KINDS[name]);
  shared.set(name, known);
  return known;
}

/** In a `describe`: the shared server, ready before the first test. Its `url` may be read from then on. */
export function useService(name: ServiceName): SharedService {
  let found: SharedService | undefined;
  before(async function () {
    this.timeout(BRING_WITHIN_MS);
    found = await sharedService(name);
  });
  return {
    get url() {
      if (found === undefined) throw new Error("the suite has not begun");
      return found.url;
    },
  };
}

/** In a `describe`: a server of the suite's own, ready before the first test and removed after the last. */
export function useOwnService(name: ServiceName, options: OwnServiceOptions = {}): OwnService {
  let own: OwnService | undefined;
  before(async function () {
    this.timeout(BRING_WITHIN_MS);
    own = await startOwnService(name, options);
  });
  after(async function () {
    this.timeout(START_WITHIN_MS);
    await own?.dispose();
  });
  const current = (): OwnService => {
    if (own === undefined) throw new Error("the suite has not begun");
    return own;
  };
  return {
    get url() {
      return current().url;
    },
    get port() {
      return current().port;
    },
    get pid() {
      return current().pid;
    },
    start: () => current().start(),
    stop: () => current().stop(),
    kill: () => current().kill(),
    pause: () => current().pause(),
    resume: () => current().resume(),
    dispose: () => current().dispose(),
  };
}
