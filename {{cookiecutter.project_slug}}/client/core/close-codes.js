/** The close codes of the protocol (`docs/protocol.md`). */

export const NORMAL = 1000;
export const GOING_AWAY = 1001;
export const PROTOCOL_ERROR = 1002;
export const UNSUPPORTED_DATA = 1003;
export const NO_STATUS = 1005;
export const ABNORMAL = 1006;
export const INVALID_DATA = 1007;
export const MESSAGE_TOO_BIG = 1009;
export const INTERNAL_ERROR = 1011;
export const SERVICE_RESTART = 1012;
export const DRAIN = 4001;
export const SLOW_CONSUMER = 4002;
export const TOKEN_EXPIRED = 4003;
export const NO_PONG = 4004;
export const SERVER_ERROR = 4006;
export const TOO_MANY_REQUESTS = 4007;
export const CONNECTION_LIMIT = 4008;
export const NOT_AUTHENTICATED = 4500;
export const BAD_FRAME = 4501;
export const REVOKED = 4504;
export const SESSION_ENDED = 4505;

/** The close codes by name. */
export const CloseCode = /* @__PURE__ */ Object.freeze({
  NORMAL,
  GOING_AWAY,
  PROTOCOL_ERROR,
  UNSUPPORTED_DATA,
  NO_STATUS,
  ABNORMAL,
  INVALID_DATA,
  MESSAGE_TOO_BIG,
  INTERNAL_ERROR,
  SERVICE_RESTART,
  DRAIN,
  SLOW_CONSUMER,
  TOKEN_EXPIRED,
  NO_PONG,
  SERVER_ERROR,
  TOO_MANY_REQUESTS,
  CONNECTION_LIMIT,
  NOT_AUTHENTICATED,
  BAD_FRAME,
  REVOKED,
  SESSION_ENDED,
});

const RECONNECT = [1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015];

/**
 * Whether the client reconnects by itself after this code. `CONNECTION_LIMIT` would come again: the
 * user has too many connections.
 *
 * @param {number} code
 */
export function allowsReconnect(code) {
  if (code === CONNECTION_LIMIT) return false;
  return (code >= 4000 && code <= 4499) || RECONNECT.includes(code);
}

/**
 * Whether the user must sign in before the client can connect.
 *
 * @param {number} code
 */
export function needsSignIn(code) {
  return code === NOT_AUTHENTICATED || code === SESSION_ENDED;
}
