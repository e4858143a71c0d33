/** The connection and its requests: a scripted socket, and a clock that moves only when told. */

import assert from "node:assert/strict";
import { afterEach, describe, mock, test } from "node:test";

import { BffClient, BffError } from "../../../{{cookiecutter.project_slug}}/client/bff-client.js";
import {
  failure,
  inSeconds,
  makeClient,
  openClient,
  opened,
  pass,
  settle,
  socket,
  useFakeTime,
  withPage,
  withoutPage,
} from "./fake.mjs";

useFakeTime();

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

  test("without a ticket has no query, for the cookie", async () => {
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
    const getTicket = ({ fresh }) => hints.push(fresh) && "t";
    await openClient({ getTicket }, { expires_at: inSeconds(3600) });
    socket().breakWith(1006);
    await pass(500);
    socket().greet({ expires_at: inSeconds(3600) });
    socket().breakWith(4003);
    await pass(1000);
    socket().greet({ expires_at: inSeconds(-1) });
    socket().breakWith(1006);
    await pass(2000);
    socket().greet({ expires_at: inSeconds(3600) });
    socket().breakWith(1006);
    await pass(4000);
    assert.deepEqual(hints, [false, false, true, true, false]);
  });

  const office = {
    "by 401": () => Promise.reject(refusal(401)),
    "by 403": () => Promise.reject(refusal(403)),
    "by 4500": () => "refused",
  };
  for (const [how, getTicket] of Object.entries(office)) {
    test(`refused ${how} asks for a fresh token once, then ends`, async () => {
      const hints = [];
      const asked = ({ fresh }) => hints.push(fresh) && getTicket();
      const { bff, states } = makeClient({ getTicket: asked });
      const ready = failure(bff.connect());
      await settle();
      socket()?.breakWith(4500);
      assert.equal(bff.state, "waiting");
      await pass(500);
      socket()?.breakWith(4500);
      assert.equal((await ready).code, "connection_lost");
      assert.deepEqual(hints, [false, true]);
      assert.deepEqual([states.at(-1).state, states.at(-1).code], ["closed", 4500]);
      await pass(120_000);
      assert.equal(hints.length, 2);
    });
  }

  test("refused is the end when there is only a cookie", async () => {
    const { bff } = await openClient();
    socket().breakWith(4500);
    assert.equal(bff.state, "closed");
  });

  test("refused twice asks for a fresh token after connect() is called again", async () => {
    const hints = [];
    const { bff } = makeClient({ getTicket: ({ fresh }) => hints.push(fresh) && "t" });
    for (let time = 1; time <= 2; time += 1) {
      bff.connect();
      await settle();
      socket().breakWith(4500);
      await pass(500);
      if (bff.state === "connecting") socket().breakWith(4500);
      assert.equal(bff.state, "closed");
    }
    assert.deepEqual(hints, [false, true, true]);
  });

  test("a token that is good again may be refused again", async () => {
    const hints = [];
    const { bff } = await openClient({ getTicket: ({ fresh }) => hints.push(fresh) && "t" });
    for (let time = 1; time <= 3; time += 1) {
      socket().breakWith(4500);
      await pass(30_000);
      socket().greet();
    }
    assert.equal(bff.state, "open");
    assert.deepEqual(hints, [false, true, true, true]);
  });

  test("reports why the ticket endpoint refuses", async () => {
    withTicketOffice(() => new Response("", { status: 401 }));
    const { bff, states } = makeClient({ getToken: () => "bad" });
    const ready = failure(bff.connect());
    await settle();
    await pass(500);
    assert.match((await ready).description, /4500.*401/);
    assert.equal(states.at(-1).error.status, 401);
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

  test("times out without a ticket or a hello", async () => {
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

  test("ignores a ticket or a refusal that comes too late", async () => {
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

  test("closes when the browser refuses the URL", async () => {
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
  test("depends on the close code", async () => {
    const back = [1001, 1005, 1006, 1011, 1012, 1013, 4000, 4001, 4002, 4003, 4007, 4499];
    const gone = [1000, 1002, 1003, 1007, 1008, 1009, 3000, 4008, 4500, 4501, 4504, 4505, 4999, 5000];
    for (const code of [...back, ...gone]) {
      const { bff } = await openClient();
      socket().breakWith(code);
      assert.equal(bff.state, back.includes(code) ? "waiting" : "closed", String(code));
      bff.close();
    }
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

  test("resets the back-off only after a stable connection", async () => {
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

  test("waits for the delay of a draining server, once", async () => {
    const { states } = await openClient();
    socket().receive("drain", { reconnect_after_ms: 8_000 });
    socket().breakWith(4001);
    assert.equal(states.at(-1).delayMs, 8_250);
    await pass(8_250);
    socket().breakWith(1006);
    assert.equal(states.at(-1).delayMs, 500);
  });

  test("waits at most five minutes for a draining server", async () => {
    const { states } = await openClient();
    socket().receive("drain", { reconnect_after_ms: 1e12 });
    socket().breakWith(4001);
    assert.equal(states.at(-1).delayMs, 300_250);
  });

  test("ignores an invalid delay of a draining server", async () => {
    for (const ms of ["soon", -1, null, undefined, {}]) {
      const { states } = await openClient();
      socket().receive("drain", { reconnect_after_ms: ms });
      socket().breakWith(4001);
      assert.equal(states.at(-1).delayMs, 250);
    }
  });

  test("resets back-off and draining when connect() is called again", async () => {
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

  test("does not happen after a code that means do not reconnect", async () => {
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

  test("close cancels every wait, and connect restarts", async () => {
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
  test("triggers a ping, and a reply keeps the connection", async () => {
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

  test("that continues closes the connection, and the client reconnects", async () => {
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
});

describe("a page", () => {
  afterEach(withoutPage);

  test("that is online or visible again reconnects without delay", async () => {
    const page = withPage();
    await openClient();
    let expected = 1;
    for (const name of ["online", "visibilitychange"]) {
      socket().breakWith(1006);
      page.happens(name);
      await settle();
      assert.equal(opened(), (expected += 1), name);
      socket().greet();
    }
  });

  test("that wakes reconnects no earlier than a draining server allowed", async () => {
    const page = withPage();
    const { bff } = await openClient();
    socket().receive("drain", { reconnect_after_ms: 8_000 });
    socket().breakWith(4001);
    for (const name of ["online", "visibilitychange", "online"]) {
      page.happens(name);
      await pass(2_000);
      assert.equal(opened(), 1, name);
      assert.equal(bff.state, "waiting");
    }
    await pass(2_000);
    assert.equal(opened(), 2);
    socket().breakWith(1006);
    page.happens("online");
    await settle();
    assert.equal(opened(), 3);
  });

  test("that is hidden waits for the delay", async () => {
    const page = withPage();
    await openClient();
    socket().breakWith(1006);
    page.document.visibilityState = "hidden";
    page.happens("visibilitychange");
    await settle();
    assert.equal(opened(), 1);
  });

  test("that becomes visible sends a ping", async () => {
    const page = withPage();
    const { bff } = await openClient({ pingTimeoutMs: 4_000 });
    page.happens("online");
    assert.deepEqual(socket().sent, [{ type: "ping", payload: {} }]);
    socket().receive("pong", {});
    await pass(4_000);
    assert.equal(bff.state, "open");
    page.happens("visibilitychange");
    await pass(4_000);
    assert.equal(bff.state, "waiting");
  });

  test("that becomes visible accepts any reply, whether or not the BFF pings", async () => {
    const page = withPage();
    const { bff } = await openClient({}, { ping_interval: 0 });
    page.happens("online");
    socket().receive("pong", {});
    for (let pings = 2; pings <= 4; pings += 1) {
      await pass(50_000);
      assert.equal(socket().sent.length, pings);
      socket().receive("pong", {});
    }
    await pass(49_999);
    assert.equal(bff.state, "open");
  });

  test("is not listened to after close", async () => {
    const page = withPage();
    const { bff } = await openClient();
    bff.close();
    page.happens("online");
    await settle();
    assert.equal(opened(), 1);
    bff.connect();
    await settle();
    socket().greet();
    page.happens("online");
    assert.equal(socket().sent.length, 1);
  });
});

describe("the token", () => {
  function withTokens(options) {
    const hints = [];
    withTicketOffice(() => Response.json({ ticket: "once" }));
    const getToken = ({ fresh }) => hints.push(fresh) && `token ${hints.length}`;
    return { hints, options: { getToken, refreshMs: 60_000, ...options } };
  }

  test("is renewed before it expires, on the open connection", async () => {
    const { hints, options } = withTokens();
    const { bff } = await openClient(options, { expires_at: inSeconds(600) });
    const beat = async (ms) => {
      for (let left = ms; left > 0; left -= 20_000) {
        await pass(Math.min(left, 20_000));
        socket().receive("pong", {});
      }
    };
    await beat(539_999);
    assert.deepEqual(hints, [false]);
    await pass(1);
    assert.deepEqual(hints, [false, true]);
    assert.equal(socket().sentOf("authenticate")[0].token, "token 2");
    socket().answer({ expires_at: inSeconds(600) });
    await settle();
    await beat(540_000);
    assert.deepEqual(hints, [false, true, true]);
    assert.equal(opened(), 1);
    assert.equal(bff.state, "open");
  });

  test("that cannot be renewed is requested again later", async () => {
    const { hints, options } = withTokens();
    await openClient(options, { expires_at: inSeconds(70), ping_interval: 0 });
    await pass(30_000);
    socket().refuse("service_unavailable");
    await settle();
    await pass(29_999);
    assert.equal(hints.length, 2);
    await pass(1);
    assert.equal(hints.length, 3);
  });

  test("is not renewed in a loop by a clock that is wrong", async () => {
    const { hints, options } = withTokens();
    await openClient(options, { expires_at: inSeconds(-3600), ping_interval: 0 });
    for (let time = 1; time <= 3; time += 1) {
      await pass(30_000);
      socket().answer({ expires_at: inSeconds(-3600) });
      await settle();
    }
    assert.equal(hints.length, 4);
  });

  test("with a long life is not renewed at once", async () => {
    const { hints, options } = withTokens();
    await openClient(options, { expires_at: inSeconds(1e9), ping_interval: 0 });
    await pass(60_000);
    assert.equal(hints.length, 1);
  });

  test("is not renewed on a connection that is gone", async () => {
    const { hints, options } = withTokens();
    const { bff } = await openClient(options, { expires_at: inSeconds(600) });
    bff.close();
    await pass(600_000);
    assert.equal(hints.length, 1);
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
    const { bff } = await openClient();
    const request = failure(bff.request("orders", "list", {}, { timeoutMs: 2_000 }));
    let ended = false;
    request.then(() => (ended = true));
    await pass(2_999);
    assert.equal(ended, false);
    await pass(1);
    const { code, outcome, retryable } = await request;
    assert.deepEqual([code, outcome, retryable], ["timeout", "unknown", false]);
  });

  test("without an end asks for the longest time, which the server limits", async () => {
    const { bff } = await openClient();
    bff.request("orders", "list", {}, { timeoutMs: Infinity });
    assert.equal(socket().sent[0].payload.timeout_ms, 2 ** 31 - 1);
  });

  test("is cancelled at the server too", async () => {
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

  test("that is done cannot be cancelled", async () => {
    const { bff } = await openClient();
    const control = new AbortController();
    const request = bff.request("orders", "list", {}, { signal: control.signal });
    const { trace_id } = socket().sent[0].payload;
    socket().receive("response", { trace_id, result: 1, error: null });
    control.abort();
    assert.equal(await request, 1);
    assert.equal(socket().sent.length, 1);
  });

  test("that was cancelled before is never sent", async () => {
    const { bff } = await openClient();
    const signal = AbortSignal.abort();
    const { code, outcome } = await failure(bff.request("orders", "list", {}, { signal }));
    assert.deepEqual([code, outcome], ["cancelled", "not_sent"]);
    assert.deepEqual(socket().sent, []);
  });

  test("that was sent when the connection breaks has an unknown outcome", async () => {
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

  test("made while the server drains waits for the next connection", async () => {
    const { bff } = await openClient();
    const before = bff.request("orders", "list");
    const [sent] = socket().sent;
    socket().receive("drain", { reconnect_after_ms: 0 });
    const request = bff.request("orders", "place");
    socket().answer("before", sent);
    assert.equal(await before, "before");
    assert.equal(socket().sent.length, 1);
    socket().breakWith(4001);
    await pass(250);
    socket().greet();
    socket().answer("there");
    assert.equal(await request, "there");
  });

  test("on a closed client was not sent", async () => {
    const { bff } = makeClient();
    bff.connect();
    const waiting = failure(bff.request("orders", "list"));
    await settle();
    socket().breakWith(4500);
    assert.equal((await waiting).outcome, "not_sent");
    const never = await failure(bff.request("orders", "list"));
    assert.deepEqual([never.code, never.outcome], ["connection_lost", "not_sent"]);
  });

  test("before the first connect waits for it, and its time runs", async () => {
    const { bff } = makeClient();
    const late = failure(bff.request("orders", "list", {}, { timeoutMs: 1_000 }));
    const early = bff.request("orders", "list");
    await pass(1_000);
    assert.deepEqual([(await late).code, (await late).outcome], ["timeout", "not_sent"]);
    bff.connect();
    await settle();
    socket().greet();
    socket().answer("there");
    assert.equal(await early, "there");
  });

  test("too large for a frame is refused before it ends the connection", async () => {
    const { bff } = await openClient({ maxFrameBytes: 1_000 });
    const { code, outcome } = await failure(bff.request("s", "m", { text: "ü".repeat(500) }));
    assert.deepEqual([code, outcome], ["invalid_params", "not_sent"]);
    assert.deepEqual(socket().sent, []);
  });

  test("that JSON cannot represent is refused", async () => {
    const { bff } = await openClient();
    assert.equal((await failure(bff.request("s", "m", { n: 1n }))).code, "invalid_params");
  });

  test("with half a character is refused, in a value, a key and a topic", async () => {
    const { bff } = await openClient();
    const half = "nice 😀".slice(0, 6);
    const { code, outcome } = await failure(bff.request("s", "m", { text: half }));
    assert.deepEqual([code, outcome], ["invalid_params", "not_sent"]);
    for (const params of [{ [half]: 1 }, { text: `\\${half}` }, { texts: [`\n\ude00`] }]) {
      assert.equal((await failure(bff.request("s", "m", params))).code, "invalid_params");
    }
    assert.equal((await failure(bff.subscribe(half))).code, "invalid_params");
    assert.deepEqual(socket().sent, []);
  });

  test("with whole characters and backslashes is sent as it is", async () => {
    const { bff } = await openClient();
    const params = { emoji: "😀", escaped: "\\ud83d", twice: "\\\\ud83d", "\\udc00": '"\\' };
    bff.request("s", "m", params);
    assert.deepEqual(socket().sent.at(-1).payload.params, params);
  });

  test("that grows too large while it waits is refused then", async () => {
    const { bff } = makeClient({ maxFrameBytes: 1_000 });
    bff.connect();
    const params = { text: "" };
    const request = failure(bff.request("s", "m", params));
    await settle();
    params.text = "x".repeat(1_000);
    socket().greet();
    assert.equal((await request).outcome, "not_sent");
    assert.deepEqual(socket().sent, []);
  });

  test("authenticate sends the token without reconnecting", async () => {
    const { bff } = await openClient();
    const done = bff.authenticate("fresh");
    const [{ type, payload }] = socket().sent;
    const { token, trace_id } = payload;
    assert.deepEqual([type, token], ["authenticate", "fresh"]);
    socket().receive("response", { trace_id, result: { expires_at: 7 }, error: null });
    assert.equal((await done).expires_at, 7);
    assert.deepEqual([bff.session.expires_at, bff.session.user_id], [7, "ann"]);
  });
});
