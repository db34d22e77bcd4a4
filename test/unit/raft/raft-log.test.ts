/** The log: unstable tail over storage, truncation, commit and apply bounds. The storage holds 1/1 to 1/3 unless said. */
import { expect } from "chai";
import { ENTRY_OVERHEAD_BYTES, limitSize } from "../../../src/raft/log-entries.ts";
import { RaftLog } from "../../../src/raft/raft-log.ts";
import type { LogEntry } from "../../../src/raft/types.ts";
import { UnstableLog } from "../../../src/raft/unstable-log.ts";
import { confState, emptySnapshot, MemoryLogStorage } from "../../support/raft/memory-log-storage.ts";
import { entriesOf } from "../../support/raft/test-node.ts";

function logOf(
  terms: readonly number[],
  applyingSizeBytesMax = 1_000_000,
): { log: RaftLog; storage: MemoryLogStorage } {
  const storage = new MemoryLogStorage(emptySnapshot(confState([1])));
  storage.append(entriesOf(terms));
  return { log: new RaftLog({ storage, applyingSizeBytesMax }), storage };
}

function positions(entries: readonly LogEntry[] | undefined): string {
  return (entries ?? []).map((entry) => `${entry.term}/${entry.index}`).join(" ");
}

describe("UnstableLog", () => {
  it("hands entries out once, and drops them when they are durable", () => {
    const log = new UnstableLog(5);
    log.truncateAndAppend(entriesOf([1, 1, 1], 5));
    expect(positions(log.nextEntries())).to.equal("1/5 1/6 1/7");
    log.acceptInProgress();
    expect(log.hasNextEntries()).to.equal(false);

    log.stableTo(6, 1);

    expect([log.offset, log.count, log.findTerm(6), log.findTerm(7)]).to.deep.equal([7, 1, undefined, 1]);
  });

  it("ignores the answer to a write that was overwritten since", () => {
    const log = new UnstableLog(5);
    log.truncateAndAppend(entriesOf([1, 1], 5));
    log.acceptInProgress();
    log.truncateAndAppend(entriesOf([2], 6));

    log.stableTo(6, 1);

    expect([log.offset, log.count]).to.deep.equal([5, 2]);
    expect(positions(log.nextEntries())).to.equal("2/6");
  });

  it("moves back with a truncation below what is durable", () => {
    const log = new UnstableLog(5);
    log.truncateAndAppend(entriesOf([1], 5));
    log.acceptInProgress();

    log.truncateAndAppend(entriesOf([2, 2], 3));

    expect([log.offset, positions(log.nextEntries())]).to.deep.equal([3, "2/3 2/4"]);
  });

  it("refuses a gap", () => {
    expect(() => new UnstableLog(5).truncateAndAppend(entriesOf([1], 7))).to.throw(/gap/);
  });

  it("keeps the right entries through thousands of appends and confirmations", () => {
    const log = new UnstableLog(1);
    for (let index = 1; index <= 5_000; index += 1) {
      log.truncateAndAppend(entriesOf([1], index));
      if (index % 3 === 0) log.stableTo(index - 2, 1);
    }

    expect([log.offset, log.count]).to.deep.equal([4_997, 4]);
    expect(positions(log.slice(4_998, 5_001))).to.equal("1/4998 1/4999 1/5000");
  });
});

describe("RaftLog", () => {
  it("reads across storage and tail as one log", () => {
    const { log } = logOf([1, 1, 1]);
    log.append(entriesOf([2, 2], 4));

    expect(positions(log.findSlice(2, 6, 1_000))).to.equal("1/2 1/3 2/4 2/5");
    expect([log.firstIndex, log.lastIndex, log.lastTerm, log.stableIndex]).to.deep.equal([1, 5, 2, 3]);
  });

  it("cuts a slice to its size, but gives at least one entry", () => {
    const { log } = logOf([1, 1, 1]);
    log.append(entriesOf([2, 2], 4));

    expect(positions(log.findSlice(2, 6, 3 * ENTRY_OVERHEAD_BYTES))).to.equal("1/2 1/3 2/4");
    expect(positions(log.findSlice(2, 6, 3 * ENTRY_OVERHEAD_BYTES - 1))).to.equal("1/2 1/3");
    expect(positions(log.findSlice(3, 6, 1))).to.equal("1/3");
    expect(positions(limitSize(entriesOf([1, 1]), 0))).to.equal("1/1");
  });

  it("takes an append only where the entry before it matches", () => {
    const { log } = logOf([1, 1, 1]);

    expect(log.maybeAppend(3, 2, entriesOf([2], 4), 0)).to.equal(undefined);
    expect(log.maybeAppend(4, 1, entriesOf([2], 5), 0)).to.equal(undefined);
    expect(log.maybeAppend(3, 1, entriesOf([2], 4), 0)).to.equal(4);
  });

  it("is not shortened by a late append that ends before its last entry", () => {
    const { log } = logOf([1, 1, 1]);

    expect(log.maybeAppend(0, 0, entriesOf([1]), 3)).to.equal(1);

    expect([log.lastIndex, log.commitIndex]).to.deep.equal([3, 1]);
  });

  it("stops rather than overwrite a committed entry", () => {
    const { log } = logOf([1, 1, 1]);
    log.commitTo(2);

    expect(() => log.maybeAppend(1, 1, entriesOf([2], 2), 0)).to.throw(/conflicts with committed/);
    expect(() => log.commitTo(4)).to.throw(/data was lost/);
  });

  it("skips whole terms when it looks for where logs may agree", () => {
    const { log } = logOf([1, 2, 2, 5, 5, 5]);

    expect(log.findConflictByTerm(6, 4)).to.deep.equal({ index: 3, term: 2 });
    expect(log.findConflictByTerm(6, 5)).to.deep.equal({ index: 6, term: 5 });
    expect(log.findConflictByTerm(3, 0)).to.deep.equal({ index: 0, term: 0 });
  });

  it("hands out for applying only what is durable, unless the caller stores first", () => {
    const { log } = logOf([1, 1, 1]);
    log.append(entriesOf([1], 4));
    log.commitTo(4);

    expect(positions(log.nextCommittedEntries(false))).to.equal("1/1 1/2 1/3");
    expect(positions(log.nextCommittedEntries(true))).to.equal("1/1 1/2 1/3 1/4");
  });

  it("hands out no more than the bound until some of it is applied", () => {
    const { log } = logOf([1, 1, 1, 1], 2 * ENTRY_OVERHEAD_BYTES);
    log.commitTo(4);
    expect(positions(log.nextCommittedEntries(false))).to.equal("1/1 1/2");
    log.acceptApplying(2, 2 * ENTRY_OVERHEAD_BYTES, false);
    expect(log.hasNextCommittedEntries(false)).to.equal(false);

    log.appliedTo(1, ENTRY_OVERHEAD_BYTES);

    expect(positions(log.nextCommittedEntries(false))).to.equal("1/3");
  });

  it("knows nothing below where it was cut off, except the term just there", () => {
    const { log, storage } = logOf([1, 2, 3]);
    log.commitTo(3);
    log.appliedTo(3, 0);
    storage.compact(2);

    expect([log.firstIndex, log.findTerm(1), log.findTerm(2), log.findTerm(4)]).to.deep.equal([
      3,
      undefined,
      2,
      undefined,
    ]);
    expect(log.findSlice(2, 4, 100)).to.equal(undefined);
  });

  it("is the snapshot and nothing else after a restore", () => {
    const { log } = logOf([1, 1, 1]);
    log.append(entriesOf([1], 4));

    log.restore({ metadata: { index: 9, term: 3, confState: confState([1]) }, data: new Uint8Array(0) });

    expect([log.firstIndex, log.lastIndex, log.lastTerm, log.commitIndex]).to.deep.equal([10, 9, 3, 9]);
    expect(log.hasNextCommittedEntries(true)).to.equal(false);
    log.append(entriesOf([3], 10));
    expect([log.lastIndex, log.findTerm(9), log.findTerm(10)]).to.deep.equal([10, 3, 3]);
  });
});
