/**
 * Checks a part of an LMDB file in a process of its own, so that this work neither holds up the parent nor leaves memory behind.
 *
 * The parent sends TreeCheckOptions and hears a TreePart, or a text that says what is wrong.
 */
import { checkTree, type TreeCheckOptions } from "./lmdb-tree-check.ts";

process.once("message", (options: TreeCheckOptions) => {
  let answer: ReturnType<typeof checkTree> | string;
  try {
    answer = checkTree(options);
  } catch (error) {
    answer = String(error);
  }
  process.send?.(answer, () => process.disconnect());
});
