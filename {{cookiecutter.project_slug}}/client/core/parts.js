/** @import { Options, Session } from "../bff-client.js" */

import { Calls } from "./calls.js";
import { needsSignIn } from "./close-codes.js";
import { Connection } from "./connection.js";
import { Credentials } from "./credentials.js";
import { BffError } from "./errors.js";
import { Inbox } from "./inbox.js";
import { Listeners } from "./listeners.js";
import { limitsOf, socketUrl } from "./options.js";
import { ignore } from "./promises.js";
import { Topics } from "./topics.js";
import { Transports } from "./transports.js";

export const [STATE, ERROR, SIGN_IN] = [Symbol("state"), Symbol("error"), Symbol("sign-in")];

/** The parts of a client, and what they tell each other. */
export class Parts {
  listeners = new Listeners();
  inbox = new Inbox(this.listeners, (topic, event) => this.topics.onServerEvent(topic, event));

  /** @type {Topics} */
  topics;
  /** @type {Connection} */
  connection;

  /** @param {Options} options */
  constructor({ url = "/ws", getToken, getTicket, positions, WebSocket, transports, ...rest }) {
    const limits = limitsOf(rest);
    if (getTicket && getToken) throw new TypeError("pass getTicket or getToken, not both");
    const address = () => socketUrl(url);
    const credentials = new Credentials(address, getToken, getTicket, limits.refreshMs);
    this.calls = new Calls(limits, (frame, text) => this.connection.link.send(frame, text));
    this.inbox.positions.startAt(positions);
    const kinds = transports ?? (getTicket ? ["websocket"] : ["websocket", "events"]);
    const Socket = WebSocket ?? globalThis.WebSocket;
    const since = () => this.inbox.since;
    const links = new Transports(kinds, credentials, Socket, since, {
      ...(this.httpNeeds = { address, getToken }),
      since: () => Object.values(this.inbox.positions.all).join(","),
      topics: () => this.topics.subscribed,
      reply: (traceId, error, result) => this.calls.settle(traceId, error, result),
    });
    this.connection = new Connection(limits, credentials, links, this);
    this.topics = new Topics(this);
  }

  /**
   * A topic that was subscribed before, or is followed, is refused.
   *
   * @param {string} topic
   * @param {unknown} error
   */
  onRefused(topic, error) {
    this.inbox.emit("unsubscribed", { topics: [topic], error }, null);
    this.listeners.emit(ERROR, error);
  }

  /** @param {string} token */
  async authenticate(token, options = {}) {
    return this.connection.renew(await this.calls.start("authenticate", { token }, options));
  }

  /** @param {Session} hello */
  onOpen({ positions, recovered, topics }) {
    if (topics) import("./hints.js").then((hints) => hints.watchListeners(this, topics), ignore);
    const missed = this.inbox.positions.startAt(positions, recovered);
    this.topics.sync();
    this.calls.sendWaiting();
    this.onStatus();
    this.inbox.gap(missed);
  }

  /** @param {Session} hello */
  onReplaced(hello) {
    const { positions, recovered } = this.connection.renew(hello);
    const missed = this.inbox.positions.startAt(positions, recovered);
    this.calls.sendWaiting();
    this.inbox.gap(missed);
  }

  onLost() {
    this.topics.onDisconnected();
    this.calls.failSent();
  }

  /** @param {Error} error */
  onClosed(error) {
    this.topics.onClosed(error);
    this.calls.failAll();
  }

  onStatus() {
    const { status } = this.connection;
    this.listeners.emit(STATE, status);
    const isCurrent = status === this.connection.status;
    if (isCurrent && status.state === "closed" && needsSignIn(status.code)) {
      this.listeners.emit(SIGN_IN, status);
    }
  }

  /**
   * @param {unknown} type
   * @param {any} payload
   */
  onFrame(type, payload) {
    if (type === "event" && typeof payload.topic === "string") {
      this.inbox.receive(payload);
    } else if (type === "response") {
      this.calls.settle(payload.trace_id, payload.error, payload.result);
    } else if (type === "error") {
      if (payload.trace_id) this.calls.settle(payload.trace_id, payload);
      else this.listeners.emit(ERROR, new BffError(payload));
    } else if (type === "gap") {
      this.inbox.positions.startAt(payload.streams);
      this.inbox.gap(payload.streams ?? {});
    } else if (type !== "pong") {
      const description = "The frame cannot be read";
      this.listeners.emit(ERROR, new BffError({ code: "unreadable", description, cause: payload }));
    }
  }
}
