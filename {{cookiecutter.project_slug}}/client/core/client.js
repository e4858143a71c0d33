/** @import { CallOptions, Options, Session } from "../bff-client.js" */
/** @import { Listener } from "./listeners.js" */

import { Calls } from "./calls.js";
import { Connection } from "./connection.js";
import { Credentials } from "./credentials.js";
import { BffError, connectionLost } from "./errors.js";
import { GAP, Inbox } from "./inbox.js";
import { Listeners } from "./listeners.js";
import { limitsOf } from "./options.js";
import { Topics } from "./topics.js";
import { Transports } from "./transports.js";

const [STATE, ERROR] = [Symbol("state"), Symbol("error")];

/** One user's connection to the BFF. It reconnects until it is closed or refused. */
export class BffClient {
  #connection;
  #calls;
  #topics;
  #listeners = new Listeners();
  #inbox;

  /** @param {Options} [options] */
  constructor({ url = "/ws", getToken, getTicket, positions, WebSocket, ...limits } = {}) {
    const checked = limitsOf(limits);
    if (getTicket && getToken) throw new TypeError("pass getTicket or getToken, not both");
    const Socket = WebSocket ?? globalThis.WebSocket;
    if (!Socket) throw new TypeError("no WebSocket on this platform: pass one");
    const address = new URL(url, globalThis.location?.href);
    address.hash = "";
    const ticketUrl = new URL("auth/ticket", address.href.replace(/^ws/, "http"));
    const socketUrl = new URL(address.href.replace(/^http/, "ws"));
    const credentials = new Credentials(ticketUrl, getToken, getTicket, checked.refreshMs);
    this.#inbox = new Inbox(this.#listeners, (topic, event) =>
      this.#topics.onServerEvent(topic, event),
    );
    this.#inbox.positions.startAt(positions);
    this.#calls = new Calls(checked, (text) => this.#connection.send(text));
    const since = () => this.#inbox.since;
    const transports = new Transports(socketUrl, credentials, Socket, since);
    this.#connection = new Connection(checked, credentials, transports, {
      onOpen: (hello) => this.#onOpen(hello),
      onFrame: (type, payload) => this.#onFrame(type, payload),
      authenticate: (token) => this.authenticate(token),
      onLost: () => this.#onLost(),
      onClosed: (error) => this.#onClosed(error),
      onState: (change) => this.#listeners.emit(STATE, change),
    });
    this.#topics = new Topics({
      positions: this.#inbox.positions,
      isOpen: () => this.#connection.state === "open",
      call: (type, payload, onResult) => this.#call(type, payload, {}, onResult),
      backoff: (failures) => this.#connection.backoff(failures),
      onGap: (missed) => this.#inbox.gap(missed),
      onRefused: (topic, error) =>
        this.#inbox.emit("unsubscribed", { topics: [topic], error }, null),
    });
  }

  get state() {
    return this.#connection.state;
  }

  /** The last hello, or null before the first. */
  get session() {
    return this.#connection.session;
  }

  /** Fulfilled with the hello when the connection is open; rejected when the client closes. */
  get ready() {
    return this.#connection.ready;
  }

  /** The id of the last message delivered in each stream. */
  get positions() {
    return this.#inbox.positions.all;
  }

  /** Connect; skips the delay if the client is waiting to reconnect. Returns `ready`. */
  connect() {
    this.#connection.connect();
    return this.ready;
  }

  /** Close the connection. The client does not reconnect until `connect` is called. */
  close(reason = "closed by the page") {
    this.#connection.close(reason);
  }

  /**
   * Call a method of a service or of the BFF and wait for its result.
   *
   * @param {string} service
   * @param {string} method
   * @param {object} params
   * @param {CallOptions} options
   */
  request(service, method, params = {}, options = {}) {
    return this.#call("request", { service, method, params }, options);
  }

  /**
   * Call a method of a service without waiting for its result.
   *
   * @param {string} service
   * @param {string} method
   * @param {object} params
   * @param {CallOptions} options
   */
  command(service, method, params = {}, options = {}) {
    return this.#call("command", { service, method, params }, options);
  }

  /**
   * Send a fresh token of the same user over the open connection.
   *
   * @param {string} token
   * @param {CallOptions} options
   */
  async authenticate(token, options = {}) {
    return this.#connection.renew(await this.#call("authenticate", { token }, options));
  }

  /**
   * Subscribe to a topic, across reconnects, until `unsubscribe`. Fulfilled once subscribed.
   *
   * @param {string} topic
   */
  async subscribe(topic) {
    if (this.state === "closed") throw connectionLost("The client is closed");
    await this.#topics.want(topic);
  }

  /**
   * Unsubscribe from a topic.
   *
   * @param {string} topic
   */
  unsubscribe(topic) {
    this.#topics.drop(topic);
  }

  /**
   * Listen to the events of a topic, or of all with `"*"`. Returns a function that removes it.
   *
   * @param {string} topic
   * @param {Listener} listener
   */
  on(topic, listener) {
    return this.#listeners.add(topic, listener);
  }

  /**
   * Listen to changes of the connection's state.
   *
   * @param {Listener} listener
   */
  onState(listener) {
    return this.#listeners.add(STATE, listener);
  }

  /**
   * Listen to lost messages: reload the data that depends on the reported streams.
   *
   * @param {Listener} listener
   */
  onGap(listener) {
    return this.#listeners.add(GAP, listener);
  }

  /**
   * Listen to errors that belong to no request.
   *
   * @param {Listener} listener
   */
  onError(listener) {
    return this.#listeners.add(ERROR, listener);
  }

  /** @param {Session} hello */
  #onOpen(hello) {
    const missed = this.#inbox.positions.startAt(hello.positions, hello.recovered);
    this.#topics.sync();
    this.#calls.sendWaiting();
    this.#listeners.emit(STATE, { state: "open", session: hello });
    this.#inbox.gap(missed);
  }

  #onLost() {
    this.#topics.onDisconnected();
    this.#calls.failSent();
  }

  /** @param {Error} error */
  #onClosed(error) {
    this.#topics.onClosed(error);
    this.#calls.failAll();
  }

  /**
   * @param {string} type
   * @param {object} payload
   * @param {CallOptions} options
   * @param {(result: any) => void} [onResult]
   */
  async #call(type, payload, options, onResult) {
    if (this.state === "closed") throw connectionLost("The client is closed");
    return this.#calls.start(type, payload, options, onResult);
  }

  /**
   * @param {string} type
   * @param {any} payload
   */
  #onFrame(type, payload) {
    if (type === "event") {
      this.#inbox.receive(payload);
    } else if (type === "response") {
      this.#calls.settle(payload.trace_id, payload.error, payload.result);
    } else if (type === "error") {
      if (payload.trace_id) this.#calls.settle(payload.trace_id, payload);
      else this.#listeners.emit(ERROR, new BffError(payload));
    } else if (type === "gap") {
      this.#inbox.positions.startAt(payload.streams);
      this.#inbox.gap(payload.streams ?? {});
    }
  }
}
