/** The recipe for TanStack Query under Node, with a BFF behind a proxy. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, test } from "node:test";

import { QueryObserver } from "@tanstack/react-query";
import { BffClient } from "bff-client";

import { Bff, Front } from "./front.mjs";
import { createQueryClient, ordersQuery } from "./tanstack-query.js";

const { BFF_COMMAND, BFF_PORT, FRONT_PORT, KEPT } = process.env;
const PATIENCE_MS = 30_000;
const bff = new Bff(JSON.parse(BFF_COMMAND), Number(BFF_PORT));
const front = new Front(".", Number(BFF_PORT));

before(async () => {
  await bff.start();
  await front.listen(Number(FRONT_PORT));
});

after(async () => {
  front.close();
  await bff.kill();
});

test("an event and a gap each fetch the orders again", async (t) => {
  const token = await bff.developmentToken("ann");
  const place = (item) => bff.placeOrder("ann", item);
  const client = new BffClient({ url: new URL("ws", front.url), getToken: async () => token });
  const events = [];
  const gaps = [];
  client.on("order.updated", ({ item }) => events.push(item));
  client.onGap((streams) => gaps.push(streams));
  const queryClient = createQueryClient(client);
  const changes = new EventTarget();
  const changed = () => changes.dispatchEvent(new Event("change"));
  client.onState(changed);
  const observer = new QueryObserver(queryClient, ordersQuery(client));
  const stop = observer.subscribe(changed);
  t.after(() => {
    stop();
    queryClient.clear();
    client.close();
  });
  const items = () => observer.getCurrentResult().data?.orders.map(({ item }) => item);
  const until = async (isSo) => {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    while (!isSo()) await once(changes, "change", { signal });
  };

  client.connect();
  await until(() => items()?.length === 0);
  await place("tea");
  await until(() => items().includes("tea"));

  front.mode = "down";
  front.cut();
  await until(() => client.state === "waiting");
  const seen = [...events];
  for (let n = 0; n <= Number(KEPT); n += 1) await place(`milk ${n}`);
  assert.deepEqual([events, gaps], [seen, []]);
  // No event may do the work of the gap.
  queryClient.invalidateQueries = new Proxy(queryClient.invalidateQueries, {
    apply: (target, self, given) => given[0]?.queryKey || Reflect.apply(target, self, given),
  });
  front.mode = "open";
  await until(() => items().length === Number(KEPT) + 2);
  assert.equal(gaps.length, 1);
});
