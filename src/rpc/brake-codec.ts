/** Why a node collects nothing that the tree does not know, in messages to peers and to clients. */
import type { CollectionBrake } from "../drive/collection-brake.ts";
import { toBigint, toNumber } from "../contract/codec.ts";

/** The fields of either message. */
interface WireBrake {
  readonly extentCount: bigint;
  readonly orphanCount: bigint;
  readonly futureCount: bigint;
}

/** As a message; absent for undefined. */
export function encodeBrake(brake: CollectionBrake | undefined): WireBrake | undefined {
  if (brake === undefined) return undefined;
  return {
    extentCount: toBigint(brake.extentCount),
    orphanCount: toBigint(brake.orphanCount),
    futureCount: toBigint(brake.futureCount),
  };
}

/** From a message. */
export function decodeBrake(brake: WireBrake | undefined): CollectionBrake | undefined {
  if (brake === undefined) return undefined;
  return {
    extentCount: toNumber(brake.extentCount, "extent_count"),
    orphanCount: toNumber(brake.orphanCount, "orphan_count"),
    futureCount: toNumber(brake.futureCount, "future_count"),
  };
}
