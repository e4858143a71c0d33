// Drives Chromium: reads commands as JSON lines from standard input, answers each with a line.
import puppeteer from "puppeteer-core";
import { createInterface } from "node:readline";

const [executablePath, url] = process.argv.slice(2);
const browser = await puppeteer.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
const page = await browser.newPage();
const faults = [];
page.on("pageerror", (error) => faults.push(String(error)));
page.on("console", (message) => {
  if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) faults.push(message.text());
});
page.setDefaultTimeout(60_000);

const commands = {
  open: () => page.goto(url),
  click: ({ selector }) => page.$eval(selector, (element) => element.click()),
  fill: ({ selector, value }) =>
    page.$eval(
      selector,
      (element, text) => {
        element.value = text;
        element.dispatchEvent(new Event("change", { bubbles: true }));
      },
      value,
    ),
  text: ({ selector }) => page.$eval(selector, (element) => element.innerText),
  wait: ({ selector, text }) =>
    page.waitForFunction(
      (inside, wanted) => [...document.querySelectorAll(inside)].some((one) => one.innerText.includes(wanted)),
      {},
      selector,
      text,
    ),
  view: async ({ width, height, scheme }) => {
    await page.setViewport({ width, height });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  },
  overflow: () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth),
  shot: async ({ path }) => void (await page.screenshot({ path, fullPage: true })),
  faults: () => faults,
};

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...options } = JSON.parse(line);
  try {
    const value = await commands[command](options);
    console.log(JSON.stringify({ value: ["string", "number"].includes(typeof value) || Array.isArray(value) ? value : null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
await browser.close();
