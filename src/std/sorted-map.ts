/**
 * A map from byte keys to values in key order, with snapshots that cost nothing.
 *
 * A B-tree whose nodes are shared with every snapshot taken and copied on the first write after it (path copying, as in
 * Driscoll et al., "Making Data Structures Persistent", 1989). A node belongs to the map while its `owner` is the map's
 * current token; view() hands out the root and takes a new token, so that nothing reachable from the view is written again.
 * Keys and values are kept by reference: whoever passes them in must not write to them afterwards.
 */
import { must } from "./assert.ts";

/** Records in a node at most. Larger nodes search faster and copy slower. */
const NODE_SIZE_MAX = 48;

/** A node with fewer records is merged with its neighbour when both fit in three quarters of a node. */
const NODE_SIZE_MIN = 12;

interface Leaf<V> {
  readonly kind: "leaf";
  readonly owner: object;
  readonly keys: Uint8Array[];
  readonly values: V[];
}

interface Branch<V> {
  readonly kind: "branch";
  readonly owner: object;
  /** keys[i] is at most the first key of children[i]; keys[0] counts as lower than everything. */
  readonly keys: Uint8Array[];
  readonly children: SortedNode<V>[];
}

type SortedNode<V> = Leaf<V> | Branch<V>;

/** A frozen state of a SortedMap. */
export interface SortedView<V> {
  readonly size: number;
  get(key: Uint8Array): V | undefined;
  /** Records with from <= key < to (to absent: to the end) in key order, or from the end down. */
  range(from: Uint8Array, to: Uint8Array | undefined, reverse: boolean): Iterable<[Uint8Array, V]>;
}

// As compareBytes(), without leaving the compiled code: keys are short, and a call into the runtime costs more than the loop.
function compareKeys(a: Uint8Array, b: Uint8Array): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i += 1) {
    const difference = (a[i] as number) - (b[i] as number);
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

// Index of the first key that is not less than `key`.
function lowerBound(keys: readonly Uint8Array[], key: Uint8Array): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (compareKeys(keys[middle] as Uint8Array, key) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Index of the child that holds `key` if any does.
function childIndex(keys: readonly Uint8Array[], key: Uint8Array): number {
  let low = 1;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (compareKeys(keys[middle] as Uint8Array, key) <= 0) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function find<V>(root: SortedNode<V>, key: Uint8Array): V | undefined {
  let node = root;
  while (node.kind === "branch") node = must(node.children[childIndex(node.keys, key)], "child of a branch");
  const at = lowerBound(node.keys, key);
  const found = node.keys[at];
  return found !== undefined && compareKeys(found, key) === 0 ? node.values[at] : undefined;
}

function* scanForward<V>(
  root: SortedNode<V>,
  from: Uint8Array,
  to: Uint8Array | undefined,
): Generator<[Uint8Array, V]> {
  let start: Uint8Array | undefined = from;
  while (start !== undefined) {
    let node = root;
    let next: Uint8Array | undefined;
    while (node.kind === "branch") {
      const i = childIndex(node.keys, start);
      next = node.keys[i + 1] ?? next;
      node = must(node.children[i], "child of a branch");
    }
    for (let i = lowerBound(node.keys, start); i < node.keys.length; i += 1) {
      const key = must(node.keys[i], "key of a leaf");
      if (to !== undefined && compareKeys(key, to) >= 0) return;
      yield [key, node.values[i] as V];
    }
    start = next;
  }
}

function* scanBackward<V>(
  root: SortedNode<V>,
  from: Uint8Array,
  to: Uint8Array | undefined,
): Generator<[Uint8Array, V]> {
  let end = to;
  for (;;) {
    let node = root;
    let floor: Uint8Array | undefined;
    while (node.kind === "branch") {
      // The last child that may hold a key below `end`.
      const i: number =
        end === undefined ? node.keys.length - 1 : Math.max(1, lowerBound(node.keys, end)) - 1;
      if (i > 0) floor = node.keys[i];
      node = must(node.children[i], "child of a branch");
    }
    const stop: number = end === undefined ? node.keys.length : lowerBound(node.keys, end);
    for (let i = stop - 1; i >= 0; i -= 1) {
      const key = must(node.keys[i], "key of a leaf");
      if (compareKeys(key, from) < 0) return;
      yield [key, node.values[i] as V];
    }
    // Everything left of the floor is below `from` when the floor is not above it.
    if (floor === undefined || compareKeys(floor, from) <= 0) return;
    end = floor;
  }
}

class FrozenMap<V> implements SortedView<V> {
  readonly size: number;
  readonly root: SortedNode<V>;

  constructor(root: SortedNode<V>, size: number) {
    this.root = root;
    this.size = size;
  }

  get(key: Uint8Array): V | undefined {
    return find(this.root, key);
  }

  range(from: Uint8Array, to: Uint8Array | undefined, reverse: boolean): Iterable<[Uint8Array, V]> {
    return reverse ? scanBackward(this.root, from, to) : scanForward(this.root, from, to);
  }
}

/** The map. Values must not be undefined. A range must not be read on while the map is written to. */
export class SortedMap<V> implements SortedView<V> {
  #owner: object = {};
  #root: SortedNode<V> = { kind: "leaf", owner: this.#owner, keys: [], values: [] };
  #size = 0;
  /** The value that the insertion under way has taken the place of. */
  #replaced: V | undefined;

  /** How many records there are. */
  get size(): number {
    return this.#size;
  }

  get(key: Uint8Array): V | undefined {
    return find(this.#root, key);
  }

  range(from: Uint8Array, to: Uint8Array | undefined, reverse: boolean): Iterable<[Uint8Array, V]> {
    return reverse ? scanBackward(this.#root, from, to) : scanForward(this.#root, from, to);
  }

  /** The state now, frozen. Costs nothing itself; the next writes copy the nodes they touch. */
  view(): SortedView<V> {
    this.#owner = {};
    return new FrozenMap(this.#root, this.#size);
  }

  /** Goes back to a state that view() of this map returned. */
  restore(view: SortedView<V>): void {
    const frozen = must(
      view instanceof FrozenMap ? (view as FrozenMap<V>) : undefined,
      "a view of a SortedMap",
    );
    this.#owner = {};
    this.#root = frozen.root;
    this.#size = frozen.size;
  }

  /** Sets the value under `key`. Returns what was there before. */
  set(key: Uint8Array, value: V): V | undefined {
    const root = this.#own(this.#root);
    this.#root = root;
    this.#replaced = undefined;
    const sibling = this.#insert(root, key, value);
    const replaced = this.#replaced;
    this.#replaced = undefined;
    if (sibling === undefined) return replaced;
    const lowest = must(root.keys[0], "first key of a full node");
    this.#root = {
      kind: "branch",
      owner: this.#owner,
      keys: [lowest, must(sibling.keys[0], "first key of a split node")],
      children: [root, sibling],
    };
    return replaced;
  }

  /** Removes the record under `key`; false when there is none. */
  delete(key: Uint8Array): boolean {
    if (find(this.#root, key) === undefined) return false;
    const root = this.#own(this.#root);
    this.#root = root;
    this.#remove(root, key);
    this.#size -= 1;
    while (this.#root.kind === "branch" && this.#root.children.length === 1) {
      this.#root = must(this.#root.children[0], "only child");
    }
    return true;
  }

  #own(node: SortedNode<V>): SortedNode<V> {
    if (node.owner === this.#owner) return node;
    return node.kind === "leaf"
      ? { kind: "leaf", owner: this.#owner, keys: node.keys.slice(), values: node.values.slice() }
      : { kind: "branch", owner: this.#owner, keys: node.keys.slice(), children: node.children.slice() };
  }

  // Inserts below an owned node; returns the new right half when the node had to be split.
  #insert(node: SortedNode<V>, key: Uint8Array, value: V): SortedNode<V> | undefined {
    if (node.kind === "leaf") {
      const at = lowerBound(node.keys, key);
      const found = node.keys[at];
      if (found !== undefined && compareKeys(found, key) === 0) {
        this.#replaced = node.values[at];
        node.values[at] = value;
        return undefined;
      }
      node.keys.splice(at, 0, key);
      node.values.splice(at, 0, value);
      this.#size += 1;
      return node.keys.length > NODE_SIZE_MAX ? this.#split(node, at === node.keys.length - 1) : undefined;
    }
    const i = childIndex(node.keys, key);
    const child = this.#own(must(node.children[i], "child of a branch"));
    node.children[i] = child;
    const sibling = this.#insert(child, key, value);
    if (sibling === undefined) return undefined;
    node.keys.splice(i + 1, 0, must(sibling.keys[0], "first key of a split node"));
    node.children.splice(i + 1, 0, sibling);
    return node.keys.length > NODE_SIZE_MAX ? this.#split(node, i + 2 === node.keys.length) : undefined;
  }

  // Keys that arrive in order leave full nodes behind when the split is at the end.
  #split(node: SortedNode<V>, appended: boolean): SortedNode<V> {
    const at = appended ? NODE_SIZE_MAX - 2 : node.keys.length >>> 1;
    const keys = node.keys.splice(at);
    if (node.kind === "leaf")
      return { kind: "leaf", owner: this.#owner, keys, values: node.values.splice(at) };
    return { kind: "branch", owner: this.#owner, keys, children: node.children.splice(at) };
  }

  // Removes an existing key below an owned node.
  #remove(node: SortedNode<V>, key: Uint8Array): void {
    if (node.kind === "leaf") {
      const at = lowerBound(node.keys, key);
      node.keys.splice(at, 1);
      node.values.splice(at, 1);
      return;
    }
    const i = childIndex(node.keys, key);
    const child = this.#own(must(node.children[i], "child of a branch"));
    node.children[i] = child;
    this.#remove(child, key);
    if (child.keys.length === 0) {
      node.keys.splice(i, 1);
      node.children.splice(i, 1);
    } else if (child.keys.length < NODE_SIZE_MIN) {
      this.#merge(node, i > 0 ? i - 1 : i);
    }
  }

  // Joins children i and i + 1 of an owned branch when they fit together with room to grow.
  #merge(node: Branch<V>, i: number): void {
    const left = node.children[i];
    const right = node.children[i + 1];
    if (left === undefined || right === undefined) return;
    if (left.keys.length + right.keys.length > (NODE_SIZE_MAX * 3) / 4) return;
    const joined = this.#own(left);
    // The separator is the lower bound that a branch's first child stands for.
    const separator = must(node.keys[i + 1], "separator of a child");
    if (joined.kind === "leaf" && right.kind === "leaf") {
      joined.keys.push(...right.keys);
      joined.values.push(...right.values);
    } else if (joined.kind === "branch" && right.kind === "branch") {
      joined.keys.push(separator, ...right.keys.slice(1));
      joined.children.push(...right.children);
    }
    node.children[i] = joined;
    node.keys.splice(i + 1, 1);
    node.children.splice(i + 1, 1);
  }
}
