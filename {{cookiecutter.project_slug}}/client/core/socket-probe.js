/** @import { Session } from "../bff-client.js" */
/** @import { Transports } from "./transports.js" */

import { parseFrame } from "./frames.js";
import { isOvertaken } from "./overtaken.js";
import { Timers, ignore } from "./promises.js";

const FIRST_MS = 10_000;
const MAX_MS = 5 * 60_000;
const TIMEOUT_MS = 15_000;

/** While the events come over HTTP, tries from time to time whether a WebSocket works again. */
export class SocketProbe {
  #transports;
  #since;
  #onHello;
  #timers = new Timers();
  #control = new AbortController();
  #transport = /** @type {{ close(): void } | null} */ (null);
  #delayMs = FIRST_MS;
  #isTrying = false;

  /**
   * @param {Transports} transports
   * @param {() => string} since the positions of all streams
   * @param {(transport: any, hello: Session) => void} onHello the socket is open
   */
  constructor(transports, since, onHello) {
    this.#transports = transports;
    this.#since = since;
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
    const before = this.#since();
    const transport = await this.#transports.open("websocket", signal, {
      onFrame: (data) => {
        const { type, payload } = parseFrame(data);
        if (type !== "event" || payload.topic !== "hello") return;
        const hello = payload.event ?? {};
        if (isOvertaken(hello, before, this.#since())) {
          fail();
          return;
        }
        this.#transport = null;
        this.stop();
        this.#onHello(transport, hello);
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
