/** @import { CallOptions, Options } from "../bff-client.js" */
/** @import { Listener } from "./listeners.js" */

import { connectionLost } from "./errors.js";
import { GAP } from "./inbox.js";
import { call } from "./listeners.js";
import { ERROR, Parts, SIGN_IN, STATE } from "./parts.js";

/** One user's connection to the BFF. It reconnects until it is closed or refused. */
export class BffClient {
  #parts;

  /** @param {Options} [options] */
  constructor(options = {}) {
    this.#parts = new Parts(options);
  }

  get state() {
    return this.#parts.connection.status.state;
  }

  /** The state with its details: a new object for each change. */
  get status() {
    return this.#parts.connection.status;
  }

  /** The last hello, or null before the first. */
  get session() {
    return this.#parts.connection.session;
  }

  /** Fulfilled with the hello when the connection is open; rejected when the client closes. */
  get ready() {
    return this.#parts.connection.ready;
  }

  /** The id of the last message delivered in each stream. */
  get positions() {
    return this.#parts.inbox.positions.all;
  }

  /** Connect. A client that waits to reconnect does it now. Returns `ready`. */
  connect() {
    this.#parts.connection.connect();
    return this.ready;
  }

  /** Close the connection. The client does not reconnect until `connect` is called. */
  close(reason = "closed by the page") {
    this.#parts.connection.close(reason);
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
  authenticate(token, options = {}) {
    return this.#isFinished ? rejected() : this.#parts.authenticate(token, options);
  }

  /** Who is signed in with the cookie, or null. */
  async me() {
    return (await signIn()).me(this.#parts.httpNeeds);
  }

  /**
   * Leave the page for the sign-in, and come back to `returnTo`, by default to this page.
   *
   * @param {string} [returnTo] a path of the BFF's own origin
   */
  async login(returnTo) {
    (await signIn()).login(this.#parts.httpNeeds, returnTo);
  }

  /** Close the connection and end the session. Leaves the page if the BFF names an address. */
  async logout() {
    this.close("signed out");
    return (await signIn()).logout(this.#parts.httpNeeds);
  }

  /**
   * Follow a topic, across reconnects, until `off` is called. Each follower counts for itself.
   *
   * @param {string} topic
   * @param {Listener} listener
   */
  follow(topic, listener) {
    const removeListener = this.on(topic, listener);
    const ready = this.#parts.topics.want(topic, removeListener);
    const off = () => {
      removeListener();
      this.#parts.topics.release(topic, removeListener);
    };
    return { topic, ready, off };
  }

  /**
   * Subscribe to a topic, across reconnects, until `unsubscribe`. Fulfilled once subscribed.
   *
   * @param {string} topic
   */
  subscribe(topic) {
    return this.#isFinished ? rejected() : this.#parts.topics.want(topic);
  }

  /**
   * End what `subscribe` has begun. Followers stay.
   *
   * @param {string} topic
   */
  unsubscribe(topic) {
    this.#parts.topics.release(topic);
  }

  /**
   * Listen to the events of a topic, or of all with `"*"`. Returns a function that removes it.
   *
   * @param {string} topic
   * @param {Listener} listener
   */
  on(topic, listener) {
    return this.#parts.listeners.add(topic, listener);
  }

  /**
   * Listen to changes of the connection's state; with `{ current: true }` to the present one too.
   *
   * @param {Listener} listener
   * @param {{ current?: boolean }} options
   */
  onState(listener, { current = false } = {}) {
    const off = this.#parts.listeners.add(STATE, listener);
    if (current) call(listener, this.status);
    return off;
  }

  /**
   * Listen to lost messages: reload the data that depends on the reported streams.
   *
   * @param {Listener} listener
   */
  onGap(listener) {
    return this.#parts.listeners.add(GAP, listener);
  }

  /**
   * Listen to errors that belong to no request.
   *
   * @param {Listener} listener
   */
  onError(listener) {
    return this.#parts.listeners.add(ERROR, listener);
  }

  /**
   * The client has closed because the user must sign in. Called once for each `connect`.
   *
   * @param {Listener} listener
   */
  onSignInRequired(listener) {
    return this.#parts.listeners.add(SIGN_IN, listener);
  }

  /** Whether the client was closed. Before the first `connect` requests and topics wait. */
  get #isFinished() {
    return this.state === "closed" && this.#parts.connection.hasBegun;
  }

  /**
   * @param {string} type
   * @param {object} payload
   * @param {CallOptions} options
   */
  #call(type, payload, options) {
    return this.#isFinished ? rejected() : this.#parts.calls.start(type, payload, options);
  }
}

/** Loaded when it is needed, as the event stream is. */
function signIn() {
  return import("./sign-in.js");
}

function rejected() {
  return Promise.reject(connectionLost("The client is closed"));
}
