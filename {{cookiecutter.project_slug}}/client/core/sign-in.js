/** @import { Me } from "../bff-client.js" */
/** @import { HttpNeeds } from "./http.js" */

import { Http, jsonOf } from "./http.js";

/**
 * Who is signed in, or null.
 *
 * @param {HttpNeeds} needs
 * @returns {Promise<Me | null>}
 */
export async function me(needs) {
  const response = await new Http(needs).send("auth/me");
  return response.status === 401 ? null : jsonOf(response);
}

/**
 * Leave the page for the sign-in; it comes back to `returnTo`, by default to this page.
 *
 * @param {HttpNeeds} needs
 * @param {string} [returnTo]
 */
export function login(needs, returnTo) {
  const { pathname, search, hash } = globalThis.location;
  const return_to = returnTo ?? pathname + search + hash;
  globalThis.location.assign(new Http(needs).url("auth/login", { return_to }));
}

/**
 * End the session. Returns where to go, and goes there if this is a page.
 *
 * @param {HttpNeeds} needs
 * @returns {Promise<string | null>}
 */
export async function logout(needs) {
  const response = await new Http(needs).send("auth/logout", { method: "POST" });
  const { redirect_to = null } = response.status === 401 ? {} : await jsonOf(response);
  if (redirect_to !== null) globalThis.location?.assign(redirect_to);
  return redirect_to;
}
