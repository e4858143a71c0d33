/** What every browser must show of the example app: in `make test`. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { bff, front, openPage, Tab } from "./stage.mjs";

const { MAX_TABS } = process.env;

describe("the example app", () => {
  test("in strict mode shows events in two components, of which one ends", async () => {
    const tab = await Tab.open();
    await tab.isConnected("websocket");
    await tab.place("tea");
    await tab.shows("footer", "tea");
    await tab.click("toggle");
    await tab.until(() => !document.querySelector("#footer"));
    await tab.place("milk");
    await tab.click("toggle");
    await tab.place("rice");
    await tab.shows("footer", "rice");
    await tab.until(() => document.querySelectorAll("#orders li").length === 3);
    await tab.close();
  });

  test("in two tabs shows the orders of both", async () => {
    const one = await Tab.open();
    const two = await Tab.open({ user: one.user });
    await one.isConnected("websocket");
    await two.isConnected("websocket");
    await one.place("salt");
    await two.shows("header", "salt");
    await two.until(() => document.querySelectorAll("#orders li").length === 1);
    await one.close();
    await two.place("pepper");
    await two.close();
  });

  test("in one tab too many says so, and does not ask again", async () => {
    const first = await Tab.open();
    const tabs = [first];
    for (let n = 1; n < Number(MAX_TABS); n += 1) tabs.push(await Tab.open({ user: first.user }));
    for (const tab of tabs) await tab.isConnected("websocket");
    const last = await Tab.open({ user: first.user });
    await last.shows("connection", "Close another tab");
    assert.equal(await last.page.$eval("#connection", ({ dataset }) => dataset.code), "4008");
    const asked = front.count("upgrade");
    await last.happens("online");
    await sleep(1_000);
    assert.equal(front.count("upgrade"), asked);
    await first.close();
    await last.page.$eval("#connection button", (button) => button.click());
    await last.isConnected("websocket");
    for (const tab of [...tabs.slice(1), last]) await tab.close();
  });
});

describe("behind a proxy that answers 400 to upgrades", () => {
  test("it works over HTTP, and changes back without losing or doubling anything", async () => {
    front.mode = "no upgrade";
    const tab = await Tab.open();
    await tab.isConnected("events");
    await tab.place("tea");
    await tab.shows("footer", "tea");
    front.mode = "open";
    await tab.happens("online");
    await tab.isConnected("websocket");
    await tab.place("milk");
    await tab.shows("footer", "milk");
    await tab.until(() => document.querySelectorAll("#orders li").length === 2);
    await tab.close({ isNetworkBroken: true });
  });
});

describe("when the server restarts", () => {
  test("the page says so, is back within seconds, and fetches its data again", async () => {
    const tab = await Tab.open();
    await tab.isConnected("websocket");
    await tab.place("tea");
    await bff.kill();
    await tab.isIn("waiting");
    await tab.shows("connection", "The connection was lost.");
    await bff.start();
    const began = performance.now();
    await tab.until(() => document.querySelector("#connection").dataset.state === "open");
    assert.ok(performance.now() - began < 10_000, `after ${performance.now() - began} ms`);
    await tab.until(() => document.querySelectorAll("#orders li").length === 0);
    await tab.place("milk");
    await tab.close({ isNetworkBroken: true });
  });
});

describe("a ticket that is lost", () => {
  test("is requested again", async () => {
    front.lost = "/auth/ticket";
    const asked = front.count("/auth/ticket");
    const tab = await Tab.open();
    await tab.isConnected("websocket");
    assert.equal(front.lost, "");
    assert.ok(front.count("/auth/ticket") >= asked + 2);
    await tab.place("tea");
    await tab.close({ isNetworkBroken: true });
  });
});

describe("a page without a framework", () => {
  test("learns the present state, and which listener gets no events", async () => {
    const { page, problems } = await openPage();
    const hint = new Promise((resolve) => {
      page.on("console", (message) => message.text().includes("gets no events") && resolve(message.text()));
    });
    await page.goto(`${front.url}empty.html`);
    await page.addScriptTag({
      type: "module",
      content: `
        import { BffClient } from "/bff-client/bff-client.js";
        const headers = { "Content-Type": "application/json" };
        const body = JSON.stringify({ user: "plain", scopes: ["orders"] });
        const getToken = async () => {
          const response = await fetch("/dev/token", { method: "POST", headers, body });
          return (await response.json()).token;
        };
        const bff = new BffClient({ getToken });
        bff.on("orders.latest", () => {});
        await bff.connect();
        bff.onState(({ state }) => { window.stateAtOnce = state; }, { current: true });
      `,
    });
    await page.waitForFunction(() => window.stateAtOnce === "open", { timeout: 30_000 });
    assert.match(await hint, /use follow\("orders.latest", listener\)/);
    await page.close();
    assert.deepEqual(problems, []);
  });
});
