/** Timers by name, and promises that are settled from outside. */

/** The longest delay of `setTimeout`: a longer one would fire at once. */
export const MAX_TIMER_MS = 2 ** 31 - 1;

export class Timers {
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #running = new Map();

  /**
   * Start a timer; one that runs under this name is stopped.
   *
   * @param {string} name
   * @param {number} ms
   * @param {() => void} then
   */
  start(name, ms, then) {
    this.stop(name);
    this.#running.set(name, setTimeout(then, Math.min(ms, MAX_TIMER_MS)));
  }

  /** @param {string} name */
  stop(name) {
    clearTimeout(this.#running.get(name));
    this.#running.delete(name);
  }

  stopAll() {
    for (const name of this.#running.keys()) this.stop(name);
  }
}

/**
 * @template T
 * @typedef {object} Deferred
 * @property {Promise<T>} promise
 * @property {boolean} settled
 * @property {(value: T) => void} resolve
 * @property {(error: unknown) => void} reject
 */

/**
 * A promise with `resolve` and `reject`. A rejection that is not awaited is ignored.
 *
 * @template T
 * @returns {Deferred<T>}
 */
export function deferred() {
  const result = /** @type {Deferred<T>} */ ({ settled: false });
  result.promise = new Promise((resolve, reject) => {
    result.resolve = (value) => {
      result.settled = true;
      resolve(value);
    };
    result.reject = (error) => {
      result.settled = true;
      reject(error);
    };
  });
  result.promise.catch(ignore);
  return result;
}

export function ignore() {}
