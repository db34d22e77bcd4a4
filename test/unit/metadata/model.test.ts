/**
 * Goal: copies of folders are snapshots. Method: random commands on a small tree with few names, so that copies, copies of
 * copies, moves, deletions and partial filling meet all the time, against a model that copies whole subtrees at once. After
 * every command the answers, the visible trees and all invariants must agree; in the end everything is filled and reclaimed.
 */
import { expect } from "chai";
import type { OnConflict } from "../../../src/drive/entry.ts";
import type { CommandBody } from "../../../src/metadata/commands.ts";
import { freeName } from "../../../src/metadata/names.ts";
import { counters, list, pendingWork, resolve } from "../../../src/metadata/view.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { at, Harness, mkdirBody, transferBody, treeOf, type TreeValue } from "./harness.ts";

type ModelDirectory = Map<string, ModelNode>;
type ModelNode = number | ModelDirectory;

const names = (path: string): string[] => path.split("/").filter((name) => name !== "");

class Model {
  readonly root: ModelDirectory = new Map();

  find(path: string): ModelNode | "PATH_NOT_FOUND" | "NOT_A_DIRECTORY" {
    let node: ModelNode = this.root;
    for (const name of names(path)) {
      if (typeof node === "number") return "NOT_A_DIRECTORY";
      const next: ModelNode | undefined = node.get(name);
      if (next === undefined) return "PATH_NOT_FOUND";
      node = next;
    }
    return node;
  }

  /** The parent of a path, or the reason why there is none. */
  parent(path: string): ModelDirectory | string {
    const found = this.find(names(path).slice(0, -1).join("/"));
    if (typeof found === "number") return "NOT_A_DIRECTORY";
    return found;
  }

  put(path: string, contentId: number, onConflict: OnConflict): string {
    return this.#place(path, contentId, onConflict);
  }

  mkdir(path: string): string {
    return this.#place(path, new Map(), "fail");
  }

  remove(path: string, recursive: boolean): string {
    const node = this.find(path);
    if (typeof node === "string") return node;
    if (!recursive && typeof node !== "number" && node.size > 0) return "DIRECTORY_NOT_EMPTY";
    (this.parent(path) as ModelDirectory).delete(names(path).at(-1) as string);
    return "applied";
  }

  transfer(kind: "move-entry" | "copy-entry", from: string, to: string, onConflict: OnConflict): string {
    const source = this.find(from);
    if (typeof source === "string") return source;
    const parent = this.parent(to);
    if (typeof parent === "string") return parent;
    const isDirectory = typeof source !== "number";
    const isSame = this.find(to) === source && names(from).join("/") === names(to).join("/");
    const intoSelf = isDirectory && names(to).length > names(from).length && `${to}/`.startsWith(`${from}/`);
    if (intoSelf) return "MOVE_INTO_SELF";
    if (isSame && kind === "move-entry") return "applied";
    if (isSame && isDirectory && onConflict === "replace") return "MOVE_INTO_SELF";
    const copy = kind === "copy-entry" ? clone(source) : source;
    const answer = this.#place(to, copy, onConflict, () => {
      if (kind === "move-entry") (this.parent(from) as ModelDirectory).delete(names(from).at(-1) as string);
    });
    return answer;
  }

  #place(
    path: string,
    node: ModelNode,
    onConflict: OnConflict,
    before: () => void = () => undefined,
  ): string {
    const parent = this.parent(path);
    if (typeof parent === "string") return parent;
    let name = names(path).at(-1) as string;
    const old = parent.get(name);
    if (old !== undefined) {
      if (onConflict === "fail") return "PATH_EXISTS";
      if (onConflict === "rename") {
        // Which number is taken when there are gaps is tested with freeName() itself.
        name = freeName(name, typeof node === "number" ? "file" : "directory", (each) => parent.has(each));
      } else if (typeof old === "number" && typeof node !== "number") return "NOT_A_DIRECTORY";
      else if (typeof old !== "number" && typeof node === "number") return "IS_A_DIRECTORY";
      else if (typeof old !== "number" && old.size > 0) return "DIRECTORY_NOT_EMPTY";
    }
    before();
    parent.set(name, node);
    return "applied";
  }
}

function clone(node: ModelNode): ModelNode {
  return typeof node === "number" ? node : new Map([...node].map(([name, child]) => [name, clone(child)]));
}

function valueOf(node: ModelDirectory): { readonly [name: string]: TreeValue } {
  const entries = [...node].sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(
    entries.map(([name, child]) => [name, typeof child === "number" ? child : valueOf(child)]),
  );
}

class Run {
  readonly model = new Model();
  readonly harness: Harness;
  readonly prng: SeededPrng;

  constructor(seed: number) {
    this.prng = new SeededPrng(seed);
    const batchItemCountMax = 1 + this.prng.below(4);
    this.harness = new Harness({ batchItemCountMax, copierCountMax: 3, copyChainCountMax: 4 }).bootstrap();
  }

  path(): string {
    const depth = 1 + this.prng.below(4);
    return Array.from({ length: depth }, () => "abc"[this.prng.below(3)]).join("/");
  }

  /** A path of something that is there; of a directory when asked, "" for the root. */
  livePath(wanted: "any" | "directory"): string {
    let node: ModelDirectory = this.model.root;
    const path: string[] = [];
    for (;;) {
      const children = [...node].filter(([, child]) => wanted === "any" || typeof child !== "number");
      const pick = children[this.prng.below(Math.max(1, children.length))];
      if (pick === undefined || this.prng.below(4) === 0) break;
      path.push(pick[0]);
      if (typeof pick[1] === "number") break;
      node = pick[1];
    }
    return path.join("/");
  }

  source(): string {
    return this.prng.below(10) === 0 ? this.path() : this.livePath("any") || "a";
  }

  target(): string {
    if (this.prng.below(10) === 0) return this.path();
    const name = "abc"[this.prng.below(3)];
    const parent = this.livePath("directory");
    return parent === "" || this.prng.below(12) === 0 ? `${name}` : `${parent}/${name}`;
  }

  step(): string {
    const { prng, harness, model } = this;
    const onConflict = (["fail", "rename", "replace"] as const)[prng.below(3)] as OnConflict;
    switch (prng.below(24)) {
      case 0:
      case 1:
      case 2:
      case 3: {
        const path = this.target();
        const body = harness.putBody(path, { onConflict, text: String(prng.below(5)) });
        return this.compare(body, () => model.put(path, body.contentId, onConflict));
      }
      case 4:
      case 5:
      case 6:
      case 7: {
        const path = this.target();
        return this.compare(mkdirBody(path), () => model.mkdir(path));
      }
      case 8:
      case 9: {
        const [path, recursive] = [this.source(), prng.below(3) === 0];
        const body: CommandBody = { kind: "delete-entry", at: at(path), recursive, precondition: {} };
        return this.compare(body, () => model.remove(path, recursive));
      }
      case 10:
      case 11:
      case 12: {
        const [from, to] = [this.source(), this.target()];
        const body = this.relative(transferBody("move-entry", from, to, onConflict));
        return this.compare(body, () => model.transfer("move-entry", from, to, onConflict));
      }
      case 13:
      case 14:
      case 15:
      case 16:
      case 17: {
        const [from, to] = [this.source(), this.target()];
        const body = this.relative(transferBody("copy-entry", from, to, onConflict));
        return this.compare(body, () => model.transfer("copy-entry", from, to, onConflict));
      }
      case 18:
        return this.compare({ kind: "reclaim" }, () => "applied");
      case 19:
        return this.compare({ kind: "materialise", directoryId: 0, path: [] }, () => "applied");
      default:
        return this.read(this.source());
    }
  }

  /** Says the source from a directory's id instead of the root, when it can. */
  relative(body: CommandBody): CommandBody {
    if (body.kind !== "copy-entry" && body.kind !== "move-entry") return body;
    if (body.source.path.length < 2 || this.prng.below(2) === 0) return body;
    try {
      const base = resolve(this.harness.store, { ...body.source, path: body.source.path.slice(0, 1) });
      if (base.kind !== "entry") return body;
      return { ...body, source: { baseId: base.entry.entryId, path: body.source.path.slice(1) } };
    } catch {
      return body;
    }
  }

  compare(body: CommandBody, expected: () => string): string {
    const result = this.harness.apply(body);
    if (result.outcome === "rejected" && result.reason === "OVERLOADED") return `${body.kind} OVERLOADED`;
    const answer = result.outcome === "rejected" ? result.reason : "applied";
    expect(answer, JSON.stringify(body)).to.equal(expected());
    expect(treeOf(this.harness.store), JSON.stringify(body)).to.deep.equal(valueOf(this.model.root));
    return `${body.kind} ${answer}`;
  }

  /** Reads as a caller does: asks for what is missing until the view is content. */
  read(path: string): string {
    const { store } = this.harness;
    const expected = this.model.find(path);
    try {
      let found = resolve(store, at(path));
      for (let i = 0; found.kind === "needs-materialise"; i += 1) {
        expect(i).to.be.lessThan(50);
        const { directoryId, path: rest } = found;
        const done = this.harness.apply({ kind: "materialise", directoryId, path: rest });
        if (done.outcome === "rejected") {
          expect(done.reason).to.equal("OVERLOADED");
          return "read OVERLOADED";
        }
        found = resolve(store, at(path));
      }
      expect(found.entry.kind).to.equal(typeof expected === "number" ? "file" : "directory");
      expect(`/${found.path.join("/")}`).to.equal(`/${names(path).join("/")}`);
      if (typeof expected === "object") this.readPages(found.entry.entryId, expected);
    } catch (error) {
      expect((error as { reason?: string }).reason ?? error).to.equal(expected);
    }
    expect(treeOf(store)).to.deep.equal(valueOf(this.model.root));
    return "read";
  }

  readPages(directoryId: number, expected: ModelDirectory): void {
    const listed: string[] = [];
    for (let more = true; more;) {
      const page = list(this.harness.store, directoryId, { afterName: listed.at(-1), countMax: 2 });
      if (page.kind === "needs-materialise") {
        this.harness.ok({ kind: "materialise", directoryId: page.directoryId, path: page.path });
        continue;
      }
      listed.push(...page.entries.map((entry) => entry.name));
      more = page.more;
    }
    expect(listed).to.deep.equal([...expected.keys()].sort());
  }

  finish(): void {
    const { harness } = this;
    harness.drain("materialise");
    harness.drain("reclaim");
    expect(pendingWork(harness.store).materialisable).to.equal(false);
    expect(pendingWork(harness.store).reclaimable).to.equal(false);
    expect(treeOf(harness.store)).to.deep.equal(valueOf(this.model.root));
    const count = (node: ModelNode): [number, number] => {
      if (typeof node === "number") return [1, 0];
      return [...node.values()].map(count).reduce(([f, d], [g, e]) => [f + g, d + e], [0, 1]);
    };
    const [files, directories] = count(this.model.root);
    expect(counters(harness.store).fileCount).to.equal(files);
    expect(counters(harness.store).directoryCount).to.equal(directories - 1);
  }
}

describe("MetadataStateMachine against a model that copies whole folders", function () {
  this.timeout(60_000);
  const seedCount = 40;
  it(`agrees after every command of ${seedCount} random runs`, () => {
    const outcomes = new Map<string, number>();
    for (let seed = 1; seed <= seedCount; seed += 1) {
      const run = new Run(seed);
      try {
        for (let step = 0; step < 120; step += 1) {
          const outcome = run.step();
          outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
        }
        run.finish();
      } catch (error) {
        throw new Error(`seed=${seed}`, { cause: error });
      }
    }
    expect(outcomes.get("copy-entry applied") ?? 0, JSON.stringify([...outcomes])).to.be.greaterThan(
      seedCount,
    );
  });
});
