/** RabbitMQ for tests. An own broker has its own node name, cookie, port mapper and files. */
import { execFile } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { connect } from "amqplib";
import type { LaunchOptions, ServiceKind } from "./service-kind.ts";

const run = promisify(execFile);
const PROBE_TIMEOUT_MS = 3000;

/** Erlang's port mapper listens here, so that an own broker neither meets another's nor leaves its behind. */
const mapperPort = (options: LaunchOptions): number => options.sidePorts[1];

/** See `ServiceKind`. */
export const rabbitmqKind: ServiceKind = {
  name: "rabbitmq",
  variable: "RABBITMQ_URL",
  usualUrls: ["amqp://guest:guest@127.0.0.1:5672"],
  image: "rabbitmq:3",
  containerPort: 5672,
  containerEnvironment: {},
  containerCommand: () => [],
  program: "rabbitmq-server",
  // The wrapper in /usr/sbin insists on the account "rabbitmq" and its folders; the script behind it runs as anyone.
  programFolders: ["/usr/lib/rabbitmq/bin", "/usr/lib/rabbitmq/lib/*/sbin", "/opt/homebrew/sbin"],
  packages: ["rabbitmq-server"],
  url: (port) => `amqp://guest:guest@127.0.0.1:${port}`,
  probe: async (url) => {
    const connection = await connect(url, { timeout: PROBE_TIMEOUT_MS });
    connection.on("error", () => undefined);
    await connection.close();
  },
  prepare: async (programPath, options) => {
    const file = (name: string): string => join(options.directory, name);
    mkdirSync(file("mnesia"), { recursive: true });
    mkdirSync(file("log"), { recursive: true });
    writeFileSync(file("enabled_plugins"), "[].\n");
    const settings = { "listeners.tcp.local": `127.0.0.1:${options.port}`, ...options.settings };
    writeFileSync(
      file("rabbitmq.conf"),
      Object.entries(settings)
        .map(([name, value]) => `${name} = ${value}\n`)
        .join(""),
    );
    return {
      command: programPath,
      parameters: [],
      environment: {
        HOME: options.directory,
        ERL_EPMD_PORT: String(mapperPort(options)),
        ERL_EPMD_ADDRESS: "127.0.0.1",
        RABBITMQ_NODENAME: `test${options.port}@localhost`,
        RABBITMQ_NODE_PORT: String(options.port),
        RABBITMQ_NODE_IP_ADDRESS: "127.0.0.1",
        RABBITMQ_DIST_PORT: String(options.sidePorts[0]),
        RABBITMQ_MNESIA_BASE: file("mnesia"),
        RABBITMQ_LOG_BASE: file("log"),
        RABBITMQ_PID_FILE: file("pid"),
        RABBITMQ_CONFIG_FILE: file("rabbitmq.conf"),
        RABBITMQ_CONF_ENV_FILE: file("rabbitmq-env.conf"),
        RABBITMQ_ENABLED_PLUGINS_FILE: file("enabled_plugins"),
        // One scheduler starts faster and leaves the other cores to what is tested.
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
      },
      stopSignal: "SIGTERM",
    };
  },
  forget: async (options) => {
    const environment = { ...process.env, ERL_EPMD_PORT: String(mapperPort(options)) };
    // Fails when the mapper is gone already, which is what is wanted.
    await run("epmd", ["-kill"], { env: environment }).catch(() => undefined);
  },
};
