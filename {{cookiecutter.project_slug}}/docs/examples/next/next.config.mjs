const target = process.env.BFF_URL ?? "http://127.0.0.1:8000";
const paths = ["ws", "events", "rpc/:path*", "auth/:path*", "dev/:path*"];

export default {
  rewrites: async () =>
    paths.map((path) => ({ source: `/${path}`, destination: `${target}/${path}` })),
};
