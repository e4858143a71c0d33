/** @import { Deferred } from "./promises.js" */
/** @import { Parts } from "./parts.js" */

import { BffError, isTransient } from "./errors.js";
import { Timers, deferred } from "./promises.js";

const TOPIC = "topic:";
const PAGE = "page";
const MAX_TOPICS_PER_REQUEST = 100;

/** @typedef {Pick<Parts, "calls" | "connection" | "inbox" | "onRefused">} Host */

/** Subscriptions to topics, across reconnects. */
export class Topics {
  #host;
  /** Who wants a topic: each follower, and `PAGE` for what was subscribed by hand. */
  #owners = /** @type {Map<string, Set<unknown>>} */ (new Map());
  /** All of these, each with the promise of its subscription. */
  #wanted = /** @type {Map<string, Deferred<void>>} */ (new Map());
  /** Confirmed on this connection. */
  #subscribed = /** @type {Set<string>} */ (new Set());
  #syncing = false;
  #timers = new Timers();

  /** @param {Host} host */
  constructor(host) {
    this.#host = host;
  }

  /**
   * Fulfilled once subscribed.
   *
   * @param {string} topic
   * @param {unknown} owner
   */
  want(topic, owner = PAGE) {
    const { promise } = this.#want(topic, owner);
    this.sync();
    return promise;
  }

  /**
   * The last owner ends the subscription.
   *
   * @param {string} topic
   * @param {unknown} owner
   */
  release(topic, owner = PAGE) {
    this.#owners.get(topic)?.delete(owner);
    if (this.#isFollowed(topic)) return;
    this.#abandon(topic, new BffError({ code: "cancelled", description: "Unsubscribed" }));
    if (!this.#subscribed.has(topic)) this.#onUnsubscribed(topic);
    this.sync();
  }

  /** @param {string} topic */
  isWanted(topic) {
    return this.#wanted.has(topic);
  }

  /** Those that this connection has subscribed. */
  get subscribed() {
    return this.#subscribed;
  }

  /** The connection is gone, and its subscriptions with it. */
  onDisconnected() {
    this.#timers.stopAll();
    for (const topic of difference(this.#subscribed, this.#wanted)) this.#onUnsubscribed(topic);
    this.#subscribed.clear();
  }

  /**
   * The client closes: topics that were subscribed, or are followed, are kept for the next
   * `connect`.
   *
   * @param {unknown} error
   */
  onClosed(error) {
    this.onDisconnected();
    for (const [topic, pending] of [...this.#wanted]) {
      if (pending.settled) continue;
      this.#abandon(topic, error);
      if (this.#isFollowed(topic)) this.#wanted.set(topic, deferred());
    }
  }

  /**
   * Subscribe and unsubscribe until `#subscribed` equals `#wanted`, one request at a time. A
   * refused topic fails its whole request; then the batch size restarts at one and doubles.
   */
  async sync(failures = 0, batchSize = MAX_TOPICS_PER_REQUEST) {
    if (this.#syncing) return;
    this.#syncing = true;
    while (this.#host.connection.isOpen) {
      for (const topic of this.#subscribed) this.#wanted.get(topic)?.resolve();
      const surplus = difference(this.#subscribed, this.#wanted);
      const missing = difference(this.#wanted.keys(), this.#subscribed);
      const isLeaving = surplus.length > 0;
      const topics = (isLeaving ? surplus : missing).slice(0, batchSize);
      if (topics.length === 0) break;
      try {
        await (isLeaving ? this.#unsubscribe(topics) : this.#subscribe(topics));
        failures = 0;
        batchSize = Math.min(2 * batchSize, MAX_TOPICS_PER_REQUEST);
      } catch (error) {
        batchSize = 1;
        if (topics.length > 1) continue;
        if (!isTransient(error)) {
          this.#onRefused(topics[0], error);
        } else if (this.#host.connection.isOpen) {
          const delayMs = this.#host.connection.backoff(failures);
          this.#timers.start("retry", delayMs, () => this.sync(failures + 1, 1));
          this.#moveToEnd(topics[0]);
          break;
        }
      }
    }
    this.#syncing = false;
  }

  /**
   * An event that the BFF sends when it subscribes the user itself, or ends a subscription. Such a
   * topic is kept, and subscribed again after a reconnect.
   *
   * @param {string} topic
   * @param {any} event
   */
  onServerEvent(topic, event) {
    if (topic === "subscribed") {
      const topics = Object.keys(event?.positions ?? {}).map((stream) => stream.replace(TOPIC, ""));
      for (const each of topics) this.#want(each, PAGE);
      this.#onSubscribed(topics, event?.positions);
    } else if (topic === "unsubscribed") {
      const error = new BffError({ code: "forbidden", description: "Unsubscribed by the BFF" });
      for (const each of [event?.topics ?? []].flat()) {
        this.#abandon(each, error);
        this.#onUnsubscribed(each);
      }
    }
  }

  /**
   * @param {string} topic
   * @param {unknown} owner
   */
  #want(topic, owner) {
    this.#owners.set(topic, (this.#owners.get(topic) ?? new Set()).add(owner));
    const pending = this.#wanted.get(topic) ?? deferred();
    this.#wanted.set(topic, pending);
    return pending;
  }

  /** @param {string} topic */
  #isFollowed(topic) {
    return (this.#owners.get(topic)?.size ?? 0) > 0;
  }

  /** @param {string[]} topics */
  #subscribe(topics) {
    const asked = topics.map((topic) => ({
      topic,
      since: this.#host.inbox.positions.get(TOPIC + topic),
    }));
    return this.#host.calls.start("subscribe", { topics: asked }, {}, ({ positions, recovered }) =>
      this.#onSubscribed(topics, positions, recovered),
    );
  }

  /** @param {string[]} topics */
  #unsubscribe(topics) {
    return this.#host.calls.start("unsubscribe", { topics }, {}, () =>
      topics.forEach((topic) => this.#onUnsubscribed(topic)),
    );
  }

  /**
   * @param {string[]} topics
   * @param {Record<string, string>} [positions]
   * @param {Record<string, boolean>} [recovered]
   */
  #onSubscribed(topics, positions, recovered) {
    for (const topic of topics) {
      this.#subscribed.add(topic);
      this.#wanted.get(topic)?.resolve();
    }
    this.#host.inbox.gap(this.#host.inbox.positions.startAt(positions, recovered));
  }

  /** @param {string} topic */
  #onUnsubscribed(topic) {
    this.#subscribed.delete(topic);
    this.#host.inbox.positions.forget(TOPIC + topic);
  }

  /** @param {string} topic */
  #moveToEnd(topic) {
    const pending = this.#wanted.get(topic);
    this.#wanted.delete(topic);
    if (pending) this.#wanted.set(topic, pending);
  }

  /**
   * @param {string} topic
   * @param {unknown} error
   */
  #abandon(topic, error) {
    this.#wanted.get(topic)?.reject(error);
    this.#wanted.delete(topic);
    this.#owners.get(topic)?.delete(PAGE);
    if (!this.#isFollowed(topic)) this.#owners.delete(topic);
  }

  /**
   * @param {string} topic
   * @param {unknown} error
   */
  #onRefused(topic, error) {
    const wasSubscribed = this.#wanted.get(topic)?.settled;
    this.#abandon(topic, error);
    this.#onUnsubscribed(topic);
    if (wasSubscribed || this.#isFollowed(topic)) this.#host.onRefused(topic, error);
  }
}

/**
 * @param {Iterable<string>} all
 * @param {{ has(name: string): boolean }} some
 */
function difference(all, some) {
  return [...all].filter((each) => !some.has(each));
}
