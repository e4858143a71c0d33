/**
 * A page with `bff-client.js`, behind something that sends it to the instances in turn. What it is
 * told it writes down, a line each.
 */

import { readFileSync } from "node:fs";

const { CLIENT, INSTANCES, TOKEN, TOPICS, OPTIONS, TRANSPORT } = process.env;
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

/** Requests go to one instance until it fails, then to the next one. */
async function routedFetch(url, init) {
  const { pathname, search } = new URL(url);
  const instances = JSON.parse(readFileSync(INSTANCES, "utf8"));
  instance = instances[attempts % instances.length];
  const to = instance;
  try {
    const response = await plainFetch(`${to}${pathname}${search}`, init);
    if (!response.ok) throw new Error(`status ${response.status}`);
    if (pathname === "/events") tell({ state: "open", code: null, instance: to });
    return response;
  } catch (error) {
    attempts += 1;
    throw error;
  }
}

const plainFetch = globalThis.fetch;
const sockets = { getTicket, WebSocket: Routed };
const streams = { getToken: () => TOKEN, transports: ["events"] };
if (TRANSPORT === "events") globalThis.fetch = routedFetch;
const bff = new BffClient({
  url: "ws://anywhere/ws",
  ...(TRANSPORT === "events" ? streams : sockets),
  ...JSON.parse(OPTIONS),
});
bff.onState(({ state, code }) => tell({ state, code: code ?? null, instance }));
bff.onGap((streams) => tell({ gap: Object.keys(streams) }));
bff.on("*", (event, { topic }) => event?.n && tell({ topic, n: event.n }));
const subscriptions = JSON.parse(TOPICS);
bff.connect();
await Promise.all(subscriptions.map((topic) => bff.subscribe(topic)));
tell({ ready: true });
