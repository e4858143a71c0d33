/** @import { Limits as LimitOptions } from "../bff-client.js" */

const DEFAULTS = {
  requestTimeoutMs: 10_000,
  connectTimeoutMs: 15_000,
  pingTimeoutMs: 10_000,
  refreshMs: 60_000,
  backoffBaseMs: 500,
  backoffCapMs: 30_000,
  visibleBackoffCapMs: 5_000,
  stableMs: 5_000,
  maxWaiting: 30,
  maxFrameBytes: 64 * 1024,
};

/** @typedef {typeof DEFAULTS} Limits */

/**
 * The limits among the options, with their defaults.
 *
 * @param {LimitOptions} options
 * @returns {Limits}
 */
export function limitsOf(options) {
  for (const name of Object.keys(options)) {
    if (!(name in DEFAULTS)) throw new TypeError(`BffClient has no option ${name}`);
  }
  return { ...DEFAULTS, ...options };
}

/**
 * The URL of the WebSocket. Throws if it is not valid, or relative and there is no page.
 *
 * @param {string | URL} url
 */
export function socketUrl(url) {
  const address = new URL(url, globalThis.location?.href);
  address.hash = "";
  return new URL(address.href.replace(/^http/, "ws"));
}
