/** @import { BffErrorCode, Outcome } from "../bff-client.js" */

/**
 * What is known of an error: the fields of the BFF's frame, and those of this client.
 *
 * @typedef {object} ErrorFacts
 * @property {BffErrorCode} [code]
 * @property {string} [description]
 * @property {boolean} [retryable]
 * @property {Outcome} [outcome]
 * @property {number} [retry_after_ms]
 * @property {string} [traceId]
 * @property {unknown} [cause]
 */

/** Why a request failed, and whether the work was done (`outcome`). */
export class BffError extends Error {
  /** @param {ErrorFacts} facts */
  constructor({ code = "internal", description = "Unknown error", cause, ...known }) {
    super(`${code}: ${description}`, cause === undefined ? undefined : { cause });
    this.name = /** @type {const} */ ("BffError");
    this.code = code;
    this.description = description;
    this.retryable = known.retryable ?? false;
    this.outcome = known.outcome ?? "unknown";
    this.retryAfterMs = known.retry_after_ms ?? null;
    this.traceId = known.traceId ?? null;
  }
}

/**
 * Whether a retry may succeed.
 *
 * @param {unknown} error
 */
export function isTransient(error) {
  if (!(error instanceof BffError)) return false;
  return error.retryable || (error.outcome === "unknown" && error.code !== "internal");
}

/**
 * @param {string} description
 * @param {unknown} [cause]
 */
export function connectionLost(description, cause) {
  return new BffError({ code: "connection_lost", description, outcome: "not_sent", cause });
}
