import { BffClient } from "bff-client";

const user = new URLSearchParams(location.search).get("user") ?? "ann";

/** In development every user gets a token. With a sign-in leave it out: the cookie is enough. */
async function getToken(): Promise<string> {
  const response = await fetch("/dev/token", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ user, scopes: ["orders"] }),
  });
  if (!response.ok) throw new Error(`No token: HTTP status ${response.status}`);
  return (await response.json()).token;
}

export const bff = new BffClient({ getToken });
bff.onSignInRequired(() => console.info("sign in: bff.login()"));
