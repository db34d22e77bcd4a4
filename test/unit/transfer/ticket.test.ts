// Goal: a ticket allows exactly what it says, to the member it names, until it is over. Method: each field changed, each bound.
import { expect } from "chai";
import type { Entry } from "../../../src/drive/entry.ts";
import { TICKET_LENGTH_MAX, TICKET_LIFETIME_MS, TICKET_SLACK_MS } from "../../../src/drive/limits.ts";
import { openTicket, signTicket, ticketFor, type TicketClaims } from "../../../src/transfer/ticket.ts";
import { expectReason } from "../../support/expect-reason.ts";

const KEY = { keyId: 7, secret: new Uint8Array(32).fill(1), startTimeMs: 0 };
const OTHER_KEY = { keyId: 8, secret: new Uint8Array(32).fill(2), startTimeMs: 0 };
const NOW_MS = 1_000_000;
const KNOWN = { keys: [KEY], memberId: 4, nowMs: NOW_MS };

const ENTRY: Entry = {
  ...{
    entryId: 12,
    parentId: 1,
    name: "报告.pdf",
    kind: "file",
    version: 99,
    sizeBytes: 5000,
    contentId: 31,
  },
  ...{ treeHash: new Uint8Array(32).fill(3), sha256: new Uint8Array(32).fill(3) },
  ...{ mediaType: "application/pdf", mode: 0o644, modifyTimeMs: 1, createTimeMs: 2 },
};

const CLAIMS: TicketClaims = {
  ...{ entry: ENTRY, offset: 0, length: 5000, memberId: 4, expireTimeMs: NOW_MS + 1000 },
};

const refuse = (ticket: string, known = KNOWN): Promise<Error> =>
  expectReason("TICKET_INVALID", () => openTicket(ticket, known));

describe("A ticket", () => {
  it("tells the member it is for what it may serve", () => {
    const claims = openTicket(ticketFor(ENTRY, 4, NOW_MS, KEY), KNOWN);
    expect(claims.entry).to.deep.equal(ENTRY);
    expect(claims).to.deep.include({ offset: 0, length: 5000, memberId: 4 });
    expect(claims.expireTimeMs).to.equal(NOW_MS + TICKET_LIFETIME_MS);
  });

  it("is good until its end and the slack of clocks, and not a millisecond longer", async () => {
    const ticket = signTicket(CLAIMS, KEY);
    const endMs = CLAIMS.expireTimeMs + TICKET_SLACK_MS;
    expect(openTicket(ticket, { ...KNOWN, nowMs: endMs - 1 }).entry.entryId).to.equal(12);
    await refuse(ticket, { ...KNOWN, nowMs: endMs });
  });

  it("allows nothing to another member", async () => {
    await refuse(signTicket(CLAIMS, KEY), { ...KNOWN, memberId: 5 });
  });

  it("is good under each key that is known, and no longer when its key was replaced twice", async () => {
    const ticket = signTicket(CLAIMS, KEY);
    expect(openTicket(ticket, { ...KNOWN, keys: [OTHER_KEY, KEY] }).length).to.equal(5000);
    await refuse(ticket, { ...KNOWN, keys: [OTHER_KEY] });
    await refuse(ticket, { ...KNOWN, keys: [{ ...OTHER_KEY, keyId: 7 }] });
  });

  const changes: readonly { readonly field: string; readonly claims: TicketClaims }[] = [
    { field: "content id", claims: { ...CLAIMS, entry: { ...ENTRY, contentId: 32 } } },
    { field: "size", claims: { ...CLAIMS, entry: { ...ENTRY, sizeBytes: 6000 } } },
    { field: "name", claims: { ...CLAIMS, entry: { ...ENTRY, name: "other.html" } } },
    { field: "media type", claims: { ...CLAIMS, entry: { ...ENTRY, mediaType: "text/html" } } },
    { field: "ETag", claims: { ...CLAIMS, entry: { ...ENTRY, version: 100 } } },
    { field: "entry", claims: { ...CLAIMS, entry: { ...ENTRY, entryId: 13 } } },
    { field: "begin of the range", claims: { ...CLAIMS, offset: 1 } },
    { field: "length of the range", claims: { ...CLAIMS, length: 5001 } },
    { field: "member", claims: { ...CLAIMS, memberId: 5 } },
    { field: "expiry", claims: { ...CLAIMS, expireTimeMs: NOW_MS + 999_999 } },
  ];
  for (const { field, claims } of changes) {
    it(`is refused with another ${field} under the same signature`, async () => {
      const [tag, keyId, , mac] = signTicket(CLAIMS, KEY).split(".");
      const [, , payload] = signTicket(claims, KEY).split(".");
      const forged = [tag, keyId, payload, mac].join(".");
      expect(forged).not.to.equal(signTicket(CLAIMS, KEY));
      await refuse(forged, { ...KNOWN, memberId: claims.memberId });
    });
  }

  it("is refused with any character changed, left out or added", async () => {
    const ticket = signTicket(CLAIMS, KEY);
    for (let at = 0; at < ticket.length; at += 1) {
      const other = ticket[at] === "A" ? "B" : "A";
      await refuse(`${ticket.slice(0, at)}${other}${ticket.slice(at + 1)}`);
    }
    await refuse(ticket.slice(0, -1));
    await refuse(`${ticket}A`);
    await refuse(`${ticket}.`);
    await refuse("");
  });

  it("fits into its limit with the longest name and media type", async () => {
    const long: Entry = { ...ENTRY, name: "名".repeat(85), mediaType: `text/${"x".repeat(122)}` };
    const ticket = ticketFor(long, Number.MAX_SAFE_INTEGER, NOW_MS, KEY);
    expect(ticket.length).to.be.below(TICKET_LENGTH_MAX);
    expect(openTicket(ticket, { ...KNOWN, memberId: Number.MAX_SAFE_INTEGER }).entry.name).to.equal(
      long.name,
    );
    await refuse(ticket.padEnd(TICKET_LENGTH_MAX + 1, "A"));
  });
});
