/** What a store has not written yet: where layers are cut, how many wait, and what reads see through them. */
import { expect } from "chai";
import { must } from "../../../src/std/assert.ts";
import { utf8 } from "../../../src/std/bytes.ts";
import { getThrough, REMOVED, type Overlaid } from "../../../src/std/layers.ts";
import {
  LAYER_COUNT_MAX,
  LAYER_RECORD_COUNT,
  LAYER_SIZE_BYTES,
  PENDING_RECORD_COUNT_MAX,
  PENDING_SIZE_BYTES_MAX,
  PendingLayers,
  type PendingLayer,
} from "../../../src/std/pending-layers.ts";

const VALUE = utf8("v");

function keyOf(at: number): Uint8Array {
  const key = new Uint8Array(4);
  new DataView(key.buffer).setUint32(0, at);
  return key;
}

function fill(layers: PendingLayers, from: number, to: number): void {
  for (let at = from; at < to; at += 1) layers.set(keyOf(at), VALUE);
}

function read(layers: PendingLayers, at: number): Uint8Array | undefined {
  return getThrough(layers.overlays, () => undefined, keyOf(at));
}

/** A layer of what the active map holds. */
function frozen(layers: PendingLayers): PendingLayer {
  const layer = layers.freeze();
  if (layer === "later") throw new Error("too many layers wait");
  return must(layer, "something was written");
}

describe("PendingLayers", () => {
  it(`calls for a layer with ${LAYER_RECORD_COUNT} records and not with one less`, () => {
    const layers = new PendingLayers();
    fill(layers, 0, LAYER_RECORD_COUNT - 1);
    expect(layers.isActiveLarge()).to.equal(false);
    fill(layers, LAYER_RECORD_COUNT - 1, LAYER_RECORD_COUNT);
    expect(layers.isActiveLarge()).to.equal(true);
    frozen(layers);
    expect(layers.isActiveLarge()).to.equal(false);
  });

  it(`calls for a layer with ${LAYER_SIZE_BYTES} bytes and not with one less`, () => {
    const layers = new PendingLayers();
    layers.set(keyOf(0), new Uint8Array(LAYER_SIZE_BYTES - 4 - 5));
    expect(layers.isActiveLarge()).to.equal(false);
    layers.set(keyOf(1), VALUE);
    expect(layers.isActiveLarge()).to.equal(true);
  });

  it(`lets ${LAYER_COUNT_MAX} layers wait, and after that the active map grows until one is written`, () => {
    const layers = new PendingLayers();
    const waiting: PendingLayer[] = [];
    for (let at = 0; at < LAYER_COUNT_MAX; at += 1) {
      fill(layers, at, at + 1);
      waiting.push(frozen(layers));
    }
    fill(layers, 100, 102);
    expect(layers.freeze()).to.equal("later");
    expect(layers.overlays.length).to.equal(LAYER_COUNT_MAX + 1);

    layers.drop(must(waiting[0], "the oldest"));
    expect(frozen(layers).records.size).to.equal(2);
    expect(layers.oldest()).to.equal(waiting[1]);
    expect([0, 1, 100, 101].map((at) => read(layers, at) !== undefined)).to.deep.equal([
      false,
      true,
      true,
      true,
    ]);
  });

  it("makes no layer of nothing: the newest one that waits holds everything", () => {
    const layers = new PendingLayers();
    expect(layers.freeze()).to.equal(undefined);
    fill(layers, 0, 1);
    const layer = frozen(layers);
    expect(layers.freeze()).to.equal(layer);
    expect(layers.has(layer)).to.equal(true);
    layers.drop(layer);
    expect(layers.has(layer)).to.equal(false);
    expect(layers.freeze()).to.equal(undefined);
    expect(layers.oldest()).to.equal(undefined);
  });

  it("refuses to forget a layer before an older one", () => {
    const layers = new PendingLayers();
    fill(layers, 0, 1);
    frozen(layers);
    fill(layers, 1, 2);
    const newer = frozen(layers);
    expect(() => layers.drop(newer)).to.throw("order");
  });

  it("shows the newest value and a removal over an older layer, and keeps a frozen look at it", () => {
    const layers = new PendingLayers();
    layers.set(keyOf(1), utf8("old"));
    layers.set(keyOf(2), utf8("old"));
    frozen(layers);
    layers.set(keyOf(1), utf8("new"));
    layers.set(keyOf(2), REMOVED);
    const before = layers.frozenOverlays();
    layers.set(keyOf(1), utf8("newest"));

    expect(read(layers, 1)).to.deep.equal(utf8("newest"));
    expect(read(layers, 2)).to.equal(undefined);
    expect(getThrough(before, () => undefined, keyOf(1))).to.deep.equal(utf8("new"));
  });

  it("takes back what a transaction wrote, size included", () => {
    const layers = new PendingLayers();
    layers.set(keyOf(1), utf8("old"));
    const before = layers.activeSizeBytes;
    const writes: readonly (readonly [number, Overlaid])[] = [
      [1, REMOVED],
      [2, VALUE],
      [1, VALUE],
    ];
    const replaced = writes.map(([at, value]): { key: Uint8Array; value: Overlaid | undefined } => ({
      key: keyOf(at),
      value: layers.set(keyOf(at), value),
    }));

    layers.restore(replaced, before);

    expect(layers.activeSizeBytes).to.equal(before);
    expect(read(layers, 1)).to.deep.equal(utf8("old"));
    expect(read(layers, 2)).to.equal(undefined);
  });

  it(`is full with ${PENDING_RECORD_COUNT_MAX} records in all layers and not with one less`, () => {
    const layers = new PendingLayers();
    fill(layers, 0, LAYER_RECORD_COUNT);
    const oldest = frozen(layers);
    fill(layers, LAYER_RECORD_COUNT, PENDING_RECORD_COUNT_MAX - 1);
    expect(layers.isFull()).to.equal(false);
    fill(layers, PENDING_RECORD_COUNT_MAX - 1, PENDING_RECORD_COUNT_MAX);
    expect(layers.isFull()).to.equal(true);
    layers.drop(oldest);
    expect(layers.isFull()).to.equal(false);
  });

  it(`is full with ${PENDING_SIZE_BYTES_MAX} bytes in all layers and not with one less`, () => {
    const layers = new PendingLayers();
    const mebibyte = new Uint8Array(1024 * 1024);
    for (let at = 0; at < PENDING_SIZE_BYTES_MAX / mebibyte.length - 1; at += 1)
      layers.set(keyOf(at), mebibyte);
    frozen(layers);
    const left = PENDING_SIZE_BYTES_MAX - must(layers.oldest(), "the layer").sizeBytes;
    layers.set(keyOf(1000), new Uint8Array(left - 4 - 1));
    expect(layers.isFull()).to.equal(false);
    layers.set(keyOf(1000), new Uint8Array(0));
    expect(layers.isFull()).to.equal(true);
  });
});
