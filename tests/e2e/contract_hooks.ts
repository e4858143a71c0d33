// Each line with an error ends with `// error`; tsc must report exactly these.
import { ref } from "vue";
import { BffClient } from "./bff-client.js";
import type { Contract, Order } from "./contract.js";
import * as react from "./react.js";
import * as vue from "./vue.js";

declare module "./bff-client.js" {
  interface Register {
    contract: Contract;
  }
}

const bff = new BffClient<Contract>();

function right(): void {
  react.BffProvider({ client: bff });
  const { data, error } = react.useRequest("orders", "list");
  const orders: Order[] | undefined = data;
  react.useRequest("orders", "place", { item: "tea" }, { enabled: false, timeoutMs: 5 }).reload();
  react.useEvent("order.updated", (order) => order.orderId.toFixed());
  react.useEvent("*", (event: unknown, { topic }) => [event, topic]);
  const text: string | undefined = react.useTopic("rooms.kitchen")?.text;
  react.useTopic(null);
  react.useBff().follow("prices.tea.green", (price) => price.toFixed());
  const status: string = react.useConnection().state;
  vue.bffPlugin(bff);
  const placed: Order | undefined = vue.useRequest("orders", "place", ref({ item: "tea" })).data.value;
  const price: number | undefined = vue.useTopic(() => "prices.tea.green" as const).value;
  vue.useEvent("typing", (typed) => typed.toUpperCase());
  void [orders, error?.code, text, status, placed, price];
}

function wrong(): void {
  react.useRequest("order", "list"); // error
  react.useRequest("orders", "place"); // error
  react.useRequest("orders", "place", { itme: "tea" }); // error
  react.useRequest("orders", "list", {}, { timeout: 5 }); // error
  react.useEvent("order.update", () => {}); // error
  react.useEvent("order.updated", (order) => order.number); // error
  react.useTopic("order.updated"); // error
  react.useTopic("rooms.kitchen")?.txt; // error
  react.useBff().follow("price.tea", () => {}); // error
  vue.useRequest("orders", "plaec", { item: "tea" }); // error
  vue.useTopic("price.tea"); // error
  vue.useTopic("prices.tea.green").value?.length; // error
  vue.useEvent("typing", (typed: number) => typed); // error
}

void [right, wrong];
