/** What the client hands over: each stored message once and in order, or word of a gap. */

import assert from "node:assert/strict";
import { describe, mock, test } from "node:test";

import {
  comeBack,
  failure,
  makeClient,
  openClient,
  pass,
  settle,
  socket,
  useFakeTime,
} from "./fake.mjs";

useFakeTime();

describe("events", () => {
  function listen(bff, topic = "t") {
    const heard = [];
    const off = bff.on(topic, (event, meta) => heard.push([event, meta.id]));
    return { heard, off };
  }

  test("reach the listeners of their topic and of '*', until these are removed", async () => {
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

  test("a listener that throws does not affect the others", async () => {
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

  test("seen before are dropped, on this connection and the next", async () => {
    const { bff } = await openClient();
    const { heard } = listen(bff);
    bff.onGap((streams) => heard.push(["gap", streams]));
    const ids = ["user/e/1", "user/e/2", "user/e/2", "user/e/1", "all/e/1", "a/b/e/1", "a/b/e/1"];
    for (const id of ids) socket().event(id);
    await comeBack();
    for (const id of ["user/e/2", "user/e/3"]) socket().event(id);
    assert.deepEqual(
      heard.map(([, id]) => id),
      ["user/e/1", "user/e/2", "all/e/1", "a/b/e/1", "user/e/3"],
    );
  });

  test("before the first hello are not emitted: fetched data contains them", async () => {
    const { bff } = await openClient({}, { positions: { user: "user/e/5" } });
    const { heard } = listen(bff);
    for (const id of ["user/e/4", "user/e/5", "user/e/6"]) socket().event(id);
    assert.deepEqual(heard, [["user/e/6", "user/e/6"]]);
  });

  test("retained broadcasts are emitted once, for the last 200", async () => {
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

  test("with the same broadcast_id are both emitted if both are stored", async () => {
    const { bff } = await openClient();
    const { heard } = listen(bff);
    for (const id of ["user/e/1", "user/e/2"]) socket().event(id, { broadcast_id: "show" });
    for (const id of ["topic:t/e/1", "topic:t/e/2"]) socket().event(id, { broadcast_id: "show" });
    assert.equal(heard.length, 4);
  });

  test("errors that belong to no request go to onError", async () => {
    const { bff } = await openClient();
    const errors = [];
    bff.onError((error) => errors.push(error.code));
    const error = { code: "rate_limited", description: "slow", trace_id: null };
    socket().receive("error", error);
    socket().receive("error", { ...error, trace_id: "nobody" });
    assert.deepEqual(errors, ["rate_limited"]);
  });

  test("invalid frames are ignored", async () => {
    const { bff } = await openClient();
    const { heard } = listen(bff, "*");
    for (const text of ["", "{", "null", "7", '"x"', "[]", new ArrayBuffer(4)]) {
      socket().receiveText(text);
    }
    for (const type of ["new", "event", "response", "error", "gap", "ping", "pong", "drain"]) {
      for (const payload of [null, 7, "x", [], {}]) socket().receive(type, payload);
    }
    assert.equal(bff.state, "open");
    assert.deepEqual(heard, []);
    for (const topic of ["subscribed", "unsubscribed"]) {
      for (const event of [null, 7, "x", [], {}, { positions: 7, topics: 7 }]) {
        socket().receive("event", { topic, event });
      }
    }
    assert.equal(heard.length, 12);
  });
});

describe("what was missed", () => {
  /** A client that writes down what it is told, in order. */
  async function follow(positions, options) {
    const { bff } = await openClient(options, { positions });
    const told = [];
    bff.on("*", (event, { id }) => told.push(id));
    bff.onGap((streams) => told.push(streams));
    return { bff, told };
  }

  test("are requested from the last positions", async () => {
    const { bff } = await follow({ user: "user/e/5", all: "all/e/2" });
    assert.equal(socket().url.search, "");
    socket().event("user/e/6");
    socket().event("topic:a/e/1");
    socket().event("another/e/1");
    await comeBack();
    assert.equal(socket().url.searchParams.get("since"), "user/e/6,all/e/2");
    bff.close();
    bff.connect();
    await settle();
    assert.equal(socket().url.searchParams.get("since"), "user/e/6,all/e/2");
  });

  test("follows the hello when it was recovered, without a gap", async () => {
    const { bff, told } = await follow({ user: "user/e/5", all: "all/e/2" });
    const positions = { user: "user/e/7", all: "all/e/2" };
    await comeBack({ positions, recovered: { user: true, all: true } });
    assert.equal(bff.positions.user, "user/e/5");
    for (const id of ["user/e/6", "user/e/7", "user/e/8"]) socket().event(id);
    assert.deepEqual(told, ["user/e/6", "user/e/7", "user/e/8"]);
  });

  test("goes on where it broke off when the connection breaks in between", async () => {
    const { told } = await follow({ user: "user/e/5" });
    await comeBack({ positions: { user: "user/e/9" }, recovered: { user: true } });
    socket().event("user/e/6");
    await comeBack({ positions: { user: "user/e/9" }, recovered: { user: true } });
    assert.equal(socket().url.searchParams.get("since"), "user/e/6");
    for (const id of ["user/e/7", "user/e/8", "user/e/9"]) socket().event(id);
    assert.deepEqual(told, ["user/e/6", "user/e/7", "user/e/8", "user/e/9"]);
  });

  test("is a gap when it was not recovered, and the flow goes on from the hello", async () => {
    const { bff, told } = await follow({ user: "user/e/5", all: "all/e/2" });
    const positions = { user: "user/e/9", all: "all/e/2" };
    await comeBack({ positions, recovered: { user: false, all: true } });
    assert.deepEqual(told, [{ user: "user/e/9" }]);
    socket().event("user/e/9");
    socket().event("user/e/10");
    assert.deepEqual(told.slice(1), ["user/e/10"]);
    assert.equal(bff.positions.user, "user/e/10");
  });

  test("is a gap when not recovered, even at the same position", async () => {
    const { told } = await follow({ user: "user/e/5" });
    await comeBack({ positions: { user: "user/e/5" }, recovered: { user: false } });
    assert.deepEqual(told, [{ user: "user/e/5" }]);
  });

  test("is found by comparing positions when the BFF cannot catch up", async () => {
    const { told } = await follow({ user: "user/e/5", all: "all/e/1" });
    await comeBack({ positions: { user: "user/e/5", all: "all/e/1" } });
    assert.deepEqual(told, []);
    await comeBack({ positions: { user: "user/e/7", all: "all/e/1" } });
    await comeBack({ positions: { user: "user/e/7", all: "all/f/0" } });
    assert.deepEqual(told, [{ user: "user/e/7" }, { all: "all/f/0" }]);
  });

  test("reported by the BFF are a gap, and delivery continues from there", async () => {
    const { bff, told } = await follow({ user: "user/e/5" });
    socket().receive("gap", { streams: { user: "user/f/0" } });
    socket().event("user/f/1");
    assert.deepEqual(told, [{ user: "user/f/0" }, "user/f/1"]);
    assert.equal(bff.state, "open");
  });

  test("before a skipped offset or a new epoch are a gap, before the next event", async () => {
    const { told } = await follow({ user: "user/e/5" });
    for (const id of ["user/e/6", "user/e/9", "user/f/1", "user/f/2"]) socket().event(id);
    const gaps = [{ user: "user/e/9" }, { user: "user/f/1" }];
    assert.deepEqual(told, ["user/e/6", gaps[0], "user/e/9", gaps[1], "user/f/1", "user/f/2"]);
  });

  test("before a reload is asked for from positions that the page kept", async () => {
    const { bff } = makeClient({ positions: { user: "user/e/5", all: "nonsense" } });
    const told = [];
    bff.on("t", (event, { id }) => told.push(id));
    bff.connect();
    await settle();
    assert.equal(socket().url.searchParams.get("since"), "user/e/5");
    socket().greet({ positions: { user: "user/e/6", all: "all/e/1" }, recovered: { user: true } });
    socket().event("user/e/6");
    assert.deepEqual(told, ["user/e/6"]);
  });

  test("of another user are ignored: their streams have other epochs", async () => {
    const { bff, told } = await follow({ user: "user/e/5", all: "all/e/2" });
    bff.close();
    bff.connect();
    await settle();
    const positions = { user: "user/f/3", all: "all/e/2" };
    socket().greet({ user_id: "bob", positions, recovered: { user: false, all: true } });
    assert.deepEqual(told, [{ user: "user/f/3" }]);
    assert.deepEqual(bff.positions, positions);
  });
});

describe("a topic", () => {
  const at = (...ids) => Object.fromEntries(ids.map((id) => [id.replace(/\/.*/s, ""), id]));
  const asked = () => socket().sentOf("subscribe").map(({ topics }) => topics);

  /** Whoever holds `a` at offset 5. */
  async function subscribed(options) {
    const { bff } = await openClient(options);
    const told = [];
    bff.on("*", (event, { topic, id }) => told.push(id ?? [topic, event.topics ?? event]));
    bff.onGap((streams) => told.push(streams));
    const done = bff.subscribe("a");
    socket().answer({ positions: at("topic:a/e/5"), recovered: {} });
    await done;
    await settle();
    return { bff, told };
  }

  test("is delivered from the position of its subscription", async () => {
    const { bff } = await openClient();
    const heard = [];
    bff.on("prices.tea", (price, { id }) => heard.push([price, id]));
    let done = false;
    const subscription = bff.subscribe("prices.tea").then(() => (done = true));
    assert.deepEqual(asked(), [[{ topic: "prices.tea", since: null }]]);
    await settle();
    assert.equal(done, false);
    socket().answer({ positions: at("topic:prices.tea/e/5"), recovered: {} });
    await subscription;
    for (const offset of [5, 6]) {
      const id = `topic:prices.tea/e/${offset}`;
      socket().receive("event", { topic: "prices.tea", event: offset, id });
    }
    assert.deepEqual(heard, [[6, "topic:prices.tea/e/6"]]);
    assert.equal(bff.positions["topic:prices.tea"], "topic:prices.tea/e/6");
  });

  test("is asked for again at its position on the next connection", async () => {
    const { told } = await subscribed();
    socket().event("topic:a/e/6");
    await comeBack();
    assert.equal(socket().url.search, "");
    assert.deepEqual(asked(), [[{ topic: "a", since: "topic:a/e/6" }]]);
    socket().answer({ positions: at("topic:a/e/8"), recovered: { "topic:a": true } });
    for (const id of ["topic:a/e/7", "topic:a/e/8", "topic:a/e/9"]) socket().event(id);
    assert.deepEqual(told, ["topic:a/e/6", "topic:a/e/7", "topic:a/e/8", "topic:a/e/9"]);
  });

  test("that was not recovered is a gap, known before the next frame is read", async () => {
    const { told } = await subscribed();
    await comeBack();
    socket().answer({ positions: at("topic:a/e/9"), recovered: { "topic:a": false } });
    socket().event("topic:a/e/10");
    assert.deepEqual(told, [{ "topic:a": "topic:a/e/9" }, "topic:a/e/10"]);
  });

  test("is asked for before requests that waited, and with all others at once", async () => {
    const { bff } = makeClient();
    bff.connect();
    const all = ["a", "b", "c"].map((topic) => bff.subscribe(topic));
    bff.request("orders", "list").catch(() => {});
    await settle();
    socket().greet();
    assert.deepEqual(socket().sent.map(({ type }) => type), ["subscribe", "request"]);
    assert.equal(asked()[0].length, 3);
    socket().answer({ positions: {}, recovered: {} }, socket().sent[0]);
    await Promise.all(all);
  });

  test("waits through a broken connection for its subscription", async () => {
    const { bff } = await openClient();
    const done = bff.subscribe("a");
    await comeBack();
    socket().answer({ positions: at("topic:a/e/5"), recovered: {} });
    await done;
  });

  test("that is refused rejects subscribe, and is not requested again", async () => {
    const { bff } = await openClient();
    const told = [];
    bff.on("*", (event) => told.push(event));
    const done = failure(bff.subscribe("a"));
    socket().refuse("forbidden");
    assert.equal((await done).code, "forbidden");
    assert.deepEqual(told, []);
    await comeBack();
    assert.deepEqual(socket().sent, []);
  });

  test("that is refused later emits unsubscribed, and the others are kept", async () => {
    const { bff, told } = await subscribed();
    const more = ["b", "c", "d", "e"].map((topic) => bff.subscribe(topic));
    for (let request = 1; request <= 2; request += 1) {
      socket().answer({ positions: {}, recovered: {} });
      await settle();
    }
    await Promise.all(more);
    await comeBack();
    for (let request = 1; asked().length === request; request += 1) {
      const names = asked().at(-1).map(({ topic }) => topic);
      if (names.includes("b")) socket().refuse("not_found");
      else socket().answer({ positions: {}, recovered: {} });
      await settle();
    }
    assert.deepEqual(told, [["unsubscribed", ["b"]]]);
    await comeBack();
    assert.deepEqual(asked()[0].map(({ topic }) => topic), ["a", "c", "d", "e"]);
  });

  for (const bad of ["t1", "t33", "t64"]) {
    test(`that is refused is found among many in few requests: ${bad}`, async () => {
      const { bff } = makeClient();
      bff.connect();
      for (let n = 1; n <= 64; n += 1) bff.subscribe(`t${n}`).catch(() => {});
      await settle();
      socket().greet();
      const had = new Set();
      for (let request = 1; asked().length === request; request += 1) {
        const topics = asked().at(-1).map(({ topic }) => topic);
        if (topics.includes(bad)) socket().refuse("forbidden");
        else topics.forEach((topic) => had.add(topic));
        socket().answer({ positions: {}, recovered: {} });
        await settle();
      }
      assert.equal(had.size, 63);
      assert.ok(asked().length <= 16, String(asked().length));
    });
  }

  test("with a temporary error does not affect the others", async () => {
    const { bff } = await openClient({}, { ping_interval: 0 });
    const had = [];
    for (const topic of ["a", "b", "c", "d"]) bff.subscribe(topic).then(() => had.push(topic));
    for (let request = 1; request <= 12 && had.length < 3; request += 1) {
      const isBad = asked().at(-1).some(({ topic }) => topic === "b");
      if (isBad) socket().refuse("timeout", { outcome: "unknown" });
      else socket().answer({ positions: {}, recovered: {} });
      await settle();
      await pass(500);
    }
    assert.deepEqual(had, ["a", "c", "d"]);
    assert.deepEqual(
      asked().map((topics) => topics.map(({ topic }) => topic).join("")),
      ["a", "bcd", "b", "c", "db", "d", "b"],
    );
  });

  test("whose policy fails is refused, not requested again", async () => {
    const { bff } = await openClient();
    const done = failure(bff.subscribe("a"));
    socket().refuse("internal", { outcome: "unknown" });
    assert.equal((await done).code, "internal");
  });

  test("that cannot be unsubscribed now is unsubscribed later", async () => {
    const { bff } = await subscribed();
    bff.unsubscribe("a");
    socket().refuse("rate_limited", { retryable: true });
    await settle();
    await pass(250);
    assert.equal(socket().sentOf("unsubscribe").length, 2);
    socket().answer({});
    await settle();
    assert.deepEqual(bff.positions, {});
  });

  test("with a temporary error is requested again with back-off", async () => {
    const { bff } = await openClient({}, { ping_interval: 0 });
    const done = bff.subscribe("a");
    for (const pause of [250, 500, 1000]) {
      const count = asked().length;
      socket().refuse("service_unavailable", { retryable: true });
      await settle();
      await pass(pause - 1);
      assert.equal(asked().length, count);
      await pass(1);
      assert.equal(asked().length, count + 1);
    }
    socket().answer({ positions: at("topic:a/e/5"), recovered: {} });
    await done;
  });

  test("is not delivered after unsubscribe, now and after a reconnect", async () => {
    const { bff } = await subscribed();
    bff.unsubscribe("a");
    assert.deepEqual(socket().sentOf("unsubscribe")[0].topics, ["a"]);
    socket().answer({});
    await settle();
    assert.deepEqual(bff.positions, {});
    await comeBack();
    assert.deepEqual(socket().sent, []);
    void bff.subscribe("a");
    assert.deepEqual(asked(), [[{ topic: "a", since: null }]]);
  });

  test("unsubscribed while disconnected is not subscribed again", async () => {
    for (const when of ["before", "after"]) {
      const { bff } = await subscribed();
      if (when === "before") bff.unsubscribe("a");
      socket().breakWith(1006);
      if (when === "after") bff.unsubscribe("a");
      assert.deepEqual(bff.positions, {}, when);
      await pass(30_000);
      socket().greet();
      assert.deepEqual(socket().sent, []);
    }
  });

  test("subscribed, unsubscribed and subscribed again sends one request at a time", async () => {
    const { bff } = await openClient();
    const first = failure(bff.subscribe("a"));
    bff.unsubscribe("a");
    assert.equal((await first).code, "cancelled");
    const second = bff.subscribe("a");
    assert.equal(socket().sent.length, 1);
    socket().answer({ positions: at("topic:a/e/5"), recovered: {} });
    await second;
    await settle();
    bff.unsubscribe("a");
    const third = bff.subscribe("a");
    assert.deepEqual(socket().sent.map(({ type }) => type), ["subscribe", "unsubscribe"]);
    socket().answer({});
    await settle();
    assert.deepEqual(asked().length, 2);
    socket().answer({ positions: at("topic:a/e/9"), recovered: {} });
    await third;
  });

  test("unsubscribed and subscribed again behind another request is fulfilled", async () => {
    const { bff } = await subscribed();
    void bff.subscribe("b");
    bff.unsubscribe("a");
    const again = bff.subscribe("a");
    socket().answer({ positions: at("topic:b/e/1"), recovered: {} });
    await again;
  });

  test("subscribed twice is one subscription", async () => {
    const { bff } = await subscribed();
    await bff.subscribe("a");
    assert.equal(asked().length, 1);
  });

  test("that the BFF subscribes is subscribed again after a reconnect", async () => {
    const { bff } = await openClient();
    const told = [];
    bff.on("*", (event, { id }) => told.push(id ?? event));
    socket().receive("event", { topic: "subscribed", event: { positions: at("topic:a/e/5") } });
    socket().event("topic:a/e/6");
    assert.deepEqual(told, [{ positions: at("topic:a/e/5") }, "topic:a/e/6"]);
    await comeBack();
    assert.deepEqual(asked(), [[{ topic: "a", since: "topic:a/e/6" }]]);
    socket().answer({ positions: at("topic:a/e/6"), recovered: { "topic:a": true } });
    socket().receive("event", { topic: "unsubscribed", event: { topics: ["a"] } });
    assert.deepEqual(bff.positions, {});
    await comeBack();
    assert.deepEqual(socket().sent, []);
  });

  test("that is pending is rejected on close; a subscribed one is requested again", async () => {
    const { bff } = await subscribed();
    const waiting = failure(bff.subscribe("b"));
    bff.close();
    assert.equal((await waiting).code, "connection_lost");
    assert.equal((await failure(bff.subscribe("c"))).outcome, "not_sent");
    bff.connect();
    await settle();
    socket().greet();
    assert.deepEqual(asked(), [[{ topic: "a", since: "topic:a/e/5" }]]);
  });

  test("is subscribed in requests of at most 100", async () => {
    const { bff } = makeClient();
    bff.connect();
    for (let n = 1; n <= 150; n += 1) bff.subscribe(`t${n}`);
    await settle();
    socket().greet();
    assert.equal(asked()[0].length, 100);
    socket().answer({ positions: {}, recovered: {} });
    await settle();
    assert.equal(asked()[1].length, 50);
    socket().answer({ positions: {}, recovered: {} });
    await settle();
    for (let n = 1; n <= 150; n += 1) bff.unsubscribe(`t${n}`);
    for (const size of [1, 100, 49]) {
      assert.equal(socket().sentOf("unsubscribe").at(-1).topics.length, size);
      socket().answer({});
      await settle();
    }
  });
});
