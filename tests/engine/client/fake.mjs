/** A scripted WebSocket and a mocked clock. */

import { afterEach, beforeEach, mock } from "node:test";

import { BffClient } from "../../../{{cookiecutter.project_slug}}/client/bff-client.js";

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

  /** Answer the frame sent last, or the one given. */
  answer(result, frame = this.sent.at(-1)) {
    this.receive("response", { trace_id: frame.payload.trace_id, result, error: null });
  }

  refuse(code, more, frame = this.sent.at(-1)) {
    const error = { code, description: code, retryable: false, outcome: "not_sent", ...more };
    this.receive("response", { trace_id: frame.payload.trace_id, result: null, error });
  }

  /** The payloads of all sent frames of a type. */
  sentOf(type) {
    return this.sent.filter((frame) => frame.type === type).map(({ payload }) => payload);
  }

  breakWith(code, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
}

const PATIENCE_NS = 20_000_000_000n;
const EPOCH_MS = 1_800_000_000_000;
let now = 0;

/** So many seconds from now, as the BFF writes times. */
export function inSeconds(seconds) {
  return Date.now() / 1000 + seconds;
}

/** In each test of the file: a clock that moves only when told, and chance is half of everything. */
export function useFakeTime() {
  beforeEach(takeTime);
  afterEach(giveTimeBack);
}

function takeTime() {
  FakeWebSocket.all = [];
  mock.timers.enable({ apis: ["setTimeout"] });
  mock.method(performance, "now", () => now);
  mock.method(Date, "now", () => EPOCH_MS + now);
  mock.method(Math, "random", () => 0.5);
}

function giveTimeBack() {
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

/** Step until something is so. The deadline is one of the real clock: modules are loaded meanwhile. */
export async function until(holds, step = settle) {
  const deadline = process.hrtime.bigint() + PATIENCE_NS;
  while (!holds()) {
    if (process.hrtime.bigint() > deadline) throw new Error(`not in time: ${holds}`);
    await step();
  }
}

/** The socket opened last. */
export function socket() {
  return FakeWebSocket.all.at(-1);
}

export function opened() {
  return FakeWebSocket.all.length;
}

/** A client and the list of its changes of state. It has the scripted socket only. */
export function makeClient(options = {}) {
  const fixed = { url: "ws://bff.test/ws", WebSocket: FakeWebSocket, transports: ["websocket"] };
  const bff = new BffClient({ ...fixed, ...options });
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

/** Connect again after the connection broke. */
export async function comeBack(hello) {
  socket().breakWith(1006);
  await pass(30_000);
  socket().greet(hello);
}

/** A window, and a document that is seen or not. */
export function withPage() {
  const page = new EventTarget();
  const document = { visibilityState: "visible" };
  const listen = page.addEventListener.bind(page);
  Object.assign(globalThis, { addEventListener: listen, document });
  return {
    document,
    happens: (name, facts) => page.dispatchEvent(Object.assign(new Event(name), facts)),
  };
}

export function withoutPage() {
  delete globalThis.addEventListener;
  delete globalThis.document;
}

/** What a promise was rejected with. */
export function failure(promise) {
  return promise.then(
    (value) => Promise.reject(new Error(`fulfilled with ${JSON.stringify(value)}`)),
    (error) => error,
  );
}
