/** @import { Session, StateChange } from "../bff-client.js" */
/** @import { Credentials } from "./credentials.js" */
/** @import { SocketTransport } from "./socket-transport.js" */
/** @import { Transports } from "./transports.js" */

import { connectionLost } from "./errors.js";
import { parseFrame } from "./frames.js";
import { Heartbeat } from "./heartbeat.js";
import { watchPage } from "./page.js";
import { Timers, deferred } from "./promises.js";
import { TokenRenewal } from "./token-renewal.js";

const NORMAL = 1000;
const ABNORMAL = 1006;
const TOKEN_EXPIRED = 4003;
const NOT_AUTHENTICATED = 4500;
const RECONNECT_CODES = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015]);
const MAX_DRAIN_MS = 5 * 60_000;

/**
 * Why a connection ended, or could not be opened.
 *
 * @typedef {object} End
 * @property {number} code
 * @property {string} reason
 * @property {unknown} [error]
 * @property {boolean} [isFinal] another attempt would end the same way
 */

/**
 * @typedef {object} TransportListener
 * @property {(data: unknown) => void} onFrame
 * @property {(end: End) => void} onClose
 */

/**
 * What the connection reports to the client.
 *
 * @typedef {object} ConnectionListener
 * @property {(hello: Session) => void} onOpen
 * @property {(type: string, payload: any) => void} onFrame a frame after the hello
 * @property {(token: string) => Promise<unknown>} authenticate
 * @property {() => void} onLost
 * @property {(error: Error) => void} onClosed
 * @property {(change: StateChange) => void} onState
 */

/**
 * Keeps one connection open: connects, reconnects, notices a dead link. Every method reports a
 * change of state last, because a listener may cause another one.
 */
export class Connection {
  #limits;
  #credentials;
  #transports;
  #listener;

  state = /** @type {StateChange["state"]} */ ("closed");
  session = /** @type {Session | null} */ (null);
  #ready = /** @type {import("./promises.js").Deferred<Session>} */ (deferred());
  #transport = /** @type {SocketTransport | null} */ (null);
  #attempt = /** @type {AbortController | null} */ (null);
  #unwatchPage = /** @type {(() => void) | null} */ (null);
  #failures = 0;
  #drainMs = /** @type {number | null} */ (null);
  /** Before this time (of `performance.now`) a drained client does not reconnect by itself. */
  #drainedUntil = 0;
  #timers = new Timers();
  #heartbeat;
  #renewal;

  /**
   * @param {import("./options.js").Limits} limits
   * @param {Credentials} credentials
   * @param {Transports} transports
   * @param {ConnectionListener} listener
   */
  constructor(limits, credentials, transports, listener) {
    this.#limits = limits;
    this.#credentials = credentials;
    this.#transports = transports;
    this.#listener = listener;
    this.#renewal = new TokenRenewal(credentials, listener.authenticate);
    this.#heartbeat = new Heartbeat(
      limits.pingTimeoutMs,
      () => this.#transport?.send('{"type":"ping","payload":{}}'),
      () => this.#onDisconnect({ code: ABNORMAL, reason: "ping timeout" }),
    );
  }

  /** Fulfilled with the hello when the connection is open; rejected when the client closes. */
  get ready() {
    return this.#ready.promise;
  }

  /** Connect; skips the delay if the client is waiting to reconnect. */
  connect() {
    if (this.state === "closed") {
      this.#failures = 0;
      this.#renewReady();
      this.#unwatchPage = watchPage(() => this.#onPageActive());
    }
    if (this.state === "closed" || this.state === "waiting") this.#connectOnce();
  }

  /** @param {string} reason */
  close(reason) {
    if (this.state !== "closed") this.#finish({ code: NORMAL, reason });
  }

  /**
   * Send a frame if the connection is open and not draining; returns whether it was sent.
   *
   * @param {string} text
   */
  send(text) {
    if (this.state !== "open" || this.#drainMs !== null) return false;
    return this.#transport?.send(text) ?? false;
  }

  /** The BFF accepted a new token on the open connection. */
  renew(/** @type {Partial<Session> & { expires_at: number }} */ facts) {
    this.#credentials.accepted(facts);
    this.session = { .../** @type {Session} */ (this.session), ...facts };
    return this.session;
  }

  /**
   * A random delay between 0 and a limit that doubles with each failure ("full jitter").
   *
   * @param {number} failures
   */
  backoff(failures) {
    const { backoffBaseMs, backoffCapMs } = this.#limits;
    return Math.random() * Math.min(backoffCapMs, backoffBaseMs * 2 ** failures);
  }

  async #connectOnce() {
    this.#dispose();
    const { signal } = (this.#attempt = new AbortController());
    this.#timers.start("connect", this.#limits.connectTimeoutMs, () =>
      this.#onDisconnect({ code: ABNORMAL, reason: "connect timeout" }),
    );
    this.#setState({ state: "connecting" });
    if (signal.aborted) return;
    const transport = await this.#transports.open(signal, {
      onFrame: (data) => this.#onFrame(data),
      onClose: (end) => this.#onDisconnect(end),
    });
    if (signal.aborted) transport?.close();
    else this.#transport = transport;
  }

  /** @param {Session} hello */
  #onHello(hello) {
    this.#timers.stop("connect");
    this.#timers.start("stable", this.#limits.stableMs, () => (this.#failures = 0));
    this.session = hello;
    this.#credentials.accepted(hello);
    this.state = "open";
    this.#heartbeat.start(2000 * hello.ping_interval || Infinity);
    this.#renewal.start();
    this.#ready.resolve(hello);
    this.#listener.onOpen(hello);
  }

  /** @param {End} end */
  #onDisconnect(end) {
    const { code, isFinal, ...detail } = end;
    const again = !isFinal && ((code >= 4000 && code <= 4499) || RECONNECT_CODES.has(code));
    if (!again && !(code === NOT_AUTHENTICATED && this.#credentials.refused())) {
      this.#finish(end);
      return;
    }
    if (code === TOKEN_EXPIRED) this.#credentials.expired();
    this.#drainedUntil = performance.now() + (this.#drainMs ?? 0);
    const delayMs = (this.#drainMs ?? 0) + this.backoff(this.#failures);
    this.#failures += 1;
    this.#dispose();
    this.#listener.onLost();
    this.#renewReady();
    this.#retryAfter(delayMs);
    this.#setState({ state: "waiting", code, ...detail, delayMs });
  }

  /** @param {number} delayMs */
  #retryAfter(delayMs) {
    this.#timers.start("retry", delayMs, () => this.#connectOnce());
  }

  /** @param {End} end */
  #finish(end) {
    this.#dispose();
    this.#unwatchPage?.();
    const { code, reason, error } = end;
    const lost = connectionLost(`Connection closed (${code}) ${reason}`.trim(), error);
    this.#listener.onClosed(lost);
    this.#renewReady();
    this.#ready.reject(lost);
    this.#setState({ state: "closed", code, reason, ...(error !== undefined && { error }) });
  }

  /** @param {StateChange} change */
  #setState(change) {
    this.state = change.state;
    this.#listener.onState(change);
  }

  #renewReady() {
    if (this.#ready.settled) this.#ready = deferred();
  }

  #dispose() {
    this.#timers.stopAll();
    this.#heartbeat.stop();
    this.#renewal.stop();
    this.#attempt?.abort();
    this.#drainMs = null;
    this.#transport?.close();
    this.#transport = null;
  }

  /** Reconnect without delay, but not before the time that `drain` named. */
  #onPageActive() {
    const drainedMs = this.#drainedUntil - performance.now();
    if (this.state === "waiting" && drainedMs > 0) this.#retryAfter(drainedMs);
    else if (this.state === "waiting") this.#connectOnce();
    else if (this.state === "open") this.#heartbeat.check();
  }

  /** @param {unknown} data */
  #onFrame(data) {
    const { type, payload } = parseFrame(data);
    if (this.state !== "open") {
      if (type === "event" && payload.topic === "hello") this.#onHello(payload.event ?? {});
      return;
    }
    this.#heartbeat.received();
    if (type === "drain") {
      const ms = Number(payload.reconnect_after_ms);
      this.#drainMs = Math.min(Math.max(ms, 0) || 0, MAX_DRAIN_MS);
    } else {
      this.#listener.onFrame(type, payload);
    }
  }
}
