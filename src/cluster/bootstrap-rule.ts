/**
 * The bootstrap rule, as a pure decision: what a node does next, given who it is and what every address answered.
 *
 * Nodes with empty data form a cluster only when every address of PEERS and self has answered, all are empty and all report
 * the same set. The lowest address then proposes {clusterId, members}; every other accepts that proposal if it names exactly
 * the members that it saw itself; and Raft starts only once all have accepted, durably. So two halves of a network can never
 * each form a cluster of the same nodes: each would lack an answer.
 *
 * A node that is empty while another one has state waits and says why: it was wiped, or is new, and joins only by an
 * operator's decision. One that was wiped in the middle of forming leaves the others waiting with that reason: there is no
 * data yet anywhere, so removing it and starting again loses nothing. Nodes of two clusters in one list are WRONG_CLUSTER.
 */
import { DriveError } from "../drive/errors.ts";
import {
  commonLevel,
  FEATURE_LEVEL_FIRST,
  FEATURE_LEVELS_UNSAID,
  type FeatureLevels,
} from "../drive/feature-levels.ts";
import {
  isFormed,
  type ClusterProposal,
  type FoundingMember,
  type NodeIdentity,
} from "./bootstrap-identity.ts";

/** What a node says about itself to whoever asks. */
export interface BootstrapReport {
  /** Whether it belongs to no cluster and has agreed to none. */
  readonly empty: boolean;
  /** Whether it has started, or is about to start, as a member of its cluster. */
  readonly formed: boolean;
  readonly nodeId: string;
  readonly memberId: number;
  /** The address it calls its own. */
  readonly address: string;
  /** All addresses that it was configured with, its own included, in byte order. */
  readonly addresses: readonly string[];
  /** The cluster that it has accepted or is part of; absent while empty. */
  readonly cluster?: ClusterProposal | undefined;
  /** What it supports; absent of a version before there were levels. */
  readonly featureLevels?: FeatureLevels | undefined;
}

/** What a node knows when it decides. */
export interface BootstrapView {
  readonly identity: NodeIdentity;
  /** Own address, as it stands in `addresses`. */
  readonly address: string;
  /** All addresses, own included, in byte order. */
  readonly addresses: readonly string[];
  /** What this node supports; absent in tests that are not about it. */
  readonly featureLevels?: FeatureLevels | undefined;
  /** What the others answered in this round, by address; those that did not answer are absent. */
  readonly reports: ReadonlyMap<string, BootstrapReport>;
}

/** What a node does next. */
export type BootstrapStep =
  /** Nothing yet; ask again later. `reason` is one sentence for the operator. */
  | { readonly kind: "wait"; readonly reason: string }
  /** Make this identity durable, then ask again (or, when it is formed, start). */
  | { readonly kind: "store"; readonly identity: NodeIdentity }
  /** Start as a member of the cluster. */
  | { readonly kind: "start"; readonly cluster: ClusterProposal }
  /** This can never work. */
  | { readonly kind: "fail"; readonly error: DriveError };

/** Addresses in one form: trimmed, lower case, without a scheme; in byte order, each once. */
export function normalizeAddresses(addresses: readonly string[]): readonly string[] {
  return [...new Set(addresses.map(normalizeAddress))].sort((a, b) =>
    Buffer.compare(Buffer.from(a), Buffer.from(b)),
  );
}

/** One address in that form. */
export function normalizeAddress(address: string): string {
  return address
    .trim()
    .toLowerCase()
    .replace(/^[a-z][a-z0-9+.-]*:\/\//, "")
    .replace(/\/+$/, "");
}

/** What a node says about itself. */
export function reportOf(view: Omit<BootstrapView, "reports">): BootstrapReport {
  const { identity, address, addresses, featureLevels } = view;
  const { phase, nodeId, memberId, cluster } = identity;
  return {
    empty: phase === "empty",
    formed: isFormed(identity),
    nodeId,
    memberId,
    address,
    addresses,
    cluster,
    ...(featureLevels !== undefined && { featureLevels }),
  };
}

/**
 * The next step of a node.
 * @param makeClusterId draws the id of a cluster that is proposed now
 */
export function decideBootstrap(view: BootstrapView, makeClusterId: () => string): BootstrapStep {
  const { identity } = view;
  const { cluster } = identity;
  if (isFormed(identity) && cluster !== undefined) return { kind: "start", cluster };
  const foreign = findForeign(view);
  if (foreign !== undefined) return { kind: "fail", error: foreign };
  if (cluster !== undefined) return decideAccepted(view, cluster);
  return decideEmpty(view, makeClusterId);
}

/** WRONG_CLUSTER when the nodes of the list, this one included, belong to more than one cluster. */
export function findForeign(view: BootstrapView): DriveError | undefined {
  const owners = new Map<string, string>();
  if (view.identity.cluster !== undefined) owners.set(view.identity.cluster.clusterId, view.address);
  for (const [address, report] of view.reports) {
    if (report.cluster !== undefined && !owners.has(report.cluster.clusterId)) {
      owners.set(report.cluster.clusterId, address);
    }
  }
  if (owners.size < 2) return undefined;
  const clusters = [...owners].map(([clusterId, address]) => `${address} to ${clusterId}`).join(", ");
  return new DriveError(
    "WRONG_CLUSTER",
    `The configured addresses belong to several clusters: ${clusters}.`,
    {
      clusters,
    },
  );
}

function decideEmpty(view: BootstrapView, makeClusterId: () => string): BootstrapStep {
  const formed = [...view.reports].find(([, report]) => report.formed);
  if (formed !== undefined) return wait(existsReason(view, formed[0], formed[1]));
  const survey = surveyOf(view);
  if (typeof survey === "string") return wait(survey);
  const lowest = view.addresses[0];
  const taken = [...view.reports].find(([, report]) => report.cluster !== undefined);
  if (lowest === view.address) {
    if (taken !== undefined) return wait(resetReason(view.address, taken[0]));
    return accept(view, { clusterId: makeClusterId(), ...survey });
  }
  const proposal = view.reports.get(lowest ?? "")?.cluster;
  if (proposal === undefined) {
    return wait(
      taken === undefined ? `Waiting for ${lowest} to propose the cluster.` : resetReason(lowest, taken[0]),
    );
  }
  if (!membersEqual(proposal.members, survey.members)) return wait(resetReason(view.address, lowest));
  return accept(view, proposal);
}

function accept(view: BootstrapView, cluster: ClusterProposal): BootstrapStep {
  return { kind: "store", identity: { ...view.identity, phase: "accepted", cluster } };
}

function decideAccepted(view: BootstrapView, cluster: ClusterProposal): BootstrapStep {
  const formed: BootstrapStep = { kind: "store", identity: { ...view.identity, phase: "formed" } };
  // Whoever has formed it saw that all had accepted. That one may be gone again since; the cluster exists all the same.
  for (const report of view.reports.values()) if (report.formed) return formed;
  for (const member of cluster.members) {
    if (member.address === view.address) continue;
    const report = view.reports.get(member.address);
    if (report === undefined)
      return wait(`Waiting for ${member.address} to accept the cluster ${cluster.clusterId}.`);
    if (report.memberId !== member.memberId) return wait(resetReason(member.address, view.address));
    if (report.empty)
      return wait(`Waiting for ${member.address} to accept the cluster ${cluster.clusterId}.`);
  }
  return formed;
}

/** The members, when everybody has answered and agrees; else why not. */
function surveyOf(view: BootstrapView): Pick<ClusterProposal, "members" | "featureLevel"> | string {
  const missing = view.addresses.filter((address) => address !== view.address && !view.reports.has(address));
  if (missing.length > 0) return `Waiting for an answer of ${missing.join(", ")}.`;
  const members = new Map<number, FoundingMember>();
  const ranges: FeatureLevels[] = [];
  for (const address of view.addresses) {
    const report = address === view.address ? reportOf(view) : view.reports.get(address);
    if (report === undefined) return `Waiting for an answer of ${address}.`;
    if (report.address !== address)
      return `The node at ${address} calls itself ${report.address}; use one name for it.`;
    if (report.addresses.join() !== view.addresses.join()) {
      const theirs = report.addresses.join(", ");
      return `The node at ${address} is configured with other addresses (${theirs}) than this one (${view.addresses.join(", ")}).`;
    }
    const twin = members.get(report.memberId);
    if (twin !== undefined) return `${twin.address} and ${address} are the same node; list it once.`;
    members.set(report.memberId, { memberId: report.memberId, address });
    ranges.push(report.featureLevels ?? FEATURE_LEVELS_UNSAID);
  }
  const featureLevel = commonLevel(ranges);
  if (featureLevel === undefined) {
    return "There is no feature level that the versions of all nodes support: start them with one version.";
  }
  const level = featureLevel > FEATURE_LEVEL_FIRST ? { featureLevel } : {};
  return { members: [...members.values()], ...level };
}

function membersEqual(a: readonly FoundingMember[], b: readonly FoundingMember[]): boolean {
  const text = (members: readonly FoundingMember[]): string =>
    members.map((member) => `${member.memberId}@${member.address}`).join();
  return text(a) === text(b);
}

function existsReason(view: BootstrapView, address: string, report: BootstrapReport): string {
  const clusterId = report.cluster?.clusterId ?? "";
  const wasMember = report.cluster?.members.some((member) => member.address === view.address) ?? false;
  const why = wasMember ? "this node's data was removed" : "this node is new";
  return `The node at ${address} belongs to cluster ${clusterId} and ${why}. An empty node cannot join by itself: make a token there (netdisk cluster add, or netdisk cluster replace for a node that was wiped) and start this one with --join.`;
}

function resetReason(resetAddress: string | undefined, knownAt: string | undefined): string {
  return (
    `The node at ${resetAddress} lost its data while the cluster was being formed (the one at ${knownAt} knows another ` +
    `identity of it). Nothing is stored yet: stop all nodes, remove their data directories and start again.`
  );
}

function wait(reason: string): BootstrapStep {
  return { kind: "wait", reason };
}
