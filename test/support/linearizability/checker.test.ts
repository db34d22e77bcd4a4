import { expect } from "chai";
import fc from "fast-check";
import { checkHistory, expectLinearizable } from "./checker.ts";
import { countOutcomes, HistoryRecorder, type Operation } from "./history.ts";
import { partition } from "./model.ts";
import {
  fileModel,
  registerModel,
  setModel,
  type FileInput,
  type FileOutput,
  type FileState,
  type RegisterInput,
  type RegisterOutput,
  type SetInput,
  type SetOutput,
} from "./models.ts";
import { isLinearizableByDefinition, linearizableHistories } from "./random-history.ts";

/** Of the large histories, which are too long to be shrunk or shown. Others with SEED=7. */
const SEED = Number(process.env["SEED"] ?? "1");

type Told<Output> = Output | "unknown" | "refused";
type Files = Operation<FileInput, FileOutput>;
type Registers = Operation<RegisterInput, RegisterOutput>;

/** An operation from `calledAt` to `returnedAt`. */
function op<Input, Output>(
  calledAt: number,
  returnedAt: number,
  input: Input,
  told: Told<Output>,
): Operation<Input, Output> {
  const client = `c${calledAt}`;
  if (told === "unknown") return { client, input, calledAt, outcome: { kind: "unknown" } };
  if (told === "refused") return { client, input, calledAt, outcome: { kind: "refused", returnedAt } };
  return { client, input, calledAt, outcome: { kind: "answered", output: told, returnedAt } };
}

const done: FileOutput = { kind: "done" };
const absent: FileOutput = { kind: "absent" };
const exists: FileOutput = { kind: "exists" };
const is = (value: string): FileOutput => ({ kind: "value", value });
const put = (from: number, to: number, value: string, told: Told<FileOutput> = done, path = "/a"): Files =>
  op(from, to, { kind: "replace", path, value }, told);
const create = (from: number, to: number, value: string, told: Told<FileOutput> = done): Files =>
  op(from, to, { kind: "create", path: "/a", value }, told);
const remove = (from: number, to: number, told: Told<FileOutput> = done): Files =>
  op(from, to, { kind: "remove", path: "/a" }, told);
const read = (from: number, to: number, told: FileOutput, path = "/a"): Files =>
  op(from, to, { kind: "read", path }, told);
const move = (from: number, to: number, told: Told<FileOutput> = done): Files =>
  op(from, to, { kind: "move", from: "/a", to: "/b", replace: false }, told);

const verdict = (history: readonly Files[]): string => checkHistory(fileModel, history).kind;

const LINEARIZABLE: Readonly<Record<string, readonly Files[]>> = {
  "that is empty": [],
  "of one client after another": [create(0, 1, "x"), read(2, 3, is("x")), remove(4, 5), read(6, 7, absent)],
  "with a read beside a write that sees the old value": [put(0, 1, "x"), put(2, 9, "y"), read(3, 4, is("x"))],
  "with a read beside a write that sees the new value": [put(0, 1, "x"), put(2, 9, "y"), read(3, 4, is("y"))],
  "with two writes at once, the first to return being the last to happen": [
    put(0, 9, "x"),
    put(1, 5, "y"),
    read(10, 11, is("y")),
  ],
  "with a write of unknown outcome that never happened": [
    put(0, 1, "x"),
    put(2, 3, "y", "unknown"),
    read(100, 101, is("x")),
  ],
  "with a write of unknown outcome that happened long after": [
    put(0, 1, "x"),
    put(2, 3, "y", "unknown"),
    read(100, 101, is("x")),
    read(102, 103, is("y")),
  ],
  "with a removal of unknown outcome that let a create succeed": [
    create(0, 1, "x"),
    remove(2, 3, "unknown"),
    create(10, 11, "y"),
    read(12, 13, is("y")),
  ],
  "with two removals of unknown outcome, both of which happened": [
    create(0, 1, "x"),
    remove(2, 3, "unknown"),
    remove(2, 3, "unknown"),
    read(4, 5, absent),
    create(6, 7, "y"),
    read(8, 9, absent),
  ],
  "with a create that was told that the path is taken": [create(0, 1, "x"), create(2, 3, "y", exists)],
  "with a refused write that nobody sees": [put(0, 1, "x"), put(2, 3, "y", "refused"), read(4, 5, is("x"))],
  "with a return and a call at the same time, which counts as concurrent": [
    put(0, 5, "x"),
    read(5, 6, absent),
  ],
  "of a move, seen at both ends": [
    create(0, 1, "x"),
    move(2, 3),
    read(4, 5, absent),
    read(6, 7, is("x"), "/b"),
  ],
};

const VIOLATED: Readonly<Record<string, readonly Files[]>> = {
  "with a stale read": [put(0, 1, "x"), put(2, 3, "y"), read(4, 5, is("x"))],
  "with a lost write": [put(0, 1, "x"), read(2, 3, absent)],
  "with a removal that was lost": [put(0, 1, "x"), remove(2, 3), read(4, 5, is("x"))],
  "with a create that succeeded where a file is": [create(0, 1, "x"), create(2, 3, "y")],
  "with a write that was applied twice": [
    put(0, 1, "x"),
    put(2, 3, "y"),
    read(4, 5, is("y")),
    read(6, 7, is("x")),
  ],
  "with a write of unknown outcome that was applied twice": [
    put(0, 1, "x", "unknown"),
    read(2, 3, is("x")),
    put(4, 5, "y"),
    read(6, 7, is("y")),
    read(8, 9, is("x")),
  ],
  "with a value that nobody wrote": [put(0, 1, "x"), read(2, 3, is("z"))],
  "with a value that is read before it is written": [read(0, 1, is("x")), put(2, 3, "x")],
  "with a write of unknown outcome that is read before it was called": [
    read(0, 1, is("x")),
    put(2, 3, "x", "unknown"),
  ],
  "with a read that goes back, beside a write of unknown outcome": [
    put(0, 1, "x"),
    put(2, 3, "y", "unknown"),
    read(4, 5, is("y")),
    read(6, 7, is("x")),
  ],
  "with a refused write that took effect later": [
    put(0, 1, "x"),
    put(2, 3, "y", "refused"),
    read(4, 5, is("x")),
    read(6, 7, is("y")),
  ],
  "with a removal that was told that there is no such file, and removed it": [
    put(0, 1, "x"),
    remove(2, 3, absent),
    read(4, 5, absent),
  ],
  "with two removals of one file": [put(0, 1, "x"), remove(2, 9), remove(3, 8)],
  "with half a move": [create(0, 1, "x"), move(2, 3), read(4, 5, is("x")), read(6, 7, is("x"), "/b")],
  "with a move that is seen at one end before the other": [
    create(0, 1, "x"),
    move(2, 20),
    read(4, 5, is("x"), "/b"),
    read(6, 7, is("x")),
  ],
};

// --- Random inputs ----------------------------------------------------------------------------------------------------

const registerInputs = (keyCount: number): fc.Arbitrary<(serial: number) => RegisterInput> =>
  fc
    .record({ kind: fc.nat(3), key: fc.nat(keyCount - 1), past: fc.nat(3) })
    .map(({ kind, key, past }) => (serial) => {
      const name = `k${key}`;
      if (kind <= 1) return { kind: "read", key: name };
      if (kind === 2) return { kind: "write", key: name, value: `v${serial}` };
      return {
        kind: "swap",
        key: name,
        expected: past > serial ? undefined : `v${serial - past}`,
        value: `v${serial}`,
      };
    });

const setInputs: fc.Arbitrary<(serial: number) => SetInput> = fc
  .record({ kind: fc.constantFrom("add", "remove", "list"), member: fc.nat(2) })
  .map(
    ({ kind, member }) =>
      () =>
        kind === "list"
          ? { kind, set: "s" }
          : { kind: kind === "add" ? "add" : "remove", set: "s", member: `m${member}` },
  );

const fileInputs = (pathCount: number): fc.Arbitrary<(serial: number) => FileInput> =>
  fc
    .record({
      kind: fc.constantFrom(
        "create",
        "replace",
        "replace if",
        "remove",
        "read",
        "read",
        "move",
        "copy",
        "list",
      ),
      path: fc.nat(pathCount - 1),
      offset: fc.nat(pathCount - 1),
      replace: fc.boolean(),
    })
    .map(({ kind, path: at, offset, replace }) => (serial) => {
      const path = `/${at}`;
      // Neighbours in pairs, so that there are several parts.
      const to = `/${at - (at % 2) + (offset % 2)}`;
      switch (kind) {
        case "create":
        case "replace":
          return { kind, path, value: `v${serial}` };
        case "replace if":
          return { kind: "replace", path, value: `v${serial}`, ifValue: `v${serial - 1 - offset}` };
        case "remove":
        case "read":
          return { kind, path };
        case "move":
        case "copy":
          return to === path ? { kind: "read", path } : { kind, from: path, to, replace };
        case "list":
          return { kind: "list", paths: [path, to] };
      }
    });

type RegisterState = ReadonlyMap<string, string>;

const NO_REGISTERS: RegisterState = new Map();

const registerAnswer = (
  state: RegisterState,
  input: RegisterInput,
): readonly [RegisterOutput, RegisterState] => {
  const value = state.get(input.key);
  if (input.kind === "read") return [{ kind: "value", value }, state];
  if (input.kind === "swap" && value !== input.expected) return [{ kind: "unequal" }, state];
  return [{ kind: "written" }, new Map(state).set(input.key, input.value)];
};

const setAnswer = (state: readonly string[], input: SetInput): readonly [SetOutput, readonly string[]] => {
  if (input.kind === "list") return [{ kind: "members", members: state }, state];
  const [after = state] = setModel.step(state, input, undefined);
  return [{ kind: after === state ? "unchanged" : "changed" }, after];
};

/** Asks the model which of all answers it allows: there is one for each state. */
const fileAnswer = (state: FileState, input: FileInput): readonly [FileOutput, FileState] => {
  const values: FileOutput[] = [...state.values()].map((value) => ({ kind: "value", value }));
  const listed = "paths" in input ? input.paths : [];
  const list: FileOutput = {
    kind: "values",
    values: new Map([...state].filter(([path]) => listed.includes(path))),
  };
  const others = (["done", "absent", "exists", "mismatch"] as const).map((kind) => ({ kind }));
  for (const output of [...values, list, ...others]) {
    const [after] = fileModel.step(state, input, output);
    if (after !== undefined) return [output, after];
  }
  throw new Error(`no answer to ${fileModel.describeInput(input)}`);
};

describe("The linearizability checker", () => {
  for (const [what, history] of Object.entries(LINEARIZABLE)) {
    it(`accepts a history ${what}`, () => {
      expect(verdict(history)).to.equal("linearizable");
      expect(isLinearizableByDefinition(fileModel, history)).to.equal(true);
    });
  }

  for (const [what, history] of Object.entries(VIOLATED)) {
    it(`rejects a history ${what}`, () => {
      expect(verdict(history)).to.equal("violated");
      expect(isLinearizableByDefinition(fileModel, history)).to.equal(false);
    });
  }

  it("agrees with the definition on small histories of files, right and wrong ones", function () {
    this.timeout(60_000);
    const found = { linearizable: 0, violated: 0, undecided: 0 };
    const histories = linearizableHistories(fileModel.initial, fileAnswer, fileInputs(2), {
      countMax: 6,
      span: 2,
      unknownPercent: 25,
    });
    fc.assert(
      fc.property(histories, fc.nat(), fc.nat(), (history, from, to) => {
        const broken = withAnswerOf(history, from, to);
        for (const each of [history, broken]) {
          const { kind } = checkHistory(fileModel, each);
          found[kind] += 1;
          expect(kind === "linearizable").to.equal(isLinearizableByDefinition(fileModel, each));
        }
      }),
      { numRuns: 5_000 },
    );

    expect(found.undecided).to.equal(0);
    expect(found.linearizable).to.be.greaterThan(100);
    expect(found.violated).to.be.greaterThan(100);
  });

  it("agrees with the definition on small histories of registers and sets", function () {
    this.timeout(60_000);
    const settings = { countMax: 6, span: 2, unknownPercent: 25 };
    const registers = linearizableHistories(NO_REGISTERS, registerAnswer, registerInputs(1), settings);
    const sets = linearizableHistories(setModel.initial, setAnswer, setInputs, settings);
    let violatedCount = 0;
    fc.assert(
      fc.property(registers, sets, fc.nat(), fc.nat(), (register, set, from, to) => {
        const brokenRegister = withAnswerOf(register, from, to);
        const brokenSet = withAnswerOf(set, from, to);
        const registerVerdict = checkHistory(registerModel, brokenRegister).kind;
        const setVerdict = checkHistory(setModel, brokenSet).kind;
        expect(registerVerdict === "linearizable").to.equal(
          isLinearizableByDefinition(registerModel, brokenRegister),
        );
        expect(setVerdict === "linearizable").to.equal(isLinearizableByDefinition(setModel, brokenSet));
        violatedCount += [registerVerdict, setVerdict].filter((kind) => kind === "violated").length;
      }),
      { numRuns: 3_000 },
    );

    expect(violatedCount).to.be.greaterThan(50);
  });

  it(`accepts histories made from an order: some thousand operations, many open at once (seed=${SEED})`, function () {
    this.timeout(60_000);
    const histories = linearizableHistories(fileModel.initial, fileAnswer, fileInputs(6), {
      countMin: 2_000,
      countMax: 3_000,
      span: 6,
      unknownPercent: 2,
    });
    let operationCount = 0;
    for (const history of fc.sample(histories, { seed: SEED, numRuns: 5 })) {
      operationCount += history.length;
      expectLinearizable(fileModel, history);
    }

    expect(operationCount).to.be.greaterThan(10_000);
  });

  it(`finds one stale read among some thousand operations of known and unknown outcome (seed=${SEED})`, function () {
    this.timeout(60_000);
    const histories = linearizableHistories(NO_REGISTERS, registerAnswer, registerInputs(4), {
      countMin: 2_000,
      countMax: 3_000,
      span: 4,
      unknownPercent: 2,
    });
    let brokenCount = 0;
    for (const [at, history] of fc.sample(histories, { seed: SEED, numRuns: 5 }).entries()) {
      expectLinearizable(registerModel, history);
      const broken = withStaleRead(history, at * 7);
      if (broken === undefined) continue;
      brokenCount += 1;
      expect(checkHistory(registerModel, broken).kind).to.equal("violated");
    }

    expect(brokenCount).to.be.greaterThan(0);
  });

  it("takes hundreds of operations of unknown outcome that nobody ever saw", () => {
    const history: Files[] = [];
    for (let i = 0; i < 400; i += 1) {
      history.push(put(i * 10, i * 10 + 1, `lost${i}`, "unknown"));
      history.push(remove(i * 10 + 2, i * 10 + 3, "unknown"));
      history.push(put(i * 10 + 4, i * 10 + 8, `v${i}`));
      history.push(read(i * 10 + 9, i * 10 + 9, is(`v${i}`)));
    }

    expect(verdict(history)).to.equal("linearizable");
    history.push(read(5_000, 5_001, is("v3")));
    expect(verdict(history)).to.equal("violated");
  });

  it("says that it is undecided when the bound is reached, and fails", () => {
    const history = [put(0, 1, "x"), put(2, 3, "y"), read(4, 5, is("y"))];

    expect(checkHistory(fileModel, history, { configurationCountMax: 1 }).kind).to.equal("undecided");
    expect(() => expectLinearizable(fileModel, history, { configurationCountMax: 1 })).to.throw("undecided");
    expect(checkHistory(fileModel, history, { configurationCountMax: 2 }).kind).to.equal("linearizable");
  });

  it("reports a violation even when another part is undecided", () => {
    const history = [put(0, 1, "x"), put(2, 3, "y"), read(4, 5, is("y")), read(6, 7, is("z"), "/other")];

    expect(checkHistory(fileModel, history, { configurationCountMax: 1 }).kind).to.equal("violated");
  });

  it("says where the search got stuck, in which states, and what was around", () => {
    const history = [
      put(0, 1, "x", done, "/calm"),
      put(0, 1, "x"),
      put(2, 3, "y"),
      put(4, 5, "w", "unknown"),
      read(6, 9, is("y")),
      read(10, 11, is("x")),
    ];

    expect(() => expectLinearizable(fileModel, history))
      .to.throw(Error)
      .with.property("message")
      .that.includes("not linearizable: /a")
      .and.includes("gets past: c10: read /a 10..11 -> =x")
      .and.includes("states before it: /a=y")
      .and.includes("replace /a w 4..unknown")
      .and.not.includes("/calm");
  });
});

describe("The parts of a history", () => {
  it("are checked apart, and joined by operations on several", () => {
    const history = [
      put(0, 1, "x", done, "/c"),
      put(0, 1, "x", done, "/b"),
      put(0, 1, "x", done, "/a"),
      move(2, 3),
      put(4, 5, "y", done, "/c"),
    ];

    const groups = partition(fileModel, history);

    expect(groups.map(({ parts }) => [...parts].sort())).to.deep.equal([["/c"], ["/a", "/b"]]);
    expect(groups.map(({ operations }) => operations.length)).to.deep.equal([2, 3]);
  });
});

describe("The history recorder", () => {
  it("notes calls, returns and what never returned", () => {
    let now = 0;
    const recorder = new HistoryRecorder<string, number>(() => (now += 1));
    const first = recorder.call("a", "one");
    const second = recorder.call("b", "two");
    recorder.call("c", "three");
    second.refused();
    first.answered(7);

    expect(recorder.history()).to.deep.equal([
      { client: "a", input: "one", calledAt: 1, outcome: { kind: "answered", output: 7, returnedAt: 5 } },
      { client: "b", input: "two", calledAt: 2, outcome: { kind: "refused", returnedAt: 4 } },
      { client: "c", input: "three", calledAt: 3, outcome: { kind: "unknown" } },
    ]);
    expect(countOutcomes(recorder.history())).to.deep.equal({ answered: 1, refused: 1, unknown: 1 });
    expect(() => first.unknown()).to.throw("two outcomes");
  });
});

/** The history with the answer of one operation given to another one, which may or may not be wrong. */
function withAnswerOf<Input, Output>(
  history: readonly Operation<Input, Output>[],
  from: number,
  to: number,
): readonly Operation<Input, Output>[] {
  const answered = history.filter(({ outcome }) => outcome.kind === "answered");
  const giver = answered[from % Math.max(1, answered.length)]?.outcome;
  const taker = answered[to % Math.max(1, answered.length)];
  if (giver?.kind !== "answered") return history;
  return history.map((each) =>
    each === taker && each.outcome.kind === "answered"
      ? { ...each, outcome: { ...each.outcome, output: giver.output } }
      : each,
  );
}

/** The history with one read, far from both ends, that sees a value which was overwritten before the read was called. */
function withStaleRead(history: readonly Registers[], from: number): readonly Registers[] | undefined {
  const answered = history.filter(({ outcome }) => outcome.kind === "answered");
  const middle = answered.slice(answered.length / 4, (answered.length * 3) / 4);
  const taker = middle.filter(({ input }) => input.kind === "read").at(from % 50);
  if (taker === undefined) return undefined;
  const writes = answered.filter(({ input }) => input.kind === "write" && input.key === taker.input.key);
  const last = writes.findLast((each) => returnOf(each) < taker.calledAt);
  const stale = writes.findLast((each) => last !== undefined && returnOf(each) < last.calledAt);
  if (stale?.input.kind !== "write") return undefined;
  const output: RegisterOutput = { kind: "value", value: stale.input.value };
  return history.map((each) =>
    each === taker ? { ...each, outcome: { kind: "answered", output, returnedAt: returnOf(each) } } : each,
  );
}

function returnOf({ outcome }: Operation<unknown, unknown>): number {
  return outcome.kind === "unknown" ? Number.POSITIVE_INFINITY : outcome.returnedAt;
}
