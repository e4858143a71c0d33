/** The close codes of the protocol (`docs/protocol.md`), by name. */
export const CloseCode = Object.freeze({
  NORMAL: 1000,
  GOING_AWAY: 1001,
  PROTOCOL_ERROR: 1002,
  UNSUPPORTED_DATA: 1003,
  NO_STATUS: 1005,
  ABNORMAL: 1006,
  INVALID_DATA: 1007,
  MESSAGE_TOO_BIG: 1009,
  INTERNAL_ERROR: 1011,
  SERVICE_RESTART: 1012,
  DRAIN: 4001,
  SLOW_CONSUMER: 4002,
  TOKEN_EXPIRED: 4003,
  NO_PONG: 4004,
  SERVER_ERROR: 4006,
  TOO_MANY_REQUESTS: 4007,
  CONNECTION_LIMIT: 4008,
  NOT_AUTHENTICATED: 4500,
  BAD_FRAME: 4501,
  REVOKED: 4504,
  SESSION_ENDED: 4505,
});

const RECONNECT = [1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015];

/**
 * A code's name; `OTHER` for one that the protocol does not name.
 *
 * @param {number} code
 */
export function nameOf(code) {
  const entry = Object.entries(CloseCode).find(([, value]) => value === code);
  return entry?.[0] ?? "OTHER";
}

/**
 * Whether the client reconnects by itself after this code. `CONNECTION_LIMIT` would come again: the
 * user has too many connections.
 *
 * @param {number} code
 */
export function allowsReconnect(code) {
  if (code === CloseCode.CONNECTION_LIMIT) return false;
  return (code >= 4000 && code <= 4499) || RECONNECT.includes(code);
}

/**
 * Whether the user must sign in before the client can connect.
 *
 * @param {number} code
 */
export function needsSignIn(code) {
  return code === CloseCode.NOT_AUTHENTICATED || code === CloseCode.SESSION_ENDED;
}
