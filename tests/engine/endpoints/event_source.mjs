/** Node's `EventSource` on `ADDRESS`, as in a page of the same origin. Prints its events. */

const dispatcher = Symbol.for("undici.globalDispatcher.1");
await fetch("data:,");
globalThis[dispatcher] = globalThis[dispatcher].compose((dispatch) => (options, handler) => {
  const headers = { Cookie: process.env.COOKIE, "Sec-Fetch-Site": "same-origin" };
  return dispatch({ ...options, headers: { ...options.headers, ...headers } }, handler);
});

const source = new EventSource(process.env.ADDRESS);
source.onopen = () => print({ kind: "open" });
source.onmessage = ({ data, lastEventId }) => print({ kind: "message", data, id: lastEventId });
source.onerror = () => print({ kind: source.readyState === EventSource.CLOSED ? "closed" : "error" });

function print(event) {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

// Keep Node running while `EventSource` waits for its reconnect.
setInterval(() => {}, 60_000);
