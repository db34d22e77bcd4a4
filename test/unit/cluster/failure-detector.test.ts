/** Goal: the thresholds hold to the millisecond, and evidence counts. Method: heartbeats whose answers the test decides, under its clock. */
import { expect } from "chai";
import type { NodeHealth } from "../../../src/drive/drive-api.ts";
import { FakeDetector, idleLoad } from "../../support/fake-detector.ts";
import {
  DOWN_AFTER_MS,
  HEARTBEAT_DEADLINE_MS,
  HEARTBEAT_INTERVAL_MS,
  HeartbeatFailureDetector,
  SUSPECT_AFTER_MS,
} from "../../../src/cluster/failure-detector.ts";
import { isUsedElsewhere, type NodeLoad } from "../../../src/cluster/failure-detector-port.ts";
import { DriveError } from "../../../src/drive/errors.ts";
import { FakeClock } from "../../support/fake-clock.ts";

type Behaviour = "answers" | "silent" | "refuses";

function setUp(members: number[] = [1, 2, 3]) {
  const clock = new FakeClock();
  const behaviour = new Map<number, Behaviour>();
  const pings: number[] = [];
  const detector = new HeartbeatFailureDetector({
    clock,
    memberId: 1,
    memberIds: () => members,
    ownLoad: () => idleLoad({ freeBytes: 11 }),
    heartbeats: {
      ping: (memberId): Promise<NodeLoad> => {
        pings.push(memberId);
        const how = behaviour.get(memberId) ?? "answers";
        if (how === "refuses") return Promise.reject(new DriveError("PEER_UNREACHABLE", "Refused."));
        if (how === "silent") return new Promise(() => undefined);
        return Promise.resolve(idleLoad({ freeBytes: 100 + memberId }));
      },
    },
  });
  const healthOf = (memberId: number) => detector.state(memberId).health;
  return { clock, behaviour, pings, detector, healthOf, members };
}

describe("HeartbeatFailureDetector", () => {
  it("asks every peer at every interval, and itself never", async () => {
    const { clock, detector, pings } = setUp();

    detector.start();
    await clock.advance(2 * HEARTBEAT_INTERVAL_MS);
    detector.stop();

    expect(pings).to.deep.equal([2, 3, 2, 3, 2, 3]);
  });

  it("keeps the newest load of each peer and its own", async () => {
    const { clock, detector } = setUp();

    detector.start();
    await clock.advance(1);

    expect(detector.states().map((state) => [state.memberId, state.load?.freeBytes])).to.deep.equal([
      [1, 11],
      [2, 102],
      [3, 103],
    ]);
    detector.stop();
  });

  it("suspects a silent peer after two seconds and takes it for down after six", async () => {
    const { clock, behaviour, detector, healthOf } = setUp();
    behaviour.set(2, "silent");

    detector.start();
    await clock.advance(SUSPECT_AFTER_MS - 1);
    expect(healthOf(2)).to.equal("up");
    await clock.advance(1);
    expect(healthOf(2)).to.equal("suspect");
    await clock.advance(DOWN_AFTER_MS - SUSPECT_AFTER_MS - 1);
    expect(healthOf(2)).to.equal("suspect");
    await clock.advance(1);
    expect(healthOf(2)).to.equal("down");
    expect(healthOf(3)).to.equal("up");
    detector.stop();
  });

  it("counts for how long a peer is away from when it was last heard of, whatever it was taken for since", async () => {
    const { clock, behaviour, detector } = setUp();
    detector.start();
    await clock.advance(3 * HEARTBEAT_INTERVAL_MS);
    expect(detector.state(2).sinceMs, "up").to.equal(3 * HEARTBEAT_INTERVAL_MS);

    behaviour.set(2, "silent");
    await clock.advance(SUSPECT_AFTER_MS);
    expect(detector.state(2)).to.include({ health: "suspect", sinceMs: SUSPECT_AFTER_MS });
    await clock.advance(DOWN_AFTER_MS);
    expect(detector.state(2)).to.include({ health: "down", sinceMs: SUSPECT_AFTER_MS + DOWN_AFTER_MS });

    behaviour.set(2, "answers");
    await clock.advance(HEARTBEAT_DEADLINE_MS + HEARTBEAT_INTERVAL_MS);
    const { health, sinceMs } = detector.state(2);
    expect(health).to.equal("up");
    expect(sinceMs).to.be.at.most(HEARTBEAT_INTERVAL_MS + HEARTBEAT_DEADLINE_MS);
    detector.stop();
  });

  it("takes a peer for up again as soon as it answers", async () => {
    const { clock, behaviour, detector, healthOf } = setUp();
    behaviour.set(2, "silent");
    detector.start();
    await clock.advance(DOWN_AFTER_MS);

    behaviour.set(2, "answers");
    await clock.advance(HEARTBEAT_DEADLINE_MS + HEARTBEAT_INTERVAL_MS);

    expect(healthOf(2)).to.equal("up");
    detector.stop();
  });

  it("suspects a peer at once whose connection is refused, on its own path or on another", async () => {
    const { clock, behaviour, detector, healthOf } = setUp();
    behaviour.set(2, "refuses");

    detector.start();
    await clock.advance(0);
    detector.report(3, "unreachable");

    expect([healthOf(2), healthOf(3)]).to.deep.equal(["suspect", "suspect"]);
    await clock.advance(HEARTBEAT_INTERVAL_MS);
    expect([healthOf(2), healthOf(3)]).to.deep.equal(["suspect", "up"]);
    detector.stop();
  });

  it("believes nothing bad about itself", () => {
    const { detector, healthOf } = setUp();

    detector.report(1, "unreachable");

    expect(healthOf(1)).to.equal("up");
  });

  it("does not hold its own standstill against the peers", async () => {
    const { clock, detector, healthOf } = setUp();
    let frozenMs = 0;
    const frozen = {
      monotonicMs: () => clock.monotonicMs() + frozenMs,
      wallMs: () => clock.wallMs(),
      setTimer: (delayMs: number, callback: () => void) => clock.setTimer(delayMs, callback),
    };
    const paused = new HeartbeatFailureDetector({
      clock: frozen,
      memberId: 1,
      memberIds: () => [1, 2],
      ownLoad: () => idleLoad(),
      heartbeats: { ping: () => Promise.resolve(idleLoad()) },
    });
    paused.start();
    await clock.advance(1000);

    frozenMs = 60_000;
    const changes: string[] = [];
    paused.onChange((state) => changes.push(state.health));
    await clock.advance(HEARTBEAT_INTERVAL_MS);

    expect(changes).to.deep.equal([]);
    expect(paused.state(2).health).to.equal("up");
    expect(healthOf(2)).to.equal("up");
    detector.stop();
    paused.stop();
  });

  it("forgets members that were removed and tells listeners of every change", async () => {
    const { clock, behaviour, detector, members } = setUp([1, 2, 3]);
    const changes: [number, string][] = [];
    detector.onChange((state) => changes.push([state.memberId, state.health]));
    behaviour.set(2, "silent");
    detector.start();
    await clock.advance(SUSPECT_AFTER_MS);
    members.splice(1, 1);
    await clock.advance(DOWN_AFTER_MS);

    expect(changes).to.deep.equal([[2, "suspect"]]);
    expect(detector.states().map((state) => state.memberId)).to.deep.equal([1, 3]);
    detector.stop();
    expect(clock.timerCount).to.equal(0);
  });
});

describe("isUsedElsewhere", () => {
  function detectorWith(inflightBytes: number, health: NodeHealth): FakeDetector {
    const detector = new FakeDetector([1, 2, 3]);
    detector.loads.set(2, idleLoad({ inflightBytes }));
    detector.health.set(2, health);
    return detector;
  }

  it("tells of bytes that users move at another member, and not of the own ones", () => {
    expect(isUsedElsewhere(detectorWith(0, "up"), 1)).to.equal(false);
    expect(isUsedElsewhere(detectorWith(1, "up"), 1)).to.equal(true);
    expect(isUsedElsewhere(detectorWith(1, "up"), 2)).to.equal(false);
  });

  it("does not count what a member said before it went down: it may have died in the middle of an upload", () => {
    expect(isUsedElsewhere(detectorWith(1, "suspect"), 1), "it may be only busy").to.equal(true);
    expect(isUsedElsewhere(detectorWith(1, "down"), 1)).to.equal(false);
  });
});
