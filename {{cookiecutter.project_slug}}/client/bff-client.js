/**
 * Client of the BFF: requests, live events and topics over one WebSocket (`bff.v1`).
 *
 * Each stored message reaches the listeners exactly once and in order, or `onGap` reports the
 * streams in which messages were lost: then reload the data that depends on them.
 */

const SUBPROTOCOL = "bff.v1";
const SOCKET_OPEN = 1;
const NORMAL = 1000;
const ABNORMAL = 1006;
const TOKEN_EXPIRED = 4003;
const NOT_AUTHENTICATED = 4500;
const RECONNECT_CODES = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015]);
const GRACE_MS = 1_000;
const MAX_DRAIN_MS = 5 * 60_000;
const MAX_TIMER_MS = 2 ** 31 - 1;
const TOPIC = "topic:";
const TOPICS_PER_REQUEST = 100;
const MAX_SEEN_BROADCASTS = 200;
/** In JSON: `JSON.stringify` escapes half a surrogate pair, after an even number of backslashes. */
const LONE_SURROGATE = /[^\\](?:\\\\)*\\ud[89a-f][0-9a-f]{2}/;
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

/** One user's connection to the BFF. It reconnects until it is closed or refused. */
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
  #pageEvents = null;
  #failures = 0;
  #drainMs = null;
  /** Before this time (of `performance.now`) a drained client does not reconnect by itself. */
  #drainedUntil = 0;
  #needsFreshToken = false;
  #timers = new Map();

  #calls;
  #positions = new Positions();
  /** Broadcast id to whether it first arrived as a retained broadcast. */
  #seenBroadcasts = new Map();
  #wanted = new Map();
  #subscribed = new Set();
  #syncing = false;
  #listeners = new Listeners();

  constructor({ url = "/ws", getToken, getTicket, positions, WebSocket, ...limits } = {}) {
    for (const name of Object.keys(limits)) {
      if (!(name in DEFAULTS)) throw new TypeError(`BffClient has no option ${name}`);
    }
    if (getTicket && getToken) throw new TypeError("pass getTicket or getToken, not both");
    this.#WebSocket = WebSocket ?? globalThis.WebSocket;
    if (!this.#WebSocket) throw new TypeError("no WebSocket on this platform: pass one");
    const address = new URL(url, globalThis.location?.href);
    address.hash = "";
    const ticketUrl = new URL("auth/ticket", address.href.replace(/^ws/, "http"));
    this.#url = address.href.replace(/^http/, "ws");
    this.#getToken = getToken;
    this.#getTicket = getToken ? (hint) => exchangeToken(ticketUrl, getToken, hint) : getTicket;
    this.#limits = { ...DEFAULTS, ...limits };
    this.#calls = new Calls(this.#limits, (text) => this.#send(text));
    this.#positions.startAt(positions);
  }

  get state() {
    return this.#state;
  }

  /** The last hello, or null before the first. */
  get session() {
    return this.#session;
  }

  /** Fulfilled with the hello when the connection is open; rejected when the client closes. */
  get ready() {
    return this.#ready.promise;
  }

  /** The id of the last message delivered in each stream. */
  get positions() {
    return this.#positions.all;
  }

  /** Connect; skips the delay if the client is waiting to reconnect. Returns `ready`. */
  connect() {
    if (this.#state === "closed") {
      this.#failures = 0;
      this.#renewReady();
      this.#watchPage();
    }
    if (this.#state === "closed" || this.#state === "waiting") this.#connectOnce();
    return this.ready;
  }

  /** Close the connection. The client does not reconnect until `connect` is called. */
  close(reason = "closed by the page") {
    if (this.#state !== "closed") this.#finish({ code: NORMAL, reason });
  }

  /** Call a method of a service or of the BFF and wait for its result. */
  request(service, method, params = {}, options = {}) {
    return this.#call("request", { service, method, params }, options);
  }

  /** Call a method of a service without waiting for its result. */
  command(service, method, params = {}, options = {}) {
    return this.#call("command", { service, method, params }, options);
  }

  /** Send a fresh token of the same user over the open connection. */
  async authenticate(token, options = {}) {
    const result = await this.#call("authenticate", { token }, options);
    this.#session = { ...this.#session, ...result };
    return this.#session;
  }

  /** Subscribe to a topic, across reconnects, until `unsubscribe`. Fulfilled once subscribed. */
  async subscribe(topic) {
    if (this.#state === "closed") throw connectionLost("The client is closed");
    const pending = this.#wanted.get(topic) ?? deferred();
    this.#wanted.set(topic, pending);
    this.#syncTopics();
    await pending.promise;
  }

  /** Unsubscribe from a topic. */
  unsubscribe(topic) {
    this.#abandon(topic, new BffError({ code: "cancelled", description: "Unsubscribed" }));
    if (!this.#subscribed.has(topic)) this.#onUnsubscribed(topic);
    this.#syncTopics();
  }

  /** Listen to the events of a topic, or of all with `"*"`. Returns a function that removes it. */
  on(topic, listener) {
    return this.#listeners.add(topic, listener);
  }

  /** Listen to changes of the connection's state. */
  onState(listener) {
    return this.#listeners.add(STATE, listener);
  }

  /** Listen to lost messages: reload the data that depends on the reported streams. */
  onGap(listener) {
    return this.#listeners.add(GAP, listener);
  }

  /** Listen to errors that belong to no request. */
  onError(listener) {
    return this.#listeners.add(ERROR, listener);
  }

  // Connection. Every method emits a state change last, because a listener may cause another one.

  async #connectOnce() {
    this.#disposeSocket();
    const { signal } = (this.#attempt = new AbortController());
    this.#startTimer("connect", this.#limits.connectTimeoutMs, () =>
      this.#onDisconnect({ code: ABNORMAL, reason: "connect timeout" }),
    );
    this.#setState("connecting", {});
    try {
      const address = signal.aborted ? null : await this.#buildUrl(signal);
      if (!signal.aborted) this.#open(address);
    } catch (error) {
      const code = error?.status === 401 || error?.status === 403 ? NOT_AUTHENTICATED : ABNORMAL;
      const reason = error?.message ?? String(error);
      if (!signal.aborted) this.#onDisconnect({ code, reason, error });
    }
  }

  /** The WebSocket URL with the positions to resume from and a new ticket. */
  async #buildUrl(signal) {
    const address = new URL(this.#url);
    const ids = [this.#positions.get("user"), this.#positions.get("all")].filter(Boolean);
    if (ids.length > 0) address.searchParams.set("since", ids.join(","));
    if (this.#getTicket) {
      this.#needsFreshToken ||= this.#session?.expires_at * 1000 <= Date.now();
      const ticket = await this.#getTicket({ signal, fresh: this.#needsFreshToken });
      address.searchParams.set("ticket", ticket);
    }
    return address;
  }

  /** The constructor throws if the URL is not allowed, for example ws: on an https: page. */
  #open(address) {
    let socket;
    try {
      socket = new this.#WebSocket(address.href, [SUBPROTOCOL]);
    } catch (error) {
      this.#finish({ code: ABNORMAL, reason: error.message, error });
      return;
    }
    this.#socket = socket;
    socket.onerror = ignore;
    socket.onmessage = ({ data }) => this.#onFrame(data);
    socket.onclose = ({ code, reason }) => this.#onDisconnect({ code, reason });
  }

  #onHello(hello) {
    this.#stopTimer("connect");
    this.#startTimer("stable", this.#limits.stableMs, () => (this.#failures = 0));
    this.#session = hello;
    this.#needsFreshToken = false;
    const missed = this.#positions.startAt(hello.positions, hello.recovered);
    this.#state = "open";
    this.#restartSilenceTimer();
    this.#scheduleRefresh();
    this.#syncTopics();
    this.#calls.sendWaiting();
    this.#ready.resolve(hello);
    this.#listeners.emit(STATE, { state: "open", session: hello });
    this.#emitGap(missed);
  }

  #onDisconnect(detail) {
    const { code } = detail;
    const refused = code === NOT_AUTHENTICATED;
    const again = (code >= 4000 && code <= 4499) || RECONNECT_CODES.has(code);
    if (!again && !(refused && this.#getTicket && !this.#needsFreshToken)) {
      this.#finish(detail);
      return;
    }
    this.#needsFreshToken ||= refused || code === TOKEN_EXPIRED;
    this.#drainedUntil = performance.now() + (this.#drainMs ?? 0);
    const delayMs = (this.#drainMs ?? 0) + this.#backoff(this.#failures);
    this.#failures += 1;
    this.#disposeSocket();
    this.#calls.failSent();
    this.#renewReady();
    this.#retryAfter(delayMs);
    this.#setState("waiting", { ...detail, delayMs });
  }

  #retryAfter(delayMs) {
    this.#startTimer("retry", delayMs, () => this.#connectOnce());
  }

  #finish(detail) {
    this.#disposeSocket();
    this.#pageEvents.abort();
    this.#calls.failAll();
    const { code, reason, error } = detail;
    const end = connectionLost(`Connection closed (${code}) ${reason}`.trim(), error);
    for (const [topic, pending] of this.#wanted) if (!pending.settled) this.#abandon(topic, end);
    this.#renewReady();
    this.#ready.reject(end);
    this.#setState("closed", detail);
  }

  #setState(state, detail) {
    this.#state = state;
    this.#listeners.emit(STATE, { state, ...detail });
  }

  #renewReady() {
    if (this.#ready.settled) this.#ready = deferred();
  }

  /** Detach from the socket at once: `onclose` of a dead one may fire minutes later. */
  #disposeSocket() {
    for (const name of this.#timers.keys()) this.#stopTimer(name);
    this.#attempt?.abort();
    this.#drainMs = null;
    for (const topic of difference(this.#subscribed, this.#wanted)) this.#onUnsubscribed(topic);
    this.#subscribed.clear();
    const socket = this.#socket;
    this.#socket = null;
    if (socket === null) return;
    socket.onmessage = null;
    socket.onclose = null;
    socket.close(NORMAL);
  }

  /** A random delay between 0 and a limit that doubles with each failure ("full jitter"). */
  #backoff(failures) {
    const { backoffBaseMs, backoffCapMs } = this.#limits;
    return Math.random() * Math.min(backoffCapMs, backoffBaseMs * 2 ** failures);
  }

  /**
   * Reconnect without delay when the page becomes visible or the network returns, but not before
   * the time that `drain` named.
   */
  #watchPage() {
    this.#pageEvents = new AbortController();
    const { signal } = this.#pageEvents;
    for (const name of ["online", "visibilitychange"]) {
      globalThis.addEventListener?.(name, () => this.#onPageActive(), { signal });
    }
  }

  #onPageActive() {
    if (globalThis.document?.visibilityState === "hidden") return;
    const drainedMs = this.#drainedUntil - performance.now();
    if (this.#state === "waiting" && drainedMs > 0) this.#retryAfter(drainedMs);
    else if (this.#state === "waiting") this.#connectOnce();
    else if (this.#state === "open") this.#sendPing();
  }

  /** Pages cannot see ping frames: after a silence of two ping intervals, send a `ping`. */
  #restartSilenceTimer() {
    const quietMs = 2000 * this.#session.ping_interval || Infinity;
    this.#startTimer("silence", quietMs, () => this.#sendPing());
  }

  #sendPing() {
    if (this.#socket.readyState === SOCKET_OPEN) this.#socket.send('{"type":"ping","payload":{}}');
    this.#startTimer("silence", this.#limits.pingTimeoutMs, () =>
      this.#onDisconnect({ code: ABNORMAL, reason: "ping timeout" }),
    );
  }

  /** Refresh the token before it expires; otherwise the BFF closes with 4003. */
  #scheduleRefresh() {
    const leftMs = this.#session.expires_at * 1000 - Date.now();
    if (!this.#getToken || !Number.isFinite(leftMs)) return;
    const { refreshMs } = this.#limits;
    this.#startTimer("refresh", Math.max(leftMs - refreshMs, refreshMs / 2), () => this.#refresh());
  }

  async #refresh() {
    const { signal } = this.#attempt;
    try {
      await this.authenticate(await this.#getToken({ signal, fresh: true }));
    } catch {
      // Retried by the next scheduled refresh, or on reconnect.
    }
    if (!signal.aborted) this.#scheduleRefresh();
  }

  #startTimer(name, ms, then) {
    this.#stopTimer(name);
    this.#timers.set(name, setTimeout(then, Math.min(ms, MAX_TIMER_MS)));
  }

  #stopTimer(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  // Received frames

  #onFrame(data) {
    const { type, payload } = parseFrame(data);
    if (this.#state !== "open") {
      if (type === "event" && payload.topic === "hello") this.#onHello(payload.event ?? {});
      return;
    }
    this.#restartSilenceTimer();
    if (type === "event") {
      this.#onEvent(payload);
    } else if (type === "response") {
      this.#calls.settle(payload.trace_id, payload.error, payload.result);
    } else if (type === "error") {
      if (payload.trace_id) this.#calls.settle(payload.trace_id, payload);
      else this.#listeners.emit(ERROR, new BffError(payload));
    } else if (type === "gap") {
      this.#positions.startAt(payload.streams);
      this.#emitGap(payload.streams ?? {});
    } else if (type === "drain") {
      const ms = Number(payload.reconnect_after_ms);
      this.#drainMs = Math.min(Math.max(ms, 0) || 0, MAX_DRAIN_MS);
    }
  }

  #onEvent({ topic, event, id = null }) {
    if (typeof topic !== "string") return;
    const { isNew, missed } = this.#positions.advance(id);
    this.#emitGap(missed);
    if (!isNew || this.#isDuplicateBroadcast(event?.broadcast_id, id)) return;
    if (id === null) this.#onServerSubscription(topic, event);
    this.#emit(topic, event, id);
  }

  #emit(topic, event, id) {
    this.#listeners.emit(topic, event, { topic, id });
    if (topic !== "*") this.#listeners.emit("*", event, { topic, id });
  }

  #emitGap(missed) {
    if (Object.keys(missed).length > 0) this.#listeners.emit(GAP, missed);
  }

  /**
   * A retained broadcast arrives again with the same `broadcast_id`: on each connect (without an
   * id), and once as a stored message (with an id). Two stored messages are not duplicates.
   */
  #isDuplicateBroadcast(broadcastId, id) {
    if (typeof broadcastId !== "string" || id?.startsWith(TOPIC)) return false;
    const isRetained = id === null;
    const wasRetained = this.#seenBroadcasts.get(broadcastId);
    if (wasRetained !== undefined) return isRetained || wasRetained;
    this.#seenBroadcasts.set(broadcastId, isRetained);
    if (this.#seenBroadcasts.size > MAX_SEEN_BROADCASTS) {
      this.#seenBroadcasts.delete(this.#seenBroadcasts.keys().next().value);
    }
    return false;
  }

  // Calls

  async #call(type, payload, options, onResult) {
    if (this.#state === "closed") throw connectionLost("The client is closed");
    return this.#calls.start(type, payload, options, onResult);
  }

  /** Send a frame if the connection is open and not draining; returns whether it was sent. */
  #send(text) {
    const isOpen = this.#state === "open" && this.#socket.readyState === SOCKET_OPEN;
    if (!isOpen || this.#drainMs !== null) return false;
    this.#socket.send(text);
    return true;
  }

  // Topics. `#wanted`: requested by the page, each with its promise. `#subscribed`: confirmed on
  // this connection.

  /**
   * Subscribe and unsubscribe until `#subscribed` equals `#wanted`, one request at a time. A
   * refused topic fails its whole request; then the batch size restarts at one and doubles.
   */
  async #syncTopics(failures = 0, batchSize = TOPICS_PER_REQUEST) {
    if (this.#syncing) return;
    this.#syncing = true;
    while (this.#state === "open") {
      for (const topic of this.#subscribed) this.#wanted.get(topic)?.resolve();
      const surplus = difference(this.#subscribed, this.#wanted);
      const missing = difference(this.#wanted.keys(), this.#subscribed);
      const isLeaving = surplus.length > 0;
      const topics = (isLeaving ? surplus : missing).slice(0, batchSize);
      if (topics.length === 0) break;
      try {
        await (isLeaving ? this.#unsubscribeOnServer(topics) : this.#subscribeOnServer(topics));
        failures = 0;
        batchSize = Math.min(2 * batchSize, TOPICS_PER_REQUEST);
      } catch (error) {
        batchSize = 1;
        if (topics.length > 1) continue;
        if (!isTransient(error)) {
          this.#onTopicRefused(topics[0], error);
        } else if (this.#state === "open") {
          const delayMs = this.#backoff(failures);
          this.#startTimer("topics", delayMs, () => this.#syncTopics(failures + 1, 1));
          this.#moveToEnd(topics[0]);
          break;
        }
      }
    }
    this.#syncing = false;
  }

  async #subscribeOnServer(topics) {
    const asked = topics.map((topic) => ({ topic, since: this.#positions.get(TOPIC + topic) }));
    const joined = ({ positions, recovered }) => this.#onSubscribed(topics, positions, recovered);
    await this.#call("subscribe", { topics: asked }, {}, joined);
  }

  #onSubscribed(topics, positions, recovered) {
    for (const topic of topics) {
      this.#subscribed.add(topic);
      this.#wanted.get(topic)?.resolve();
    }
    this.#emitGap(this.#positions.startAt(positions, recovered));
  }

  async #unsubscribeOnServer(topics) {
    const left = () => topics.forEach((topic) => this.#onUnsubscribed(topic));
    await this.#call("unsubscribe", { topics }, {}, left);
  }

  #onUnsubscribed(topic) {
    this.#subscribed.delete(topic);
    this.#positions.forget(TOPIC + topic);
  }

  #moveToEnd(topic) {
    const pending = this.#wanted.get(topic);
    this.#wanted.delete(topic);
    if (pending) this.#wanted.set(topic, pending);
  }

  #abandon(topic, error) {
    this.#wanted.get(topic)?.reject(error);
    this.#wanted.delete(topic);
  }

  /** If the topic was subscribed before, emit `unsubscribed`, as when the BFF revokes it. */
  #onTopicRefused(topic, error) {
    const wasSubscribed = this.#wanted.get(topic)?.settled;
    this.#abandon(topic, error);
    this.#onUnsubscribed(topic);
    if (wasSubscribed) this.#emit("unsubscribed", { topics: [topic], error }, null);
  }

  /** A topic that the BFF subscribes itself is kept, and subscribed again after a reconnect. */
  #onServerSubscription(topic, event) {
    if (topic === "subscribed") {
      const topics = Object.keys(event?.positions ?? {}).map((stream) => stream.replace(TOPIC, ""));
      for (const each of topics) this.#wanted.set(each, this.#wanted.get(each) ?? deferred());
      this.#onSubscribed(topics, event?.positions);
    } else if (topic === "unsubscribed") {
      const error = new BffError({ code: "forbidden", description: "Unsubscribed by the BFF" });
      for (const each of [event?.topics ?? []].flat()) {
        this.#abandon(each, error);
        this.#onUnsubscribed(each);
      }
    }
  }
}

/** Calls that wait for their response, or to be sent. */
class Calls {
  #limits;
  #send;
  #pending = new Map();
  #count = 0;

  /** `send` returns whether the text was sent. */
  constructor(limits, send) {
    this.#limits = limits;
    this.#send = send;
  }

  /** `onResult` is called before the next frame is read; the promise is settled after that. */
  async start(type, payload, options, onResult = ignore) {
    const { timeoutMs = this.#limits.requestTimeoutMs, signal } = options;
    if (!(timeoutMs > 0)) throw new RangeError("timeoutMs must be more than 0");
    const call = { type, payload, signal, onResult, isSent: false, answer: deferred() };
    call.traceId = String((this.#count += 1));
    call.deadline = performance.now() + timeoutMs;
    call.onAbort = () => this.#abort(call);
    this.#pending.set(call.traceId, call);
    signal?.addEventListener("abort", call.onAbort, { once: true });
    this.#expireAfter(call, timeoutMs);
    if (signal?.aborted) this.#abort(call);
    else this.#write(call);
    if (this.#unsent.length > this.#limits.maxWaiting) {
      const description = "Too many requests are waiting for the connection";
      this.#fail(call, "too_many_in_flight", description, { retryable: true });
    }
    return call.answer.promise;
  }

  /** Send the waiting calls in order. */
  sendWaiting() {
    for (const call of this.#unsent) this.#write(call);
  }

  settle(traceId, error, result) {
    const call = this.#pending.get(traceId);
    if (call === undefined) return;
    this.#remove(call);
    if (error) {
      call.answer.reject(new BffError({ ...error, traceId }));
    } else {
      call.onResult(result ?? {});
      call.answer.resolve(result);
    }
  }

  /** The connection was lost: the outcome of calls that were sent is unknown. */
  failSent() {
    for (const call of this.#pending.values()) if (call.isSent) this.#failLost(call);
  }

  failAll() {
    for (const call of this.#pending.values()) this.#failLost(call);
  }

  get #unsent() {
    return [...this.#pending.values()].filter((call) => !call.isSent);
  }

  /** Once a call is sent, wait a little longer than its timeout: the BFF's error says more. */
  #write(call) {
    let text;
    try {
      text = this.#frame(call);
    } catch (error) {
      this.#fail(call, "invalid_params", error.message, { cause: error });
      return;
    }
    if (!this.#send(text)) return;
    call.isSent = true;
    this.#expireAfter(call, call.deadline - performance.now() + GRACE_MS);
  }

  /** Throws if the frame is too large, or a text is not Unicode: the BFF would refuse it. */
  #frame({ type, payload, traceId, deadline }) {
    const timeout_ms = Math.max(1, Math.ceil(deadline - performance.now()));
    const text = JSON.stringify({ type, payload: { ...payload, timeout_ms, trace_id: traceId } });
    if (LONE_SURROGATE.test(text)) {
      throw new TypeError("A text contains half a character, for example a cut emoji");
    }
    const { length } = new TextEncoder().encode(text);
    const { maxFrameBytes } = this.#limits;
    if (length > maxFrameBytes) throw new RangeError(`${length} bytes, more than ${maxFrameBytes}`);
    return text;
  }

  #abort(call) {
    this.#fail(call, "cancelled", "Cancelled", { cause: call.signal.reason });
    const cancel = { type: "cancel", payload: { trace_id: call.traceId } };
    if (call.isSent) this.#send(JSON.stringify(cancel));
  }

  #expireAfter(call, ms) {
    clearTimeout(call.timer);
    call.timer = setTimeout(() => {
      this.#fail(call, "timeout", "No reply in time", { retryable: !call.isSent });
    }, Math.min(ms, MAX_TIMER_MS));
  }

  #failLost(call) {
    this.#fail(call, "connection_lost", "The connection was lost", {});
  }

  #fail(call, code, description, more) {
    this.#remove(call);
    const { traceId, isSent } = call;
    const outcome = isSent ? "unknown" : "not_sent";
    call.answer.reject(new BffError({ code, description, outcome, traceId, ...more }));
  }

  #remove(call) {
    this.#pending.delete(call.traceId);
    clearTimeout(call.timer);
    call.signal?.removeEventListener("abort", call.onAbort);
  }
}

/** The last delivered message of each stream. */
class Positions {
  #reached = new Map();

  get all() {
    return Object.fromEntries([...this.#reached].map(([stream, { id }]) => [stream, id]));
  }

  get(stream) {
    return this.#reached.get(stream)?.id ?? null;
  }

  forget(stream) {
    this.#reached.delete(stream);
  }

  /**
   * Delivery starts after these ids. Missed messages of a recovered stream follow. Returns the ids
   * of the streams in which messages were lost.
   */
  startAt(ids, recovered) {
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
   * A message arrived: is it new, and were messages lost before it? The offsets of a stream
   * increase by one. In a new epoch they restart, and the end of the old epoch is unknown.
   */
  advance(id) {
    const now = parseId(id);
    if (now === null) return { isNew: true, missed: {} };
    const before = this.#reached.get(now.stream);
    if (before && !isAfter(now, before)) return { isNew: false, missed: {} };
    this.#reached.set(now.stream, now);
    const follows = before?.epoch === now.epoch && now.offset === before.offset + 1;
    return { isNew: true, missed: before && !follows ? { [now.stream]: id } : {} };
  }
}

/** `<stream>/<epoch>/<offset>`, parsed from the right: a stream's name may contain slashes. */
function parseId(id) {
  const parts = typeof id === "string" ? /^(.+)\/([^/]+)\/(\d+)$/s.exec(id) : null;
  return parts && { id, stream: parts[1], epoch: parts[2], offset: Number(parts[3]) };
}

function isAfter(now, before) {
  return now?.epoch !== before.epoch || now.offset > before.offset;
}

/** Why a request failed, and whether the work was done (`outcome`). */
export class BffError extends Error {
  constructor({ code = "internal", description = "Unknown error", cause, ...known }) {
    super(`${code}: ${description}`, cause === undefined ? undefined : { cause });
    this.name = "BffError";
    this.code = code;
    this.description = description;
    this.retryable = known.retryable ?? false;
    this.outcome = known.outcome ?? "unknown";
    this.retryAfterMs = known.retry_after_ms ?? null;
    this.traceId = known.traceId ?? null;
  }
}

/** Whether a retry may succeed. */
function isTransient({ code, retryable, outcome }) {
  return retryable || (outcome === "unknown" && code !== "internal");
}

function connectionLost(description, cause) {
  return new BffError({ code: "connection_lost", description, outcome: "not_sent", cause });
}

/** Event listeners. An exception in one affects neither the others nor the client. */
class Listeners {
  #byName = new Map();

  add(name, listener) {
    const entry = { listener };
    const entries = this.#byName.get(name) ?? new Set();
    this.#byName.set(name, entries.add(entry));
    return () => {
      entries.delete(entry);
      if (entries.size === 0 && this.#byName.get(name) === entries) this.#byName.delete(name);
    };
  }

  emit(name, ...values) {
    for (const { listener } of [...(this.#byName.get(name) ?? [])]) {
      try {
        listener(...values);
      } catch (error) {
        (globalThis.reportError ?? console.error)(error);
      }
    }
  }
}

async function exchangeToken(ticketUrl, getToken, hint) {
  const headers = { Authorization: `Bearer ${await getToken(hint)}` };
  const response = await fetch(ticketUrl, { method: "POST", headers, signal: hint.signal });
  if (!response.ok) {
    const error = new Error(`No ticket: HTTP status ${response.status}`);
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

function difference(all, some) {
  return [...all].filter((each) => !some.has(each));
}

/** A promise with `resolve` and `reject`. A rejection that is not awaited is ignored. */
function deferred() {
  const result = { settled: false };
  result.promise = new Promise((...settlers) => {
    [result.resolve, result.reject] = settlers.map((settle) => (value) => {
      result.settled = true;
      settle(value);
    });
  });
  result.promise.catch(ignore);
  return result;
}

function ignore() {}
