/** @import { ErrorFacts } from "./errors.js" */

import { BffError } from "./errors.js";

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
