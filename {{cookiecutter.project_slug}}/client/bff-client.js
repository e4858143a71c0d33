/**
 * The browser's side of the BFF: requests, live events and topics over one WebSocket (`bff.v1`).
 *
 * Each stored message is handed over exactly once and in order, or `onGap` names the streams of
 * which something is missing: what they feed must be fetched afresh.
 */

const SUBPROTOCOL = "bff.v1";
const SOCKET_OPEN = 1;
const NORMAL = 1000;
const LOST = 1006;
const TOKEN_EXPIRED = 4003;
const NOT_AUTHENTICATED = 4500;
const COMING_BACK = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015]);
const GRACE_MS = 1_000;
const LONGEST_DRAIN_MS = 5 * 60_000;
const LONGEST_TIMER_MS = 2 ** 31 - 1;
const TOPIC = "topic:";
const TOPICS_PER_REQUEST = 100;
const REMEMBERED_BROADCASTS = 200;
const [STATE, GAP, ERROR] = [Symbol("state"), Symbol("gap"), Symbol("error")];

const DEFAULTS = {
  requestTimeoutMs: 10_000,
  connectTimeoutMs: 15_000,
  pingTimeoutMs: 10_000,
  refreshMs: 60_000,
  backoffBaseMs: 500,
  backoffCapMs: 30_000,
  stableMs: 5_000,
  maxWaiting: 30,
  maxFrameBytes: 64 * 1024,
};

/** One user's connection to the BFF. It comes back by itself until it is closed or refused. */
export class BffClient {
  #limits;
  #url;
  #WebSocket;
  #getToken;
  #getTicket;

  #state = "closed";
  #ready = deferred();
  #session = null;
  #socket = null;
  #attempt = null;
  #page = null;
  #failures = 0;
  #drainMs = null;
  #needsFreshToken = false;
  #timers = new Map();

  #calls;
  #positions = new Positions();
  /** Of each broadcast whether it came as a greeting. */
  #broadcasts = new Map();
  #wanted = new Map();
  #heard = new Set();
  #tuning = false;
  #listeners = new Listeners();

  constructor({ url = "/ws", getToken, getTicket, positions, WebSocket, ...limits } = {}) {
    for (const name of Object.keys(limits)) {
      if (!(name in DEFAULTS)) throw new TypeError(`BffClient has no option ${name}`);
    }
    if (getTicket && getToken) throw new TypeError("give getTicket or getToken, not both");
    this.#WebSocket = WebSocket ?? globalThis.WebSocket;
    if (!this.#WebSocket) throw new TypeError("no WebSocket here: pass one as an option");
    const address = new URL(url, globalThis.location?.href);
    address.hash = "";
    const office = new URL("auth/ticket", address.href.replace(/^ws/, "http"));
    this.#url = address.href.replace(/^http/, "ws");
    this.#getToken = getToken;
    this.#getTicket = getToken ? (hint) => exchangeToken(office, getToken, hint) : getTicket;
    this.#limits = { ...DEFAULTS, ...limits };
    this.#calls = new Calls(this.#limits, (text) => this.#post(text));
    this.#positions.begin(positions);
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
    return this.#positions.all;
  }

  /** Open the connection, at once if it is waiting to be tried again. Returns `ready`. */
  connect() {
    if (this.#state === "closed") {
      this.#failures = 0;
      this.#renewReady();
      this.#watchPage();
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

  /** Have the BFF send a topic, through reconnects, until `unsubscribe`. Fulfilled when it does. */
  async subscribe(topic) {
    if (this.#state === "closed") throw connectionLost("There is no connection");
    const wish = this.#wanted.get(topic) ?? deferred();
    this.#wanted.set(topic, wish);
    this.#tune();
    await wish.promise;
  }

  /** Have the BFF send a topic no more. */
  unsubscribe(topic) {
    this.#unwant(topic, new BffError({ code: "cancelled", description: "Unsubscribed" }));
    if (!this.#heard.has(topic)) this.#left(topic);
    this.#tune();
  }

  /** Hear the events of a topic, or of all with `"*"`. Returns a function that ends it. */
  on(topic, listener) {
    return this.#listeners.add(topic, listener);
  }

  /** Hear how the connection fares. */
  onState(listener) {
    return this.#listeners.add(STATE, listener);
  }

  /** Hear of streams in which messages were missed: what they feed must be fetched afresh. */
  onGap(listener) {
    return this.#listeners.add(GAP, listener);
  }

  /** Hear of errors that belong to no request. */
  onError(listener) {
    return this.#listeners.add(ERROR, listener);
  }

  // The connection. Each change of state is told last, because a listener may change it again.

  async #try() {
    this.#release();
    const { signal } = (this.#attempt = new AbortController());
    this.#after("connect", this.#limits.connectTimeoutMs, () =>
      this.#lost({ code: LOST, reason: "no connection in time" }),
    );
    this.#become("connecting", {});
    try {
      const address = signal.aborted ? null : await this.#address(signal);
      if (!signal.aborted) this.#open(address);
    } catch (error) {
      const code = error?.status === 401 || error?.status === 403 ? NOT_AUTHENTICATED : LOST;
      const reason = error?.message ?? String(error);
      if (!signal.aborted) this.#lost({ code, reason, error });
    }
  }

  /** With a ticket of its own for each attempt, and the positions from which to go on. */
  async #address(signal) {
    const address = new URL(this.#url);
    const ids = [this.#positions.at("user"), this.#positions.at("all")].filter(Boolean);
    if (ids.length > 0) address.searchParams.set("since", ids.join(","));
    if (this.#getTicket) {
      this.#needsFreshToken ||= this.#session?.expires_at * 1000 <= Date.now();
      const ticket = await this.#getTicket({ signal, fresh: this.#needsFreshToken });
      address.searchParams.set("ticket", ticket);
    }
    return address;
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
    this.#stop("connect");
    this.#after("stable", this.#limits.stableMs, () => (this.#failures = 0));
    this.#session = hello;
    this.#needsFreshToken = false;
    const missed = this.#positions.begin(hello.positions, hello.recovered);
    this.#state = "open";
    this.#expectFrame();
    this.#refreshLater();
    this.#tune();
    this.#calls.write();
    this.#ready.resolve(hello);
    this.#listeners.tell(STATE, { state: "open", session: hello });
    this.#tellGap(missed);
  }

  #lost(detail) {
    const { code } = detail;
    const refused = code === NOT_AUTHENTICATED;
    const again = (code >= 4000 && code <= 4499) || COMING_BACK.has(code);
    if (!again && !(refused && this.#getTicket && !this.#needsFreshToken)) {
      this.#end(detail);
      return;
    }
    this.#needsFreshToken ||= refused || code === TOKEN_EXPIRED;
    const delayMs = (this.#drainMs ?? 0) + this.#pause(this.#failures);
    this.#failures += 1;
    this.#release();
    this.#calls.failWritten();
    this.#renewReady();
    this.#after("retry", delayMs, () => this.#try());
    this.#become("waiting", { ...detail, delayMs });
  }

  #end(detail) {
    this.#release();
    this.#page.abort();
    this.#calls.failAll();
    const { code, reason, error } = detail;
    const end = connectionLost(`The connection has ended (${code}) ${reason}`.trim(), error);
    for (const [topic, wish] of this.#wanted) if (!wish.settled) this.#unwant(topic, end);
    this.#renewReady();
    this.#ready.reject(end);
    this.#become("closed", detail);
  }

  #become(state, detail) {
    this.#state = state;
    this.#listeners.tell(STATE, { state, ...detail });
  }

  #renewReady() {
    if (this.#ready.settled) this.#ready = deferred();
  }

  /** Let go of the socket at once: the end of a dead one may be told minutes later. */
  #release() {
    for (const name of this.#timers.keys()) this.#stop(name);
    this.#attempt?.abort();
    this.#drainMs = null;
    for (const topic of without(this.#heard, this.#wanted)) this.#left(topic);
    this.#heard.clear();
    const socket = this.#socket;
    this.#socket = null;
    if (socket === null) return;
    socket.onmessage = null;
    socket.onclose = null;
    socket.close(NORMAL);
  }

  /** A random part of a time that doubles with each failure. */
  #pause(failures) {
    const { backoffBaseMs, backoffCapMs } = this.#limits;
    return Math.random() * Math.min(backoffCapMs, backoffBaseMs * 2 ** failures);
  }

  /** Whoever looks at the page again, or has a network again, shall not wait. */
  #watchPage() {
    this.#page = new AbortController();
    const { signal } = this.#page;
    for (const name of ["online", "visibilitychange"]) {
      globalThis.addEventListener?.(name, () => this.#wake(), { signal });
    }
  }

  #wake() {
    if (globalThis.document?.visibilityState === "hidden") return;
    if (this.#state === "waiting") this.#try();
    else if (this.#state === "open") this.#probe();
  }

  /** Pages cannot see protocol pings: a server that is silent for two of them is asked. */
  #expectFrame() {
    const quietMs = 2000 * this.#session.ping_interval || Infinity;
    this.#after("silence", quietMs, () => this.#probe());
  }

  #probe() {
    if (this.#socket.readyState === SOCKET_OPEN) this.#socket.send('{"type":"ping","payload":{}}');
    this.#after("silence", this.#limits.pingTimeoutMs, () =>
      this.#lost({ code: LOST, reason: "no answer to a ping" }),
    );
  }

  /** A fresh token in time keeps the connection; without one the BFF ends it with 4003. */
  #refreshLater() {
    const leftMs = this.#session.expires_at * 1000 - Date.now();
    if (!this.#getToken || !Number.isFinite(leftMs)) return;
    const { refreshMs } = this.#limits;
    this.#after("refresh", Math.max(leftMs - refreshMs, refreshMs / 2), () => this.#refresh());
  }

  async #refresh() {
    const { signal } = this.#attempt;
    try {
      await this.authenticate(await this.#getToken({ signal, fresh: true }));
    } catch {
      // Asked again before long, and when the connection has ended.
    }
    if (!signal.aborted) this.#refreshLater();
  }

  #after(name, ms, then) {
    this.#stop(name);
    this.#timers.set(name, setTimeout(then, Math.min(ms, LONGEST_TIMER_MS)));
  }

  #stop(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  // Frames.

  #receive(data) {
    const { type, payload } = parseFrame(data);
    if (this.#state !== "open") {
      if (type === "event" && payload.topic === "hello") this.#hello(payload.event ?? {});
      return;
    }
    this.#expectFrame();
    if (type === "event") {
      this.#event(payload);
    } else if (type === "response") {
      this.#calls.settle(payload.trace_id, payload.error, payload.result);
    } else if (type === "error") {
      if (payload.trace_id) this.#calls.settle(payload.trace_id, payload);
      else this.#listeners.tell(ERROR, new BffError(payload));
    } else if (type === "gap") {
      this.#positions.begin(payload.streams);
      this.#tellGap(payload.streams ?? {});
    } else if (type === "drain") {
      const ms = Number(payload.reconnect_after_ms);
      this.#drainMs = Math.min(Math.max(ms, 0) || 0, LONGEST_DRAIN_MS);
    }
  }

  #event({ topic, event, id = null }) {
    if (typeof topic !== "string") return;
    const { isNew, missed } = this.#positions.reach(id);
    this.#tellGap(missed);
    if (!isNew || this.#isRepeated(event?.broadcast_id, id)) return;
    if (id === null) this.#followServer(topic, event);
    this.#tell(topic, event, id);
  }

  #tell(topic, event, id) {
    this.#listeners.tell(topic, event, { topic, id });
    if (topic !== "*") this.#listeners.tell("*", event, { topic, id });
  }

  #tellGap(missed) {
    if (Object.keys(missed).length > 0) this.#listeners.tell(GAP, missed);
  }

  /**
   * A broadcast that greets everybody who connects comes again with the same id: as a greeting,
   * which has no place in a stream, or once as the stored message. Two stored ones are two.
   */
  #isRepeated(broadcastId, id) {
    if (typeof broadcastId !== "string" || id?.startsWith(TOPIC)) return false;
    const isGreeting = id === null;
    const hasGreeted = this.#broadcasts.get(broadcastId);
    if (hasGreeted !== undefined) return isGreeting || hasGreeted;
    this.#broadcasts.set(broadcastId, isGreeting);
    if (this.#broadcasts.size > REMEMBERED_BROADCASTS) {
      this.#broadcasts.delete(this.#broadcasts.keys().next().value);
    }
    return false;
  }

  // Calls.

  async #call(type, payload, options, onResult) {
    if (this.#state === "closed") throw connectionLost("There is no connection");
    return this.#calls.make(type, payload, options, onResult);
  }

  /** Write a call if the connection has a future; returns whether it was. */
  #post(text) {
    const isOpen = this.#state === "open" && this.#socket.readyState === SOCKET_OPEN;
    if (!isOpen || this.#drainMs !== null) return false;
    this.#socket.send(text);
    return true;
  }

  // Topics: `#wanted` by the page, each with its promise, and `#heard` over this connection.

  /**
   * Bring what is heard in line with what is wanted, one request at a time. One topic that cannot
   * be had fails its whole request; from then on they are asked for by one, by two, by four.
   */
  async #tune(failures = 0, most = TOPICS_PER_REQUEST) {
    if (this.#tuning) return;
    this.#tuning = true;
    while (this.#state === "open") {
      for (const topic of this.#heard) this.#wanted.get(topic)?.resolve();
      const surplus = without(this.#heard, this.#wanted);
      const missing = without(this.#wanted.keys(), this.#heard);
      const isLeaving = surplus.length > 0;
      const topics = (isLeaving ? surplus : missing).slice(0, most);
      if (topics.length === 0) break;
      try {
        await (isLeaving ? this.#leave(topics) : this.#join(topics));
        failures = 0;
        most = Math.min(2 * most, TOPICS_PER_REQUEST);
      } catch (error) {
        most = 1;
        if (topics.length > 1) continue;
        if (!isPassing(error)) {
          this.#refused(topics[0], error);
        } else if (this.#state === "open") {
          this.#after("tune", this.#pause(failures), () => this.#tune(failures + 1, 1));
          this.#queueLast(topics[0]);
          break;
        }
      }
    }
    this.#tuning = false;
  }

  async #join(topics) {
    const asked = topics.map((topic) => ({ topic, since: this.#positions.at(TOPIC + topic) }));
    const joined = ({ positions, recovered }) => this.#joined(topics, positions, recovered);
    await this.#call("subscribe", { topics: asked }, {}, joined);
  }

  #joined(topics, positions, recovered) {
    for (const topic of topics) {
      this.#heard.add(topic);
      this.#wanted.get(topic)?.resolve();
    }
    this.#tellGap(this.#positions.begin(positions, recovered));
  }

  async #leave(topics) {
    const left = () => topics.forEach((topic) => this.#left(topic));
    await this.#call("unsubscribe", { topics }, {}, left);
  }

  #left(topic) {
    this.#heard.delete(topic);
    this.#positions.forget(TOPIC + topic);
  }

  #queueLast(topic) {
    const wish = this.#wanted.get(topic);
    this.#wanted.delete(topic);
    if (wish) this.#wanted.set(topic, wish);
  }

  #unwant(topic, error) {
    this.#wanted.get(topic)?.reject(error);
    this.#wanted.delete(topic);
  }

  /** Whoever had the topic before hears that it is gone, as when the BFF takes it away. */
  #refused(topic, error) {
    const wasHeard = this.#wanted.get(topic)?.settled;
    this.#unwant(topic, error);
    this.#left(topic);
    if (wasHeard) this.#tell("unsubscribed", { topics: [topic], error }, null);
  }

  /** What the BFF subscribes by itself is wanted from then on, on the next connection too. */
  #followServer(topic, event) {
    if (topic === "subscribed") {
      const topics = Object.keys(event?.positions ?? {}).map((stream) => stream.replace(TOPIC, ""));
      for (const each of topics) this.#wanted.set(each, this.#wanted.get(each) ?? deferred());
      this.#joined(topics, event?.positions);
    } else if (topic === "unsubscribed") {
      const error = new BffError({ code: "forbidden", description: "Unsubscribed by the BFF" });
      for (const each of [event?.topics ?? []].flat()) {
        this.#unwant(each, error);
        this.#left(each);
      }
    }
  }
}

/** Calls that wait for their answer, or for a connection that takes them. */
class Calls {
  #limits;
  #post;
  #pending = new Map();
  #count = 0;

  /** `post` returns whether the connection has taken a text. */
  constructor(limits, post) {
    this.#limits = limits;
    this.#post = post;
  }

  /** `onResult` is called before the next frame is read; the promise is settled after that. */
  async make(type, payload, options, onResult = ignore) {
    const { timeoutMs = this.#limits.requestTimeoutMs, signal } = options;
    if (!(timeoutMs > 0)) throw new RangeError("timeoutMs must be more than 0");
    const call = { type, payload, signal, onResult, written: false, answer: deferred() };
    call.traceId = String((this.#count += 1));
    call.deadline = performance.now() + timeoutMs;
    call.onAbort = () => this.#abort(call);
    this.#pending.set(call.traceId, call);
    signal?.addEventListener("abort", call.onAbort, { once: true });
    this.#expireAfter(call, timeoutMs);
    if (signal?.aborted) this.#abort(call);
    else this.#write(call);
    if (this.#waiting.length > this.#limits.maxWaiting) {
      const description = "Too many requests wait for the connection";
      this.#fail(call, "too_many_in_flight", description, { retryable: true });
    }
    return call.answer.promise;
  }

  /** Write those that wait, in their order. */
  write() {
    for (const call of this.#waiting) this.#write(call);
  }

  settle(traceId, error, result) {
    const call = this.#pending.get(traceId);
    if (call === undefined) return;
    this.#forget(call);
    if (error) {
      call.answer.reject(new BffError({ ...error, traceId }));
    } else {
      call.onResult(result ?? {});
      call.answer.resolve(result);
    }
  }

  /** The connection broke: those that were on their way may have been done or not. */
  failWritten() {
    for (const call of this.#pending.values()) if (call.written) this.#lose(call);
  }

  failAll() {
    for (const call of this.#pending.values()) this.#lose(call);
  }

  get #waiting() {
    return [...this.#pending.values()].filter((call) => !call.written);
  }

  /** The BFF knows more of one that is written: its word is waited for a little longer. */
  #write(call) {
    let text;
    try {
      text = this.#frame(call);
    } catch (error) {
      this.#fail(call, "invalid_params", error.message, { cause: error });
      return;
    }
    if (!this.#post(text)) return;
    call.written = true;
    this.#expireAfter(call, call.deadline - performance.now() + GRACE_MS);
  }

  /** A frame that is too large would end the connection of everybody on this page. */
  #frame({ type, payload, traceId, deadline }) {
    const timeout_ms = Math.max(1, Math.ceil(deadline - performance.now()));
    const text = JSON.stringify({ type, payload: { ...payload, timeout_ms, trace_id: traceId } });
    const { length } = new TextEncoder().encode(text);
    const { maxFrameBytes } = this.#limits;
    if (length > maxFrameBytes) throw new RangeError(`${length} bytes, more than ${maxFrameBytes}`);
    return text;
  }

  #abort(call) {
    this.#fail(call, "cancelled", "Cancelled", { cause: call.signal.reason });
    const cancel = { type: "cancel", payload: { trace_id: call.traceId } };
    if (call.written) this.#post(JSON.stringify(cancel));
  }

  #expireAfter(call, ms) {
    clearTimeout(call.timer);
    call.timer = setTimeout(() => {
      this.#fail(call, "timeout", "No answer in time", { retryable: !call.written });
    }, Math.min(ms, LONGEST_TIMER_MS));
  }

  #lose(call) {
    this.#fail(call, "connection_lost", "The connection was lost", {});
  }

  #fail(call, code, description, more) {
    this.#forget(call);
    const { traceId, written } = call;
    const outcome = written ? "unknown" : "not_sent";
    call.answer.reject(new BffError({ code, description, outcome, traceId, ...more }));
  }

  #forget(call) {
    this.#pending.delete(call.traceId);
    clearTimeout(call.timer);
    call.signal?.removeEventListener("abort", call.onAbort);
  }
}

/** How far each stream was handed over. */
class Positions {
  #reached = new Map();

  get all() {
    return Object.fromEntries([...this.#reached].map(([stream, { id }]) => [stream, id]));
  }

  at(stream) {
    return this.#reached.get(stream)?.id ?? null;
  }

  forget(stream) {
    this.#reached.delete(stream);
  }

  /**
   * A flow begins at these ids. What a stream has missed follows if it is recovered; where the
   * others go on that have missed something is returned.
   */
  begin(ids, recovered) {
    const missed = {};
    for (const [stream, id] of Object.entries(ids ?? {})) {
      const now = parseId(id);
      const before = this.#reached.get(stream);
      const isWhole = recovered?.[stream] ?? (before && !isAfter(now, before));
      if (now === null || isWhole) continue;
      this.#reached.set(stream, now);
      if (before) missed[stream] = id;
    }
    return missed;
  }

  /**
   * A message has come: is it new, and what was missed before it? Offsets of a stream go up by
   * one. In another epoch they begin anew, and nobody knows what the last one still had.
   */
  reach(id) {
    const now = parseId(id);
    if (now === null) return { isNew: true, missed: {} };
    const before = this.#reached.get(now.stream);
    if (before && !isAfter(now, before)) return { isNew: false, missed: {} };
    this.#reached.set(now.stream, now);
    const follows = before?.epoch === now.epoch && now.offset === before.offset + 1;
    return { isNew: true, missed: before && !follows ? { [now.stream]: id } : {} };
  }
}

/** `<stream>/<epoch>/<offset>`, read from the right: a stream's name may hold slashes. */
function parseId(id) {
  const parts = typeof id === "string" ? /^(.+)\/([^/]+)\/(\d+)$/s.exec(id) : null;
  return parts && { id, stream: parts[1], epoch: parts[2], offset: Number(parts[3]) };
}

function isAfter(now, before) {
  return now?.epoch !== before.epoch || now.offset > before.offset;
}

/** Why a request failed, and what became of the work (`outcome`). */
export class BffError extends Error {
  constructor({ code = "internal", description = "Unknown error", cause, ...known }) {
    super(`${code}: ${description}`, cause === undefined ? undefined : { cause });
    this.name = "BffError";
    this.code = code;
    this.description = description;
    this.retryable = known.retryable ?? false;
    this.outcome = known.outcome ?? "unknown";
    this.traceId = known.traceId ?? null;
  }
}

/** Whether what has failed, and may be repeated, may succeed later. */
function isPassing({ code, retryable, outcome }) {
  return retryable || (outcome === "unknown" && code !== "internal");
}

function connectionLost(description, cause) {
  return new BffError({ code: "connection_lost", description, outcome: "not_sent", cause });
}

/** Who wants to hear of what. A listener that throws harms neither the others nor the client. */
class Listeners {
  #of = new Map();

  add(name, listener) {
    const entry = { listener };
    const entries = this.#of.get(name) ?? new Set();
    this.#of.set(name, entries.add(entry));
    return () => {
      entries.delete(entry);
      if (entries.size === 0 && this.#of.get(name) === entries) this.#of.delete(name);
    };
  }

  tell(name, ...values) {
    for (const { listener } of [...(this.#of.get(name) ?? [])]) {
      try {
        listener(...values);
      } catch (error) {
        (globalThis.reportError ?? console.error)(error);
      }
    }
  }
}

async function exchangeToken(office, getToken, hint) {
  const headers = { Authorization: `Bearer ${await getToken(hint)}` };
  const response = await fetch(office, { method: "POST", headers, signal: hint.signal });
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
    return {};
  }
}

function without(all, some) {
  return [...all].filter((each) => !some.has(each));
}

/** A promise that is settled from outside, and harms nobody who does not await it. */
function deferred() {
  const made = { settled: false };
  made.promise = new Promise((...settlers) => {
    [made.resolve, made.reject] = settlers.map((settle) => (value) => {
      made.settled = true;
      settle(value);
    });
  });
  made.promise.catch(ignore);
  return made;
}

function ignore() {}
