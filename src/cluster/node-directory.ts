/**
 * The members of the cluster as the tree knows them: by id, with address, URLs, name and zone.
 *
 * Reads the local store; the list is kept for DIRECTORY_REFRESH_MS because placement asks for it with every small file. A
 * single member is always looked up afresh, so a node that moved is found at once.
 */
import { DriveError } from "../drive/errors.ts";
import type { NodeRegistration } from "../metadata/commands.ts";
import { findMember } from "../metadata/members.ts";
import { openMembershipChange } from "../metadata/membership.ts";
import { members } from "../metadata/view.ts";
import type { Clock } from "../std/clock.ts";
import type { MetadataPort } from "./metadata-port.ts";

/** How old the list of members may be. */
export const DIRECTORY_REFRESH_MS = 250;

/** Members by id. */
export class NodeDirectory {
  readonly #port: MetadataPort;
  readonly #clock: Clock;
  #members: readonly NodeRegistration[] = [];
  #readAtMs = -Infinity;

  constructor(port: MetadataPort, clock: Clock) {
    this.#port = port;
    this.#clock = clock;
  }

  /** Registered members, ascending by id. */
  members(): readonly NodeRegistration[] {
    const now = this.#clock.monotonicMs();
    // An empty list is no answer to keep: the cluster is just being formed.
    if (this.#members.length > 0 && now - this.#readAtMs < DIRECTORY_REFRESH_MS) return this.#members;
    this.#members = members(this.#port.reader());
    this.#readAtMs = now;
    return this.#members;
  }

  /** Has the next reader look anew: the list was found to be out of date. */
  forget(): void {
    this.#readAtMs = -Infinity;
  }

  /** The member of a node id; undefined when none has it. @throws DriveError ARGUMENT_INVALID when several have */
  named(nodeId: string): NodeRegistration | undefined {
    const found = this.members().filter((member) => member.nodeId === nodeId);
    if (found.length <= 1) return found[0];
    const ids = found.map(({ memberId }) => memberId).join(", ");
    throw new DriveError(
      "ARGUMENT_INVALID",
      `Several members are named ${nodeId}: ${ids}. Name the member id.`,
      { field: "node", member_ids: ids },
    );
  }

  /** Ids of registered members, ascending. */
  memberIds(): readonly number[] {
    return this.members().map((member) => member.memberId);
  }

  /** A member, or undefined when it is not registered. */
  find(memberId: number): NodeRegistration | undefined {
    return findMember(this.#port.reader(), memberId);
  }

  /** host:port of the member's gRPC server; undefined when it is neither registered nor about to join. */
  addressOf(memberId: number): string | undefined {
    const known = this.find(memberId)?.address;
    if (known !== undefined) return known;
    const change = openMembershipChange(this.#port.reader());
    return change?.memberId === memberId && change.address !== "" ? change.address : undefined;
  }

  /** The member's node id, or "member-<id>" while it is not registered. */
  nodeIdOf(memberId: number): string {
    return this.find(memberId)?.nodeId ?? `member-${memberId}`;
  }
}
