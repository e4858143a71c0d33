const TOPIC = "topic:";
const MAX_SEEN = 200;

/**
 * The broadcasts that have arrived. A retained broadcast arrives again with the same
 * `broadcast_id`: on each connect (without an id), and once as a stored message (with an id). Two
 * stored messages are not duplicates.
 */
export class SeenBroadcasts {
  /** Broadcast id to whether it first arrived as a retained broadcast. */
  #seen = /** @type {Map<string, boolean>} */ (new Map());

  /**
   * @param {unknown} broadcastId
   * @param {string | null} id
   */
  isDuplicate(broadcastId, id) {
    if (typeof broadcastId !== "string" || id?.startsWith(TOPIC)) return false;
    const isRetained = id === null;
    const wasRetained = this.#seen.get(broadcastId);
    if (wasRetained !== undefined) return isRetained || wasRetained;
    this.#seen.set(broadcastId, isRetained);
    if (this.#seen.size > MAX_SEEN) {
      const [oldest] = this.#seen.keys();
      this.#seen.delete(oldest);
    }
    return false;
  }
}
