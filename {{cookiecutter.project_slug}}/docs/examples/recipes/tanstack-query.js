import { QueryClient } from "@tanstack/react-query";

/** The cache is current as long as no message was lost, so nothing in it gets old by itself. */
export function createQueryClient(bff) {
  const retry = (count, error) => error.retryable === true && count < 3;
  const queries = { staleTime: Infinity, retry };
  const queryClient = new QueryClient({ defaultOptions: { queries } });
  bff.onGap(() => queryClient.invalidateQueries());
  bff.on("order.updated", () => queryClient.invalidateQueries({ queryKey: ["orders"] }));
  return queryClient;
}

/** In a component: `useQuery(ordersQuery(bff))`. */
export const ordersQuery = (bff) => ({
  queryKey: ["orders"],
  queryFn: ({ signal }) => bff.request("orders", "list", {}, { signal }),
});
