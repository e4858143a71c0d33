"use client";

import { BffClient } from "bff-client";
import { BffProvider } from "bff-client/react";
import type { ReactNode } from "react";

/** In development every user gets a token. With a sign-in leave it out: the cookie is enough. */
async function getToken(): Promise<string> {
  const response = await fetch("/dev/token", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ user: "ann", scopes: ["orders"] }),
  });
  if (!response.ok) throw new Error(`No token: HTTP status ${response.status}`);
  return (await response.json()).token;
}

const bff = new BffClient({ getToken });

export function Providers({ children }: { children: ReactNode }) {
  return <BffProvider client={bff}>{children}</BffProvider>;
}
