// Goal: a node is not ready before it has everything that was acknowledged when it asked. Method: reads that the test ends.
import { expect } from "chai";
import { DriveError } from "../../../src/drive/errors.ts";
import { CATCH_UP_ATTEMPT_MS, CATCH_UP_RETRY_MS, CatchUp } from "../../../src/node/catch-up.ts";
import { deferred, type Deferred } from "../../../src/std/deferred.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";

describe("CatchUp", () => {
  let clock: FakeClock;
  let reads: Deferred<void>[];
  let hasLeader: boolean;
  let catchUp: CatchUp;

  beforeEach(() => {
    clock = new FakeClock();
    reads = [];
    hasLeader = true;
    catchUp = new CatchUp({
      clock,
      linearize: ({ timeoutMs, signal }) => {
        expect(timeoutMs).to.equal(CATCH_UP_ATTEMPT_MS);
        const read = deferred<void>();
        signal.addEventListener("abort", () => read.reject(new DriveError("CANCELED", "stopped")));
        reads.push(read);
        return read.promise;
      },
      hasLeader: () => hasLeader,
      appliedIndex: () => 42,
    });
  });

  it("says that the node is behind, and how far it is, until a linearizable read ends", async () => {
    catchUp.look();
    catchUp.look();
    expect(reads).to.have.length(1);
    expect(catchUp.problem()).to.match(/has applied entry 42/);

    reads[0]?.resolve();
    await settle();
    catchUp.look();

    expect(catchUp.problem()).to.equal(undefined);
    expect(reads).to.have.length(1);
  });

  it("asks again after a read that nobody confirmed in time, and not at once", async () => {
    catchUp.look();
    reads[0]?.reject(new DriveError("NO_LEADER", "nobody"));
    await settle();
    catchUp.look();
    expect(reads).to.have.length(1);

    await clock.advance(CATCH_UP_RETRY_MS);
    catchUp.look();

    expect(reads).to.have.length(2);
    expect(catchUp.problem()).to.be.a("string");
  });

  it("asks nobody while there is no leader, and anew after such a time", async () => {
    hasLeader = false;
    catchUp.look();
    expect(reads).to.have.length(0);
    hasLeader = true;
    catchUp.look();
    reads[0]?.resolve();
    await settle();
    expect(catchUp.problem()).to.equal(undefined);

    hasLeader = false;
    catchUp.look();

    expect(catchUp.problem()).to.be.a("string");
    hasLeader = true;
    catchUp.look();
    expect(reads).to.have.length(2);
  });

  it("ends with a read under way", async () => {
    catchUp.look();
    await catchUp.stop();
    catchUp.look();
    expect(reads).to.have.length(1);
  });
});
