/** The development page: a client, and forms that are built from the contract. */

import { BffClient } from "../bff-client/bff-client.js";
import { Contract, errorInWords, loadContract } from "./contract.js";
import { exampleOf, schemaForm, typeText } from "./forms.js";
import { note, say } from "./log.js";

const AWAY_MS = 10_000;
const ANY = "any other";
let contract = new Contract(null); // until it is loaded
let bff = null;
let countdown = 0;

const byId = (id) => document.getElementById(id);

// HTTP

async function http(method, path, body, token) {
  const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const text = await response.text();
  if (response.ok) return text ? JSON.parse(text) : null;
  if (!response.headers.get("content-type")?.includes("json")) {
    throw new Error(`${method} ${path}: ${response.status} ${text}`);
  }
  const problem = JSON.parse(text);
  throw Object.assign(new Error(problem.detail), { ...problem, description: problem.detail });
}

async function tokenFor(user, scopes) {
  return (await http("POST", "./dev/token", { user, scopes })).token;
}

async function asAdmin(method, path, body) {
  return http(method, path, body, await tokenFor("admin", ["admin"]));
}

function onSubmit(id, work) {
  byId(id).addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await work(Object.fromEntries(new FormData(event.target)));
    } catch (error) {
      say("error", error.code ?? error.name, errorInWords(error));
    }
  });
}

// Connection

onSubmit("connect", ({ user, scopes }) => {
  use(new BffClient({ getToken: () => tokenFor(user, scopes.split(/[\s,]+/).filter(Boolean)) }));
});

/** Connect a client, in place of the one before. */
function use(client) {
  bff?.close();
  bff = client;
  client.onState((change) => bff === client && showState(change));
  client.onGap((streams) => {
    say("gap", "gap", `Messages of ${Object.keys(streams).join(", ")} are lost: a page fetches its data again.`);
    showPositions();
  });
  client.onError((error) => say("error", error.code, errorInWords(error)));
  client.on("*", (event, { topic, id }) => {
    note("event", topic, id ? { event, id } : { event });
    count(topic);
    showPositions();
  });
  client.connect().catch(() => {});
}

function showState({ state, code, reason, delayMs, error, session }) {
  const shown = byId("state");
  shown.className = state;
  shown.textContent = state === "open" ? `open as ${session.user_id}` : state;
  showNext(state === "waiting" ? delayMs : null);
  if (state === "open") note("state", "open", session);
  else if (code === undefined) say("state", state, "");
  else {
    const next = state === "waiting" ? `Next attempt in ${(delayMs / 1000).toFixed(1)} s.` : "No further attempt.";
    const why = error && error.message !== reason ? ` ${error.message}.` : "";
    say("state", state, `${contract.close(code, reason)}${why} ${next}`);
  }
  showPositions();
}

function showNext(delayMs) {
  clearInterval(countdown);
  const at = Date.now() + delayMs;
  const show = () => {
    const seconds = Math.max(0, Math.ceil((at - Date.now()) / 1000));
    byId("next").textContent = `next attempt at ${new Date(at).toTimeString().slice(0, 8)}, in ${seconds} s`;
  };
  byId("next").textContent = "";
  if (delayMs === null) return;
  show();
  countdown = setInterval(show, 250);
}

function showPositions() {
  byId("positions").textContent = Object.values(bff.positions).join("\n");
}

function connected() {
  if (bff === null) throw new Error("Connect first");
  return bff;
}

byId("close").addEventListener("click", () => bff?.close());
byId("leave").addEventListener("click", () => {
  const client = bff;
  client?.close("disconnected for 10 s");
  setTimeout(() => bff === client && client?.connect(), AWAY_MS);
});

// Requests

function fill(select, names) {
  select.replaceChildren(...[...names, ANY].map((name) => new Option(name, name)));
}

const request = byId("request");
let params = schemaForm(contract, { type: "object" });

function chosenMethod() {
  return contract.methods.find((method) => method.title === request.elements.method.value);
}

function showMethod() {
  const method = chosenMethod();
  const isNamed = method && !method.method.includes("*");
  byId("any-method").hidden = isNamed;
  request.elements.service.value = method?.service ?? "";
  request.elements.name.value = method?.method ?? "";
  byId("method-hint").textContent = method?.about ?? "A method that is not declared.";
  params = schemaForm(contract, method?.params ?? { type: "object" });
  byId("params").replaceChildren(params.element);
  byId("result-type").hidden = !method;
  byId("result-type").querySelector("pre").textContent = typeText(contract, method?.result);
}

request.elements.method.addEventListener("change", showMethod);

onSubmit("request", async ({ service, name }) => {
  const began = performance.now();
  const result = await connected().request(service, name, params.value() ?? {});
  note("answer", `${service}.${name} ${Math.round(performance.now() - began)} ms`, result);
});

// Topics and events

const topics = byId("topics");

function showTopic() {
  const topic = contract.topics.find((one) => one.name === topics.elements.declared.value);
  const isPattern = !topic || /[*#]/.test(topic.name);
  byId("any-topic").hidden = !isPattern;
  topics.elements.topic.value = topic?.name ?? "";
  byId("topic-hint").textContent = topic?.about ?? "A topic that is not declared.";
  byId("topic-type").hidden = !topic;
  byId("topic-type").querySelector("pre").textContent = typeText(contract, topic?.payload);
}

topics.elements.declared.addEventListener("change", showTopic);

onSubmit("topics", async ({ topic }) => {
  await connected().subscribe(topic);
  say("answer", "subscribed", topic);
  showPositions();
});

byId("unsubscribe").addEventListener("click", () => {
  bff?.unsubscribe(topics.elements.topic.value);
  say("answer", "unsubscribed", topics.elements.topic.value);
});

const counts = new Map();

function showEvents() {
  for (const { name, about, stored, payload } of contract.events) {
    const details = document.createElement("details");
    const summary = Object.assign(document.createElement("summary"), { textContent: `${name} ` });
    const number = Object.assign(document.createElement("span"), { className: "count" });
    const pre = Object.assign(document.createElement("pre"), { textContent: typeText(contract, payload) });
    const hint = Object.assign(document.createElement("p"), {
      className: "hint",
      textContent: [about, stored ? "" : "Not stored: only connected clients get it."].filter(Boolean).join("\n"),
    });
    summary.append(number);
    details.append(summary, hint, pre);
    byId("events").append(details);
    byId("event-names").append(new Option(name));
    counts.set(name, number);
  }
}

function count(topic) {
  const number = counts.get(topic);
  if (number) number.textContent = Number(number.textContent) + 1;
}

// Administration

const broadcast = byId("broadcast");
broadcast.elements.topic.addEventListener("change", () => {
  const event = contract.events.find(({ name }) => name === broadcast.elements.topic.value);
  if (event) broadcast.elements.event.value = JSON.stringify(exampleOf(contract, event.payload));
});

onSubmit("broadcast", async ({ topic, event, minutes }) => {
  const body = { audience: "all", topic, event: JSON.parse(event) };
  if (minutes) body.expires_at = new Date(Date.now() + minutes * 60_000).toISOString();
  note("answer", "broadcast", await asAdmin("POST", "./admin/broadcasts", body));
});

onSubmit("disconnect", async ({ user }) => {
  const path = `./admin/users/${encodeURIComponent(user)}/connections`;
  note("answer", "disconnect", await asAdmin("DELETE", path));
});

if ("signIn" in document.body.dataset) {
  const signedIn = new BffClient();
  byId("sign-in").addEventListener("click", () => signedIn.login());
  byId("sign-out").addEventListener("click", () => {
    bff?.close();
    signedIn.logout().catch((error) => say("error", error.code ?? error.name, errorInWords(error)));
  });
  signedIn.me().then((me) => {
    if (me === null) return;
    note("state", `signed in as ${me.username}`, me);
    use(signedIn);
  }, (error) => say("error", error.code ?? error.name, errorInWords(error)));
}

contract = await loadContract();
fill(request.elements.method, contract.methods.map((method) => method.title));
fill(topics.elements.declared, contract.topics.map((topic) => topic.name));
showMethod();
showTopic();
showEvents();
