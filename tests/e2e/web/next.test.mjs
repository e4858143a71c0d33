/** The example app of Next.js, built: rendered on the server, connected in a browser. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { bff, openPage } from "./stage.mjs";

const { APP, NEXT, NEXT_PORT } = process.env;
const START_MS = 60_000;
const url = `http://localhost:${NEXT_PORT}/`;
let next;
let written = "";

before(async () => {
  const stdio = ["ignore", "pipe", "pipe"];
  next = spawn("node", [NEXT, "start", "--port", NEXT_PORT], { cwd: APP, stdio });
  for (const output of [next.stdout, next.stderr]) output.on("data", (text) => (written += text));
  const deadline = Date.now() + START_MS;
  while (!(await fetch(url).then(({ ok }) => ok, () => false))) {
    assert.ok(next.exitCode === null && Date.now() < deadline, `Next.js did not start: ${written}`);
    await sleep(100);
  }
});

after(async () => {
  next.kill("SIGKILL");
  if (next.exitCode === null && next.signalCode === null) await once(next, "exit");
});

test("the server renders the page without connecting, and the browser connects", async () => {
  const html = await (await fetch(url)).text();
  assert.match(html, /<p id="state">closed<\/p>/);
  assert.match(html, /loading/);
  await bff.placeOrder("ann", "tea");
  const { page, problems } = await openPage();
  await page.goto(url);
  await page.waitForFunction(
    () => document.querySelector("#orders")?.textContent === "1 orders",
    { polling: 50 },
  );
  const shown = (id) => page.$eval(`#${id}`, (element) => element.textContent);
  console.log(`connected by ${await shown("transport")}`);
  assert.deepEqual([await shown("state"), await shown("transport")], ["open", "websocket"]);
  await page.close();
  assert.deepEqual(problems, []);
  assert.doesNotMatch(written, /error/i);
});

test("the rewrites pass events on as they come", async () => {
  const headers = { Authorization: `Bearer ${await bff.developmentToken("bob")}` };
  const control = new AbortController();
  const signal = AbortSignal.any([control.signal, AbortSignal.timeout(START_MS)]);
  const response = await fetch(`${url}events`, { headers, signal });
  assert.equal(response.status, 200);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  const contains = async (word) => {
    while (!text.includes(word)) {
      const { value, done } = await reader.read();
      assert.ok(!done, text);
      text += value;
    }
  };
  await contains("hello");
  await bff.placeOrder("bob", "milk");
  await contains("milk");
  control.abort();
});
