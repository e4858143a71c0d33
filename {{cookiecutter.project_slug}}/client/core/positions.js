/** @typedef {{ id: string, stream: string, epoch: string, offset: number }} Position */

/** The last delivered message of each stream. */
export class Positions {
  /** @type {Map<string, Position>} */
  #reached = new Map();

  get all() {
    return Object.fromEntries([...this.#reached].map(([stream, { id }]) => [stream, id]));
  }

  /** @param {string} stream */
  get(stream) {
    return this.#reached.get(stream)?.id ?? null;
  }

  /** @param {string} stream */
  forget(stream) {
    this.#reached.delete(stream);
  }

  /**
   * Delivery starts after these ids. Missed messages of a recovered stream follow. Returns the ids
   * of the streams in which messages were lost.
   *
   * @param {Readonly<Record<string, string>> | null} [ids]
   * @param {Readonly<Record<string, boolean>> | null} [recovered]
   */
  startAt(ids, recovered) {
    /** @type {Record<string, string>} */
    const missed = {};
    for (const [stream, id] of Object.entries(ids ?? {})) {
      const now = parseId(id);
      const before = this.#reached.get(stream);
      const isWhole = recovered?.[stream] ?? (before && !isAfter(now, before));
      if (now === null || isWhole) continue;
      this.#reached.set(stream, now);
      if (before) missed[stream] = id;
    }
    return missed;
  }

  /**
   * A message arrived: is it new, and were messages lost before it? The offsets of a stream
   * increase by one. In a new epoch they restart, and the end of the old epoch is unknown.
   *
   * @param {unknown} id
   * @returns {{ isNew: boolean, missed: Record<string, string> }}
   */
  advance(id) {
    const now = parseId(id);
    if (now === null) return { isNew: true, missed: {} };
    const before = this.#reached.get(now.stream);
    if (before && !isAfter(now, before)) return { isNew: false, missed: {} };
    this.#reached.set(now.stream, now);
    const follows = before?.epoch === now.epoch && now.offset === before.offset + 1;
    return { isNew: true, missed: before && !follows ? { [now.stream]: now.id } : {} };
  }
}

/**
 * `<stream>/<epoch>/<offset>`, parsed from the right: a stream's name may contain slashes.
 *
 * @param {unknown} id
 * @returns {Position | null}
 */
function parseId(id) {
  const parts = typeof id === "string" ? /^(.+)\/([^/]+)\/(\d+)$/s.exec(id) : null;
  return parts && { id: parts[0], stream: parts[1], epoch: parts[2], offset: Number(parts[3]) };
}

/**
 * @param {Position | null} now
 * @param {Position} before
 */
function isAfter(now, before) {
  return now?.epoch !== before.epoch || now.offset > before.offset;
}
