/**
 * A cluster's data plane in memory: a LocalDrive per member over one tree and in-memory stores with faults, under a test clock.
 *
 * Leases are granted at once; background loops run only where a test starts them.
 */
import { FakeClock } from "./fake-clock.ts";
import { FakeDetector } from "./fake-detector.ts";
import { MemoryReplicas } from "./memory-replicas.ts";
import { MemoryTree, registrationOf } from "./memory-metadata-port.ts";
import type { UploadRequest } from "../../src/drive/drive-api.ts";
import { valueOfKind } from "../../src/cluster/metadata-client.ts";
import { TreeAssignments, type Assignments } from "../../src/replication/assignments.ts";
import { BackgroundPace } from "../../src/replication/background-pace.ts";
import { RateMeter } from "../../src/replication/rate-meter.ts";
import type { StateMachineLimits } from "../../src/metadata/context.ts";
import { isRecounting } from "../../src/metadata/stores.ts";
import { must } from "../../src/std/assert.ts";
import type { Clock } from "../../src/std/clock.ts";
import { inlineDigester, type Digester } from "../../src/std/digest.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { DataPlane } from "../../src/transfer/data-plane.ts";
import type { ProgressRelay } from "../../src/transfer/progress-relay.ts";
import { LocalDrive } from "../../src/transfer/local-drive.ts";

/** Hashes each array once, however often it is sent: for tests that write gigabytes of one shared chunk. */
function cachingDigester(): Digester {
  const known = new WeakMap<Uint8Array, Uint8Array>();
  return {
    async sha256(bytes) {
      const found = known.get(bytes);
      if (found !== undefined) return found;
      const digest = await inlineDigester.sha256(bytes);
      known.set(bytes, digest);
      return digest;
    },
  };
}

/** One member's drive and its parts. */
export interface TestNode {
  readonly memberId: number;
  readonly plane: DataPlane;
  readonly assignments: Assignments;
  readonly drive: LocalDrive;
}

/** A cluster of drives. */
export class TestDrives {
  readonly clock = new FakeClock();
  readonly tree: MemoryTree;
  readonly replicas: MemoryReplicas;
  readonly detector: FakeDetector;
  readonly nodes = new Map<number, TestNode>();
  readonly #memberIds: readonly number[];
  readonly #digester = cachingDigester();
  readonly #expectedMemberCount: number;

  /** @param memberCount members 1 to memberCount, of `expectedMemberCount` that consensus knows */
  constructor(
    memberCount: number,
    expectedMemberCount = memberCount,
    limits: Partial<StateMachineLimits> = {},
  ) {
    this.#expectedMemberCount = expectedMemberCount;
    this.#memberIds = Array.from({ length: memberCount }, (_, index) => index + 1);
    this.tree = new MemoryTree(this.clock, limits);
    this.replicas = new MemoryReplicas(this.clock, this.#memberIds);
    this.detector = new FakeDetector(this.#memberIds);
    for (const memberId of this.#memberIds) {
      this.tree.apply({ kind: "register-node", node: registrationOf(memberId) });
      this.nodes.set(memberId, this.makeNode(memberId));
    }
  }

  /** The drive of a member. */
  drive(memberId = 1): LocalDrive {
    return this.node(memberId).drive;
  }

  /** A member's parts. */
  node(memberId: number): TestNode {
    return must(this.nodes.get(memberId), `member ${memberId}`);
  }

  /** Makes a member's parts anew, as after a restart: nothing in memory is left. */
  makeNode(memberId: number, relay?: ProgressRelay): TestNode {
    const plane = new DataPlane({
      clock: this.clock,
      prng: new SeededPrng(memberId * 1000 + this.tree.applied.length),
      digester: this.#digester,
      metadata: this.tree.port(memberId),
      replicas: this.replicas,
      detector: this.detector,
      expectedMemberCount: () => this.#expectedMemberCount,
    });
    const drive = new LocalDrive({
      plane,
      relay,
      consensus: {
        term: () => 1,
        commitIndex: () => plane.metadata.port.appliedIndex(),
        roleOf: () => "voter",
      },
      problems: () => [],
    });
    const assignments = new TreeAssignments(plane.metadata.port, memberId);
    return { memberId, plane, assignments, drive };
  }

  /** Replaces a member's process by a fresh one. */
  restart(memberId: number): LocalDrive {
    const node = this.makeNode(memberId);
    this.nodes.set(memberId, node);
    return node.drive;
  }

  /** Takes a member down, for calls and for the failure detector. */
  kill(memberId: number): void {
    this.replicas.down.add(memberId);
    this.detector.health.set(memberId, "down");
  }

  /** Brings a member back. */
  revive(memberId: number): void {
    this.replicas.down.delete(memberId);
    this.detector.health.delete(memberId);
  }

  /** Takes a member down and has it given up, its copies recounted. */
  giveUp(memberId: number): void {
    this.kill(memberId);
    this.detector.sinceMs.set(memberId, 20 * 60_000);
    this.tree.apply({ kind: "declare-lost", memberId, storeIncarnation: `store-${memberId}` });
    while (isRecounting(this.tree.store)) this.tree.apply({ kind: "recount" });
  }

  /** Grants a member its write lease and a block of content ids. */
  grantLease(memberId = 1, idCount = 1000): void {
    const { plane } = this.node(memberId);
    const storeIncarnation = `store-${memberId}`;
    const result = this.tree.apply({ kind: "renew-write-lease", memberId, storeIncarnation, idCount });
    const { firstContentId } = valueOfKind(result, "write-lease");
    plane.lease.renewed(this.clock.monotonicMs(), { first: firstContentId, count: idCount });
  }
}

/** A pace that holds nothing up, and a meter. */
export function freePace(clock: Clock): { readonly pace: BackgroundPace; readonly meter: RateMeter } {
  const pace = new BackgroundPace({
    clock,
    bytesPerSecond: () => Infinity,
    busyBytesPerSecond: Infinity,
    isBusy: () => false,
  });
  return { pace, meter: new RateMeter(clock) };
}

/** An upload request with defaults. */
export function uploadOf(path: string, overrides: Partial<UploadRequest> = {}): UploadRequest {
  return {
    path,
    sizeBytes: undefined,
    onConflict: "fail",
    attributes: {},
    createParents: true,
    ...overrides,
  };
}

/** A stream of the given arrays. */
export async function* streamOf(...arrays: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* arrays;
}

/** All bytes of a stream. */
export async function bytesOf(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts);
}

/** Bytes that repeat with a period that is no power of two, so that misplaced chunks show. */
export function patternBytes(sizeBytes: number, seed = 1): Buffer {
  return Buffer.alloc(sizeBytes, Buffer.from(new SeededPrng(seed).bytes(10_007)));
}

/** Uploads `count` files of one small extent, /f0 and so on, and waits until all their copies are there. */
export async function putMany(drives: TestDrives, count: number): Promise<void> {
  for (let i = 0; i < count; i += 1) {
    await drives.drive().putFile(uploadOf(`/f${i}`), streamOf(patternBytes(1000, i)));
    await drives.node(1).plane.chores.idle();
  }
}

/** How many of these files have a verified copy at a member. */
export async function copiesAt(drives: TestDrives, memberId: number, count: number): Promise<number> {
  let copies = 0;
  for (let i = 0; i < count; i += 1) {
    const { nodeIds } = await drives.drive().durability({ path: `/f${i}` });
    if (nodeIds.includes(`node-${memberId}`)) copies += 1;
  }
  return copies;
}
