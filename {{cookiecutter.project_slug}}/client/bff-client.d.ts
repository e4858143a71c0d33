/** Client of the BFF: requests, live events and topics over one connection (`bff.v1`). */

import type {
  AnyContract,
  Command,
  Follow,
  On,
  Request,
  Subscribe,
  Unsubscribe,
  Untyped,
} from "./contract-types.js";

export type * from "./contract-types.js";

/**
 * The contract of the hooks and composables: name it once, with
 * `declare module "bff-client" { interface Register { contract: Contract } }`.
 */
// biome-ignore lint/suspicious/noEmptyInterface: a project adds its contract
export interface Register {}

/** The registered contract; without one, names and payloads are not checked. */
export type Registered = Register extends { contract: infer C extends AnyContract } ? C : Untyped;

/** The error codes of the BFF, and `connection_lost` and `unreadable` of this client. */
export type BffErrorCode =
  | "unauthenticated"
  | "forbidden"
  | "not_found"
  | "method_not_allowed"
  | "conflict"
  | "deprecated"
  | "too_large"
  | "invalid_params"
  | "rate_limited"
  | "too_many_in_flight"
  | "cancelled"
  | "service_error"
  | "service_unavailable"
  | "mesh_unavailable"
  | "timeout"
  | "internal"
  | "connection_lost"
  | "unreadable";

/** Whether the work was done: not started, finished with the error, or unknown. */
export type Outcome = "not_sent" | "done" | "unknown";

export class BffError extends Error {
  readonly name: "BffError";
  readonly code: BffErrorCode;
  /** For people. */
  readonly description: string;
  /** Whether a retry can succeed and cannot do the work twice. */
  readonly retryable: boolean;
  readonly outcome: Outcome;
  /** With `rate_limited`: the milliseconds after which a retry can succeed. Otherwise null. */
  readonly retryAfterMs: number | null;
  readonly traceId: string | null;
  readonly cause?: unknown;
}

/** The hello of the BFF: the first frame of every connection. */
export interface Session {
  /** The id of the connection. */
  readonly session_id: string;
  readonly user_id: string;
  readonly username: string;
  /** When the token expires, in seconds since 1970. */
  readonly expires_at: number;
  /** Seconds from the hello until the token expires. */
  readonly expires_in: number;
  /** Seconds between the server's pings. */
  readonly ping_interval: number;
  /** The id of the newest message of each stream. */
  readonly positions: Positions;
  /** For each resumed stream: whether the missed messages follow. If not, `onGap` is called. */
  readonly recovered: Readonly<Record<string, boolean>>;
  /** In development: the patterns of all topics. */
  readonly topics?: readonly string[];
}

/** Stream (`user`, `all`, `topic:<topic>`) to the id of a message, `<stream>/<epoch>/<offset>`. */
export type Positions = Readonly<Record<string, string>>;

export type State = "connecting" | "open" | "waiting" | "closed";

/** A WebSocket; or server-sent events, with requests over HTTP. */
export type TransportKind = "websocket" | "events";

/** The close codes of the protocol (`docs/protocol.md`), by name. */
export declare const CloseCode: {
  readonly NORMAL: 1000;
  readonly GOING_AWAY: 1001;
  readonly PROTOCOL_ERROR: 1002;
  readonly UNSUPPORTED_DATA: 1003;
  readonly NO_STATUS: 1005;
  readonly ABNORMAL: 1006;
  readonly INVALID_DATA: 1007;
  readonly MESSAGE_TOO_BIG: 1009;
  readonly INTERNAL_ERROR: 1011;
  readonly SERVICE_RESTART: 1012;
  readonly DRAIN: 4001;
  readonly SLOW_CONSUMER: 4002;
  readonly TOKEN_EXPIRED: 4003;
  readonly NO_PONG: 4004;
  readonly SERVER_ERROR: 4006;
  readonly TOO_MANY_REQUESTS: 4007;
  readonly CONNECTION_LIMIT: 4008;
  readonly NOT_AUTHENTICATED: 4500;
  readonly BAD_FRAME: 4501;
  readonly REVOKED: 4504;
  readonly SESSION_ENDED: 4505;
};

/** What happened, in words for people, by close code. */
export function closeText(code: number): string;

/** The state of the connection with its details. */
export type Status = StateChange;

export type StateChange =
  | { readonly state: "connecting"; readonly transport: TransportKind }
  | { readonly state: "open"; readonly transport: TransportKind; readonly session: Session }
  | {
      /** The connection was lost; the client reconnects after `delayMs`. */
      readonly state: "waiting";
      readonly code: number;
      /** What the server said, or the client about a failure; for logs. */
      readonly reason: string;
      readonly delayMs: number;
      /** When that is, on the clock of this computer, in milliseconds since 1970. */
      readonly retryAt: number;
      readonly error?: unknown;
    }
  | {
      /** The client does not reconnect. `NORMAL`: `close` was called, or `connect` was not. */
      readonly state: "closed";
      readonly code: number;
      readonly reason: string;
      readonly error?: unknown;
    };

export interface EventMeta {
  readonly topic: string;
  /** Null if the BFF does not store the message. */
  readonly id: string | null;
}

export interface TicketHint {
  /** Aborted when the connection attempt is given up or the connection is closed. */
  readonly signal: AbortSignal;
  /** Do not use a cached token: it has expired, expires soon, or was refused. */
  readonly fresh: boolean;
}

export interface Limits {
  /** Timeout of a request, including the wait for the connection. Default 10 000. */
  requestTimeoutMs?: number;
  /** Timeout of a connection attempt: ticket, handshake and hello. Default 15 000. */
  connectTimeoutMs?: number;
  /** Timeout of a ping. Default 10 000. */
  pingTimeoutMs?: number;
  /** With `getToken`: how long before its expiry the token is refreshed. Default 60 000. */
  refreshMs?: number;
  /** Upper limit of the first random back-off; it doubles with each failure. Default 500. */
  backoffBaseMs?: number;
  /** Longest back-off. Default 30 000. */
  backoffCapMs?: number;
  /** Longest back-off while the page is visible. Default 5 000. */
  visibleBackoffCapMs?: number;
  /** A connection that was open this long resets the back-off. Default 5 000. */
  stableMs?: number;
  /** How many requests may wait for the connection. Default 30. */
  maxWaiting?: number;
  /** The server's MAX_FRAME_BYTES: larger requests are rejected by the client. Default 65 536. */
  maxFrameBytes?: number;
}

export interface Options extends Limits {
  /** URL of the WebSocket: http(s):, ws(s):, or relative to the page. Default "/ws". */
  url?: string | URL;
  /** Returns the access token. It is exchanged for a ticket at `auth/ticket`, next to `url`. */
  getToken?: (hint: TicketHint) => string | Promise<string>;
  /**
   * Or: fetches a single-use ticket for each attempt. Without either, the cookie authenticates.
   *
   * An error with `status` 401 or 403 means refused: the client calls it once more with `fresh`,
   * then it closes.
   */
  getTicket?: (hint: TicketHint) => string | Promise<string>;
  /** `positions` before the page was reloaded: the client resumes from there. */
  positions?: Positions;
  /**
   * What the client may use, by default both: a WebSocket, and while none can be had an event
   * stream. With `getTicket` only a WebSocket: event streams take no tickets.
   */
  transports?: readonly TransportKind[];
  /** Default `globalThis.WebSocket`. */
  WebSocket?: new (
    url: string,
    protocols: string[],
  ) => object;
}

export interface CallOptions {
  /** Timeout of the response, in milliseconds. */
  timeoutMs?: number;
  /** Aborting rejects the promise with code `cancelled` and sends a `cancel` to the BFF. */
  signal?: AbortSignal;
}

export type EventListener<E = unknown> = (event: E, meta: EventMeta) => void;

/** Removes the listener. */
export type Off = () => void;

/** A followed topic. */
export interface Following {
  readonly topic: string;
  /** Fulfilled once subscribed; rejects if the topic is refused, or with `off` and `close`. */
  readonly ready: Promise<void>;
  /** Stop following. The last follower ends the subscription. */
  off(): void;
}

/** Who is signed in. */
export interface Me {
  readonly user_id: string;
  readonly username: string;
  readonly scopes: readonly string[];
  readonly expires_at: number;
}

/**
 * One user's connection to the BFF. It reconnects until it is closed or refused.
 *
 * With `BffClient<Contract>`, where `bff types` prints the contract, names, parameters, results and
 * payloads are checked.
 */
export class BffClient<C extends AnyContract = Untyped> {
  constructor(options?: Options);

  readonly state: State;
  /** The state with its details: a new object for each change. */
  readonly status: Status;
  /** The last hello, or null before the first. */
  readonly session: Session | null;
  /** Fulfilled with the hello when the connection is open; rejected when the client closes. */
  readonly ready: Promise<Session>;
  /** The id of the last message delivered in each stream. */
  readonly positions: Positions;

  /**
   * Connect; without effect if the client is connected. A client that waits to reconnect does it
   * now, but not before the time that a draining server sent. Returns `ready`.
   */
  connect(): Promise<Session>;
  /** Close the connection. The client does not reconnect until `connect` is called. */
  close(reason?: string): void;

  /** Call a method of a service or of the BFF. Rejects with a `BffError`. */
  readonly request: Request<C>;
  /** Call a method without waiting for its result: fulfilled when the call is accepted. */
  readonly command: Command<C>;
  /** Send a fresh token of the same user over the open connection. Rejects with a `BffError`. */
  authenticate(token: string, options?: CallOptions): Promise<Session>;

  /**
   * Subscribe to a topic, across reconnects, until `unsubscribe`. Fulfilled once subscribed.
   * Rejects with a `BffError` if the topic is refused.
   *
   * If it is refused later, or revoked by the BFF, the event `unsubscribed` is emitted.
   */
  readonly subscribe: Subscribe<C>;
  /** Unsubscribe from a topic, however often it was subscribed. Followers stay. */
  readonly unsubscribe: Unsubscribe<C>;
  /**
   * Subscribe to a topic and listen to it, across reconnects, until `off`. Allowed at any time. Each
   * follower counts for itself. A refusal is also told to `onError`.
   */
  readonly follow: Follow<C>;

  /** Who is signed in with the cookie, or null. */
  me(): Promise<Me | null>;
  /** Leave the page for the sign-in; it returns to this page, or to a path of the same origin. */
  login(returnTo?: string): Promise<void>;
  /**
   * Close the connection and end the session. Goes to the address that the BFF names, and returns
   * it; null if there is none.
   */
  logout(): Promise<string | null>;

  /** Listen to the events of a topic, or of all with "*". */
  readonly on: On<C>;
  /** Listen to changes of the connection's state; with `current` to the present one too. */
  onState(listener: (change: StateChange) => void, options?: { current?: boolean }): Off;
  /**
   * Listen to lost messages. The listener gets the streams and the ids at which they continue,
   * before any later message: reload the data that depends on these streams.
   */
  onGap(listener: (streams: Positions) => void): Off;
  /** Listen to errors that belong to no request, and to frames that cannot be read. */
  onError(listener: (error: BffError) => void): Off;
  /**
   * The client has closed because the user is not signed in, or the session has ended. Called once
   * for each `connect`.
   */
  onSignInRequired(listener: (status: Status) => void): Off;
}
