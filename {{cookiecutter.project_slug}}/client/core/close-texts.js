const TEXTS = /** @type {Record<string, string>} */ ({
  NORMAL: "The page closed the connection.",
  GOING_AWAY: "The page or a proxy ended the connection.",
  PROTOCOL_ERROR: "The client broke the WebSocket protocol.",
  UNSUPPORTED_DATA: "The client sent binary data.",
  NO_STATUS: "The connection was closed without a code.",
  ABNORMAL: "The connection was lost.",
  INVALID_DATA: "The client sent text that is not UTF-8.",
  MESSAGE_TOO_BIG: "The client sent a frame that is too large.",
  INTERNAL_ERROR: "The server had an error.",
  SERVICE_RESTART: "The server restarts.",
  DRAIN: "The server is shutting down.",
  SLOW_CONSUMER: "The page reads too slowly.",
  TOKEN_EXPIRED: "The token has expired.",
  NO_PONG: "The page did not answer a ping.",
  SERVER_ERROR: "The server is not available at the moment.",
  TOO_MANY_REQUESTS: "The page sends too many requests.",
  CONNECTION_LIMIT: "You have too many connections. Close another tab or window.",
  NOT_AUTHENTICATED: "You are not signed in.",
  BAD_FRAME: "The client sent frames that cannot be read.",
  REVOKED: "An administrator closed the connection.",
  SESSION_ENDED: "Your session has ended. Sign in again.",
});

/**
 * What happened, in words for people, by the name of a close code.
 *
 * @param {string} name
 */
export function closeText(name) {
  return TEXTS[name] ?? "The connection was closed.";
}
