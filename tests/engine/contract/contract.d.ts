// Written by `bff types`. Do not edit: change the models in Python, then run it again.

/** Shop, version 1.2.3 */
export interface Contract {
  methods: {
    orders: {
      place: { params: Place; result: Order };
      list: { params: Nothing | undefined; result: Order[] };
      [name: `get_${string}`]: { params: Subscribe; result: Order };
    };
    old: {
      call: { params: object | undefined; result: unknown };
      "un-do": { params: object | undefined; result: unknown };
    };
    chat: {
      /**
       * Nothing to say.
       *
       * In two paragraphs.
       */
      now: { params: Record<string, never> | undefined; result: null };
      any: { params: Place; result: unknown };
    };
  };
  events: {
    /** An order has changed. */
    "order.updated": Order;
    typing: string;
    result: LateResult;
  };
  topics: {
    /** The messages of a room. */
    [name: `rooms.${string}`]: Message;
    [name: `prices.${string}`]: number;
    [name: `presence.${string}`]: PresenceChange;
    secret: unknown;
  };
}

export interface Place {
  item: string;
  quantity?: number;
  address?: AddressInput | null;
}

/**
 * An order.
 *
 * Ends a comment: *\/
 */
export interface Order {
  /** The number *\/ of the order. */
  orderId: number;
  placed: string;
  status: Status;
  address: AddressOutput | null;
  lines: [string, number][];
  labels: Record<string, string>;
  payment: Card | Cash;
  tree: Node | null;
  matrix: (number | null)[][];
  anything: unknown;
  flag: true | 7 | "x";
  "with-dash": string;
}

export type Nothing = Record<string, never>;

/** Has the name of a frame of the engine. */
export interface Subscribe {
  newsletter: boolean;
}

/** A reply that arrived after the request's timeout, or after its connection closed. */
export interface LateResult {
  /** The trace id of the browser's request. */
  trace_id: string;
  result: unknown;
  error: ErrorObject | null;
}

export interface Message {
  by: string;
  text: string;
}

/** A user came online, or went offline. */
export interface PresenceChange {
  type: "user.online" | "user.offline";
  user_id: string;
}

/** Where it goes. */
export interface AddressInput {
  street: string;
  city?: string;
}

export type Status = "open" | "paid";

/** Where it goes. */
export interface AddressOutput {
  street: string;
  city: string;
}

export interface Card {
  kind: "card";
  number: string;
}

export interface Cash {
  kind: "cash";
}

export interface Node {
  name: string;
  children: Node[];
}

/** The error of a response. `code` is for programs, `description` for people. */
export interface ErrorObject {
  /** The name of NuroPb's exception class, for clients of `nuropb_gw`. */
  error: string;
  description: string;
  code: Code;
  /** A retry can succeed and cannot do the work twice. */
  retryable: boolean;
  outcome: Outcome;
  /** A retry can succeed after this time. Absent if it is not known. */
  retry_after_ms?: number | null;
}

/** Every error code that a client can receive. */
export type Code = "unauthenticated" | "forbidden" | "not_found" | "method_not_allowed" | "conflict" | "deprecated" | "too_large" | "invalid_params" | "rate_limited" | "too_many_in_flight" | "cancelled" | "service_error" | "service_unavailable" | "mesh_unavailable" | "timeout" | "internal";

/** Whether the requested work was done. */
export type Outcome = "not_sent" | "done" | "unknown";
