/** How well a file is kept, in words: the same ones on the command line and over HTTP. Pure. */
import type { Durability } from "./drive-api.ts";
import { REPLICA_COUNT } from "./limits.ts";

const UNITS = [
  { name: "d", ms: 86_400_000 },
  { name: "h", ms: 3_600_000 },
  { name: "min", ms: 60_000 },
  { name: "s", ms: 1000 },
] as const;

/** "3/3 verified, oldest check 2 d ago". */
export function describeDurability(durability: Durability): string {
  const { verifiedCount, oldestCheckAgeMs } = durability;
  const copies = `${verifiedCount}/${REPLICA_COUNT} verified`;
  return oldestCheckAgeMs === undefined ? copies : `${copies}, oldest check ${describeAge(oldestCheckAgeMs)}`;
}

function describeAge(ageMs: number): string {
  const unit = UNITS.find(({ ms }) => ageMs >= ms);
  return unit === undefined ? "just now" : `${Math.floor(ageMs / unit.ms)} ${unit.name} ago`;
}
