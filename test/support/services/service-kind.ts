/** What differs between the services that tests bring: names, programs, probes. `services.ts` does the rest. */

/** The services that tests can bring. */
export type ServiceName = "postgres" | "redis" | "rabbitmq";

/** Where and how an own process is to run. */
export interface LaunchOptions {
  /** An empty folder of its own, or the one of an earlier start. */
  readonly directory: string;
  /** Port of 127.0.0.1 to listen on. */
  readonly port: number;
  /** Two more free ports, for services that need them. */
  readonly sidePorts: readonly [number, number];
  /** Settings of the service's own kind (postgresql.conf, redis.conf, rabbitmq.conf). */
  readonly settings: Readonly<Record<string, string>>;
}

/** How a process is started. */
export interface Launch {
  readonly command: string;
  readonly parameters: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  /** System account to run as when the tests run as root; undefined runs as the tests' own. */
  readonly account?: string;
  /** The signal of an orderly end. */
  readonly stopSignal: NodeJS.Signals;
}

/** A kind of service. */
export interface ServiceKind {
  readonly name: ServiceName;
  /** Environment variable that names a given server. */
  readonly variable: string;
  /** Where Debian's package listens when installed as usual. */
  readonly usualUrls: readonly string[];
  /** Docker image, its port, its environment and how settings are passed. */
  readonly image: string;
  readonly containerPort: number;
  readonly containerEnvironment: Readonly<Record<string, string>>;
  containerCommand(settings: Readonly<Record<string, string>>): readonly string[];
  /** Program that must be found for an own process, and folders beside PATH to look in (`*` stands for one level). */
  readonly program: string;
  readonly programFolders: readonly string[];
  /** Debian packages that bring it. */
  readonly packages: readonly string[];
  /** URL of a server on `port` of this machine. */
  url(port: number): string;
  /** Resolves when the server at `url` answers a request. @throws whatever its client throws, within about 3 s */
  probe(url: string): Promise<void>;
  /** Prepares `options.directory` and says how to start. `programPath` is the program found. */
  prepare(programPath: string, options: LaunchOptions): Promise<Launch>;
  /** Called once when an own instance is given up. */
  forget?(options: LaunchOptions): Promise<void>;
}
