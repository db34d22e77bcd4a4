/**
 * Goal: the document FORMAT.md and the program describe the same bytes.
 * Method: the example of the document is parsed out of it, compared with what a log writes, and read back.
 */
import { readFileSync } from "node:fs";
import { expect } from "chai";
import { must } from "../../../src/std/assert.ts";
import { toHex, utf8 } from "../../../src/std/bytes.ts";
import {
  BODY_SIZE_BYTES_MAX,
  decodePrefix,
  encodeRecord,
  HEAD_SIZE_BYTES_MAX,
  identitySeed,
  peekSizes,
  RECORD_HEADER_SIZE_BYTES,
} from "../../../src/segments/record.ts";
import {
  decodeSegmentHeader,
  encodeSegmentHeader,
  IDENTITY_SIZE_BYTES_MAX,
  LABEL_SIZE_BYTES_MAX,
} from "../../../src/segments/segment-header.ts";
import { SegmentLog, type SegmentLogOptions } from "../../../src/segments/segment-log.ts";
import { decodeTable, encodeTable } from "../../../src/segments/segment-table.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { MemoryDisk } from "../../support/memory-disk.ts";

const document = readFileSync(new URL("../../../src/segments/FORMAT.md", import.meta.url), "utf8");

function example(name: string): string {
  const match = new RegExp(`\`\`\`hex ${name}\n([0-9a-f \n]+)\`\`\``).exec(document);
  return must(match?.[1], `the example "${name}" of FORMAT.md`).replace(/\s/g, "");
}

function options(disk: MemoryDisk, onRecord: SegmentLogOptions["onRecord"]): SegmentLogOptions {
  return {
    disk,
    clock: new FakeClock(),
    directory: "/log",
    identity: utf8("example"),
    whenAbsent: "create",
    onFault: "refuse",
    onRecord,
    onFatal: (error) => {
      throw error;
    },
  };
}

describe("FORMAT.md", () => {
  it("shows the bytes that a log writes", async () => {
    const disk = new MemoryDisk();
    const log = await SegmentLog.open(options(disk, () => undefined));
    log.append(16, utf8("head"), utf8("body"));
    await log.commit();
    log.append(17, utf8("x"));
    await log.commit();

    expect(toHex(disk.contentOf("/log/0000000001.seg"))).to.equal(example("segment"));
    expect(toHex(disk.contentOf("/log/segments.table"))).to.equal(example("table"));
  });

  it("shows bytes that a log reads back", async () => {
    const disk = new MemoryDisk();
    await SegmentLog.open(options(disk, () => undefined));
    disk.overwrite("/log/0000000001.seg", Buffer.from(example("segment"), "hex"));
    disk.overwrite("/log/segments.table", Buffer.from(example("table"), "hex"));
    const records: string[] = [];

    await SegmentLog.open(
      options(disk, (record) => {
        const [head, body] = [record.head, record.body].map((bytes) => Buffer.from(bytes).toString());
        records.push(`${record.kind} ${head} ${body}`);
      }),
    );

    expect(records).to.deep.equal(["16 head body", "17 x "]);
  });
});

describe("records", () => {
  const context = {
    identitySeed: identitySeed(utf8("example"), new Uint8Array(0)),
    at: { segmentId: 3, offset: 77 },
    previous: 5,
    durable: { segmentId: 2, offset: 9 },
  };

  it("have heads and bodies up to their limits, and not a byte more", () => {
    const encode = (head: number, body: number): unknown =>
      encodeRecord(context, 16, new Uint8Array(head), new Uint8Array(body));

    encode(HEAD_SIZE_BYTES_MAX, BODY_SIZE_BYTES_MAX);
    expect(() => encode(HEAD_SIZE_BYTES_MAX + 1, 0)).to.throw("too long");
    expect(() => encode(0, BODY_SIZE_BYTES_MAX + 1)).to.throw("too long");
  });

  it("are not read when a damaged length is beyond the limits", () => {
    const { prefix } = encodeRecord(context, 16, utf8("head"), utf8("body"));
    const bytes = Buffer.from(prefix);
    bytes.writeUInt32LE(BODY_SIZE_BYTES_MAX, 20);
    expect(peekSizes(bytes)?.sizeBytes).to.be.greaterThan(BODY_SIZE_BYTES_MAX);

    bytes.writeUInt32LE(BODY_SIZE_BYTES_MAX + 1, 20);
    expect(peekSizes(bytes)).to.equal(undefined);
    expect(peekSizes(prefix.subarray(0, RECORD_HEADER_SIZE_BYTES - 1))).to.equal(undefined);
  });

  it("do not pass as records of another log", () => {
    const { prefix } = encodeRecord(context, 16, utf8("head"), utf8("body"));

    expect(decodePrefix(prefix, context.identitySeed)?.location).to.deep.equal({
      segmentId: 3,
      offset: 77,
      sizeBytes: prefix.length + 4,
    });
    expect(decodePrefix(prefix, identitySeed(utf8("example"), utf8("label")))).to.equal(undefined);
    expect(decodePrefix(prefix, identitySeed(utf8("other"), new Uint8Array(0)))).to.equal(undefined);
  });
});

describe("segment headers", () => {
  const header = { segmentId: 9, chainSeed: 77, identity: utf8("me"), label: utf8("it") };

  it("are read back, unless a single bit is wrong", () => {
    const bytes = Buffer.from(encodeSegmentHeader(header));
    const read = decodeSegmentHeader(bytes);

    expect({
      ...read,
      identity: toHex(read?.identity ?? bytes),
      label: toHex(read?.label ?? bytes),
    }).to.deep.equal({
      ...header,
      identity: toHex(header.identity),
      label: toHex(header.label),
    });
    for (let i = 0; i < bytes.length * 8; i += 1) {
      const damaged = Buffer.from(bytes);
      damaged[i >> 3] = (damaged[i >> 3] ?? 0) ^ (1 << (i & 7));
      expect(decodeSegmentHeader(damaged)).to.equal(undefined);
    }
  });

  it("have identities and labels up to their limits", () => {
    const limit = {
      ...header,
      identity: new Uint8Array(IDENTITY_SIZE_BYTES_MAX),
      label: new Uint8Array(LABEL_SIZE_BYTES_MAX),
    };

    expect(decodeSegmentHeader(encodeSegmentHeader(limit))?.identity.length).to.equal(
      IDENTITY_SIZE_BYTES_MAX,
    );
    const long = { ...header, identity: new Uint8Array(IDENTITY_SIZE_BYTES_MAX + 1) };
    expect(() => encodeSegmentHeader(long)).to.throw("too long");
    expect(() =>
      encodeSegmentHeader({ ...header, label: new Uint8Array(LABEL_SIZE_BYTES_MAX + 1) }),
    ).to.throw("too long");
  });
});

describe("the table of segments", () => {
  it("keeps ids with gaps in runs", () => {
    const segmentIds = [1, 2, 3, 7, 9, 10, 4_000_000_000];
    const bytes = encodeTable({ identity: utf8("me"), durable: { segmentId: 3, offset: 4 }, segmentIds });

    expect(decodeTable(bytes)?.segmentIds).to.deep.equal(segmentIds);
    expect(decodeTable(bytes)?.durable).to.deep.equal({ segmentId: 3, offset: 4 });
    expect(decodeTable(bytes.subarray(0, -1))).to.equal(undefined);
    expect(bytes.length).to.equal(20 + 2 + 4 * 8);
  });
});
