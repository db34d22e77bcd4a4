/** Services in Docker, where there is an engine. */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { promisify } from "node:util";
import type { ServiceKind } from "./service-kind.ts";

const run = promisify(execFile);

let engine: Promise<boolean> | undefined;

/** Whether a Docker engine answers (asked once). */
export function hasDocker(): Promise<boolean> {
  engine ??= run("docker", ["version", "--format", "{{.Server.Version}}"], { timeout: 5000 }).then(
    () => true,
    () => false,
  );
  return engine;
}

/** A container that listens on a port of 127.0.0.1. */
export class ServiceContainer {
  readonly #kind: ServiceKind;
  readonly #port: number;
  readonly #settings: Readonly<Record<string, string>>;
  readonly #name: string;
  #made = false;

  constructor(kind: ServiceKind, port: number, settings: Readonly<Record<string, string>>) {
    this.#kind = kind;
    this.#port = port;
    this.#settings = settings;
    this.#name = `netdisk-test-${kind.name}-${randomBytes(4).toString("hex")}`;
  }

  /** Creates it, or starts it again with the files it had. */
  async start(): Promise<void> {
    if (this.#made) {
      await this.#docker("start");
      return;
    }
    const environment = Object.entries(this.#kind.containerEnvironment).flatMap(([name, value]) => [
      "-e",
      `${name}=${value}`,
    ]);
    await run("docker", [
      ...["run", "--detach", "--name", this.#name],
      ...["--publish", `127.0.0.1:${this.#port}:${this.#kind.containerPort}`],
      ...environment,
      this.#kind.image,
      ...this.#kind.containerCommand(this.#settings),
    ]);
    this.#made = true;
  }

  stop(): Promise<void> {
    return this.#docker("stop");
  }

  kill(): Promise<void> {
    return this.#docker("kill");
  }

  pause(): Promise<void> {
    return this.#docker("pause");
  }

  resume(): Promise<void> {
    return this.#docker("unpause");
  }

  /** Removes it with its files. */
  async remove(): Promise<void> {
    if (this.#made) await this.#docker("rm", "--force", "--volumes");
    this.#made = false;
  }

  async #docker(...parameters: readonly string[]): Promise<void> {
    await run("docker", [...parameters, this.#name]);
  }
}
