/**
 * Pages with `bff-client.js`: many clients in one process. What a client receives is printed, a
 * line of JSON each. The frames that set positions are read on the socket, messages where the
 * client hands them to its listeners.
 */

const { CLIENT, ADDRESSES, CLIENTS, OPTIONS, REQUEST_MS } = process.env;
const { BffClient } = await import(CLIENT);
const addresses = JSON.parse(ADDRESSES);

function tell(line) {
  console.log(JSON.stringify(line));
}

function page({ name, token, topics }, number) {
  let attempts = number;
  let address;
  let current;

  /** From the address to which the socket goes next. */
  async function getTicket({ signal }) {
    address = addresses[attempts++ % addresses.length];
    const headers = { Authorization: `Bearer ${token}` };
    const response = await fetch(`${address}/auth/ticket`, { method: "POST", headers, signal });
    if (!response.ok) throw new Error(`status ${response.status}`);
    return (await response.json()).ticket;
  }

  class Watched extends WebSocket {
    #asked = new Map();
    #isOpen = false;

    constructor(url, protocols) {
      const { search, searchParams } = new URL(url);
      super(`${address.replace(/^http/, "ws")}/ws${search}`, protocols);
      const ids = searchParams.get("since")?.split(",") ?? [];
      this.#asked.set("hello", Object.fromEntries(ids.map((id) => [streamOf(id), id])));
      this.addEventListener("message", ({ data }) => this.#onFrame(JSON.parse(data)));
      this.addEventListener("close", ({ code }) => this.#onClose(code));
      current?.#onClose(1006);
      current = this;
    }

    /** The close of a dead socket may come when the client has another one already. */
    #onClose(code) {
      if (current === this && this.#isOpen) tell({ name, left: code });
      this.#isOpen = false;
    }

    send(text) {
      const { type, payload } = JSON.parse(text);
      if (type === "subscribe") {
        const since = payload.topics.filter(({ since }) => since);
        const streams = since.map(({ topic, since }) => [`topic:${topic}`, since]);
        this.#asked.set(payload.trace_id, Object.fromEntries(streams));
      }
      super.send(text);
    }

    #onFrame({ type, payload }) {
      if (type === "gap") {
        tell({ name, gap: payload.streams });
      } else if (type === "event" && payload.topic === "hello") {
        this.#isOpen = true;
        tell({ name, address, hello: payload.event, since: this.#asked.get("hello") });
      } else if (type === "response" && this.#asked.has(payload.trace_id) && payload.result) {
        tell({ name, subscribed: payload.result, since: this.#asked.get(payload.trace_id) });
      }
    }
  }

  const options = { getTicket, WebSocket: Watched, ...JSON.parse(OPTIONS) };
  const bff = new BffClient({ url: "ws://anywhere/ws", ...options });
  bff.onGap((streams) => tell({ name, told: Object.keys(streams).length }));
  bff.on("*", (event, { id }) => id && tell({ name, id, message: event.message }));
  bff.connect().catch((error) => tell({ name, error: String(error) }));
  for (const topic of topics) {
    bff.subscribe(topic).catch((error) => tell({ name, error: String(error) }));
  }
  if (Number(REQUEST_MS)) setInterval(() => ask(bff), Number(REQUEST_MS));
}

async function ask(bff) {
  try {
    await bff.request("chaos", "echo", { message: 1, stream: "" });
    tell({ request: "answered" });
  } catch ({ code, outcome }) {
    tell({ request: `${code}, ${outcome}` });
  }
}

function streamOf(id) {
  return id.split("/").slice(0, -2).join("/");
}

JSON.parse(CLIENTS).forEach(page);
