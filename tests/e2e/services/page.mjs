/**
 * A page with `bff-client.js`, behind something that sends it to the instances in turn. What it is
 * told it writes down, a line each.
 */

import { readFileSync } from "node:fs";

const { CLIENT, INSTANCES, TOKEN, TOPICS, OPTIONS } = process.env;
const { BffClient } = await import(CLIENT);

let attempts = 0;
let instance;

/** Single-use, and from the instance that the socket goes to next. */
async function getTicket({ signal }) {
  const instances = JSON.parse(readFileSync(INSTANCES, "utf8"));
  instance = instances[attempts % instances.length];
  attempts += 1;
  const headers = { Authorization: `Bearer ${TOKEN}` };
  const response = await fetch(`${instance}/auth/ticket`, { method: "POST", headers, signal });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return (await response.json()).ticket;
}

class Routed extends WebSocket {
  constructor(url, protocols) {
    super(`${instance.replace(/^http/, "ws")}/ws${new URL(url).search}`, protocols);
  }
}

function tell(line) {
  console.log(JSON.stringify(line));
}

const bff = new BffClient({
  url: "ws://anywhere/ws",
  getTicket,
  WebSocket: Routed,
  ...JSON.parse(OPTIONS),
});
bff.onState(({ state, code }) => tell({ state, code: code ?? null, instance }));
bff.onGap((streams) => tell({ gap: Object.keys(streams) }));
bff.on("*", (event, { topic }) => event?.n && tell({ topic, n: event.n }));
const subscriptions = JSON.parse(TOPICS);
bff.connect();
await Promise.all(subscriptions.map((topic) => bff.subscribe(topic)));
tell({ ready: true });
