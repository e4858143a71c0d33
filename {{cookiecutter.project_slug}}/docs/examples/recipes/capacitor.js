import { App } from "@capacitor/app";
import { BffClient } from "bff-client";

/** `url`: the full address, as "https://bff.example/ws". */
export function createBff(url, getToken) {
  const bff = new BffClient({ url, getToken });
  App.addListener("pause", () => bff.close("in the background"));
  App.addListener("resume", () => bff.connect());
  bff.connect();
  return bff;
}
