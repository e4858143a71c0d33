/** @import { TransportListener } from "./types.js" */

import { NORMAL } from "./close-codes.js";
import { ignore } from "./promises.js";

const SUBPROTOCOL = "bff.v1";
const OPEN = 1;

/**
 * One WebSocket. After `close` it reports nothing more: `onclose` of a dead one may fire minutes
 * later.
 */
export class SocketTransport {
  kind = /** @type {const} */ ("websocket");
  listener;
  #socket;

  /**
   * Throws if the URL is not allowed, for example ws: on an https: page.
   *
   * @param {URL} url
   * @param {new (url: string, protocols: string[]) => any} WebSocket
   * @param {TransportListener} listener
   */
  constructor(url, WebSocket, listener) {
    const socket = new WebSocket(url.href, [SUBPROTOCOL]);
    this.listener = listener;
    socket.onerror = ignore;
    socket.onmessage = (/** @type {MessageEvent} */ { data }) => this.listener.onFrame(data);
    socket.onclose = (/** @type {CloseEvent} */ { code, reason }) =>
      this.listener.onClose({ code, reason });
    this.#socket = socket;
  }

  /**
   * Returns whether the frame was sent.
   *
   * @param {unknown} _frame
   * @param {string} text
   */
  send(_frame, text) {
    if (this.#socket.readyState !== OPEN) return false;
    this.#socket.send(text);
    return true;
  }

  ping() {
    this.send(null, '{"type":"ping","payload":{}}');
  }

  close() {
    this.#socket.onmessage = null;
    this.#socket.onclose = null;
    this.#socket.close(NORMAL);
  }
}
