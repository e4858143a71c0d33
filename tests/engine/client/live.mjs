/** The client against the running BFF at `BFF_URL`, in development with its example service. */

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { after, test } from "node:test";

import { BffClient, BffError } from "../../../{{cookiecutter.project_slug}}/client/bff-client.js";

const PATIENCE_MS = 15_000;
const BELOW_THE_RATE_LIMIT_MS = 200;
const base = process.env.BFF_URL;
const kept = Number(process.env.KEPT);
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

/** A token that expires sooner than those of the development page. */
function tokenOf(user, seconds) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const exp = Math.floor(Date.now() / 1000) + seconds;
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: user, exp })}`;
  const hmac = createHmac("sha256", process.env.SECRET);
  return `${signed}.${hmac.update(signed).digest("base64url")}`;
}

function make(options) {
  const client = new BffClient({ url: new URL("/ws", base), ...options });
  clients.push(client);
  return client;
}

async function connected(user) {
  const client = make({ getToken: () => tokenFor(user) });
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

/** What a client is told from now on: numbers of events, and gaps. */
function listen(client, topic) {
  const told = [];
  client.on(topic, (event) => told.push(event.n ?? event));
  client.onGap((streams) => told.push(Object.keys(streams)));
  return told;
}

async function until(holds) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!holds()) {
    assert.ok(Date.now() < deadline, `not in time: ${holds}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

async function send(user, from, to) {
  const token = await tokenFor("root", "admin");
  for (let n = from; n <= to; n += 1) {
    const body = { audience: "users", user_ids: [user], topic: "numbered", event: { n } };
    await http("POST", "/admin/broadcasts", body, token);
  }
}

function closed(client) {
  const end = new Promise((resolve) => {
    client.onState((change) => change.state === "closed" && resolve(change));
  });
  return soon(end);
}

test("a request is answered by the service, whose event reaches the user", async () => {
  const ann = await connected("ann");
  const event = next(ann, "echo.said");
  const answer = await ann.request("echo", "say", { text: "tea" });
  assert.deepEqual(answer, { user_id: "ann", text: "tea" });
  const [said, { id }] = await event;
  assert.equal(said.text, "tea");
  assert.match(id, /^user\/[^/]+\/\d+$/);
  assert.equal(ann.positions.user, id);
});

test("in development the hello has the patterns of all topics", async () => {
  const ann = await connected("ann");
  assert.deepEqual(ann.session.topics, ["prices.*"]);
});

test("a forbidden call is refused with a code", async () => {
  const ann = await connected("ann");
  await assert.rejects(ann.request("secrets", "list"), (error) => {
    assert.ok(error instanceof BffError);
    assert.deepEqual([error.code, error.outcome], ["not_found", "not_sent"]);
    return true;
  });
});

test("a request waits no longer than its timeout", async () => {
  const ann = await connected("ann");
  const signal = AbortSignal.abort();
  await assert.rejects(ann.request("echo", "say", {}, { signal }), { code: "cancelled" });
  assert.ok(await ann.request("echo", "say", {}, { timeoutMs: 5_000 }));
});

test("a fresh token is accepted without reconnecting", async () => {
  const ann = await connected("ann");
  const { session_id } = ann.session;
  const session = await ann.authenticate(await tokenFor("ann"));
  assert.equal(session.session_id, session_id);
  await assert.rejects(ann.authenticate(await tokenFor("bob")), { code: "forbidden" });
});

test("a broadcast reaches the connected users", async () => {
  const users = [await connected("ann"), await connected("bob")];
  const heard = Promise.all(users.map((user) => next(user, "notice")));
  const body = { audience: "all", topic: "notice", event: { text: "hello" } };
  await http("POST", "/admin/broadcasts", body, await tokenFor("root", "admin"));
  for (const [event] of await heard) assert.equal(event.text, "hello");
});

test("a client that an administrator disconnects does not reconnect", async () => {
  const eve = await connected("eve");
  const end = closed(eve);
  await http("DELETE", "/admin/users/eve/connections", undefined, await tokenFor("root", "admin"));
  assert.equal((await end).code, 4504);
  assert.equal(eve.state, "closed");
});

test("a bad token or ticket stops the reconnects", async () => {
  for (const credentials of [{ getToken: () => "rubbish" }, { getTicket: () => "rubbish" }]) {
    const stranger = make(credentials);
    const end = closed(stranger);
    await assert.rejects(soon(stranger.connect()), BffError);
    assert.equal((await end).code, 4500);
  }
});

test("messages sent while a client was away are delivered once and in order", async () => {
  const fay = await connected("fay");
  const told = listen(fay, "numbered");
  await send("fay", 1, 2);
  await until(() => told.length === 2);
  fay.close();
  await send("fay", 3, 5);
  await soon(fay.connect());
  await send("fay", 6, 6);
  await until(() => told.includes(6));
  assert.deepEqual(told, [1, 2, 3, 4, 5, 6]);
  assert.deepEqual(fay.session.recovered, { user: true, all: true });
});

test("a reloaded page resumes from its stored positions", async () => {
  const before = await connected("gil");
  const { positions } = before;
  before.close();
  await send("gil", 1, 2);
  const after = make({ getToken: () => tokenFor("gil"), positions });
  const told = listen(after, "numbered");
  await soon(after.connect());
  await until(() => told.length === 2);
  assert.deepEqual(told, [1, 2]);
});

test("more messages than the BFF keeps are a gap, and delivery continues", async () => {
  const hal = await connected("hal");
  const told = listen(hal, "numbered");
  hal.close();
  await send("hal", 1, kept + 1);
  await soon(hal.connect());
  await send("hal", 100, 100);
  await until(() => told.includes(100));
  assert.deepEqual(told, [["user"], 100]);
});

test("a topic is delivered, across reconnects, until it is unsubscribed", async () => {
  const ida = await connected("ida");
  const sender = await connected("sender");
  const set = (price) => sender.request("prices", "set", { topic: "prices.tea", price });
  const told = listen(ida, "prices.tea");
  await set(1);
  await soon(ida.subscribe("prices.tea"));
  await set(2);
  await until(() => told.length === 1);
  ida.close();
  await set(3);
  await soon(ida.connect());
  await set(4);
  await until(() => told.length === 3);
  ida.unsubscribe("prices.tea");
  assert.ok(await ida.request("echo", "say"));
  await set(5);
  assert.ok(await ida.request("echo", "say"));
  assert.deepEqual(told, [2, 3, 4]);
});

test("a topic that the BFF subscribes is delivered across reconnects too", async () => {
  const lea = await connected("lea");
  const sender = await connected("sender");
  const set = (price) => sender.request("prices", "set", { topic: "prices.gold", price });
  const told = listen(lea, "prices.gold");
  const given = next(lea, "subscribed");
  await sender.request("prices", "give", { topic: "prices.gold", user: "lea" });
  await given;
  await set(1);
  await until(() => told.length === 1);
  lea.close();
  await set(2);
  await soon(lea.connect());
  await set(3);
  await until(() => told.length === 3);
  assert.deepEqual(told, [1, 2, 3]);
});

test("a forbidden or unknown topic is refused; others are subscribed", async () => {
  const joe = make({ getToken: () => tokenFor("joe") });
  const connecting = joe.connect();
  const wishes = ["prices.tea", "prices.secret", "weather", "prices.milk"].map((topic) =>
    joe.subscribe(topic).catch((error) => error.code),
  );
  await soon(connecting);
  const ends = await soon(Promise.all(wishes));
  assert.deepEqual(ends, [undefined, "forbidden", "not_found", undefined]);
});

/** What a proxy makes of a WebSocket: nothing, until it is mended. */
class BrokenProxy {
  static isMended = false;

  constructor(...given) {
    if (BrokenProxy.isMended) return new WebSocket(...given);
    setTimeout(() => this.onclose?.({ code: 1006, reason: "" }));
  }

  close() {}
}

/** A client of this user that has an event stream, and what it is told. */
async function behindBrokenProxy(user, topic) {
  BrokenProxy.isMended = false;
  const client = make({ getToken: () => tokenFor(user), WebSocket: BrokenProxy });
  const told = listen(client, topic);
  await soon(client.connect());
  assert.equal(client.status.transport, "events");
  return { client, told };
}

test("without WebSockets events come as a stream, and requests go over HTTP", async () => {
  const { client, told } = await behindBrokenProxy("max", "numbered");
  await send("max", 1, 2);
  await until(() => told.length === 2);
  assert.deepEqual(await client.request("echo", "say", { text: "tea" }), {
    user_id: "max",
    text: "tea",
  });
  await assert.rejects(client.request("secrets", "list"), { code: "not_found" });
  client.close();
  await send("max", 3, 4);
  await soon(client.connect());
  await until(() => told.length === 4);
  assert.deepEqual(told, [1, 2, 3, 4]);
});

test("without WebSockets topics are delivered, and refused ones told", async () => {
  const { client, told } = await behindBrokenProxy("nat", "prices.salt");
  const sender = await connected("sender");
  const set = (price) => sender.request("prices", "set", { topic: "prices.salt", price });
  await set(1);
  const followed = client.follow("prices.salt", () => {});
  await soon(followed.ready);
  await assert.rejects(soon(client.subscribe("prices.secret")), { code: "forbidden" });
  await set(2);
  await until(() => told.length === 1);
  await soon(client.subscribe("prices.pepper"));
  await set(3);
  await until(() => told.length === 2);
  followed.off();
  assert.deepEqual(told, [2, 3]);
  assert.equal(client.state, "open");
});

test("when WebSockets work again, nothing is lost or doubled in the change", async () => {
  const { client, told } = await behindBrokenProxy("ora", "numbered");
  const prices = listen(client, "prices.oil");
  await soon(client.subscribe("prices.oil"));
  const sender = await connected("sender");
  BrokenProxy.isMended = true;
  let n = 0;
  while (client.status.transport === "events") {
    n += 1;
    await send("ora", n, n);
    await sender.request("prices", "set", { topic: "prices.oil", price: n });
    assert.ok(n < 300, "the socket was not taken");
    await new Promise((resolve) => setTimeout(resolve, BELOW_THE_RATE_LIMIT_MS));
  }
  await send("ora", n + 1, n + 1);
  await until(() => told.includes(n + 1) && prices.includes(n));
  const numbers = Array.from({ length: n + 1 }, (_, index) => index + 1);
  assert.deepEqual(told, numbers);
  assert.deepEqual(prices, numbers.slice(0, n));
});

test("a token that expires is renewed on the open connection", async () => {
  const kim = make({ getToken: () => tokenOf("kim", 3), refreshMs: 2_000 });
  const first = await soon(kim.connect());
  await until(() => kim.session.expires_at > first.expires_at);
  assert.equal(kim.session.session_id, first.session_id);
});
