/** @import { Session } from "../bff-client.js" */

/**
 * Whether a connection that was opened beside another one has a hello that is out of date: in a
 * stream in which the other connection has moved on meanwhile, it could not recover from the
 * position that the request named, or it is in another epoch. Such a hello would lead back.
 *
 * @param {Session} hello
 * @param {string} before the positions in the request, separated by commas
 * @param {string} now the positions that are reached now
 */
export function isOvertaken({ recovered, positions }, before, now) {
  const old = new Set(before.split(","));
  const moved = now.split(",").filter((id) => id && !old.has(id));
  return moved.some((id) => {
    const epoch = parent(id);
    const stream = parent(epoch);
    const position = positions?.[stream];
    return recovered?.[stream] === false || (position && parent(position) !== epoch);
  });
}

/**
 * The stream and epoch of an id, or the stream of these two.
 *
 * @param {string} id
 */
function parent(id) {
  return id.slice(0, id.lastIndexOf("/"));
}
