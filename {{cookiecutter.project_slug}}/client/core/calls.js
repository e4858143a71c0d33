/** @import { CallOptions } from "../bff-client.js" */
/** @import { Deferred } from "./promises.js" */
/** @import { ErrorFacts } from "./errors.js" */
/** @import { Transport } from "./types.js" */

import { BffError } from "./errors.js";
import { MAX_TIMER_MS, Timers, deferred, ignore } from "./promises.js";

/** Once a call is sent, wait this much longer than its timeout: the BFF's error says more. */
const GRACE_MS = 1_000;
/** In JSON: `JSON.stringify` escapes half a surrogate pair, after an even number of backslashes. */
const LONE_SURROGATE = /[^\\](?:\\\\)*\\ud[89a-f][0-9a-f]{2}/;

/**
 * @typedef {object} Call
 * @property {string} type
 * @property {object} payload
 * @property {string} traceId
 * @property {number} deadline on the clock of `performance.now`
 * @property {AbortSignal} [signal]
 * @property {(result: any) => void} onResult
 * @property {() => void} onAbort
 * @property {boolean} isSent
 * @property {AbortController} [http] the call is an HTTP request: the connection may end before it
 * @property {Deferred<any>} answer
 */

/** Calls that wait for their response, or to be sent. */
export class Calls {
  #limits;
  #send;
  /** @type {Map<string, Call>} */
  #pending = new Map();
  #timers = new Timers();
  #count = 0;

  /**
   * @param {{ requestTimeoutMs: number, maxWaiting: number, maxFrameBytes: number }} limits
   * @param {Transport["send"]} send
   */
  constructor(limits, send) {
    this.#limits = limits;
    this.#send = send;
  }

  /**
   * `onResult` is called before the next frame is read; the promise is settled after that.
   *
   * @param {string} type
   * @param {object} payload
   * @param {CallOptions} options
   * @param {(result: any) => void} [onResult]
   */
  async start(type, payload, options, onResult = ignore) {
    const { timeoutMs = this.#limits.requestTimeoutMs, signal } = options;
    if (!(timeoutMs > 0)) throw new RangeError("timeoutMs must be more than 0");
    const traceId = String((this.#count += 1));
    const deadline = performance.now() + Math.min(timeoutMs, MAX_TIMER_MS);
    /** @type {Call} */
    const call = {
      ...{ type, payload, traceId, deadline, signal, onResult },
      onAbort: () => this.#abort(call),
      isSent: false,
      answer: deferred(),
    };
    this.#pending.set(traceId, call);
    signal?.addEventListener("abort", call.onAbort, { once: true });
    this.#expireAfter(call, timeoutMs);
    if (signal?.aborted) this.#abort(call);
    else this.#write(call);
    if (this.#unsent.length > this.#limits.maxWaiting) {
      const description = "Too many requests wait";
      this.#fail(call, { code: "too_many_in_flight", description, retryable: true });
    }
    return call.answer.promise;
  }

  /** Send the waiting calls in order. */
  sendWaiting() {
    for (const call of this.#unsent) this.#write(call);
  }

  /**
   * @param {string} traceId
   * @param {ErrorFacts | null} [error]
   * @param {unknown} [result]
   */
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
    for (const call of this.#pending.values()) if (call.isSent && !call.http) this.#failLost(call);
  }

  failAll() {
    for (const call of this.#pending.values()) this.#failLost(call);
  }

  get #unsent() {
    return [...this.#pending.values()].filter((call) => !call.isSent);
  }

  /** @param {Call} call */
  #write(call) {
    let sent;
    try {
      sent = this.#send(...this.#frame(call));
    } catch (error) {
      const description = error instanceof Error ? error.message : String(error);
      this.#fail(call, { code: "invalid_params", description, cause: error });
      return;
    }
    if (!sent) return;
    call.isSent = true;
    if (sent instanceof AbortController) call.http = sent;
    this.#expireAfter(call, call.deadline - performance.now() + GRACE_MS);
  }

  /**
   * Throws if the frame is too large, or a text is not Unicode: the BFF would refuse it.
   *
   * @param {Call} call
   * @returns {[frame: { type: string, payload: object }, text: string]}
   */
  #frame({ type, payload, traceId, deadline }) {
    const timeout_ms = Math.max(1, Math.ceil(deadline - performance.now()));
    const frame = { type, payload: { ...payload, timeout_ms, trace_id: traceId } };
    const text = JSON.stringify(frame);
    if (LONE_SURROGATE.test(text)) {
      throw new TypeError("A text ends within a character");
    }
    const { length } = new TextEncoder().encode(text);
    const { maxFrameBytes } = this.#limits;
    if (length > maxFrameBytes) throw new RangeError(`${length} bytes, more than ${maxFrameBytes}`);
    return [frame, text];
  }

  /** @param {Call} call */
  #abort(call) {
    const cause = call.signal?.reason;
    this.#fail(call, { code: "cancelled", description: "Cancelled", cause });
    const cancel = { type: "cancel", payload: { trace_id: call.traceId } };
    if (call.isSent && !call.http) this.#send(cancel, JSON.stringify(cancel));
  }

  /**
   * @param {Call} call
   * @param {number} ms
   */
  #expireAfter(call, ms) {
    this.#timers.start(call.traceId, ms, () => {
      const description = "No reply in time";
      this.#fail(call, { code: "timeout", description, retryable: !call.isSent });
    });
  }

  /** @param {Call} call */
  #failLost(call) {
    this.#fail(call, { code: "connection_lost", description: "The connection was lost" });
  }

  /**
   * @param {Call} call
   * @param {ErrorFacts} facts
   */
  #fail(call, facts) {
    this.#remove(call);
    const { traceId, isSent } = call;
    const outcome = isSent ? "unknown" : "not_sent";
    call.answer.reject(new BffError({ ...facts, outcome, traceId }));
  }

  /** @param {Call} call */
  #remove(call) {
    this.#pending.delete(call.traceId);
    this.#timers.stop(call.traceId);
    call.http?.abort();
    call.signal?.removeEventListener("abort", call.onAbort);
  }
}
