/** Redis over TLS, with an authority of the test's own and a password from a file, as the configuration names them. */
import { expect } from "chai";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { RedisClient } from "../../../src/cache/redis-client.ts";
import { defaultConfig, type Config } from "../../../src/config/config.ts";
import { redisSettings } from "../../../src/node/caches.ts";
import { must } from "../../../src/std/assert.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { CertificateAuthority } from "../../support/certificates.ts";
import { eventually } from "../../support/eventually.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { newPrefix, untilUp } from "../../support/redis-client.ts";
import { startOwnService, type OwnService } from "../../support/services/services.ts";
import { freePorts } from "../../support/use-cluster.ts";

/** With everything that a URL would take for something else. */
const PASSWORD = "corr%41ct:horse@/?#battery";

describe("Redis over TLS", function () {
  this.timeout(120_000);
  this.slow(10_000);
  const directory = mkdtempSync(join(tmpdir(), "netdisk-tls-redis-"));
  const passwordFile = join(directory, "password");
  const clients: RedisClient[] = [];
  let authority: CertificateAuthority;
  let stranger: CertificateAuthority;
  let own: OwnService | undefined;
  let tlsPort = 0;

  const open = async (services: Partial<Config["services"]>): Promise<RedisClient> => {
    const settings = await redisSettings({ ...defaultConfig().services, ...services });
    const client = new RedisClient({
      ...must(settings, "Redis is configured"),
      clock: new SystemClock(),
      prefix: newPrefix(),
    });
    clients.push(client);
    client.start();
    return client;
  };
  /** Why a client cannot connect, as the status says it. */
  const refusal = async (services: Partial<Config["services"]>): Promise<string> => {
    const client = await open(services);
    await eventually("it is said", () => client.health.detail !== "It was not asked yet.", {
      withinMs: 60_000,
    });
    expect(client.health.isUp).to.equal(false);
    return client.health.detail;
  };

  before(async function () {
    this.timeout(600_000);
    authority = await CertificateAuthority.make(directory);
    stranger = await CertificateAuthority.make(directory, "stranger");
    const { certificatePath, keyPath } = await authority.issue({
      name: "redis",
      hosts: ["localhost"],
      addresses: ["127.0.0.1"],
    });
    [tlsPort = 0] = await freePorts(1);
    const volume = join(directory, "server");
    mkdirSync(volume);
    // Files of this machine: never in Docker. The plain port is for those who set things up.
    own = await startOwnService("redis", {
      directory: volume,
      settings: {
        "tls-port": String(tlsPort),
        "tls-cert-file": certificatePath,
        "tls-key-file": keyPath,
        "tls-ca-cert-file": authority.certificatePath,
        "tls-auth-clients": "no",
      },
    });
    const admin = new Redis(own.url);
    await admin.call("ACL", "SETUSER", "drive", "on", `>${PASSWORD}`, "~*", "&*", "+@all");
    admin.disconnect();
    writeFileSync(passwordFile, `${PASSWORD}\n`);
  });

  afterEach(async () => {
    await Promise.all(clients.splice(0).map((client) => client.stop()));
  });

  after(async () => {
    await own?.dispose();
    rmSync(directory, { recursive: true, force: true });
  });

  const secure = (): Partial<Config["services"]> => ({
    redisUrl: `rediss://drive@localhost:${tlsPort}`,
    redisPasswordFile: passwordFile,
    redisCaFile: authority.certificatePath,
  });

  it("connects to the server that the authority vouches for, as the user of the URL", async () => {
    const client = await open(secure());
    await untilUp(client);

    const answer = await client.attempt("whoami", (redis) => redis.call("ACL", "WHOAMI"));

    expect(answer).to.deep.equal({ ok: true, value: "drive" });
  });

  it("refuses a server that another authority vouches for, or none that is known, and says so", async () => {
    const other = { ...secure(), redisCaFile: stranger.certificatePath };
    const none = { ...secure(), redisCaFile: undefined };

    expect(await refusal(other)).to.match(/certificate/i);
    expect(await refusal(none)).to.match(/certificate/i);
  });

  it("does not speak TLS where none is asked for, nor the other way round", async () => {
    const plainPort = must(own, "the server").port;

    expect(await refusal({ redisUrl: `redis://localhost:${tlsPort}` })).to.not.equal("");
    expect(await refusal({ ...secure(), redisUrl: `rediss://drive@localhost:${plainPort}` })).to.not.equal(
      "",
    );
  });

  it("refuses a wrong password, without saying either", async () => {
    writeFileSync(join(directory, "wrong"), "not-the-password");

    const detail = await refusal({ ...secure(), redisPasswordFile: join(directory, "wrong") });

    expect(detail).to.match(/WRONGPASS/);
    expect(detail).to.not.include("not-the-password");
  });

  it("does not start with a file that is missing or empty", async () => {
    writeFileSync(join(directory, "empty"), "\n");
    for (const path of [join(directory, "empty"), join(directory, "nothing")]) {
      await expectReason("CONFIGURATION_INVALID", () => open({ ...secure(), redisPasswordFile: path }));
      await expectReason("CONFIGURATION_INVALID", () => open({ ...secure(), redisCaFile: path }));
    }
  });
});
