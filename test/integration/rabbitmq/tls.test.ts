/** RabbitMQ over TLS, with an authority of the test's own and a password from a file, as the configuration names them. */
import { expect } from "chai";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { defaultConfig, type Config } from "../../../src/config/config.ts";
import { rabbitmqLink } from "../../../src/node/rabbitmq.ts";
import { must } from "../../../src/std/assert.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import type { RabbitMqLink } from "../../../src/tasks/rabbitmq-link.ts";
import { RabbitMqQueue } from "../../../src/tasks/rabbitmq-queue.ts";
import { CertificateAuthority } from "../../support/certificates.ts";
import { eventually } from "../../support/eventually.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { startOwnService, type OwnService } from "../../support/services/services.ts";
import { freePorts } from "../../support/use-cluster.ts";

/** With everything that a URL would take for something else. */
const PASSWORD = "corr%41ct:horse@/?#battery";
const WITHIN_MS = 60_000;

/** What the broker begins with: the account of the test and that of whoever sets things up. */
function definitions(): unknown {
  const userOf = (name: string, password: string): unknown => {
    const salt = Buffer.from([1, 2, 3, 4]);
    const digest = createHash("sha256").update(salt).update(password).digest();
    return {
      ...{ name, tags: "", hashing_algorithm: "rabbit_password_hashing_sha256" },
      password_hash: Buffer.concat([salt, digest]).toString("base64"),
    };
  };
  const permissionOf = (user: string): unknown => ({
    ...{ user, vhost: "/", configure: ".*", write: ".*", read: ".*" },
  });
  return {
    users: [userOf("drive", PASSWORD), userOf("guest", "guest")],
    vhosts: [{ name: "/" }],
    permissions: [permissionOf("drive"), permissionOf("guest")],
  };
}

describe("RabbitMQ over TLS", function () {
  this.timeout(120_000);
  this.slow(10_000);
  const clock = new SystemClock();
  const directory = mkdtempSync(join(tmpdir(), "netdisk-tls-rabbitmq-"));
  const passwordFile = join(directory, "password");
  const links: RabbitMqLink[] = [];
  let authority: CertificateAuthority;
  let stranger: CertificateAuthority;
  let own: OwnService | undefined;
  let tlsPort = 0;

  const open = async (services: Partial<Config["services"]>): Promise<RabbitMqLink> => {
    const link = must(await rabbitmqLink({ ...defaultConfig().services, ...services }, clock), "a link");
    links.push(link);
    link.start();
    return link;
  };
  /** Why a node cannot connect, as the status says it. */
  const refusal = async (services: Partial<Config["services"]>): Promise<string> => {
    const link = await open(services);
    await eventually("it is said", () => link.health.detail !== "It was not asked yet.", {
      withinMs: WITHIN_MS,
    });
    expect(link.health.isUp).to.equal(false);
    return link.health.detail;
  };

  before(async function () {
    this.timeout(600_000);
    authority = await CertificateAuthority.make(directory);
    stranger = await CertificateAuthority.make(directory, "stranger");
    const { certificatePath, keyPath } = await authority.issue({
      name: "broker",
      hosts: ["localhost"],
      addresses: ["127.0.0.1"],
    });
    writeFileSync(passwordFile, `${PASSWORD}\n`);
    writeFileSync(join(directory, "wrong"), "not-the-password");
    [tlsPort = 0] = await freePorts(1);
    const volume = join(directory, "server");
    mkdirSync(volume);
    const settings = {
      "listeners.ssl.local": `127.0.0.1:${tlsPort}`,
      "ssl_options.cacertfile": authority.certificatePath,
      "ssl_options.certfile": certificatePath,
      "ssl_options.keyfile": keyPath,
      "ssl_options.verify": "verify_none",
      load_definitions: join(directory, "definitions.json"),
    };
    writeFileSync(settings.load_definitions, JSON.stringify(definitions()));
    // Files of this machine: never in Docker. The plain port is for those who set things up.
    own = await startOwnService("rabbitmq", { directory: volume, settings });
  });

  afterEach(async () => {
    await Promise.all(links.splice(0).map((link) => link.stop()));
  });

  after(async () => {
    await own?.dispose();
    rmSync(directory, { recursive: true, force: true });
  });

  const secure = (): Partial<Config["services"]> => ({
    rabbitmqUrl: `amqps://drive@localhost:${tlsPort}`,
    rabbitmqPasswordFile: passwordFile,
    rabbitmqCaFile: authority.certificatePath,
  });

  it("takes tasks to the broker that the authority vouches for, as the user of the URL", async () => {
    const link = await open(secure());
    await eventually("it is up", () => link.health.isUp, { withinMs: WITHIN_MS });
    const queue = new RabbitMqQueue({ clock, link, clusterId: "test" });

    await queue.publish({ taskId: 7, kind: "upload" });
    const taken = new Promise<number>((resolve) => {
      queue.consume("upload", 1, (delivery) => {
        delivery.settle("done");
        resolve(delivery.taskId);
      });
    });

    expect(await taken).to.equal(7);
  });

  it("refuses a broker that another authority vouches for, or none that is known, and says so", async () => {
    expect(await refusal({ ...secure(), rabbitmqCaFile: stranger.certificatePath })).to.match(/certificate/i);
    expect(await refusal({ ...secure(), rabbitmqCaFile: undefined })).to.match(/certificate/i);
  });

  it("knows the broker by the names and addresses of its certificate alone", async () => {
    const byAddress = await open({ ...secure(), rabbitmqUrl: `amqps://drive@127.0.0.1:${tlsPort}` });
    await eventually("it is up", () => byAddress.health.isUp, { withinMs: WITHIN_MS });

    expect(
      await refusal({ ...secure(), rabbitmqUrl: `amqps://drive@[::ffff:127.0.0.1]:${tlsPort}` }),
    ).to.match(/not in the cert|does not match/i);
  });

  it("does not speak TLS where none is asked for, nor the other way round", async () => {
    const plainPort = must(own, "the broker").port;

    expect(await refusal({ ...secure(), rabbitmqUrl: `amqp://drive@localhost:${tlsPort}` })).to.not.equal("");
    expect(await refusal({ ...secure(), rabbitmqUrl: `amqps://drive@localhost:${plainPort}` })).to.not.equal(
      "",
    );
  });

  it("refuses a wrong password, without saying either", async () => {
    const detail = await refusal({ ...secure(), rabbitmqPasswordFile: join(directory, "wrong") });

    expect(detail).to.match(/ACCESS.REFUSED/i);
    expect(detail).to.not.include("not-the-password");
    expect(detail).to.not.include("battery");
  });

  it("does not start with a file that is missing or empty", async () => {
    writeFileSync(join(directory, "empty"), "\n");
    for (const path of [join(directory, "empty"), join(directory, "nothing")]) {
      await expectReason("CONFIGURATION_INVALID", () => open({ ...secure(), rabbitmqPasswordFile: path }));
      await expectReason("CONFIGURATION_INVALID", () => open({ ...secure(), rabbitmqCaFile: path }));
    }
  });
});
