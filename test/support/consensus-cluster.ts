/**
 * A few members of consensus in one process, under a fake clock, with disks and stores in memory and a network that can be cut.
 *
 * Messages go through the codec, so that what a test sees is what the wire would carry. The state machine is a counter map:
 * a command "key=value" stores the value and answers the one before; it lives in keys that start with byte 0x01.
 */
import type { ConsensusOptions } from "../../src/consensus/consensus-options.ts";
import { Consensus } from "../../src/consensus/consensus.ts";
import { decodeMessage, decodeStateHash, encodeMessage, encodeStateHash } from "../../src/consensus/codec.ts";
import type { StateMachine } from "../../src/consensus/state-machine.ts";
import type {
  ForwardedResult,
  ForwardOptions,
  ProposalForwarder,
  RaftTransport,
} from "../../src/consensus/transport.ts";
import type { ConsensusTuning } from "../../src/consensus/tuning.ts";
import { DriveError } from "../../src/drive/errors.ts";
import type { MemberId, Message } from "../../src/raft/types.ts";
import { must } from "../../src/std/assert.ts";
import { utf8 } from "../../src/std/bytes.ts";
import { deferred, type Deferred } from "../../src/std/deferred.ts";
import { MemoryOrderedStoreProvider } from "../../src/std/memory-ordered-store.ts";
import { SeededPrng } from "../../src/std/prng.ts";
import { silentLogger } from "../../src/telemetry/logger.ts";
import { FakeClock } from "./fake-clock.ts";
import { MemoryDisk } from "./memory-disk.ts";

/** One way between two members takes this long, unless a test says otherwise. */
const DELAY_MS = 1;

/** Stores "key=value" and answers the value before, "" for none. */
export class MapStateMachine implements StateMachine<string> {
  /** Wrong on purpose: stores another value for keys that start with this. */
  corruptPrefix: string | undefined;

  apply(
    transaction: Parameters<StateMachine<string>["apply"]>[0],
    command: { readonly data: Uint8Array },
  ): string {
    const [name = "", value = ""] = Buffer.from(command.data).toString("utf8").split("=");
    const key = keyOf(name);
    const before = transaction.get(key);
    const isWrong = this.corruptPrefix !== undefined && name.startsWith(this.corruptPrefix);
    transaction.put(key, utf8(isWrong ? `${value}!` : value));
    return before === undefined ? "" : Buffer.from(before).toString("utf8");
  }
}

function keyOf(name: string): Uint8Array {
  return Buffer.concat([Uint8Array.of(1), utf8(name)]);
}

/** One member, which can be stopped, crashed and started again. */
export class TestMember {
  readonly id: MemberId;
  readonly disk = new MemoryDisk({ afterCrash: "hang" });
  /** Set: why every flush of the state fails. */
  flushError: Error | undefined;
  readonly stores = new MemoryOrderedStoreProvider({
    beforeFlush: () => (this.flushError === undefined ? Promise.resolve() : Promise.reject(this.flushError)),
  });
  readonly stateMachine = new MapStateMachine();
  readonly failures: Error[] = [];
  /** Settings for the next start(). */
  overrides: Partial<ConsensusOptions<string>> = {};
  /** Whether its log and state were made once. */
  isStarted = false;
  consensus: Consensus<string> | undefined;
  readonly #cluster: TestCluster;
  #starts = 0;

  constructor(cluster: TestCluster, id: MemberId) {
    this.#cluster = cluster;
    this.id = id;
  }

  /** The running instance. */
  get live(): Consensus<string> {
    return must(this.consensus, `member ${this.id} runs`);
  }

  async start(): Promise<void> {
    const { clock, seed, tuning, founderIds } = this.#cluster;
    this.#starts += 1;
    const consensus = new Consensus<string>({
      clusterId: "cluster-a",
      memberId: this.id,
      initialVoters: founderIds,
      disk: this.disk,
      directory: "/raft",
      whenAbsent: this.isStarted ? "refuse" : "create",
      onCreated: async () => {
        await this.disk.syncDirectory("/");
        this.isStarted = true;
      },
      stores: this.stores,
      clock,
      prng: new SeededPrng(seed * 1000 + this.id * 10 + this.#starts),
      logger: silentLogger,
      transport: this.#cluster.transportOf(this.id),
      forwarder: this.#cluster.forwarderOf(this.id),
      stateMachine: this.stateMachine,
      encodeResult: utf8,
      decodeResult: (bytes) => Buffer.from(bytes).toString("utf8"),
      onFatal: (error) => this.failures.push(error),
      tuning,
      ...this.overrides,
    });
    this.consensus = consensus;
    await consensus.start();
  }

  /** Ends in order. */
  async stop(): Promise<void> {
    const { consensus } = this;
    this.consensus = undefined;
    await consensus?.stop();
  }

  /** Dies at once, losing what was not synced; its peers see the connections break. */
  crash(): void {
    const { consensus } = this;
    this.consensus = undefined;
    if (consensus === undefined) return;
    this.disk.crash(new SeededPrng(this.#cluster.seed + this.id));
    this.stores.crash(new SeededPrng(this.#cluster.seed + this.id));
    void consensus.stop().catch(() => undefined);
    this.#cluster.disconnect(this.id);
  }

  /** The value under `name` in this member's state. */
  valueOf(name: string): string | undefined {
    const value = this.live.reader().get(keyOf(name));
    return value === undefined ? undefined : Buffer.from(value).toString("utf8");
  }
}

/** Members and the network between them. */
export class TestCluster {
  readonly clock = new FakeClock();
  readonly members: TestMember[];
  /** The voters that the cluster was formed with. */
  readonly founderIds: readonly MemberId[];
  readonly tuning: Partial<ConsensusTuning>;
  readonly seed: number;
  /** Whether a message may pass; replaced by tests. */
  allows: (message: Message) => boolean = () => true;
  /** Messages delivered, by kind. */
  readonly counts = new Map<string, number>();
  /** Whether members hear of connections that break. */
  announcesBreaks = true;
  /** How long a message takes. */
  delayMs: () => number = () => DELAY_MS;
  readonly #cut = new Set<string>();
  readonly #streams = new Set<{ readonly to: MemberId; readonly broken: Deferred<never> }>();

  constructor(
    count: number,
    options: { readonly seed?: number; readonly tuning?: Partial<ConsensusTuning> } = {},
  ) {
    this.seed = options.seed ?? 7;
    this.tuning = options.tuning ?? {};
    this.members = Array.from({ length: count }, (_, at) => new TestMember(this, at + 1));
    this.founderIds = this.ids;
  }

  /** A further member, which is started like the others and belongs to no configuration yet. */
  addMember(): TestMember {
    const member = new TestMember(this, this.members.length + 1);
    this.members.push(member);
    return member;
  }

  get ids(): readonly MemberId[] {
    return this.members.map((member) => member.id);
  }

  member(id: MemberId): TestMember {
    return must(this.members[id - 1], `member ${id}`);
  }

  /** Starts all, in order. */
  async start(): Promise<void> {
    for (const member of this.members) await member.start();
  }

  async stop(): Promise<void> {
    for (const member of this.members) await member.stop();
  }

  /** The member that leads and is ready to, once there is exactly one that a majority follows. */
  async leader(withinMs = 5000): Promise<TestMember> {
    const find = (): TestMember | undefined =>
      this.members.find((member) => {
        if (member.consensus?.role() !== "leader" || !member.live.status().hasCommittedInTerm) return false;
        const { voters } = member.live.confState();
        const followers = voters.filter((id) => this.member(id).consensus?.leaderId() === member.id);
        return followers.length * 2 > voters.length;
      });
    await this.clock.advanceUntil("a leader", () => find() !== undefined, withinMs, 5);
    return must(find(), "there is a leader");
  }

  followers(leader: TestMember): TestMember[] {
    return this.members.filter((member) => member !== leader && member.consensus !== undefined);
  }

  /** Runs `work` while time passes; answers what it resolved to. */
  async run<T>(work: Promise<T>, withinMs = 10_000): Promise<T> {
    let outcome: { readonly value: T } | { readonly error: Error } | undefined;
    work.then(
      (value) => {
        outcome = { value };
      },
      (error: unknown) => {
        outcome = { error: error as Error };
      },
    );
    await this.clock.advanceUntil("the outcome", () => outcome !== undefined, withinMs, 2);
    const settled = must(outcome, "it has settled");
    if ("error" in settled) throw settled.error;
    return settled.value;
  }

  /** Cuts the member off from all others, silently. */
  isolate(id: MemberId): void {
    for (const other of this.ids) {
      this.#cut.add(`${id}-${other}`);
      this.#cut.add(`${other}-${id}`);
    }
  }

  heal(): void {
    this.#cut.clear();
  }

  /** Breaks the connections of the member, as a process that dies does. */
  disconnect(id: MemberId): void {
    for (const { to, broken } of this.#streams) if (to === id) broken.reject(new Error("connection reset"));
    if (!this.announcesBreaks) return;
    for (const other of this.members) {
      if (other.id !== id) this.clock.setTimer(DELAY_MS, () => other.consensus?.peerDisconnected(id));
    }
  }

  transportOf(from: MemberId): RaftTransport {
    return {
      send: (messages) => {
        for (const message of messages) {
          const bytes = encodeMessage(message);
          this.#deliver(from, message.to, message, (to) => to.step(decodeMessage(bytes), "cluster-a"));
        }
      },
      sendStateHash: (to, stateHash) => {
        const bytes = encodeStateHash(stateHash);
        this.#deliver(from, to, undefined, (member) =>
          member.receiveStateHash(decodeStateHash(bytes), "cluster-a"),
        );
      },
      sendSnapshot: async (message, pieces, signal) => {
        this.#count("snapshot");
        const to = this.#reach(from, message.to);
        if (!this.allows(message)) throw new DriveError("PEER_UNREACHABLE", "the network drops it");
        const broken = deferred<never>();
        this.#streams.add({ to: message.to, broken });
        signal.addEventListener("abort", () => broken.reject(new Error("the sender has stopped")));
        const work = to.receiveSnapshot(decodeMessage(encodeMessage(message)), "cluster-a", pieces);
        await Promise.race([work, broken.promise]);
      },
    };
  }

  forwarderOf(from: MemberId): ProposalForwarder {
    return {
      propose: async (leaderId, data, options: ForwardOptions): Promise<ForwardedResult> => {
        this.#count("forwarded");
        return await this.#reach(from, leaderId).handleForwarded(data, options);
      },
    };
  }

  #reach(from: MemberId, to: MemberId): Consensus<string> {
    const { consensus } = this.member(to);
    if (consensus === undefined || this.#cut.has(`${from}-${to}`)) {
      throw new DriveError("PEER_UNREACHABLE", `member ${to} cannot be reached`);
    }
    return consensus;
  }

  #deliver(
    from: MemberId,
    to: MemberId,
    message: Message | undefined,
    hand: (consensus: Consensus<string>) => void,
  ): void {
    if (this.#cut.has(`${from}-${to}`)) return;
    if (message !== undefined && !this.allows(message)) return;
    this.clock.setTimer(this.delayMs(), () => {
      const { consensus } = this.member(to);
      if (consensus === undefined || this.#cut.has(`${from}-${to}`)) return;
      this.#count(message?.kind ?? "state-hash");
      hand(consensus);
    });
  }

  #count(kind: string): void {
    this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
  }
}
