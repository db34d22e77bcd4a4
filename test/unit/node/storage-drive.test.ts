/**
 * Goal: a storage-only node serves for tickets alone, only what they say, and nothing once voters are out of reach. Method: three
 * voters' data planes over the real state machine in memory, the node's own parts beside them, time by a fake clock.
 */
import { expect } from "chai";
import type { Download } from "../../../src/drive/drive-api.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import {
  TICKET_KEY_MS,
  TICKET_LIFETIME_MS,
  TICKET_SLACK_MS,
  VOTER_CONTACT_MS_MAX,
} from "../../../src/drive/limits.ts";
import { decodeCommand, encodeResult } from "../../../src/metadata/codec.ts";
import { isTicketKeyDue, ticketKeys } from "../../../src/metadata/ticket-keys.ts";
import { clusterTime, members } from "../../../src/metadata/view.ts";
import { StorageDrive } from "../../../src/node/storage-drive.ts";
import { must } from "../../../src/std/assert.ts";
import { sleep } from "../../../src/std/clock.ts";
import { inlineDigester } from "../../../src/std/digest.ts";
import { MemoryOrderedStore } from "../../../src/std/memory-ordered-store.ts";
import { SeededPrng } from "../../../src/std/prng.ts";
import { DataPlane } from "../../../src/transfer/data-plane.ts";
import { RemoteTree, VIEW_INTERVAL_MS } from "../../../src/transfer/remote-tree.ts";
import { signTicket, ticketFor } from "../../../src/transfer/ticket.ts";
import {
  AnyVoter,
  TreeFeed,
  VOTER_ANSWER_TIMEOUT_MS,
  VOTER_ASK_TIMEOUT_MS,
  type VoterFeed,
} from "../../../src/transfer/voter-feed.ts";
import { expectReason } from "../../support/expect-reason.ts";
import { registrationOf } from "../../support/memory-metadata-port.ts";
import { patternBytes, streamOf, TestDrives, uploadOf } from "../../support/use-drives.ts";

const OWN_ID = 4;
const VOTER_IDS = [1, 2, 3];

describe("A storage-only node", () => {
  let drives: TestDrives;
  let tree: RemoteTree;
  let drive: StorageDrive;
  let feed: AnyVoter;
  /** Voters that do not answer. */
  let away: Set<number>;
  let asked: number[];

  /** A voter as this node reaches it. */
  function feedOf(voterId: number): VoterFeed {
    const { plane, drive: voter } = drives.node(voterId);
    const { port } = plane.metadata;
    const answers = new TreeFeed(
      {
        port,
        consensus: { voterIds: () => VOTER_IDS, term: () => 1 },
        openFile: (memberId, ref, options) => voter.openFor(memberId, ref, options),
        propose: async (data) => encodeResult(await port.propose(decodeCommand(data).body)),
      },
      OWN_ID,
    );
    return new Proxy(answers, {
      get: (target, name) => {
        asked.push(voterId);
        if (away.has(voterId)) return () => Promise.reject(new DriveError("PEER_UNREACHABLE", "away"));
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? (value.bind(target) as unknown) : value;
      },
    });
  }

  beforeEach(async () => {
    drives = new TestDrives(OWN_ID);
    away = new Set();
    asked = [];
    drives.tree.apply({ kind: "register-node", node: registrationOf(OWN_ID, { isStorageOnly: true }) });
    drives.tree.apply({ kind: "rotate-ticket-key", secret: new Uint8Array(32).fill(9) });
    const { clock } = drives;
    feed = new AnyVoter({ clock, voterIds: () => tree.voterIds(), feedOf });
    const store = new MemoryOrderedStore();
    tree = new RemoteTree({ clock, memberId: OWN_ID, feed, store, firstVoterIds: VOTER_IDS });
    const plane = new DataPlane({
      ...{ clock, prng: new SeededPrng(5), digester: inlineDigester, metadata: tree },
      ...{ replicas: drives.replicas, detector: drives.detector },
    });
    drive = new StorageDrive({
      ...{ plane, tree, feed, atVoters: () => drives.drive(1) },
      problems: () => [],
      services: () => [],
      warnings: () => [],
    });
    tree.start();
    await clock.advance(1);
  });

  afterEach(() => tree.stop());

  async function put(path: string, bytes: Uint8Array): Promise<number> {
    const { entry } = await drives.drive(1).putFile(uploadOf(path), streamOf(bytes));
    await drives.node(1).plane.chores.idle();
    return entry.entryId;
  }

  async function readAll(download: Download, offset = 0, length = download.entry.sizeBytes): Promise<Buffer> {
    const parts: Uint8Array[] = [];
    for await (const part of download.read(offset, length)) parts.push(part);
    return Buffer.concat(parts);
  }

  async function ticketOf(entryId: number): Promise<string> {
    return (await feed.openFile({ entryId })).ticket;
  }

  it("knows the members, and nothing of the tree", () => {
    const known = members(tree.reader()).map(({ memberId }) => memberId);
    expect(known).to.deep.equal([1, 2, 3, 4]);
    expect(ticketKeys(tree.reader())).to.have.length(1);
    expect([...tree.reader().range({ from: new Uint8Array([2]), to: new Uint8Array([0x10]) })]).to.deep.equal(
      [],
    );
  });

  it("serves a file that it has, and one that others have, by path and by ticket", async () => {
    for (let at = 0; at < 6; at += 1) {
      const bytes = patternBytes(5000, at);
      const entryId = await put(`/f${at}`, bytes);
      const opened = await drive.openDownload({ path: `/f${at}` });
      expect(opened.path).to.equal(`/f${at}`);
      expect((await readAll(opened)).equals(bytes)).to.equal(true);
      if (!opened.local) continue;
      const redirected = await drive.openDownload({ entryId }, { ticket: await ticketOf(entryId) });
      expect((await readAll(redirected)).equals(bytes)).to.equal(true);
    }
  });

  it("goes on with another copy when its own is damaged, though a redirect led to it", async () => {
    let found:
      { readonly entryId: number; readonly contentId: number; readonly bytes: Uint8Array } | undefined;
    for (let at = 0; found === undefined; at += 1) {
      const bytes = patternBytes(5000, at);
      const entryId = await put(`/f${at}`, bytes);
      const { entry, local } = await drive.openDownload({ entryId });
      if (local) found = { entryId, contentId: entry.contentId, bytes };
    }
    const { entryId, contentId, bytes } = found;
    await drives.replicas.store(OWN_ID).removeExtent({ contentId, extentIndex: 0 });
    const download = await drive.openDownload({ entryId }, { ticket: await ticketOf(entryId) });
    await drives.clock.advance(1);
    expect((await readAll(download)).equals(bytes)).to.equal(true);
  });

  it("serves nothing for a ticket of another file, or beyond the range that a ticket allows", async () => {
    const entryId = await put("/f", patternBytes(5000));
    const otherId = await put("/g", patternBytes(5000, 1));
    const ticket = await ticketOf(entryId);
    await expectReason("TICKET_INVALID", () => drive.openDownload({ entryId: otherId }, { ticket }));
    await expectReason("TICKET_INVALID", () => drive.openDownload({ path: "/f" }, { ticket }));

    const { entry } = await drive.openDownload({ entryId });
    const key = must(ticketKeys(tree.reader())[0], "a key");
    const expireTimeMs = clusterTime(tree.reader()) + 1000;
    const claims = { entry, offset: 1000, length: 500, memberId: OWN_ID, expireTimeMs };
    const part = await drive.openDownload({ entryId }, { ticket: signTicket(claims, key) });
    expect((await readAll(part, 1000, 500)).equals(patternBytes(5000).subarray(1000, 1500))).to.equal(true);
    await expectReason("TICKET_INVALID", () => readAll(part, 999, 500));
    await expectReason("TICKET_INVALID", () => readAll(part, 1000, 501));
  });

  it("takes a ticket until it is over by the time since voters told cluster time, and no longer", async () => {
    const entryId = await put("/f", patternBytes(100));
    const { entry } = await drive.openDownload({ entryId });
    const key = must(ticketKeys(tree.reader())[0], "a key");
    for (let passedMs = 0; passedMs < 2 * TICKET_LIFETIME_MS; passedMs += 10_000) {
      drives.tree.apply({ kind: "advance-clock", elapsedMs: 10_000 });
    }
    await tree.linearize();
    away = new Set(VOTER_IDS);
    // Its own clock goes on while nobody tells it what time it is.
    const startMs = must(tree.clusterTimeMs(), "the time is known");
    const ticket = ticketFor(entry, OWN_ID, startMs - TICKET_LIFETIME_MS - TICKET_SLACK_MS + 5000, key);
    await drives.clock.advance(4999);
    await drive.openDownload({ entryId }, { ticket });
    await drives.clock.advance(1);
    await expectReason("TICKET_INVALID", () => drive.openDownload({ entryId }, { ticket }));
  });

  it("serves nothing any more once no voter has answered for the bound, and again when one does", async () => {
    const entryId = await put("/f", patternBytes(100));
    const ticket = await ticketOf(entryId);
    const { clock } = drives;
    // Just after a question was answered.
    await clock.advance(VIEW_INTERVAL_MS);
    away = new Set(VOTER_IDS);
    const contactAgeMs = (): number => must(tree.clusterTimeMs(), "time") - clusterTime(tree.reader());
    await clock.advance(VOTER_CONTACT_MS_MAX - 1 - contactAgeMs());
    expect(tree.isInContact()).to.equal(true);
    await drive.openDownload({ entryId }, { ticket });
    await clock.advance(1);
    expect(tree.isInContact()).to.equal(false);
    await expectReason("NO_LEADER", () => drive.openDownload({ entryId }, { ticket }));
    const failing = expectReason("NO_LEADER", () => drive.openDownload({ entryId }));
    await clock.advance(VOTER_ASK_TIMEOUT_MS + 1000);
    await failing;

    away.delete(2);
    await clock.advance(VIEW_INTERVAL_MS + 1000);
    expect((await drive.openDownload({ entryId }, { ticket })).entry.entryId).to.equal(entryId);
  });

  it("serves nothing while no voter can confirm that it knows everything, as one that lost its leader cannot", async () => {
    const entryId = await put("/f", patternBytes(100));
    const ticket = await ticketOf(entryId);
    drives.tree.unavailable = true;
    await drives.clock.advance(VOTER_CONTACT_MS_MAX + VIEW_INTERVAL_MS);
    await expectReason("NO_LEADER", () => drive.openDownload({ entryId }, { ticket }));
  });

  it("asks the voter that answered last, and the next one when that is away", async () => {
    await feed.dropped();
    away.add(must(asked.at(-1), "somebody was asked"));
    asked = [];
    await feed.dropped();
    const [first, second] = asked;
    expect(away.has(first ?? 0)).to.equal(true);
    asked = [];
    await feed.dropped();
    expect(asked).to.deep.equal([second]);
  });

  it("passes over an address that somebody else has now", async () => {
    const other = new Proxy({} as VoterFeed, {
      get: () => () => Promise.reject(new DriveError("WRONG_CLUSTER", "member 8 is meant")),
    });
    const { clock } = drives;
    const any = new AnyVoter({
      ...{ clock, voterIds: () => [8, 1] },
      feedOf: (memberId) => (memberId === 8 ? other : feedOf(memberId)),
    });
    expect(await any.dropped()).to.deep.equal([]);
  });

  it("comes to every voter in turn, though more keep silent than it has time for", async () => {
    const { clock } = drives;
    const silent = new Proxy({} as VoterFeed, {
      get: () => async () => {
        await sleep(clock, VOTER_ANSWER_TIMEOUT_MS);
        throw new DriveError("PEER_UNREACHABLE", "silent");
      },
    });
    const any = new AnyVoter({
      ...{ clock, voterIds: () => [5, 6, 7, 8, 1] },
      feedOf: (memberId) => (memberId === 1 ? feedOf(memberId) : silent),
    });
    const failing = expectReason("NO_LEADER", () => any.dropped());
    await clock.advance(3 * VOTER_ANSWER_TIMEOUT_MS);
    await failing;
    const answer = any.dropped();
    await clock.advance(VOTER_ANSWER_TIMEOUT_MS);
    expect(await answer).to.deep.equal([]);
  });

  it("takes tickets of the key before as well, until the next rotation", async () => {
    const entryId = await put("/f", patternBytes(100));
    const rotate = async (value: number): Promise<void> => {
      for (let passedMs = 0; passedMs < TICKET_KEY_MS; passedMs += 10_000) {
        drives.tree.apply({ kind: "advance-clock", elapsedMs: 10_000 });
      }
      expect(isTicketKeyDue(drives.tree.store, clusterTime(drives.tree.store))).to.equal(true);
      drives.tree.apply({ kind: "rotate-ticket-key", secret: new Uint8Array(32).fill(value) });
      drives.tree.apply({ kind: "rotate-ticket-key", secret: new Uint8Array(32).fill(99) });
      await tree.linearize();
    };
    const { entry } = await drive.openDownload({ entryId });
    const [old] = ticketKeys(tree.reader());
    const use = (): Promise<Download> => {
      const ticket = ticketFor(entry, OWN_ID, clusterTime(tree.reader()), must(old, "a key"));
      return drive.openDownload({ entryId }, { ticket });
    };
    await rotate(10);
    await use();
    await rotate(11);
    await expectReason("TICKET_INVALID", use);
  });
});
