/** The list of what has happened, newest first. */

const LINES = 200;
const list = document.querySelector("#log ol");

document.getElementById("clear").addEventListener("click", () => list.replaceChildren());

function line(kind, title, content) {
  const item = document.createElement("li");
  item.className = kind;
  const time = Object.assign(document.createElement("time"), { textContent: new Date().toTimeString().slice(0, 8) });
  item.append(time, Object.assign(document.createElement("b"), { textContent: title }), content);
  list.prepend(item);
  while (list.children.length > LINES) list.lastChild.remove();
}

/** Add a line with a value as JSON. */
export function note(kind, title, value) {
  const json = JSON.stringify(value) ?? "";
  const textContent = json.length > 80 ? JSON.stringify(value, null, 1) : json;
  line(kind, title, Object.assign(document.createElement("pre"), { textContent }));
}

/** Add a line in words. */
export function say(kind, title, text) {
  line(kind, title, Object.assign(document.createElement("p"), { textContent: text }));
}
