// Goal: what the hand-written encoding makes, the generated code reads, and the other way round; bad bytes are refused.
// Method: fixed values, and random messages compared through both encoders.
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { expect } from "chai";
import * as forms from "../../../gen/netdisk/storage/v1/raft_pb.ts";
import {
  decodeLogEntry,
  decodeHardState,
  decodeMessage,
  decodePosition,
  decodeSnapshotHeader,
  decodeStateHash,
  decodeStoreCurrent,
  decodeStoreState,
  encodeLogEntry,
  encodeHardState,
  encodeMessage,
  encodeMessageParts,
  encodePosition,
  encodeSnapshotHeader,
  encodeStateHash,
  encodeStoreCurrent,
  encodeStoreState,
} from "../../../src/consensus/codec.ts";
import { WireFormatError, WireReader, WireWriter } from "../../../src/consensus/wire-format.ts";
import { makeMessage } from "../../../src/raft/message.ts";
import type { LogEntry, Message } from "../../../src/raft/types.ts";
import { SeededPrng } from "../../../src/std/prng.ts";

const CONF_STATE = {
  voters: [1, 2, 2 ** 52 + 1],
  votersOutgoing: [4],
  learners: [5],
  learnersNext: [6],
  autoLeave: true,
};
const ENTRY: LogEntry = { index: 300, term: 7, kind: "normal", data: Uint8Array.of(1, 2, 3) };

function randomMessage(prng: SeededPrng): Message {
  const number = (): number => prng.below([1, 2, 128, 300, 2 ** 31, 2 ** 53 - 1][prng.below(6)] ?? 1);
  const index = prng.below(2 ** 40);
  const entries = Array.from({ length: prng.below(4) }, (_, at): LogEntry => {
    const kind = prng.below(2) === 0 ? "normal" : "conf-change";
    return { index: index + 1 + at, term: 1 + number(), kind, data: prng.bytes(prng.below(300)) };
  });
  const term = number();
  return makeMessage({
    kind: "append",
    from: 1 + prng.below(2 ** 53 - 2),
    to: 1 + prng.below(5),
    term,
    logTerm: number(),
    index,
    entries,
    commitIndex: number(),
    commitTerm: number(),
    reject: prng.below(2) === 1,
    rejectHint: number(),
    context: prng.bytes(prng.below(20)),
  });
}

describe("consensus codec", () => {
  it("gives back every field of a message", () => {
    const message = makeMessage({
      kind: "snapshot",
      from: 2 ** 53 - 1,
      to: 2,
      term: 3,
      snapshot: { metadata: { index: 9, term: 2, confState: CONF_STATE }, data: Uint8Array.of(9) },
    });

    const decoded = decodeMessage(encodeMessage(message));

    expect(decoded.from).to.equal(2 ** 53 - 1);
    expect(decoded.snapshot?.metadata).to.deep.equal(message.snapshot?.metadata);
    expect([...(decoded.snapshot?.data ?? [])]).to.deep.equal([9]);
  });

  it("writes what the generated code reads, and reads what it writes, for random messages", () => {
    const seed = 20_261_122;
    const prng = new SeededPrng(seed);
    for (let round = 0; round < 300; round += 1) {
      const message = randomMessage(prng);
      const bytes = encodeMessage(message);
      const form = fromBinary(forms.RaftMessageSchema, bytes);

      expect(Number(form.from), `seed=${seed} round=${round}`).to.equal(message.from);
      expect(Number(form.rejectHint)).to.equal(message.rejectHint);
      expect(Number(form.commitTerm)).to.equal(message.commitTerm);
      expect(form.entries.map((entry) => [Number(entry.index), Number(entry.term)])).to.deep.equal(
        message.entries.map((entry) => [entry.index, entry.term]),
      );
      const again = decodeMessage(toBinary(forms.RaftMessageSchema, form));
      expect(
        Buffer.from(encodeMessage(again)).equals(Buffer.from(bytes)),
        `seed=${seed} round=${round}`,
      ).to.equal(true);
    }
  });

  it("reads a refusal of a version that does not tell the term of its commit index", () => {
    const form = create(forms.RaftMessageSchema, {
      kind: forms.RaftMessageKind.PRE_VOTE_RESPONSE,
      ...{ from: 3n, to: 2n, term: 6n, reject: true },
    });

    const decoded = decodeMessage(toBinary(forms.RaftMessageSchema, form));

    expect([decoded.reject, decoded.commitIndex, decoded.commitTerm]).to.deep.equal([true, 0, 0]);
  });

  it("encodes an entry once and shares the bytes between the disk and the followers", () => {
    const parts = encodeMessageParts(
      makeMessage({ kind: "append", from: 1, to: 2, index: 299, entries: [ENTRY] }),
    );

    expect(parts[2]).to.equal(encodeLogEntry(ENTRY));
  });

  it("reuses the received bytes of an entry", () => {
    const bytes = encodeLogEntry({ ...ENTRY });
    expect(encodeLogEntry(decodeLogEntry(bytes))).to.equal(bytes);
  });

  it("gives back hard states and positions", () => {
    const hardState = { term: 5, votedFor: 2 ** 53 - 1, commitIndex: 0 };
    expect(decodeHardState(encodeHardState(hardState))).to.deep.equal(hardState);
    const position = { index: 2 ** 40, term: 3 };
    expect(decodePosition(encodePosition(position))).to.deep.equal(position);
  });

  it("gives back what is kept in the store, in CURRENT and in a snapshot's header", () => {
    const stateHash = Uint8Array.from([1, 2, 3, 4, 5, 6, 7, 8]);
    const state = { clusterId: "ab", appliedIndex: 5, appliedTerm: 2, confState: CONF_STATE, stateHash };
    expect(decodeStoreState(encodeStoreState(state))).to.deep.equal(state);
    // Another configuration, and the first again: what was encoded last must not stick.
    const others = { voters: [7], votersOutgoing: [], learners: [], learnersNext: [], autoLeave: false };
    for (const confState of [others, CONF_STATE, { ...others, voters: [] }]) {
      const each = { ...state, confState };
      expect(decodeStoreState(encodeStoreState(each))).to.deep.equal(each);
      const generated = toBinary(
        forms.StoreStateSchema,
        create(forms.StoreStateSchema, {
          ...{ clusterId: "ab", appliedIndex: 5n, appliedTerm: 2n, stateHash },
          confState: {
            voters: confState.voters.map(BigInt),
            votersOutgoing: confState.votersOutgoing.map(BigInt),
            learners: confState.learners.map(BigInt),
            learnersNext: confState.learnersNext.map(BigInt),
            autoLeave: confState.autoLeave,
          },
        }),
      );
      expect(Array.from(encodeStoreState(each))).to.deep.equal(Array.from(generated));
    }
    const current = { generation: 3, snapshot: { index: 10, term: 2 } };
    expect(decodeStoreCurrent(encodeStoreCurrent(current))).to.deep.equal(current);
    const header = { clusterId: "ab", metadata: { index: 5, term: 2, confState: CONF_STATE }, stateHash };
    expect(decodeSnapshotHeader(encodeSnapshotHeader(header))).to.deep.equal(header);
    const hash = { from: 1, index: 2, term: 3, hash: stateHash, request: true };
    expect(decodeStateHash(encodeStateHash(hash))).to.deep.equal(hash);
  });

  it("passes over fields of a later version", () => {
    const writer = new WireWriter(8);
    writer.uint(1, 9);
    writer.uint(2, 2);
    writer.uint(200, 77);
    writer.bytes(201, Uint8Array.of(1, 2));

    expect(decodeLogEntry(writer.finish())).to.deep.include({ index: 9, term: 2 });
  });

  describe("refuses", () => {
    const refused: { name: string; decode: () => unknown }[] = [
      { name: "an entry without an index", decode: () => decodeLogEntry(Uint8Array.of(0x10, 1)) },
      { name: "bytes that end inside a number", decode: () => decodeLogEntry(Uint8Array.of(0x08, 0x80)) },
      { name: "a length beyond the end", decode: () => decodeLogEntry(Uint8Array.of(0x22, 5, 1)) },
      { name: "a message of an unknown kind", decode: () => decodeMessage(Uint8Array.of(0x08, 99)) },
      { name: "a message without a sender", decode: () => decodeMessage(Uint8Array.of(0x08, 2, 0x18, 1)) },
      { name: "a state hash of another length", decode: () => decodeStateHash(Uint8Array.of(0x22, 1, 1)) },
      {
        name: "entries that do not follow the index",
        decode: () =>
          decodeMessage(
            encodeMessage(makeMessage({ kind: "append", from: 1, to: 2, index: 5, entries: [ENTRY] })),
          ),
      },
      {
        name: "a snapshot message without a snapshot",
        decode: () => decodeMessage(encodeMessage(makeMessage({ kind: "snapshot", from: 1, to: 2 }))),
      },
      {
        name: "a format of a later version",
        decode: () =>
          decodeStoreCurrent(
            toBinary(forms.StoreCurrentSchema, create(forms.StoreCurrentSchema, { formatVersion: 2 })),
          ),
      },
    ];
    for (const row of refused) it(row.name, () => expect(row.decode).to.throw(WireFormatError));

    it("the number 2^53 and takes 2^53-1", () => {
      const encode = (value: bigint): Uint8Array => {
        const form = create(forms.LogPositionSchema, { index: value });
        return toBinary(forms.LogPositionSchema, form);
      };
      const read = (bytes: Uint8Array): number => {
        const reader = new WireReader(bytes);
        reader.next();
        return reader.uint();
      };
      expect(read(encode(2n ** 53n - 1n))).to.equal(2 ** 53 - 1);
      expect(() => read(encode(2n ** 53n))).to.throw(WireFormatError);
    });
  });
});
