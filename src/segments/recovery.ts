/**
 * The decision of recovery, as a pure function: what to do with the bytes at one place of a log after a restart.
 *
 * A record that was promised is never cut off, damage is never taken for absence, and only a tail that nobody was promised
 * goes. The facts are gathered by scan.ts. All combinations are tested; FORMAT.md has the table.
 */

/** What was found at one place. */
export interface RecoveryFacts {
  /** Whether the record there is whole and passes its checksums. */
  readonly checksum: "ok" | "bad";
  /** Whether it continues the record before it and lies where it says; meaningless when the checksum is bad. */
  readonly chain: "ok" | "broken";
  /** Whether the segment is the last one of the table. */
  readonly lastSegment: boolean;
  /**
   * Whether valid records of a later sync round follow. Survivors of the same round do not count: a power cut may keep any
   * subset of what was written since the last sync, so they prove nothing.
   */
  readonly laterRound: boolean;
  /** Whether a durable mark (of a later record, of the table, of the owner) says that this place was durable. */
  readonly promised: boolean;
  /**
   * Whether it lacks bytes, as a write leaves that a crash cut off (SegmentScanner.isTorn()). What lacks none was written as a
   * whole and is other bytes now: that is damage, also where nothing says that it was promised.
   */
  readonly torn: boolean;
}

/** What to do. */
export type RecoveryAction =
  /** The record is good. */
  | "keep"
  /** A torn tail: cut here. */
  | "cut"
  /** Damage: report, and repair or refuse. */
  | "fault";

/** Decides about one place of a log. */
export function decide(facts: RecoveryFacts): RecoveryAction {
  if (facts.checksum === "ok") return facts.chain === "ok" ? "keep" : "fault";
  const { lastSegment, laterRound, promised, torn } = facts;
  return lastSegment && !laterRound && !promised && torn ? "cut" : "fault";
}
