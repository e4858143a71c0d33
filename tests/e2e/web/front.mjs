/** What stands before the BFF in the tests of browsers: static files, and a proxy that misbehaves. */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import { extname, join } from "node:path";

const HOST = "127.0.0.1";
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css" };
const START_MS = 60_000;

/** A BFF in a process of its own, with embedded Redis and mesh. */
export class Bff {
  constructor(command, port) {
    [this.command, this.port] = [command, port];
  }

  async start() {
    const [program, ...given] = this.command;
    const stdio = ["ignore", "ignore", "inherit"];
    this.process = spawn(program, [...given, "--port", String(this.port)], { stdio });
    const deadline = Date.now() + START_MS;
    while (!(await this.isReady())) {
      if (this.process.exitCode !== null) throw new Error("the BFF did not start");
      if (Date.now() > deadline) throw new Error("the BFF did not start in time");
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async isReady() {
    try {
      return (await fetch(`http://${HOST}:${this.port}/health/ready`)).ok;
    } catch {
      return false;
    }
  }

  async post(path, body, headers = {}) {
    const response = await fetch(`http://${HOST}:${this.port}${path}`, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers },
      body: JSON.stringify(body),
    });
    if (!response.ok) throw new Error(`${path}: HTTP status ${response.status}`);
    return response.json();
  }

  async developmentToken(user) {
    return (await this.post("/dev/token", { user, scopes: ["orders"] })).token;
  }

  /** Place an order of a user, without a page. */
  async placeOrder(user, item) {
    const headers = { Authorization: `Bearer ${await this.developmentToken(user)}` };
    await this.post("/rpc/orders/place", { item, quantity: 1 }, headers);
  }

  async kill() {
    this.process.kill("SIGKILL");
    if (this.process.exitCode === null) await once(this.process, "exit");
  }
}

/**
 * `mode`: "open", "no upgrade" (a proxy that knows no WebSockets), or "down" (no connections). The
 * next request for the path `lost` gets no answer: its connection is broken.
 */
export class Front {
  mode = "open";
  lost = "";
  requests = [];
  #tunnels = new Set();
  #sockets = new Set();

  constructor(folder, bffPort) {
    [this.folder, this.bffPort] = [folder, bffPort];
    this.server = http.createServer((request, response) => this.#serve(request, response));
    this.server.on("upgrade", (request, socket, head) => this.#upgrade(request, socket, head));
    this.server.on("connection", (socket) => {
      if (this.mode === "down") {
        socket.destroy();
        return;
      }
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
      socket.on("error", () => {});
    });
  }

  async listen(port) {
    this.server.listen(port, HOST);
    await once(this.server, "listening");
    this.url = `http://localhost:${port}/`;
  }

  close() {
    this.server.close();
    this.cut();
  }

  /** Break every connection. */
  cut() {
    for (const socket of [...this.#sockets, ...this.#tunnels]) socket.destroy();
  }

  /** What is open stays open, and nothing passes any more, in neither direction. */
  silence() {
    for (const socket of this.#tunnels) {
      socket.unpipe();
      socket.pause();
    }
  }

  count(path) {
    return this.requests.filter((each) => each === path).length;
  }

  async #serve(request, response) {
    const { pathname } = new URL(request.url, this.url);
    this.requests.push(pathname);
    if (pathname === this.lost) {
      this.lost = "";
      response.destroy();
      return;
    }
    const file = pathname === "/" ? "/index.html" : pathname;
    if (extname(file) in TYPES && !file.startsWith("/bff-client/")) {
      const text = await readFile(join(this.folder, file)).catch(() => null);
      response.writeHead(text === null ? 404 : 200, { "Content-Type": TYPES[extname(file)] });
      response.end(text);
      return;
    }
    const { method, url: path, headers } = request;
    const to = { host: HOST, port: this.bffPort, method, path, headers };
    const onward = http.request(to, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
      answer.on("error", () => response.destroy());
    });
    onward.on("error", () => response.destroy());
    response.on("close", () => onward.destroy());
    request.pipe(onward);
  }

  #upgrade(request, socket, head) {
    this.requests.push("upgrade");
    if (this.mode === "no upgrade") {
      socket.end("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
      return;
    }
    const onward = net.connect(this.bffPort, HOST);
    const { rawHeaders, method, url } = request;
    const lines = rawHeaders.flatMap((name, at) => (at % 2 ? [] : [`${name}: ${rawHeaders[at + 1]}`]));
    onward.write(`${method} ${url} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`);
    onward.write(head);
    for (const [one, other] of [[socket, onward], [onward, socket]]) {
      this.#tunnels.add(one);
      one.on("error", () => {});
      one.on("close", () => {
        this.#tunnels.delete(one);
        other.destroy();
      });
      one.pipe(other);
    }
  }
}
