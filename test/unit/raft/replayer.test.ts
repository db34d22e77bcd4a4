/**
 * Goal: the replayer of etcd's scenarios never passes what it has not understood.
 * Method: scripts of our own that are wrong in one place.
 */
import { expect } from "chai";
import { parseScript } from "../../support/raft/datadriven.ts";
import { ConfChangeRunner, runQuorum } from "../../support/raft/pure-vectors.ts";
import { replayInteraction } from "../../support/raft/vectors.ts";

const SINGLE = `
log-level none
----
ok

add-nodes 1 voters=(1) index=2
----
ok

campaign 1
----
ok

stabilize
----
ok

log-level debug
----
ok
`;

function replay(text: string): ReturnType<typeof replayInteraction> {
  return replayInteraction(`${SINGLE}\n${text}\n`, "own.txt");
}

describe("the replayer of scenarios", () => {
  it("names file, line and directive of what it does not know", () => {
    const wrong = {
      "reboot 1": "own.txt, line 22: reboot: unknown directive reboot",
      "stabilize 1 until=quiet": "own.txt, line 22: stabilize: stabilize does not know the argument until",
      "add-nodes 1 colour=red index=2":
        "own.txt, line 22: add-nodes: add-nodes does not know the argument colour",
      "deliver-msgs 1 type=MsgHello": "own.txt, line 22: deliver-msgs: unknown message type MsgHello",
      "log-level loud": "own.txt, line 22: log-level: log levels must be either of",
      "add-nodes 1 read-only=always index=2": "own.txt, line 22: add-nodes: invalid read-only option always",
      "propose 7 data": "own.txt, line 22: propose: ",
    };

    for (const [directive, message] of Object.entries(wrong)) {
      expect(() => replay(`${directive}\n----\nok`), directive).to.throw(message);
    }
    expect(() => replay("stabilize 1")).to.throw('own.txt, line 22: no "----" after stabilize 1');
  });

  it("never guesses an argument, a value or where an output ends", () => {
    for (const directive of [
      "campaign 1 2",
      "propose 1",
      "propose 1 one two",
      "propose 1 one=two",
      "deliver-msgs 1 drop=(1)",
      "add-nodes 1 prevote=yes",
      "add-nodes 1 voters=(3,4 index=2",
      "add-nodes 1 voters=(x) index=2",
      "add-nodes 1 voters=(3) index=x",
      "set-randomized-election-timeout 1",
      "propose-conf-change 1 v1=maybe",
      "propose-conf-change 1\nv",
      "raft-state\n----",
    ]) {
      expect(() => replay(`${directive}\n----\nok`), directive).to.throw("own.txt, ");
    }
    for (const text of [
      "vote cfg=(1) votes=(maybe)",
      "vote cfg=(1) votes=(y) more=(1)",
      "vote cfg=(1,2) votes=(y)",
      "vote cfg=(1) cfgj=(zero,2) votes=(y,y)",
      "committed cfg=(1) idx=(0)",
      "committed cfg=(1) idx=(x)",
    ]) {
      expect(() => parseScript(`${text}\n----`).map((one) => runQuorum(one)), text).to.throw();
    }
    for (const text of ["simple\nv", "simple\nv-1", "simple now=1\nv1", "enter-joint autoleave=maybe\nv1"]) {
      expect(
        () => parseScript(`${text}\n----`).map((one) => new ConfChangeRunner().run(one)),
        text,
      ).to.throw();
    }
  });

  it("reads comments, continued lines, doubled output, lines of blanks and line ends of Windows", () => {
    const states = "1: StateLeader (Voter) Term:1 Lead:1\n2: StateFollower (Non-Voter) Term:0 Lead:0";
    const text = `  # one more\nadd-nodes \\\n  1\n----\nok\n \t\nraft-state\n----\n----\n${states}\n----\n----\nraft-state\n----\n${states}`;

    expect(replay(text)).to.deep.equal({ outcome: "equal", cases: 8 });
    expect(replay(text.replaceAll("\n", "\r\n"))).to.deep.equal({ outcome: "equal", cases: 8 });
  });

  it("says what it refuses on purpose", () => {
    const refused = {
      "add-nodes 1 index=2 read-only=lease-based": "lease reads are refused",
      "add-nodes 1 index=2 disable-conf-change-validation=true": "unchecked membership changes are refused",
    };

    for (const [directive, reason] of Object.entries(refused)) {
      expect(replay(`${directive}\n----\nok`)).to.deep.equal({ outcome: "refused", reason });
    }
  });

  it("notices another state, log, message or refusal than expected", () => {
    const wrong = {
      "raft-state\n----\n1: StateFollower (Voter) Term:1 Lead:1": /line 22: raft-state/u,
      'raft-log 1\n----\n1/3 EntryNormal "other"': /line 22: raft-log/u,
      "status 1\n----\n1: StateReplicate match=4 next=5": /line 22: status/u,
      "stabilize\n----\n1->2 MsgHeartbeat Term:1 Log:0/0": /line 22: stabilize/u,
      'log-level debug\nraft-log 1\n----\n1/3 EntryNormal "other"': /line 22: log-level/u,
      "stabilize\nraft-state\n----\n1: StateFollower (Voter) Term:1 Lead:1": /line 22: stabilize/u,
      "propose 1 data\n----\nraft proposal dropped": /line 22: propose/u,
      "log-level debug\nraft-state\n----\n1: StateFollower (Voter) Term:1 Lead:1": /line 22: log-level/u,
      'stabilize\nraft-log 1\n----\n1/3 EntryNormal "other"': /line 22: stabilize/u,
      "tick-heartbeat 1\n----\nsomething else": /line 22: tick-heartbeat/u,
    };

    for (const [text, difference] of Object.entries(wrong)) {
      const result = replay(text);
      if (result.outcome !== "different") throw new Error(`${text} was ${result.outcome}`);
      expect(result.differences.join("\n")).to.match(difference);
    }
  });

  it("runs the lines below a directive, also after one that was refused", () => {
    const log = ['1/3 EntryNormal ""', '1/4 EntryNormal "one"', '1/5 EntryNormal "three"'].join("\n");
    const script = [
      "add-nodes 1\n----\nok",
      "propose 1 one\npropose 2 two\npropose 1 three\n----\nraft proposal dropped",
      "stabilize 1\n----\nok",
      `raft-log 1\n----\n${log}`,
    ];

    expect(replay(script.join("\n\n"))).to.deep.equal({ outcome: "equal", cases: 9 });
  });
});
