/**
 * Pages with `bff-client.js`: many clients in one process. What a client receives is printed, a
 * line of JSON each. The frames that set positions are read on the connection, messages where the
 * client hands them to its listeners. The client may open a connection beside another one, and not
 * take it: what was read on a connection counts when the client has taken its hello.
 */

const { CLIENT, ADDRESSES, CLIENTS, OPTIONS, REQUEST_MS } = process.env;
const { BffClient } = await import(CLIENT);
const addresses = JSON.parse(ADDRESSES);
const pages = new Map();

function tell(line) {
  console.log(JSON.stringify(line));
}

/** A page, and where its client connects: each attempt goes to the next address. */
class Page {
  #current = null;
  /** Connections whose hello was read, and the lines of each. */
  #waiting = new Map();

  constructor({ name, token, topics, blocked }, number) {
    [this.name, this.blocked, this.attempts] = [name, blocked, number];
    const host = `page-${number}`;
    pages.set(host, this);
    const page = this;
    const options = {
      url: `ws://${host}/ws`,
      getToken: () => token,
      WebSocket: class extends WatchedSocket {
        constructor(url, protocols) {
          super(page, new URL(url), protocols);
        }
      },
    };
    const bff = new BffClient({ ...options, ...JSON.parse(OPTIONS) });
    this.bff = bff;
    bff.onState(() => this.#settle());
    bff.onGap((streams) => this.tell({ told: Object.keys(streams).length }));
    bff.on("*", (event, { id }) => id && this.tell({ id, message: event.message }));
    bff.connect().catch((error) => tell({ name, error: String(error) }));
    for (const topic of topics) {
      bff.subscribe(topic).catch((error) => tell({ name, error: String(error) }));
    }
    if (Number(REQUEST_MS)) setInterval(() => ask(bff), Number(REQUEST_MS));
  }

  next() {
    this.address = addresses[this.attempts++ % addresses.length];
  }

  tell(line) {
    this.#settle();
    tell({ name: this.name, ...line });
  }

  /** A connection has got its hello. */
  opened(connection, hello, since, transport) {
    const line = { address: connection.address, hello, since, transport };
    this.#waiting.set(connection, [line]);
    setImmediate(() => this.#settle());
  }

  /** A connection has got another frame. */
  got(connection, line) {
    const waiting = this.#waiting.get(connection);
    if (waiting) waiting.push(line);
    this.#settle();
    if (!waiting && this.#current === connection) tell({ name: this.name, ...line });
  }

  /** The close of a dead connection may come when the client has another one already. */
  closed(connection, code) {
    this.#settle();
    this.#waiting.delete(connection);
    if (this.#current !== connection) return;
    this.#current = null;
    tell({ name: this.name, left: code });
  }

  /** The connection that the client has taken replaces the one before. */
  #settle() {
    for (const [connection, lines] of this.#waiting) {
      if (this.bff.session?.session_id !== lines[0].hello.session_id) continue;
      this.#waiting.delete(connection);
      this.#current = connection;
      for (const line of lines) tell({ name: this.name, ...line });
    }
  }
}

/** A WebSocket of a page. A proxy refuses some of them: `page.blocked` is their share. */
class WatchedSocket extends WebSocket {
  #asked = new Map();
  #page;

  constructor(page, { search, searchParams }, protocols) {
    const path = Math.random() < page.blocked ? "/blocked" : "/ws";
    super(`${page.address.replace(/^http/, "ws")}${path}${search}`, protocols);
    [this.#page, this.address] = [page, page.address];
    this.#asked.set("hello", sinceOf(searchParams));
    this.addEventListener("message", ({ data }) => this.#onFrame(JSON.parse(data)));
    this.addEventListener("close", ({ code }) => page.closed(this, code));
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
      this.#page.got(this, { gap: payload.streams });
    } else if (type === "event" && payload.topic === "hello") {
      this.#page.opened(this, payload.event, this.#asked.get("hello"), "websocket");
    } else if (type === "response" && this.#asked.has(payload.trace_id) && payload.result) {
      const since = this.#asked.get(payload.trace_id);
      this.#page.got(this, { subscribed: payload.result, since });
    }
  }
}

/** An event stream of a page: its frames are read on their way to the client. */
class WatchedStream {
  #code = 1006;
  #rest = "";

  constructor(page, { searchParams }) {
    [this.page, this.address, this.since] = [page, page.address, sinceOf(searchParams)];
  }

  read(response) {
    const decoder = new TextDecoder();
    const closed = () => this.page.closed(this, this.#code);
    const watch = new TransformStream({
      transform: (chunk, controller) => {
        this.#onText(decoder.decode(chunk, { stream: true }));
        controller.enqueue(chunk);
      },
      flush: closed,
      cancel: closed,
    });
    response.body.pipeTo(watch.writable).catch(closed);
    return new Response(watch.readable, response);
  }

  #onText(text) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ")) this.#onFrame(JSON.parse(line.slice(6)));
    }
  }

  #onFrame({ type, payload }) {
    if (type === "gap") this.page.got(this, { gap: payload.streams });
    else if (type === "close") this.#code = payload.code;
    else if (payload.topic === "hello") {
      this.page.opened(this, payload.event, this.since, "events");
    }
  }
}

const fetchAddress = fetch;

/** Requests of a page go to an address; a ticket and an event stream begin an attempt. */
globalThis.fetch = async (resource, init) => {
  const url = new URL(resource);
  const page = pages.get(url.hostname);
  if (!page.address || ["/auth/ticket", "/events"].includes(url.pathname)) page.next();
  const stream = new WatchedStream(page, url);
  const response = await fetchAddress(`${page.address}${url.pathname}${url.search}`, init);
  return response.ok && url.pathname === "/events" ? stream.read(response) : response;
};

async function ask(bff) {
  try {
    await bff.request("chaos", "echo", { message: 1, stream: "" });
    tell({ request: "answered" });
  } catch ({ code, outcome }) {
    tell({ request: `${code}, ${outcome}` });
  }
}

function sinceOf(searchParams) {
  const ids = searchParams.get("since")?.split(",").filter(Boolean) ?? [];
  return Object.fromEntries(ids.map((id) => [id.split("/").slice(0, -2).join("/"), id]));
}

JSON.parse(CLIENTS).forEach((page, number) => new Page(page, number));
