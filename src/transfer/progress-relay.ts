/** The port through which nodes tell each other of transfers as they go; without it they ask each other. */
import type { Progress } from "../drive/drive-api.ts";

/** A transfer that goes through this node. */
export interface RelayedTransfer {
  readonly id: string;
  readonly kind: "upload" | "download";
  snapshot(): Progress;
}

/** Tells and hears of transfers. Display data: what is lost is not sent again, and nobody waits. */
export interface ProgressRelay {
  /** Takes note that the figures of a transfer at this node changed. */
  changed(transfer: RelayedTransfer): void;
  /** Calls `listener` with figures that other nodes tell of an upload; returns what ends that. */
  listen(id: string, listener: (progress: Progress) => void): () => void;
}
