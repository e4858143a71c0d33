/** @import { Listeners } from "./listeners.js" */

import { SeenBroadcasts } from "./broadcasts.js";
import { Positions } from "./positions.js";

export const GAP = Symbol("gap");

/** Hands each event to the listeners once and in order, and reports gaps. */
export class Inbox {
  positions = new Positions();
  #broadcasts = new SeenBroadcasts();
  #listeners;
  #onServerEvent;

  /**
   * @param {Listeners} listeners
   * @param {(topic: string, event: any) => void} onServerEvent gets the events without an id,
   *   before the listeners do
   */
  constructor(listeners, onServerEvent) {
    this.#listeners = listeners;
    this.#onServerEvent = onServerEvent;
  }

  /** The positions of the streams that every connection has, to resume from; or null. */
  get since() {
    const ids = [this.positions.get("user"), this.positions.get("all")].filter(Boolean);
    return ids.length > 0 ? ids.join(",") : null;
  }

  /**
   * An event frame.
   *
   * @param {{ topic: string, event?: any, id?: string | null }} payload
   */
  receive({ topic, event, id = null }) {
    const { isNew, missed } = this.positions.advance(id);
    this.gap(missed);
    if (!isNew || this.#broadcasts.isDuplicate(event?.broadcast_id, id)) return;
    if (id === null) this.#onServerEvent(topic, event);
    this.emit(topic, event, id);
  }

  /**
   * @param {string} topic
   * @param {unknown} event
   * @param {string | null} id
   */
  emit(topic, event, id) {
    this.#listeners.emit(topic, event, { topic, id });
    if (topic !== "*") this.#listeners.emit("*", event, { topic, id });
  }

  /**
   * Messages of these streams were lost.
   *
   * @param {Readonly<Record<string, string>>} missed
   */
  gap(missed) {
    if (Object.keys(missed).length > 0) this.#listeners.emit(GAP, missed);
  }
}
