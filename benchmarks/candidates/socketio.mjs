// Node's socket.io with its Redis adapter. Usage: socketio.mjs <port> <redis url>

import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { drive } from "./drive.mjs";

const publisher = createClient({ url: process.argv[3] });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const answer = drive({
  toAll: (text) => io.emit("bench", text),
  toUser: (user, text) => io.to(user).emit("bench", text),
});
const server = createServer(answer);
const io = new Server(server, {
  transports: ["websocket"],
  adapter: createAdapter(publisher, subscriber),
});
io.on("connection", (socket) => socket.join(socket.handshake.query.user));
server.listen(Number(process.argv[2]), "127.0.0.1", 2048);
