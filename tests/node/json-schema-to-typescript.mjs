// Reads JSON schemas by name from standard input and prints their types.
import { compile } from "json-schema-to-typescript";
import { text } from "node:stream/consumers";

const definitions = JSON.parse(await text(process.stdin));
const all = {
  type: "object",
  properties: Object.fromEntries(
    Object.keys(definitions).map((name) => [name, { $ref: `#/definitions/${name}` }]),
  ),
  definitions,
};
console.log(await compile(all, "All", { additionalProperties: false, bannerComment: "" }));
