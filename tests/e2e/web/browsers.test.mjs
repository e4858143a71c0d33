/** The example app in a real browser, on good days and on bad ones. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import puppeteer from "puppeteer-core";

import { Bff, Front } from "./front.mjs";

const { APP, BFF_COMMAND, BFF_PORT, BROWSER, FRONT_PORT, KEPT, MAX_TABS } = process.env;
const PATIENCE_MS = 30_000;
const isFirefox = BROWSER.includes("firefox");
/** What a browser itself writes about a network that was broken on purpose. */
const NETWORK = /WebSocket|net::|Failed to load resource|NetworkError|establish a connection|interrupted/;

const bff = new Bff(JSON.parse(BFF_COMMAND), Number(BFF_PORT));
const front = new Front(APP, Number(BFF_PORT));
let browser;

before(async () => {
  await bff.start();
  await front.listen(Number(FRONT_PORT));
  browser = await puppeteer.launch({
    browser: isFirefox ? "firefox" : "chrome",
    executablePath: BROWSER,
    headless: true,
    args: isFirefox ? [] : ["--no-sandbox", "--disable-dev-shm-usage"],
    ignoreDefaultArgs: isFirefox ? [] : ["--disable-back-forward-cache"],
  });
});

after(async () => {
  await browser?.close();
  front.close();
  await bff.kill();
});

beforeEach(() => {
  front.mode = "open";
});

/** A tab with the example app. Each test has a user of its own, so that it sees no other orders. */
class Tab {
  static users = 0;
  problems = [];

  static async open({ user = `user${(Tab.users += 1)}`, prepare } = {}) {
    const tab = new Tab();
    tab.user = user;
    tab.page = await browser.newPage();
    tab.page.on("pageerror", (error) => tab.problems.push(String(error)));
    tab.page.on("console", (message) => {
      if (message.type() === "error") tab.problems.push(message.text());
    });
    if (prepare) await tab.page.evaluateOnNewDocument(prepare);
    await tab.page.goto(`${front.url}?user=${user}`);
    return tab;
  }

  text(id) {
    return this.page.$eval(`#${id}`, (element) => element.textContent);
  }

  /** Wait until a function that runs in the page returns something true. */
  async until(what, ...given) {
    const options = { timeout: PATIENCE_MS, polling: 50 };
    try {
      await this.page.waitForFunction(what, options, ...given);
    } catch (error) {
      const shown = await this.page.$eval("body", (body) => body.innerText).catch(String);
      throw new Error(`not in time: ${what} ${given}; the page shows: ${shown}`, { cause: error });
    }
  }

  async isConnected(transport) {
    await this.until((kind) => document.querySelector("#transport")?.textContent === kind
      && document.querySelector("#connection").dataset.state === "open", transport);
  }

  async isIn(state) {
    await this.until((name) => document.querySelector("#connection").dataset.state === name, state);
  }

  async shows(id, text) {
    await this.until((name, part) => document.querySelector(`#${name}`)?.textContent.includes(part), id, text);
  }

  click(id) {
    return this.page.$eval(`#${id}`, (element) => element.click());
  }

  /** Place an order of this item, and wait until the tickers show it. */
  async place(item) {
    await this.page.$eval("#item", (input, value) => {
      Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, value);
      input.dispatchEvent(new Event("input", { bubbles: true }));
    }, item);
    await this.click("place");
    await this.shows("header", item);
  }

  async showsOrder(text) {
    await this.until((part) => document.querySelector("#orders")?.textContent.includes(part), text);
  }

  happens(name) {
    return this.page.evaluate((event) => window.dispatchEvent(new Event(event)), name);
  }

  /** No error of the page: neither an exception, nor a rejection that nobody handled. */
  async close({ isNetworkBroken = false } = {}) {
    await this.page.close();
    const problems = this.problems.filter((text) => !(isNetworkBroken && NETWORK.test(text)));
    assert.deepEqual(problems, []);
  }
}

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

describe("a page that is put aside", () => {
  test("comes back from the back/forward cache, connected", async () => {
    const tab = await Tab.open();
    await tab.isConnected("websocket");
    await tab.place("tea");
    await tab.page.evaluate(() => {
      window.isSame = true;
    });
    await tab.page.goto(`${front.url}empty.html`);
    await tab.page.goBack();
    await tab.isConnected("websocket");
    const isSame = await tab.page.evaluate(() => window.isSame === true);
    console.log(`restored from the back/forward cache: ${isSame}`);
    assert.ok(isSame || isFirefox, "Chromium did not keep the page");
    await tab.place("milk");
    await tab.close({ isNetworkBroken: true });
  });

  test("that was frozen gets what it missed", { skip: isFirefox && "needs CDP" }, async () => {
    const tab = await Tab.open();
    await tab.isConnected("websocket");
    await tab.place("tea");
    const control = await tab.page.createCDPSession();
    await control.send("Page.setWebLifecycleState", { state: "frozen" });
    const other = await Tab.open({ user: tab.user });
    await other.isConnected("websocket");
    await other.place("milk");
    front.cut();
    await other.place("rice");
    await control.send("Page.setWebLifecycleState", { state: "active" });
    await tab.shows("header", "rice");
    await tab.until(() => document.querySelectorAll("#orders li").length === 3);
    await other.close({ isNetworkBroken: true });
    await tab.close({ isNetworkBroken: true });
  });

  test("that was offline is back at once", { skip: isFirefox && "needs CDP" }, async () => {
    const tab = await Tab.open();
    await tab.isConnected("websocket");
    await tab.page.setOfflineMode(true);
    front.cut();
    await tab.isIn("waiting");
    await sleep(2_000);
    await tab.page.setOfflineMode(false);
    await tab.isConnected("websocket");
    await tab.place("tea");
    await tab.close({ isNetworkBroken: true });
  });

  test("that missed too much shows its data as it is now", { skip: isFirefox && "needs CDP" }, async () => {
    const tab = await Tab.open();
    await tab.isConnected("websocket");
    await tab.place("tea");
    await tab.showsOrder("tea: placed");
    await tab.page.setOfflineMode(true);
    front.cut();
    await tab.isIn("waiting");
    const other = await Tab.open({ user: tab.user });
    await other.isConnected("websocket");
    await other.showsOrder("tea: placed");
    await other.page.$eval("#orders button", (button) => button.click());
    await other.showsOrder("tea: paid");
    for (let n = 0; n <= Number(KEPT); n += 1) await other.place(`milk ${n}`);
    await tab.page.setOfflineMode(false);
    await tab.isConnected("websocket");
    await tab.showsOrder(`milk ${KEPT}: placed`);
    await tab.showsOrder("tea: paid");
    await other.close({ isNetworkBroken: true });
    await tab.close({ isNetworkBroken: true });
  });
});

describe("for minutes", () => {
  test("a proxy that goes silent is noticed within a minute, whatever the user does", async () => {
    const tab = await Tab.open();
    await tab.isConnected("websocket");
    const asked = front.count("upgrade");
    front.silence();
    const began = performance.now();
    while (front.count("upgrade") === asked) {
      assert.ok(performance.now() - began < 65_000, "the dead link was not noticed");
      await tab.happens("visibilitychange");
      await tab.click("toggle");
      await sleep(500);
    }
    await tab.isConnected("websocket");
    await tab.place("tea");
    await tab.close({ isNetworkBroken: true });
  });

  test("a clock that is two hours fast does not ask for tokens all the time", async () => {
    const prepare = () => {
      const { now } = Date;
      Date.now = () => now() + 7_200_000;
    };
    const tab = await Tab.open({ prepare });
    await tab.isConnected("websocket");
    const asked = front.count("/dev/token");
    await sleep(40_000);
    assert.equal(front.count("/dev/token"), asked);
    await tab.place("tea");
    await tab.close();
  });
});
