/** @import { TicketHint } from "../bff-client.js" */
/** @import { Fetcher, Http } from "./http.js" */

/** How the client authenticates: with a ticket for each attempt, or with the cookie. */
export class Credentials {
  #getToken;
  #getTicket;
  #refreshMs;
  #expiresAt = Infinity;
  #mustBeFresh = false;
  /** Whether the credential was refused, and not accepted since. */
  #isRefused = false;

  /**
   * @param {Http} http
   * @param {Fetcher | undefined} getToken
   * @param {Fetcher | undefined} getTicket
   * @param {number} refreshMs
   */
  constructor(http, getToken, getTicket, refreshMs) {
    this.#getToken = getToken;
    this.#getTicket = getToken
      ? (/** @type {TicketHint} */ hint) => exchangeToken(http, hint)
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

  /** After how many milliseconds the token must be replaced, or null: it cannot be. */
  get renewInMs() {
    const leftMs = this.#expiresAt - performance.now();
    if (!this.#getToken || !Number.isFinite(leftMs)) return null;
    return Math.max(leftMs - this.#refreshMs, this.#refreshMs / 2);
  }

  /** @param {AbortSignal} signal */
  async freshToken(signal) {
    return /** @type {Fetcher} */ (this.#getToken)({ signal, fresh: true });
  }
}

/**
 * @param {Http} http
 * @param {TicketHint} hint
 */
async function exchangeToken(http, hint) {
  const response = await http.fetch("auth/ticket", { method: "POST", ...hint });
  if (!response.ok) {
    const error = new Error(`No ticket: HTTP status ${response.status}`);
    throw Object.assign(error, { status: response.status });
  }
  return (await response.json()).ticket;
}
