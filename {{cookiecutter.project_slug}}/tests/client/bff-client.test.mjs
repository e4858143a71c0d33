/** What the client promises, with a scripted socket and a clock that moves only when told. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, mock, test } from "node:test";

import { BffClient, BffError, comesBack } from "../../client/bff-client.js";
import {
  failure,
  giveTimeBack,
  makeClient,
  openClient,
  opened,
  pass,
  settle,
  socket,
  takeTime,
} from "./fake.mjs";

beforeEach(takeTime);
afterEach(giveTimeBack);

function withTicketOffice(answer) {
  return mock.method(globalThis, "fetch", async (...call) => answer(...call));
}

function refusal(status) {
  return Object.assign(new Error(`status ${status}`), { status });
}

describe("connecting", () => {
  test("is open, and ready, with the hello", async () => {
    const { bff, states } = makeClient();
    const ready = bff.connect();
    await settle();
    assert.equal(bff.state, "connecting");
    assert.deepEqual(socket().protocols, ["bff.v1"]);
    socket().greet({ session_id: "i.1" });
    assert.equal((await ready).session_id, "i.1");
    assert.deepEqual(
      states.map(({ state }) => state),
      ["connecting", "open"],
    );
    assert.equal(bff.session.user_id, "ann");
  });

  test("without a ticket leaves the address bare, for the cookie", async () => {
    makeClient().bff.connect();
    await settle();
    assert.equal(socket().url.href, "ws://bff.test/ws");
  });

  test("takes a fresh ticket for each attempt", async () => {
    let count = 0;
    const { bff } = makeClient({ getTicket: async () => `t&${(count += 1)}` });
    bff.connect();
    await settle();
    assert.equal(socket().url.searchParams.get("ticket"), "t&1");
    socket().breakWith(1006);
    await pass(500);
    assert.equal(socket().url.searchParams.get("ticket"), "t&2");
  });

  test("exchanges a token for a ticket and never puts it into an address", async () => {
    const office = withTicketOffice(() => Response.json({ ticket: "once" }));
    makeClient({ url: "https://bff.test/api/ws", getToken: () => "secret-token" }).bff.connect();
    await settle();
    const [address, { method, headers }] = office.mock.calls[0].arguments;
    assert.equal(address.href, "https://bff.test/api/auth/ticket");
    assert.deepEqual([method, headers], ["POST", { Authorization: "Bearer secret-token" }]);
    assert.equal(socket().url.href, "wss://bff.test/api/ws?ticket=once");
  });

  test("asks for a fresh token after 4003 or its expiry", async () => {
    const hints = [];
    const getTicket = ({ expired }) => hints.push(expired) && "t";
    await openClient({ getTicket }, { expires_at: Date.now() / 1000 + 3600 });
    socket().breakWith(1006);
    await pass(500);
    socket().greet({ expires_at: Date.now() / 1000 + 3600 });
    socket().breakWith(4003);
    await pass(1000);
    socket().greet({ expires_at: Date.now() / 1000 - 1 });
    socket().breakWith(1006);
    await pass(2000);
    socket().greet({ expires_at: Date.now() / 1000 + 3600 });
    socket().breakWith(1006);
    await pass(4000);
    assert.deepEqual(hints, [false, false, true, true, false]);
  });

  for (const status of [401, 403]) {
    test(`ends when the ticket is refused with ${status}`, async () => {
      const { bff, states } = makeClient({ getTicket: () => Promise.reject(refusal(status)) });
      const error = await failure(bff.connect());
      assert.equal(error.code, "connection_lost");
      assert.equal(states.at(-1).state, "closed");
      assert.equal(states.at(-1).code, 4500);
      assert.equal(states.at(-1).error.status, status);
      await pass(120_000);
      assert.equal(opened(), 0);
    });
  }

  test("ends when the BFF refuses the token", async () => {
    withTicketOffice(() => new Response("", { status: 401 }));
    const { bff, states } = makeClient({ getToken: () => "bad" });
    await failure(bff.connect());
    assert.equal(states.at(-1).code, 4500);
  });

  test("backs off when the ticket cannot be fetched", async () => {
    const answers = [new TypeError("network"), refusal(503)];
    const getTicket = async () => {
      if (answers.length > 0) throw answers.shift();
      return "t";
    };
    const { bff, states } = makeClient({ getTicket });
    bff.connect();
    await settle();
    assert.equal(states.at(-1).state, "waiting");
    await pass(250);
    assert.equal(states.at(-1).state, "waiting");
    await pass(500);
    socket().greet();
    assert.equal(bff.state, "open");
  });

  test("gives up an attempt that gets no ticket, or no hello, in time", async () => {
    const signals = [];
    const tickets = [new Promise(() => {}), "t"];
    const getTicket = ({ signal }) => signals.push(signal) && tickets.shift();
    const { bff, states } = makeClient({ getTicket, connectTimeoutMs: 9_000 });
    bff.connect();
    await pass(9_000);
    assert.equal(states.at(-1).state, "waiting");
    assert.ok(signals[0].aborted);
    await pass(250);
    assert.equal(opened(), 1);
    await pass(9_000);
    assert.equal(states.at(-1).state, "waiting");
    assert.equal(socket().closedWith, 1000);
  });

  test("has no use for a ticket, or a refusal, that comes too late", async () => {
    for (const answer of [(late) => late.resolve("t"), (late) => late.reject(refusal(401))]) {
      const late = {};
      const ticket = new Promise((resolve, reject) => Object.assign(late, { resolve, reject }));
      const { bff, states } = makeClient({ getTicket: () => ticket });
      const before = opened();
      bff.connect();
      bff.close();
      answer(late);
      await settle();
      assert.equal(opened(), before);
      assert.equal(states.at(-1).code, 1000);
    }
  });

  test("ends when the address is refused by the browser", async () => {
    class Refusing {
      constructor() {
        throw new Error("insecure");
      }
    }
    const { bff, states } = makeClient({ WebSocket: Refusing });
    await failure(bff.connect());
    assert.equal(states.at(-1).state, "closed");
    assert.equal(states.at(-1).error.message, "insecure");
  });

  test("refuses options that it does not know", () => {
    assert.throws(() => new BffClient({ url: "ws://bff.test", timeout: 1 }), /no option timeout/);
  });
});

describe("coming back", () => {
  test("depends on the close code", () => {
    const back = [1001, 1005, 1006, 1011, 1012, 1013, 4000, 4001, 4003, 4008, 4499];
    const gone = [1000, 1002, 1003, 1007, 1008, 1009, 3000, 4500, 4501, 4504, 4999, 5000];
    assert.deepEqual(back.filter((code) => !comesBack(code)), []);
    assert.deepEqual(gone.filter(comesBack), []);
  });

  test("waits a random part of a time that doubles up to a cap", async () => {
    const { bff, states } = makeClient({ backoffBaseMs: 500, backoffCapMs: 3_000 });
    bff.connect();
    await settle();
    const delays = [];
    for (let attempt = 1; attempt <= 5; attempt += 1) {
      socket().breakWith(1006);
      delays.push(states.at(-1).delayMs);
      await pass(states.at(-1).delayMs - 1);
      assert.equal(opened(), attempt);
      await pass(1);
      assert.equal(opened(), attempt + 1);
    }
    assert.deepEqual(delays, [250, 500, 1000, 1500, 1500]);
  });

  test("starts the back-off anew only after a connection that lasted", async () => {
    const { states } = await openClient({ stableMs: 5_000 });
    socket().breakWith(1006);
    await pass(250);
    socket().greet();
    await pass(4_999);
    socket().breakWith(1006);
    assert.equal(states.at(-1).delayMs, 500);
    await pass(500);
    socket().greet();
    await pass(5_000);
    socket().breakWith(1006);
    assert.equal(states.at(-1).delayMs, 250);
  });

  test("waits as long as a draining server says, once", async () => {
    const { states } = await openClient();
    socket().receive("drain", { reconnect_after_ms: 8_000 });
    socket().breakWith(4001);
    assert.equal(states.at(-1).delayMs, 8_250);
    await pass(8_250);
    socket().breakWith(1006);
    assert.equal(states.at(-1).delayMs, 500);
  });

  test("waits no longer than five minutes, whatever a draining server says", async () => {
    const { states } = await openClient();
    for (const ms of ["soon", -1, null, 1e12]) socket().receive("drain", { reconnect_after_ms: ms });
    socket().breakWith(4001);
    assert.equal(states.at(-1).delayMs, 300_250);
  });

  test("forgets back-off and draining when the page begins again", async () => {
    const { bff, states } = await openClient();
    socket().breakWith(1006);
    await pass(250);
    socket().greet();
    socket().receive("drain", { reconnect_after_ms: 8_000 });
    bff.close();
    bff.connect();
    await settle();
    socket().breakWith(1006);
    assert.equal(states.at(-1).delayMs, 250);
  });

  test("does not happen after a code that means the end", async () => {
    const { bff, states } = await openClient();
    socket().breakWith(4504, "revoked");
    const { state, code, reason } = states.at(-1);
    assert.deepEqual([state, code, reason], ["closed", 4504, "revoked"]);
    assert.match((await failure(bff.ready)).description, /4504.*revoked/);
    await pass(120_000);
    assert.equal(opened(), 1);
  });

  test("happens at once when connect is called while waiting", async () => {
    const { bff } = await openClient();
    socket().breakWith(1006);
    bff.connect();
    await settle();
    assert.equal(opened(), 2);
    await pass(10_000);
    assert.equal(opened(), 2);
  });

  test("ready is a new promise after a loss", async () => {
    const { bff } = await openClient();
    const before = bff.ready;
    socket().breakWith(1006);
    assert.notEqual(bff.ready, before);
    await pass(250);
    socket().greet({ session_id: "second" });
    assert.equal((await bff.ready).session_id, "second");
  });

  test("close ends every wait, and connect begins again", async () => {
    const { bff, states } = await openClient();
    socket().breakWith(1006);
    bff.close();
    await pass(120_000);
    assert.equal(opened(), 1);
    assert.equal(states.at(-1).code, 1000);
    bff.connect();
    await settle();
    socket().greet();
    assert.equal(bff.state, "open");
    bff.close();
    assert.equal(socket().closedWith, 1000);
    assert.equal(states.at(-1).state, "closed");
  });

  test("a listener may close the client at every change of state", async () => {
    for (const fatal of ["connecting", "open", "waiting"]) {
      const { bff, states } = makeClient();
      bff.onState(({ state }) => state === fatal && bff.close());
      bff.connect();
      await settle();
      if (fatal !== "connecting") socket().greet();
      if (fatal === "waiting") socket().breakWith(1006);
      const before = opened();
      await pass(60_000);
      assert.equal(states.at(-1).state, "closed", fatal);
      assert.equal(opened(), before, fatal);
    }
  });
});

describe("silence", () => {
  test("is broken with a ping, and an answer keeps the connection", async () => {
    const { bff } = await openClient({}, { ping_interval: 10 });
    await pass(19_999);
    assert.deepEqual(socket().sent, []);
    await pass(1);
    assert.deepEqual(socket().sent, [{ type: "ping", payload: {} }]);
    socket().receive("pong", {});
    await pass(19_999);
    assert.equal(bff.state, "open");
    assert.equal(socket().sent.length, 1);
  });

  test("that goes on ends the connection, and the client comes back", async () => {
    const { states } = await openClient({ pingTimeoutMs: 4_000 }, { ping_interval: 10 });
    await pass(20_000);
    await pass(4_000);
    assert.equal(states.at(-1).state, "waiting");
    const dead = socket();
    assert.equal(dead.closedWith, 1000);
    await pass(250);
    assert.equal(opened(), 2);
    dead.breakWith(4504);
    assert.equal(states.at(-1).state, "connecting");
  });

  test("is not while frames arrive", async () => {
    await openClient({}, { ping_interval: 10 });
    for (let i = 0; i < 5; i += 1) {
      await pass(15_000);
      socket().event(`user/e/${i}`);
    }
    assert.deepEqual(socket().sent, []);
  });

  test("a ping of the server is answered", async () => {
    await openClient();
    socket().receive("ping", { trace_id: "p" });
    assert.deepEqual(socket().sent, [{ type: "pong", payload: { trace_id: "p" } }]);
  });
});

describe("a request", () => {
  test("is fulfilled with the result of its own response", async () => {
    const { bff } = await openClient();
    const one = bff.request("orders", "place", { item: "tea" }, { timeoutMs: 4_000 });
    const two = bff.command("orders", "place");
    const [first, second] = socket().sent;
    assert.equal(first.type, "request");
    const { trace_id, ...rest } = first.payload;
    const params = { item: "tea" };
    assert.deepEqual(rest, { service: "orders", method: "place", params, timeout_ms: 4_000 });
    assert.equal(second.type, "command");
    assert.notEqual(second.payload.trace_id, trace_id);
    socket().receive("response", { trace_id: second.payload.trace_id, result: null, error: null });
    socket().receive("response", { trace_id: "nobody", result: 0, error: null });
    socket().receive("response", { trace_id, result: [1], error: null });
    assert.deepEqual(await one, [1]);
    assert.equal(await two, null);
  });

  for (const type of ["response", "error"]) {
    test(`is rejected with what the server says in a frame of type ${type}`, async () => {
      const { bff } = await openClient();
      const request = bff.request("orders", "place");
      const { trace_id } = socket().sent[0].payload;
      const error = {
        error: "NuropbNotDeliveredError",
        description: "away",
        code: "service_unavailable",
        retryable: true,
        outcome: "not_sent",
      };
      const payload = type === "error" ? { ...error, trace_id } : { trace_id, error };
      socket().receive(type, payload);
      const { code, description, retryable, outcome, traceId } = await failure(request);
      assert.deepEqual(
        [code, description, retryable, outcome, traceId],
        ["service_unavailable", "away", true, "not_sent", trace_id],
      );
    });
  }

  test("ends by the local clock a little after the server's time", async () => {
    const { bff } = await openClient({ requestGraceMs: 500 });
    const request = failure(bff.request("orders", "list", {}, { timeoutMs: 2_000 }));
    let ended = false;
    request.then(() => (ended = true));
    await pass(2_499);
    assert.equal(ended, false);
    await pass(1);
    const { code, outcome, retryable } = await request;
    assert.deepEqual([code, outcome, retryable], ["timeout", "unknown", false]);
  });

  test("is called off at the server too", async () => {
    const { bff } = await openClient();
    const control = new AbortController();
    const request = bff.request("orders", "list", {}, { signal: control.signal });
    const { trace_id } = socket().sent[0].payload;
    control.abort("enough");
    const { code, outcome, cause } = await failure(request);
    assert.deepEqual([code, outcome, cause], ["cancelled", "unknown", "enough"]);
    assert.deepEqual(socket().sent[1], { type: "cancel", payload: { trace_id } });
    socket().receive("response", { trace_id, result: 1, error: null });
  });

  test("that is done cannot be called off", async () => {
    const { bff } = await openClient();
    const control = new AbortController();
    const request = bff.request("orders", "list", {}, { signal: control.signal });
    const { trace_id } = socket().sent[0].payload;
    socket().receive("response", { trace_id, result: 1, error: null });
    control.abort();
    assert.equal(await request, 1);
    assert.equal(socket().sent.length, 1);
  });

  test("that was called off before is never written", async () => {
    const { bff } = await openClient();
    const signal = AbortSignal.abort();
    const { code, outcome } = await failure(bff.request("orders", "list", {}, { signal }));
    assert.deepEqual([code, outcome], ["cancelled", "not_sent"]);
    assert.deepEqual(socket().sent, []);
  });

  test("on its way when the connection breaks has an unknown outcome", async () => {
    for (const how of [() => socket().breakWith(1006), (bff) => bff.close()]) {
      const { bff } = await openClient();
      const request = bff.request("orders", "place");
      how(bff);
      const error = await failure(request);
      assert.ok(error instanceof BffError);
      const { code, outcome, retryable } = error;
      assert.deepEqual([code, outcome, retryable], ["connection_lost", "unknown", false]);
    }
  });

  test("waits for the connection, and its time runs", async () => {
    const { bff } = makeClient();
    bff.connect();
    const request = bff.request("orders", "list", {}, { timeoutMs: 5_000 });
    await pass(2_000);
    socket().greet();
    const [{ payload }] = socket().sent;
    assert.equal(payload.timeout_ms, 3_000);
    socket().receive("response", { trace_id: payload.trace_id, result: 7, error: null });
    assert.equal(await request, 7);
  });

  test("keeps its order while waiting", async () => {
    const { bff } = makeClient();
    bff.connect();
    for (const method of ["a", "b", "c"]) bff.request("s", method).catch(() => {});
    await settle();
    socket().greet();
    assert.deepEqual(
      socket().sent.map(({ payload }) => payload.method),
      ["a", "b", "c"],
    );
  });

  test("that waits too long was not sent and may be repeated", async () => {
    const { bff } = makeClient();
    bff.connect();
    const request = failure(bff.request("orders", "place", {}, { timeoutMs: 1_000 }));
    await pass(1_000);
    const { code, outcome, retryable } = await request;
    assert.deepEqual([code, outcome, retryable], ["timeout", "not_sent", true]);
    socket().greet();
    assert.deepEqual(socket().sent, []);
  });

  test("is refused when too many wait already", async () => {
    const { bff } = makeClient({ maxWaiting: 2 });
    bff.connect();
    bff.request("s", "a").catch(() => {});
    bff.request("s", "b").catch(() => {});
    const { code, outcome, retryable } = await failure(bff.request("s", "c"));
    assert.deepEqual([code, outcome, retryable], ["too_many_in_flight", "not_sent", true]);
  });

  test("made while the socket is closing waits for the next one", async () => {
    const { bff } = await openClient();
    socket().readyState = 2;
    const request = bff.request("orders", "list");
    socket().breakWith(1012);
    await pass(250);
    socket().greet();
    const { trace_id } = socket().sent[0].payload;
    socket().receive("response", { trace_id, result: "there", error: null });
    assert.equal(await request, "there");
  });

  test("without a connection to come was not sent", async () => {
    const { bff } = makeClient();
    const never = await failure(bff.request("orders", "list"));
    assert.deepEqual([never.code, never.outcome], ["connection_lost", "not_sent"]);
    bff.connect();
    const waiting = failure(bff.request("orders", "list"));
    await settle();
    socket().breakWith(4500);
    assert.equal((await waiting).outcome, "not_sent");
  });

  test("too large for a frame is refused before it ends the connection", async () => {
    const { bff } = await openClient({ maxFrameBytes: 1_000 });
    const { code, outcome } = await failure(bff.request("s", "m", { text: "ü".repeat(500) }));
    assert.deepEqual([code, outcome], ["invalid_params", "not_sent"]);
    assert.deepEqual(socket().sent, []);
  });

  test("that JSON cannot hold is refused", async () => {
    const { bff } = await openClient();
    assert.equal((await failure(bff.request("s", "m", { n: 1n }))).code, "invalid_params");
  });

  test("authenticate sends the token without reconnecting", async () => {
    const { bff } = await openClient();
    const done = bff.authenticate("fresh");
    const [{ type, payload }] = socket().sent;
    const { token, trace_id, ...rest } = payload;
    assert.deepEqual([type, token, rest], ["authenticate", "fresh", {}]);
    socket().receive("response", { trace_id, result: { expires_at: 7 }, error: null });
    assert.equal((await done).expires_at, 7);
    assert.deepEqual([bff.session.expires_at, bff.session.user_id], [7, "ann"]);
  });
});

describe("events", () => {
  function listen(bff, topic = "t") {
    const heard = [];
    const off = bff.on(topic, (event, meta) => heard.push([event, meta.id]));
    return { heard, off };
  }

  test("reach the listeners of their topic, and of all, until they leave", async () => {
    const { bff } = await openClient();
    const { heard, off } = listen(bff);
    const all = listen(bff, "*").heard;
    const other = listen(bff, "other").heard;
    socket().receive("event", { topic: "t", event: { a: 1 } });
    off();
    off();
    socket().receive("event", { topic: "t", event: { a: 2 } });
    assert.deepEqual(heard, [[{ a: 1 }, null]]);
    assert.equal(all.length, 2);
    assert.deepEqual(other, []);
  });

  test("a listener that throws harms nobody", async () => {
    const reported = mock.method(console, "error", () => {});
    const { bff } = await openClient();
    bff.on("t", () => {
      throw new Error("mine");
    });
    const { heard } = listen(bff);
    socket().event("user/e/1");
    assert.equal(heard.length, 1);
    assert.equal(bff.state, "open");
    assert.equal(reported.mock.calls[0].arguments[0].message, "mine");
  });

  test("seen before are dropped, per stream and epoch", async () => {
    const { bff } = await openClient();
    const { heard } = listen(bff);
    const ids = [
      "user/e/1",
      "user/e/2",
      "user/e/2",
      "user/e/1",
      "all/e/1",
      "topic:a/b/e/1",
      "topic:a/b/e/1",
      "user/f/1",
      "user/f/10",
      "user/f/9",
    ];
    for (const id of ids) socket().event(id);
    socket().breakWith(1006);
    await pass(250);
    socket().greet();
    socket().event("user/f/10");
    socket().event("user/f/11");
    assert.deepEqual(
      heard.map(([, id]) => id),
      ["user/e/1", "user/e/2", "all/e/1", "topic:a/b/e/1", "user/f/1", "user/f/10", "user/f/11"],
    );
    assert.equal(bff.positions["topic:a/b"], "topic:a/b/e/1");
  });

  test("that arrive just after a hello which counts them already are told", async () => {
    const { bff } = await openClient({}, { positions: { user: "user/e/5" } });
    const { heard } = listen(bff);
    socket().event("user/e/5");
    assert.equal(heard.length, 1);
  });

  test("positions follow hello and events", async () => {
    const positions = { user: "user/e/5", all: "all/e/2" };
    const { bff } = await openClient({}, { positions });
    socket().event("user/e/4");
    socket().event("user/e/6");
    assert.deepEqual(bff.positions, { user: "user/e/6", all: "all/e/2" });
    bff.close();
    bff.connect();
    await settle();
    socket().greet({ user_id: "bob", positions });
    assert.deepEqual(bff.positions, positions);
  });

  test("greetings of a broadcast are told once, as far as memory goes", async () => {
    const { bff } = await openClient();
    const { heard } = listen(bff);
    const greet = (n) => socket().event(undefined, { broadcast_id: `b${n}` });
    greet(0);
    greet(0);
    socket().event("all/e/1", { broadcast_id: "b0" });
    assert.equal(heard.length, 1);
    assert.equal(bff.positions.all, "all/e/1");
    for (let n = 1; n <= 200; n += 1) greet(n);
    greet(1);
    assert.equal(heard.length, 201);
    greet(0);
    assert.equal(heard.length, 202);
  });

  test("missed while away are told as a gap", async () => {
    const { bff } = await openClient({}, { positions: { user: "user/e/5", all: "all/e/1" } });
    const gaps = [];
    bff.onGap((streams) => gaps.push(streams));
    const again = async (positions, recovered) => {
      socket().breakWith(1006);
      await pass(30_000);
      socket().greet({ positions, recovered });
      await pass(5_000);
    };
    await again({ user: "user/e/5", all: "all/e/1" });
    assert.deepEqual(gaps, []);
    await again({ user: "user/e/7", all: "all/e/1" });
    await again({ user: "user/e/7", all: "all/f/0" });
    await again({ user: "user/e/9", all: "all/f/0" }, { user: true });
    assert.deepEqual(gaps, [{ user: "user/e/7" }, { all: "all/f/0" }]);
    socket().receive("gap", { streams: { user: "user/e/20" } });
    assert.deepEqual(gaps.at(-1), { user: "user/e/20" });
    assert.equal(bff.positions.user, "user/e/20");
  });

  test("errors that belong to no request have a place of their own", async () => {
    const { bff } = await openClient();
    const errors = [];
    bff.onError((error) => errors.push(error.code));
    const error = { code: "rate_limited", description: "slow", trace_id: null };
    socket().receive("error", error);
    socket().receive("error", { ...error, trace_id: "nobody" });
    assert.deepEqual(errors, ["rate_limited"]);
  });

  test("frames that make no sense are passed over", async () => {
    const { bff } = await openClient();
    const { heard } = listen(bff, "*");
    for (const text of ["", "{", "null", "7", '"x"', "[]", new ArrayBuffer(4)]) {
      socket().receiveText(text);
    }
    for (const type of ["new", "event", "response", "error", "gap", "drain", "ping", "pong"]) {
      for (const payload of [null, 7, "x", [], {}]) socket().receive(type, payload);
    }
    assert.equal(bff.state, "open");
    assert.deepEqual(heard, []);
  });
});
