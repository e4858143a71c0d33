import { ignore } from "./promises.js";

const SUBPROTOCOL = "bff.v1";
const OPEN = 1;
const NORMAL = 1000;

/**
 * One WebSocket. After `close` it reports nothing more: `onclose` of a dead one may fire minutes
 * later.
 */
export class SocketTransport {
  #socket;

  /**
   * Throws if the URL is not allowed, for example ws: on an https: page.
   *
   * @param {URL} url
   * @param {new (url: string, protocols: string[]) => any} WebSocket
   * @param {import("./connection.js").TransportListener} listener
   */
  constructor(url, WebSocket, { onFrame, onClose }) {
    const socket = new WebSocket(url.href, [SUBPROTOCOL]);
    socket.onerror = ignore;
    socket.onmessage = (/** @type {MessageEvent} */ { data }) => onFrame(data);
    socket.onclose = (/** @type {CloseEvent} */ { code, reason }) => onClose({ code, reason });
    this.#socket = socket;
  }

  /**
   * Returns whether the frame was sent.
   *
   * @param {string} text
   */
  send(text) {
    if (this.#socket.readyState !== OPEN) return false;
    this.#socket.send(text);
    return true;
  }

  close() {
    this.#socket.onmessage = null;
    this.#socket.onclose = null;
    this.#socket.close(NORMAL);
  }
}
