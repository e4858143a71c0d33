import { closeText } from "bff-client";
import { useBff, useConnection, useEvent, useRequest, useTopic } from "bff-client/react";
import { useEffect, useState } from "react";

interface Order {
  order_id: string;
  item: string;
  quantity: number;
  status: string;
}

export function App() {
  const [isShown, setShown] = useState(true);
  return (
    <main>
      <Connection />
      <h1>Orders</h1>
      <Latest id="header" />
      <button type="button" id="toggle" onClick={() => setShown(!isShown)}>
        {isShown ? "Hide" : "Show"} the second ticker
      </button>
      {isShown && <Latest id="footer" />}
      <PlaceOrder />
      <OrderList />
    </main>
  );
}

/** What the user should know about the connection. */
function Connection() {
  const status = useConnection();
  const bff = useBff();
  const why = "code" in status ? closeText(status.code) : "";
  return (
    <p id="connection" data-state={status.state} data-code={"code" in status ? status.code : ""}>
      {status.state} {"transport" in status && <b id="transport">{status.transport}</b>} {why}{" "}
      {status.state === "closed" && (
        <button type="button" onClick={() => bff.connect()}>
          Connect
        </button>
      )}
    </p>
  );
}

/** The latest order of anyone: a topic, followed as long as a ticker is shown. */
function Latest({ id }: { id: string }) {
  const latest = useTopic<{ item: string; status: string }>("orders.latest");
  return <p id={id}>{latest ? `${latest.item}: ${latest.status}` : "nothing yet"}</p>;
}

function PlaceOrder() {
  const bff = useBff();
  const [item, setItem] = useState("tea");
  const [error, setError] = useState("");
  const place = async () => {
    try {
      await bff.request("orders", "place", { item, quantity: 1 });
      setError("");
    } catch (problem) {
      setError(String(problem));
    }
  };
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        void place();
      }}
    >
      <input id="item" value={item} onChange={(event) => setItem(event.target.value)} />
      <button type="submit" id="place">
        Place an order
      </button>{" "}
      <span id="error">{error}</span>
    </form>
  );
}

/** The user's orders: fetched, then kept current by events. After a gap they are fetched again. */
function OrderList() {
  const bff = useBff();
  const { data, error, reload } = useRequest<{ orders: Order[] }>("orders", "list");
  const [updates, setUpdates] = useState<Record<string, Order>>({});
  useEffect(() => bff.onGap(() => setUpdates({})), [bff]);
  useEvent<Order>("order.updated", (order) => {
    setUpdates((before) => ({ ...before, [order.order_id]: order }));
    if (!data?.orders.some(({ order_id }) => order_id === order.order_id)) reload();
  });
  if (error) return <p id="orders-error">{error.description}</p>;
  const pay = (order_id: string) =>
    bff.command("orders", "update", { order_id, status: "paid" }).catch(console.warn);
  return (
    <ul id="orders">
      {data?.orders.map((order) => (
        <li key={order.order_id}>
          {order.quantity} {order.item}: {(updates[order.order_id] ?? order).status}{" "}
          <button type="button" onClick={() => pay(order.order_id)}>
            Pay
          </button>
        </li>
      ))}
    </ul>
  );
}
