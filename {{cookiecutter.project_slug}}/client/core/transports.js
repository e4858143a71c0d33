/** @import { TransportKind } from "../bff-client.js" */
/** @import { Credentials } from "./credentials.js" */
/** @import { End, SocketClass, TransportListener } from "./types.js" */
/** @import { StreamNeeds } from "./event-stream-transport.js" */

import { ABNORMAL, NOT_AUTHENTICATED } from "./close-codes.js";
import { SocketTransport } from "./socket-transport.js";

/** After so many sockets without a hello an event stream is tried. */
const MAX_FAILED_SOCKETS = 2;

/** Opens the connection, and decides over what: a WebSocket, or an event stream. */
export class Transports {
  #kinds;
  #credentials;
  #WebSocket;
  #since;
  #needs;
  #failedSockets = 0;
  #tried = /** @type {TransportKind | null} */ (null);

  /**
   * @param {readonly TransportKind[]} kinds
   * @param {Credentials} credentials
   * @param {SocketClass | undefined} WebSocket
   * @param {() => string | null} since the positions with which a socket resumes
   * @param {StreamNeeds} needs of an event stream
   */
  constructor(kinds, credentials, WebSocket, since, needs) {
    this.#kinds = WebSocket ? kinds : kinds.filter((kind) => kind !== "websocket");
    this.#credentials = credentials;
    this.#WebSocket = WebSocket;
    this.#since = since;
    this.#needs = needs;
  }

  get hasSocket() {
    return this.#kinds.includes("websocket");
  }

  /** What the next attempt uses. When sockets fail, every second attempt is an event stream. */
  next() {
    const canStream = this.#kinds.includes("events");
    const isSocketsTurn = this.#failedSockets < MAX_FAILED_SOCKETS || this.#tried === "events";
    this.#tried = this.hasSocket && (!canStream || isSocketsTurn) ? "websocket" : "events";
    return this.#tried;
  }

  /** A hello arrived. */
  onOpen() {
    if (this.#tried === "websocket") this.#failedSockets = 0;
  }

  /**
   * An attempt failed. Without a code of the BFF it may be a proxy; one that lets nothing pass
   * costs the whole time of an attempt, and is not asked twice.
   *
   * @param {End} end
   */
  onFailed({ code, error, isTimeout }) {
    if (this.#tried !== "websocket" || error !== undefined) return;
    if (code !== ABNORMAL) this.#failedSockets = 0;
    else this.#failedSockets += isTimeout ? MAX_FAILED_SOCKETS : 1;
  }

  /**
   * Returns null, and reports nothing, if `signal` was aborted.
   *
   * @param {TransportKind} kind
   * @param {AbortSignal} signal
   * @param {TransportListener} listener
   */
  async open(kind, signal, listener) {
    let isFinal = true;
    try {
      const url = this.#needs.address();
      isFinal = false;
      if (kind === "events") {
        const { EventStreamTransport } = await import("./event-stream-transport.js");
        return signal.aborted ? null : new EventStreamTransport(this.#needs, this, listener);
      }
      const since = this.#since();
      if (since) url.searchParams.set("since", since);
      const ticket = await this.#credentials.ticket(signal);
      if (ticket !== null) url.searchParams.set("ticket", ticket);
      isFinal = true;
      const Socket = /** @type {SocketClass} */ (this.#WebSocket);
      return signal.aborted ? null : new SocketTransport(url, Socket, listener);
    } catch (error) {
      if (!signal.aborted) listener.onClose({ ...endOf(error), isFinal });
      return null;
    }
  }
}

/**
 * Why a connection could not be opened.
 *
 * @param {any} error
 * @returns {End}
 */
function endOf(error) {
  const code = error?.status === 401 || error?.status === 403 ? NOT_AUTHENTICATED : ABNORMAL;
  return { code, reason: error?.message ?? String(error), error };
}
