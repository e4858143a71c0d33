/** @import { Me } from "../bff-client.js" */
/** @import { Http } from "./http.js" */

import { jsonOf } from "./http-problem.js";

/**
 * Who is signed in, or null.
 *
 * @param {Http} http
 * @returns {Promise<Me | null>}
 */
export async function me(http) {
  const response = await http.send("auth/me");
  return response.status === 401 ? null : jsonOf(response);
}

/**
 * Leave the page for the sign-in; it comes back to `returnTo`, by default to this page.
 *
 * @param {Http} http
 * @param {string} [returnTo]
 */
export function login(http, returnTo) {
  const { pathname, search, hash } = globalThis.location;
  const return_to = returnTo ?? pathname + search + hash;
  globalThis.location.assign(http.url("auth/login", { return_to }));
}

/**
 * End the session. Returns where to go, and goes there if this is a page.
 *
 * @param {Http} http
 * @returns {Promise<string | null>}
 */
export async function logout(http) {
  const response = await http.send("auth/logout", { method: "POST" });
  const { redirect_to = null } = response.status === 401 ? {} : await jsonOf(response);
  if (redirect_to !== null) globalThis.location?.assign(redirect_to);
  return redirect_to;
}
