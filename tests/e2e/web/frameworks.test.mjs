/** The hooks of React on a server, and the composables of Vue in a scope of their own. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { createElement, useState } from "react";
import { renderToString } from "react-dom/server";
import { createApp, effectScope, nextTick, ref } from "vue";

import { BffClient } from "./client/bff-client.js";
import * as react from "./client/react.js";
import * as vue from "./client/vue.js";

/** A client whose events the test sends. */
class FakeClient {
  status = { state: "closed", code: 1000, reason: "" };
  listeners = { event: new Set(), state: new Set(), gap: new Set() };
  followed = [];
  asked = [];
  answer = async () => this.asked.length;

  #add(kind, listener) {
    this.listeners[kind].add(listener);
    return () => this.listeners[kind].delete(listener);
  }

  on(topic, listener) {
    return this.#add("event", (event, meta) => meta.topic === topic && listener(event, meta));
  }

  onState(listener, { current } = {}) {
    if (current) listener(this.status);
    return this.#add("state", listener);
  }

  onGap(listener) {
    return this.#add("gap", listener);
  }

  follow(topic, listener) {
    this.followed.push(topic);
    const remove = this.on(topic, listener);
    const off = () => {
      this.followed.splice(this.followed.indexOf(topic), 1);
      remove();
    };
    return { topic, off };
  }

  request(service, method, params) {
    this.asked.push({ service, method, params });
    return this.answer();
  }

  send(kind, ...values) {
    for (const listener of this.listeners[kind]) listener(...values);
  }
}

/** Run composables in a scope of an app that has the plugin. */
function composed(client, compose) {
  const app = createApp({});
  app.use(vue.bffPlugin(client));
  const scope = effectScope();
  return { scope, result: app.runWithContext(() => scope.run(compose)) };
}

test("React renders on a server without connecting", () => {
  const client = new BffClient();
  const Shown = () => {
    const { isLoading } = react.useRequest("orders", "list");
    const latest = react.useTopic("prices.tea");
    return `${react.useConnection().state} ${isLoading} ${latest}`;
  };
  const page = createElement(react.BffProvider, { client }, createElement(Shown));
  assert.equal(renderToString(page), "closed true undefined");
});

test("React's request does not load when it is no longer enabled", () => {
  const client = new BffClient();
  const seen = [];
  const Shown = () => {
    const [enabled, setEnabled] = useState(true);
    seen.push(react.useRequest("orders", "list", {}, { enabled }).isLoading);
    if (enabled) setEnabled(false);
    return null;
  };
  renderToString(createElement(react.BffProvider, { client }, createElement(Shown)));
  assert.deepEqual(seen, [true, false]);
});

test("React says what is missing without a provider", () => {
  const Shown = () => react.useBff();
  assert.throws(() => renderToString(createElement(Shown)), /BffProvider/);
});

test("Vue follows a topic that changes, until the scope ends", async () => {
  const client = new FakeClient();
  const topic = ref("prices.tea");
  const { scope, result } = composed(client, () => ({
    price: vue.useTopic(topic),
    status: vue.useConnection(),
  }));
  client.send("event", 1, { topic: "prices.tea" });
  assert.equal(result.price.value, 1);
  topic.value = "prices.milk";
  await nextTick();
  assert.deepEqual([client.followed, result.price.value], [["prices.milk"], undefined]);
  topic.value = null;
  await nextTick();
  assert.deepEqual(client.followed, []);
  client.send("state", { state: "open" });
  assert.equal(result.status.value.state, "open");
  topic.value = "prices.tea";
  await nextTick();
  scope.stop();
  assert.deepEqual([client.followed, client.listeners.state.size], [[], 0]);
});

test("Vue sends a request again for other parameters, after a gap and after a loss", async () => {
  const client = new FakeClient();
  const params = ref({ item: "tea" });
  const heard = [];
  const { scope, result } = composed(client, () => {
    vue.useEvent("order.updated", (event) => heard.push(event));
    return vue.useRequest("orders", "list", params);
  });
  const settled = async () => {
    for (let turn = 0; turn < 5; turn += 1) await nextTick();
    return [result.data.value, result.error.value?.code, result.isLoading.value];
  };
  assert.deepEqual(await settled(), [1, undefined, false]);
  params.value = { item: "milk" };
  assert.deepEqual(await settled(), [2, undefined, false]);
  client.send("gap", { user: "user/e/1" });
  assert.deepEqual(await settled(), [3, undefined, false]);
  client.answer = () => Promise.reject({ code: "connection_lost" });
  result.reload();
  assert.deepEqual(await settled(), [3, "connection_lost", false]);
  client.answer = async () => "back";
  client.send("state", { state: "open" });
  assert.deepEqual(await settled(), ["back", undefined, false]);
  assert.deepEqual(client.asked.at(-1).params, { item: "milk" });
  client.send("event", "paid", { topic: "order.updated" });
  scope.stop();
  client.send("event", "late", { topic: "order.updated" });
  assert.deepEqual(heard, ["paid"]);
});
