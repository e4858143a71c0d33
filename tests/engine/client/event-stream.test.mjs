/** Events over HTTP where a proxy breaks WebSockets: a scripted socket and stream. */

import assert from "node:assert/strict";
import { afterEach, describe, mock, test } from "node:test";

import { CloseCode } from "../../../{{cookiecutter.project_slug}}/client/bff-client.js";
import { deferred } from "../../../{{cookiecutter.project_slug}}/client/core/promises.js";
import {
  failure,
  makeClient,
  opened,
  pass,
  settle,
  socket,
  until,
  useFakeTime,
  withoutPage,
  withPage,
} from "./fake.mjs";

useFakeTime();

/** Hellos for "since=user/e/5", when the other connection has had a gap and is at "user/f/2". */
const OUTDATED = {
  "it begins the epoch": { positions: { user: "user/f/1" }, recovered: { user: false } },
  "it is in the epoch before": { positions: { user: "user/e/9" }, recovered: { user: true } },
};

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
function untilStream({ streams }, count = 1) {
  return until(() => streams.length >= count);
}

/** The same, when it opens another stream with the topic "a". `heard`: ids of events, and gaps. */
async function withSecondStream() {
  const { bff, fallback } = await withStream({ positions: { user: "user/e/5" } });
  const heard = [];
  bff.on("*", (event, { id }) => heard.push(id));
  bff.onGap((streams) => heard.push(streams));
  const { ready } = bff.follow("a", () => {});
  await untilStream(fallback, 2);
  return { bff, fallback, heard, ready };
}

describe("behind a proxy that breaks WebSockets", () => {
  afterEach(withoutPage);

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

  test("events come over HTTP after one socket that gets no answer in time", async () => {
    const fallback = new Fallback();
    const { bff } = makeClient({ transports: undefined, connectTimeoutMs: 5_000 });
    bff.connect();
    await settle();
    await pass(5_000);
    await pass(bff.status.delayMs);
    assert.deepEqual([bff.state, bff.status.transport], ["connecting", "events"]);
    await untilStream(fallback);
    assert.equal(opened(), 1);
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

  test("a refused token is replaced once, but work that a service has begun is not repeated", async () => {
    const outcomes = [];
    const answer = () => {
      const outcome = outcomes.shift();
      if (outcome === undefined) return Response.json("done");
      if (outcome === "proxy") return new Response("<html>", { status: 401 });
      return Response.json({ code: "unauthenticated", detail: "no", outcome }, { status: 401 });
    };
    const getToken = ({ fresh }) => (fresh ? "fresh" : "cached");
    const { bff, fallback } = await withStream(
      {},
      { "/rpc/orders/place": answer, "/auth/ticket": () => Response.json({ ticket: "t" }) },
      { getToken },
    );
    const tokens = () =>
      fallback.requests
        .splice(0)
        .map(({ url, headers }) => url.pathname.startsWith("/rpc") && headers.Authorization)
        .filter(Boolean);
    for (const refused of ["not_sent", "proxy"]) {
      tokens();
      outcomes.push(refused);
      assert.equal(await bff.request("orders", "place"), "done");
      assert.deepEqual(tokens(), ["Bearer cached", "Bearer fresh"], refused);
    }
    for (const begun of ["done", "unknown"]) {
      outcomes.push(begun);
      const { code, description, outcome } = await failure(bff.request("orders", "place"));
      assert.deepEqual([code, description, outcome], ["unauthenticated", "no", begun]);
      assert.deepEqual(tokens(), ["Bearer cached"]);
    }
  });

  test("a topic is subscribed by a second stream, and no message is lost or doubled", async () => {
    const { bff, fallback, heard, ready } = await withSecondStream();
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

  for (const [when, outdated] of Object.entries(OUTDATED)) {
    test(`a second stream that was overtaken by the first is opened again (${when})`, async () => {
      const { fallback, heard, ready } = await withSecondStream();
      const [first, second] = fallback.streams;
      first.frame("gap", { streams: { user: "user/f/1" } });
      first.event("user/f/2");
      await settle();
      await second.greet(outdated);
      await untilStream(fallback, 3);
      assert.deepEqual([first.signal.aborted, second.signal.aborted], [false, true]);
      assert.equal(fallback.stream.url.search, "?since=user%2Ff%2F2&topics=a");
      const positions = { user: "user/f/2", "topic:a": "topic:a/e/3" };
      await fallback.stream.greet({ positions, recovered: { user: true } });
      await ready;
      fallback.stream.event("user/f/3");
      await settle();
      assert.deepEqual(heard, [{ user: "user/f/1" }, "user/f/2", "user/f/3"]);
    });
  }

  test("a topic that the BFF subscribes while a second stream opens is not lost", async () => {
    const { fallback, heard, ready } = await withSecondStream();
    const [first, second] = fallback.streams;
    first.frame("event", { topic: "subscribed", event: { positions: { "topic:t": "topic:t/e/3" } } });
    await settle();
    await second.greet({ positions: { user: "user/e/5", "topic:a": "topic:a/e/1" } });
    await untilStream(fallback, 3);
    assert.deepEqual([first.signal.aborted, second.signal.aborted], [false, true]);
    assert.equal(fallback.stream.url.searchParams.get("topics"), "a,t");
    const positions = { user: "user/e/5", "topic:a": "topic:a/e/1", "topic:t": "topic:t/e/3" };
    await fallback.stream.greet({ positions, recovered: { user: true, "topic:t": true } });
    await ready;
    fallback.stream.event("topic:t/e/4");
    await settle();
    assert.deepEqual(heard, [null, "topic:t/e/4"], "no gap");
  });

  test("a second stream takes requests again that waited because the first was drained", async () => {
    const { bff, fallback, ready } = await withSecondStream();
    const [first, second] = fallback.streams;
    fallback.answers["/rpc/orders/place"] = () => Response.json("done");
    first.frame("drain", { reconnect_after_ms: 250 });
    await settle();
    const requests = [bff.request("orders", "place")];
    await settle();
    assert.equal(fallback.requests.length, 2, "not sent yet");
    await second.greet({ positions: { user: "user/e/5", "topic:a": "topic:a/e/1" } });
    await ready;
    requests.push(bff.request("orders", "place"));
    let results;
    Promise.all(requests).then((all) => (results = all));
    await until(() => results);
    assert.deepEqual(results, ["done", "done"]);
  });

  test("a topic that the page follows when a second stream reports a gap ends no stream", async () => {
    const page = withPage();
    const { bff, fallback } = await withStream({ positions: { user: "user/e/5" } });
    let following;
    bff.onGap(() => (following ??= bff.follow("b", () => {})));
    page.happens("online");
    await untilStream(fallback, 2);
    const second = fallback.stream;
    await second.greet({ positions: { user: "user/f/1" }, recovered: { user: false } });
    await untilStream(fallback, 3);
    assert.equal(second.signal.aborted, false, "the third one may be refused");
    const { stream } = fallback;
    bff.close();
    await failure(following.ready);
    assert.deepEqual([second.signal.aborted, stream.signal.aborted], [true, true]);
  });

  for (const name of ["", "a,b"]) {
    test(`a name that is not a topic is refused, as on a socket (${name || "empty"})`, async () => {
      const { bff, fallback } = await withStream({ positions: { user: "user/e/5" } });
      const good = bff.follow("a", () => {}).ready;
      await untilStream(fallback, 2);
      const { ready } = bff.follow(name, () => {});
      const positions = { user: "user/e/5", "topic:a": "topic:a/e/1" };
      await fallback.stream.greet({ positions, recovered: { user: true } });
      await good;
      const { code, outcome } = await failure(ready);
      assert.deepEqual([code, outcome], ["invalid_params", "not_sent"]);
      assert.equal(fallback.streams.length, 2, "no stream is opened for it");
    });
  }

  test("a topic that is refused leaves the stream as it is", async () => {
    const problem = { code: "not_found", detail: "There is no topic a", outcome: "not_sent" };
    const { bff, fallback } = await withStream({ positions: { user: "user/e/5" } });
    fallback.answers["/events"] = () => Response.json(problem, { status: 404 });
    assert.equal((await failure(bff.follow("a", () => {}).ready)).code, "not_found");
    assert.equal(bff.state, "open");
    assert.equal(fallback.stream.signal.aborted, false);
  });

  test("a topic that waits when the stream ends is subscribed on the next one", async () => {
    const { bff, fallback, ready } = await withSecondStream();
    fallback.streams[0].end();
    await settle();
    assert.equal(bff.state, "waiting");
    await pass(bff.status.delayMs);
    socket().breakWith(1006);
    await pass(bff.status.delayMs);
    await untilStream(fallback, 3);
    await fallback.stream.greet();
    await untilStream(fallback, 4);
    assert.equal(fallback.stream.url.searchParams.get("topics"), "a");
    await fallback.stream.greet();
    await ready;
  });

  test("the WebSocket is taken as soon as it works again, from the same positions", async () => {
    const { bff, fallback, states } = await withStream({ positions: { user: "user/e/5" } });
    const heard = [];
    bff.on("t", (event) => heard.push(event));
    bff.onGap((streams) => heard.push(streams));
    const answer = deferred();
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

  for (const [when, outdated] of Object.entries(OUTDATED)) {
    test(`a WebSocket that was overtaken by the stream is tried again later (${when})`, async () => {
      const { bff, fallback } = await withStream({ positions: { user: "user/e/5" } });
      const count = opened();
      await pass(10_000);
      assert.equal(opened(), count + 1);
      fallback.stream.frame("gap", { streams: { user: "user/f/1" } });
      fallback.stream.event("user/f/2");
      await settle();
      socket().greet(outdated);
      await settle();
      assert.equal(bff.status.transport, "events");
      await pass(20_000);
      socket().greet({ positions: { user: "user/f/2" }, recovered: { user: true } });
      await settle();
      assert.equal(bff.status.transport, "websocket");
    });
  }

  test("the WebSocket that is tried when the page is online again is the only one", async () => {
    const page = withPage();
    await withStream();
    const count = opened();
    await pass(5_000);
    page.happens("online");
    await pass(5_000);
    assert.equal(opened(), count + 1);
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
    await until(() => bff.state !== "connecting");
    assert.deepEqual([bff.state, bff.status.code], ["waiting", CloseCode.ABNORMAL]);
  });

  test("a server that is away is asked in both ways", async () => {
    const fallback = new Fallback({ "/events": () => Promise.reject(new TypeError("network")) });
    const { bff, states } = makeClient({ transports: undefined });
    bff.connect();
    for (let time = 0; time < 6; time += 1) {
      await settle();
      await until(
        () => bff.state !== "connecting",
        () => {
          socket().breakWith(1006);
          return settle();
        },
      );
      await pass(30_000);
    }
    const tried = states.filter(({ state }) => state === "connecting").map((s) => s.transport);
    assert.deepEqual(tried.slice(0, 6), [
      ...["websocket", "websocket", "events", "websocket", "events", "websocket"],
    ]);
    assert.ok(fallback.requests.length > 0);
  });
});
