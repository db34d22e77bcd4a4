/**
 * Goal: the contract serves other languages: a Python client generated from the protos uploads, is cut off, resumes and downloads.
 * Method: Debian's grpc tools generate the stubs; the client runs as a process of its own, first against one server over a drive
 * in memory, then against a cluster of real processes, where each step goes to another node.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect } from "chai";
import { chunkService } from "../../src/rpc/chunk-service.ts";
import { metadataService } from "../../src/rpc/metadata-service.ts";
import { CHUNK_SIZE_BYTES } from "../../src/drive/limits.ts";
import { must } from "../../src/std/assert.ts";
import { toHex } from "../../src/std/bytes.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { foldTreeHash, sha256 } from "../../src/std/digest.ts";
import { MemoryDrive } from "../support/memory-drive.ts";
import { startRpc, type RpcFixture } from "../support/rpc-fixture.ts";
import { useCluster } from "../support/use-cluster.ts";

const run = promisify(execFile);
const PYTHON = "/usr/bin/python3";
const PACKAGES = ["python3-grpcio", "python3-grpc-tools"];
const SEED = 20_261_122;
const PROTOS = [
  "netdisk/v1/chunk_service.proto",
  "netdisk/v1/cluster.proto",
  "netdisk/v1/entry.proto",
  "netdisk/v1/error.proto",
  "netdisk/v1/metadata_service.proto",
  "netdisk/v1/upload.proto",
  "google/rpc/status.proto",
];

/**
 * Runs protoc inside grpc_tools on descriptors. Debian's is of a time before "optional" in proto3, which its parser refuses and
 * its generators understand.
 */
const PROTOC = "import sys; from grpc_tools import protoc; sys.exit(protoc.main(['protoc'] + sys.argv[1:]))";

async function hasPackages(): Promise<boolean> {
  return run(PYTHON, ["-c", "import grpc, grpc_tools"]).then(
    () => true,
    () => false,
  );
}

/** Makes sure that the packages are there; installs them where that is possible, else says what is missing. */
async function requirePackages(): Promise<void> {
  if (await hasPackages()) return;
  let failure: unknown;
  if (process.getuid?.() === 0) {
    try {
      await run("apt-get", ["update", "-q"]);
      await run("apt-get", ["install", "-y", "-q", "--no-install-recommends", ...PACKAGES]);
    } catch (error) {
      failure = error;
    }
  }
  if (await hasPackages()) return;
  throw new Error(`This test needs the Debian packages ${PACKAGES.join(" and ")} for ${PYTHON}.`, {
    cause: failure,
  });
}

interface Sizes {
  readonly sizeBytes: number;
  readonly committed: number;
}

describe("a Python client generated from the protos", function () {
  this.timeout(120_000);
  let directory: string;
  let source: string;
  const bytes = Buffer.from(new SeededPrng(SEED).bytes(9 * CHUNK_SIZE_BYTES + 54_321));

  before(async function () {
    this.timeout(300_000);
    await requirePackages();
    directory = mkdtempSync(join(tmpdir(), "netdisk-python-"));
    source = join(directory, "source.bin");
    writeFileSync(source, bytes);
    const image = join(directory, "image.binpb");
    await run("node_modules/.bin/buf", ["build", "-o", image]);
    const outputs = [`--python_out=${directory}`, `--grpc_python_out=${directory}`];
    await run(PYTHON, ["-c", PROTOC, `--descriptor_set_in=${image}`, ...outputs, ...PROTOS]);
  });

  after(() => {
    if (directory !== undefined) rmSync(directory, { recursive: true, force: true });
  });

  async function client<T>(address: string, ...command: readonly string[]): Promise<T> {
    const { stdout } = await run(PYTHON, ["test/interop/python/client.py", directory, address, ...command]);
    return JSON.parse(stdout) as T;
  }

  /** Uploads, is cut off, resumes and downloads; each step at the next of `addresses`. */
  async function wholeStory(addresses: readonly string[]): Promise<void> {
    const at = (step: number): string => must(addresses[step % addresses.length], "an address");
    const target = join(directory, "target.bin");
    const leaves = Array.from({ length: 10 }, (_, i) =>
      sha256(bytes.subarray(i * CHUNK_SIZE_BYTES, (i + 1) * CHUNK_SIZE_BYTES)),
    );

    const cut = await client<{ uploadId: number } & Sizes>(at(0), "upload", "/from-python.bin", source, "4");
    expect(cut.committed).to.be.at.least(CHUNK_SIZE_BYTES);
    expect(cut.committed).to.be.lessThan(bytes.length);

    const resumed = await client<{ resumedAt: number; path: string; treeHash: string } & Sizes>(
      at(1),
      "resume",
      String(cut.uploadId),
      source,
    );
    expect(resumed.resumedAt).to.be.at.least(cut.committed);
    expect(resumed.committed).to.equal(bytes.length);
    expect(resumed.path).to.equal("/from-python.bin");
    expect(resumed.sizeBytes).to.equal(bytes.length);
    expect(resumed.treeHash).to.equal(toHex(foldTreeHash(leaves)));

    const stopAt = String(3 * CHUNK_SIZE_BYTES);
    const loaded = await client<{ cutAt: number; sha256: string } & Sizes>(
      at(2),
      "download",
      "/from-python.bin",
      target,
      stopAt,
    );
    expect(loaded.cutAt).to.be.lessThan(bytes.length);
    expect(loaded.sizeBytes).to.equal(bytes.length);
    expect(loaded.sha256).to.equal(createHash("sha256").update(bytes).digest("hex"));
    expect(readFileSync(target).equals(bytes)).to.equal(true);

    const failed = await client<unknown>(at(0), "reason", "/nothing");
    expect(failed).to.deep.equal({ code: "NOT_FOUND", reason: "ERROR_REASON_PATH_NOT_FOUND" });
  }

  describe("with a drive in memory", () => {
    let fixture: RpcFixture;

    before(async () => {
      const drive = new MemoryDrive();
      fixture = await startRpc([metadataService(() => drive), chunkService(() => drive)]);
    });

    after(() => fixture.stop());

    it("uploads, is cut off, resumes, downloads and understands errors", () => wholeStory([fixture.address]));
  });

  describe("with a cluster of three processes", () => {
    const cluster = useCluster({ nodes: 3 });

    it("does the same with each step at another node", () =>
      wholeStory(cluster().nodes.map(({ grpcAddress }) => grpcAddress)));
  });
});
