/**
 * What keeps a member from taking its part, in sentences for whoever runs it: damage that is being repaired, and a disk that
 * takes nothing.
 */
import type { BasicStatus } from "../raft/raft-node.ts";

/** What is looked at. */
export interface MemberCondition {
  readonly driver: {
    readonly diskTrouble: "full" | "stalled" | undefined;
    readonly node: { basicStatus(): BasicStatus };
    readonly writer: { stalledMs(): number };
  };
  readonly store: { readonly state: { readonly appliedIndex: number } };
  /** See Storage. */
  readonly rebuildIndex: number | undefined;
}

/** Whether the state was damaged and lacks what was in it before. */
export function isRebuilding({ rebuildIndex, driver, store }: MemberCondition): boolean {
  if (rebuildIndex === undefined) return false;
  return driver.node.basicStatus().isMending || store.state.appliedIndex < rebuildIndex;
}

/** All problems, the gravest first. */
export function problemsOf(member: MemberCondition): readonly string[] {
  const problems: string[] = [];
  const { driver } = member;
  if (isRebuilding(member)) {
    problems.push("The node's state was damaged and is being made anew from the log and the other members.");
  } else if (driver.node.basicStatus().isMending) {
    problems.push("The node's Raft log was damaged and is being repaired from the other members.");
  }
  if (driver.diskTrouble === "full") {
    problems.push("The disk is full: the node cannot write its log. Make room; it goes on by itself.");
  } else if (driver.diskTrouble === "stalled") {
    const seconds = Math.floor(driver.writer.stalledMs() / 1000);
    problems.push(`The disk has not answered a write of the log for ${seconds} s.`);
  }
  return problems;
}
