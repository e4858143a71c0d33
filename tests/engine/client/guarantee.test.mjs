/**
 * The delivery guarantee, with a simulated BFF that publishes, forgets, repeats, loses and closes at
 * random: each message is delivered once and in order, or a gap is reported in its place.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { makeClient, pass, settle, socket, useFakeTime } from "./fake.mjs";

const SEEDS = 150;
const STEPS = 80;
const KEPT = 4;
const TOPIC = "topic:a";
const STREAMS = ["user", "all", TOPIC];

useFakeTime();

/** Streams that keep a few messages, and the frames that are on their way to the one socket. */
class Bff {
  tips = Object.fromEntries(STREAMS.map((stream) => [stream, { epoch: 1, offset: 0 }]));
  onTheWay = [];
  live = new Set();

  constructor(client, random) {
    this.client = client;
    this.random = random;
  }

  idAt(stream, { epoch, offset }) {
    return `${stream}/${epoch}/${offset}`;
  }

  tip(stream) {
    return this.idAt(stream, this.tips[stream]);
  }

  publish(stream) {
    this.tips[stream].offset += 1;
    if (this.live.has(stream)) this.#push(stream, this.tips[stream]);
  }

  /** Redis was started anew. Live sockets should be told, and may be not. */
  lose(stream, isTold) {
    this.tips[stream] = { epoch: this.tips[stream].epoch + 1, offset: 0 };
    if (isTold && this.live.has(stream)) this.#pushGap(stream);
  }

  /** What is on its way of a stream is lost for good, and the client is told. */
  skip(stream) {
    if (!this.live.has(stream)) return;
    this.onTheWay = this.onTheWay.filter(({ payload }) => !payload.id?.startsWith(stream));
    this.#pushGap(stream);
  }

  hangUp() {
    this.onTheWay = [];
    this.live.clear();
    socket().breakWith(1006);
  }

  greet() {
    const since = socket().url.searchParams.get("since")?.split(",") ?? [];
    const flows = ["user", "all"].map((stream) => [stream, since.find((id) => id.startsWith(stream))]);
    const { positions, recovered, missed } = this.#begin(flows);
    socket().greet({ positions, recovered, ping_interval: 0 });
    this.onTheWay.push(...missed);
    this.#answer();
  }

  deliver(count) {
    for (const { type, payload } of this.onTheWay.splice(0, count)) {
      socket().receive(type, payload);
      if (payload.id) this.#assertTaken(payload.id);
    }
    this.#answer();
  }

  #assertTaken(id) {
    const [stream, epoch, offset] = parse(id);
    const [, epochNow, offsetNow] = parse(this.client.positions[stream]);
    const isTaken = epochNow > epoch || (epochNow === epoch && offsetNow >= offset);
    assert.ok(isTaken, `${id} is passed over`);
  }

  #answer() {
    for (const frame of socket().sent.splice(0)) {
      assert.equal(frame.type, "subscribe");
      const { positions, recovered, missed } = this.#begin([[TOPIC, frame.payload.topics[0].since]]);
      const payload = { trace_id: frame.payload.trace_id, result: { positions, recovered } };
      this.onTheWay.push({ type: "response", payload }, ...missed);
    }
  }

  #begin(flows) {
    const [positions, recovered, missed] = [{}, {}, []];
    for (const [stream, since] of flows) {
      const tip = this.tips[stream];
      this.live.add(stream);
      positions[stream] = this.tip(stream);
      if (!since) continue;
      const [, epoch, offset] = parse(since);
      recovered[stream] = epoch === tip.epoch && tip.offset - offset <= KEPT;
      for (let next = offset + this.random(2); recovered[stream] && next <= tip.offset; next += 1) {
        missed.push(this.#event(stream, { epoch, offset: next }));
      }
    }
    return { positions, recovered, missed };
  }

  #event(stream, at) {
    return { type: "event", payload: { topic: "t", event: null, id: this.idAt(stream, at) } };
  }

  #push(stream, at) {
    this.onTheWay.push(this.#event(stream, { ...at }));
  }

  #pushGap(stream) {
    this.onTheWay.push({ type: "gap", payload: { streams: { [stream]: this.tip(stream) } } });
  }
}

function parse(id) {
  const [stream, epoch, offset] = id.split("/");
  return [stream, Number(epoch), Number(offset)];
}

/** Numbers that are the same for the same seed (mulberry32). */
function chance(seed) {
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** Everything that the page is told, against everything that it must be told. */
class Page {
  #reached = {};
  #gaps = new Set();
  #seen = new Set();

  begins(positions) {
    this.#reached = { ...positions, ...this.#reached };
  }

  gap(streams) {
    for (const stream of Object.keys(streams)) this.#gaps.add(stream);
  }

  event(id) {
    const [stream, epoch, offset] = parse(id);
    assert.ok(!this.#seen.has(id), `${id} is told twice`);
    const before = this.#reached[stream] ?? `${stream}/${epoch}/${offset - 1}`;
    const follows = `${stream}/${epoch}/${offset - 1}` === before;
    assert.ok(follows || this.#gaps.delete(stream), `${id} follows ${before} without a gap`);
    this.#seen.add(id);
    this.#gaps.delete(stream);
    this.#reached[stream] = id;
  }

  ends(stream, tip) {
    const isTold = this.#reached[stream] === tip || this.#gaps.has(stream);
    assert.ok(isTold, `${tip} is not told, nor a gap after ${this.#reached[stream]}`);
  }
}

async function run(seed) {
  const random = chance(seed);
  const one = (list) => list[random(list.length)];
  const { bff: client } = makeClient();
  const bff = new Bff(client, random);
  const page = new Page();
  client.onState(({ state, session }) => state === "open" && page.begins(session.positions));
  client.onGap((streams) => page.gap(streams));
  const failures = [];
  client.on("t", (event, { id }) => {
    try {
      page.event(id);
    } catch (error) {
      failures.push(error);
    }
  });
  const comeBack = async () => {
    await pass(30_000);
    bff.greet();
    await settle();
  };
  client.connect();
  client.subscribe("a");
  await settle();
  bff.greet();
  for (let step = 0; step < STEPS; step += 1) {
    const what = random(20);
    if (what < 8) bff.publish(one(STREAMS));
    else if (what < 13) bff.deliver(1 + random(3));
    else if (what === 13) bff.lose(one(STREAMS), random(2) === 0);
    else if (what === 14) bff.skip(one(STREAMS));
    else if (what === 15) loseOne(bff.onTheWay, random);
    else if (what === 16) repeatOne(bff.onTheWay, random);
    else if (what > 17) await hangUp(bff, one, random, comeBack);
    await settle();
  }
  bff.deliver(Infinity);
  bff.hangUp();
  await comeBack();
  bff.deliver(Infinity);
  bff.deliver(Infinity);
  client.close();
  if (failures.length > 0) throw failures[0];
  for (const stream of STREAMS) {
    assert.equal(client.positions[stream], bff.tip(stream));
    page.ends(stream, bff.tip(stream));
  }
}

function loseOne(frames, random) {
  const at = random(frames.length + 1);
  if (frames[at]?.type === "event") frames.splice(at, 1);
}

function repeatOne(frames, random) {
  const at = random(frames.length + 1);
  if (frames[at]?.type === "event") frames.splice(at, 0, frames[at]);
}

async function hangUp(bff, one, random, comeBack) {
  bff.hangUp();
  for (let left = random(2 * KEPT); left > 0; left -= 1) bff.publish(one(STREAMS));
  await comeBack();
}

test(`holds for ${SEEDS} seeds`, async () => {
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    try {
      await run(seed);
    } catch (error) {
      error.message = `seed ${seed}: ${error.message}`;
      throw error;
    }
  }
});
