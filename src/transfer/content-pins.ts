/**
 * Contents that are being read from this node now: collection leaves their copies here alone until the last reader has gone.
 *
 * A file that is deleted or replaced while it is downloaded is still read to its end as far as this node is concerned; copies
 * on other nodes outlive it by the grace that the tree gives before it lists them for dropping.
 */
export class ContentPins {
  readonly #counts = new Map<number, number>();

  /** Pins a content; returns a function that ends it, once. */
  pin(contentId: number): () => void {
    this.#counts.set(contentId, (this.#counts.get(contentId) ?? 0) + 1);
    let ended = false;
    return () => {
      if (ended) return;
      ended = true;
      const left = (this.#counts.get(contentId) ?? 1) - 1;
      if (left === 0) this.#counts.delete(contentId);
      else this.#counts.set(contentId, left);
    };
  }

  /** Whether anything is being read. */
  get isAnyPinned(): boolean {
    return this.#counts.size > 0;
  }

  /** Whether someone reads it. */
  isPinned(contentId: number): boolean {
    return this.#counts.has(contentId);
  }
}
