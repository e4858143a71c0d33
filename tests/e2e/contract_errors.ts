// Each line with an error ends with `// error`; tsc must report exactly these.
import { BffClient } from "./bff-client.js";
import type { Params, Payload, Result } from "./bff-client.js";
import type { Contract, Order, Place } from "./contract.js";

const bff = new BffClient<Contract>({ url: "/ws" });

async function right(): Promise<void> {
  const order: Order = await bff.request("orders", "place", { item: "tea", quantity: 2 });
  const orders: Order[] = await bff.request("orders", "list");
  await bff.request("orders", "list", {}, { timeoutMs: 5 });
  const found: Order = await bff.request("orders", "get_all", { newsletter: true });
  const nothing: null = await bff.request("chat", "now");
  const unknown: unknown = await bff.request("old", "call", { any: 1 });
  await bff.command("orders", "place", { item: "tea" });
  bff.on("order.updated", (event, meta) => [event.orderId.toFixed(), event.status, meta.id]);
  bff.on("typing", (text) => text.toUpperCase());
  bff.on("rooms.kitchen", (message) => message.text.length);
  bff.on("unsubscribed", (event) => event.topics.length);
  bff.on("*", (event: unknown, { topic }) => topic);
  bff.follow("prices.tea.green", (price) => price.toFixed(2)).off();
  await bff.subscribe("rooms.kitchen");
  bff.unsubscribe("secret");
  const params: Params<Contract, "orders", "place"> = {} as Place;
  const result: Result<Contract, "orders", "place"> = order;
  const payload: Payload<Contract, "rooms.kitchen"> = { by: "a", text: "b" };
  void [orders, found, nothing, unknown, params, result, payload];
}

async function wrong(): Promise<void> {
  await bff.request("order", "list"); // error
  await bff.request("orders", "plaec", { item: "tea" }); // error
  await bff.request("orders", "place"); // error
  await bff.request("orders", "place", {}); // error
  await bff.request("orders", "place", { item: 7 }); // error
  await bff.request("orders", "place", { item: "tea", quantitiy: 2 }); // error
  await bff.request("orders", "list", { page: 2 }); // error
  await bff.request("orders", "place", { item: "tea" }, { timeout: 5 }); // error
  const text: string = await bff.request("orders", "place", { item: "tea" }); // error
  (await bff.request("orders", "place", { item: "tea" })).order_id; // error
  await bff.command("orders", "place", { itme: "tea" }); // error
  bff.on("order.update", () => {}); // error
  bff.on("order.updated", (event) => event.number); // error
  bff.on("typing", (event: number) => event); // error
  bff.on("rooms.kitchen", (message) => message.txt); // error
  bff.follow("price.tea", () => {}); // error
  bff.follow("prices.tea", (price) => price.length); // error
  await bff.subscribe("order.updated"); // error
  bff.unsubscribe("secrets"); // error
  void text;
}

// Without a contract everything is as general as the protocol.
class Traced extends BffClient {
  tag = "";
}

async function untyped(): Promise<void> {
  const plain = new BffClient();
  const order = await plain.request<Order>("any", "thing", { anything: 1 });
  const result: unknown = await plain.request("any", "thing");
  plain.on<{ n: number }>("any.event", (event) => event.n);
  plain.on("any.event", (event: unknown) => event);
  plain.on("*", (event, { topic, id }) => [event, topic, id]);
  plain.follow<string>("any.topic", (event) => event.length).off();
  await plain.subscribe("any.topic");
  plain.unsubscribe("any.topic");
  await plain.command("any", "thing", {});
  const traced: BffClient = new Traced();
  plain.on("any.event", (event) => event.n); // error
  void [order.orderId, result, traced];
}

void [right, wrong, untyped];
