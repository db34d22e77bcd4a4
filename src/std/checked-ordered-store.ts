/**
 * An ordered store whose records carry a checksum of their own, verified with every read: for stores that have none.
 *
 *   stored value = value crc32(4, little endian, over key and value)
 *
 * A record that fails is never handed out: the read throws StoreDamageError and the owner is told once, so that it ends the
 * process; at the next start check() finds the damage and the store is made anew from what it was made of.
 */
import { asBuffer } from "./bytes.ts";
import { crc32 } from "./crc32.ts";
import type {
  BulkTarget,
  FrozenFile,
  KeyRange,
  KeyValue,
  OrderedReader,
  OrderedSnapshot,
  OrderedStore,
  OrderedStoreProvider,
  OrderedTransaction,
  StoreCondition,
} from "./ordered-store.ts";

const CHECKSUM_SIZE_BYTES = 4;

/** Thrown when a record of a store is not what was written. */
export class StoreDamageError extends Error {
  override readonly name = "StoreDamageError";
}

type OnDamage = (error: StoreDamageError) => void;

function seal(key: Uint8Array, value: Uint8Array): Uint8Array {
  const sealed = Buffer.allocUnsafe(value.length + CHECKSUM_SIZE_BYTES);
  sealed.set(value);
  sealed.writeUInt32LE(crc32(value, crc32(key)), value.length);
  return sealed;
}

function unseal(key: Uint8Array, sealed: Uint8Array, onDamage: OnDamage): Uint8Array {
  const size = sealed.length - CHECKSUM_SIZE_BYTES;
  if (size >= 0) {
    const value = sealed.subarray(0, size);
    if (asBuffer(sealed).readUInt32LE(size) === crc32(value, crc32(key))) return value;
  }
  const error = new StoreDamageError(`the record under ${asBuffer(key).toString("hex")} fails its checksum`);
  onDamage(error);
  throw error;
}

function checkedReader(reader: OrderedReader, onDamage: OnDamage): OrderedReader {
  return {
    get: (key) => {
      const sealed = reader.get(key);
      return sealed === undefined ? undefined : unseal(key, sealed, onDamage);
    },
    range: (range) => checkedRange(reader, range, onDamage),
  };
}

function* checkedRange(reader: OrderedReader, range: KeyRange, onDamage: OnDamage): Generator<KeyValue> {
  for (const { key, value } of reader.range(range)) yield { key, value: unseal(key, value, onDamage) };
}

class CheckedOrderedStore implements OrderedStore {
  readonly #store: OrderedStore;
  readonly #onDamage: OnDamage;
  readonly #reader: OrderedReader;

  constructor(store: OrderedStore, onDamage: OnDamage) {
    this.#store = store;
    this.#onDamage = onDamage;
    this.#reader = checkedReader(store, onDamage);
  }

  get(key: Uint8Array): Uint8Array | undefined {
    return this.#reader.get(key);
  }

  range(range: KeyRange): Iterable<KeyValue> {
    return this.#reader.range(range);
  }

  transaction<T>(work: (transaction: OrderedTransaction) => T): T {
    return this.#store.transaction((transaction) =>
      work({
        ...checkedReader(transaction, this.#onDamage),
        put: (key, value) => transaction.put(key, seal(key, value)),
        insert: (key, value) => transaction.insert(key, seal(key, value)),
        delete: (key) => transaction.delete(key),
      }),
    );
  }

  flush(): Promise<void> {
    return this.#store.flush();
  }

  snapshot(): OrderedSnapshot {
    const snapshot = this.#store.snapshot();
    return { ...checkedReader(snapshot, this.#onDamage), close: () => snapshot.close() };
  }

  frozenFile(): FrozenFile | undefined {
    const file = this.#store.frozenFile?.();
    if (file === undefined) return undefined;
    return { ...file, isSealed: true, reader: checkedReader(file.reader, this.#onDamage) };
  }

  close(): Promise<void> {
    return this.#store.close();
  }

  discard(): Promise<void> {
    return this.#store.discard?.() ?? this.#store.close();
  }
}

/** Stores of another provider, with checksums. */
export class CheckedOrderedStoreProvider implements OrderedStoreProvider {
  readonly #provider: OrderedStoreProvider;
  readonly #onDamage: OnDamage;

  /** @param onDamage told of each record that fails its checksum while a store is open */
  constructor(provider: OrderedStoreProvider, onDamage: OnDamage) {
    this.#provider = provider;
    this.#onDamage = onDamage;
  }

  async open(name: string): Promise<OrderedStore> {
    return new CheckedOrderedStore(await this.#provider.open(name), this.#onDamage);
  }

  /** See OrderedStoreProvider. Reads every record unless the provider below has. */
  async check(name: string): Promise<StoreCondition> {
    const condition = await this.#provider.check(name);
    if (condition.kind !== "readable" || condition.recordSum !== undefined) return condition;
    const store = new CheckedOrderedStore(await this.#provider.open(name), () => undefined);
    try {
      for (const record of store.range({ from: new Uint8Array(0), to: Uint8Array.of(0xff, 0xff) }))
        void record;
      return condition;
    } catch (error) {
      if (error instanceof StoreDamageError) return { kind: "damaged", reason: error.message };
      throw error;
    } finally {
      await store.close();
    }
  }

  bulkTarget(name: string): BulkTarget | undefined {
    const target = this.#provider.bulkTarget?.(name);
    return target === undefined ? undefined : { ...target, isSealed: true };
  }

  list(): Promise<string[]> {
    return this.#provider.list();
  }

  remove(name: string): Promise<void> {
    return this.#provider.remove(name);
  }
}
