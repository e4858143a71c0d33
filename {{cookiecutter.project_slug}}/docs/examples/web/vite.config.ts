import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const target = "http://127.0.0.1:8000";
const proxy = { target, ws: true, headers: { origin: target } };

export default defineConfig({
  plugins: [react()],
  server: { proxy: { "^/(ws|events|rpc|auth|dev)\\b": proxy } },
});
