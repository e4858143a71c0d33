/** @import { Session, TransportKind } from "../bff-client.js" */
/** @import { Credentials } from "./credentials.js" */
/** @import { Transports } from "./transports.js" */
/** @import { LinkListener, Transport, TransportListener } from "./types.d.ts" */

import { parseFrame } from "./frames.js";
import { Heartbeat } from "./heartbeat.js";
import { Timers } from "./promises.js";
import { TokenRenewal } from "./token-renewal.js";

const ABNORMAL = 1006;
const MAX_DRAIN_MS = 5 * 60_000;
/** Longest silence before a ping. With the ping's own time a dead link is noticed in a minute. */
const MAX_QUIET_MS = 50_000;

/** One connection to the BFF, from the attempt to its end. It can be opened again. */
export class Link {
  #transports;
  #connectTimeoutMs;
  #listener;
  #transport = /** @type {Transport | null} */ (null);
  #isOpen = false;
  #attempt = new AbortController();
  #timers = new Timers();
  #heartbeat;
  #renewal;
  /** The delay that a draining server sent: nothing new is sent to it. */
  drainMs = /** @type {number | null} */ (null);

  /**
   * @param {import("./options.js").Limits} limits
   * @param {Credentials} credentials
   * @param {Transports} transports
   * @param {LinkListener} listener
   */
  constructor(limits, credentials, transports, listener) {
    this.#transports = transports;
    this.#connectTimeoutMs = limits.connectTimeoutMs;
    this.#listener = listener;
    const renew = async (/** @type {string} */ token) =>
      this.#transport?.kind === "events" ? this.#transport.ping() : listener.authenticate(token);
    this.#renewal = new TokenRenewal(credentials, renew);
    this.#heartbeat = new Heartbeat(
      limits.pingTimeoutMs,
      () => this.#transport?.ping(),
      () => listener.onEnd({ code: ABNORMAL, reason: "ping timeout" }),
    );
  }

  /**
   * Returns whether the frame was sent: not while connecting or draining.
   *
   * @type {Transport["send"]}
   */
  send(frame, text) {
    if (!this.#isOpen || this.drainMs !== null) return false;
    return this.#transport?.send(frame, text) ?? false;
  }

  /** Find out whether the link still works. */
  check() {
    this.#heartbeat.check();
  }

  close() {
    this.#isOpen = false;
    this.#timers.stopAll();
    this.#heartbeat.stop();
    this.#renewal.stop();
    this.#attempt.abort();
    this.drainMs = null;
    this.#transport?.close();
    this.#transport = null;
  }

  /** @param {TransportKind} kind */
  async open(kind) {
    this.close();
    const { signal } = (this.#attempt = new AbortController());
    this.#timers.start("connect", this.#connectTimeoutMs, () =>
      this.#listener.onEnd({ code: ABNORMAL, reason: "connect timeout", isTimeout: true }),
    );
    const transport = await this.#transports.open(kind, signal, this.#transportListener());
    if (signal.aborted) transport?.close();
    else this.#transport = transport;
  }

  /** @returns {TransportListener} */
  #transportListener() {
    return {
      onFrame: (data) => this.#onFrame(data),
      onClose: (end) => this.#listener.onEnd(end),
      onAlive: () => this.#heartbeat.received(),
      onUpgrade: (socket, hello) => this.#adopt(socket, hello),
      onReplaced: (hello) => {
        this.#listener.onReplaced(hello);
        if (this.#isOpen) this.#renewal.start();
      },
    };
  }

  /**
   * A WebSocket can be had again: it takes the place of the event stream.
   *
   * @param {Transport} transport
   * @param {Session} hello
   */
  #adopt(transport, hello) {
    this.close();
    this.#attempt = new AbortController();
    this.#transport = transport;
    transport.listener = this.#transportListener();
    this.#onHello(hello);
  }

  /** @param {Session} hello */
  #onHello(hello) {
    const kind = this.#transport?.kind ?? "websocket";
    this.#isOpen = true;
    this.#timers.stop("connect");
    this.#transports.onOpen();
    this.#heartbeat.start(Math.min(2000 * hello.ping_interval || Infinity, MAX_QUIET_MS));
    this.#listener.onOpen(hello, kind);
    if (this.#isOpen) this.#renewal.start();
  }

  /** @param {unknown} data */
  #onFrame(data) {
    const { type, payload } = parseFrame(data);
    this.#heartbeat.received();
    if (!this.#isOpen) {
      const isHello = type === "event" && payload.topic === "hello";
      if (isHello) this.#onHello(payload.event ?? {});
      else this.#listener.onFrame(undefined, data);
    } else if (type === "drain") {
      const ms = Number(payload.reconnect_after_ms);
      this.drainMs = Math.min(Math.max(ms, 0) || 0, MAX_DRAIN_MS);
    } else {
      this.#listener.onFrame(type, payload);
    }
  }
}
