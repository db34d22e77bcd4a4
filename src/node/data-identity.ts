/** Whose data a folder holds, for those who look at it from outside. */
import { findIdentity } from "../cluster/bootstrap-identity.ts";
import { hasReason } from "../drive/errors.ts";
import { SystemDisk } from "../std/system-disk.ts";

/** What the data of a node say of it. */
export interface DataIdentity {
  readonly nodeId: string;
  /** Of the cluster it belongs to; undefined before it belongs to one. */
  readonly clusterId: string | undefined;
  /** Whether the cluster removed it. */
  readonly isRemoved: boolean;
}

/**
 * Who keeps its data in `directory`, which is not changed; undefined when nobody does yet, or when that is damaged: the node that is
 * started there says so itself.
 */
export async function dataIdentityIn(directory: string): Promise<DataIdentity | undefined> {
  try {
    const found = await findIdentity(new SystemDisk(), directory);
    if (found === undefined) return undefined;
    const { nodeId, cluster, phase } = found;
    return { nodeId, clusterId: cluster?.clusterId, isRemoved: phase === "removed" };
  } catch (error) {
    if (hasReason(error, "DATA_CORRUPT")) return undefined;
    throw error;
  }
}
