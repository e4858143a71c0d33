import { BffProvider } from "bff-client/react";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { App } from "./App";
import { bff } from "./bff";

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <BffProvider client={bff}>
      <App />
    </BffProvider>
  </StrictMode>,
);
