// Node's ws: the broadcast of its README.

import { createServer } from "node:http";
import { WebSocket, WebSocketServer } from "ws";
import { drive } from "./drive.mjs";

const server = createServer();
const wss = new WebSocketServer({ server, perMessageDeflate: false });
wss.on("connection", (socket) => socket.on("error", () => {}));

server.on(
  "request",
  drive({
    toAll(text) {
      const data = Buffer.from(text);
      wss.clients.forEach((client) => {
        if (client.readyState === WebSocket.OPEN) client.send(data, { binary: false });
      });
    },
  }),
);
server.listen(Number(process.argv[2]), "127.0.0.1", 2048);
