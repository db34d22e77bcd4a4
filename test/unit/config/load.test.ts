/**
 * Goal: a configuration is either entirely right or refused with everything that is wrong with it, each with its source.
 * Method: the sources are given as values; no file and no environment of the machine is read.
 */
import { expect } from "chai";
import { readFileSync } from "node:fs";
import { defaultConfig, peerAddresses, selfAddress, type Config } from "../../../src/config/config.ts";
import { CONFIG_FILE_SIZE_BYTES_MAX, loadConfig } from "../../../src/config/load.ts";
import { configAsJson, exampleFile, formatConfig, MASK, valueOf } from "../../../src/config/print.ts";
import { PEER_COUNT_MAX, SETTINGS } from "../../../src/config/settings.ts";
import { DriveError } from "../../../src/drive/errors.ts";

interface Given {
  readonly file?: string;
  readonly environment?: Record<string, string | undefined>;
  readonly flags?: Record<string, string>;
}

function load(given: Given): Config {
  return loadConfig({
    file: given.file === undefined ? undefined : { path: "netdisk.yaml", text: given.file },
    environment: given.environment ?? {},
    flags: given.flags ?? {},
  });
}

/** The problems that loading reports, one a line; an empty list when it loads. */
function problemsOf(given: Given): string[] {
  try {
    load(given);
    return [];
  } catch (error) {
    if (!(error instanceof DriveError) || error.reason !== "CONFIGURATION_INVALID") throw error;
    return (error.metadata["problems"] ?? "").split("\n");
  }
}

describe("the table of settings", () => {
  it("has one row for every field of the configuration and none besides", () => {
    const fields = Object.entries(defaultConfig()).flatMap(([section, values]) =>
      Object.keys(values).map((field) => `${section}.${field}`),
    );

    expect(SETTINGS.map((setting) => setting.key).toSorted()).to.deep.equal(fields.toSorted());
  });

  it("gives no two settings the same variable or flag", () => {
    const names = SETTINGS.flatMap((setting) => [...setting.environment, setting.flag]);

    expect(new Set(names).size).to.equal(names.length);
  });

  for (const setting of SETTINGS) {
    const { kind } = setting;
    if (kind.type !== "integer") continue;
    it(`takes ${setting.key} from ${kind.min} to ${kind.max} and refuses one less, one more and what is no integer`, () => {
      const name = setting.environment.at(-1) ?? "";
      const complaints = (text: string): string[] =>
        problemsOf({ environment: { [name]: text } }).filter((problem) => problem.startsWith(name));

      expect(complaints(String(kind.min))).to.deep.equal([]);
      expect(complaints(String(kind.max))).to.deep.equal([]);
      for (const wrong of [
        String(kind.min - 1),
        String(kind.max + 1),
        `${kind.min}.5`,
        "many",
        "0x10",
        "1e3",
      ]) {
        expect(complaints(wrong), wrong).to.have.length(1);
      }
    });
  }
});

describe("loadConfig()", () => {
  it("gives the defaults when nothing is said", () => {
    expect(load({})).to.deep.equal(defaultConfig());
  });

  it("prefers flags to the environment, and the environment to the file", () => {
    const file = "http: {port: 1001, host: '::1'}\nlog: {level: debug}\n";
    const environment = { NETDISK_HTTP_PORT: "1002", NETDISK_LOG_LEVEL: "warn" };

    const config = load({ file, environment, flags: { "http.port": "1003" } });

    expect(config.http).to.deep.equal({ ...defaultConfig().http, host: "::1", port: 1003 });
    expect(config.log.level).to.equal("warn");
  });

  it("reads JSON as it reads YAML", () => {
    expect(load({ file: '{"http": {"port": 8081}}' }).http.port).to.equal(8081);
  });

  it("takes the names of the roadmap, with or without this node among the peers", () => {
    const environment = {
      NODE_ID: "alpha",
      NODE_ADDR: "0.0.0.0:29001",
      PEERS: "alpha:29001, beta:29001,gamma:29001",
      ME: "alpha:29001",
      POSTGRES_URL: "postgres://drive:secret@db/netdisk",
      REDIS_URL: "redis:6379",
      RABBITMQ_URL: "amqps://mq",
    };

    const withSelf = load({ environment });
    const without = load({ environment: { ...environment, PEERS: "beta:29001,gamma:29001" } });

    expect(withSelf.node.id).to.equal("alpha");
    expect(selfAddress(withSelf)).to.equal("alpha:29001");
    expect(peerAddresses(withSelf)).to.deep.equal(["beta:29001", "gamma:29001"]);
    expect(peerAddresses(without)).to.deep.equal(["beta:29001", "gamma:29001"]);
    expect(withSelf.services.redisUrl).to.equal("redis:6379");
  });

  it("refuses two passwords for Redis, and an authority where there is no TLS", () => {
    const files = { REDIS_PASSWORD_FILE: "/run/password", REDIS_CA_FILE: "/run/ca.pem" };

    expect(problemsOf({ environment: { REDIS_URL: "redis://:secret@redis", ...files } })).to.deep.equal([
      "services.redisPasswordFile must be absent, because services.redisUrl has a password too",
      "services.redisCaFile must be absent, because services.redisUrl does not begin with rediss",
    ]);
    expect(problemsOf({ environment: { REDIS_URL: "rediss://redis", ...files } })).to.deep.equal([]);
    expect(problemsOf({ file: "cache: {entries: redis}" })).to.deep.equal([
      "cache.entries cannot be redis, because services.redisUrl (REDIS_URL) is absent",
    ]);
    expect(problemsOf({ file: "cache: {entries: redis}\nservices: {redisUrl: 'redis:1'}" })).to.deep.equal(
      [],
    );
  });

  it("prefers the variable with the prefix to the short one", () => {
    expect(load({ environment: { NODE_ID: "a", NETDISK_NODE_ID: "b" } }).node.id).to.equal("b");
  });

  it("cannot be changed afterwards", () => {
    const config = load({ file: "cluster: {peers: ['a:1', 'b:2']}" });

    expect(Object.isFrozen(config)).to.equal(true);
    expect(Object.values(config).every((section) => Object.isFrozen(section))).to.equal(true);
    expect(Object.isFrozen(config.cluster.peers)).to.equal(true);
  });

  it("reports all problems of all sources at once, each with its source", () => {
    const problems = problemsOf({
      file: "http: {prot: 1, port: 70000}\nhtpp: {}\nraft: {electionTicks: 3, heartbeatTicks: 3}\n",
      environment: {
        NETDISK_LOG_LEVL: "info",
        PEERS: "a:1,a:1",
        REDIS_URL: "http://redis",
        NETDISK_NODES: "x:1",
      },
      flags: { "node.id": "-" },
    });

    expect(problems.map((problem) => problem.split(" ").slice(0, 2).join(" "))).to.deep.equal([
      "netdisk.yaml: http.prot",
      "netdisk.yaml: http.port",
      "netdisk.yaml: htpp",
      "PEERS must",
      "REDIS_URL must",
      "NETDISK_LOG_LEVL is",
      "--node-id must",
      "raft.heartbeatTicks (3)",
    ]);
    expect(problems[0]).to.equal("netdisk.yaml: http.prot is not a known setting; did you mean http.port?");
    expect(problems[5]).to.include("did you mean NETDISK_LOG_LEVEL?");
  });

  it("ends each problem as a sentence", () => {
    const environment = { NETDISK_FOO: "1", NETDISK_LOG_LEVL: "info" };

    expect(() => loadConfig({ environment, flags: {} })).to.throw(
      "NETDISK_FOO is not a known environment variable.\n" +
        "  - NETDISK_LOG_LEVL is not a known environment variable; did you mean NETDISK_LOG_LEVEL?",
    );
  });

  it("does not repeat a secret in a problem", () => {
    const [problem] = problemsOf({ environment: { POSTGRES_URL: "mysql://root:hunter2@db" } });

    expect(problem).to.include("POSTGRES_URL").and.not.include("hunter2");
  });

  it("refuses a file that is no mapping, no YAML, has a key twice or uses aliases", () => {
    for (const file of [
      "- a\n",
      "http: [",
      "http: {port: 1}\nhttp: {port: 2}\n",
      "a: &x {}\nhttp: *x\n",
      "http: 3",
    ]) {
      expect(problemsOf({ file }), file).to.have.length.greaterThan(0);
    }
  });

  it("takes a file of the size limit and refuses one byte more", () => {
    const full = "#".repeat(CONFIG_FILE_SIZE_BYTES_MAX);

    expect(problemsOf({ file: full })).to.deep.equal([]);
    expect(problemsOf({ file: `${full}#` })).to.have.length(1);
  });

  it("takes the most peers there may be and refuses one more", () => {
    const peers = Array.from({ length: PEER_COUNT_MAX + 1 }, (_, i) => `n${i}:29001`);

    expect(problemsOf({ environment: { PEERS: peers.slice(1).join(",") } })).to.deep.equal([]);
    expect(problemsOf({ environment: { PEERS: peers.join(",") } })).to.have.length(1);
  });

  it("leaves the variables that Kubernetes makes for a service named netdisk alone", () => {
    const environment = {
      NETDISK_SERVICE_HOST: "10.0.0.1",
      NETDISK_SERVICE_PORT_HTTP: "9081",
      NETDISK_PORT: "tcp://10.0.0.1:9081",
      NETDISK_PORT_9081_TCP_ADDR: "10.0.0.1",
    };

    expect(problemsOf({ environment })).to.deep.equal([]);
  });

  it("takes an empty variable as not set", () => {
    expect(load({ environment: { PUBLIC_URL: "", NODE_ID: "", NETDISK_HTTP_PORT: "" } })).to.deep.equal(
      defaultConfig(),
    );
  });

  const contradictions: readonly { readonly name: string; readonly right: string; readonly wrong: string }[] =
    [
      {
        name: "suspectAfterMs of two heartbeats",
        right: "{heartbeatMs: 500, suspectAfterMs: 1000}",
        wrong: "{heartbeatMs: 500, suspectAfterMs: 999}",
      },
      {
        name: "downAfterMs over suspectAfterMs",
        right: "{suspectAfterMs: 2000, downAfterMs: 2001}",
        wrong: "{suspectAfterMs: 2000, downAfterMs: 2000}",
      },
    ];
  for (const each of contradictions) {
    it(`asks for ${each.name}`, () => {
      expect(problemsOf({ file: `cluster: ${each.right}` })).to.deep.equal([]);
      expect(problemsOf({ file: `cluster: ${each.wrong}` })).to.have.length(1);
    });
  }

  it("asks for ME when peers cannot know where a wildcard address is", () => {
    expect(problemsOf({ environment: { NODE_ADDR: "0.0.0.0:1", PEERS: "a:1" } })).to.have.length(1);
    expect(problemsOf({ environment: { NODE_ADDR: "0.0.0.0:1", PEERS: "a:1", ME: "b:1" } })).to.deep.equal(
      [],
    );
    expect(problemsOf({ environment: { NODE_ADDR: "0.0.0.0:1" } })).to.deep.equal([]);
  });

  it("refuses one port for both listeners", () => {
    expect(problemsOf({ environment: { NETDISK_HTTP_PORT: "29001" } })).to.have.length(1);
  });

  const addresses: readonly { readonly text: string; readonly valid: boolean }[] = [
    { text: "localhost:1", valid: true },
    { text: "127.0.0.1:65535", valid: true },
    { text: "[::1]:29001", valid: true },
    { text: "node_1.example.com:80", valid: true },
    { text: "localhost", valid: false },
    { text: "localhost:0", valid: false },
    { text: "localhost:65536", valid: false },
    { text: "::1:29001", valid: false },
    { text: "[node]:1", valid: false },
    { text: "http://a:1", valid: false },
    { text: "-a:1", valid: false },
    { text: "a b:1", valid: false },
  ];
  for (const { text, valid } of addresses) {
    it(`${valid ? "takes" : "refuses"} the address ${text}`, () => {
      expect(problemsOf({ environment: { NODE_ADDR: text } })).to.have.length(valid ? 0 : 1);
    });
  }
});

describe("formatConfig()", () => {
  it("is read back as the same configuration", () => {
    const config = load({
      file: "cluster: {peers: ['a:1', '[::1]:2'], me: 'a:1'}\nhttp: {publicUrl: 'https://drive.example/'}\nnode: {zone: '1'}\n",
    });

    expect(load({ file: formatConfig(config) })).to.deep.equal(config);
  });

  it("masks secrets, as the JSON does", () => {
    const config = load({ environment: { POSTGRES_URL: "postgres://u:hunter2@db/x" } });

    expect(formatConfig(config)).to.include(MASK).and.not.include("hunter2");
    expect(JSON.stringify(configAsJson(config)))
      .to.include(MASK)
      .and.not.include("hunter2");
    expect(formatConfig(config, { revealSecrets: true })).to.include("hunter2");
  });

  it("shows every setting", () => {
    const json = configAsJson(defaultConfig());

    for (const setting of SETTINGS) {
      const [section = "", field = ""] = setting.key.split(".");
      expect(json[section]?.[field]).to.deep.equal(valueOf(defaultConfig(), setting) ?? null);
    }
  });
});

describe("deploy/netdisk.example.yaml", () => {
  const text = readFileSync(new URL("../../../deploy/netdisk.example.yaml", import.meta.url), "utf8");

  it("is what the table of settings gives", () => {
    expect(text).to.equal(exampleFile(defaultConfig()));
  });

  it("loads as the defaults", () => {
    expect(load({ file: text })).to.deep.equal(defaultConfig());
  });
});
