/** @import { TicketHint } from "../bff-client.js" */
/** @typedef {(hint: TicketHint) => string | Promise<string>} Fetcher */

import { Timers } from "./promises.js";

/** How the client authenticates: with a ticket for each attempt, or with the cookie. */
export class Credentials {
  #getToken;
  #getTicket;
  #refreshMs;
  #expiresAt = Infinity;
  #mustBeFresh = false;
  /** Whether the credential was refused, and not accepted since. */
  #isRefused = false;
  #timers = new Timers();
  #renewal = new AbortController();

  /**
   * @param {() => URL} address of the WebSocket
   * @param {Fetcher | undefined} getToken
   * @param {Fetcher | undefined} getTicket
   * @param {number} refreshMs
   */
  constructor(address, getToken, getTicket, refreshMs) {
    this.#getToken = getToken;
    this.#getTicket = getToken
      ? (/** @type {TicketHint} */ hint) => exchangeToken(address(), getToken, hint)
      : getTicket;
    this.#refreshMs = refreshMs;
  }

  /**
   * A new ticket, or null: the cookie authenticates.
   *
   * @param {AbortSignal} signal
   */
  async ticket(signal) {
    this.#mustBeFresh ||= this.#expiresAt <= performance.now();
    return this.#getTicket ? this.#getTicket({ signal, fresh: this.#mustBeFresh }) : null;
  }

  /**
   * The BFF accepted a token. `expires_in` is the BFF's own measure; the clock of this computer may
   * be wrong.
   *
   * @param {{ expires_in?: number, expires_at: number }} session
   */
  accepted({ expires_in, expires_at }) {
    const leftMs = expires_in === undefined ? expires_at * 1000 - Date.now() : expires_in * 1000;
    this.#expiresAt = performance.now() + leftMs;
    this.#mustBeFresh = false;
    this.#isRefused = false;
  }

  /** The token has expired. */
  expired() {
    this.#mustBeFresh = true;
  }

  /** The BFF refused the credential. Returns whether another attempt makes sense: one does. */
  refused() {
    const again = this.#getTicket !== undefined && !this.#isRefused;
    this.#isRefused = true;
    this.#mustBeFresh = true;
    return again;
  }

  /**
   * Send a new token before the old one expires (otherwise: 4003), until `stopRenewal`.
   *
   * @param {(token: string) => Promise<unknown>} send
   */
  startRenewal(send) {
    this.stopRenewal();
    const leftMs = this.#expiresAt - performance.now();
    if (!this.#getToken || !Number.isFinite(leftMs)) return;
    const { signal } = (this.#renewal = new AbortController());
    const ms = Math.max(leftMs - this.#refreshMs, this.#refreshMs / 2);
    this.#timers.start("renew", ms, () => this.#renew(send, signal));
  }

  stopRenewal() {
    this.#timers.stopAll();
    this.#renewal.abort();
  }

  /**
   * @param {(token: string) => Promise<unknown>} send
   * @param {AbortSignal} signal
   */
  async #renew(send, signal) {
    try {
      const token = await this.#getToken?.({ signal, fresh: true });
      if (token !== undefined && !signal.aborted) await send(token);
    } catch {
      // Tried again by the next timer, or on reconnect.
    }
    if (!signal.aborted) this.startRenewal(send);
  }
}

/**
 * A URL next to that of the WebSocket.
 *
 * @param {URL} address
 * @param {string} path
 */
export function httpUrl(address, path) {
  return new URL(path, address.href.replace(/^ws/, "http"));
}

/**
 * @param {URL} address
 * @param {Fetcher} getToken
 * @param {TicketHint} hint
 */
async function exchangeToken(address, getToken, hint) {
  const headers = { Authorization: `Bearer ${await getToken(hint)}` };
  const init = { method: "POST", headers, signal: hint.signal };
  const response = await fetch(httpUrl(address, "auth/ticket"), init);
  if (!response.ok) {
    const error = new Error(`No ticket: HTTP status ${response.status}`);
    throw Object.assign(error, { status: response.status });
  }
  return (await response.json()).ticket;
}
