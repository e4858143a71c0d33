/** Node's `EventSource` on `ADDRESS`, as a page of the same origin has it: says what it meets. */

const dispatcher = Symbol.for("undici.globalDispatcher.1");
await fetch("data:,");
globalThis[dispatcher] = globalThis[dispatcher].compose((dispatch) => (options, handler) => {
  const headers = { Cookie: process.env.COOKIE, "Sec-Fetch-Site": "same-origin" };
  return dispatch({ ...options, headers: { ...options.headers, ...headers } }, handler);
});

const source = new EventSource(process.env.ADDRESS);
source.onopen = () => say({ met: "open" });
source.onmessage = ({ data, lastEventId }) => say({ met: "message", data, id: lastEventId });
source.onerror = () => say({ met: source.readyState === EventSource.CLOSED ? "closed" : "error" });

function say(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}

// Node does not wait for the pause before `EventSource` comes back.
setInterval(() => {}, 60_000);
