// How a Node candidate sends: the same loops as in drive.py.

const MARK = "!";
const now = () => Number(process.hrtime.bigint());
const turn = () => new Promise((resolve) => setImmediate(resolve));

export function drive({ toAll, toUser }) {
  const commands = {
    ready: () => ({}),
    settle: () => {
      globalThis.gc?.();
      return {};
    },
    once: (text) => {
      const started = now();
      toAll(text);
      return { started, sent: 1 };
    },
    repeat: (text, options) => commands.burst(text, { ...options, size: 1 }),
    burst: async (text, { seconds, size }) => {
      const started = now();
      const until = started + seconds * 1e9;
      let sent = 0;
      while (now() < until) {
        for (let i = 0; i < size; i++) toAll(text);
        sent += size;
        await turn();
      }
      return { started, sent };
    },
    users: async (text, { seconds, users, in_flight }) => {
      const started = now();
      const until = started + seconds * 1e9;
      let sent = 0;
      while (now() < until) {
        for (let i = 0; i < in_flight; i++) toUser(`user-${sent++ % users}`, text);
        await turn();
      }
      return { started, sent };
    },
  };

  return async (request, response) => {
    const url = new URL(request.url, "http://127.0.0.1");
    const options = Object.fromEntries(
      [...url.searchParams].map(([name, value]) => [name, Number(value)]),
    );
    const text = "x".repeat(options.pad ?? 0) + MARK;
    const command = commands[url.pathname.replace("/bench/", "")];
    if (!command) return response.writeHead(404).end();
    const body = JSON.stringify(await command(text, options));
    response.writeHead(200, { "Content-Length": Buffer.byteLength(body) }).end(body);
  };
}
