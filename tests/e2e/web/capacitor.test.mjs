/** The recipe for Capacitor in a browser: on its web platform the page's visibility is the app's. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { bff, front, openPage } from "./stage.mjs";

test("an app closes in the background, and gets what it missed on its return", async () => {
  const token = await bff.developmentToken("ann");
  const { page, problems } = await openPage();
  const until = (isSo, ...given) => page.waitForFunction(isSo, { polling: 50 }, ...given);
  const becomes = (visibility) =>
    page.evaluate((state) => {
      for (const [name, value] of [["visibilityState", state], ["hidden", state === "hidden"]]) {
        Object.defineProperty(document, name, { configurable: true, value });
      }
      document.dispatchEvent(new Event("visibilitychange"));
    }, visibility);
  // The page and the BFF have two origins, as in an app.
  const address = new URL(front.url.replace("localhost", "127.0.0.1"));
  for (const value of [`${front.url}ws`, token]) address.searchParams.append("with", value);
  await page.goto(String(address));
  await until(() => globalThis.bff?.state === "open");
  await page.evaluate(() => {
    globalThis.items = [];
    globalThis.bff.on("order.updated", ({ item }) => globalThis.items.push(item));
  });
  await becomes("hidden");
  await until(() => globalThis.bff.state === "closed");
  await bff.placeOrder("ann", "tea");
  await becomes("visible");
  await until(() => globalThis.bff.state === "open");
  await until(() => globalThis.items.includes("tea"));
  await page.close();
  assert.deepEqual(problems, []);
});
