/** Goal: watchers see every transfer to its end, at most ten reports a second, in bounded memory. Method: a board under a test clock. */
import { expect } from "chai";
import type { Progress } from "../../../src/drive/drive-api.ts";
import { PROGRESS_INTERVAL_MS, ProgressBoard } from "../../../src/transfer/progress.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";
import { expectReason } from "../../support/expect-reason.ts";

async function collect(watch: AsyncIterable<Progress>): Promise<Progress[]> {
  const seen: Progress[] = [];
  for await (const progress of watch) seen.push(progress);
  return seen;
}

describe("ProgressBoard", () => {
  it("reports now, then changes at most ten times a second, then the end", async () => {
    const clock = new FakeClock();
    const board = new ProgressBoard({ clock });
    const transfer = board.open("7", "upload", 1000);

    const watching = collect(board.watch("7"));
    await settle();
    for (let i = 0; i < 100; i += 1) {
      transfer.addTransferred(10);
      transfer.addCopied(10, 1);
      await clock.advance(10);
    }
    transfer.enter("done");
    await clock.advance(PROGRESS_INTERVAL_MS);
    const seen = await watching;

    expect(seen.length).to.be.within(10, 12);
    expect(seen[0]?.transferredBytes).to.equal(0);
    expect(seen.at(-1)?.phase).to.equal("done");
    expect(seen.at(-1)?.transferredBytes).to.equal(1000);
    for (let i = 1; i < seen.length; i += 1) {
      expect(seen[i]?.transferredBytes).to.be.at.least(seen[i - 1]?.transferredBytes ?? 0);
    }
  });

  it("counts a chunk that was sent twice at most up to the size", () => {
    const transfer = new ProgressBoard({ clock: new FakeClock() }).open("7", "upload", 100);

    transfer.addTransferred(100);
    transfer.addTransferred(100);

    expect(transfer.snapshot().transferredBytes).to.equal(100);
  });

  it("tells a late watcher how the transfer ended, and does not change the end", async () => {
    const board = new ProgressBoard({ clock: new FakeClock() });
    const transfer = board.open("7", "upload", undefined);
    transfer.fail("QUORUM_NOT_REACHED");
    transfer.enter("done");

    const seen = await collect(board.watch("7"));

    expect(seen.map((one) => [one.phase, one.errorReason])).to.deep.equal([["failed", "QUORUM_NOT_REACHED"]]);
  });

  it("forgets the oldest finished transfer when it remembers too many", () => {
    const board = new ProgressBoard({ clock: new FakeClock(), countMax: 2 });
    board.open("1", "upload", 1);
    board.open("2", "upload", 1).enter("done");

    board.open("3", "upload", 1);

    expect(["1", "2", "3"].map((id) => board.find(id) !== undefined)).to.deep.equal([true, false, true]);
  });

  it("serves as many watchers as it may and refuses the next", async () => {
    const board = new ProgressBoard({ clock: new FakeClock(), watcherCountMax: 1 });
    board.open("1", "upload", 1);
    const first = board.watch("1");
    await first.next();

    await expectReason("OVERLOADED", () => board.watch("1").next());
    await first.return();
    expect((await board.watch("1").next()).done).to.equal(false);
  });

  it("ends with a watcher who leaves, and says when a transfer is unknown", async () => {
    const clock = new FakeClock();
    const board = new ProgressBoard({ clock });
    board.open("1", "upload", 1);
    const caller = new AbortController();

    const outcome = expectReason("CANCELED", () => collect(board.watch("1", caller.signal)));
    await settle();
    caller.abort();
    await outcome;

    await expectReason("UPLOAD_NOT_FOUND", () => board.watch("9").next());
    expect(clock.timerCount).to.equal(0);
  });
});
