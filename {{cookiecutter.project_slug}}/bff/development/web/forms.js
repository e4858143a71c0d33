/** Builds forms from JSON schemas, and says in words what a schema accepts. */

const TEXT_TYPES = { date: "date", email: "email", uri: "url" };

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A form for a schema: `element` to show, `value()` to read. Throws if a field is not JSON. */
export function schemaForm(contract, schema) {
  const { known, nullable } = variant(contract, schema);
  if (known?.type === "object" && known.properties) return objectForm(contract, known);
  return jsonField("JSON", { ...known, nullable }, exampleOf(contract, schema));
}

function objectForm(contract, schema) {
  const fields = Object.entries(schema.properties).map(([name, part]) => {
    const required = schema.required?.includes(name) ?? false;
    return [name, field(contract, name, part, required)];
  });
  return {
    element: element("div", {}, ...fields.map(([, one]) => one.element)),
    value() {
      const read = fields.map(([name, one]) => [name, one.value()]);
      return Object.fromEntries(read.filter(([, value]) => value !== undefined));
    },
  };
}

function field(contract, name, schema, required) {
  const { known, nullable } = variant(contract, schema);
  const shown = schema.examples?.[0] ?? known?.examples?.[0] ?? schema.default;
  const options = { required: required && !nullable, about: about({ ...known, ...schema }) };
  const choices = known?.enum ?? (known && "const" in known ? [known.const] : null);
  if (choices) return choiceField(name, choices, shown, options);
  switch (known?.type) {
    case "string":
      return inputField(name, { type: TEXT_TYPES[known.format] ?? "text", maxLength: known.maxLength ?? -1 }, shown, options, String);
    case "integer":
    case "number":
      return inputField(name, { type: "number", step: known.type === "integer" ? "1" : "any" }, shown, options, Number);
    case "boolean":
      return checkField(name, shown, options);
    case "object":
      if (known.properties && required) return groupField(contract, name, known, options);
  }
  const example = required ? exampleOf(contract, schema) : shown;
  return jsonField(name, options, example);
}

/** The one variant of a schema that is not null; `known` is missing if there are several. */
function variant(contract, schema) {
  const resolved = contract.resolve(schema);
  const parts = (resolved.anyOf ?? resolved.oneOf ?? [resolved]).map((part) => contract.resolve(part));
  const others = parts.filter((part) => part.type !== "null");
  const known = others.length === 1 ? others[0] : undefined;
  return { known, nullable: others.length < parts.length };
}

function labelled(name, input, { required, about: hint }, className = "") {
  const title = element("span", { textContent: name, className: required ? "required" : "" });
  const label = element("label", { className }, ...(className ? [input, title] : [title, input]));
  if (hint) label.append(element("span", { className: "hint", textContent: hint }));
  input.name = name;
  return label;
}

function inputField(name, properties, shown, options, convert) {
  const { maxLength, ...rest } = properties;
  const input = element("input", { ...rest, required: options.required, value: shown ?? "" });
  if (maxLength > 0) input.maxLength = maxLength;
  return {
    element: labelled(name, input, options),
    value: () => (input.value === "" && !(options.required && convert === String) ? undefined : convert(input.value)),
  };
}

function choiceField(name, choices, shown, options) {
  const texts = options.required ? choices : [undefined, ...choices];
  const select = element(
    "select",
    {},
    ...texts.map((choice) => element("option", { textContent: choice === undefined ? "" : String(choice) })),
  );
  select.selectedIndex = Math.max(0, texts.indexOf(shown));
  return { element: labelled(name, select, options), value: () => texts[select.selectedIndex] };
}

function checkField(name, shown, options) {
  const input = element("input", { type: "checkbox", checked: shown === true });
  return { element: labelled(name, input, options, "check"), value: () => input.checked };
}

function groupField(contract, name, schema, options) {
  const inner = objectForm(contract, schema);
  const legend = element("legend", { textContent: name, className: options.required ? "required" : "" });
  return { element: element("fieldset", {}, legend, inner.element), value: inner.value };
}

function jsonField(name, options, example) {
  const text = example === undefined ? "" : JSON.stringify(example, null, 1);
  const area = element("textarea", { rows: Math.min(8, text.split("\n").length + 1), value: text });
  return {
    element: labelled(name, area, { ...options, about: ["JSON", options.about].filter(Boolean).join(", ") }),
    value() {
      if (area.value.trim() === "") return undefined;
      try {
        return JSON.parse(area.value);
      } catch (error) {
        throw new Error(`${name}: ${error.message}`);
      }
    },
  };
}

/** A value of the schema, as simple as possible. */
export function exampleOf(contract, schema, depth = 0) {
  const resolved = contract.resolve(schema);
  if (resolved.examples?.length) return resolved.examples[0];
  if ("const" in resolved) return resolved.const;
  if ("default" in resolved) return resolved.default;
  if (resolved.enum) return resolved.enum[0];
  const parts = resolved.anyOf ?? resolved.oneOf;
  if (parts) return exampleOf(contract, parts[0], depth + 1);
  if (depth > 5) return null;
  switch (resolved.type) {
    case "object": {
      const needed = Object.entries(resolved.properties ?? {}).filter(([name]) => resolved.required?.includes(name));
      return Object.fromEntries(needed.map(([name, part]) => [name, exampleOf(contract, part, depth + 1)]));
    }
    case "array":
      return [];
    case "string":
      return "text";
    case "boolean":
      return true;
    case "integer":
    case "number":
      return Math.max(resolved.minimum ?? (resolved.exclusiveMinimum ?? 0) + 1, 1);
  }
  return null;
}

/** The rules of a field in words. */
function about({ description, minLength, maxLength, minimum, maximum, exclusiveMinimum, exclusiveMaximum, pattern, format }) {
  const rules = [
    maxLength !== undefined && `${minLength ?? 0} to ${maxLength} characters`,
    maxLength === undefined && minLength && `at least ${minLength} characters`,
    exclusiveMinimum !== undefined && `more than ${exclusiveMinimum}`,
    minimum !== undefined && `at least ${minimum}`,
    exclusiveMaximum !== undefined && `less than ${exclusiveMaximum}`,
    maximum !== undefined && `at most ${maximum}`,
    format,
    pattern && `matches ${pattern}`,
  ].filter(Boolean);
  return [description, rules.join(", ")].filter(Boolean).join(" ");
}

/** A schema as text, a line for each field: `item: string`. */
export function typeText(contract, schema, indent = "", seen = []) {
  if (schema === undefined) return "not declared";
  const name = schema.$ref?.split("/").at(-1);
  if (name && seen.includes(name)) return name;
  const inside = name ? [...seen, name] : seen;
  const resolved = contract.resolve(schema);
  if ("const" in resolved) return JSON.stringify(resolved.const);
  if (resolved.enum) return resolved.enum.map((value) => JSON.stringify(value)).join(" | ");
  const parts = resolved.anyOf ?? resolved.oneOf;
  if (parts) return [...new Set(parts.map((part) => typeText(contract, part, indent, inside)))].join(" | ");
  if (resolved.properties) {
    const lines = Object.entries(resolved.properties).map(([key, part]) => {
      const mark = resolved.required?.includes(key) ? "" : "?";
      const hint = part.description ? `  // ${part.description}` : "";
      return `${indent}  ${key}${mark}: ${typeText(contract, part, `${indent}  `, inside)}${hint}`;
    });
    return lines.length ? `{\n${lines.join("\n")}\n${indent}}` : "{}";
  }
  if (resolved.type === "array") {
    const items = Array.isArray(resolved.items) ? {} : resolved.items;
    return `${typeText(contract, items ?? {}, indent, inside)}[]`;
  }
  return Array.isArray(resolved.type) ? resolved.type.join(" | ") : (resolved.type ?? "anything");
}
