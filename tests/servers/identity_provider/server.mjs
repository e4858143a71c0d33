// A certified OpenID provider with the forms of its development mode. Clients register themselves,
// or are given, with the claims of accounts: `node server.mjs PORT '{"clients": …, "accounts": …}'`.
import Provider from "oidc-provider";

const port = Number(process.argv[2]);
const { clients = [], accounts = {} } = JSON.parse(process.argv[3] ?? "{}");
const grants = {};
let requests = 0;
let delay = 0;

const provider = new Provider(`http://127.0.0.1:${port}`, {
  features: {
    backchannelLogout: { enabled: true },
    devInteractions: { enabled: true },
    pushedAuthorizationRequests: { enabled: true },
    registration: { enabled: true },
    revocation: { enabled: true },
  },
  claims: {
    openid: ["sub", "roles", ...Object.values(accounts).flatMap(Object.keys)],
    profile: ["name"],
  },
  clients,
  cookies: { keys: ["only for tests"] },
  findAccount: (ctx, id) => ({
    accountId: id,
    claims: () => ({
      sub: id,
      name: `The ${id}`,
      roles: id.startsWith("admin") ? ["orders", "admin"] : ["orders"],
      ...accounts[id],
    }),
  }),
  // Its own dispatcher refuses 127.0.0.1, where the BFF is that a back-channel logout goes to.
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
  issueRefreshToken: () => true,
  rotateRefreshToken: true,
  ttl: {
    AccessToken: 3600,
    Grant: 3600,
    IdToken: 3600,
    Interaction: 600,
    RefreshToken: 3600,
    Session: 3600,
  },
});

provider.on("grant.success", (ctx) => {
  const account = ctx.oidc.account?.accountId;
  grants[account] = [...(grants[account] ?? []), ctx.oidc.params.grant_type];
});
provider.on("backchannel.error", (ctx, error) => console.error("back-channel", error));
provider.use(async (ctx, next) => {
  switch (ctx.path) {
    case "/token":
      requests += 1;
      await new Promise((resolve) => setTimeout(resolve, delay));
      return next();
    case "/test/grants":
      ctx.body = grants[ctx.query.account] ?? [];
      return;
    case "/test/requests":
      delay = Number(ctx.query.delay ?? delay);
      ctx.body = requests;
      return;
    default:
      return next();
  }
});
provider.listen(port, "127.0.0.1", () => console.log("ready"));
