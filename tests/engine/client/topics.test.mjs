/** Topics that are followed, and the hint for listeners that follow none: a scripted socket. */

import assert from "node:assert/strict";
import { describe, mock, test } from "node:test";

import {
  failure,
  makeClient,
  openClient,
  pass,
  settle,
  socket,
  until,
  useFakeTime,
} from "./fake.mjs";

useFakeTime();

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
    await until(() => warned.length > 0, () => pass(1_000));
    bff.on("prices.a.b", () => {});
    for (const name of ["news.of.today", "news", "newspaper"]) bff.on(name, () => {});
    await pass(1_000);
    assert.deepEqual(
      warned.map((text) => /on\("(.*?)"\)/.exec(text)[1]),
      ["prices.tea", "news.of.today", "news"],
    );
  });
});
