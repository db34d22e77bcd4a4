/**
 * Goal: a window never says "unchanged" of what was changed, and does say it of what was not, as long as it remembers.
 * Method: examples at each border, and random changes and questions against the full history.
 */
import { expect } from "chai";
import fc from "fast-check";
import { ChangeWindow, type WindowChange } from "../../../src/cache/change-window.ts";

const change = (index: number, entryId: number, movesPaths = false): WindowChange => ({
  index,
  entryId,
  movesPaths,
});

describe("ChangeWindow", () => {
  const shown = { entryId: 7, ancestorIds: [1, 5] };

  it("says so of an entry that nothing touched, from where it began up to where it is", () => {
    const window = new ChangeWindow(100);
    window.advance([change(105, 8)], 110);

    expect(window.isUnchanged(shown, 100, 110)).to.equal(true);
    expect(window.isUnchanged(shown, 99, 110)).to.equal(false);
    expect(window.isUnchanged(shown, 100, 111)).to.equal(false);
  });

  it("refuses what was read before a change of the entry, and takes what was read at it", () => {
    const window = new ChangeWindow(100);
    window.advance([change(105, 7)], 110);

    expect(window.isUnchanged(shown, 104, 110)).to.equal(false);
    expect(window.isUnchanged(shown, 105, 110)).to.equal(true);
  });

  it("refuses what was read before a change of a folder above", () => {
    const window = new ChangeWindow(100);
    window.advance([change(105, 5, true)], 110);

    expect(window.isUnchanged(shown, 104, 110)).to.equal(false);
    expect(window.isUnchanged(shown, 105, 110)).to.equal(true);
    expect(window.isUnchanged({ entryId: 7, ancestorIds: [1, 6] }, 104, 110)).to.equal(true);
  });

  it("refuses after any folder moved when the folders above are not known", () => {
    const window = new ChangeWindow(100);
    const unknown = { entryId: 7, ancestorIds: undefined };
    window.advance([change(103, 9), change(105, 6, true)], 110);

    expect(window.isUnchanged(unknown, 104, 110)).to.equal(false);
    expect(window.isUnchanged(unknown, 105, 110)).to.equal(true);
  });

  it("remembers as many entries as its bound says, and judges nothing older than what it forgot", () => {
    const window = new ChangeWindow(100, 3);
    window.advance([change(101, 11), change(102, 12), change(103, 13)], 103);
    expect(window.isUnchanged(shown, 100, 103)).to.equal(true);

    window.advance([change(104, 14)], 104);

    expect(window.isUnchanged(shown, 100, 104)).to.equal(false);
    expect(window.isUnchanged(shown, 101, 104)).to.equal(true);
  });

  it("knows nothing after a restart, and what came since", () => {
    const window = new ChangeWindow(100);
    window.restart(500);

    expect(window.isUnchanged(shown, 499, 500)).to.equal(false);
    expect(window.isUnchanged(shown, 500, 500)).to.equal(true);
  });

  it("agrees with the whole history, whatever happens", () => {
    const id = fc.integer({ min: 1, max: 6 });
    const step = fc.record({ ids: fc.array(id, { maxLength: 3 }), moves: fc.boolean(), idle: fc.boolean() });
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 8 }),
        fc.array(step, { minLength: 1, maxLength: 40 }),
        fc.array(id, { minLength: 0, maxLength: 2 }),
        fc.boolean(),
        (countMax, steps, above, known) => {
          const window = new ChangeWindow(0, countMax);
          const history: WindowChange[] = [];
          let answeredCount = 0;
          for (const [at, { ids, moves, idle }] of steps.entries()) {
            const index = at + 1;
            const changes = idle ? [] : ids.map((entryId) => change(index, entryId, moves));
            history.push(...changes);
            window.advance(changes, index);
            for (let version = 0; version <= index; version += 1) {
              const ancestorIds = known ? above : undefined;
              if (!window.isUnchanged({ entryId: 1, ancestorIds }, version, index)) continue;
              answeredCount += 1;
              const since = history.filter((each) => each.index > version && each.index <= index);
              if (since.some((each) => each.entryId === 1 || above.includes(each.entryId)) && known)
                return false;
              if (!known && since.some((each) => each.entryId === 1 || each.movesPaths)) return false;
            }
          }
          // What was read just now is always good.
          return answeredCount >= steps.length;
        },
      ),
    );
  });
});
