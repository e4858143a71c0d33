/** @import { Credentials } from "./credentials.js" */
/** @import { End, TransportListener } from "./connection.js" */

import { SocketTransport } from "./socket-transport.js";

const ABNORMAL = 1006;
const NOT_AUTHENTICATED = 4500;

/** Opens the connection: credentials, positions, address. */
export class Transports {
  #url;
  #credentials;
  #WebSocket;
  #since;

  /**
   * @param {URL} url of the WebSocket
   * @param {Credentials} credentials
   * @param {new (url: string, protocols: string[]) => any} WebSocket
   * @param {() => string | null} since the positions to resume from
   */
  constructor(url, credentials, WebSocket, since) {
    this.#url = url;
    this.#credentials = credentials;
    this.#WebSocket = WebSocket;
    this.#since = since;
  }

  /**
   * Returns null, and reports nothing, if `signal` was aborted.
   *
   * @param {AbortSignal} signal
   * @param {TransportListener} listener
   */
  async open(signal, listener) {
    let url;
    try {
      url = await this.#socketUrl(signal);
    } catch (error) {
      if (!signal.aborted) listener.onClose(endOf(error));
      return null;
    }
    if (signal.aborted) return null;
    try {
      return new SocketTransport(url, this.#WebSocket, listener);
    } catch (error) {
      listener.onClose({ ...endOf(error), code: ABNORMAL, isFinal: true });
      return null;
    }
  }

  /**
   * The URL with the positions to resume from and a new ticket.
   *
   * @param {AbortSignal} signal
   */
  async #socketUrl(signal) {
    const url = new URL(this.#url);
    const since = this.#since();
    if (since) url.searchParams.set("since", since);
    const ticket = await this.#credentials.ticket(signal);
    if (ticket !== null) url.searchParams.set("ticket", ticket);
    return url;
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
