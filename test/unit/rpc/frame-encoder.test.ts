/**
 * Goal: the one-copy encoder writes what the protobuf library writes, byte for byte.
 * Method: random messages of every bulk type, a fixed seed unless FC_SEED is given by fast-check's own report.
 */
import {
  create,
  fromBinary,
  toBinary,
  type DescField,
  type DescMessage,
  type Message,
} from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import { ListRequestSchema } from "../../../gen/netdisk/v1/metadata_service_pb.ts";
import { UploadRequestSchema } from "../../../gen/netdisk/v1/chunk_service_pb.ts";
import { expect } from "chai";
import fc from "fast-check";
import { AssertionError } from "../../../src/std/assert.ts";
import { createFrameEncoder } from "../../../src/rpc/frame-encoder.ts";
import { BULK_MESSAGES } from "../../../src/rpc/grpc-codec.ts";

const SEED = 20_261_122;

function scalars(scalar: ScalarType): fc.Arbitrary<unknown> {
  if (scalar === ScalarType.UINT64) return fc.bigInt({ min: 0n, max: BigInt(Number.MAX_SAFE_INTEGER) });
  if (scalar === ScalarType.UINT32) return fc.nat(0xffffffff);
  if (scalar === ScalarType.BOOL) return fc.boolean();
  if (scalar === ScalarType.STRING) return fc.string({ unit: "grapheme" });
  return fc.uint8Array({ maxLength: 300 });
}

function valueOf(field: DescField): fc.Arbitrary<unknown> {
  if (field.fieldKind === "scalar") return fc.option(scalars(field.scalar), { nil: undefined });
  if (field.fieldKind === "list" && field.listKind === "message") {
    return fc.array(messagesOf(field.message), { maxLength: 5 });
  }
  if (field.fieldKind === "list") return fc.array(fc.uint8Array({ maxLength: 50 }), { maxLength: 5 });
  if (field.fieldKind !== "message") throw new Error(`no generator for ${field.name}`);
  const { message } = field;
  const some = fc.boolean().map((filled) => create(message, filled ? ({ path: "/a" } as never) : {}));
  return fc.option(some, { nil: undefined });
}

function messagesOf(schema: DescMessage): fc.Arbitrary<Message> {
  const fields = Object.fromEntries(schema.fields.map((field) => [field.localName, valueOf(field)]));
  return fc.record(fields).map((values) => {
    const given = Object.entries(values).filter(([, value]) => value !== undefined);
    return create(schema, Object.fromEntries(given) as never);
  });
}

describe("frame encoder", () => {
  for (const schema of BULK_MESSAGES) {
    it(`writes ${schema.typeName} as the protobuf library does (seed=${SEED})`, function () {
      this.timeout(10_000);
      const encode = createFrameEncoder(schema);

      fc.assert(
        fc.property(messagesOf(schema), (message) => {
          expect(Buffer.compare(encode(message), toBinary(schema, message))).to.equal(0);
        }),
        { seed: SEED, numRuns: 300 },
      );
    });
  }

  it("writes a large message straight into the buffer it is copied to", () => {
    const message = create(UploadRequestSchema, { uploadId: 7n, data: new Uint8Array(1024 * 1024).fill(3) });
    const expected = toBinary(UploadRequestSchema, message);
    const target = Buffer.alloc(expected.length + 5);

    const frame = createFrameEncoder(UploadRequestSchema)(message);
    const copied = frame.copy(target, 5);

    expect([frame.length, frame.byteLength, copied]).to.deep.equal(Array(3).fill(expected.length));
    expect(Buffer.compare(target.subarray(5), expected)).to.equal(0);
  });

  it("keeps fields that this version does not know", () => {
    const bytes = Buffer.concat([
      toBinary(UploadRequestSchema, create(UploadRequestSchema, { offset: 5n })),
      Buffer.from([0xf8, 0x06, 0x01]),
    ]);
    const message = fromBinary(UploadRequestSchema, bytes);

    expect(Buffer.compare(createFrameEncoder(UploadRequestSchema)(message), bytes)).to.equal(0);
  });

  it("refuses a number beyond the safe integers", () => {
    const encode = createFrameEncoder(UploadRequestSchema);

    expect(() => encode(create(UploadRequestSchema, { offset: 2n ** 53n }))).to.throw(AssertionError);
  });

  it("refuses to be built for kinds of fields that it does not know", () => {
    expect(() => createFrameEncoder(ListRequestSchema)).to.throw(AssertionError);
  });
});
