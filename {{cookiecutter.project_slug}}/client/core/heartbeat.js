import { Timers } from "./promises.js";

/** Notices a dead connection: pages cannot see the server's ping frames. */
export class Heartbeat {
  #pingTimeoutMs;
  #ping;
  #onDead;
  #timers = new Timers();
  #quietMs = Infinity;
  #receivedAt = 0;
  /** When the ping was sent that waits for a frame, or null. Later pings do not extend its time. */
  #pingedAt = /** @type {number | null} */ (null);

  /**
   * @param {number} pingTimeoutMs
   * @param {() => void} ping sends a ping
   * @param {() => void} onDead
   */
  constructor(pingTimeoutMs, ping, onDead) {
    this.#pingTimeoutMs = pingTimeoutMs;
    this.#ping = ping;
    this.#onDead = onDead;
  }

  /**
   * Send a ping after a silence of `quietMs`.
   *
   * @param {number} quietMs
   */
  start(quietMs) {
    this.#quietMs = quietMs;
    this.received();
    this.#wait(quietMs);
  }

  stop() {
    this.#timers.stopAll();
    this.#pingedAt = null;
  }

  /** A frame arrived. */
  received() {
    this.#receivedAt = performance.now();
    this.#pingedAt = null;
  }

  /** Send a ping now, unless one waits for its answer already. */
  check() {
    if (this.#pingedAt !== null) return;
    this.#pingedAt = performance.now();
    this.#ping();
    this.#wait(this.#pingTimeoutMs);
  }

  /** @param {number} ms */
  #wait(ms) {
    this.#timers.start("silence", ms, () => this.#onTimer());
  }

  #onTimer() {
    const isPinged = this.#pingedAt !== null;
    const endsAt = isPinged
      ? Number(this.#pingedAt) + this.#pingTimeoutMs
      : this.#receivedAt + this.#quietMs;
    const leftMs = endsAt - performance.now();
    if (leftMs > 0) this.#wait(leftMs);
    else if (isPinged) this.#onDead();
    else this.check();
  }
}
