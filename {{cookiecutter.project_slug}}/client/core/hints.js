/** Loaded in development only. */

/** @import { Parts } from "./parts.js" */

const DELAY_MS = 1_000;
const watched = new WeakSet();

/**
 * Name in the console the listeners that get no events, because their topic is not subscribed.
 *
 * @param {Parts} parts
 * @param {readonly string[]} patterns of the topics that the BFF has
 */
export function watchListeners({ listeners, topics }, patterns) {
  if (watched.has(listeners)) return;
  watched.add(listeners);
  const said = new Set();
  const check = () => {
    for (const name of listeners.names) {
      if (typeof name !== "string" || said.has(name) || topics.isWanted(name)) continue;
      if (!patterns.some((each) => matches(each.split("."), name.split(".")))) continue;
      said.add(name);
      console.warn(
        `bff-client: on("${name}") gets no events. It is a topic: use follow("${name}", listener)`,
      );
    }
  };
  const add = listeners.add.bind(listeners);
  listeners.add = (name, listener) => {
    setTimeout(check, DELAY_MS);
    return add(name, listener);
  };
  setTimeout(check, DELAY_MS);
}

/**
 * As the BFF compares them: `*` is one word, `#` any number of words, also none.
 *
 * @param {string[]} pattern
 * @param {string[]} words
 * @returns {boolean}
 */
function matches([first, ...rest], words) {
  if (first === undefined) return words.length === 0;
  if (first === "#") return [...words, ""].some((_, n) => matches(rest, words.slice(n)));
  return (first === "*" ? words.length > 0 : first === words[0]) && matches(rest, words.slice(1));
}
