/** @import { Session, Status, TransportKind } from "../bff-client.js" */
/** @import { Credentials } from "./credentials.js" */
/** @import { Deferred } from "./promises.js" */
/** @import { Transports } from "./transports.js" */
/** @import { ConnectionListener, End } from "./types.js" */

import {
  GOING_AWAY,
  NORMAL,
  NOT_AUTHENTICATED,
  TOKEN_EXPIRED,
  allowsReconnect,
} from "./close-codes.js";
import { connectionLost } from "./errors.js";
import { Link } from "./link.js";
import { isPageVisible, watchPage } from "./page.js";
import { Timers, deferred } from "./promises.js";

/**
 * Keeps one link open: connects, waits, reconnects. Every method reports a change of state last,
 * because a listener may cause another one.
 */
export class Connection {
  #limits;
  #credentials;
  #transports;
  #listener;
  /** The connection itself, open or not. */
  link;

  status = /** @type {Status} */ ({ state: "closed", ...ended(NORMAL, "not connected yet") });
  session = /** @type {Session | null} */ (null);
  /** Whether `connect` was ever called. */
  hasBegun = false;
  #ready = /** @type {Deferred<Session>} */ (deferred());
  #unwatchPage = () => {};
  #failures = 0;
  /** Before this time (of `performance.now`) a drained client does not reconnect by itself. */
  #drainedUntil = 0;
  #timers = new Timers();

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
    this.link = new Link(limits, credentials, transports, this, listener);
  }

  get isOpen() {
    return this.status.state === "open";
  }

  /** Fulfilled with the hello when the connection is open; rejected when the client closes. */
  get ready() {
    return this.#ready.promise;
  }

  /** Connect; if the client waits to reconnect, at once, but not before `drain` allows it. */
  connect() {
    this.hasBegun = true;
    if (this.status.state !== "closed") {
      this.#hurry();
      return;
    }
    this.#failures = 0;
    this.#renewReady();
    this.#unwatchPage = watchPage({
      onActive: () => (this.isOpen ? this.link.check() : this.#hurry()),
      onOffline: () => this.isOpen && this.link.check(),
      onHide: () => this.#onHide(),
    });
    this.#connectOnce();
  }

  /** @param {string} reason */
  close(reason) {
    if (this.status.state !== "closed") this.#finish({ code: NORMAL, reason });
  }

  /**
   * The BFF accepted a token.
   *
   * @param {Partial<Session> & { expires_at: number }} facts
   */
  renew(facts) {
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
    const { backoffBaseMs, backoffCapMs, visibleBackoffCapMs } = this.#limits;
    const capMs = isPageVisible() ? Math.min(visibleBackoffCapMs, backoffCapMs) : backoffCapMs;
    return Math.random() * Math.min(capMs, backoffBaseMs * 2 ** failures);
  }

  #connectOnce() {
    this.#timers.stopAll();
    const transport = this.#transports.next();
    /** @type {Status} */
    const status = { state: "connecting", transport };
    this.#setStatus(status);
    if (this.status === status) this.link.open(transport);
  }

  /**
   * Also called when another transport has taken over: then calls that were sent are lost.
   *
   * @param {Session} hello
   * @param {TransportKind} transport
   */
  onOpen(hello, transport) {
    if (this.isOpen) this.#listener.onLost();
    this.#timers.start("stable", this.#limits.stableMs, () => (this.#failures = 0));
    this.#credentials.accepted(hello);
    this.session = hello;
    this.status = { state: "open", transport, session: hello };
    this.#renewReady();
    this.#ready.resolve(hello);
    this.#listener.onOpen(hello);
  }

  /** @param {End} end */
  onEnd(end) {
    const { code, reason, error, isFinal } = end;
    if (!this.isOpen) this.#transports.onFailed(end);
    const again = !isFinal && allowsReconnect(code);
    if (!again && !(code === NOT_AUTHENTICATED && this.#credentials.refused())) {
      this.#finish(end);
      return;
    }
    if (code === TOKEN_EXPIRED) this.#credentials.expired();
    const drainMs = this.link.drainMs ?? 0;
    this.#drainedUntil = performance.now() + drainMs;
    const delayMs = drainMs + this.backoff(this.#failures);
    this.#failures += 1;
    this.#timers.stopAll();
    this.link.close();
    this.#listener.onLost();
    this.#renewReady();
    this.#retryAfter(delayMs);
    const retryAt = Date.now() + delayMs;
    this.#setStatus({ state: "waiting", ...ended(code, reason, error), delayMs, retryAt });
  }

  /** @param {number} delayMs */
  #retryAfter(delayMs) {
    this.#timers.start("retry", delayMs, () => this.#connectOnce());
  }

  #onHide() {
    const end = { code: GOING_AWAY, reason: "page hidden" };
    if (this.isOpen || this.status.state === "connecting") this.onEnd(end);
  }

  /** Do not wait for the back-off, but for the time that `drain` named. */
  #hurry() {
    if (this.status.state !== "waiting") return;
    const drainedMs = this.#drainedUntil - performance.now();
    if (drainedMs > 0) this.#retryAfter(drainedMs);
    else this.#connectOnce();
  }

  /** @param {End} end */
  #finish({ code, reason, error }) {
    this.#timers.stopAll();
    this.link.close();
    this.#unwatchPage();
    const lost = connectionLost(`Connection closed (${code}) ${reason}`.trim(), error);
    this.#listener.onClosed(lost);
    this.#renewReady();
    this.#ready.reject(lost);
    this.#setStatus({ state: "closed", ...ended(code, reason, error) });
  }

  /** @param {Status} status */
  #setStatus(status) {
    this.status = status;
    this.#listener.onStatus();
  }

  #renewReady() {
    if (this.#ready.settled) this.#ready = deferred();
  }
}

/**
 * @param {number} code
 * @param {string} reason
 * @param {unknown} [error]
 */
function ended(code, reason, error) {
  return { code, reason, ...(error !== undefined && { error }) };
}
