// Reads an AsyncAPI document from standard input and prints what is wrong with it, a line each.
import { Parser } from "@asyncapi/parser";
import { text } from "node:stream/consumers";

const { diagnostics } = await new Parser().parse(await text(process.stdin));
for (const { severity, code, path, message } of diagnostics) {
  if (severity < 2) console.log(code, path.join("."), message);
}
