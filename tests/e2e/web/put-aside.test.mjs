/** Pages that are put aside, and faults that take minutes: in `make test-long`. */

import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { createServer } from "vite";

import { bff, front, isFirefox, suspend, Tab } from "./stage.mjs";

const { APP, BFF_PORT, KEPT } = process.env;

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

  test("in a browser that was suspended gets what it missed", async () => {
    const tab = await Tab.open();
    await tab.isConnected("websocket");
    await tab.place("tea");
    await suspend(async () => {
      await bff.placeOrder(tab.user, "milk");
      front.cut();
      await bff.placeOrder(tab.user, "rice");
    });
    await tab.shows("header", "rice");
    await tab.until(() => document.querySelectorAll("#orders li").length === 3);
    await tab.close({ isNetworkBroken: true });
  });

  test("that was offline connects again", async () => {
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

  test("that missed too much shows its data as it is now", async () => {
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

describe("behind the development server of Vite", () => {
  test("the proxy of the documentation passes WebSockets and requests on", async () => {
    const root = join(APP, "..");
    const config = await readFile(join(root, "vite.config.ts"), "utf8");
    const configFile = join(root, "vite.test.config.ts");
    await writeFile(configFile, config.replace("127.0.0.1:8000", `127.0.0.1:${BFF_PORT}`));
    const fs = { strict: false }; // the packages of the tests are links to another folder
    const options = { port: 0, host: "127.0.0.1", fs };
    const server = await createServer({ root, configFile, logLevel: "error", server: options });
    await server.listen();
    try {
      const { port } = server.httpServer.address();
      const tab = await Tab.open({ url: `http://127.0.0.1:${port}/` });
      await tab.isConnected("websocket");
      await tab.place("tea");
      await tab.close();
    } finally {
      await server.close();
    }
  });
});
