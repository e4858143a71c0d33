/** @import { Session } from "../bff-client.js" */
/** @import { Transports } from "./transports.js" */

import { parseFrame } from "./frames.js";
import { Timers, ignore } from "./promises.js";

const FIRST_MS = 10_000;
const MAX_MS = 5 * 60_000;
const TIMEOUT_MS = 15_000;

/** While the events come over HTTP, tries from time to time whether a WebSocket works again. */
export class SocketProbe {
  #transports;
  #onHello;
  #timers = new Timers();
  #control = new AbortController();
  #transport = /** @type {{ close(): void } | null} */ (null);
  #delayMs = FIRST_MS;
  #isTrying = false;

  /**
   * @param {Transports} transports
   * @param {(transport: any, hello: Session) => void} onHello the socket is open
   */
  constructor(transports, onHello) {
    this.#transports = transports;
    this.#onHello = onHello;
  }

  start() {
    this.stop();
    this.#delayMs = FIRST_MS;
    if (this.#transports.hasSocket) this.#wait();
  }

  stop() {
    this.#isTrying = false;
    this.#timers.stopAll();
    this.#control.abort();
    this.#transport?.close();
    this.#transport = null;
  }

  /** Do not wait for the next try. */
  hurry() {
    if (!this.#isTrying && this.#transports.hasSocket) this.#try();
  }

  #wait() {
    this.#timers.start("next", this.#delayMs, () => this.#try());
    this.#delayMs = Math.min(2 * this.#delayMs, MAX_MS);
  }

  async #try() {
    this.stop();
    this.#isTrying = true;
    const { signal } = (this.#control = new AbortController());
    const fail = () => {
      this.stop();
      this.#wait();
    };
    this.#timers.start("timeout", TIMEOUT_MS, fail);
    const transport = await this.#transports.open("websocket", signal, {
      onFrame: (data) => {
        const { type, payload } = parseFrame(data);
        if (type !== "event" || payload.topic !== "hello") return;
        this.#transport = null;
        this.stop();
        this.#onHello(transport, payload.event ?? {});
      },
      onClose: fail,
      onAlive: ignore,
      onReplaced: ignore,
      onUpgrade: ignore,
    });
    if (signal.aborted) transport?.close();
    else this.#transport = transport;
  }
}
