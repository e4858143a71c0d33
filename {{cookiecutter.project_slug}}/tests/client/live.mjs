/** The client against the running BFF at `BFF_URL`, in development with its example service. */

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { BffClient, BffError } from "../../client/bff-client.js";

const PATIENCE_MS = 15_000;
const base = process.env.BFF_URL;
const clients = [];

after(() => clients.forEach((client) => client.close()));

async function http(method, path, body, token) {
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${token}` };
  const signal = AbortSignal.timeout(PATIENCE_MS);
  const text = JSON.stringify(body);
  const response = await fetch(new URL(path, base), { method, headers, body: text, signal });
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${await response.clone().text()}`);
  return response.json();
}

async function tokenFor(user, ...scopes) {
  return (await http("POST", "/dev/token", { user, scopes })).token;
}

function make(credentials) {
  const client = new BffClient({ url: new URL("/ws", base), ...credentials });
  clients.push(client);
  return client;
}

async function connected(user) {
  const client = make({ getToken: () => tokenFor(user, "orders") });
  const { user_id } = await soon(client.connect());
  assert.equal(user_id, user);
  return client;
}

function soon(promise) {
  const late = new Promise((_, reject) => {
    setTimeout(reject, PATIENCE_MS, new Error("nothing happened in time")).unref();
  });
  return Promise.race([promise, late]);
}

function next(client, topic) {
  return soon(new Promise((resolve) => client.on(topic, (...heard) => resolve(heard))));
}

function closed(client) {
  const end = new Promise((resolve) => {
    client.onState((change) => change.state === "closed" && resolve(change));
  });
  return soon(end);
}

test("a request is answered by the service, whose event reaches the user", async () => {
  const ann = await connected("ann");
  const event = next(ann, "order.updated");
  const order = await ann.request("orders", "place", { item: "tea", quantity: 2 });
  assert.equal(order.item, "tea");
  const [updated, { id }] = await event;
  assert.equal(updated.order_id, order.order_id);
  assert.match(id, /^user\/[^/]+\/\d+$/);
  assert.equal(ann.positions.user, id);
});

test("what may not be called is refused with a code", async () => {
  const ann = await connected("ann");
  await assert.rejects(ann.request("secrets", "list"), (error) => {
    assert.ok(error instanceof BffError);
    assert.deepEqual([error.code, error.outcome], ["not_found", "not_sent"]);
    return true;
  });
});

test("a request waits for its answer no longer than it says", async () => {
  const ann = await connected("ann");
  const signal = AbortSignal.abort();
  await assert.rejects(ann.request("orders", "list", {}, { signal }), { code: "cancelled" });
  assert.ok(await ann.request("orders", "list", {}, { timeoutMs: 5_000 }));
});

test("a fresh token is taken without reconnecting", async () => {
  const ann = await connected("ann");
  const { session_id } = ann.session;
  const session = await ann.authenticate(await tokenFor("ann", "orders"));
  assert.equal(session.session_id, session_id);
  await assert.rejects(ann.authenticate(await tokenFor("bob")), { code: "forbidden" });
});

test("a broadcast reaches the users who are there", async () => {
  const users = [await connected("ann"), await connected("bob")];
  const heard = Promise.all(users.map((user) => next(user, "notice")));
  const body = { audience: "all", topic: "notice", event: { text: "hello" } };
  await http("POST", "/admin/broadcasts", body, await tokenFor("root", "admin"));
  for (const [event] of await heard) assert.equal(event.text, "hello");
});

test("whom an administrator disconnects does not come back", async () => {
  const eve = await connected("eve");
  const end = closed(eve);
  await http("DELETE", "/admin/users/eve/connections", undefined, await tokenFor("root", "admin"));
  assert.equal((await end).code, 4504);
  assert.equal(eve.state, "closed");
});

test("a bad token, and a bad ticket, end the attempts", async () => {
  for (const credentials of [{ getToken: () => "rubbish" }, { getTicket: () => "rubbish" }]) {
    const stranger = make(credentials);
    const end = closed(stranger);
    await assert.rejects(soon(stranger.connect()), BffError);
    assert.equal((await end).code, 4500);
  }
});
