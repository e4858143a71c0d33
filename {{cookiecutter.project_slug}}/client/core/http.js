/** @import { ErrorFacts } from "./errors.js" */
/** @import { Fetcher } from "./credentials.js" */

import { httpUrl } from "./credentials.js";
import { BffError } from "./errors.js";

/**
 * @typedef {object} RequestOptions
 * @property {string} [method]
 * @property {object} [body] sent as JSON
 * @property {Record<string, string | number>} [query]
 * @property {AbortSignal} [signal]
 */

/**
 * @typedef {object} HttpNeeds
 * @property {() => URL} address of the WebSocket; other paths are next to it
 * @property {Fetcher | undefined} getToken
 */

/** HTTP requests to the BFF: with the page's token, or else with the cookie. */
export class Http {
  #address;
  #getToken;

  /** @param {HttpNeeds} needs */
  constructor({ address, getToken }) {
    this.#address = address;
    this.#getToken = getToken;
  }

  /**
   * @param {string} path
   * @param {Record<string, string | number>} [query]
   */
  url(path, query = {}) {
    const url = httpUrl(this.#address(), path);
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, String(value));
    return url;
  }

  /**
   * As `fetch`, but a refused token is replaced by a fresh one, once. Not if a service has refused
   * the caller: it has begun its work, which must not be done twice.
   *
   * @param {string} path
   * @param {RequestOptions} [options]
   */
  async send(path, options = {}) {
    const response = await this.#fetch(path, options, false);
    if (response.status !== 401 || this.#getToken === undefined) return response;
    const { outcome = "not_sent" } = await problemOf(response.clone());
    return outcome === "not_sent" ? this.#fetch(path, options, true) : response;
  }

  /**
   * @param {string} path
   * @param {RequestOptions} options
   * @param {boolean} fresh do not use a cached token
   */
  async #fetch(path, { method = "GET", body, query, signal }, fresh) {
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

/**
 * The error that a response describes (RFC 9457).
 *
 * @param {Response} response
 * @returns {Promise<ErrorFacts>}
 */
export async function problemOf(response) {
  const problem = await response.json().catch(() => null);
  if (problem?.code) return { ...problem, description: problem.detail ?? problem.title };
  // A proxy answered: the BFF may have got the request.
  return { code: "connection_lost", description: `HTTP status ${response.status}` };
}

/**
 * A response's JSON.
 *
 * @param {Response} response
 */
export async function jsonOf(response) {
  if (!response.ok) throw new BffError(await problemOf(response));
  return response.json();
}
