import * as codes from "./close-codes.js";

const TEXTS = /** @type {Record<number, string>} */ ({
  [codes.NORMAL]: "The page closed the connection.",
  [codes.GOING_AWAY]: "The page or a proxy ended the connection.",
  [codes.PROTOCOL_ERROR]: "The client broke the WebSocket protocol.",
  [codes.UNSUPPORTED_DATA]: "The client sent binary data.",
  [codes.NO_STATUS]: "The connection was closed without a code.",
  [codes.ABNORMAL]: "The connection was lost.",
  [codes.INVALID_DATA]: "The client sent text that is not UTF-8.",
  [codes.MESSAGE_TOO_BIG]: "The client sent a frame that is too large.",
  [codes.INTERNAL_ERROR]: "The server had an error.",
  [codes.SERVICE_RESTART]: "The server restarts.",
  [codes.DRAIN]: "The server is shutting down.",
  [codes.SLOW_CONSUMER]: "The page reads too slowly.",
  [codes.TOKEN_EXPIRED]: "The token has expired.",
  [codes.NO_PONG]: "The page did not answer a ping.",
  [codes.SERVER_ERROR]: "The server is not available at the moment.",
  [codes.TOO_MANY_REQUESTS]: "The page sends too many requests.",
  [codes.CONNECTION_LIMIT]: "You have too many connections. Close another tab or window.",
  [codes.NOT_AUTHENTICATED]: "You are not signed in.",
  [codes.BAD_FRAME]: "The client sent frames that cannot be read.",
  [codes.REVOKED]: "An administrator closed the connection.",
  [codes.SESSION_ENDED]: "Your session has ended. Sign in again.",
});

/**
 * What happened, in words for people.
 *
 * @param {number} code
 */
export function closeText(code) {
  return TEXTS[code] ?? "The connection was closed.";
}
