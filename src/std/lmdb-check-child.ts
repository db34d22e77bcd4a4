/**
 * Checks a part of an LMDB file in a process of its own, so that this work neither holds up the parent nor leaves memory behind.
 *
 * The parent sends TreeCheckOptions and hears a CheckAnswer. What the file holds, or that it cannot be read, is damage; what the
 * machine has not enough of is not.
 */
import { errnoOf } from "./disk.ts";
import { checkTree, type TreeCheckOptions, type TreePart } from "./lmdb-tree-check.ts";

/** What became of the check of a part: "failed" says nothing about the file. */
export type CheckAnswer =
  | { readonly kind: "checked"; readonly part: TreePart }
  | { readonly kind: "damaged"; readonly reason: string }
  | { readonly kind: "failed"; readonly reason: string };

function check(options: TreeCheckOptions): CheckAnswer {
  try {
    return { kind: "checked", part: checkTree(options) };
  } catch (error) {
    return { kind: isOfMachine(error) ? "failed" : "damaged", reason: String(error) };
  }
}

/** Too few descriptors or too little memory; codes that begin with ERR_ are the runtime's, of numbers in the file that cannot be. */
function isOfMachine(error: unknown): boolean {
  const code = errnoOf(error);
  if (code !== undefined) return code !== "EIO" && !code.startsWith("ERR_");
  return error instanceof RangeError && error.message.includes("allocation failed");
}

process.once("message", (options: TreeCheckOptions) => {
  process.send?.(check(options), () => process.disconnect());
});
