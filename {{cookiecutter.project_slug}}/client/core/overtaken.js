/** @import { Session } from "../bff-client.js" */

/**
 * Whether a connection that was opened beside another one has a hello that is out of date: a stream
 * could not be recovered from the position that the request named, but the other connection has
 * moved on in it meanwhile. Such a hello would lead back.
 *
 * @param {Session} hello
 * @param {string} before the positions in the request, separated by commas
 * @param {string} now the positions that are reached now
 */
export function isOvertaken({ recovered }, before, now) {
  const old = new Set(before.split(","));
  const moved = now.split(",").filter((id) => !old.has(id));
  return moved.some((id) => recovered?.[id.split("/").slice(0, -2).join("/")] === false);
}
