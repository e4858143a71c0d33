/** @import { Credentials } from "./credentials.js" */

import { Timers } from "./promises.js";

/** Sends a new token over the open connection before the old one expires (then: 4003). */
export class TokenRenewal {
  #credentials;
  #authenticate;
  #timers = new Timers();
  #control = new AbortController();

  /**
   * @param {Credentials} credentials
   * @param {(token: string) => Promise<unknown>} authenticate
   */
  constructor(credentials, authenticate) {
    this.#credentials = credentials;
    this.#authenticate = authenticate;
  }

  start() {
    this.stop();
    const { signal } = (this.#control = new AbortController());
    this.#schedule(signal);
  }

  stop() {
    this.#timers.stopAll();
    this.#control.abort();
  }

  /** @param {AbortSignal} signal */
  #schedule(signal) {
    const ms = this.#credentials.renewInMs;
    if (ms !== null) this.#timers.start("renew", ms, () => this.#renew(signal));
  }

  /** @param {AbortSignal} signal */
  async #renew(signal) {
    try {
      const token = await this.#credentials.freshToken(signal);
      if (!signal.aborted) await this.#authenticate(token);
    } catch {
      // Tried again by the next schedule, or on reconnect.
    }
    if (!signal.aborted) this.#schedule(signal);
  }
}
