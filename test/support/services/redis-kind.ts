/** Redis for tests. */
import { Redis } from "ioredis";
import type { ServiceKind } from "./service-kind.ts";

/** See `ServiceKind`. */
export const redisKind: ServiceKind = {
  name: "redis",
  variable: "REDIS_URL",
  usualUrls: ["redis://127.0.0.1:6379"],
  image: "redis:7",
  containerPort: 6379,
  containerEnvironment: {},
  containerCommand: (settings) => Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value]),
  program: "redis-server",
  programFolders: ["/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"],
  packages: ["redis-server"],
  url: (port) => `redis://127.0.0.1:${port}`,
  probe: async (url) => {
    const client = new Redis(url, {
      lazyConnect: true,
      connectTimeout: 3000,
      commandTimeout: 3000,
      maxRetriesPerRequest: 0,
      enableOfflineQueue: false,
      retryStrategy: () => null,
    });
    // connect() below rejects with the same failure; without a listener ioredis writes it to the console.
    client.on("error", () => undefined);
    try {
      await client.connect();
      await client.ping();
    } finally {
      client.disconnect();
    }
  },
  prepare: async (programPath, options) => ({
    command: programPath,
    parameters: Object.entries({
      bind: "127.0.0.1",
      port: String(options.port),
      dir: options.directory,
      save: "",
      appendonly: "no",
      ...options.settings,
    }).flatMap(([name, value]) => [`--${name}`, value]),
    environment: {},
    stopSignal: "SIGTERM",
  }),
};
