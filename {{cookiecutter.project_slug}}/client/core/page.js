export function isPageVisible() {
  return globalThis.document?.visibilityState === "visible";
}

const OF_WINDOW = ["online", "offline", "visibilitychange", "pageshow", "pagehide"];

/**
 * Watch the page's life. Returns a function that ends it.
 *
 * `onActive`: the page is visible, awake or online again. `onOffline`: the network is gone.
 * `onHide`: the page goes away, perhaps into the back/forward cache, which takes no page with an
 * open connection.
 *
 * @param {{ onActive(): void, onOffline(): void, onHide(): void }} listener
 */
export function watchPage({ onActive, onOffline, onHide }) {
  const control = new AbortController();
  const onEvent = (/** @type {any} */ { type, persisted }) => {
    if (type === "offline") onOffline();
    else if (type === "pagehide") onHide();
    else if (type === "pageshow" ? persisted : type === "resume" || isShown()) onActive();
  };
  const { signal } = control;
  for (const name of OF_WINDOW) globalThis.addEventListener?.(name, onEvent, { signal });
  globalThis.document?.addEventListener?.("resume", onEvent, { signal });
  return () => control.abort();
}

function isShown() {
  return globalThis.document?.visibilityState !== "hidden";
}
