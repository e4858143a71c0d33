/** @import { HttpNeeds } from "./http.js" */
/** @import { Transports } from "./transports.js" */
/** @import { End, TransportListener } from "./types.js" */
/** @import { ErrorFacts } from "./errors.js" */

import { ABNORMAL, CONNECTION_LIMIT, NOT_AUTHENTICATED } from "./close-codes.js";
import { Http, problemOf } from "./http.js";
import { isOvertaken } from "./overtaken.js";
import { SocketProbe } from "./socket-probe.js";

const END_BY_STATUS = /** @type {Record<number, number>} */ ({
  401: NOT_AUTHENTICATED,
  403: NOT_AUTHENTICATED,
  429: CONNECTION_LIMIT,
});

/** @type {TransportListener} */
const DEAF = { onFrame() {}, onClose() {}, onAlive() {}, onReplaced() {}, onUpgrade() {} };

/**
 * @typedef {object} OwnNeeds
 * @property {() => string} since the positions of all streams
 * @property {() => Iterable<string>} topics those that are subscribed
 * @property {(traceId: string, error: ErrorFacts | null, result?: unknown) => void} reply
 *
 * @typedef {HttpNeeds & OwnNeeds} StreamNeeds
 */

/**
 * Events from `GET /events`, calls by `POST /rpc`: for networks that break WebSockets.
 *
 * A stream cannot be changed while it is open. With other topics a second one is opened from the
 * same positions; it replaces the first when its hello has arrived. If the hello is out of date by
 * then, another one is opened.
 */
export class EventStreamTransport {
  kind = /** @type {const} */ ("events");
  listener;
  #needs;
  #http;
  #stream = new AbortController();
  #next = /** @type {AbortController | null} */ (null);

  #probe;

  /**
   * @param {StreamNeeds} needs
   * @param {Transports} transports
   * @param {TransportListener} listener
   */
  constructor(needs, transports, listener) {
    this.#needs = needs;
    this.#http = new Http(needs);
    this.listener = listener;
    this.#probe = new SocketProbe(transports, needs.since, (socket, hello) =>
      this.listener.onUpgrade(socket, hello),
    );
    this.#open(this.#stream, [], (hello) => {
      this.#probe.start();
      this.listener.onFrame(hello);
    });
  }

  /**
   * Returns what cancels a request, which the end of the stream does not end; otherwise true.
   *
   * @param {{ type: string, payload: any }} frame
   */
  send({ type, payload }) {
    const { trace_id, topics, ...call } = payload;
    if (type === "request" || type === "command") {
      const control = new AbortController();
      this.#post(trace_id, call, type === "command", control.signal);
      return control;
    }
    const refuse = (/** @type {ErrorFacts["code"]} */ code, description = "") =>
      this.#needs.reply(trace_id, { code, description, outcome: "not_sent" });
    if (type === "subscribe" && topics.some(isNoTopic)) {
      refuse("invalid_params", "A topic is empty or has a comma");
    } else if (type === "subscribe" || type === "unsubscribe") {
      const all = new Set(this.#needs.topics());
      for (const { topic } of type === "subscribe" ? topics : []) all.add(topic);
      for (const topic of type === "unsubscribe" ? topics : []) all.delete(topic);
      this.#replace([...all], trace_id);
    } else {
      refuse("service_unavailable", "Not possible while the WebSocket is not available");
    }
    return true;
  }

  /** Find out whether the network still works: open a second stream, with a new token. */
  ping() {
    this.#probe.hurry();
    if (this.#next === null) this.#replace([...this.#needs.topics()], null);
  }

  close() {
    this.#stream.abort();
    this.#next?.abort();
    this.#probe.stop();
    this.listener = DEAF;
  }

  /**
   * @param {string[]} topics
   * @param {string | null} traceId of the call that changes the topics
   */
  #replace(topics, traceId) {
    this.#next?.abort();
    const control = (this.#next = new AbortController());
    const reply = (/** @type {ErrorFacts | null} */ error) => {
      if (this.#next === control) this.#next = null;
      if (traceId !== null) this.#needs.reply(traceId, error);
    };
    const before = this.#needs.since();
    const known = new Set([...this.#needs.topics(), ...topics]);
    const onHello = (/** @type {string} */ text) => {
      const hello = JSON.parse(text).payload.event;
      const more = [...this.#needs.topics()].filter((topic) => !known.has(topic));
      if (more.length > 0 || isOvertaken(hello, before, this.#needs.since())) {
        this.#replace([...topics, ...more], traceId);
        return;
      }
      this.#stream.abort();
      this.#stream = control;
      this.#next = null; // what follows may open another one
      this.listener.onReplaced(hello);
      reply(null);
    };
    this.#open(control, topics, onHello, reply);
  }

  /**
   * @param {AbortController} control
   * @param {string[]} topics
   * @param {(text: string) => void} onHello gets the first frame; the others go to the listener
   * @param {(error: ErrorFacts) => void} [onFailed] the stream that it replaces stays
   */
  async #open(control, topics, onHello, onFailed) {
    const { end, error } = await this.#read(control.signal, topics, onHello);
    if (control.signal.aborted) return;
    const isReplacement = control !== this.#stream && error?.code !== "unauthenticated";
    if (isReplacement) onFailed?.(error ?? { code: "connection_lost", description: end.reason });
    else this.listener.onClose(end);
  }

  /**
   * @param {AbortSignal} signal
   * @param {string[]} topics
   * @param {(text: string) => void} onHello
   * @returns {Promise<{ end: End, error?: ErrorFacts }>} why it ended, or was refused
   */
  async #read(signal, topics, onHello) {
    const query = { since: this.#needs.since(), topics: topics.join(",") };
    let take = onHello;
    let end = { code: ABNORMAL, reason: "The event stream ended" };
    try {
      const response = await this.#http.send("events", { query, signal });
      const isStream = response.headers.get("Content-Type")?.startsWith("text/event-stream");
      if (!response.ok || !isStream || !response.body) return refusal(response);
      for await (const data of eventsOf(response.body)) {
        if (signal.aborted) break;
        this.listener.onAlive();
        if (!data) continue;
        if (data.startsWith('{"type":"close"')) end = JSON.parse(data).payload;
        else take(data);
        take = (text) => this.listener.onFrame(text);
      }
    } catch (error) {
      end = { code: ABNORMAL, reason: String(error) };
    }
    return { end };
  }

  /**
   * @param {string} traceId
   * @param {{ service: string, method: string, params: object, timeout_ms: number }} call
   * @param {boolean} isCommand
   * @param {AbortSignal} signal
   */
  async #post(traceId, { service, method, params, timeout_ms }, isCommand, signal) {
    const path = `rpc/${encodeURIComponent(service)}/${encodeURIComponent(method)}`;
    const { reply } = this.#needs;
    try {
      const options = { method: "POST", body: params, query: { timeout_ms }, signal };
      const response = await this.#http.send(path, options);
      if (!response.ok) reply(traceId, await problemOf(response));
      else reply(traceId, null, isCommand ? { accepted: true } : await response.json());
    } catch (cause) {
      const description = "The connection was lost";
      reply(traceId, { code: "connection_lost", description, outcome: "unknown", cause });
    }
  }
}

/**
 * In a URL it would stand for no topic, or for several.
 *
 * @param {{ topic: string }} asked
 */
function isNoTopic({ topic }) {
  return topic === "" || topic.includes(",");
}

/** @param {Response} response */
async function refusal(response) {
  const error = await problemOf(response);
  const isOurs = error.code !== "connection_lost";
  const code = (isOurs && END_BY_STATUS[response.status]) || ABNORMAL;
  return { end: { code, reason: error.description ?? "" }, error };
}

/**
 * The data of each event; an empty text for a comment, which keeps the connection alive.
 *
 * @param {ReadableStream<Uint8Array>} body
 */
async function* eventsOf(body) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (line.startsWith("data: ")) yield line.slice(6);
        else if (line.startsWith(":")) yield "";
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
