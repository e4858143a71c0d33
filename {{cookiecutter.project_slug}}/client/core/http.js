/** @import { TicketHint } from "../bff-client.js" */
/** @typedef {(hint: TicketHint) => string | Promise<string>} Fetcher */

/**
 * @typedef {object} RequestOptions
 * @property {string} [method]
 * @property {object} [body] sent as JSON
 * @property {Record<string, string | number>} [query]
 * @property {AbortSignal} [signal]
 * @property {boolean} [fresh] do not use a cached token
 */

/** HTTP requests to the BFF: with the page's token, or else with the cookie. */
export class Http {
  #url;
  #getToken;

  /**
   * @param {() => URL} url of the WebSocket; other paths are next to it
   * @param {Fetcher | undefined} getToken
   */
  constructor(url, getToken) {
    this.#url = url;
    this.#getToken = getToken;
  }

  /**
   * @param {string} path
   * @param {Record<string, string | number>} [query]
   */
  url(path, query = {}) {
    const url = new URL(path, this.#url().href.replace(/^ws/, "http"));
    url.search = "";
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, String(value));
    return url;
  }

  /**
   * As `fetch`, but a refused token is replaced by a fresh one, once: a response with 401 means
   * that nothing was done.
   *
   * @param {string} path
   * @param {RequestOptions} [options]
   */
  async send(path, options = {}) {
    const response = await this.fetch(path, options);
    const isRefused = response.status === 401 && this.#getToken !== undefined;
    return isRefused ? this.fetch(path, { ...options, fresh: true }) : response;
  }

  /**
   * @param {string} path
   * @param {RequestOptions} [options]
   */
  async fetch(path, options = {}) {
    const { method = "GET", body, query, signal, fresh = false } = options;
    const url = this.url(path, query);
    /** @type {RequestInit} */
    const init = { method, signal, cache: "no-store", ...(await this.#credentials(signal, fresh)) };
    if (body !== undefined) {
      init.body = JSON.stringify(body);
      init.headers = { ...init.headers, "Content-Type": "application/json" };
    }
    return fetch(url, init);
  }

  /**
   * No page of another site can send the header `X-BFF`, which the BFF requires beside a cookie.
   *
   * @param {AbortSignal} signal
   * @param {boolean} fresh
   * @returns {Promise<RequestInit>}
   */
  async #credentials(signal = new AbortController().signal, fresh) {
    if (!this.#getToken) return { credentials: "include", headers: { "X-BFF": "1" } };
    return { headers: { Authorization: `Bearer ${await this.#getToken({ signal, fresh })}` } };
  }
}
