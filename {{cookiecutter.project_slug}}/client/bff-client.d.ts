/** The browser's side of the BFF: requests, live events and topics over one WebSocket (`bff.v1`). */

/** The error codes of the BFF; `connection_lost` is this client's own. */
export type BffErrorCode =
  | "unauthenticated"
  | "forbidden"
  | "not_found"
  | "conflict"
  | "deprecated"
  | "invalid_params"
  | "rate_limited"
  | "too_many_in_flight"
  | "cancelled"
  | "service_error"
  | "service_unavailable"
  | "mesh_unavailable"
  | "timeout"
  | "internal"
  | "connection_lost";

/** What became of the work: never begun, ended with the error, or nobody knows. */
export type Outcome = "not_sent" | "done" | "unknown";

export class BffError extends Error {
  readonly name: "BffError";
  readonly code: BffErrorCode;
  /** In words, for people. */
  readonly description: string;
  /** True only when repeating can help and cannot do the work twice. */
  readonly retryable: boolean;
  readonly outcome: Outcome;
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
  /** Seconds between the server's pings. */
  readonly ping_interval: number;
  /** The id of the newest message of each stream. */
  readonly positions: Positions;
  /** Of each stream that was asked for: whether what was missed follows. If not, `onGap` tells. */
  readonly recovered: Readonly<Record<string, boolean>>;
}

/** Stream (`user`, `all`, `topic:<topic>`) to the id of a message, `<stream>/<epoch>/<offset>`. */
export type Positions = Readonly<Record<string, string>>;

export type State = "connecting" | "open" | "waiting" | "closed";

export type StateChange =
  | { readonly state: "connecting" }
  | { readonly state: "open"; readonly session: Session }
  | {
      /** The connection was lost and is tried again after `delayMs`. */
      readonly state: "waiting";
      readonly code: number;
      readonly reason: string;
      readonly delayMs: number;
      readonly error?: unknown;
    }
  | {
      /** The end, until `connect` is called. 1000: by `close`; 4500: not authenticated. */
      readonly state: "closed";
      readonly code: number;
      readonly reason: string;
      readonly error?: unknown;
    };

export interface EventMeta {
  readonly topic: string;
  /** Null for a message that the BFF does not store. */
  readonly id: string | null;
}

export interface TicketHint {
  /** Aborted when the attempt to connect is given up, or the connection has ended. */
  readonly signal: AbortSignal;
  /** A cached token will not do: it has expired, soon will, or was refused. */
  readonly fresh: boolean;
}

export interface Limits {
  /** Time for a request, waiting for the connection included. Default 10 000. */
  requestTimeoutMs?: number;
  /** Time for ticket, handshake and hello together. Default 15 000. */
  connectTimeoutMs?: number;
  /** Time for an answer to a ping. Default 10 000. */
  pingTimeoutMs?: number;
  /** How long before its expiry the token is renewed, with `getToken`. Default 60 000. */
  refreshMs?: number;
  /** The first back-off is a random time up to this; each further one up to twice as much. Default 500. */
  backoffBaseMs?: number;
  /** No back-off is longer. Default 30 000. */
  backoffCapMs?: number;
  /** A connection that was open this long starts the back-off anew. Default 5 000. */
  stableMs?: number;
  /** How many requests may wait for the connection. Default 30. */
  maxWaiting?: number;
  /** The server's MAX_FRAME_BYTES: a larger request is refused here. Default 65 536. */
  maxFrameBytes?: number;
}

export interface Options extends Limits {
  /** The BFF's socket; http(s): or ws(s):, or relative to the page. Default "/ws". */
  url?: string | URL;
  /** Gives the access token. It is exchanged for a ticket at `auth/ticket`, next to `url`. */
  getToken?: (hint: TicketHint) => string | Promise<string>;
  /**
   * Or: fetches a single-use ticket, for each attempt. Without either, the cookie must do.
   *
   * An error with `status` 401 or 403 means refused: asked once more with `fresh`, then it is over.
   */
  getTicket?: (hint: TicketHint) => string | Promise<string>;
  /** What `positions` was before the page was loaded again: go on from there. */
  positions?: Positions;
  /** Default `globalThis.WebSocket`. */
  WebSocket?: new (url: string, protocols: string[]) => object;
}

export interface CallOptions {
  /** Time for the answer, in milliseconds. */
  timeoutMs?: number;
  /** Aborting rejects the promise with code `cancelled` and tells the BFF. */
  signal?: AbortSignal;
}

export type EventListener<E = unknown> = (event: E, meta: EventMeta) => void;

/** Ends what it was returned by. */
export type Off = () => void;

/** One user's connection to the BFF. It comes back by itself until it is closed or refused. */
export class BffClient {
  constructor(options?: Options);

  readonly state: State;
  /** The last hello, or null before the first. */
  readonly session: Session | null;
  /** Fulfilled with the hello when the connection is open; rejected when it ends for good. */
  readonly ready: Promise<Session>;
  /** The id reached in each stream. */
  readonly positions: Positions;

  /** Open the connection, at once if it is waiting to be tried again. Returns `ready`. */
  connect(): Promise<Session>;
  /** Close the connection for good, until `connect` is called again. */
  close(reason?: string): void;

  /** Ask a service, or a method of the BFF. Rejects with a `BffError`. */
  request<R = unknown>(
    service: string,
    method: string,
    params?: object,
    options?: CallOptions,
  ): Promise<R>;
  /** Hand work to a service: fulfilled when it is accepted. Rejects with a `BffError`. */
  command(
    service: string,
    method: string,
    params?: object,
    options?: CallOptions,
  ): Promise<unknown>;
  /** Give the open connection a fresh token of the same user. Rejects with a `BffError`. */
  authenticate(token: string, options?: CallOptions): Promise<Session>;

  /**
   * Have the BFF send a topic, on each connection until `unsubscribe`. Fulfilled when it does,
   * however often the connection breaks before. Rejects with a `BffError` when it is refused.
   *
   * Refused later, or taken away by the BFF, it is told as event `unsubscribed`.
   */
  subscribe(topic: string): Promise<void>;
  /** Have the BFF send a topic no more, however often it was subscribed. */
  unsubscribe(topic: string): void;

  /** Hear the events of a topic, or of all with "*". */
  on<E = unknown>(topic: string, listener: EventListener<E>): Off;
  /** Hear how the connection fares. */
  onState(listener: (change: StateChange) => void): Off;
  /**
   * Hear of streams in which messages were missed, and where they go on: fetch afresh what they
   * feed. It is told before any message that comes after what was missed.
   */
  onGap(listener: (streams: Positions) => void): Off;
  /** Hear of errors that belong to no request. */
  onError(listener: (error: BffError) => void): Off;
}
