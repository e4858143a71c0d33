/** @import { Session, TransportKind } from "../bff-client.js" */
/** @import { Credentials } from "./credentials.js" */
/** @import { Transports } from "./transports.js" */
/** @import { ConnectionListener, End, LinkOwner, Transport, TransportListener } from "./types.js" */

import { ABNORMAL } from "./close-codes.js";
import { parseFrame } from "./frames.js";
import { Heartbeat } from "./heartbeat.js";
import { Timers } from "./promises.js";

const MAX_DRAIN_MS = 5 * 60_000;
/** Longest silence before a ping. With the ping's own time a dead link is noticed in a minute. */
const MAX_QUIET_MS = 50_000;

/**
 * One connection to the BFF, from the attempt to its end. It can be opened again.
 *
 * @implements {TransportListener}
 */
export class Link {
  #transports;
  #connectTimeoutMs;
  #owner;
  #client;
  #transport = /** @type {Transport | null} */ (null);
  #isOpen = false;
  #attempt = new AbortController();
  #timers = new Timers();
  #heartbeat;
  #credentials;
  /** The delay that a draining server sent: nothing new is sent to it. */
  drainMs = /** @type {number | null} */ (null);

  /**
   * @param {import("./options.js").Limits} limits
   * @param {Credentials} credentials
   * @param {Transports} transports
   * @param {LinkOwner} owner
   * @param {ConnectionListener} client
   */
  constructor(limits, credentials, transports, owner, client) {
    this.#transports = transports;
    this.#connectTimeoutMs = limits.connectTimeoutMs;
    this.#owner = owner;
    this.#client = client;
    this.#credentials = credentials;
    this.#heartbeat = new Heartbeat(
      limits.pingTimeoutMs,
      () => this.#transport?.ping(),
      () => owner.onEnd({ code: ABNORMAL, reason: "ping timeout" }),
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
    this.#credentials.stopRenewal();
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
      this.#owner.onEnd({ code: ABNORMAL, reason: "connect timeout", isTimeout: true }),
    );
    const transport = await this.#transports.open(kind, signal, this);
    if (signal.aborted) transport?.close();
    else this.#transport = transport;
  }

  /** @param {unknown} data */
  onFrame(data) {
    const { type, payload } = parseFrame(data);
    this.#heartbeat.received();
    if (!this.#isOpen) {
      const isHello = type === "event" && payload.topic === "hello";
      if (isHello) this.#onHello(payload.event ?? {});
      else this.#client.onFrame(undefined, data);
    } else if (type === "drain") {
      const ms = Number(payload.reconnect_after_ms);
      this.drainMs = Math.min(Math.max(ms, 0) || 0, MAX_DRAIN_MS);
    } else {
      this.#client.onFrame(type, payload);
    }
  }

  /** @param {End} end */
  onClose(end) {
    this.#owner.onEnd(end);
  }

  onAlive() {
    this.#heartbeat.received();
  }

  /** @param {Session} hello */
  onReplaced(hello) {
    this.drainMs = null; // the stream that was drained is gone
    this.#client.onReplaced(hello);
    if (this.#isOpen) this.#startRenewal();
  }

  /**
   * A WebSocket can be had again: it takes the place of the event stream.
   *
   * @param {Transport} transport
   * @param {Session} hello
   */
  onUpgrade(transport, hello) {
    this.close();
    this.#attempt = new AbortController();
    this.#transport = transport;
    transport.listener = this;
    this.#onHello(hello);
  }

  /** @param {Session} hello */
  #onHello(hello) {
    const kind = this.#transport?.kind ?? "websocket";
    this.#isOpen = true;
    this.#timers.stop("connect");
    this.#transports.onOpen();
    this.#heartbeat.start(Math.min(2000 * hello.ping_interval || Infinity, MAX_QUIET_MS));
    this.#owner.onOpen(hello, kind);
    if (this.#isOpen) this.#startRenewal();
  }

  #startRenewal() {
    this.#credentials.startRenewal(async (token) =>
      this.#transport?.kind === "events"
        ? this.#transport.ping()
        : this.#client.authenticate(token),
    );
  }
}
