/** Reads `/asyncapi.json`: methods, topics, events, and the words for codes. */

const OUTCOMES = {
  not_sent: "The work was not started; a retry does not help.",
  done: "The work was started and ended with this error.",
  unknown: "The work may have been done, or may still be running: a retry could do it twice.",
};

export class Contract {
  #document;

  /** `document` is null if the server has none. */
  constructor(document) {
    this.#document = document ?? { operations: {}, channels: {}, components: { schemas: {}, messages: {} } };
    const channel = this.#document.channels.socket ?? {};
    this.closeCodes = new Map((channel["x-close-codes"] ?? []).map((one) => [one.code, one]));
    const operations = Object.values(this.#document.operations);
    const named = (key) => operations.filter((operation) => key in operation);
    this.methods = named("x-method").map((operation) => ({
      ...operation["x-method"],
      title: `${operation["x-method"].service}.${operation["x-method"].method}`,
      about: this.#about(operation),
      params: this.#payload(operation).params ?? { type: "object" },
      result: this.#payload(operation.reply).result,
    }));
    this.topics = named("x-topic").map((operation) => this.#sent(operation, "x-topic"));
    this.events = named("x-event").map((operation) => this.#sent(operation, "x-event"));
  }

  /** The schema that a chain of references leads to. */
  resolve(schema) {
    let found = schema ?? {};
    while (found.$ref) found = this.#document.components.schemas[found.$ref.split("/").at(-1)] ?? {};
    return found;
  }

  /** A close code in words. */
  close(code, reason) {
    const known = this.closeCodes.get(code);
    const words = known ? `${code} ${known.name}: ${known.description}` : `${code}`;
    return reason && !words.includes(reason) ? `${words} (${reason})` : words;
  }

  #sent(operation, key) {
    return {
      name: operation[key],
      about: this.#about(operation),
      stored: operation["x-stored"],
      payload: this.#payload(operation).event,
    };
  }

  #about(operation) {
    const scopes = operation["x-scopes"] ?? [];
    const needs = scopes.length ? `Needs the scope ${scopes.join(", ")}.` : "";
    return [operation.description, needs].filter(Boolean).join("\n");
  }

  #payload(operation) {
    const name = operation?.messages[0].$ref.split("/").at(-1);
    const frame = this.#document.components.messages[name]?.payload;
    return frame?.properties.payload.properties ?? {};
  }
}

export async function loadContract() {
  const response = await fetch("./asyncapi.json");
  return new Contract(response.ok ? await response.json() : null);
}

/** An error in words: what happened, whether the work was done, and what to do. */
export function errorInWords({ code, description, outcome, retryable, retryAfterMs, message }) {
  if (!code) return message;
  const wait = retryAfterMs ? `, after ${retryAfterMs / 1000} s` : "";
  const work = retryable ? `The work was not started; a retry is safe${wait}.` : OUTCOMES[outcome];
  const text = /[.!?]$/.test(description) ? description : `${description}.`;
  return `${text} ${work ?? ""}`;
}
