/** The browser's side of the BFF: requests, commands and live events over one WebSocket (`bff.v1`). */

const SUBPROTOCOL = "bff.v1";
const SOCKET_OPEN = 1;
const NORMAL = 1000;
const LOST = 1006;
const TOKEN_EXPIRED = 4003;
const NOT_AUTHENTICATED = 4500;
const COMING_BACK = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015]);
const REMEMBERED_BROADCASTS = 200;
const LONGEST_DRAIN_MS = 5 * 60_000;

const DEFAULTS = {
  requestTimeoutMs: 10_000,
  requestGraceMs: 1_000,
  connectTimeoutMs: 15_000,
  pingTimeoutMs: 10_000,
  backoffBaseMs: 500,
  backoffCapMs: 30_000,
  stableMs: 5_000,
  maxWaiting: 32,
  maxFrameBytes: 64 * 1024,
};

/** Whether a socket closed with this code should be opened again. */
export function comesBack(code) {
  return (code >= 4000 && code <= 4499) || COMING_BACK.has(code);
}

/** Why a request failed, and what became of the work (`outcome`). */
export class BffError extends Error {
  constructor({ code, description, retryable, outcome, traceId, cause }) {
    super(`${code}: ${description}`, cause === undefined ? undefined : { cause });
    this.name = "BffError";
    this.code = code;
    this.description = description;
    this.retryable = retryable ?? false;
    this.outcome = outcome ?? "unknown";
    this.traceId = traceId ?? null;
  }

  static received(error, traceId) {
    const { code = "internal", description = "Unknown error", retryable, outcome } = error;
    return new BffError({ code, description, retryable: retryable === true, outcome, traceId });
  }
}

/** What was seen of each stream, so that nothing is told twice. */
class Memory {
  #positions = new Map();
  #seen = new Map();
  #broadcasts = new Set();

  get positions() {
    return Object.fromEntries(this.#positions);
  }

  /** Take the positions of a hello; returns those of the streams in which something was missed. */
  greet(positions, recovered) {
    const missed = {};
    for (const [stream, id] of Object.entries(positions)) {
      const now = parseId(id);
      const before = parseId(this.#positions.get(stream));
      if (now === null) continue;
      if (before !== null) {
        if (recovered[stream] === true) continue;
        if (before.epoch === now.epoch && now.offset <= before.offset) continue;
        missed[stream] = id;
      }
      this.#positions.set(stream, id);
    }
    return missed;
  }

  jump(positions) {
    for (const [stream, id] of Object.entries(positions)) this.#positions.set(stream, id);
  }

  /** Whether an event is new. A position of a hello is no proof that its event was seen. */
  isNew(id, event) {
    return this.#isNewInStream(id) && this.#isNewBroadcast(event?.broadcast_id);
  }

  #isNewInStream(id) {
    const at = parseId(id);
    if (at === null) return true;
    const seen = this.#seen.get(at.stream);
    if (seen?.epoch === at.epoch && at.offset <= seen.offset) return false;
    this.#seen.set(at.stream, at);
    const known = parseId(this.#positions.get(at.stream));
    if (known?.epoch !== at.epoch || known.offset < at.offset) this.#positions.set(at.stream, id);
    return true;
  }

  #isNewBroadcast(id) {
    if (typeof id !== "string") return true;
    if (this.#broadcasts.has(id)) return false;
    this.#broadcasts.add(id);
    if (this.#broadcasts.size > REMEMBERED_BROADCASTS) {
      this.#broadcasts.delete(this.#broadcasts.values().next().value);
    }
    return true;
  }
}

/** `<stream>/<epoch>/<offset>`, read from the right: a stream's name may hold slashes. */
function parseId(id) {
  const parts = typeof id === "string" ? /^(.+)\/([^/]+)\/(\d+)$/s.exec(id) : null;
  return parts && { stream: parts[1], epoch: parts[2], offset: Number(parts[3]) };
}

/** A set of listeners; one that throws harms neither the others nor the client. */
class Listeners {
  #listeners = new Set();

  add(listener) {
    const entry = { listener };
    this.#listeners.add(entry);
    return () => void this.#listeners.delete(entry);
  }

  tell(...values) {
    for (const { listener } of [...this.#listeners]) {
      try {
        listener(...values);
      } catch (error) {
        if (typeof globalThis.reportError === "function") globalThis.reportError(error);
        else console.error(error);
      }
    }
  }

  get empty() {
    return this.#listeners.size === 0;
  }
}

/** One user's connection to the BFF. It comes back by itself until it is closed or refused. */
export class BffClient {
  #limits;
  #url;
  #WebSocket;
  #getTicket;

  #state = "closed";
  #ready = deferred();
  #session = null;
  #socket = null;
  #attempt = null;
  #failures = 0;
  #drainMs = null;
  #tokenExpired = false;
  #timers = {};

  #calls = new Map();
  #traces = tracePrefix();
  #traceCount = 0;
  #memory = new Memory();
  #topics = new Map();
  #onState = new Listeners();
  #onGap = new Listeners();
  #onError = new Listeners();

  constructor({ url = "/ws", getTicket, getToken, ticketUrl, WebSocket, ...limits } = {}) {
    for (const name of Object.keys(limits)) {
      if (!(name in DEFAULTS)) throw new TypeError(`BffClient has no option ${name}`);
    }
    if (getTicket && getToken) throw new TypeError("give getTicket or getToken, not both");
    this.#limits = { ...DEFAULTS, ...limits };
    this.#WebSocket = WebSocket ?? globalThis.WebSocket;
    if (!this.#WebSocket) throw new TypeError("no WebSocket here: pass one as an option");
    const address = new URL(url, globalThis.location?.href);
    address.hash = "";
    const http = new URL(ticketUrl ?? "auth/ticket", toScheme(address, "http"));
    this.#url = toScheme(address, "ws");
    this.#getTicket = getToken ? (hint) => exchangeToken(http, getToken, hint) : getTicket;
  }

  get state() {
    return this.#state;
  }

  /** The last hello, or null before the first. */
  get session() {
    return this.#session;
  }

  /** Fulfilled with the hello when the connection is open; rejected when it ends for good. */
  get ready() {
    return this.#ready.promise;
  }

  /** The id reached in each stream. */
  get positions() {
    return this.#memory.positions;
  }

  /** Open the connection, at once if it is waiting to be tried again. Returns `ready`. */
  connect() {
    if (this.#state === "closed") {
      this.#failures = 0;
      this.#drainMs = null;
      this.#renewReady();
    }
    if (this.#state === "closed" || this.#state === "waiting") this.#try();
    return this.ready;
  }

  /** Close the connection for good, until `connect` is called again. */
  close(reason = "closed by the page") {
    if (this.#state !== "closed") this.#end({ code: NORMAL, reason });
  }

  /** Ask a service, or a method of the BFF, and wait for its result. */
  request(service, method, params = {}, options = {}) {
    return this.#call("request", { service, method, params }, options);
  }

  /** Hand work to a service without waiting for its end. */
  command(service, method, params = {}, options = {}) {
    return this.#call("command", { service, method, params }, options);
  }

  /** Give the open connection a fresh token of the same user. */
  async authenticate(token, options = {}) {
    const result = await this.#call("authenticate", { token }, options);
    this.#session = { ...this.#session, ...result };
    return this.#session;
  }

  /** Hear the events of a topic, or of all with `"*"`. Returns a function that ends it. */
  on(topic, listener) {
    const listeners = this.#topics.get(topic) ?? new Listeners();
    this.#topics.set(topic, listeners);
    const off = listeners.add(listener);
    return () => {
      off();
      if (listeners.empty && this.#topics.get(topic) === listeners) this.#topics.delete(topic);
    };
  }

  /** Hear how the connection fares. */
  onState(listener) {
    return this.#onState.add(listener);
  }

  /** Hear of streams in which messages were missed: what they tell of must be fetched afresh. */
  onGap(listener) {
    return this.#onGap.add(listener);
  }

  /** Hear of errors that belong to no request. */
  onError(listener) {
    return this.#onError.add(listener);
  }

  // The connection. Each change of state is told last, because a listener may change it again.

  async #try() {
    this.#release();
    const attempt = new AbortController();
    this.#attempt = attempt;
    this.#after("connect", this.#limits.connectTimeoutMs, () =>
      this.#lost({ code: LOST, reason: "no connection in time" }),
    );
    this.#become("connecting", {});
    try {
      const address = new URL(this.#url);
      if (this.#getTicket && !attempt.signal.aborted) {
        const hint = { signal: attempt.signal, expired: this.#tokenHasExpired() };
        address.searchParams.set("ticket", await this.#getTicket(hint));
      }
      if (!attempt.signal.aborted) this.#open(address);
    } catch (error) {
      if (attempt.signal.aborted) return;
      const reason = error?.message ?? String(error);
      const refused = error?.status === 401 || error?.status === 403;
      if (refused) this.#end({ code: NOT_AUTHENTICATED, reason, error });
      else this.#lost({ code: LOST, reason, error });
    }
  }

  /** A constructor that throws refuses the address for good, for instance ws: on a https: page. */
  #open(address) {
    let socket;
    try {
      socket = new this.#WebSocket(address.href, [SUBPROTOCOL]);
    } catch (error) {
      this.#end({ code: LOST, reason: error.message, error });
      return;
    }
    this.#socket = socket;
    socket.onerror = ignore;
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => this.#lost({ code, reason });
  }

  #hello(hello) {
    this.#stopTimer("connect");
    this.#after("stable", this.#limits.stableMs, () => (this.#failures = 0));
    if (this.#session && this.#session.user_id !== hello.user_id) this.#memory = new Memory();
    this.#session = hello;
    this.#tokenExpired = false;
    this.#drainMs = null;
    const missed = this.#memory.greet(hello.positions ?? {}, hello.recovered ?? {});
    this.#state = "open";
    this.#expectFrame();
    for (const call of this.#calls.values()) this.#write(call);
    this.#ready.resolve(hello);
    this.#onState.tell({ state: "open", session: hello });
    if (Object.keys(missed).length > 0) this.#onGap.tell(missed);
  }

  #lost(detail) {
    if (!comesBack(detail.code)) {
      this.#end(detail);
      return;
    }
    this.#release();
    this.#failCalls((call) => call.written);
    if (detail.code === TOKEN_EXPIRED) this.#tokenExpired = true;
    const { backoffBaseMs, backoffCapMs } = this.#limits;
    const ceiling = Math.min(backoffCapMs, backoffBaseMs * 2 ** this.#failures);
    const delayMs = (this.#drainMs ?? 0) + Math.random() * ceiling;
    this.#failures += 1;
    this.#drainMs = null;
    this.#renewReady();
    this.#after("retry", delayMs, () => void this.#try());
    this.#become("waiting", { ...detail, delayMs });
  }

  #end(detail) {
    this.#release();
    this.#failCalls(() => true);
    const description = `The connection has ended (${detail.code}) ${detail.reason}`.trim();
    const outcome = "not_sent";
    this.#renewReady();
    this.#ready.reject(
      new BffError({ code: "connection_lost", description, outcome, cause: detail.error }),
    );
    this.#become("closed", detail);
  }

  #become(state, detail) {
    this.#state = state;
    this.#onState.tell({ state, ...detail });
  }

  #renewReady() {
    if (this.#ready.settled) this.#ready = deferred();
  }

  /** Let go of the socket at once: the end of a dead one may be told minutes later. */
  #release() {
    for (const name of Object.keys(this.#timers)) this.#stopTimer(name);
    this.#attempt?.abort();
    this.#attempt = null;
    const socket = this.#socket;
    this.#socket = null;
    if (socket === null) return;
    socket.onmessage = null;
    socket.onclose = null;
    socket.close(NORMAL);
  }

  /** An hour's sleep of the computer closes a socket with 1006, and the token is as old. */
  #tokenHasExpired() {
    const expiry = this.#session?.expires_at;
    return this.#tokenExpired || (typeof expiry === "number" && expiry * 1000 <= Date.now());
  }

  /** Protocol pings cannot be seen here: a server silent for two of them is asked. */
  #expectFrame() {
    const quietMs = 2000 * this.#session.ping_interval;
    if (!(quietMs > 0)) return;
    this.#after("silence", quietMs, () => {
      this.#send({ type: "ping", payload: {} });
      this.#after("silence", this.#limits.pingTimeoutMs, () =>
        this.#lost({ code: LOST, reason: "no answer to a ping" }),
      );
    });
  }

  #after(name, ms, then) {
    this.#stopTimer(name);
    this.#timers[name] = setTimeout(then, ms);
  }

  #stopTimer(name) {
    clearTimeout(this.#timers[name]);
    delete this.#timers[name];
  }

  // Frames.

  #receive(data) {
    const frame = parseFrame(data);
    if (this.#state === "open") this.#expectFrame();
    if (frame === null) return;
    const { type, payload } = frame;
    if (type === "event") {
      if (this.#state === "open") this.#event(payload);
      else if (payload.topic === "hello") this.#hello(payload.event ?? {});
    } else if (type === "response") {
      this.#settle(payload.trace_id, payload.error, payload.result);
    } else if (type === "error") {
      this.#error(payload);
    } else if (type === "gap") {
      this.#memory.jump(payload.streams ?? {});
      this.#onGap.tell(payload.streams ?? {});
    } else if (type === "drain") {
      const ms = Number(payload.reconnect_after_ms);
      if (ms >= 0) this.#drainMs = Math.min(ms, LONGEST_DRAIN_MS);
    } else if (type === "ping") {
      this.#send({ type: "pong", payload: { trace_id: payload.trace_id } });
    }
  }

  #event({ topic, event, id }) {
    if (typeof topic !== "string" || !this.#memory.isNew(id, event)) return;
    const meta = { topic, id: id ?? null };
    this.#topics.get(topic)?.tell(event, meta);
    if (topic !== "*") this.#topics.get("*")?.tell(event, meta);
  }

  #error(payload) {
    const traceId = payload.trace_id ?? null;
    if (traceId === null) this.#onError.tell(BffError.received(payload, null));
    else this.#settle(traceId, payload);
  }

  #send(frame) {
    if (this.#socket?.readyState === SOCKET_OPEN) this.#socket.send(JSON.stringify(frame));
  }

  // Calls: what waits for an answer, or for the connection.

  async #call(type, payload, { timeoutMs = this.#limits.requestTimeoutMs, signal }) {
    if (!(timeoutMs > 0)) throw new RangeError("timeoutMs must be more than 0");
    const traceId = `${this.#traces}${(this.#traceCount += 1)}`;
    const refuse = (code, description, retryable, cause) =>
      new BffError({ code, description, retryable, outcome: "not_sent", traceId, cause });
    if (signal?.aborted) throw refuse("cancelled", "Cancelled", false, signal.reason);
    if (this.#state === "closed") throw refuse("connection_lost", "There is no connection", false);
    if (this.#waiting() >= this.#limits.maxWaiting) {
      throw refuse("too_many_in_flight", "Too many requests wait for the connection", true);
    }
    const answer = deferred();
    const call = { type, payload, traceId, answer, signal, written: false };
    call.deadline = performance.now() + timeoutMs;
    try {
      this.#checkSize(this.#frameOf(call));
    } catch (error) {
      throw refuse("invalid_params", error.message, false, error);
    }
    call.abort = () => this.#abort(call);
    signal?.addEventListener("abort", call.abort, { once: true });
    this.#calls.set(traceId, call);
    call.timer = setTimeout(() => this.#expire(call), timeoutMs);
    if (this.#state === "open") this.#write(call);
    return answer.promise;
  }

  #waiting() {
    if (this.#state === "open" && this.#socket.readyState === SOCKET_OPEN) return 0;
    let count = 0;
    for (const call of this.#calls.values()) if (!call.written) count += 1;
    return count;
  }

  #frameOf({ type, payload, traceId, deadline }) {
    const timeout_ms = Math.max(1, Math.ceil(deadline - performance.now()));
    const timed = type === "authenticate" ? {} : { timeout_ms };
    return JSON.stringify({ type, payload: { ...payload, ...timed, trace_id: traceId } });
  }

  /** A frame that is too large would end the connection of everybody on this page. */
  #checkSize(text) {
    const { maxFrameBytes } = this.#limits;
    if (text.length * 3 <= maxFrameBytes) return;
    const { length } = new TextEncoder().encode(text);
    if (length > maxFrameBytes) {
      throw new RangeError(`The request has ${length} bytes; at most ${maxFrameBytes} may be sent`);
    }
  }

  #write(call) {
    if (call.written || this.#socket?.readyState !== SOCKET_OPEN) return;
    const remaining = Math.max(0, call.deadline - performance.now());
    this.#socket.send(this.#frameOf(call));
    call.written = true;
    clearTimeout(call.timer);
    call.timer = setTimeout(() => this.#expire(call), remaining + this.#limits.requestGraceMs);
  }

  #settle(traceId, error, result) {
    const call = this.#calls.get(traceId);
    if (call === undefined) return;
    this.#forget(call);
    if (error) call.answer.reject(BffError.received(error, traceId));
    else call.answer.resolve(result);
  }

  #abort(call) {
    this.#fail(call, "cancelled", "Cancelled", { cause: call.signal.reason });
    if (call.written) this.#send({ type: "cancel", payload: { trace_id: call.traceId } });
  }

  #expire(call) {
    this.#fail(call, "timeout", "No answer in time", { retryable: !call.written });
  }

  #failCalls(which) {
    for (const call of [...this.#calls.values()].filter(which)) {
      this.#fail(call, "connection_lost", "The connection was lost", {});
    }
  }

  #fail(call, code, description, more) {
    this.#forget(call);
    const outcome = call.written ? "unknown" : "not_sent";
    const { traceId } = call;
    call.answer.reject(new BffError({ code, description, outcome, traceId, ...more }));
  }

  #forget(call) {
    this.#calls.delete(call.traceId);
    clearTimeout(call.timer);
    call.signal?.removeEventListener("abort", call.abort);
  }
}

async function exchangeToken(address, getToken, hint) {
  const headers = { Authorization: `Bearer ${await getToken(hint)}` };
  const response = await fetch(address, { method: "POST", headers, signal: hint.signal });
  if (!response.ok) {
    const error = new Error(`No ticket: the server answered ${response.status}`);
    throw Object.assign(error, { status: response.status });
  }
  return (await response.json()).ticket;
}

function parseFrame(data) {
  try {
    const { type, payload } = JSON.parse(data);
    return { type, payload: payload ?? {} };
  } catch {
    return null;
  }
}

/** A close always follows an error. */
function ignore() {}

/** `http:` to `ws:`, `wss:` to `https:`. */
function toScheme(address, scheme) {
  const secure = address.protocol === "https:" || address.protocol === "wss:";
  return new URL(address.href.replace(/^[a-z]+:/, secure ? `${scheme}s:` : `${scheme}:`));
}

function deferred() {
  const made = { settled: false };
  made.promise = new Promise((resolve, reject) => {
    made.resolve = (value) => {
      made.settled = true;
      resolve(value);
    };
    made.reject = (error) => {
      made.settled = true;
      reject(error);
    };
  });
  made.promise.catch(ignore);
  return made;
}

function tracePrefix() {
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  return `${Array.from(bytes, (byte) => byte.toString(36)).join("")}-`;
}
