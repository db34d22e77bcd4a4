/** The drive and the membership at voters, as a storage-only node hands requests on to them: over gRPC, with fail-over. */
import type { FoundingMember } from "../cluster/bootstrap-identity.ts";
import { RemoteClusterAdmin } from "../rpc/remote-cluster-admin.ts";
import { RemoteDriveApi } from "../rpc/remote-drive-api.ts";
import type { Clock } from "../std/clock.ts";
import type { Prng } from "../std/prng.ts";
import type { VoterClients } from "./storage-node.ts";

/** How long a request is handed from voter to voter: longer than an election, shorter than clients wait. */
const HANDED_ON_TIMEOUT_MS = 10_000;

/** Clients of voters that are at these addresses until setAddresses() says otherwise. */
export function makeVoterClients(
  contacts: readonly FoundingMember[],
  ports: { readonly clock: Clock; readonly prng: Prng },
): VoterClients {
  const addresses = contacts.map(({ address }) => address);
  const options = { ...ports, addresses, timeoutMs: HANDED_ON_TIMEOUT_MS };
  const drive = new RemoteDriveApi(options);
  const admin = new RemoteClusterAdmin(options);
  return {
    drive,
    admin,
    setAddresses: (current) => {
      drive.setAddresses(current);
      admin.setAddresses(current);
    },
    close: () => {
      drive.close();
      admin.close();
    },
  };
}
