/**
 * A state machine over a store, with short ways to say commands; and the tree as a plain value, unfinished copies included.
 */
import { expect } from "chai";
import type { Seal } from "../../../src/drive/content.ts";
import {
  ROOT_ENTRY_ID,
  type Entry,
  type EntryAttributes,
  type Locator,
  type OnConflict,
} from "../../../src/drive/entry.ts";
import type { Precondition } from "../../../src/drive/entry.ts";
import type { ErrorReason } from "../../../src/drive/errors.ts";
import { FEATURE_LEVELS, type FeatureLevels } from "../../../src/drive/feature-levels.ts";
import { encodeCommand } from "../../../src/metadata/codec.ts";
import type { CommandBody, CommandResult, ResultValue } from "../../../src/metadata/commands.ts";
import type { StateMachineLimits } from "../../../src/metadata/context.ts";
import { virtualRows } from "../../../src/metadata/copies.ts";
import { checkInvariants } from "../../../src/metadata/invariants.ts";
import { MetadataStateMachine } from "../../../src/metadata/state-machine.ts";
import { sha256 } from "../../../src/std/digest.ts";
import { must } from "../../../src/std/assert.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { MemoryOrderedStore } from "../../../src/std/memory-ordered-store.ts";
import type { OrderedReader, OrderedStore } from "../../../src/std/ordered-store.ts";

/** Members registered by bootstrap(), each with incarnation "store-<id>". */
export const MEMBER_IDS = [101, 102, 103];

/** A locator from the root: "/a/b". */
export function at(path: string, baseId = ROOT_ENTRY_ID): Locator {
  return { baseId, path: path.split("/").filter((name) => name !== "") };
}

/** A seal of a member for an extent with these bytes. */
export function sealOf(contentId: number, memberId: number, bytes: Uint8Array, extentIndex = 0): Seal {
  const root = sha256(bytes);
  return {
    extent: { contentId, extentIndex },
    sizeBytes: bytes.length,
    root,
    memberId,
    storeIncarnation: `store-${memberId}`,
  };
}

/** Options of a file put by Harness.put(). */
export interface PutOptions {
  readonly text?: string;
  readonly onConflict?: OnConflict;
  readonly precondition?: Precondition;
  readonly attributes?: EntryAttributes;
  readonly createParents?: boolean;
  readonly memberIds?: readonly number[];
}

/** A state machine under test. Invariants are checked after every command unless told otherwise. */
export class Harness {
  readonly store: OrderedStore;
  readonly machine: MetadataStateMachine;
  readonly log: Uint8Array[] = [];
  index = 0;
  checks = true;
  #nextContentId = 0;
  #contentIdsLeft = 0;

  constructor(
    limits: Partial<StateMachineLimits> = {},
    store: OrderedStore = new MemoryOrderedStore(),
    levels: FeatureLevels = FEATURE_LEVELS,
  ) {
    this.store = store;
    this.machine = new MetadataStateMachine(limits, levels);
  }

  /** Applies a command. */
  apply(body: CommandBody, envelope: { requestId?: string; deadlineMs?: number } = {}): CommandResult {
    const { requestId = "", deadlineMs = 0 } = envelope;
    const data = encodeCommand({ requestId, deadlineMs, wallTimeMs: 1_700_000_000_000 + this.index, body });
    this.index += 1;
    this.log.push(data);
    const result = this.store.transaction((t) => this.machine.apply(t, { index: this.index, term: 1, data }));
    if (this.checks) checkInvariants(this.store);
    return result;
  }

  /** Applies a command that must succeed. */
  ok(body: CommandBody): ResultValue {
    const result = this.apply(body);
    if (result.outcome === "rejected") throw new Error(`${body.kind}: ${result.reason}: ${result.message}`);
    return result.value;
  }

  /** Applies a command that answers an entry. */
  entry(body: CommandBody): Entry {
    const value = this.ok(body);
    if (value.kind !== "entry") throw new Error(`answered ${value.kind}`);
    return value.entry;
  }

  /** Applies a command that must be refused with a reason. */
  refused(reason: ErrorReason, body: CommandBody): void {
    const before = [...this.store.range({ from: new Uint8Array([1]), to: new Uint8Array([255]) })];
    const result = this.apply(body);
    expect(result.outcome === "rejected" ? result.reason : "applied").to.equal(reason);
    const after = [...this.store.range({ from: new Uint8Array([1]), to: new Uint8Array([255]) })];
    expect(after, "a refused command writes nothing").to.deep.equal(before);
  }

  /** Bootstraps a cluster of three members with write leases, at a feature level; at the first one without. */
  bootstrap(level?: number): this {
    const format = { clusterId: "cluster", chunkSizeBytes: 1024 * 1024, formatVersion: 1 };
    this.ok({ kind: "bootstrap", ...format, featureLevel: level });
    for (const memberId of MEMBER_IDS) this.register(memberId);
    return this;
  }

  register(memberId: number, storeIncarnation = `store-${memberId}`, featureLevelMax?: number): void {
    const node = {
      memberId,
      nodeId: `node-${memberId}`,
      storeIncarnation,
      address: `10.0.0.${memberId}:1`,
      httpUrl: "",
      publicUrl: "",
      zone: "",
      isStorageOnly: false,
      featureLevelMax,
    };
    this.ok({ kind: "register-node", node });
  }

  lease(idCount: number, memberId = 101): ResultValue & { readonly kind: "write-lease" } {
    const value = this.ok({
      kind: "renew-write-lease",
      memberId,
      storeIncarnation: `store-${memberId}`,
      idCount,
    });
    if (value.kind !== "write-lease") throw new Error(value.kind);
    return value;
  }

  /** The id for a small content, leased when needed. */
  contentId(): number {
    if (this.#contentIdsLeft === 0) {
      const lease = this.lease(100_000);
      [this.#nextContentId, this.#contentIdsLeft] = [lease.firstContentId, lease.idCount];
    }
    this.#contentIdsLeft -= 1;
    this.#nextContentId += 1;
    return this.#nextContentId - 1;
  }

  putBody(path: string, options: PutOptions = {}): CommandBody & { readonly kind: "put-small" } {
    const { text = path, onConflict = "fail", precondition = {}, attributes = {} } = options;
    const bytes = utf8(text);
    const contentId = this.contentId();
    return {
      kind: "put-small",
      at: at(path),
      createParents: options.createParents ?? false,
      onConflict,
      attributes,
      precondition,
      memberId: 101,
      contentId,
      sizeBytes: bytes.length,
      treeHash: sha256(bytes),
      seals:
        bytes.length === 0 ? [] : (options.memberIds ?? MEMBER_IDS).map((id) => sealOf(contentId, id, bytes)),
    };
  }

  put(path: string, options: PutOptions = {}): Entry {
    return this.entry(this.putBody(path, options));
  }

  mkdir(path: string, options: { createParents?: boolean; existOk?: boolean } = {}): Entry {
    return this.entry(mkdirBody(path, options));
  }

  copy(from: string, to: string, onConflict: OnConflict = "fail"): Entry {
    return this.entry(transferBody("copy-entry", from, to, onConflict));
  }

  move(from: string, to: string, onConflict: OnConflict = "fail"): Entry {
    return this.entry(transferBody("move-entry", from, to, onConflict));
  }

  remove(path: string, recursive = true): Entry {
    return this.entry({ kind: "delete-entry", at: at(path), recursive, precondition: {} });
  }

  advance(elapsedMs: number): void {
    const checks = this.checks;
    this.checks = false;
    for (let left = elapsedMs; left > 0; left -= 10_000) {
      this.ok({ kind: "advance-clock", elapsedMs: Math.min(10_000, left) });
    }
    this.checks = checks;
  }

  /** Repeats a batch command until it has nothing more to do. */
  drain(kind: "expire" | "reclaim" | "materialise" | "evict"): number {
    for (let commands = 0; ; commands += 1) {
      const value = this.ok(kind === "materialise" ? { kind, directoryId: 0, path: [] } : { kind });
      if (value.kind !== "batch") throw new Error(value.kind);
      if (!value.more) return commands;
      if (commands > 10_000) throw new Error(`${kind} does not end`);
    }
  }
}

export function mkdirBody(
  path: string,
  options: { createParents?: boolean; existOk?: boolean; precondition?: Precondition } = {},
): CommandBody {
  const { createParents = false, existOk = false, precondition = {} } = options;
  return { kind: "create-directory", at: at(path), createParents, existOk, attributes: {}, precondition };
}

export function transferBody(
  kind: "move-entry" | "copy-entry",
  from: string,
  to: string,
  onConflict: OnConflict = "fail",
  precondition: Precondition = {},
): CommandBody {
  return { kind, source: at(from), to: at(to), onConflict, precondition };
}

/** The tree as a value: a file is its content's id, a directory an object. Sees through unfinished copies. */
export type TreeValue = number | { readonly [name: string]: TreeValue };

export function treeOf(
  reader: OrderedReader,
  directoryId = ROOT_ENTRY_ID,
): { readonly [name: string]: TreeValue } {
  const tree: Record<string, TreeValue> = {};
  for (const { name, row } of virtualRows(reader, directoryId)) {
    tree[Buffer.from(name).toString("utf8")] =
      row.kind === "file" ? row.contentId : treeOf(reader, row.entryId);
  }
  return tree;
}

/** The whole store as text, for comparing stores. */
export function dump(reader: OrderedReader): string[] {
  const all = reader.range({ from: new Uint8Array([0]), to: new Uint8Array([255]) });
  return [...all].map(
    ({ key, value }) => `${Buffer.from(key).toString("hex")} ${Buffer.from(value).toString("hex")}`,
  );
}

/** Asserts that a value is there. */
export function present<T>(value: T | undefined): T {
  return must(value, "the test expects it");
}
