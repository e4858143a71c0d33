/** A scripted WebSocket and a clock that moves only when told. */

import { mock } from "node:test";

import { BffClient } from "../../client/bff-client.js";

export class FakeWebSocket {
  static all = [];

  readyState = 0;
  sent = [];
  closedWith = null;

  constructor(url, protocols) {
    this.url = new URL(url);
    this.protocols = protocols;
    FakeWebSocket.all.push(this);
  }

  send(text) {
    if (this.readyState === 0) throw new Error("not open yet");
    if (this.readyState === 1) this.sent.push(JSON.parse(text));
  }

  close(code) {
    this.closedWith = code;
    this.readyState = 2;
  }

  receive(type, payload) {
    this.receiveText(JSON.stringify({ type, payload }));
  }

  receiveText(data) {
    this.onmessage?.({ data });
  }

  greet(hello) {
    this.readyState = 1;
    const event = { user_id: "ann", ping_interval: 25, positions: {}, recovered: {}, ...hello };
    this.receive("event", { topic: "hello", event });
  }

  event(id, event = id) {
    this.receive("event", { topic: "t", event, id });
  }

  breakWith(code, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
}

let now = 0;

/** Stop the clock and make chance half of everything. */
export function takeTime() {
  FakeWebSocket.all = [];
  mock.timers.enable({ apis: ["setTimeout"] });
  mock.method(performance, "now", () => now);
  mock.method(Math, "random", () => 0.5);
}

export function giveTimeBack() {
  mock.timers.reset();
  mock.restoreAll();
}

/** Let promises settle. */
export function settle() {
  return new Promise((resolve) => setImmediate(resolve));
}

export async function pass(ms) {
  now += ms;
  mock.timers.tick(ms);
  await settle();
}

/** The socket opened last. */
export function socket() {
  return FakeWebSocket.all.at(-1);
}

export function opened() {
  return FakeWebSocket.all.length;
}

/** A client and the list of its changes of state. */
export function makeClient(options = {}) {
  const bff = new BffClient({ url: "ws://bff.test/ws", WebSocket: FakeWebSocket, ...options });
  const states = [];
  bff.onState((change) => states.push(change));
  return { bff, states };
}

/** A client whose connection is open. */
export async function openClient(options, hello) {
  const { bff, states } = makeClient(options);
  bff.connect();
  await settle();
  socket().greet(hello);
  return { bff, states };
}

/** What a promise was rejected with. */
export function failure(promise) {
  return promise.then(
    (value) => Promise.reject(new Error(`fulfilled with ${JSON.stringify(value)}`)),
    (error) => error,
  );
}
