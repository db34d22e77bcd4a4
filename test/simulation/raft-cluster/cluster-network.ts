/**
 * The network of the simulated Raft cluster: every message is on its own, and may be lost, repeated, held back and overtaken;
 * any message that was ever delivered may come again, however old.
 */
import type { Prng } from "../../../src/std/prng.ts";
import type { Message } from "../../../src/raft/types.ts";
import type { ClusterFault, ClusterPlan } from "./cluster-plan.ts";

/** A message on its way. */
interface Flight {
  readonly at: number;
  readonly sequence: number;
  readonly message: Message;
  readonly isReplay: boolean;
}

/** Messages remembered for replays. */
const ARCHIVE_COUNT_MAX = 400;
/** Units that a replayed or repeated message may come late. */
const LATE_UNITS_MAX = 120;

/** The network. */
export class ClusterNetwork {
  readonly #plan: ClusterPlan;
  readonly #prng: Prng;
  readonly #count: (fault: ClusterFault) => void;
  readonly #cut = new Set<string>();
  readonly #cloggedUntil = new Map<string, number>();
  readonly #lastDue = new Map<string, number>();
  readonly #archive: Message[] = [];
  #flights: Flight[] = [];
  #sequence = 0;
  #isHealed = false;

  constructor(plan: ClusterPlan, prng: Prng, count: (fault: ClusterFault) => void) {
    this.#plan = plan;
    this.#prng = prng;
    this.#count = count;
  }

  /** Takes a message at `now`; false when it is lost. */
  send(message: Message, now: number): boolean {
    const link = `${message.from}>${message.to}`;
    if (this.#cut.has(link)) return false;
    const { loss, repeat } = this.#plan;
    if (!this.#isHealed && loss > 0 && this.#prng.float() < loss) {
      this.#count("N1 loss");
      return false;
    }
    this.#fly(message, now, link, false);
    if (!this.#isHealed && repeat > 0 && this.#prng.float() < repeat) {
      this.#count("N2 repeat");
      this.#fly(message, now + this.#prng.below(LATE_UNITS_MAX), link, true);
    }
    return true;
  }

  /** Takes what is due at `now` off the network, in the order of arrival; some of it was cut off on its way. */
  arrivals(
    now: number,
  ): { readonly message: Message; readonly isReplay: boolean; readonly isCut: boolean }[] {
    if (this.#flights.length === 0) return [];
    const due = this.#flights.filter(({ at }) => at <= now);
    if (due.length === 0) return [];
    this.#flights = this.#flights.filter(({ at }) => at > now);
    due.sort((a, b) => a.at - b.at || a.sequence - b.sequence);
    return due.map(({ message, isReplay }) => {
      const isCut = this.#cut.has(`${message.from}>${message.to}`);
      if (!isCut) this.#remember(message);
      return { message, isReplay, isCut };
    });
  }

  /** Lets one message of long ago come again, of those that `isWanted` asks for; false when there is none. */
  replay(now: number, isWanted: (message: Message) => boolean = () => true): boolean {
    const wanted = this.#archive.filter(isWanted);
    const message = wanted[this.#prng.below(Math.max(1, wanted.length))];
    if (message === undefined) return false;
    this.#fly(message, now, `${message.from}>${message.to}`, true);
    return true;
  }

  /** Cuts one direction between two members. */
  cut(from: number, to: number): void {
    this.#cut.add(`${from}>${to}`);
  }

  /** Holds one direction back until `until`. */
  clog(from: number, to: number, until: number): void {
    this.#cloggedUntil.set(`${from}>${to}`, until);
  }

  /** Ends all cuts. */
  uncut(): void {
    this.#cut.clear();
  }

  /** Ends every fault for good. */
  heal(): void {
    this.#isHealed = true;
    this.uncut();
    this.#cloggedUntil.clear();
  }

  #fly(message: Message, from: number, link: string, isReplay: boolean): void {
    const delay = 0.2 - Math.log(1 - this.#prng.float()) * (this.#isHealed ? 0.5 : this.#plan.delayMeanUnits);
    const lastDue = this.#lastDue.get(link) ?? 0;
    let at = Math.max(from + delay, this.#cloggedUntil.get(link) ?? 0);
    if (at < lastDue && !isReplay) {
      // Overtakes what left earlier, or where that is switched off waits behind it, as on one stream.
      if (this.#plan.faults.has("N3 reorder") && !this.#isHealed) this.#count("N3 reorder");
      else at = lastDue;
    }
    if (!isReplay) this.#lastDue.set(link, Math.max(at, lastDue));
    this.#flights.push({ at, sequence: (this.#sequence += 1), message, isReplay });
  }

  #remember(message: Message): void {
    if (this.#archive.length < ARCHIVE_COUNT_MAX) this.#archive.push(message);
    else this.#archive[this.#prng.below(ARCHIVE_COUNT_MAX)] = message;
  }
}
