"use client";

import { useConnection, useRequest } from "bff-client/react";

export function Orders() {
  const status = useConnection();
  const { data } = useRequest<{ orders: { item: string }[] }>("orders", "list");
  return (
    <>
      <p id="state">{status.state}</p>
      <p id="transport">{"transport" in status ? status.transport : ""}</p>
      <p id="orders">{data ? `${data.orders.length} orders` : "loading"}</p>
    </>
  );
}
