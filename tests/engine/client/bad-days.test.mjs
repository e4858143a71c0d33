/** What components, proxies and clocks do to the client: a scripted socket, stream and page. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, mock, test } from "node:test";

import {
  BffClient,
  CloseCode,
  closeText,
} from "../../../{{cookiecutter.project_slug}}/client/bff-client.js";
import {
  FakeWebSocket,
  comeBack,
  failure,
  giveTimeBack,
  inSeconds,
  makeClient,
  openClient,
  opened,
  pass,
  settle,
  socket,
  takeTime,
  withPage,
  withoutPage,
} from "./fake.mjs";

beforeEach(takeTime);
afterEach(giveTimeBack);

const topicsOf = (type) => socket().sentOf(type).map(({ topics }) => topics);
const answerTopic = (topic, offset = 5) =>
  socket().answer({ positions: { [`topic:${topic}`]: `topic:${topic}/e/${offset}` }, recovered: {} });

function send(topic, offset) {
  const id = `topic:${topic}/e/${offset}`;
  socket().receive("event", { topic, event: offset, id });
}

describe("a followed topic", () => {
  test("is delivered to each follower until that one ends it", async () => {
    const { bff } = await openClient();
    const [one, two] = [[], []];
    const first = bff.follow("a", (event) => one.push(event));
    const second = bff.follow("a", (event) => two.push(event));
    answerTopic("a");
    await Promise.all([first.ready, second.ready]);
    send("a", 6);
    first.off();
    first.off();
    await settle();
    send("a", 7);
    assert.deepEqual([one, two], [[6], [6, 7]]);
    assert.deepEqual(topicsOf("unsubscribe"), []);
    second.off();
    await settle();
    assert.deepEqual(topicsOf("unsubscribe"), [["a"]]);
  });

  test("may be followed before connect, in the order in which React runs effects", async () => {
    const { bff } = makeClient();
    const heard = [];
    const { ready } = bff.follow("a", (event) => heard.push(event));
    const plain = bff.subscribe("b");
    bff.connect();
    await settle();
    socket().greet();
    assert.deepEqual(topicsOf("subscribe"), [
      [
        { topic: "a", since: null },
        { topic: "b", since: null },
      ],
    ]);
    answerTopic("a");
    await Promise.all([ready, plain]);
    send("a", 6);
    assert.deepEqual(heard, [6]);
  });

  test("is followed on after close and connect, as in React's strict mode", async () => {
    const { bff } = makeClient();
    bff.follow("a", () => {});
    bff.connect();
    bff.close();
    bff.connect();
    await settle();
    socket().greet();
    assert.equal(topicsOf("subscribe").length, 1);
  });

  test("that is also subscribed ends when both have ended", async () => {
    const { bff } = await openClient();
    const { off } = bff.follow("a", () => {});
    void bff.subscribe("a");
    answerTopic("a");
    await settle();
    bff.unsubscribe("a");
    off();
    await settle();
    assert.equal(topicsOf("unsubscribe").length, 1);
    answerTopic("a");
    await settle();
    void bff.subscribe("b");
    const follower = bff.follow("b", () => {});
    answerTopic("b");
    await settle();
    follower.off();
    await settle();
    assert.equal(topicsOf("unsubscribe").length, 1);
  });

  test("that is refused tells its follower, and onError", async () => {
    const { bff } = await openClient();
    const errors = [];
    bff.onError((error) => errors.push(error.code));
    const { ready } = bff.follow("a", () => {});
    socket().refuse("forbidden");
    assert.equal((await failure(ready)).code, "forbidden");
    assert.deepEqual(errors, ["forbidden"]);
  });

  test("leaves no rejection unhandled when the page is closed", async () => {
    const unhandled = [];
    const note = (error) => unhandled.push(error);
    process.on("unhandledRejection", note);
    const { bff } = makeClient();
    bff.follow("a", () => {});
    bff.subscribe("b");
    bff.connect();
    bff.close();
    await settle();
    await settle();
    process.off("unhandledRejection", note);
    assert.deepEqual(unhandled, []);
  });
});

describe("a listener of a topic that is not subscribed", () => {
  test("is named in the console, in development", async () => {
    const warned = [];
    mock.method(console, "warn", (text) => warned.push(text));
    const { bff } = makeClient();
    bff.on("prices.tea", () => {});
    bff.on("order.updated", () => {});
    bff.follow("prices.milk", () => {});
    bff.connect();
    await settle();
    socket().greet({ topics: ["prices.*", "news.#"] });
    while (warned.length === 0) await pass(1_000);
    bff.on("prices.a.b", () => {});
    bff.on("news.of.today", () => {});
    await pass(1_000);
    assert.deepEqual(
      warned.map((text) => /on\("(.*?)"\)/.exec(text)[1]),
      ["prices.tea", "news.of.today"],
    );
  });
});

describe("the sign-in", () => {
  const asked = [];

  beforeEach(() => {
    asked.length = 0;
    const assign = (url) => asked.push(String(url));
    const page = { pathname: "/orders", search: "?a=1", hash: "#b", href: "https://bff.test/orders" };
    globalThis.location = { ...page, assign };
  });
  afterEach(() => delete globalThis.location);

  function answers(response) {
    mock.method(globalThis, "fetch", async (url, { method, headers, credentials }) => {
      asked.push([method, String(url), headers, credentials]);
      return response();
    });
  }

  const own = [{ "X-BFF": "1" }, "include"];

  test("says who is signed in with the cookie, or that nobody is", async () => {
    const { bff } = makeClient({ url: "/ws" });
    answers(() => Response.json({ user_id: "ann" }));
    assert.deepEqual(await bff.me(), { user_id: "ann" });
    assert.deepEqual(asked, [["GET", "https://bff.test/auth/me", ...own]]);
    answers(() => Response.json({ code: "unauthenticated" }, { status: 401 }));
    assert.equal(await bff.me(), null);
    answers(() => Response.json({ code: "service_unavailable", detail: "no" }, { status: 503 }));
    assert.equal((await failure(bff.me())).code, "service_unavailable");
  });

  test("leaves the page and comes back to it", async () => {
    const { bff } = makeClient({ url: "/ws" });
    await bff.login();
    await bff.login("/home");
    assert.deepEqual(asked, [
      "https://bff.test/auth/login?return_to=%2Forders%3Fa%3D1%23b",
      "https://bff.test/auth/login?return_to=%2Fhome",
    ]);
  });

  test("ends with the connection, and the page goes where the BFF says", async () => {
    const { bff } = await openClient({ url: "/ws" });
    answers(() => Response.json({ redirect_to: "https://provider.test/end" }));
    assert.equal(await bff.logout(), "https://provider.test/end");
    assert.equal(bff.state, "closed");
    assert.deepEqual(asked, [
      ["POST", "https://bff.test/auth/logout", ...own],
      "https://provider.test/end",
    ]);
    answers(() => Response.json({ code: "unauthenticated" }, { status: 401 }));
    assert.equal(await bff.logout(), null);
  });
});

describe("the state", () => {
  test("can be read at any time, and is told at once if asked for", async () => {
    const { bff } = makeClient();
    const seen = [];
    assert.deepEqual([bff.status.state, bff.status.code], ["closed", CloseCode.NORMAL]);
    bff.onState((status) => seen.push(status.state), { current: true });
    bff.connect();
    assert.deepEqual(bff.status, { state: "connecting", transport: "websocket" });
    await settle();
    socket().greet({ session_id: "i.1" });
    assert.equal(bff.status, bff.status);
    assert.equal(bff.status.session.session_id, "i.1");
    socket().breakWith(4006, "redis");
    const { code, reason, delayMs, retryAt } = bff.status;
    assert.deepEqual([code, reason, delayMs], [CloseCode.SERVER_ERROR, "redis", 250]);
    assert.equal(retryAt, Date.now() + 250);
    assert.deepEqual(seen, ["closed", "connecting", "open", "waiting"]);
  });

  test("has words for every code", () => {
    for (const code of Object.values(CloseCode)) assert.match(closeText(code), /^[A-Z].{8,}\.$/);
    assert.equal(new Set(Object.values(CloseCode).map(closeText)).size, 21);
    assert.equal(closeText(3000), "The connection was closed.");
  });

  test("is closed when the user has too many connections, and says so", async () => {
    const { bff } = makeClient();
    bff.connect();
    await settle();
    socket().breakWith(CloseCode.CONNECTION_LIMIT);
    assert.deepEqual([bff.status.state, bff.status.code], ["closed", CloseCode.CONNECTION_LIMIT]);
    await pass(600_000);
    assert.equal(opened(), 1);
  });

  for (const code of [CloseCode.NOT_AUTHENTICATED, CloseCode.SESSION_ENDED]) {
    test(`asks for the sign-in once after ${code}`, async () => {
      const { bff } = await openClient();
      const asked = [];
      bff.onSignInRequired((status) => asked.push(status.code));
      socket().breakWith(code);
      await pass(600_000);
      assert.deepEqual(asked, [code]);
      assert.equal(opened(), 1);
    });
  }
});

describe("connect", () => {
  test("called twice makes one connection", async () => {
    const { bff } = makeClient();
    assert.equal(bff.connect(), bff.connect());
    await settle();
    socket().greet();
    await bff.connect();
    assert.equal(opened(), 1);
  });

  test("does not come before the time that a draining server named", async () => {
    const { bff } = await openClient();
    socket().receive("drain", { reconnect_after_ms: 8_000 });
    socket().breakWith(4001);
    bff.connect();
    await pass(7_999);
    assert.equal(opened(), 1);
    await pass(1);
    assert.equal(opened(), 2);
  });

  test("needs a platform that has neither page nor WebSocket only when it is called", async () => {
    const { bff } = makeClient({ url: "/ws", WebSocket: undefined });
    assert.equal(bff.state, "closed");
    const error = await failure(bff.connect());
    assert.equal(error.code, "connection_lost");
    assert.equal(bff.status.error.name, "TypeError");
  });
});

describe("a clock that is wrong", () => {
  test("neither asks for fresh tokens too early nor ends the client", async () => {
    const hints = [];
    const getTicket = ({ fresh }) => hints.push(fresh) && "t";
    const late = { expires_at: inSeconds(3_600 - 7_200), expires_in: 3_600 };
    const { bff } = await openClient({ getTicket }, late);
    await comeBack(late);
    socket().breakWith(1006);
    await pass(30_000);
    socket().breakWith(4500);
    await pass(30_000);
    assert.deepEqual(hints, [false, false, false, true]);
    socket().greet(late);
    assert.equal(bff.state, "open");
  });

  test("renews the token when the server needs it", async () => {
    const hints = [];
    mock.method(globalThis, "fetch", async () => Response.json({ ticket: "once" }));
    const getToken = ({ fresh }) => hints.push(fresh) && "token";
    const late = { expires_at: inSeconds(600 - 7_200), expires_in: 600 };
    await openClient({ getToken }, late);
    for (let second = 0; second < 539; second += 49) {
      await pass(49_000);
      socket().receive("pong", {});
    }
    assert.deepEqual(hints, [false]);
    await pass(1_000);
    assert.deepEqual(hints, [false, true]);
    assert.equal(socket().sentOf("authenticate").length, 1);
  });
});

describe("a page", () => {
  afterEach(withoutPage);

  test("that is visible waits at most 5 s; one that is hidden up to 30 s", async () => {
    const page = withPage();
    const { bff } = makeClient();
    bff.connect();
    await settle();
    for (let time = 0; time < 10; time += 1) {
      socket().breakWith(1006);
      await pass(bff.status.delayMs);
    }
    socket().breakWith(1006);
    assert.equal(bff.status.delayMs, 2_500);
    await pass(2_500);
    page.document.visibilityState = "hidden";
    socket().breakWith(1006);
    assert.equal(bff.status.delayMs, 15_000);
  });

  test("that is looked at all the time does not keep a dead link alive", async () => {
    const page = withPage();
    const { bff } = await openClient();
    for (let second = 0; second < 60 && bff.state === "open"; second += 1) {
      page.happens(second % 2 ? "visibilitychange" : "online");
      bff.request("orders", "list").catch(() => {});
      bff.connect();
      await pass(1_000);
    }
    assert.equal(bff.state, "waiting");
  });

  test("that goes offline finds out whether the link is dead", async () => {
    const page = withPage();
    const { bff } = await openClient();
    page.happens("offline");
    assert.equal(socket().sent.length, 1);
    await pass(10_000);
    assert.equal(bff.state, "waiting");
  });

  test("that is put aside has no open socket, and is back at once", async () => {
    const page = withPage();
    const { bff } = await openClient();
    page.happens("pagehide");
    assert.equal(socket().closedWith, 1000);
    assert.deepEqual([bff.state, bff.status.code], ["waiting", CloseCode.GOING_AWAY]);
    page.happens("pageshow", { persisted: true });
    await settle();
    assert.equal(opened(), 2);
  });
});

describe("a silent link", () => {
  test("is noticed within a minute, however rarely the server pings", async () => {
    for (const ping_interval of [0, 1, 25, 30, 600]) {
      const { bff } = await openClient({}, { ping_interval });
      await pass(50_000);
      await pass(10_000);
      assert.equal(bff.state, "waiting", String(ping_interval));
      bff.close();
    }
  });
});

describe("what cannot be read", () => {
  test("reaches onError", async () => {
    const { bff } = await openClient();
    const errors = [];
    bff.onError(({ code, cause }) => errors.push([code, cause]));
    socket().receiveText("{");
    socket().receive("new", { a: 1 });
    socket().receive("event", { event: 1 });
    socket().receive("pong", {});
    assert.deepEqual(errors, [
      ["unreadable", "{"],
      ["unreadable", { a: 1 }],
      ["unreadable", { event: 1 }],
    ]);
  });
});

/** A BFF that answers `/events` and `/rpc`, behind a proxy that breaks WebSockets. */
class Fallback {
  requests = [];
  streams = [];

  constructor(answers = {}) {
    this.answers = answers;
    mock.method(globalThis, "fetch", (url, init) => this.#fetch(new URL(url), init));
  }

  get stream() {
    return this.streams.at(-1);
  }

  async #fetch(url, init) {
    this.requests.push({ url, ...init });
    if (this.answers[url.pathname]) return this.answers[url.pathname](url, init);
    const stream = { url, signal: init.signal };
    const body = new ReadableStream({
      start(controller) {
        stream.send = (text) => controller.enqueue(new TextEncoder().encode(text));
        stream.end = () => controller.close();
        init.signal.addEventListener("abort", () => controller.error(init.signal.reason));
      },
    });
    stream.frame = (type, payload) => stream.send(`data: ${JSON.stringify({ type, payload })}\n\n`);
    stream.event = (id) => stream.frame("event", { topic: "t", event: id, id });
    stream.greet = async (hello) => {
      const event = { user_id: "ann", ping_interval: 25, positions: {}, recovered: {}, ...hello };
      stream.frame("event", { topic: "hello", event });
      await settle();
    };
    this.streams.push(stream);
    return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
  }
}

/** A client whose sockets are refused, and which has an event stream instead. */
async function withStream(hello, answers, options) {
  const fallback = new Fallback(answers);
  const { bff, states } = makeClient({ transports: undefined, ...options });
  bff.connect();
  for (let time = 0; time < 2; time += 1) {
    await settle();
    socket().breakWith(1006);
    await pass(bff.status.delayMs);
  }
  await untilStream(fallback);
  await fallback.stream.greet(hello);
  return { bff, states, fallback };
}

/** The module of event streams is loaded when it is first needed. */
async function untilStream(fallback, count = 1) {
  while (fallback.streams.length < count) await settle();
}

describe("behind a proxy that breaks WebSockets", () => {
  test("events come over HTTP after two failures, and the state says so", async () => {
    const { bff, fallback } = await withStream({ positions: { user: "user/e/5" } });
    assert.deepEqual([bff.state, bff.status.transport], ["open", "events"]);
    const heard = [];
    bff.on("t", (event) => heard.push(event));
    fallback.stream.event("user/e/6");
    fallback.stream.send(":\n\n");
    await settle();
    assert.deepEqual(heard, ["user/e/6"]);
    const { url, credentials, headers } = fallback.requests[0];
    assert.equal(url.href, "http://bff.test/events?since=&topics=");
    assert.deepEqual([credentials, headers], ["include", { "X-BFF": "1" }]);
  });

  test("requests go over HTTP, with results and errors as on a socket", async () => {
    const problem = { code: "forbidden", detail: "no", retryable: false, outcome: "not_sent" };
    const { bff, fallback } = await withStream(
      {},
      {
        "/rpc/orders/place": () => Response.json({ order_id: "1" }),
        "/rpc/orders/steal": () => Response.json(problem, { status: 403 }),
        "/rpc/orders/proxy": () => new Response("<html>", { status: 502 }),
        "/rpc/orders/gone": () => Promise.reject(new TypeError("network")),
      },
    );
    assert.deepEqual(await bff.request("orders", "place", { n: 1 }), { order_id: "1" });
    assert.deepEqual(await bff.command("orders", "place"), { accepted: true });
    const { url, method, body } = fallback.requests[1];
    assert.equal(url.href, "http://bff.test/rpc/orders/place?timeout_ms=10000");
    assert.deepEqual([method, body], ["POST", '{"n":1}']);
    const { code, description, outcome } = await failure(bff.request("orders", "steal"));
    assert.deepEqual([code, description, outcome], ["forbidden", "no", "not_sent"]);
    for (const lost of ["proxy", "gone"]) {
      const error = await failure(bff.request("orders", lost));
      assert.deepEqual([error.code, error.outcome], ["connection_lost", "unknown"]);
    }
  });

  test("a topic is subscribed by a second stream, and no message is lost or doubled", async () => {
    const { bff, fallback } = await withStream({ positions: { user: "user/e/5" } });
    const heard = [];
    bff.on("*", (event, { id }) => heard.push(id));
    bff.onGap((streams) => heard.push(streams));
    const { ready } = bff.follow("a", () => {});
    await untilStream(fallback, 2);
    const [before, after] = fallback.streams;
    assert.equal(after.url.search, "?since=user%2Fe%2F5&topics=a");
    before.event("user/e/6");
    await settle();
    const positions = { user: "user/e/6", "topic:a": "topic:a/e/3" };
    await after.greet({ positions, recovered: { user: true } });
    await ready;
    assert.ok(before.signal.aborted);
    for (const id of ["user/e/6", "user/e/7", "topic:a/e/4"]) after.event(id);
    await settle();
    assert.deepEqual(heard, ["user/e/6", "user/e/7", "topic:a/e/4"]);
    assert.equal(bff.state, "open");
  });

  test("a topic that is refused leaves the stream as it is", async () => {
    const problem = { code: "not_found", detail: "There is no topic a", outcome: "not_sent" };
    const { bff, fallback } = await withStream({ positions: { user: "user/e/5" } });
    fallback.answers["/events"] = () => Response.json(problem, { status: 404 });
    assert.equal((await failure(bff.follow("a", () => {}).ready)).code, "not_found");
    assert.equal(bff.state, "open");
    assert.equal(fallback.stream.signal.aborted, false);
  });

  test("the WebSocket is taken as soon as it works again, from the same positions", async () => {
    const { bff, fallback, states } = await withStream({ positions: { user: "user/e/5" } });
    const heard = [];
    bff.on("t", (event) => heard.push(event));
    bff.onGap((streams) => heard.push(streams));
    const answer = Promise.withResolvers?.() ?? deferred();
    fallback.answers["/rpc/orders/list"] = () => answer.promise;
    const request = bff.request("orders", "list");
    await pass(10_000);
    assert.equal(socket().url.searchParams.get("since"), "user/e/5");
    fallback.stream.event("user/e/6");
    await settle();
    const positions = { user: "user/e/6" };
    socket().greet({ positions, recovered: { user: true } });
    assert.deepEqual([bff.state, bff.status.transport], ["open", "websocket"]);
    assert.ok(fallback.stream.signal.aborted);
    for (const id of ["user/e/6", "user/e/7"]) socket().event(id);
    answer.resolve(Response.json("over HTTP"));
    assert.equal(await request, "over HTTP");
    assert.deepEqual(heard, ["user/e/6", "user/e/7"]);
    assert.deepEqual(
      states.slice(-2).map(({ state, transport }) => [state, transport]),
      [
        ["open", "events"],
        ["open", "websocket"],
      ],
    );
  });

  test("the WebSocket is tried ever more rarely", async () => {
    const { bff, fallback } = await withStream();
    let count = opened();
    for (const seconds of [10, 20, 40]) {
      await pass(seconds * 1000 - 1);
      assert.equal(opened(), count, String(seconds));
      await pass(1);
      assert.equal(opened(), (count += 1), String(seconds));
      socket().breakWith(1006);
      fallback.stream.send(":\n\n");
      await settle();
    }
    assert.equal(bff.status.transport, "events");
  });

  test("a silent stream is replaced, and given up when that fails", async () => {
    const { bff, fallback } = await withStream();
    socket().breakWith(1006);
    for (let time = 0; time < 5; time += 1) await pass(10_000);
    await untilStream(fallback, 2);
    await fallback.stream.greet();
    assert.equal(bff.state, "open");
    for (let time = 0; time < 6; time += 1) await pass(10_000);
    assert.equal(bff.state, "waiting");
  });

  test("the end of a stream says what a close code says", async () => {
    const end = { 4001: "waiting", 4003: "waiting", 4008: "closed", 4504: "closed" };
    for (const [code, state] of Object.entries(end)) {
      const { bff, fallback } = await withStream();
      fallback.stream.frame("close", { code: Number(code), reason: "" });
      fallback.stream.end();
      await settle();
      assert.deepEqual([bff.status.state, bff.status.code], [state, Number(code)]);
      bff.close();
    }
  });

  test("a refused stream says what a refused socket says", async () => {
    const { NOT_AUTHENTICATED, CONNECTION_LIMIT } = CloseCode;
    const expected = { 401: NOT_AUTHENTICATED, 403: NOT_AUTHENTICATED, 429: CONNECTION_LIMIT };
    for (const [status, code] of Object.entries(expected)) {
      const fallback = new Fallback();
      const problem = { code: "forbidden", detail: "why", outcome: "not_sent" };
      fallback.answers["/events"] = () => Response.json(problem, { status: Number(status) });
      const { bff } = makeClient({ transports: ["events"] });
      const lost = await failure(bff.connect());
      assert.match(lost.description, /why/);
      assert.deepEqual([bff.status.state, bff.status.code], ["closed", code]);
    }
  });

  test("a page that answers in place of the BFF is no stream", async () => {
    const fallback = new Fallback();
    fallback.answers["/events"] = () => new Response("<html>", { status: 200 });
    const { bff } = makeClient({ transports: ["events"] });
    bff.connect();
    while (bff.state === "connecting") await settle();
    assert.deepEqual([bff.state, bff.status.code], ["waiting", CloseCode.ABNORMAL]);
  });

  test("a server that is away is asked in both ways", async () => {
    const fallback = new Fallback({ "/events": () => Promise.reject(new TypeError("network")) });
    const { bff, states } = makeClient({ transports: undefined });
    bff.connect();
    for (let time = 0; time < 6; time += 1) {
      await settle();
      while (bff.state === "connecting") {
        socket().breakWith(1006);
        await settle();
      }
      await pass(30_000);
    }
    const tried = states.filter(({ state }) => state === "connecting").map((s) => s.transport);
    assert.deepEqual(tried.slice(0, 6), [
      ...["websocket", "websocket", "events", "websocket", "events", "websocket"],
    ]);
    assert.ok(fallback.requests.length > 0);
  });
});

function deferred() {
  const made = {};
  made.promise = new Promise((resolve) => (made.resolve = resolve));
  return made;
}

test("the socket of the platform is taken when the client connects, not before", () => {
  const before = globalThis.WebSocket;
  globalThis.WebSocket = undefined;
  try {
    assert.equal(new BffClient().state, "closed");
  } finally {
    globalThis.WebSocket = before;
  }
  assert.equal(FakeWebSocket.all.length, 0);
});
