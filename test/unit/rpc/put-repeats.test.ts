/**
 * Goal: an honest repeat of a one-shot upload gets the first answer, whichever kinds of node the two come to, one with other bytes is
 * never told that they are stored, and a request id never makes two files.
 * Method: drives of voters over one tree, each behind a gRPC server; a RemoteDriveApi stands for a storage-only node, which hands
 * its uploads to them.
 */
import { expect } from "chai";
import { ChunkService } from "../../../gen/netdisk/v1/chunk_service_pb.ts";
import type { DriveApi, PathEntry, UploadRequest } from "../../../src/drive/drive-api.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { CHUNK_SIZE_BYTES, REQUEST_ID_SIZE_BYTES_MAX } from "../../../src/drive/limits.ts";
import { chunkService } from "../../../src/rpc/chunk-service.ts";
import { createGrpcClient } from "../../../src/rpc/client-adapter.ts";
import { metadataService } from "../../../src/rpc/metadata-service.ts";
import { RemoteDriveApi } from "../../../src/rpc/remote-drive-api.ts";
import { SystemClock } from "../../../src/std/clock.ts";
import { SystemPrng } from "../../../src/std/prng.ts";
import { eventually } from "../../support/eventually.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { startRpc, type RpcFixture } from "../../support/rpc-fixture.ts";
import { patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

const BYTES = patternBytes(2 * CHUNK_SIZE_BYTES + 17);

type Kind = "voter" | "storage";

/** Completing uploads succeeds at `drive` and is not heard of, until the function returned is called. */
function loseAnswers(drive: DriveApi): () => void {
  const complete = drive.completeUpload.bind(drive);
  drive.completeUpload = async (...args) => {
    await complete(...args);
    throw new DriveError("COMMIT_OUTCOME_UNKNOWN", "The answer was lost.");
  };
  return () => {
    drive.completeUpload = complete;
  };
}

describe("A repeated one-shot upload", function () {
  this.timeout(20_000);
  let drives: TestDrives;
  let servers: RpcFixture[];
  let remote: RemoteDriveApi;

  beforeEach(async () => {
    drives = new TestDrives(3);
    drives.grantLease();
    servers = await Promise.all(
      [1, 2].map((memberId) => {
        const source = (): DriveApi => drives.drive(memberId);
        return startRpc([metadataService(source), chunkService(source)], { stopGraceMs: 0 });
      }),
    );
    const addresses = servers.map(({ address }) => address);
    remote = new RemoteDriveApi({
      addresses,
      clock: new SystemClock(),
      prng: new SystemPrng(),
      timeoutMs: 300,
    });
  });

  afterEach(async () => {
    remote.close();
    await Promise.all(servers.map((server) => server.stop()));
  });

  function put(
    kind: Kind,
    more: Partial<UploadRequest> & { readonly body?: AsyncIterable<Uint8Array> } = {},
  ): Promise<PathEntry> {
    const { body = streamOf(BYTES), ...fields } = more;
    const drive = kind === "voter" ? drives.drive(3) : remote;
    return drive.putFile(uploadOf("/a/f.txt", fields), body, { requestId: "the-same" });
  }

  async function expectOneFile(): Promise<void> {
    for (const memberId of [1, 2, 3]) await drives.node(memberId).plane.chores.idle();
    await eventually(
      "there is one file and no open upload",
      async () => {
        const { fileCount, openUploadCount } = await drives.drive().cluster();
        return fileCount === 1 && openUploadCount === 0;
      },
      { withinMs: 5000 },
    );
  }

  for (const [first, second] of [
    ["voter", "storage"],
    ["storage", "voter"],
    ["storage", "storage"],
  ] as const) {
    const order = `first at a ${first} node, then at a ${second} node`;

    for (const known of [true, false]) {
      it(`gets the first answer, ${order}, its length ${known ? "stated" : "not stated"}`, async () => {
        const fields = { sizeBytes: known ? BYTES.length : undefined };
        const made = await put(first, fields);

        const again = await put(second, fields);

        expect(again).to.deep.equal(made);
        await expectOneFile();
      });
    }

    it(`gets the first answer though the file was replaced meanwhile, ${order}`, async () => {
      const made = await put(first, { onConflict: "replace" });
      await drives
        .drive()
        .putFile(uploadOf("/a/f.txt", { onConflict: "replace" }), streamOf(patternBytes(5)));

      expect(await put(second, { onConflict: "replace" })).to.deep.equal(made);
      await expectOneFile();
    });

    it(`makes one file when the answer of the first was lost, ${order}`, async () => {
      const heard = [1, 2, 3].map((memberId) => loseAnswers(drives.drive(memberId)));
      drives.tree.lostAnswers.set("complete-upload", first === "voter" ? 1 : 0);
      await expectReason("COMMIT_OUTCOME_UNKNOWN", () => put(first));
      for (const again of heard) again();

      const again = await put(second);

      expect(again.entry.sizeBytes).to.equal(BYTES.length);
      expect(await put(first)).to.deep.equal(again);
      await expectOneFile();
    });

    it(`makes the file when the first died in the middle, ${order}`, async () => {
      const dying = async function* (): AsyncIterable<Uint8Array> {
        yield BYTES.subarray(0, 2 * CHUNK_SIZE_BYTES + 1);
        throw new DriveError("PAYLOAD_TRUNCATED", "The client went away.");
      };
      await expectReason("PAYLOAD_TRUNCATED", () => put(first, { body: dying() }));

      const made = await put(second);

      expect(made.entry.sizeBytes).to.equal(BYTES.length);
      await expectOneFile();
    });

    it(`makes one file of two attempts at once, ${order}`, async () => {
      const fields = { onConflict: "rename" } as const;
      const [one, other] = await Promise.all([put(first, fields), put(second, fields)]);

      expect(other).to.deep.equal(one);
      await expectOneFile();
    });

    it(`is refused when it asks for another file, ${order}`, async () => {
      await put(first);

      for (const fields of [
        { path: "/a/other" },
        { onConflict: "replace" as const },
        { sizeBytes: BYTES.length + 1, body: streamOf(patternBytes(BYTES.length + 1)) },
        { treeHash: new Uint8Array(32) },
        { attributes: { mode: 0o600 } },
      ]) {
        await expectReason("REQUEST_ID_REUSED", () => put(second, fields));
      }
      await expectOneFile();
    });
  }

  for (const [first, second] of [
    ["voter", "voter"],
    ["voter", "storage"],
    ["storage", "voter"],
    ["storage", "storage"],
  ] as const) {
    const order = `first at a ${first} node, then at a ${second} node`;
    const otherBytes: Readonly<Record<string, Buffer>> = {
      "as many, the last one differs": Buffer.concat([BYTES.subarray(0, -1), Buffer.of(1)]),
      "as many, the first one differs": Buffer.concat([Buffer.of(255), BYTES.subarray(1)]),
      "as many, two chunks in each other's place": Buffer.concat([
        BYTES.subarray(CHUNK_SIZE_BYTES, 2 * CHUNK_SIZE_BYTES),
        BYTES.subarray(0, CHUNK_SIZE_BYTES),
        BYTES.subarray(2 * CHUNK_SIZE_BYTES),
      ]),
      "one fewer": BYTES.subarray(0, -1),
      "as many as were read before the tree was asked": BYTES.subarray(0, 2 * CHUNK_SIZE_BYTES),
      "one more": Buffer.concat([BYTES, Buffer.of(1)]),
    };

    for (const [what, bytes] of Object.entries(otherBytes)) {
      for (const known of [true, false]) {
        it(`is refused with other bytes (${what}; length ${known ? "" : "not "}stated), ${order}`, async () => {
          const sized = (body: Buffer): Partial<UploadRequest> => ({
            sizeBytes: known ? body.length : undefined,
          });
          const made = await put(first, sized(BYTES));

          await expectReason("REQUEST_ID_REUSED", () =>
            put(second, { ...sized(bytes), body: streamOf(bytes) }),
          );

          await expectOneFile();
          expect(await put(second, sized(BYTES))).to.deep.equal(made);
        });
      }
    }

    for (const [what, change] of [
      ["moved", () => drives.drive().move({ path: "/a/f.txt" }, "/moved", "fail")],
      ["removed", () => drives.drive().remove({ path: "/a/f.txt" }, { recursive: false })],
    ] as const) {
      it(`is compared with the file as it was made when that was ${what} meanwhile, ${order}`, async () => {
        const made = await put(first);
        await change();

        await expectReason("REQUEST_ID_REUSED", () =>
          put(second, { body: streamOf(patternBytes(BYTES.length, 2)) }),
        );
        expect(await put(second)).to.deep.equal(made);
      });
    }

    it(`is refused when the bytes of the repeat end too early or too late, ${order}`, async () => {
      await put(first, { sizeBytes: BYTES.length });
      const again = (body: Buffer): Promise<PathEntry> =>
        put(second, { sizeBytes: BYTES.length, body: streamOf(body) });

      await expectReason("PAYLOAD_TRUNCATED", () => again(BYTES.subarray(0, -1)));
      await expectReason("PAYLOAD_TOO_LARGE", () => again(Buffer.concat([BYTES, Buffer.of(1)])));
    });

    it(`tells what its stream fails with after all bytes came, say a digest that they do not have, ${order}`, async () => {
      await put(first);
      const failing = async function* (): AsyncIterable<Uint8Array> {
        yield BYTES;
        throw new DriveError("DIGEST_MISMATCH", "The body has another digest.");
      };

      await expectReason("DIGEST_MISMATCH", () => put(second, { body: failing() }));
    });
  }

  for (const kind of ["voter", "storage"] as const) {
    it(`is refused at a ${kind} node when other bytes made the file while it began`, async () => {
      const bytes = patternBytes(BYTES.length, 2);
      let made: PathEntry | undefined;
      drives.tree.onPropose = async () => {
        drives.tree.onPropose = undefined;
        made = await drives
          .drive(2)
          .putFile(uploadOf("/a/f.txt"), streamOf(bytes), { requestId: "the-same" });
      };

      await expectReason("REQUEST_ID_REUSED", () => put(kind));

      await expectOneFile();
      expect(await put(kind, { body: streamOf(bytes) })).to.deep.equal(made);
    });
  }

  for (const kind of ["voter", "storage"] as const) {
    it(`is compared too when the bytes come in one PutFile of several messages to a ${kind} node`, async () => {
      const fixture = await startRpc([chunkService(() => (kind === "voter" ? drives.drive(3) : remote))]);
      try {
        const { address, clock, pool } = fixture;
        const channel = pool.channel(address, "bulk");
        const client = createGrpcClient(ChunkService, { address, clock, channel });
        const send = async (body: Buffer): Promise<bigint | undefined> => {
          const header = { path: "/f", sizeBytes: BigInt(body.length), requestId: "the-same" };
          const frames = async function* (): AsyncIterable<{ header?: typeof header; data: Uint8Array }> {
            yield { header, data: body.subarray(0, 1000) };
            for (let at = 1000; at < body.length; at += 500_000)
              yield { data: body.subarray(at, at + 500_000) };
          };
          return (await client.putFile(frames())).pathEntry?.entry?.entryId;
        };
        const made = await send(BYTES);
        expect(made).to.be.a("bigint");

        await expectReason("REQUEST_ID_REUSED", () => send(patternBytes(BYTES.length, 2)));
        expect(await send(BYTES)).to.equal(made);
      } finally {
        await fixture.stop();
      }
    });
  }

  it("is refused when the first made a smaller file than was read of the repeat", async () => {
    await put("voter", { body: streamOf(patternBytes(50)) });

    await expectReason("REQUEST_ID_REUSED", () => put("storage"));

    await expectOneFile();
  });

  for (const kind of ["voter", "storage"] as const) {
    it(`is refused, and makes nothing, at a ${kind} node when an earlier version spent its id on beginning`, async () => {
      await drives.drive().initUpload(uploadOf("/a/f.txt"), { requestId: "the-same" });

      await expectReason("REQUEST_ID_REUSED", () => put(kind));

      expect((await drives.drive().cluster()).fileCount).to.equal(0);
    });

    it(`checks a stated tree hash at a ${kind} node, and leaves nothing of other bytes`, async () => {
      await expectReason("DIGEST_MISMATCH", () => put(kind, { treeHash: new Uint8Array(32) }));
      for (const memberId of [1, 2, 3]) await drives.node(memberId).plane.chores.idle();
      const { fileCount, openUploadCount } = await drives.drive().cluster();
      expect({ fileCount, openUploadCount }).to.deep.equal({ fileCount: 0, openUploadCount: 0 });
    });
  }

  const REFUSED_IDS: readonly (readonly [what: string, requestId: string])[] = [
    [`of ${REQUEST_ID_SIZE_BYTES_MAX + 1} characters`, "x".repeat(REQUEST_ID_SIZE_BYTES_MAX + 1)],
    ["with a space", "has space"],
    ["with a character that is not ASCII", "ä"],
  ];

  for (const kind of ["voter", "storage"] as const) {
    for (const [what, requestId] of REFUSED_IDS) {
      it(`is refused at a ${kind} node with an id ${what}, and begins nothing`, async () => {
        const drive = kind === "voter" ? drives.drive(3) : remote;

        await expectReason("ARGUMENT_INVALID", () =>
          drive.putFile(uploadOf("/a/f.txt"), streamOf(BYTES), { requestId }),
        );

        const { fileCount, openUploadCount } = await drives.drive().cluster();
        expect({ fileCount, openUploadCount }).to.deep.equal({ fileCount: 0, openUploadCount: 0 });
      });
    }

    it(`is taken at a ${kind} node with an id of ${REQUEST_ID_SIZE_BYTES_MAX} characters`, async () => {
      const drive = kind === "voter" ? drives.drive(3) : remote;
      const send = (): Promise<PathEntry> =>
        drive.putFile(uploadOf("/a/f.txt"), streamOf(BYTES), {
          requestId: "x".repeat(REQUEST_ID_SIZE_BYTES_MAX),
        });
      const made = await send();

      expect(await send()).to.deep.equal(made);
      await expectOneFile();
    });
  }

  it("is refused before the tree is asked, or a byte of it is read, when its id is none", async () => {
    const { drive, plane } = drives.node(3);
    Object.assign(plane.metadata.port, { linearize: () => Promise.reject(new Error("the tree was asked")) });
    let isRead = false;
    const body = async function* (): AsyncIterable<Uint8Array> {
      isRead = true;
      yield BYTES;
    };

    for (const [, requestId] of [...REFUSED_IDS, ["empty", ""] as const]) {
      await expectReason("ARGUMENT_INVALID", () => drive.putFile(uploadOf("/f"), body(), { requestId }));
      const attemptOf = { requestId, sizeBytesMin: 1 };
      await expectReason("ARGUMENT_INVALID", () => drive.initUpload({ ...uploadOf("/f"), attemptOf }));
    }
    expect(isRead).to.equal(false);
  });

  describe("whose body was not read to its end", () => {
    let isReturned: boolean;
    let readBytes: number;

    beforeEach(() => {
      isReturned = false;
      readBytes = 0;
    });

    const WATCHED = patternBytes(5 * CHUNK_SIZE_BYTES);

    /** A body that notes how much of it was read, and when its reader is done with it, as that of an HTTP request has to. */
    async function* watchedBody(): AsyncGenerator<Uint8Array, void> {
      try {
        for (let at = 0; at < WATCHED.length; at += CHUNK_SIZE_BYTES) {
          readBytes = at + CHUNK_SIZE_BYTES;
          yield WATCHED.subarray(at, readBytes);
        }
      } finally {
        isReturned = true;
      }
    }

    it("gives the body back when a storage node's upload cannot begin", async () => {
      await put("voter");

      await expectReason("PATH_EXISTS", () =>
        remote.putFile(uploadOf("/a/f.txt"), watchedBody(), { requestId: "another" }),
      );

      expect(isReturned).to.equal(true);
    });

    for (const kind of ["voter", "storage"] as const) {
      it(`gives the body back to a ${kind} node's client at once when the stated tree hash is that of the file made before`, async () => {
        const made = await put("voter", { body: streamOf(WATCHED) });
        const { treeHash } = made.entry;

        expect(await put(kind, { treeHash, body: watchedBody() })).to.deep.equal(made);

        expect(isReturned).to.equal(true);
        expect(readBytes).to.be.below(WATCHED.length);
      });

      it(`gives the body back to a ${kind} node's client at once when more came than the file has that was made before`, async () => {
        await put("voter", { body: streamOf(WATCHED.subarray(0, 3 * CHUNK_SIZE_BYTES)) });

        await expectReason("REQUEST_ID_REUSED", () => put(kind, { body: watchedBody() }));

        expect(isReturned).to.equal(true);
        expect(readBytes).to.equal(4 * CHUNK_SIZE_BYTES);
      });
    }

    it("gives the body back when no node answers", async () => {
      await Promise.all(servers.map((server) => server.stop()));

      await expectReason("PEER_UNREACHABLE", () => put("storage", { body: watchedBody() }));

      expect(isReturned).to.equal(true);
    });
  });
});
