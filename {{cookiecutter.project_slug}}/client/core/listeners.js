/** @typedef {(...values: any[]) => void} Listener */

/** Event listeners. An exception in one affects neither the others nor the client. */
export class Listeners {
  /** @type {Map<string | symbol, Set<{ listener: Listener }>>} */
  #byName = new Map();

  get names() {
    return this.#byName.keys();
  }

  /**
   * Returns a function that removes the listener. The same function may be added twice.
   *
   * @param {string | symbol} name
   * @param {Listener} listener
   */
  add(name, listener) {
    const entry = { listener };
    const entries = this.#byName.get(name) ?? new Set();
    this.#byName.set(name, entries.add(entry));
    return () => {
      entries.delete(entry);
      if (entries.size === 0 && this.#byName.get(name) === entries) this.#byName.delete(name);
    };
  }

  /**
   * @param {string | symbol} name
   * @param {...unknown} values
   */
  emit(name, ...values) {
    for (const { listener } of [...(this.#byName.get(name) ?? [])]) call(listener, ...values);
  }
}

/**
 * Call a listener; an exception is reported as one of the page.
 *
 * @param {Listener} listener
 * @param {...unknown} values
 */
export function call(listener, ...values) {
  try {
    listener(...values);
  } catch (error) {
    (globalThis.reportError ?? console.error)(error);
  }
}
