/** What sign-in, pages, silent links and wrong clocks do to the client: a scripted socket and page. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, mock, test } from "node:test";

import { CloseCode, closeText } from "../../../{{cookiecutter.project_slug}}/client/bff-client.js";
import {
  comeBack,
  failure,
  inSeconds,
  makeClient,
  openClient,
  opened,
  pass,
  settle,
  socket,
  useFakeTime,
  withoutPage,
  withPage,
} from "./fake.mjs";

useFakeTime();

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
