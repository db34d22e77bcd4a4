/** A membership for tests that have nothing to do with it: every use of it is a mistake of the test. */
import type { ClusterAdmin } from "../../src/drive/cluster-admin.ts";

/** Throws: the test has no membership. */
export function noAdmin(): ClusterAdmin {
  throw new Error("this test has no membership");
}
