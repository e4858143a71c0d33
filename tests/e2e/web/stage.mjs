/** The example app in a real browser, with a BFF behind a proxy. */

import assert from "node:assert/strict";
import { after, before, beforeEach } from "node:test";

import puppeteer from "puppeteer-core";

import { Bff, Front } from "./front.mjs";

const { APP, BFF_COMMAND, BFF_PORT, BROWSER, FRONT_PORT } = process.env;
const PATIENCE_MS = 30_000;
export const isFirefox = BROWSER.includes("firefox");
/** What a browser itself writes about a network that was broken on purpose. */
const NETWORK = /WebSocket|net::|Failed to load resource|NetworkError|establish a connection|interrupted/;

export const bff = new Bff(JSON.parse(BFF_COMMAND), Number(BFF_PORT));
export const front = new Front(APP, Number(BFF_PORT));
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
  console.log(`in ${await browser.version()}`);
});

after(async () => {
  await browser?.close();
  front.close();
  await bff.kill();
});

beforeEach(() => {
  front.mode = "open";
});

/** A page, and what goes wrong in it: exceptions, unhandled rejections, errors in the console. */
export async function openPage() {
  const page = await browser.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error") problems.push(message.text());
  });
  return { page, problems };
}

/** A tab with the example app. Each test has a user of its own, so that it sees no other orders. */
export class Tab {
  static users = 0;

  static async open({ user = `user${(Tab.users += 1)}`, prepare, url = front.url } = {}) {
    const tab = new Tab();
    tab.user = user;
    ({ page: tab.page, problems: tab.problems } = await openPage());
    if (prepare) await tab.page.evaluateOnNewDocument(prepare);
    await tab.page.goto(`${url}?user=${user}`);
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

/** The processes of the browser do nothing during `work`, as in a computer that sleeps. */
export async function suspend(work) {
  const group = -browser.process().pid;
  process.kill(group, "SIGSTOP");
  try {
    await work();
  } finally {
    process.kill(group, "SIGCONT");
  }
}
